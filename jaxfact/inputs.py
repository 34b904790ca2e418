"""What every door checks: errors that say what was given, what is needed, and what to do instead."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def problem_with(name: str, given: object, needed: str, instead: str) -> ValueError:
    """Build the ValueError of this library: what was given, what is needed, what to do instead."""
    return ValueError(f"{name}={given}: {needed}; {instead}.")


def positive(name: str, value: Any, instead: str) -> None:
    """Refuse a number that is not finite and above zero; a traced number, or a schedule, passes."""
    _require(name, value, lambda x: math.isfinite(x) and x > 0, "needs a finite number above 0", instead)


def non_negative(name: str, value: Any, instead: str) -> None:
    """Refuse a number that is negative or not finite; a traced number, or a schedule, passes."""
    _require(name, value, lambda x: math.isfinite(x) and x >= 0, "needs a finite number, 0 or above", instead)


def positive_integer(name: str, value: Any, instead: str) -> None:
    """Refuse what is not a whole number above zero."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < 1:
        raise problem_with(name, value, "needs a whole number, 1 or above", instead)


def _require(name: str, value: Any, holds: Callable[[float], bool], needed: str, instead: str) -> None:
    if isinstance(value, jax.core.Tracer) or callable(value):
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise problem_with(name, repr(value), needed, instead) from None
    if not holds(number):
        raise problem_with(name, f"{number:g}", needed, instead)


def axis(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the values of a sweep axis as a 1-D array of distinct finite numbers, or refuse them."""
    instead = f"give a list of distinct numbers, for example {name}=[0.1, 0.3, 1.0]"
    try:
        array = np.asarray(values)
    except ValueError:
        raise problem_with(name, repr(values), "an axis needs plain numbers", instead) from None
    if array.dtype.kind not in "iuf":
        raise problem_with(name, repr(values), "an axis needs plain numbers", instead)
    if array.ndim != 1 or array.size == 0:
        raise problem_with(name, repr(values), "an axis needs at least one value, in one dimension", instead)
    if not np.all(np.isfinite(array)):
        raise problem_with(name, array.tolist(), "an axis needs finite numbers", instead)
    if len(np.unique(array)) != array.size:
        raise problem_with(name, array.tolist(), "an axis needs each value once", instead)
    return array
