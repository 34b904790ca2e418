"""Steps in registers: a kernel in which every thread advances one run by many steps.

The state of a run is a few hundred numbers. XLA's kernels write them to device memory and read them again several times
per step. Here each entry is a vector over a block's runs, one per thread, so that it stays in a register until the
kernel ends.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Int, UInt

from jaxfact.engine.scalarising import scalarised
from jaxfact.engine.scalars import Constant, Input, Loop, Node, Nodes, Result, Unscalarisable, ordered

BLOCK = 128
"""Runs per block, one per thread."""
BLOCKS = 2
"""Blocks per multiprocessor that a GPU needs to be busy, as many as there are registers for."""

_OPERATIONS = 8_000  # some 15 seconds of compiling
_STATE = 200  # numbers of a run, of 255 registers: with 256 XLA's kernels were twice as fast on an H100
# Triton's time to compile grows with the loads and stores, times the square of the operations; so rows are moved many
# at a time, as powers of two, which it can take apart. With fewer it has several threads do the work of one.
_FEWEST, _MOST = 32, 64
_HELD, _SHARED = 32, 256  # numbers shared by all runs that stay in registers, and that a step may read at all
_WORD = np.dtype(np.uint32)
_DTYPES = {np.dtype(dtype) for dtype in (np.float32, np.int32, np.uint32, bool)}


class Kernel(NamedTuple):
    """One run's step as a graph; the inputs are the shared arrays, the leaves of the state, and the step's number."""

    inputs: list[Nodes]
    outputs: list[Nodes]
    shared: int

    @property
    def leaves(self) -> list[Nodes]:
        """What a run owns, and the number of its step."""
        return self.inputs[self.shared :]

    @property
    def moving(self) -> list[int]:
        """The leaves that a step changes."""
        pairs = enumerate(zip(self.leaves, self.outputs, strict=False))
        return [k for k, (old, new) in pairs if any(a is not b for a, b in zip(old.flat, new.flat, strict=True))]

    @property
    def fixed(self) -> list[int]:
        """The other leaves that a step reads."""
        leaves = {node.detail.argument - self.shared for node in self.order if isinstance(node.detail, Input)}
        return sorted(k for k in leaves - {*self.moving} if k >= 0)

    @property
    def read(self) -> list[int]:
        """The shared arrays that a step reads."""
        return [k for k, x in enumerate(self.inputs[: self.shared]) if x.size]

    @property
    def order(self) -> list[Node]:
        """The nodes of a step, arguments first."""
        return ordered(self.nodes(self.moving, self.outputs), set())

    @property
    def of_all(self) -> list[Node]:
        """What a step reads of the shared arrays."""
        read = [node for node in self.order if isinstance(node.detail, Input)]
        return [node for node in read if node.detail.argument < self.shared]

    def nodes(self, leaves: list[int], of: list[Nodes]) -> list[Node]:
        """Return the entries of some leaves."""
        return [node for k in leaves for node in of[k].flat]


def kernel_of(advance: Callable, shared: list[Any], own: Any) -> Kernel:
    """Read the step `advance(shared, own, number)` of one run; raises Unscalarisable where it cannot be a kernel."""
    traced = jax.make_jaxpr(advance)(shared, own, jax.ShapeDtypeStruct((), jnp.int32))
    count = len(jax.tree.leaves(shared))
    kernel = Kernel(*scalarised(traced, _OPERATIONS, count), count)
    if not kernel.moving:
        raise Unscalarisable("it changes nothing")
    if other := {node.dtype for node in kernel.order} - _DTYPES:
        raise Unscalarisable(f"it computes in {min(map(str, other))}")
    if (size := len(kernel.of_all)) > _SHARED:
        raise Unscalarisable(f"it reads {size} numbers shared by all runs, more than {_SHARED}")
    if (size := len(kernel.nodes(kernel.moving, kernel.outputs))) > _STATE:
        raise Unscalarisable(f"its state is {size} numbers, more than {_STATE}")
    return kernel


def advanced(
    kernel: Kernel, interpret: bool, shared: list[Array], own: Any, step: Int[Array, " lane"], count: Int[Array, ""]
) -> Any:
    """Advance every lane, along the last axis of the leaves, by `count` steps."""
    leaves, tree = jax.tree.flatten(own)
    rows, moving = [leaf.reshape(-1, len(step)) for leaf in (*leaves, step)], kernel.moving
    numbers = [count.reshape(1), *(shared[k].reshape(-1) for k in kernel.read)]
    state = _packed([_words(rows[k]) for k in (*moving, *kernel.fixed)])
    results = jax.ShapeDtypeStruct((_padded(sum(len(rows[k]) for k in moving)), len(step)), _WORD)
    whole = [pl.BlockSpec(x.shape, lambda i: (0,)) for x in numbers]
    blocks = [pl.BlockSpec((x.shape[0], BLOCK), lambda i: (0, i)) for x in (state, results)]
    found = pl.pallas_call(
        partial(_kernel, kernel, interpret),
        out_shape=results,
        grid=(len(step) // BLOCK,),
        in_specs=[*whole, blocks[0]],
        out_specs=blocks[1],
        compiler_params=triton.CompilerParams(num_warps=BLOCK // 32, num_stages=1),
        interpret=interpret,
        name="steps",
    )(*numbers, state)
    ends = np.cumsum([len(rows[k]) for k in moving])
    for k, words in zip(moving, jnp.split(found, ends), strict=False):
        leaves[k] = _numbers(words, leaves[k].dtype).reshape(leaves[k].shape)
    return jax.tree.unflatten(tree, leaves)


def _kernel(kernel: Kernel, interpret: bool, count: Any, *refs: Any) -> None:
    """Load a block's lanes, take `count` steps, store what has moved."""
    *shared, begin, end = refs
    old, new = (kernel.nodes(kernel.moving, of) for of in (kernel.leaves, kernel.outputs))
    order = kernel.order
    lane = [*old, *kernel.nodes(kernel.fixed, kernel.leaves)]
    loaded = {node: _numbers(row, node.dtype) for node, row in zip(lane, _taken_apart(begin), strict=False)}

    def load(node):
        return jnp.full(BLOCK, shared[kernel.read.index(node.detail.argument)][node.detail.entry])

    if len(kernel.of_all) <= _HELD:
        loaded |= {node: load(node) for node in kernel.of_all}
    [number] = kernel.leaves[-1].flat
    emit = _Emitter(load, _fusible(new), interpret)

    def advance(t, state):
        now = {number: loaded[number] + t} if number in loaded else {}
        values = emit.values(order, loaded | dict(zip(old, state, strict=True)) | now)
        return tuple(values[node] for node in new)

    final = lax.fori_loop(0, count[0], advance, tuple(loaded[node] for node in old))
    _put(end, [_words(x) for x in final])


class _Emitter(NamedTuple):
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


def _fusible(outputs: Sequence[Node]) -> set[Node]:
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


def _words(x: Array) -> UInt[Array, "..."]:
    """Return numbers of up to 32 bits as words."""
    if x.dtype.kind == "b":
        return x.astype(_WORD)
    return x if x.dtype == _WORD else lax.bitcast_convert_type(x, _WORD)


def _numbers(words: UInt[Array, "..."], dtype: np.dtype) -> Array:
    """Return words as the numbers they are."""
    if dtype.kind == "b":
        return words != 0
    return words if dtype == _WORD else lax.bitcast_convert_type(words, dtype)


def _packed(rows: list[UInt[Array, "row lane"]]) -> UInt[Array, "row lane"]:
    """Return rows as one array, with zeros after them."""
    count = sum(map(len, rows))
    return jnp.pad(jnp.concatenate(rows), ((0, _padded(count) - count), (0, 0)))


def _padded(rows: int) -> int:
    return -(-rows // _FEWEST) * _FEWEST


def _parts(rows: int) -> list[tuple[int, int]]:
    """Return where the parts of an array begin and end that are loaded or stored at once."""
    return [(at, min(at + _MOST, rows)) for at in range(0, rows, _MOST)]


def _taken_apart(block: Any) -> list[UInt[Array, " lane"]]:
    """Return the rows of a block."""
    rows = []
    for begin, end in _parts(block.shape[0]):
        rows += lax.split(block[begin:end], [1] * (end - begin), axis=0)
    return [row.reshape(BLOCK) for row in rows]


def _put(block: Any, rows: list[UInt[Array, " lane"]]) -> None:
    """Store rows, and zeros after them; Triton joins only pairs."""
    rows = rows + [jnp.zeros(BLOCK, _WORD)] * (block.shape[0] - len(rows))
    for begin, end in _parts(len(rows)):
        joined = rows[begin:end]
        while len(joined) > 1:
            pairs = zip(joined[: len(joined) // 2], joined[len(joined) // 2 :], strict=True)
            joined = [jnp.concatenate([a[..., None], b[..., None]], axis=-1) for a, b in pairs]
        [whole] = joined
        block[begin:end] = whole.transpose(*range(1, whole.ndim), 0).reshape(-1, BLOCK)
