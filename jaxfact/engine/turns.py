"""Whole runs in two kernels of a GPU that take turns: one takes the steps up to a look, and one looks.

As one kernel (`looks`) they would take a minute to compile where a run is more than a few numbers. Between the two a
run's state lies in device memory, in rows of words. A block of runs goes on until enough of its own have ended, as
there; in what is launched after that it has nothing to do.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from jaxfact.engine.looks import Asked, Block, Memory, Plan
from jaxfact.engine.native import Functions, Shapes
from jaxfact.engine.vectors import BLOCK, WORD, Rows, as_numbers, as_words, packed, put, unpacked
from jaxfact.numerics.trees import PyTree

TOGETHER = 4
"""Turns between two times at which the device asks whether any block goes on."""
# Rows after the notes: how many looks a block has taken, whether it goes on, and whose states are to be marked.
_BESIDE = 0, 1, 0


class Turns:
    """Blocks of steps and looks of many lanes as two kernels; raises Unscalarisable, with the reason, if none can be.

    It is called as `assembly.Blocks` is, and a block of lanes stops as a vector of a CPU does, but leaves runs that
    have returned where they are: `stepped` takes them one step round their orbits. Records are XLA's.
    """

    runs: int = BLOCK
    unrecorded: str = "a kernel of a GPU writes none"
    code: np.ndarray = np.zeros(2, np.uint32)

    def __init__(self, functions: Functions, shapes: Shapes, most: int, interpret: bool):
        self._interpret = interpret
        self._plan = Plan(functions, shapes, circles=False)
        self._plan.check(most)

    def __call__(
        self, code: Any, shared: list[Any], uniform: PyTree, lanes: PyTree, records: PyTree, blocks: Any, enough: Any
    ) -> tuple[Any, Any, Any]:
        """Advance lanes; return them, the records and the number of looks that the longest block took."""
        plan, (leaves, tree), of_all = self._plan, jax.tree.flatten(lanes), [*shared, *jax.tree.leaves(uniform)]
        alike = [as_words(of_all[~k].reshape(-1, 1)) for k in plan.common]
        common = packed([jnp.broadcast_to(x, (len(x), BLOCK)) for x in alike])
        numbers = _numbers(of_all[len(shared)], blocks, enough, 0)
        parts = plan.moving, plan.fixed, plan.marks, plan.remembered
        state, fixed, mark, memory = (self._packed(leaves, part) for part in parts)
        notes = self._packed(leaves, plan.noted, _BESIDE)
        places = len(plan.rows(plan.noted))

        def going(carry):
            return jnp.any(unpacked(carry[1])[places + 1] != 0)

        def turn(carry):
            state, notes, mark, memory = carry
            for _ in range(TOGETHER):
                state, mark = self._stepped(numbers, shared, notes, fixed, state, mark)
                notes, memory = self._looked(numbers, common, state, fixed, mark, notes, memory)
            return state, notes, mark, memory

        state, notes, mark, memory = lax.while_loop(going, turn, (state, notes, mark, memory))
        rows = unpacked(notes)
        mark = jnp.where(rows[places + 2][:, None] != 0, state, mark)
        parts = (plan.moving, state), (plan.noted, notes), (plan.marks, mark), (plan.remembered, memory)
        for part, words in parts:
            self._unpacked(leaves, part, words)
        looks = jnp.max(rows[places].astype(jnp.int32))
        return jax.tree.unflatten(tree, leaves), records, looks

    def stepped(self, shared: list[Any], lanes: PyTree) -> PyTree:
        """Return what lanes own where those that have returned have taken one step, by the kernel of all others."""
        plan, (leaves, tree) = self._plan, jax.tree.flatten(lanes)
        state, fixed, mark = (self._packed(leaves, part) for part in (plan.moving, plan.fixed, plan.marks))
        notes = self._packed(leaves, plan.noted, _BESIDE)
        state, _ = self._stepped(_numbers(1, 1, 1, 1), shared, notes, fixed, state, mark)
        self._unpacked(leaves, plan.moving, state)
        return jax.tree.unflatten(tree, leaves).own

    def _packed(self, leaves: list[Any], part: list[int], more: tuple[int, ...] = ()) -> Array:
        """Return leaves as rows of words, and after them rows of these numbers."""
        count = leaves[0].shape[-1]
        rows = [as_words(leaves[k].reshape(-1, count)) for k in part]
        return packed([*rows, *(jnp.full((1, count), number, WORD) for number in more)])

    def _unpacked(self, leaves: list[Any], part: list[int], words: Array) -> None:
        ends = np.cumsum([len(self._plan.rows([k])) for k in part])
        for k, rows in zip(part, jnp.split(unpacked(words), ends), strict=False):
            leaves[k] = as_numbers(rows, leaves[k].dtype).reshape(leaves[k].shape)

    def _stepped(self, numbers: Array, shared: list[Any], notes: Array, fixed: Array, *states: Array) -> list[Array]:
        """Launch the kernel of steps; return the states of all lanes, and their marks."""
        read = [shared[k].reshape(-1) for k in self._plan.step.read]
        return self._launched(_steps, "steps", [numbers, *read], [notes, fixed], [*states])

    def _looked(
        self, numbers: Array, common: Array, state: Array, fixed: Array, mark: Array, *remembered: Array
    ) -> list[Array]:
        """Launch the kernel of looks; return the notes, and what is remembered."""
        return self._launched(_looks, "looks", [numbers, common], [state, fixed, mark], [*remembered])

    def _launched(self, kernel: Any, name: str, whole: list[Any], read: list[Any], changed: list[Any]) -> list[Array]:
        """Launch a kernel over all blocks, that reads some arrays as a whole, and of some its own lanes."""
        along = [pl.BlockSpec((x.shape[0], BLOCK, 4), lambda i: (0, i, 0)) for x in (*read, *changed)]
        entire = [pl.BlockSpec(x.shape, partial(_origin, x.ndim)) for x in whole]
        first = len(whole) + len(read)
        return pl.pallas_call(
            partial(kernel, self._plan, self._interpret),
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in changed],
            grid=(changed[0].shape[1] // BLOCK,),
            in_specs=[*entire, *along],
            out_specs=along[len(read) :],
            input_output_aliases={first + k: k for k in range(len(changed))},
            compiler_params=triton.CompilerParams(num_warps=BLOCK // 32, num_stages=1),
            interpret=self._interpret,
            name=name,
        )(*whole, *read, *changed)


def _origin(dimensions: int, _: Any) -> tuple[int, ...]:
    return (0,) * dimensions


def _numbers(stride: Any, blocks: Any, enough: Any, circling: int) -> Array:
    return jnp.stack([jnp.asarray(x, jnp.int32) for x in (stride, blocks, enough, 1, circling)])


def _steps(plan: Plan, interpret: bool, numbers: Any, *refs: Any) -> None:
    """Take a block's steps up to its next look, if it goes on, or one of the runs that have returned.

    What the last look has said is to be marked is marked here, before it moves, group by group: of a look, Triton would
    take as long again to compile that.
    """
    *shared, notes, fixed, _, _, end, mark = refs
    stride, blocks, enough, once, circling = (numbers[k] for k in range(5))
    rows = Rows(notes, once)
    loaded = _loaded(plan, (plan.noted, rows), (plan.fixed, Rows(fixed, once)), (plan.moving, Rows(end, once)))
    block = Block(plan, interpret, [*shared], Memory(None, None, None, None, once), loaded)
    noted, state = block.begun
    asked, flags = block.asked(noted, _looks_of(plan, rows), blocks, enough)
    marks = rows[len(plan.rows(plan.noted)) + 2] != 0

    @pl.when(jnp.max(marks.astype(jnp.int32)) > 0)
    def _():
        mask = jnp.broadcast_to(marks[:, None], mark.shape[1:])

        def copy(group, none):
            mark[group] = jnp.where(mask, end[group], mark[group])
            return none

        lax.fori_loop(0, mark.shape[0], copy, ())

    block.wait()  # until all have loaded what is now stored in the same place

    @pl.when((asked.going > 0) | (circling > 0))
    def _():
        count = jnp.where(circling > 0, 1, jnp.where(asked.fresh > 0, 0, stride))
        moved = block.stepped(count, noted, state)
        # Those that have ended, or returned, stay where they are while others go on.
        moves = jnp.where(circling > 0, flags.returned, flags.busy)
        put(end, [as_words(x) for x in moved], once, moves)


def _looks(plan: Plan, interpret: bool, numbers: Any, *refs: Any) -> None:
    """Look at a block's runs, if it goes on; say whether it does so after that."""
    common, state, fixed, mark, _, _, notes, memory = refs
    _, blocks, enough, once, _ = (numbers[k] for k in range(5))
    rows = Rows(notes, once)
    loaded = _loaded(plan, (plan.moving, Rows(state, once)), (plan.noted, rows), (plan.fixed, Rows(fixed, once)))
    block = Block(plan, interpret, None, Memory(common, mark, memory, None, once), loaded)
    noted, own = block.begun
    looks = _looks_of(plan, rows)
    asked: Asked = block.asked(noted, looks, blocks, enough)[0]
    block.wait()

    @pl.when(asked.going > 0)
    def _():
        after, marks = block.seen(asked, noted, own)
        going = block.asked(after, looks + 1, blocks, enough)[0].going
        put(notes, [as_words(x) for x in (*after, jnp.full(BLOCK, looks + 1), jnp.full(BLOCK, going), marks)], once)

    @pl.when(asked.going == 0)
    def _():
        beside = jnp.full(BLOCK, looks), jnp.full(BLOCK, asked.going), rows[len(plan.rows(plan.noted)) + 2]
        put(notes, [as_words(x) for x in (*noted, *beside)], once)


def _loaded(plan: Plan, *parts: tuple[list[int], Rows]) -> dict[Any, Array]:
    """Return the numbers of leaves from where they lie."""
    placed = ((key, rows, at) for leaves, rows in parts for at, key in enumerate(plan.rows(leaves)))
    return {key: as_numbers(rows[at], plan.dtype(key)) for key, rows, at in placed}


def _looks_of(plan: Plan, rows: Rows) -> Array:
    """Return how many looks a block has taken, which is written of every lane."""
    return jnp.max(as_numbers(rows[len(plan.rows(plan.noted))], np.dtype(np.int32)))
