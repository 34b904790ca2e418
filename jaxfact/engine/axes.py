"""What the axes and the seeds of a sweep may be."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from jaxfact.inputs import positive_integer, problem_with

Values = Sequence[float] | np.ndarray
Value = TypeVar("Value")


def both_given(given: Mapping[str, Value] | None, named: Mapping[str, Value]) -> dict[str, Value]:
    """Return what was given of each axis as a mapping, then by keyword; refuse a repeated name."""
    if not isinstance(given, Mapping | None):
        raise problem_with(
            "axes", repr(given), "needs a mapping from names to values", "write it like {'scale': [0.1]}"
        )
    mapping = {} if given is None else dict(given)
    if twice := sorted(mapping.keys() & named.keys()):
        raise problem_with("axes", twice[0], "is given by keyword too", "give it once")
    return {**mapping, **named}


def axes_of(
    given: Mapping[str, Values] | None, named: Mapping[str, Values], taken: Sequence[str], records: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the axes given as a mapping, then those given by keyword.

    Refuses a repeated name, one that is taken, and one that a record may give to a variable or a dimension.
    """
    axes = both_given(given, named)
    for name in axes:
        if not isinstance(name, str) or not name.isidentifier():
            raise problem_with("axes", repr(name), "needs names of the experiment's parameters", "give strings")
        if name in taken or any(re.fullmatch(rf"{re.escape(record)}_(.*_)?(path|\d+)", name) for record in records):
            needed = "is the name of a variable or dimension of every result"
            raise problem_with("axes", name, needed, "rename the experiment's parameter")
    return {name: axis(name, values) for name, values in axes.items()}


def axis(name: str, values: Values) -> np.ndarray:
    """Return the values of an axis as a 1-D array of distinct finite numbers, or refuse them."""
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


def seed_numbers(seeds: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the numbers of the seeds: 0, 1, … for a count."""
    instead = "give a count, or an array of distinct seed numbers from 0 to 2³²−1"
    if isinstance(seeds, int | np.integer):
        positive_integer("seeds", seeds, instead)
        return np.arange(int(seeds))
    numbers = axis("seeds", seeds)
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= 2**32:
        raise problem_with("seeds", numbers.tolist(), "needs whole numbers from 0 to 2³²−1", instead)
    return numbers
