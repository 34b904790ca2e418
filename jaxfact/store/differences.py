"""Which differences between a store and a sweep forbid going on with it, and how they are reported."""

from collections.abc import Iterable, Mapping
from typing import Any

from jaxfact.inputs import problem_with, shown

HARMLESS = ("jaxfact", "jax", "jaxlib", "device", "cpu_features", "xla_flags", "program")
"""Differences that a user may accept.

The last bits of new runs may then differ from those of the old ones. After another `program` all of them may: new runs
are of the experiment as it is now. Another version of JAX or of this library writes another text, so that then a
changed experiment is not noticed.
"""

_BOUND = (*HARMLESS, "backend", "dtype", "x64", "matmul_precision", "compression", "base_seed", "axes", "variants")
_RUNS = ("max_steps", "tolerance", "check_every", "lanes_per_block", "lanes", "checked", "compensated")
_RULES = (*_RUNS, "levels", "record_names", "record_steps")


def accepted_names(accept: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of differences that are accepted; refuse those that cannot be."""
    needed = f"needs names among {', '.join(HARMLESS)}"
    try:
        names = (accept,) if isinstance(accept, str) else tuple(accept)
    except TypeError:
        raise problem_with("accept", shown(accept), needed, "leave it out") from None
    if unknown := sorted({str(name) for name in names if name not in HARMLESS}):
        raise problem_with("accept", unknown, needed, "leave it out")
    return names


def check_same(store: str, stored: Mapping[str, Any], wanted: Mapping[str, Any], accept: Iterable[str]) -> list[str]:
    """Return the accepted differences between a store and a sweep that is to go on with it; refuse any other.

    Raises a ValueError that names each difference.
    """
    accept = accepted_names(accept)
    differing = differences(stored, wanted)
    refused = [name for name in differing if name not in accept]
    if not refused:
        return [f"{name}: {_short(stored.get(name))} → {_short(wanted.get(name))}" for name in differing]
    said = "; ".join(differing[name] for name in refused)
    harmless = [name for name in refused if name in HARMLESS]
    instead = "choose another store, or go back to what this one was made with"
    if harmless == refused:
        new = "new runs of the experiment as it is now" if "program" in harmless else "last bits that may differ"
        instead += f"; accept={harmless} goes on, with {new}"
    raise problem_with("store", store, f"was made by another sweep: {said}", instead)


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, str]:
    """Return, by name, what is said about every difference that may change a number."""
    differing = [name for name in (*_BOUND, *_RULES) if stored.get(name) != wanted.get(name)]
    # A new version writes a different program text for the same experiment: the version says it all.
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
