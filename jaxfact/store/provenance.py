"""Where numbers come from: what is written beside a sweep. What follows from differences in it: `differences`."""

import inspect
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxfact.engine.compressibility import Compression
from jaxfact.engine.devices import working_devices
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.outcomes import Plan
from jaxfact.store.experiment_file import Name
from jaxfact.store.marks import now
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
        "jaxlib": version("jaxlib"),
        "backend": working_devices(1)[0].platform,
        "device": working_devices(1)[0].device_kind,
        "cpu_features": _cpu_features(),
        "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        "xla_flags": sorted(flags),
    }


def of_sweep(
    experiment: Experiment, plan: Plan, lanes: int, base_seed: int, first: Run, compression: Compression | None
) -> dict[str, Any]:
    """Return what is needed to run a sweep again."""
    return {
        **environment(),
        "date": now(),
        "devices": len(working_devices()),
        "dtype": str(first.problem.dtype),
        "experiment": source(experiment),
        **home(experiment),
        "problem": type(first.problem).__name__,
        "shape": list(first.problem.shape),
        "unit": float(first.problem.unit),
        "unit_name": first.problem.unit_name,
        "base_seed": base_seed,
        "max_steps": plan.max_steps,
        "check_every": plan.check_every,
        "lanes_per_block": lanes,
        "compression": "none" if compression is None else "in law" if compression.noisy else "exact",
    }


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


def _cpu_features() -> list[str]:
    """Return the vector instructions of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.machine()]
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [platform.machine(), *sorted(flag for flag in flags if flag.startswith(_SIMD))]
