"""Long arrays: each an expression in its row, however many rows it has.

An array is long where one of its axes is; what becomes of the other axes is known for each row. Operations take effect
row by row. Where arrays are joined or padded, another expression begins; a reduction over rows is a fold.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfact.engine.scalars import Constant, Count, Graph, Input, Node, Nodes, Row, Table, Unscalarisable

_SHORTEST = 4  # rows; fewer are written out
_PARTS = 8  # stretches of equal rows that a table is split into


class Place(NamedTuple):
    """The rows `start + stride·i`, which lie from `low` to `high`; with stride 0, one row."""

    start: int
    stride: int
    low: int
    high: int

    def along(self, times: int, plus: int, over: int = 1) -> "Place":
        """Return the rows (times·row + plus) // over; the division leaves the same remainder for every i."""
        low, high, start = ((times * x + plus) // over for x in (self.low, self.high, self.start))
        return Place(start, times * self.stride // over, low, high)


class Stretch(NamedTuple):
    """Rows of which an expression holds: for begin ≤ i < end those at the places, or single ones."""

    begin: int
    end: int
    places: tuple[Place, ...]

    @property
    def is_loop(self) -> bool:
        """Whether the places depend on i."""
        return self.places[0].stride > 0


class Rows:
    """An array whose axis `axis` is long.

    `made` returns the rows at a place, as an array of nodes that has one entry along that axis, given those that
    `needs` names. At `breaks` another expression begins, and a place's stride has to be a multiple of `grain`.
    `table` holds the numbers where they are known.
    """

    def __init__(
        self,
        shape: Sequence[int],
        axis: int,
        needs: "Callable[[Place], list[tuple[Rows, Place]]]",
        made: Callable[[Place, list[Nodes]], Nodes],
        breaks: Iterable[int] = (),
        grain: int = 1,
        table: np.ndarray | None = None,
    ):
        self.shape: tuple[int, ...] = tuple(shape)
        self.axis: int = axis
        self.needs: Callable = needs
        self.made: Callable = made
        self.breaks: frozenset[int] = frozenset(b for b in breaks if 0 < b < shape[axis])
        self.grain: int = grain
        self.table: np.ndarray | None = table
        self._found: dict[Place, Nodes] = {}

    @property
    def count(self) -> int:
        """The number of rows."""
        return self.shape[self.axis]

    @property
    def step(self) -> int:
        """How far apart neighbours along the long axis lie in memory."""
        return math.prod(self.shape[self.axis + 1 :])

    def at(self, place: Place) -> Nodes:
        """Return the rows at a place; without recursion, as programs are deeper than Python's stack."""
        pending: list[tuple[Rows, Place]] = [(self, place)]
        while pending:
            rows, here = pending[-1]
            needed = rows.needs(here) if here not in rows._found else []
            missing = [(other, there) for other, there in needed if there not in other._found]
            if missing:
                pending += missing
                continue
            pending.pop()
            if here not in rows._found:
                rows._found[here] = rows.made(here, [other._found[there] for other, there in needed])
        return self._found[place]

    def written_out(self) -> Nodes:
        """Return all entries, each a node."""
        if not self.count:
            return np.empty(self.shape, object)
        return np.concatenate([self.at(row(k)) for k in range(self.count)], axis=self.axis)

    def stretches(self) -> list[Stretch]:
        """Return the rows in stretches, each of one expression."""
        return stretches(self.count, self.breaks, self.grain)


class Wide(NamedTuple):
    """An array with more than one long axis, of which nothing can be known."""

    shape: tuple[int, ...]


Values = Nodes | Rows | Wide


def row(place: int) -> Place:
    """Return the place of one row."""
    return Place(place, 0, place, place)


def stretches(count: int, breaks: Iterable[int], grain: int) -> list[Stretch]:
    """Return stretches of `count` rows that begin anew at the breaks, of so many rows at a time."""
    found: list[Stretch] = []
    ends = [*sorted(breaks), count]
    for low, high in zip([0, *ends[:-1]], ends, strict=True):
        begin, end = -(-low // grain), high // grain
        if end - begin < _SHORTEST:
            found.extend(Stretch(0, 1, (row(k),)) for k in range(low, high))
            continue
        within = [Place(k, grain, begin * grain + k, (end - 1) * grain + k) for k in range(grain)]
        found.extend(Stretch(0, 1, (row(k),)) for k in range(low, begin * grain))
        found.append(Stretch(begin, end, tuple(within)))
        found.extend(Stretch(0, 1, (row(k),)) for k in range(end * grain, high))
    return found


# --- where long arrays come from -------------------------------------------------------------------------------------


def of_argument(graph: Graph, argument: int, shape: Sequence[int], axis: int, dtype: Any) -> Rows:
    """Return one of the program's arguments."""
    return _from_memory(graph, argument, shape, axis, np.dtype(dtype))


def _from_memory(graph: Graph, source: int | Table, shape: Sequence[int], axis: int, dtype: Any) -> Rows:
    flat = np.arange(math.prod(shape)).reshape(shape)
    first, step = flat.take([0], axis), math.prod(shape[axis + 1 :])

    def leaf(start: int, place: Place) -> Node:
        if isinstance(source, int) and not place.stride:
            return graph.leaf(Input(source, start), dtype)
        return graph.leaf(Row(source, start, step * place.stride), dtype)

    def made(place, _):
        starts = first + step * place.start
        return nodes_of([leaf(int(start), place) for start in starts.flat], first.shape)

    return Rows(shape, axis, _nothing, made)


def of_table(graph: Graph, table: np.ndarray, axis: int) -> Rows:
    """Return numbers that are known: one number, a counter, or a look-up for each entry of a row."""
    moved = np.moveaxis(table, axis, 0)
    changes = [int(k) + 1 for k in np.flatnonzero((moved[1:] != moved[:-1]).reshape(len(moved) - 1, -1).any(axis=1))]
    looked_up = _from_memory(graph, Table(np.ascontiguousarray(table)), table.shape, axis, table.dtype)

    def made(place, _):
        block = table.take(range(place.low, place.high + 1, place.stride or 1), axis)
        first = block.take([0], axis)
        if not place.stride or (block == first).all():
            return nodes_of([graph.constant(x, table.dtype) for x in first.flat], first.shape)
        steps = np.diff(block, axis=axis)
        if table.dtype.kind in "iu" and (steps == steps.take([0], axis)).all():
            passes = (place.low - place.start) // place.stride
            slopes = [int(x) for x in steps.take([0], axis).flat]
            starts = [int(x) - slope * passes for x, slope in zip(first.flat, slopes, strict=True)]
            counts = (Count(*pair) for pair in zip(starts, slopes, strict=True))
            return nodes_of([graph.leaf(count, table.dtype) for count in counts], first.shape)
        return looked_up.at(place)

    return Rows(table.shape, axis, _nothing, made, changes if len(changes) < _PARTS else (), table=table)


def of_nodes(nodes: Nodes, axis: int) -> Rows:
    """Return an array that is written out, each row of its own expression."""
    return Rows(nodes.shape, axis, _nothing, lambda place, _: nodes.take([place.start], axis), range(nodes.shape[axis]))


def _nothing(place: Place) -> list:
    return []


def nodes_of(entries: Sequence[Node], shape: Sequence[int]) -> Nodes:
    """Return an array of nodes."""
    array = np.empty(len(entries), object)
    array[:] = entries
    return array.reshape(shape)


def known(array: Values) -> np.ndarray | None:
    """Return the numbers of an array, None where they are not known beforehand."""
    if isinstance(array, Rows):
        return array.table
    if isinstance(array, Wide) or not all(isinstance(node.detail, Constant) for node in array.flat):
        return None
    return np.array([node.detail.value for node in array.flat], array.flat[0].dtype if array.size else None).reshape(
        array.shape
    )


# --- what is done to them --------------------------------------------------------------------------------------------


def by_row(shape: Sequence[int], axis: int, arrays: Sequence[Any], function: Callable[[list[Nodes]], Nodes]) -> Rows:
    """Return what a function makes of the arrays row by row; short ones are the same for every row."""
    long = [x for x in arrays if isinstance(x, Rows)]

    def made(place, rows):
        given = iter(rows)
        return function([next(given) if isinstance(x, Rows) else x for x in arrays])

    breaks = frozenset[int]().union(*(x.breaks for x in long))
    grain = math.lcm(*(x.grain for x in long))
    return Rows(shape, axis, lambda place: [(x, place) for x in long], made, breaks, grain)


def taken(x: Rows, begin: int, count: int, stride: int) -> Rows:
    """Return `count` rows, every stride-th from `begin` on."""
    shape = tuple(count if axis == x.axis else size for axis, size in enumerate(x.shape))
    breaks = (-(-(b - begin) // stride) for b in x.breaks)
    grain = x.grain // math.gcd(x.grain, stride)
    return Rows(
        shape, x.axis, lambda place: [(x, place.along(stride, begin))], lambda _, found: found[0], breaks, grain
    )


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of several arrays, one after the other."""
    axis, ends = parts[0].axis, [int(k) for k in np.cumsum([part.count for part in parts])]
    begins = [0, *ends[:-1]]

    def needs(place):
        k = next(k for k, end in enumerate(ends) if place.low < end)
        return [(parts[k], place.along(1, -begins[k]))]

    inner = (b + begin for part, begin in zip(parts, begins, strict=True) for b in part.breaks)
    shape = tuple(ends[-1] if k == axis else size for k, size in enumerate(parts[0].shape))
    grain = math.lcm(*(part.grain for part in parts))
    return Rows(shape, axis, needs, lambda _, found: found[0], {*inner, *begins}, grain)


def padded(x: Rows, before: int, after: int, filling: Node) -> Rows:
    """Return an array with rows of one number before and after it, or without some of its rows."""
    shape = tuple(size + (before + after if k == x.axis else 0) for k, size in enumerate(x.shape))
    blank = np.full([1 if k == x.axis else size for k, size in enumerate(shape)], filling, object)

    def needs(place):
        return [(x, place.along(1, -before))] if before <= place.low < before + x.count else []

    def made(place, found):
        return found[0] if found else blank

    breaks = {before, before + x.count, *(before + b for b in x.breaks)}
    return Rows(shape, x.axis, needs, made, breaks, x.grain)


def reshaped(x: Rows, shape: Sequence[int], axis: int) -> Rows:
    """Return an array in another shape, whose long axis is `axis`."""
    old, new = ((math.prod(s[:k]), s[k], math.prod(s[k + 1 :])) for s, k in ((x.shape, x.axis), (shape, axis)))
    inner = tuple(1 if k == axis else size for k, size in enumerate(shape))
    if old == new:
        return by_row(shape, axis, [x], lambda found: found[0].reshape(inner))
    if old[0] != 1 or new[0] != 1:
        raise Unscalarisable(f"it reshapes an array of {sized(x.shape)} to {sized(shape)}")
    width, into = old[2], new[2]

    def needs(place):
        return [(x, place.along(into, k, width)) for k in range(into)]

    def made(place, found):
        entries = [row.flat[(into * place.start + k) % width] for k, row in enumerate(found)]
        return nodes_of(entries, inner)

    breaks = {k for b in x.breaks for k in (b * width // into, -(-b * width // into))}
    grain = x.grain * width
    return Rows(shape, axis, needs, made, breaks, grain // math.gcd(grain, into))


def folded(
    graph: Graph, primitive: Any, parts: list[Stretch], rows: Callable[[Place], Nodes], shape: Sequence[int]
) -> Nodes:
    """Return what an operation makes of all rows, entry by entry; `rows` returns the entries at a place."""

    def total(nodes: list[Node]) -> Node:
        first, *rest = nodes
        for node in rest:
            first = graph.apply(primitive, (first, node), first.dtype, {})
        return first

    found: list[list[Node]] = []
    for part in parts:
        bodies = [total(list(each)) for each in zip(*(rows(place).flat for place in part.places), strict=True)]
        if part.is_loop:
            bodies = [graph.fold(primitive, part.begin, part.end, body) for body in bodies]
        found.append(bodies)
    return nodes_of([total(list(each)) for each in zip(*found, strict=True)], shape)


def sized(shape: Sequence[int]) -> str:
    """Return the sizes of an array in words."""
    return "×".join(map(str, shape))


# --- what is stored --------------------------------------------------------------------------------------------------


class Stores(NamedTuple):
    """For begin ≤ i < end, where each number goes: output, and entry `start + stride·i` of it."""

    begin: int
    end: int
    stores: list[tuple[int, int, int, Node]]


def stored(outputs: Sequence[Nodes | Rows]) -> tuple[list[tuple[int, int, Node]], list[Stores]]:
    """Return where the outputs' single numbers go, output and entry, and the loops that store the others.

    Outputs share a loop where they have the same rows.
    """
    long = [x for x in outputs if isinstance(x, Rows)]
    breaks = frozenset[int]().union(*({*x.breaks, x.count} for x in long if len(x.breaks) <= _PARTS))
    single, loops = [], {}
    for k, x in enumerate(outputs):
        if not isinstance(x, Rows):
            single.extend((k, entry, node) for entry, node in enumerate(x.flat))
            continue
        flat = np.arange(math.prod(x.shape)).reshape(x.shape).take([0], x.axis)
        for part in stretches(x.count, x.breaks | {b for b in breaks if b < x.count}, x.grain):
            for place in part.places:
                entries = flat + x.step * place.start
                for start, node in zip(entries.flat, x.at(place).flat, strict=True):
                    if part.is_loop:
                        loop = loops.setdefault((part.begin, part.end), Stores(part.begin, part.end, []))
                        loop.stores.append((k, int(start), x.step * place.stride, node))
                    else:
                        single.append((k, int(start), node))
    return single, list(loops.values())
