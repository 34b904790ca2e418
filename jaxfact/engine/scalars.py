"""A program on small arrays as a graph of operations on scalars: what a compiler of kernels in registers starts from.

Every entry of every array becomes a node, and equal nodes are one: so a Gram matrix is computed once, its symmetry is
found, and what only moves entries about (a slice, a transpose) is gone. What the nodes hold, a number of one run or a
vector over many, is for whoever emits them to choose.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

Nodes = np.ndarray
"""An array of `Node`, of the shape of the array it stands for; a random key has its two words as a last axis."""

_COMMUTATIVE = frozenset(["add", "add_any", "mul", "max", "min", "and", "or", "xor", "eq", "ne"])
FOLDED: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "not": np.bitwise_not,
    "xor": np.bitwise_xor,
}


class Unscalarisable(Exception):
    """Says what keeps a program from becoming a graph of scalars."""


def kinds(program: Any) -> list[list[Any]]:
    """Return the shapes and dtypes that a program, or an equation, takes and returns."""
    return [[(var.aval.shape, var.aval.dtype) for var in ends] for ends in (program.invars, program.outvars)]


def without_effects(closed: Any) -> Any:
    """Return a traced program; raise Unscalarisable for one that does more than compute, as prints do."""
    for equation in closed.jaxpr.eqns:
        if equation.effects:
            raise Unscalarisable(f"it has the operation {equation.primitive.name}")
    return closed


class Node:
    """An operation on other nodes, of one dtype.

    `operation` is JAX's primitive, whose parameters are `params`; or None for a leaf, for a loop and for a fold.
    `by_row` tells whether its number differs from row to row of long arrays, of which a node is one expression.
    """

    __slots__ = ("arguments", "by_row", "detail", "dtype", "operation", "params", "serial")

    def __init__(
        self,
        operation: Any,
        arguments: "tuple[Node, ...]",
        dtype: np.dtype[Any],
        params: tuple[Any, ...],
        detail: Any,
    ):
        self.operation: Any = operation
        self.arguments: tuple[Node, ...] = arguments
        self.dtype: np.dtype[Any] = dtype
        self.params: tuple[Any, ...] = params
        self.detail: Any = detail
        self.serial: int = 0
        # Graphs have up to a hundred thousand nodes, most of them operations, which have no detail.
        self.by_row: bool = isinstance(detail, (Row, Count))
        if not isinstance(detail, Fold):
            for argument in arguments:
                if argument.by_row:
                    self.by_row = True


class Input(NamedTuple):
    """A leaf: an entry of one of the program's arguments."""

    argument: int
    entry: int


class Row(NamedTuple):
    """A leaf of row i of long arrays: entry `start + stride·i` of one of the program's arguments, or of a table."""

    source: "int | Table"
    start: int
    stride: int


class Count(NamedTuple):
    """A leaf of row i of long arrays: the number `start + stride·i`."""

    start: int
    stride: int


class Table:
    """Numbers known beforehand, of which rows take one each."""

    def __init__(self, numbers: np.ndarray):
        self.numbers: np.ndarray = numbers

    def __hash__(self) -> int:
        return hash(self.numbers.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.numbers.tobytes() == other.numbers.tobytes()


class Carried(NamedTuple):
    """A leaf: what one pass of a loop hands to the next."""

    loop: int
    place: int


class Constant(NamedTuple):
    """A leaf: a number."""

    value: Any


class Loop(NamedTuple):
    """A loop that goes on while its condition holds, for each run apart; the node's arguments are where it begins.

    After the beginnings, as many as `carried`, the arguments are what the loop reads from outside.
    """

    carried: tuple[Node, ...]
    condition: Node
    body: tuple[Node, ...]


class Result(NamedTuple):
    """One of the numbers that a loop ends with; the node's only argument is the loop."""

    place: int


class Fold(NamedTuple):
    """What an operation makes of one number a row, for rows begin ≤ i < end; the arguments are what no row changes."""

    operation: Any
    begin: int
    end: int
    body: Node


class Graph:
    """Nodes, each made once; refuses to hold more than `most`.

    An array with an axis of more than `longest` entries is not written out, but an expression in its row.
    """

    def __init__(self, most: int, longest: int | None = None):
        self._most = most
        self._longest = longest
        self._made: dict[tuple, Node] = {}
        self._loops = 0

    def long_axes(self, shape: Sequence[int]) -> list[int]:
        """Return the axes of a shape that are not written out."""
        return [] if self._longest is None else [axis for axis, size in enumerate(shape) if size > self._longest]

    def leaf(self, detail: Input | Carried | Row | Count, dtype: Any) -> Node:
        """Return the node of an input, of what a loop carries, or of a row's number."""
        return self._node(None, (), np.dtype(dtype), (), detail, (type(detail), detail))

    def constant(self, value: Any, dtype: Any) -> Node:
        """Return the node of a number."""
        number: Any = np.asarray(value, dtype)[()]
        return self._node(None, (), number.dtype, (), Constant(number), (Constant, number.tobytes()))

    def apply(self, operation: Any, arguments: tuple[Node, ...], dtype: Any, params: dict[str, Any]) -> Node:
        """Return the node of an operation, or a simpler one that is the same number."""
        if (same := _simpler(self, operation.name, arguments, np.dtype(dtype))) is not None:
            return same
        if operation.name in _COMMUTATIVE:
            first, second = arguments
            arguments = (first, second) if first.serial <= second.serial else (second, first)
        kept = tuple(sorted((name, value) for name, value in params.items() if value is not None)) if params else ()
        return self._node(operation, arguments, np.dtype(dtype), kept, None, (operation.name, kept))

    def loop(self, begin: Sequence[Node], condition: Callable, body: Callable) -> list[Node]:
        """Return what a loop ends with; condition and body map carried nodes to a node, and to as many nodes."""
        self._loops += 1
        carried = tuple(self.leaf(Carried(self._loops, place), node.dtype) for place, node in enumerate(begin))
        going, moved = condition(carried), tuple(body(carried))
        inside = dependents([going, *moved], set(carried))
        # In the order in which they were made, so that the same program is always written in the same way.
        nodes = sorted({*inside, going, *moved}, key=lambda node: node.serial)
        outside = dict.fromkeys(a for node in nodes for a in _arguments_beyond(node, inside))
        loop = Loop(carried, going, moved)
        whole = self._node(None, (*begin, *outside), np.dtype(bool), (), loop, (Loop, self._loops))
        return [self._node(None, (whole,), node.dtype, (), Result(k), (Result, k)) for k, node in enumerate(begin)]

    def fold(self, operation: Any, begin: int, end: int, body: Node) -> Node:
        """Return what an operation makes of a body's numbers for rows begin ≤ i < end."""
        fold = Fold(operation, begin, end, body)
        name = (Fold, operation.name, begin, end, id(body))
        return self._node(None, tuple(beyond_rows([body])), body.dtype, (), fold, name)

    def _node(self, operation: Any, arguments: tuple[Node, ...], dtype: np.dtype, params, detail, name) -> Node:
        key = (name, dtype, *map(id, arguments))
        if (made := self._made.get(key)) is not None:
            return made
        if len(self._made) >= self._most:
            raise Unscalarisable(f"it has more than {self._most} numbers and operations on them")
        node = self._made[key] = Node(operation, arguments, dtype, params, detail)
        node.serial = len(self._made)
        return node


def beyond_rows(bodies: Sequence[Node]) -> list[Node]:
    """Return what expressions of a row read that is the same for every row, in the order in which it was made."""
    outside: dict[Node, None] = {}
    pending, seen = list(bodies), set(bodies)
    while pending:
        node = pending.pop()
        if not node.by_row:
            outside[node] = None
            continue
        fresh = [argument for argument in node.arguments if argument not in seen]
        seen.update(fresh)
        pending += fresh
    return sorted(outside, key=lambda node: node.serial)


def dependents(outputs: Iterable[Node], sources: set[Node]) -> set[Node]:
    """Return the nodes among those that outputs are made of that depend on the sources, the sources included."""
    found = set(sources)
    for node in ordered(outputs, sources):
        if any(argument in found for argument in node.arguments):
            found.add(node)
    return found


def ordered(outputs: Iterable[Node], known: set[Node]) -> list[Node]:
    """Return what outputs are made of, except what is known, each node after its arguments, output by output."""
    found: dict[Node, None] = {}
    for output in outputs:
        pending = [output]
        while pending:
            node = pending[-1]
            missing = [] if node in found else [a for a in node.arguments if a not in found and a not in known]
            if missing:
                pending.extend(reversed(missing))
                continue
            pending.pop()
            if node not in known:
                found[node] = None
    return list(found)


def _arguments_beyond(node: Node, inside: set[Node]) -> list[Node]:
    """Return what a loop's node reads from outside of the loop."""
    if node not in inside:
        return [node]
    return [argument for argument in node.arguments if argument not in inside]


def _simpler(graph: Graph, name: str, arguments: tuple[Node, ...], dtype: np.dtype) -> Node | None:
    """Return a node that holds the same number as an operation would, NaN and infinity included; None if none does."""
    values = [node.detail.value if type(node.detail) is Constant else None for node in arguments]
    if None not in values and name == "convert_element_type":
        return graph.constant(values[0], dtype)
    if None not in values and name in FOLDED:
        with np.errstate(all="ignore"):
            return graph.constant(FOLDED[name](*values), dtype)
    if name == "convert_element_type" and arguments[0].dtype == dtype:
        return arguments[0]
    if name == "select_n":
        if values[0] is not None and len(arguments) == 3:
            return arguments[1 + int(values[0])]
        return arguments[1] if len(set(arguments[1:])) == 1 else None
    return _neutral(name, arguments, values)


def _neutral(name: str, arguments: tuple[Node, ...], values: list[Any]) -> Node | None:
    """Return x for x + 0, x − 0 and 1·x, in which only the sign of a zero may differ."""
    if name in ("add", "sub", "xor", "or") and values[1] is not None and values[1] == 0:
        return arguments[0]
    if name in ("add", "xor", "or") and values[0] is not None and values[0] == 0:
        return arguments[1]
    if name in ("mul", "div") and values[1] is not None and values[1] == 1:
        return arguments[0]
    if name == "mul" and values[0] is not None and values[0] == 1:
        return arguments[1]
    return None
