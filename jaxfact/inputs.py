"""What every public entry point checks: errors that say what was given, what is needed, and what to do instead."""

import math
import numbers
from collections.abc import Callable
from typing import Any


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
    """Refuse anything but a whole number above zero."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < 1:
        raise problem_with(name, value, "needs a whole number, 1 or above", instead)


def _require(name: str, value: Any, holds: Callable[[float], bool], needed: str, instead: str) -> None:
    if not isinstance(value, numbers.Real):
        from jax.core import Tracer  # here, so that the command line can check numbers without loading JAX

        if isinstance(value, Tracer) or callable(value):
            return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise problem_with(name, repr(value), needed, instead) from None
    if not holds(number):
        raise problem_with(name, f"{number:g}", needed, instead)
