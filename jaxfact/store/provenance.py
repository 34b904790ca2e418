"""Where numbers come from: what is written beside a sweep. What follows from differences in it: `differences`."""

import inspect
import os
import platform
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxfact.engine.devices import working_devices
from jaxfact.engine.experiment import Experiment
from jaxfact.problems.base import Problem
from jaxfact.store.experiment_file import Name
from jaxfact.store.marks import now
from jaxfact.store.trust import signature
from jaxfact.version import __version__

# The last bits of a sum depend on the width of vectors and on fused multiply-adds.
_SIMD = ("sse", "ssse", "avx", "fma", "f16c", "amx", "bmi", "asimd", "sve")
# The number of devices changes no result.
_COUNTS_DEVICES = ("--xla_force_host_platform_device_count", "--xla_cpu_multi_thread_eigen")


def environment() -> dict[str, Any]:
    """Return what the bits of a run depend on besides the experiment."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_COUNTS_DEVICES)]
    return {
        "jaxfact": __version__,
        "jax": jax.__version__,
        "jaxlib": _version("jaxlib"),
        "backend": working_devices(1)[0].platform,
        "device": working_devices(1)[0].device_kind,
        "cpu_features": list(_cpu_features()),
        "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        "xla_flags": sorted(flags),
    }


def of_experiment(experiment: Experiment) -> dict[str, Any]:
    """Return the text of an experiment, where it is found, and a signature of what a replay would execute of it."""
    held = home(experiment)
    signed = signature(held["experiment_name"], held["experiment_file"])
    return {"experiment": source(experiment), **held, "signature": signed}


def of_problem(problem: Problem) -> dict[str, Any]:
    """Return what problem is solved, in which unit."""
    return {
        "dtype": str(problem.dtype),
        "problem": type(problem).__name__,
        "shape": list(problem.shape),
        "unit": float(problem.unit),
        "unit_name": problem.unit_name,
    }


def of_today() -> dict[str, Any]:
    """Return what a run depends on beside the experiment, and when and on how many devices it is made."""
    return {**environment(), "date": now(), "devices": len(working_devices())}


def source(experiment: Experiment) -> str:
    """Return the text of an experiment, or its name where that cannot be found."""
    try:
        return inspect.getsource(experiment)
    except (OSError, TypeError):
        return repr(experiment)


def home(experiment: Experiment) -> dict[str, str]:
    """Return the text of the file whose module has an experiment, and its `Name`; empty where there is none."""
    names = dict(getattr(experiment, "__globals__", {}))
    file, name = Path(names.get("__file__") or ""), Name.of(experiment, names)
    if name is None or file.suffix != ".py" or not file.is_file():
        return {"experiment_name": "", "experiment_file": ""}
    return {"experiment_name": str(name), "experiment_file": file.read_text(encoding="utf-8")}


def place(function: Callable) -> str:
    """Return where a function is found, as `module:name`."""
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"


@cache
def _version(package: str) -> str:
    return version(package)


@cache
def _cpu_features() -> list[str]:
    """Return the vector instructions of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.machine()]
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [platform.machine(), *sorted(flag for flag in flags if flag.startswith(_SIMD))]
