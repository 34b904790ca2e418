"""Where numbers come from: what is written beside a sweep, and which differences forbid going on with one."""

import datetime
import inspect
import os
import platform
import socket
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from jaxfact.engine.compressibility import Compression
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.outcomes import Rules
from jaxfact.inputs import problem_with
from jaxfact.version import __version__

HARMLESS = ("jaxfact", "jax", "jaxlib", "device", "cpu_features", "xla_flags", "program")
"""Differences after which the last bits of new runs may differ from the old ones', which a user may accept."""

_BOUND = (*HARMLESS, "backend", "dtype", "x64", "matmul_precision", "compression", "base_seed", "axes", "variants")
_RULES = ("max_steps", "tolerance", "check_every", "lanes_per_block", "records", "checked", "compensated")
# The last bits of a sum depend on the width of vectors and on fused multiply-adds.
_SIMD = ("sse", "ssse", "avx", "fma", "f16c", "amx", "bmi", "asimd", "sve")
# How many devices there are changes no number.
_COUNTS_DEVICES = ("--xla_force_host_platform_device_count", "--xla_cpu_multi_thread_eigen")


def now() -> str:
    """Return the date and time, to the millisecond: rates are read from the dates of short tiles."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def here() -> dict[str, Any]:
    """Return who is running: host and process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def environment() -> dict[str, Any]:
    """Return what the bits of a run depend on besides the experiment."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith(_COUNTS_DEVICES)]
    return {
        "jaxfact": __version__,
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "backend": jax.default_backend(),
        "device": jax.local_devices()[0].device_kind,
        "cpu_features": _cpu_features(),
        "x64": bool(jax.config.jax_enable_x64),  # pyright: ignore[reportAttributeAccessIssue]
        "matmul_precision": str(jax.config.jax_default_matmul_precision),  # pyright: ignore[reportAttributeAccessIssue]
        "xla_flags": sorted(flags),
    }


def of_sweep(
    experiment: Experiment, rules: Rules, base_seed: int, first: Run, compression: Compression | None
) -> dict[str, Any]:
    """Return what is needed to run a sweep again."""
    return {
        **environment(),
        "date": now(),
        "devices": jax.local_device_count(),
        "dtype": str(first.problem.unit.dtype),
        "experiment": source(experiment),
        **home(experiment),
        "problem": type(first.problem).__name__,
        "shape": list(first.problem.shape),
        "unit": float(first.problem.unit),
        "unit_name": first.problem.unit_name,
        "base_seed": base_seed,
        "max_steps": rules.max_steps,
        "check_every": rules.check_every,
        "lanes_per_block": rules.lanes,
        "compression": "none" if compression is None else "in law" if compression.noisy else "exact",
    }


def source(experiment: Experiment) -> str:
    """Return the text of an experiment, or its name where that cannot be found."""
    try:
        return inspect.getsource(experiment)
    except (OSError, TypeError):
        return repr(experiment)


def home(experiment: Experiment) -> dict[str, str]:
    """Return the text of the file whose module has an experiment, and its name there; blanks where there is none.

    The name is `name`, or `name:key` where a dict has it.
    """
    names = dict(getattr(experiment, "__globals__", {}))
    file = Path(names.get("__file__") or "")
    found = [name for name, value in names.items() if value is experiment]
    for name, value in names.items():
        if isinstance(value, dict) and not name.startswith("__"):
            found += [f"{name}:{key}" for key, entry in value.items() if entry is experiment]
    if not found or file.suffix != ".py" or not file.is_file():
        return {"experiment_name": "", "experiment_file": ""}
    return {"experiment_name": found[0], "experiment_file": file.read_text(encoding="utf-8")}


def place(function: Callable) -> str:
    """Return where a function is found, as `module:name`."""
    return f"{getattr(function, '__module__', '')}:{getattr(function, '__qualname__', '')}"


def check_same(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any], accept: Iterable[str]) -> list[str]:
    """Return the accepted differences between a store and a sweep that is to go on with it; refuse any other.

    Raises ValueError that names each difference.
    """
    accept = set(accept)
    if unknown := accept - set(HARMLESS):
        raise problem_with("accept", sorted(unknown), f"needs names among {', '.join(HARMLESS)}", "leave it out")
    differing = differences(stored, wanted)
    refused = [name for name in differing if name not in accept]
    if not refused:
        return [f"{name}: {_short(stored.get(name))} → {_short(wanted.get(name))}" for name in differing]
    said = "; ".join(differing[name] for name in refused)
    harmless = [name for name in refused if name in HARMLESS]
    instead = "choose another store, or go back to what it was made with"
    if harmless == refused:
        instead += f"; accept={harmless} goes on with last bits that may differ"
    raise problem_with("store", path, f"was made by another sweep: {said}", instead)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return, by name, what is said of every difference that may change a number."""
    differing = [name for name in (*_BOUND, *_RULES) if stored.get(name) != wanted.get(name)]
    # A new version writes another program text for the same experiment: the version says it all.
    if "program" in differing and {"jax", "jaxlib", "jaxfact", *_RULES, "compression"} & set(differing):
        differing.remove("program")
    return {name: _said(name, stored.get(name), wanted.get(name)) for name in differing}


def _said(name: str, old: Any, new: Any) -> str:
    if name == "program":
        return "the experiment or the data it uses have changed"
    if name == "cpu_features":
        gone, come = sorted(set(old or ()) - set(new)), sorted(set(new) - set(old or ()))
        return f"cpu_features lost {' '.join(gone) or 'nothing'} and gained {' '.join(come) or 'nothing'}"
    return f"{name} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _cpu_features() -> list[str]:
    """Return the vector instructions of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.machine()]
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [platform.machine(), *sorted(flag for flag in flags if flag.startswith(_SIMD))]
