"""Letting JAX use the cores of this machine; light enough for the command line to call before JAX is loaded."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from jaxfact.inputs import positive_integer, problem_with

# XLA runs a loop as a chain of kernels, each started by a scheduler, unless its arrays are small: then the loop is one
# function. A step is many kernels on small arrays, so the limit is raised from 1024 bytes to ten million.
WHOLE_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=10000000"


P = ParamSpec("P")
R = TypeVar("R")


def working_devices() -> list[Any]:
    """Return the devices that sweeps work on: those of JAX's default platform, or the one set by `default_device`."""
    import jax

    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None:
        return jax.local_devices()
    return jax.local_devices(backend=chosen) if isinstance(chosen, str) else [chosen]


def in_this_context(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run in other threads under the settings of JAX that hold for this one, as set by its contexts."""
    import jax

    settings: list[tuple[Any, Any]] = [
        (jax.enable_x64, jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        (jax.default_matmul_precision, jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        # NaN is a result here, of runs that diverge and of what nobody knows, and ends no sweep.
        (jax.debug_nans, False),
        (jax.debug_infs, False),
    ]

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as contexts:
            for context, value in settings:
                contexts.enter_context(context(value))
            return function(*args, **kwargs)

    return called


def use_cores(count: int | None = None) -> None:
    """Let sweeps work on this many cores, all of them by default; call it before JAX's first computation.

    It sets one CPU device per core, and the XLA option that compiles a run's loop as one function, which makes methods
    of several kernels per step up to eight times faster. The last bits may differ from those without it.

    Raises ValueError for a count below 1, and where JAX has already computed something.
    """
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = positive_integer("count", count, "give the number of cores, or nothing for all")
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_backend_extra_options" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {WHOLE_LOOPS}".strip()
    import jax

    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.local_device_count() != count:
            instead = "call use_cores first, right after the imports"
            raise problem_with("count", count, "JAX has already chosen its devices", instead) from None
