"""What `record=` may be: measures or their names, one or several, under names of their own or not."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxfact.inputs import problem_with
from jaxfact.measures.base import Measure, named
from jaxfact.measures.product import distance, imbalance, loss
from jaxfact.numerics.tracing import traceable
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, TiedFactor

Record = Measure | str
Records = Record | Sequence[Record] | Mapping[str, Record]

_USUAL = (loss, distance, imbalance)
_NEEDED, _INSTEAD = "needs names of measures, or functions of (problem, factors)", "see jaxfact.measures"


def as_measure(record: Records | None) -> Callable[[Problem, AnyFactors], dict[str, PyTree]]:
    """Return one function that evaluates every record, as a dict by name; tied factors have no usual imbalance."""
    functions = named_measures(record)

    def measure(problem: Problem, factors: AnyFactors) -> dict[str, PyTree]:
        absent = imbalance if record is None and isinstance(factors, TiedFactor) else None
        return {
            name: _numbers(name, _found(name, function, problem, factors))
            for name, function in functions.items()
            if function is not absent
        }

    return measure


def _found(name: str, function: Measure, problem: Problem, factors: AnyFactors) -> PyTree:
    with traceable(f"record {name}", function, "the factors"):
        return function(problem, factors)


def _numbers(name: str, found: PyTree) -> PyTree:
    """Return what a measure found, once that is known to be numbers."""
    leaves = jax.tree.leaves(found)
    numbers = jax.Array | np.ndarray | np.generic | int | float | complex
    strange = [leaf for leaf in leaves if not isinstance(leaf, numbers)]
    if strange or not leaves or any(jnp.issubdtype(getattr(x, "dtype", float), jax.dtypes.prng_key) for x in leaves):
        given = type(strange[0]).__name__ if strange else "a random key" if leaves else "nothing"
        raise problem_with(f"record {name}", given, "needs a number, an array, or a dict of them", "return one")
    return found


def named_measures(record: Records | None) -> dict[str, Measure]:
    """Return the functions to record by name: loss, distance and imbalance where none are given.

    Raises ValueError for a name that no measure has, names that are not distinct, and anything that is not a function.
    """
    chosen = _USUAL if record is None else [record] if isinstance(record, str) or callable(record) else record
    if not isinstance(chosen, Iterable):
        raise problem_with("record", repr(record), _NEEDED, _INSTEAD)
    pairs = list(chosen.items()) if isinstance(chosen, Mapping) else [(_name(one), one) for one in chosen]
    functions = {name: named(one) if isinstance(one, str) else one for name, one in pairs}
    if len(functions) != len(pairs):
        raise problem_with("record", list(functions), "needs distinct names", "give a mapping from names to measures")
    for name, function in functions.items():
        if not callable(function):
            raise problem_with("record", name, _NEEDED, _INSTEAD)
        _check_arguments(name, function)
    return functions


def _check_arguments(name: str, function: Measure) -> None:
    """Refuse a function that cannot be called with a problem and factors."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # as of functions without Python code
        return
    try:
        signature.bind(None, None)
    except TypeError as error:
        needed = "needs a function of (problem, factors)"
        raise problem_with(f"record {name}", f"a function of {signature}", needed, "let it take both") from error


def _name(record: Record) -> str:
    return record if isinstance(record, str) else getattr(record, "__name__", repr(record))
