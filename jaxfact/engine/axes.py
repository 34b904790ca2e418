"""What the axes, the seeds and the steps of a sweep may be; light enough to be asked before JAX is loaded."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from jaxfact.inputs import SEEDS, as_whole, positive_integer, problem_with, recorded_steps, shown

Values = Sequence[float] | np.ndarray
Value = TypeVar("Value")

DIMENSIONS = 32
"""Arrays of results have no more dimensions."""

MOST_RUNS = 2**31
"""Runs are counted below it."""

_X64 = "call jax.config.update('jax_enable_x64', True) first"


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


def check_names(axes: Iterable[object], taken: Iterable[str], records: Iterable[str] = ()) -> None:
    """Refuse axes without a name, and names that results have for something else; records add some that begin so."""
    taken = set(taken)
    for name in axes:
        if not isinstance(name, str) or not name.isidentifier():
            raise problem_with("axes", repr(name), "needs names of the experiment's parameters", "give strings")
        if name in taken or any(re.fullmatch(rf"{re.escape(record)}(_.*)?", name) for record in records):
            needed = "is the name of a variable or dimension of every result"
            others = f"; taken are {', '.join(sorted(taken))}" if name in taken else ""
            raise problem_with("axes", name, needed, f"rename the experiment's parameter{others}")


def axis(name: str, values: Any, x64: bool, instead: str = "") -> np.ndarray:
    """Return the labels of an axis, in one dimension and in 64 bits, or refuse them.

    They are finite numbers, and so are the different numbers that runs compute with: those of `as_run`.
    """
    instead = instead or f"give a list of distinct numbers, for example {name}=[0.1, 0.3, 1.0]"
    array = _numbers(name, values, instead)
    if array.ndim != 1 or array.size == 0:
        raise problem_with(name, shown(values), "an axis needs at least one value, in one dimension", instead)
    if not np.all(np.isfinite(array)):
        raise problem_with(name, shown(array.tolist()), "an axis needs finite numbers", instead)
    labels = _in_64_bits(name, array)
    if len(np.unique(labels)) != labels.size:
        raise problem_with(name, shown(labels.tolist()), "an axis needs each value once", instead)
    _check_cast(name, labels, x64)
    return labels


def as_run(labels: np.ndarray, x64: bool) -> np.ndarray:
    """Return the numbers that runs compute with at these labels: in 64 bits, or in 32 where JAX has no more."""
    kind = np.float64 if labels.dtype.kind == "f" else np.int64
    return labels.astype(kind if x64 else np.float32 if labels.dtype.kind == "f" else np.int32)


def places_of(labels: np.ndarray, among: np.ndarray, x64: bool) -> np.ndarray:
    """Return where each label stands among others that runs compute the same with; −1 where it does not."""
    there, wanted = as_run(among, x64), as_run(labels, x64)
    order = np.argsort(there)
    place = order[np.minimum(np.searchsorted(there, wanted, sorter=order), len(there) - 1)]
    return np.where(there[place] == wanted, place, -1)


def seed_numbers(seeds: Any) -> np.ndarray:
    """Return the numbers of the seeds: 0, 1, … for a count."""
    instead = "give a count, or an array of distinct seed numbers from 0 to 2³²−1"
    if isinstance(seeds, str | float | int) or getattr(seeds, "ndim", 1) == 0:
        count = positive_integer("seeds", seeds, instead)
        if count > SEEDS:
            raise problem_with("seeds", count, "there are 2³² seeds, from 0 to 2³²−1", "ask for fewer")
        return np.arange(count)
    numbers = axis("seeds", seeds, True, instead)
    if any(as_whole(number) is None for number in numbers.tolist()) or numbers.min() < 0 or numbers.max() >= 2**32:
        raise problem_with("seeds", shown(numbers.tolist()), "needs whole numbers from 0 to 2³²−1", instead)
    return numbers.astype(np.int64)


class Steps:
    """How many steps a run may take, between which it is looked at, and which are recorded; whole numbers all.

    Raises ValueError for counts below 1, and steps that are no multiples of `check_every`.
    """

    def __init__(self, max_steps: Any, check_every: Any, every: Any):
        self.most: int = positive_integer("max_steps", max_steps, "give the budget of steps for one run")
        self.stride: int = positive_integer("check_every", check_every, "1 looks at every step, 10 is usual")
        if self.most % self.stride:
            near = self.most // self.stride * self.stride
            needed = f"needs a multiple of check_every={self.stride}"
            raise problem_with("max_steps", self.most, needed, f"use {near or self.stride}")
        if self.most >= 2**31:
            raise problem_with("max_steps", self.most, "steps are counted up to 2³¹−1", "lower it")
        self.recorded: tuple[int, ...] = tuple(recorded_steps(every, self.most, self.stride))


def check_size(axes: Mapping[str, np.ndarray], seeds: np.ndarray, others: int, most_runs: int | None) -> None:
    """Refuse results of more than 32 dimensions, `others` among them, and more runs than one call can count."""
    if len(axes) + 1 + others > DIMENSIONS:
        given = f"{len(axes)} of them"
        needed = f"with the seeds and {others} more, results would have {len(axes) + 1 + others} dimensions"
        raise problem_with("axes", given, needed, f"{DIMENSIONS} in all are possible: let some vary together")
    runs = math.prod(map(len, axes.values())) * len(seeds)
    if most_runs is not None and runs >= most_runs:
        needed = f"{runs} runs are more than memory may hold at once, 2³¹−1"
        raise problem_with("axes, seeds", "too many", needed, "ask for fewer, or give store=")


def _numbers(name: str, values: Any, instead: str) -> np.ndarray:
    """Return values as an array of integers or floats."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise problem_with(name, shown(values), "an axis needs plain numbers", instead) from None
    if np.ma.is_masked(values):
        raise problem_with(name, shown(values), "an axis has no missing values", "fill them, or leave them out")
    if array.dtype.kind == "O" and array.size and all(isinstance(value, int) for value in array.flat):
        raise problem_with(name, shown(values), "whole numbers need to lie below 2⁶³", "give them as floats")
    if array.dtype.name in ("bfloat16",):
        array = array.astype(np.float64)
    if array.dtype.kind not in "iuf":
        raise problem_with(name, shown(values), "an axis needs plain numbers", instead)
    return array


def _in_64_bits(name: str, array: np.ndarray) -> np.ndarray:
    """Return integers or floats of any width as they are labelled; short integers would wrap in an experiment."""
    if array.dtype.kind == "u" and array.max() >= 2**63:
        raise problem_with(name, int(array.max()), "whole numbers need to lie below 2⁶³", "give them as floats")
    with np.errstate(over="ignore"):
        labels = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    if not np.all(np.isfinite(labels)):
        raise problem_with(name, str(array[~np.isfinite(labels)][0]), "is beyond the range of float64", "rescale it")
    return labels


def _check_cast(name: str, labels: np.ndarray, x64: bool) -> None:
    """Refuse values that runs cannot compute with, or cannot tell apart."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        cast = as_run(labels, x64)
    if cast.dtype.kind == "i":
        lost = cast != labels
    else:
        # What is smaller than the least normal number counts as zero on most devices.
        lost = ~np.isfinite(cast) | ((labels != 0) & (np.abs(cast) < np.finfo(cast.dtype).tiny))
    if np.any(lost):
        needed = f"is out of the range of {cast.dtype}, in which runs compute"
        raise problem_with(name, labels[lost][0].item(), needed, "rescale it" if x64 else f"rescale it, or {_X64}")
    same, counts = np.unique(cast, return_counts=True)
    if np.any(counts > 1):
        twins = labels[cast == same[counts > 1][0]][:2].tolist()
        raise problem_with(
            name, twins, f"are the same number in {cast.dtype}, in which runs compute", f"leave one out, or {_X64}"
        )
