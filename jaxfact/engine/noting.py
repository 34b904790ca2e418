"""What is recorded of runs in vectors, written where it belongs while they go on.

Of a vector's runs some are at a step to be recorded, and some have just ended. Their records are computed for all of
them, as everything is, and then copied run by run to the rows of the results.
"""

import math
from typing import NamedTuple

from jaxfact.engine.llvm import SLOT, Text
from jaxfact.engine.native import Functions, Part, Shapes, entries
from jaxfact.engine.scalars import Node, Unscalarisable
from jaxfact.engine.writing import Leaf, Output, write

_MOST = 256  # numbers, which are copied one by one


class Rows(NamedTuple):
    """Where records go: addresses of the results at steps and at the end, of scratch memory, and of runs and slots."""

    at_steps: list[str]
    last: list[str]
    scratch: str
    run: str
    slot: str


class Records(NamedTuple):
    """What is recorded of a run, as a graph; that of its next slot and when it is due; and how many slots there are."""

    record: Part
    following: Part | None
    slots: int

    @classmethod
    def of(cls, functions: Functions, longest: int, shapes: Shapes, runs: int) -> "Records":
        """Trace the functions; raises Unscalarisable for many numbers, which are copies of a state, and wide ones."""
        record = Part.of(functions.record, longest, len(shapes.shared), shapes.shared, shapes.lane.own)
        if (count := sum(math.prod(x.shape) for x in record.outputs)) > _MOST:
            raise Unscalarisable(f"a record of {count} numbers is more than {_MOST}")
        for node in (node for array in record.outputs for node in entries(array)):
            if node.dtype.itemsize * runs > SLOT:
                raise Unscalarisable(f"a record is in {node.dtype}, of which no vector holds {runs}")
        following = Part.of(functions.following, longest, 0, shapes.uniform, shapes.lane) if shapes.slots else None
        return cls(record, following, shapes.slots)

    @property
    def nodes(self) -> list[Node]:
        """The numbers of a record."""
        return [node for array in self.record.outputs for node in entries(array)]

    @property
    def arrays(self) -> int:
        """How many arrays of results a record is written to."""
        return len(self.record.outputs) * (2 if self.slots else 1)

    def rows(self, results: list[str], scratch: str, run: str, slot: str) -> Rows:
        """Return where records go, given the addresses of all results."""
        at_end = len(results) - len(self.record.outputs)
        return Rows(results[:at_end], results[at_end:], scratch, run, slot)

    def write(self, text: Text, leaf: Leaf, rows: Rows, due: str, ends: str) -> None:
        """Write what records some runs at their slots and some at their end, of which there are masks."""
        places = [text.address(rows.scratch, SLOT * k) for k in range(len(self.nodes))]
        outputs = [
            Output(node, lambda value, node=node, place=place: text.store(node.dtype, value, place))
            for node, place in zip(self.nodes, places, strict=True)
        ]
        write(text, outputs, leaf)
        kinds = [(rows.last, None, ends), (rows.at_steps, rows.slot, due)][: 2 if self.slots else 1]
        masks = [text.set(f"zext i{text.runs} {text.bits(mask)} to i64") for *_, mask in kinds]

        def copy(lane: str, _: list[str]) -> list[str]:
            for (results, slot, _), mask in zip(kinds, masks, strict=True):
                chosen = text.set(f"trunc i64 {text.set(f'lshr i64 {mask}, {lane}')} to i1")
                text.when(
                    chosen, lambda results=results, slot=slot: self._copy(text, lane, results, slot, rows, places)
                )
            return []

        text.passes(0, text.runs, 1, [], copy)

    def _copy(self, text: Text, lane: str, results: list[str], slot: str | None, rows: Rows, places: list[str]) -> None:
        """Write what copies the record of one run of the vector."""

        def number(base: str) -> str:
            at = text.address(base, text.set(f"mul i64 {lane}, 4"))
            return text.set(f"sext i32 {text.set(f'load i32, ptr {at}')} to i64")

        row = number(rows.run)
        if slot is not None:
            row = text.set(f"add i64 {text.set(f'mul i64 {row}, {self.slots}')}, {number(slot)}")
        sources = iter(places)
        for result, array in zip(results, self.record.outputs, strict=True):
            kinds = [node.dtype for node in entries(array)]
            size = sum(dtype.itemsize for dtype in kinds)
            to = text.address(result, text.set(f"mul i64 {row}, {size}"))
            for k, dtype in enumerate(kinds):
                kind, bytes_ = f"i{8 * dtype.itemsize}", dtype.itemsize
                beyond = text.address(next(sources), text.set(f"mul i64 {lane}, {bytes_}"))
                value = text.set(f"load {kind}, ptr {beyond}, align {bytes_}")
                text.do(f"store {kind} {value}, ptr {text.address(to, k * bytes_)}, align {bytes_}")
