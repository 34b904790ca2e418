"""The ladder of distances at which runs are timed, when two levels count as one, and what stands for no tolerance."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jaxfact.inputs import problem_with

if TYPE_CHECKING:
    import numpy as np

_DECADES = 16
_WITHOUT = 6
_SAME = 1e-6
"""Levels with a smaller relative difference count as one: 1e-5 written in single precision is 1e-5."""


def ladder(tolerance: float | None, chosen: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Return the chosen levels above the tolerance, or 1e-1, 1e-2, …, and the tolerance.

    Without a tolerance, those chosen, or six decades.
    """
    if tolerance is None:
        return chosen or tuple(float(f"1e-{k}") for k in range(1, _WITHOUT + 1))
    above = chosen or tuple(float(f"1e-{k}") for k in range(1, _DECADES + 1))
    return (*(level for level in above if is_below(tolerance, level)), float(tolerance))


def chosen_levels(given: Iterable[float] | None, tolerances: Iterable[float | None]) -> tuple[float, ...]:
    """Return the levels that a user has chosen, the largest first; none where the usual ladder is wanted.

    Raises ValueError for anything but numbers above 0, and for a level below all tolerances, to which no run goes on.
    """
    if given is None:
        return ()
    instead = "write levels=[5e-2, 1e-3], or leave it out for 0.1, 0.01, …"
    try:
        levels = tuple(sorted({float(level) for level in given}, reverse=True))
    except (TypeError, ValueError):
        raise problem_with("levels", repr(given), "needs a list of distances", instead) from None
    if not levels or not all(0 < level < math.inf for level in levels):
        raise problem_with("levels", list(levels), "needs distances above 0", instead)
    lowest = min(0.0 if tolerance is None else tolerance for tolerance in tolerances)
    if is_below(levels[-1], lowest):
        ends = f"runs end at the tolerance {lowest:g}"
        raise problem_with("levels", f"{levels[-1]:g}", ends, "lower the tolerance, or leave this level out")
    return levels


def is_below(level: Any, other: Any) -> Any:
    """Tell whether levels, numbers or arrays, lie below others and are not the same; none lies below NaN."""
    return level < other * (1 - _SAME)


def place_of(level: float, levels: "np.ndarray") -> int | None:
    """Return the place of a level among some, None where it is not one of them."""
    near = (abs(levels - level) <= _SAME * level).nonzero()[0]
    return int(near[0]) if len(near) else None


def as_number(tolerance: float | None) -> float:
    """Return a tolerance as arrays hold it, with NaN for none."""
    return math.nan if tolerance is None else float(tolerance)


def as_tolerance(number: float) -> float | None:
    """Return the tolerance that an array holds; None for NaN."""
    return None if math.isnan(number) else float(number)
