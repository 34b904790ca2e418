"""What traced programs are: which function they call, and what JAX cannot trace of a user's."""

import inspect
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import jax

from jaxfact.inputs import problem_with

# What code does to a number that has no value yet, while JAX traces it, and how it is said instead.
_UNTRACEABLE = {
    jax.errors.TracerBoolConversionError: ("decides by the value of {} (if, and, min, …)", "use jax.numpy.where"),
    jax.errors.TracerArrayConversionError: ("hands {} to NumPy", "use the function of jax.numpy"),
    jax.errors.TracerIntegerConversionError: ("counts or looks up with {}", "see padded_to=, or use jax.numpy"),
    jax.errors.ConcretizationTypeError: ("makes a Python number of {}", "leave out float, int and the like"),
    jax.errors.NonConcreteBooleanIndexError: ("picks entries by the value of {}", "use jax.numpy.where"),
    jax.errors.UnexpectedTracerError: ("keeps a number of another call", "let the function return all it makes"),
}
# Where JAX has no error of its own.
_TOLD_BY_WORDS = {
    "Shapes must be 1D": ("makes an array whose size is {}", "see padded_to="),
    "Tracer' object is not callable": _UNTRACEABLE[jax.errors.TracerArrayConversionError],  # as numpy.linalg ends
}

_CALLS = 256  # that are remembered


def is_call(equation: Any, function: Callable) -> bool:
    """Tell whether an equation of a program calls a function compiled by `jax.jit`, and not another so called."""
    if equation.params.get("name") != function.__name__ or "jaxpr" not in equation.params:
        return False
    avals = [(var.aval.shape, var.aval.dtype) for var in equation.invars]
    return _is_traced(function, equation.params["jaxpr"], *avals)


@lru_cache(_CALLS)
def _is_traced(function: Callable, jaxpr: Any, *avals: Any) -> bool:
    """Tell whether a program is what a function is traced to, which is one object as long as JAX keeps it."""
    try:
        ours = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(*aval) for aval in avals)).eqns[0].params["jaxpr"]
    except (TypeError, ValueError):  # arrays that ours does not take
        return False
    return jaxpr is ours or str(jaxpr) == str(ours)


@contextmanager
def traceable(name: str, function: Callable, given: str) -> Iterator[None]:
    """Say in one line which line of a function cannot be traced, and what to write instead.

    `name` is what the function is to the user, and `given` what it was given: `an axis`, for example.
    """
    try:
        yield
    except (jax.errors.JAXTypeError, TypeError) as error:
        said = next((words for kind, words in _UNTRACEABLE.items() if isinstance(error, kind)), None)
        said = said or next((words for part, words in _TOLD_BY_WORDS.items() if part in str(error)), None)
        if said is None:
            raise
        needed, instead = said
        place = f"{getattr(function, '__name__', type(function).__name__)}{_line_in(function, error)}"
        needed = f"{needed.format(given)}, and all values are run in one program"
        raise problem_with(name, place, needed, instead) from error


def _line_in(function: Callable, error: BaseException) -> str:
    """Return the last line of the function's file that an error came through."""
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if code is not None and frame.filename == code.co_filename
    ]
    return f", line {lines[-1]}" if lines else ""
