"""Graphs as text of LLVM: in which order nodes are written, and folds and the rows of long arrays as loops.

The order matters more than the operations: what is used often is computed first, then the outputs one by one, each
stored at once, so that few values are alive at a time and stay in registers.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfact.engine.llvm import Text, scalar
from jaxfact.engine.operations import applied
from jaxfact.engine.scalars import Constant, Fold, Loop, Node, Result, Row, Table, beyond_rows, ordered

Leaf = Callable[[Node, str | None], str]
"""Loads an input; that of a row is so many entries, the name of a number, beyond where it starts."""

_OFTEN = 2
_REGISTERS = 28  # of 32, for what is summed over rows and what is read of one
_SUMS = 8  # that are under way at a time, as an addition takes four cycles and two begin in each
_BLOCK = 512  # rows summed one after the other; their sums are summed again, which keeps digits


class Output(NamedTuple):
    """A node, and what stores its value."""

    node: Node
    store: Callable[[str], None]


class RowOutputs(NamedTuple):
    """Nodes of rows begin ≤ i < end, and what stores their values, given i."""

    begin: int
    end: int
    outputs: list[tuple[Node, Callable[[str, str], None]]]


def write(text: Text, outputs: Iterable[Output], leaf: Leaf, rows: Sequence[RowOutputs] = ()) -> None:
    """Write what computes some nodes, each handed on as soon as it is there, and then the loops over rows."""
    singles = list(outputs)
    nodes = [output.node for output in singles]
    outside = beyond_rows([node for loop in rows for node, _ in loop.outputs])
    writer, often = _Writer(text, leaf), _used_often([*nodes, *outside])
    writer.group(order := ordered([*often, *outside, *nodes], set()))
    storing: dict[Node, list[Callable[[str], None]]] = {}
    for node, store in singles:
        storing.setdefault(node, []).append(store)
    for node in order:
        writer.make(node)
        for store in storing.pop(node, ()):
            store(writer.value(node))
    for loop in rows:
        writer.write_rows(loop)


def _used_often(outputs: Sequence[Node]) -> list[Node]:
    """Return what is used more than twice, in the order in which it was made: such as Gram matrices."""
    uses: dict[Node, int] = {}
    for node in (order := ordered(outputs, set())):
        for argument in node.arguments:
            uses[argument] = uses.get(argument, 0) + 1
    often = [node for node in order if uses.get(node, 0) > _OFTEN and node.arguments]
    return sorted(often, key=lambda node: node.serial)


class _Writer:
    """Writes nodes once each, their arguments before them; inputs are loaded where they are used.

    In a loop over rows, `row` is the name of the row's number, and what is read of a row is loaded once.
    """

    def __init__(self, text: Text, leaf: Leaf, known: dict[Node, Any] | None = None, row: str | None = None):
        self.text, self.leaf, self.row = text, leaf, row
        self.known: dict[Node, Any] = dict(known or {})
        self._strides: dict[int, str] = {}
        self._groups: dict[Node, list[Node]] = {}

    def make(self, node: Node) -> None:
        if node in self.known:
            return
        if isinstance(node.detail, Fold):
            self._fold(self._groups.get(node, [node]))
        elif node.arguments:
            self._make(node)

    def all(self, nodes: Iterable[Node]) -> None:
        self.group(order := ordered(nodes, set(self.known)))
        for node in order:
            self.make(node)

    def values(self, nodes: Iterable[Node]) -> dict[Node, Any]:
        """Return the values of nodes that are there; inputs are loaded."""
        return {node: self.value(node) for node in nodes}

    def value(self, node: Node) -> str:
        if node in self.known:
            return self.known[node]
        if isinstance(node.detail, Constant):
            return self.text.constant(node.detail.value, node.dtype)
        if not node.by_row:
            return self.leaf(node, None)
        self.known[node] = self._of_row(node)
        return self.known[node]

    def group(self, order: Iterable[Node]) -> None:
        """Find which folds can share a loop: over the same rows, and of none is another's argument made."""
        levels: dict[Node, int] = {}
        groups: dict[tuple, list[Node]] = {}
        for node in order:
            level = max((levels.get(argument, 0) for argument in node.arguments), default=0)
            if isinstance(node.detail, Fold):
                level += 1
                groups.setdefault((level, node.detail.begin, node.detail.end), []).append(node)
            levels[node] = level
        for folds in groups.values():
            for some in _shared_out(folds):
                self._groups |= dict.fromkeys(some, some)

    def write_rows(self, loop: RowOutputs) -> None:
        """Write a loop that stores rows."""
        outside = self._outside([node for node, _ in loop.outputs])

        def body(row: str, _: list[str]) -> list[str]:
            inner = _Writer(self.text, self.leaf, outside, row)
            for node, store in loop.outputs:
                inner.all([node])
                store(inner.value(node), row)
            return []

        self.text.passes(loop.begin, loop.end, 1, [], body)

    def _outside(self, bodies: list[Node]) -> dict[Node, Any]:
        """Write what bodies read beyond their rows; return the values."""
        nodes = beyond_rows(bodies)
        self.all(nodes)
        return self.values(nodes)

    def _make(self, node: Node) -> None:
        if isinstance(node.detail, Loop):
            self.known[node] = self._looped(node)
        elif isinstance(node.detail, Result):
            self.known[node] = self.known[node.arguments[0]][node.detail.place]
        else:
            values = [self.value(argument) for argument in node.arguments]
            self.known[node] = applied(self.text, node, values)

    def _of_row(self, node: Node) -> str:
        """Load a row's number."""
        detail, text = node.detail, self.text
        if detail.stride not in self._strides:
            self._strides[detail.stride] = text.set(f"mul i64 {self.row}, {detail.stride}")
        beyond = self._strides[detail.stride]
        table = detail.source if isinstance(detail, Row) and isinstance(detail.source, Table) else None
        if isinstance(detail, Row) and table is None:
            return self.leaf(node, beyond)
        place, kind = text.set(f"add i64 {beyond}, {detail.start}"), scalar(node.dtype)
        if table is not None:
            scaled = text.set(f"mul i64 {place}, {node.dtype.itemsize}")
            return text.splat(node.dtype, text.address(text.table(table.numbers), scaled))
        return text.spread(kind, place if kind == "i64" else text.set(f"trunc i64 {place} to {kind}"))

    def _looped(self, node: Node) -> list[str]:
        """Loop until every run has ended; runs that have ended wait."""
        loop: Loop = node.detail
        text, carried = self.text, len(loop.carried)
        begin = [(text.type(a.dtype), self.value(a)) for a in node.arguments[:carried]]
        # What the loop reads from outside is computed before it.
        outside = self.values(node.arguments[carried:])
        inner, going = _Writer(text, self.leaf, self.known | outside, self.row), ""

        def condition(state: list[str]) -> str:
            nonlocal going
            inner.known |= zip(loop.carried, state, strict=True)
            inner.all([loop.condition])
            going = inner.value(loop.condition)
            return text.any(going)

        def body(state: list[str]) -> list[str]:
            inner.all(loop.body)
            pairs = [(inner.value(n), text.type(n.dtype), old) for n, old in zip(loop.body, state, strict=True)]
            return [text.set(f"select {text.type(bool)} {going}, {of} {new}, {of} {old}") for new, of, old in pairs]

        return text.loop(begin, condition, body)

    def _fold(self, group: list[Node]) -> None:
        """Write one loop for folds over the same rows, with as many sums at a time as keep the processor busy."""
        folds = [node.detail for node in group]
        begin, end = folds[0].begin, folds[0].end
        outside = self._outside([fold.body for fold in folds])
        copies = max(1, min(_SUMS // len(folds), (end - begin) // 2))
        whole = begin + (end - begin) // copies * copies
        sums = self._summed(folds, outside, begin, whole, copies)
        for row in range(whole, end):
            sums = self._added(folds, sums, _Writer(self.text, self.leaf, outside, str(row)))
        self.known |= zip(group, sums, strict=True)

    def _summed(self, folds: list[Fold], outside: dict[Node, Any], begin: int, end: int, copies: int) -> list[str]:
        """Write the sums over rows; many rows in blocks, whose sums are summed."""
        kinds, block = [self.text.type(fold.body.dtype) for fold in folds], _BLOCK // copies * copies
        empty = [
            (kind, self.text.constant(_neutral(fold), fold.body.dtype)) for kind, fold in zip(kinds, folds, strict=True)
        ]

        def sweep(low: int | str, high: int | str) -> list[str]:
            def body(row: str, sums: list[str]) -> list[str]:
                moved = []
                for copy in range(copies):
                    number = self.text.set(f"add i64 {row}, {copy}") if copy else row
                    writer = _Writer(self.text, self.leaf, outside, number)
                    moved += self._added(folds, sums[copy * len(folds) :], writer)
                return moved

            sums = self.text.passes(low, high, copies, empty * copies, body)
            total = sums[: len(folds)]
            for copy in range(1, copies):
                total = self._combined(folds, total, sums[copy * len(folds) :])
            return total

        if end - begin <= 2 * _BLOCK:
            return sweep(begin, end)

        def blocks(low: str, totals: list[str]) -> list[str]:
            full = self.text.set(f"add i64 {low}, {block}")
            high = self.text.set(f"call i64 @llvm.smin.i64(i64 {full}, i64 {end})")
            return self._combined(folds, totals, sweep(low, high))

        self.text.declared.add("declare i64 @llvm.smin.i64(i64, i64)")
        return self.text.passes(begin, end, block, empty, blocks)

    def _added(self, folds: list[Fold], sums: list[str], writer: "_Writer") -> list[str]:
        """Write one row's part of the sums."""
        writer.all([fold.body for fold in folds])
        return self._combined(folds, sums, [writer.value(fold.body) for fold in folds])

    def _combined(self, folds: list[Fold], left: list[str], right: list[str]) -> list[str]:
        pairs = zip(folds, left, right, strict=False)
        nodes = [(Node(f.operation, (f.body, f.body), f.body.dtype, (), None), [a, b]) for f, a, b in pairs]
        return [applied(self.text, node, values) for node, values in nodes]


def _neutral(fold: Fold) -> Any:
    """Return the number that changes nothing."""
    name, dtype = fold.operation.name, fold.body.dtype
    if name in ("max", "min"):
        ends = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return ends[name == "min"]
    return {"add": 0, "mul": 1, "and": -1 if dtype.kind in "iu" else True, "or": 0}[name]


def _shared_out(folds: list[Node]) -> list[list[Node]]:
    """Return folds in groups whose sums, and what they read of a row, fit the registers.

    Those whose bodies cost more stay together, because bodies share what they are made of.
    """
    inside = [ordered([fold.detail.body], set(beyond_rows([fold.detail.body]))) for fold in folds]
    if len({node for nodes in inside for node in nodes if node.arguments}) > 3 * len(folds):
        return [folds]
    groups: list[list[Node]] = []
    read: set[Node] = set()
    for fold, nodes in zip(folds, inside, strict=True):
        needed = {node for node in nodes if not node.arguments}
        if not groups or len(groups[-1]) + 1 + len(read | needed) > _REGISTERS:
            groups.append([])
            read = set()
        groups[-1].append(fold)
        read |= needed
    return groups
