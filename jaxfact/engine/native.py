"""What native lanes are made of: functions of one lane, as graphs, and where its numbers lie."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxfact.engine.rows import Rows
from jaxfact.engine.scalarising import scalarised_in_rows
from jaxfact.engine.scalars import Input, Node, Nodes, without_effects
from jaxfact.engine.writing import Leaf
from jaxfact.numerics.trees import PyTree

_OPERATIONS = 60_000
"""Of a step, or of a look; LLVM takes a second for some 15,000."""
_WRITTEN_OUT, _NARROW = 32, 8
"""Rows that are written out, which is faster below some columns; beyond them it takes LLVM longest, and is slower."""


class Flags(NamedTuple):
    """What a vector's loop asks of its lanes, a truth value each.

    `busy` lanes have a run that goes on and `ended` ones a run that does not; `frozen` are those of them whose state is
    that of the mark. `returned` ones are to be followed round their orbits, and `midway` ones have begun to be. `fresh`
    ones have not been looked at, and of `due` ones a record is to be taken.
    """

    busy: Any
    ended: Any
    frozen: Any
    returned: Any
    midway: Any
    fresh: Any
    due: Any


class Functions(NamedTuple):
    """What lanes do, for one lane whose arrays have no axis of lanes.

    `step(shared, own, number)` returns what the run owns after a step; `look(shared, uniform, fresh, lane)` the lane as
    it is after a look, and whether its state becomes its mark; `circle(lane, own)` the lane after a step round its
    orbit to `own`, and whether it took it; `flags(lane)` its flags. What look and circle make of `own` and of the
    mark's state is not used. `record(shared, own)` returns what is to be recorded of a run, and `following(uniform,
    lane)` its next slot after one of its steps was, and when that is due.
    """

    step: Callable
    look: Callable
    circle: Callable
    flags: Callable
    record: Callable
    following: Callable


class Shapes(NamedTuple):
    """The shapes of what the functions take: shared arrays, what is the same for all runs, and a lane.

    The first leaf of what is the same for all runs is the number of steps between two looks. A run has so many records
    at its steps, which are `slots`.
    """

    shared: list[Any]
    uniform: Any
    lane: Any
    slots: int


class Lanes(Protocol):
    """What advances lanes by blocks of steps and looks, `runs` of them together; see `assembly.Blocks`.

    Where it leaves runs that have returned where they are, `stepped(shared, lanes)` returns what lanes own after one
    step of these; it is None where it follows them round their orbits.
    """

    runs: int
    unrecorded: str
    code: np.ndarray

    @property
    def stepped(self) -> Callable[[list[Any], PyTree], PyTree] | None:
        """Takes the runs that have returned one step further."""
        ...

    def __call__(
        self, code: Any, shared: list[Any], uniform: PyTree, lanes: PyTree, records: PyTree, blocks: Any, enough: Any
    ) -> tuple[Any, Any, Any]:
        """Advance lanes; return them, the records and the number of blocks."""
        ...


class Part(NamedTuple):
    """A function of one run as a graph: its inputs and outputs as arrays of nodes, or of their rows."""

    inputs: list[Nodes | Rows]
    outputs: list[Nodes | Rows]

    @classmethod
    def of(cls, function: Callable, longest: int, shared: int, *arguments: Any) -> "Part":
        """Trace a function, of whose leaves the first are shared by all runs and may be large."""
        traced = without_effects(jax.make_jaxpr(function)(*arguments))
        return cls(*scalarised_in_rows(traced, _OPERATIONS, shared, longest))


class Place(NamedTuple):
    """A leaf of a lane: where its vectors lie in scratch memory, how many there are, and of what."""

    offset: int
    entries: int
    dtype: np.dtype


Load = Callable[[int, str | None], str]
"""Writes what loads one entry of an array, or the one that is so many beyond it."""


def longest(own: list[Any]) -> int:
    """Return how many rows are written out: where there are many columns, only what has no more rows than columns."""
    columns = max((min(x.shape) for x in own if x.ndim > 1), default=0)
    return _WRITTEN_OUT if columns < _NARROW else columns


def entries(array: Nodes | Rows) -> list[Node]:
    """Return all numbers of an array."""
    return list((array.written_out() if isinstance(array, Rows) else array).flat)


def leaves(sources: list[Load]) -> Leaf:
    """Return what loads the inputs of a part, of which each has a source."""

    def load(node: Node, beyond: str | None) -> str:
        if isinstance(node.detail, Input):
            return sources[node.detail.argument](node.detail.entry, None)
        return sources[node.detail.source](node.detail.start, beyond)

    return load


def differ(old: Nodes | Rows, new: Nodes | Rows) -> bool:
    """Tell whether an array has changed."""
    if isinstance(old, Rows) or isinstance(new, Rows):
        return old is not new
    return any(a is not b for a, b in zip(old.flat, new.flat, strict=True))
