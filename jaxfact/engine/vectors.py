"""Graphs of scalars evaluated on a block of runs of a GPU: every number is a vector, one entry and one thread a run.

Between kernels, and between looks, numbers lie in rows of words, a row for each of a run's numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.pallas import triton
from jaxtyping import Array, Bool, Int, UInt

from jaxfact.engine.scalars import Constant, Input, Loop, Node, Result, ordered

BLOCK = 128
"""Runs per block, one per thread."""
DTYPES: frozenset[np.dtype] = frozenset(map(np.dtype, (np.float32, np.int32, np.uint32, bool)))
"""Of which a row of words can hold a number."""

_TOGETHER, _GROUP = 16, 4  # rows
WORD: np.dtype = np.dtype(np.uint32)


class Emitter(NamedTuple):
    """Evaluates nodes on vectors over a block's runs; `load` returns an input, `fused` are products inside a sum."""

    load: Callable[[Node], Array]
    fused: set[Node]
    interpret: bool

    def values(self, order: Iterable[Node], known: dict[Node, Array]) -> dict[Node, Array]:
        """Return the values of nodes, in an order in which arguments come first."""
        found = dict(known)
        for node in order:
            if node not in found and node not in self.fused:
                found[node] = self.value(node, found)
        return found

    def value(self, node: Node, found: dict[Node, Array]) -> Any:
        """Return the value of one node, given those of its arguments."""
        if isinstance(node.detail, Constant):
            return jnp.full(BLOCK, node.detail.value, node.dtype)
        if isinstance(node.detail, Input):
            return self.load(node)
        if isinstance(node.detail, Loop):
            return self.looped(node, found)
        if isinstance(node.detail, Result):
            return found[node.arguments[0]][node.detail.place]
        if any(argument in self.fused for argument in node.arguments):
            return self.multiplied_and_added(node, found)
        return _applied(node, [found[argument] for argument in node.arguments])

    def multiplied_and_added(self, node: Node, found: dict[Node, Array]) -> Array:
        """Return ±a·b ± c, rounded once on a GPU."""
        left, right = node.arguments
        second = right in self.fused
        product, other = (right, left) if second else (left, right)
        a, b, c = (found[argument] for argument in (*product.arguments, other))
        negated = {"add": None, "add_any": None, "sub": 1 if second else 3}[node.operation.name]
        if self.interpret:
            return a * b + c if negated is None else c - a * b if negated == 1 else a * b - c
        given = [f"${place}" if place != negated else "minus" for place in (1, 2, 3)]
        negation = f".reg .f32 minus; neg.f32 minus, ${negated};" if negated else ""
        [result] = triton.elementwise_inline_asm(
            f"{{ {negation} fma.rn.f32 $0, {', '.join(given)}; }}",
            args=[a, b, c],
            constraints="=f,f,f,f",
            pack=1,
            result_shape_dtypes=[jax.ShapeDtypeStruct(a.shape, a.dtype)],
        )
        return result

    def looped(self, node: Node, found: dict[Node, Array]) -> tuple[Array, ...]:
        """Loop until every lane of the block has ended; lanes that have ended wait."""
        loop: Loop = node.detail
        outside = {argument: found[argument] for argument in node.arguments if argument in found}
        order = ordered([loop.condition, *loop.body], {*node.arguments, *loop.carried})

        def inside(state):
            return self.values(order, outside | dict(zip(loop.carried, state, strict=True)))

        def going(state):
            return jnp.max(inside(state)[loop.condition].astype(jnp.int32)) > 0

        def body(state):
            values = inside(state)
            pairs = zip(loop.body, state, strict=True)
            return tuple(lax.select(values[loop.condition], values[new], old) for new, old in pairs)

        return lax.while_loop(going, body, tuple(found[a] for a in node.arguments[: len(loop.carried)]))


def fusible(outputs: Sequence[Node]) -> set[Node]:
    """Return the single-precision products that one sum or difference uses and nothing else."""
    uses: dict[Node, int] = dict.fromkeys(outputs, 2)
    order = ordered(outputs, set())
    loops = [node.detail for node in order if isinstance(node.detail, Loop)]
    for node in (*order, *ordered([x for loop in loops for x in (loop.condition, *loop.body)], set())):
        for argument in node.arguments:
            uses[argument] = uses.get(argument, 0) + 1
    found: set[Node] = set()
    for node in order:
        if node.operation is None or node.operation.name not in ("add", "add_any", "sub") or node.dtype != np.float32:
            continue
        products = [a for a in node.arguments if a.operation is not None and a.operation.name == "mul" and uses[a] == 1]
        found.update(products[:1])
    return found


def _applied(node: Node, arguments: list[Array]) -> Array:
    """Apply a node's operation to vectors."""
    name, params = str(node.operation), dict(node.params)
    if name in ("convert_element_type", "bitcast_convert_type"):
        return getattr(lax, name)(arguments[0], params["new_dtype"])
    if name == "integer_pow":
        return lax.integer_pow(arguments[0], params["y"])
    return getattr(lax, _NAMES.get(name, name))(*arguments)


_NAMES = {"and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor", "not": "bitwise_not", "add_any": "add"}


def as_words(x: Array) -> UInt[Array, "..."]:
    """Return numbers of up to 32 bits as words."""
    if x.dtype.kind == "b":
        return x.astype(WORD)
    return x if x.dtype == WORD else lax.bitcast_convert_type(x, WORD)


def as_numbers(words: UInt[Array, "..."], dtype: np.dtype) -> Array:
    """Return words as the numbers they are."""
    if dtype.kind == "b":
        return words != 0
    return words if dtype == WORD else lax.bitcast_convert_type(words, dtype)


def packed(rows: list[UInt[Array, "row lane"]]) -> UInt[Array, "group lane 4"]:
    """Return rows as one array, four to a group, with zeros after them; of one group at least."""
    count, lanes = sum(map(len, rows)), rows[0].shape[-1] if rows else BLOCK
    padding = jnp.zeros((groups(count) * _GROUP - count, lanes), WORD)
    return jnp.concatenate([*rows, padding]).reshape(-1, _GROUP, lanes).transpose(0, 2, 1)


def unpacked(groups: UInt[Array, "group lane 4"]) -> UInt[Array, "row lane"]:
    """Return the rows that were packed, and what follows them."""
    return groups.transpose(0, 2, 1).reshape(-1, groups.shape[1])


def groups(rows: int) -> int:
    """Return how many groups so many rows are."""
    return max(1, -(-rows // _GROUP))


class Rows:
    """The rows of a block, loaded many at a time when the first of them is asked for.

    Triton's time to compile, and the depth to which it recurses, grow with the operations that hang together with loads
    and stores. So these are in loops of their own, which they do not know to end after one pass: `once` is 1, as data.
    Then no address is kept in registers round an outer loop either.
    """

    def __init__(self, block: Any, once: Int[Array, ""]):
        self._block, self._once = block, once
        self._loaded: dict[int, UInt[Array, " lane"]] = {}

    def __getitem__(self, row: int) -> UInt[Array, " lane"]:
        """Return one row."""
        if row not in self._loaded:
            begin = row // _TOGETHER * _TOGETHER // _GROUP
            some = range(begin, min(begin + _TOGETHER // _GROUP, self._block.shape[0]))

            def load(origin: Array, _: tuple[Array, ...]) -> tuple[Array, ...]:
                found = []
                for k in some:
                    found += [x.reshape(BLOCK) for x in lax.split(self._block[origin + k], [1] * _GROUP, axis=1)]
                return tuple(found)

            nothing = tuple(jnp.zeros(BLOCK, WORD) for _ in range(_GROUP * len(some)))
            found = lax.fori_loop(0, self._once, load, nothing)
            self._loaded |= {begin * _GROUP + k: x for k, x in enumerate(found)}
        return self._loaded[row]


def put(
    block: Any,
    rows: Sequence[UInt[Array, " lane"]],
    once: Int[Array, ""],
    where: Bool[Array, " lane"] | None = None,
) -> None:
    """Store rows, of the runs where that is said; see `Rows` for `once`."""

    def store(origin: Array, given: tuple) -> tuple:
        words, mask = given
        words = [*words, *[jnp.zeros(BLOCK, WORD)] * (-len(words) % _GROUP)]
        for k in range(0, len(words), _GROUP):
            a, b, c, d = (x[:, None] for x in words[k : k + _GROUP])
            first, second = (jnp.concatenate(pair, axis=-1)[..., None] for pair in ((a, c), (b, d)))
            whole = jnp.concatenate([first, second], axis=-1).reshape(BLOCK, _GROUP)
            some = None if where is None else jnp.broadcast_to(mask[:, None] != 0, whole.shape)
            triton.store(block.at[origin + k // _GROUP], whole, mask=some)
        return given

    mask = jnp.zeros(BLOCK, WORD) if where is None else as_words(where)
    lax.fori_loop(0, once, store, (tuple(rows), mask))
