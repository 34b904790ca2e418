"""Steps in registers: a kernel in which every thread advances one run by many steps.

The state of a run is a few hundred numbers. XLA's kernels write them to device memory and read them again several times
per step. Here each entry is a vector over a block's runs, one per thread, so that it stays in a register until the
kernel ends.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Int

from jaxfact.engine.scalarising import scalarised
from jaxfact.engine.scalars import Input, Node, Nodes, Unscalarisable, ordered, without_effects
from jaxfact.engine.vectors import (
    BLOCK,
    DTYPES,
    WORD,
    Emitter,
    Rows,
    as_numbers,
    as_words,
    fusible,
    groups,
    packed,
    put,
    unpacked,
)

BLOCKS = 2
"""Blocks per multiprocessor that a GPU needs to be busy, as many as there are registers for."""

OPERATIONS = 8_000  # some 15 seconds of compiling
_STATE = 200  # numbers of a run, of 255 registers: with 256 XLA's kernels were twice as fast on an H100
_HELD, SHARED = 32, 256  # numbers shared by all runs that stay in registers, and that a step may read at all


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
    traced = without_effects(jax.make_jaxpr(advance)(shared, own, jax.ShapeDtypeStruct((), jnp.int32)))
    count = len(jax.tree.leaves(shared))
    kernel = Kernel(*scalarised(traced, OPERATIONS, count), count)
    if not kernel.moving:
        raise Unscalarisable("it changes nothing")
    if other := {node.dtype for node in kernel.order} - DTYPES:
        raise Unscalarisable(f"it computes in {min(map(str, other))}")
    if (size := len(kernel.of_all)) > SHARED:
        raise Unscalarisable(f"it reads {size} numbers shared by all runs, more than {SHARED}")
    if (size := len(kernel.nodes(kernel.moving, kernel.outputs))) > _STATE:
        raise Unscalarisable(f"its state is {size} numbers, more than {_STATE}")
    return kernel


def advanced(
    kernel: Kernel, interpret: bool, shared: list[Array], own: Any, step: Int[Array, " lane"], count: Int[Array, ""]
) -> Any:
    """Advance every lane, along the last axis of the leaves, by `count` steps."""
    leaves, tree = jax.tree.flatten(own)
    rows, moving = [leaf.reshape(-1, len(step)) for leaf in (*leaves, step)], kernel.moving
    numbers = [jnp.stack([count, jnp.ones_like(count)]), *(shared[k].reshape(-1) for k in kernel.read)]
    state = packed([as_words(rows[k]) for k in (*moving, *kernel.fixed)])
    results = jax.ShapeDtypeStruct((groups(sum(len(rows[k]) for k in moving)), len(step), 4), WORD)
    whole = [pl.BlockSpec(x.shape, lambda i: (0,)) for x in numbers]
    blocks = [pl.BlockSpec((x.shape[0], BLOCK, 4), lambda i: (0, i, 0)) for x in (state, results)]
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
    for k, words in zip(moving, jnp.split(unpacked(found), ends), strict=False):
        leaves[k] = as_numbers(words, leaves[k].dtype).reshape(leaves[k].shape)
    return jax.tree.unflatten(tree, leaves)


def _kernel(kernel: Kernel, interpret: bool, count: Any, *refs: Any) -> None:
    """Load a block's lanes, take `count` steps, store what has moved."""
    *shared, begin, end = refs
    rows, old = Rows(begin, count[1]), kernel.nodes(kernel.moving, kernel.leaves)
    lane = [*old, *kernel.nodes(kernel.fixed, kernel.leaves)]
    loaded = {node: as_numbers(rows[k], node.dtype) for k, node in enumerate(lane)}
    [number] = kernel.leaves[-1].flat
    begun = loaded.get(number, jnp.zeros(BLOCK, jnp.int32))
    step = stepping(kernel, shared, loaded, interpret)
    final = lax.fori_loop(0, count[0], lambda t, state: step(begun + t, state), tuple(loaded[node] for node in old))
    put(end, [as_words(x) for x in final], count[1])


def stepping(kernel: Kernel, shared: list[Any], lane: dict[Node, Array], interpret: bool) -> Callable[..., tuple]:
    """Return what takes a step of a block's runs, given its number and what moves, from what lanes hold besides."""
    old, new = (kernel.nodes(kernel.moving, of) for of in (kernel.leaves, kernel.outputs))
    order, of_all, [number] = kernel.order, kernel.of_all, kernel.leaves[-1].flat

    def load(node: Node) -> Array:
        return jnp.full(BLOCK, shared[kernel.read.index(node.detail.argument)][node.detail.entry])

    held = lane | ({node: load(node) for node in of_all} if len(of_all) <= _HELD else {})
    emit = Emitter(load, fusible(new), interpret)

    def step(taken: Array, state: tuple) -> tuple:
        values = emit.values(order, held | dict(zip(old, state, strict=True)) | {number: taken})
        return tuple(values[node] for node in new)

    return step
