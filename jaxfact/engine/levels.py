"""The ladder of distances at which runs are timed, when two levels count as one, and what stands for no tolerance."""

import math
from typing import Any

import numpy as np

_DECADES = 16
_WITHOUT = 6
_SAME = 1e-6
"""Levels with a smaller relative difference count as one: 1e-5 written in single precision is 1e-5."""


def ladder(tolerance: float | None) -> tuple[float, ...]:
    """Return 1e-1, 1e-2, … and the tolerance; six decades without one."""
    if tolerance is None:
        return tuple(float(f"1e-{k}") for k in range(1, _WITHOUT + 1))
    decades = (float(f"1e-{k}") for k in range(1, _DECADES + 1))
    return (*(level for level in decades if is_below(tolerance, level)), float(tolerance))


def is_below(level: Any, other: Any) -> Any:
    """Tell whether levels, numbers or arrays, lie below others and are not the same; none lies below NaN."""
    return level < other * (1 - _SAME)


def place_of(level: float, levels: np.ndarray) -> int | None:
    """Return the place of a level among some, None where it is not one of them."""
    near = np.flatnonzero(np.abs(levels - level) <= _SAME * level)
    return int(near[0]) if len(near) else None


def as_number(tolerance: float | None) -> float:
    """Return a tolerance as arrays hold it, with NaN for none."""
    return math.nan if tolerance is None else float(tolerance)


def as_tolerance(number: float) -> float | None:
    """Return the tolerance that an array holds; None for NaN."""
    return None if math.isnan(number) else float(number)
