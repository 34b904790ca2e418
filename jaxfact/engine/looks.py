"""Whole runs in registers: a kernel whose blocks take steps and look at their runs until some of these have ended.

Between the steps and the looks a run's state stays where it is. What only looks need, as the state that a run is
compared with and the levels it has met, lies in device memory, in rows of words that a look loads and stores.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from jaxfact.engine.native import Flags, Functions, Shapes
from jaxfact.engine.pallas import OPERATIONS, SHARED, Kernel, kernel_of, stepping
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
from jaxfact.numerics.trees import PyTree

Key = tuple[int, int]
"""A number: the leaf of a lane that it belongs to, and its place there; of all lanes, where the leaf is negative."""
Source = Callable[[Key], Array]
Numbers = tuple[Array, ...]
"""Of a block's runs, a vector each."""
_FRESH: Key = (-(2**30), 0)
_COUNTED = 8  # bits in which the runs of a block can be counted


class Part(NamedTuple):
    """A function of one lane as a graph: what is wanted of it, and what its inputs are."""

    outputs: list[Nodes]
    inputs: dict[Node, Key]

    @classmethod
    def of(cls, function: Callable, shared: int, keys: list[int], *arguments: Any) -> "Part":
        """Trace a function, of whose leaves the first are shared by all runs, given the leaf that each input is."""
        inputs, outputs = scalarised(without_effects(jax.make_jaxpr(function)(*arguments)), OPERATIONS, shared)
        pairs = zip(keys, inputs, strict=True)
        return cls(outputs, {node: (key, entry) for key, x in pairs for entry, node in enumerate(x.flat)})

    def changed(self, leaves: Iterable[int]) -> set[int]:
        """Return those of some leaves that are not returned as they are given."""
        return {k for k in leaves if any(self.inputs.get(x) != (k, e) for e, x in enumerate(self.outputs[k].flat))}

    def read(self, nodes: Iterable[Node]) -> set[Key]:
        """Return the numbers that nodes are made of; raises Unscalarisable where they are none of a kernel."""
        order = ordered(nodes, set())
        if other := {node.dtype for node in order} - DTYPES:
            raise Unscalarisable(f"a look computes in {min(map(str, other))}")
        return {self.inputs[node] for node in order if isinstance(node.detail, Input)}


class Plan:
    """The graphs of what lanes do, and where their leaves lie.

    `moving` and `noted` change and are in registers, `fixed` are what else is loaded once; `remembered` lie in device
    memory, as do the marks of what moves; `common` are the arrays of all lanes that looks read.
    """

    def __init__(self, functions: Functions, shapes: Shapes, circles: bool):
        avals = jax.tree.leaves(shapes.lane)
        places = jax.tree.unflatten(jax.tree.structure(shapes.lane), range(len(avals)))
        own, marks = jax.tree.leaves(places.own), jax.tree.leaves(places.mark[0])
        state_of = dict(zip(marks, jax.tree.leaves((places.own.factors, places.own.state)), strict=True))
        flag = jax.ShapeDtypeStruct((), bool)
        self.step: Kernel = kernel_of(functions.step, shapes.shared, shapes.lane.own)
        self.number: int = places.step
        self.own: list[int] = own
        self.avals: list[Any] = avals
        self._everyone = [*shapes.shared, *jax.tree.leaves(shapes.uniform)]
        self.moving: list[int] = [own[k] for k in self.step.moving]
        self.mark_of: dict[int, int] = {k: mark for mark, k in state_of.items() if k in self.moving}
        self.marks: list[int] = [self.mark_of[k] for k in self.moving]
        # The mark of what does not move is what it is.
        lane = [state_of[k] if k in state_of and state_of[k] not in self.moving else k for k in range(len(avals))]
        before = [k + len(avals) if k in self.moving else k for k in lane]
        all_ = [~k for k in range(len(self._everyone))]
        fixed = (shapes.shared, shapes.uniform, flag, shapes.lane)
        self.look: Part = Part.of(functions.look, len(all_), [*all_, _FRESH[0], *lane], *fixed)
        self.circle: Part | None = None
        if circles:
            self.circle = Part.of(functions.circle, 0, [*before, *own], shapes.lane, shapes.lane.own)
        self.flags: Part = Part.of(functions.flags, 0, lane, shapes.lane)
        self._place({*range(len(avals))} - {*own, *marks})

    def _place(self, small: set[int]) -> None:
        """Say where each leaf lies."""
        parts = [self.look] if self.circle is None else [self.look, self.circle]
        self.changed: list[int] = sorted(set.union(*(part.changed(small) for part in parts)))
        read = set[Key]().union(*(part.read(self.wanted(part)) for part in parts))
        carried = {k for k, _ in self.flags.read(self.flag_nodes)} | {self.number}
        self.noted: list[int] = [k for k in self.changed if k in carried]
        seen = {k for k, _ in read}
        stepped = {([*self.own, self.number])[k] for k in self.step.fixed}
        self.fixed: list[int] = sorted((carried | stepped | (seen & {*self.own})) - {*self.noted, *self.moving})
        self.remembered: list[int] = sorted((seen & small | {*self.changed}) - {*self.noted, *self.fixed})
        self.common: list[int] = sorted(k for k in seen if _FRESH[0] < k < 0)

    def check(self, most: int) -> None:
        """Raise Unscalarisable for more operations than this, and more numbers of all runs than a block holds."""
        if (size := self.operations) > most:
            raise Unscalarisable(f"a step and a look have {size} operations, more than {most}")
        if (size := len(self.rows(self.common))) > SHARED:
            raise Unscalarisable(f"a look reads {size} numbers shared by all runs, more than {SHARED}")

    @property
    def operations(self) -> int:
        """How many operations the kernel has."""
        parts = [self.look] if self.circle is None else [self.look, self.circle]
        orders = [self.step.order, *(ordered(self.wanted(part), set()) for part in parts)]
        return sum(node.operation is not None for order in orders for node in order)

    @property
    def flag_nodes(self) -> list[Node]:
        """The flags, in their order."""
        return [node for x in self.flags.outputs for node in x.flat]

    def wanted(self, part: Part) -> list[Node]:
        """Return what is computed of a look, or of a step round an orbit: what changes, states, and a mask."""
        states = [] if part is self.look else self.moving
        leaves = [*part.outputs[:-1], part.outputs[-1]]
        return [node for k in (*self.changed, *states, -1) for node in leaves[k].flat]

    def rows(self, leaves: Iterable[int]) -> list[Key]:
        """Return the numbers of leaves, a row each."""
        return [(k, entry) for k in leaves for entry in range(int(np.prod(self._aval(k).shape)))]

    def dtype(self, key: Key) -> np.dtype:
        """Return what a number is."""
        return np.dtype(self._aval(key[0]).dtype)

    def _aval(self, leaf: int) -> Any:
        return self._everyone[~leaf] if leaf < 0 else self.avals[leaf % len(self.avals)]


class Looks:
    """Blocks of steps and looks of many lanes as one kernel; raises Unscalarisable, with the reason, if it cannot be.

    It is called as `assembly.Blocks` is, and a block of lanes stops as a vector of a CPU does. Records are XLA's.
    """

    runs: int = BLOCK
    unrecorded: str = "a kernel of a GPU writes none"
    code: np.ndarray = np.zeros(2, np.uint32)
    stepped: None = None

    def __init__(self, functions: Functions, shapes: Shapes, circles: bool, most: int, interpret: bool):
        self._flags, self._interpret = functions.flags, interpret
        self._plan = Plan(functions, shapes, circles)
        self._plan.check(most)

    def __call__(
        self, code: Any, shared: list[Any], uniform: PyTree, lanes: PyTree, records: PyTree, blocks: Any, enough: Any
    ) -> tuple[Any, Any, Any]:
        """Advance lanes; return them, the records and the number of looks that the longest block took."""
        plan, (leaves, tree), of_all = self._plan, jax.tree.flatten(lanes), [*shared, *jax.tree.leaves(uniform)]
        count = leaves[0].shape[-1]
        states = [*plan.moving, *plan.noted]
        begin, mark, memory = (
            packed([as_words(leaves[k].reshape(-1, count)) for k in part])
            for part in ([*states, *plan.fixed], plan.marks, plan.remembered)
        )
        alike = [as_words(of_all[~k].reshape(-1, 1)) for k in plan.common]
        common = packed([jnp.broadcast_to(x, (len(x), BLOCK)) for x in alike])
        numbers = jnp.stack([jnp.asarray(x, jnp.int32) for x in (of_all[len(shared)], blocks, enough, 1)])
        end = jax.ShapeDtypeStruct((groups(len(plan.rows(states)) + 1), count, 4), WORD)
        inputs = [numbers, *(shared[k].reshape(-1) for k in plan.step.read), common, begin, mark, memory]
        along = [pl.BlockSpec((x.shape[0], BLOCK, 4), lambda i: (0, i, 0)) for x in (begin, mark, memory, end)]
        ended, mark, memory = pl.pallas_call(
            partial(_kernel, self._plan, self._interpret),
            out_shape=[end, mark, memory],
            grid=(count // BLOCK,),
            in_specs=[
                *(pl.BlockSpec(x.shape, lambda i: (0,)) for x in inputs[:-4]),
                pl.BlockSpec(common.shape, lambda i: (0, 0, 0)),
                *along[:3],
            ],
            out_specs=[along[3], *along[1:3]],
            input_output_aliases={len(inputs) - 2: 1, len(inputs) - 1: 2},
            compiler_params=triton.CompilerParams(num_warps=BLOCK // 32, num_stages=1),
            interpret=self._interpret,
            name="looks",
        )(*inputs)
        ended, mark, memory = map(unpacked, (ended, mark, memory))
        for part, words in ((states, ended), (plan.marks, mark), (plan.remembered, memory)):
            ends = np.cumsum([len(plan.rows([k])) for k in part])
            for k, rows in zip(part, jnp.split(words, ends), strict=False):
                leaves[k] = as_numbers(rows, leaves[k].dtype).reshape(leaves[k].shape)
        looks = jnp.max(ended[len(plan.rows(states))].astype(jnp.int32))
        return self._thawed(jax.tree.unflatten(tree, leaves)), records, looks

    def _thawed(self, lanes: PyTree) -> PyTree:
        """Return lanes where frozen ones, which have moved on unobserved, have the state of their mark again."""
        frozen = jax.vmap(self._flags, -1)(lanes).frozen
        leaves, tree = jax.tree.flatten(lanes)
        for k, mark in self._plan.mark_of.items():
            leaves[k] = jnp.where(frozen, leaves[mark], leaves[k])
        return jax.tree.unflatten(tree, leaves)


def _kernel(plan: Plan, interpret: bool, numbers: Any, *refs: Any) -> None:
    """Advance a block of lanes until it has cause to stop."""
    *shared, common, begin, _, _, end, mark, memory = refs
    stride, blocks, enough, once = (numbers[k] for k in range(4))
    keys, rows = plan.rows([*plan.moving, *plan.noted, *plan.fixed]), Rows(begin, once)
    loaded = {key: as_numbers(rows[at], plan.dtype(key)) for at, key in enumerate(keys)}
    block = Block(plan, interpret, shared, Memory(common, mark, memory, end, once), loaded)
    noted, state = block.begun

    def ask(looks, noted):
        return block.asked(noted, looks, blocks, enough)[0]

    def go_on(carry):
        looks, asked, noted, state = carry
        noted, state = block.advanced(asked, stride, noted, state)
        return looks + 1, ask(looks + 1, noted), noted, state

    def turn(_, carry):
        return lax.cond(carry[1].going > 0, go_on, lambda carry: carry, carry)

    # Triton crashes on a loop that ends when it ends around one that counts.
    none = jnp.int32(0)
    looks, _, noted, state = lax.fori_loop(none, blocks, turn, (none, ask(none, noted), noted, state))
    put(end, [as_words(x) for x in (*state, *noted, jnp.full(BLOCK, looks))], once)


class Memory(NamedTuple):
    """Rows of words in device memory: what all lanes share, their marks, what is remembered, and room for a state."""

    common: Any
    mark: Any
    remembered: Any
    state: Any
    once: Array


class Asked(NamedTuple):
    """Whether a block goes on, follows runs round their orbits, and has fresh ones."""

    going: Array
    circling: Array
    fresh: Array


class Block:
    """What is done to a block's runs, whose state and notes are vectors, as `loaded` to begin with.

    `shared` are the arrays of all runs that steps read, None where no step is taken.
    """

    def __init__(self, plan: Plan, interpret: bool, shared: list[Any] | None, memory: Memory, loaded: dict[Key, Array]):
        self._plan, self._interpret, self._memory = plan, interpret, memory
        self._state_keys, self._noted_keys = plan.rows(plan.moving), plan.rows(plan.noted)
        noted, state = (tuple(loaded[key] for key in keys) for keys in (self._noted_keys, self._state_keys))
        self.begun: tuple[Numbers, Numbers] = noted, state
        self._fixed = {key: loaded[key] for key in plan.rows(plan.fixed)}
        if shared is not None:
            places = [*plan.own, plan.number]
            nodes = [(node, (places[k], e)) for k in plan.step.fixed for e, node in enumerate(plan.step.leaves[k].flat)]
            lane = {node: self._fixed[key] for node, key in nodes if key in self._fixed}
            self._step = stepping(plan.step, shared, lane, interpret)

    def asked(self, noted: Numbers, looks: Array, blocks: Array, enough: Array) -> tuple[Asked, Flags]:
        """Ask the runs' flags what the block is to do; return these too."""
        known = self._fixed | dict(zip(self._noted_keys, noted, strict=True))
        flags = Flags(*self._evaluated(self._plan.flags, self._plan.flag_nodes, known.__getitem__))
        ended, busy, due = _counts(flags.ended, flags.busy, flags.due)
        fresh, returned, midway = _counts(flags.fresh, flags.returned, flags.midway)
        wanted = (busy > 0) & (ended < enough) & ((looks == 0) | (due == 0))
        going = (wanted | ((returned > 0) & (self._plan.circle is not None))) & (looks < blocks)
        # Runs that have returned are followed round together, when the block would otherwise stop.
        circling = ~wanted | (midway > 0)
        return Asked(going.astype(jnp.int32), circling.astype(jnp.int32), fresh), flags

    def advanced(self, asked: Asked, stride: Array, noted: Numbers, state: Numbers) -> tuple[Numbers, Numbers]:
        """Take steps and look at the runs, or one step, by the same code, of those that have returned."""
        some, looked = jnp.where(asked.fresh > 0, 0, stride), partial(self._looked, asked)
        if self._plan.circle is None:
            return looked(noted, self.stepped(some, noted, state))
        circling = asked.circling > 0
        kept: Any = lax.cond(circling, partial(self._thawed, asked), lambda _, state: state, noted, state)
        moved = self.stepped(jnp.where(circling, 1, some), noted, kept)
        return lax.cond(circling, partial(self._circled, asked), looked, noted, moved)

    def stepped(self, count: Array, noted: Numbers, state: Numbers) -> Numbers:
        """Take some steps."""
        number, step = noted[self._noted_keys.index((self._plan.number, 0))], self._step
        return lax.fori_loop(0, count, lambda t, state: step(number + t, state), state)

    def seen(self, asked: Asked, noted: Numbers, state: Numbers) -> tuple[Numbers, Array]:
        """Look at the runs: remember what they have reached, and say whose states are to be marked."""
        return self._remembered(self._plan.look, asked, noted, state)[1:]

    def _looked(self, asked: Asked, noted: Numbers, state: Numbers) -> tuple[Numbers, Numbers]:
        """Look at the runs, and mark states."""
        noted, marks = self.seen(asked, noted, state)

        @pl.when(jnp.max(marks.astype(jnp.int32)) > 0)
        def _():
            put(self._memory.mark, [as_words(x) for x in state], self._memory.once, marks)

        self.wait()
        return noted, state

    def _thawed(self, asked: Asked, noted: Numbers, state: Numbers) -> Numbers:
        """Return the states of runs, frozen ones being where their marks are again, and keep a copy."""
        source = self._source(asked, noted, state)
        [frozen] = self._evaluated(self._plan.flags, [Flags(*self._plan.flag_nodes).frozen], source)
        marks = [source(key) for key in self._plan.rows(self._plan.marks)]
        thawed = [lax.select(frozen, mark, x) for mark, x in zip(marks, state, strict=True)]
        put(self._memory.state, [as_words(x) for x in thawed], self._memory.once)
        self.wait()
        return tuple(thawed)

    def _circled(self, asked: Asked, noted: Numbers, state: Numbers) -> tuple[Numbers, Numbers]:
        """Say what is made of a step round the orbits of the runs that have returned; the others keep their state."""
        state, noted, _ = self._remembered(self._plan.circle, asked, noted, state)
        self.wait()
        return noted, state

    def _remembered(self, part: Any, asked: Asked, noted: Numbers, state: Numbers) -> tuple[Numbers, Numbers, Array]:
        """Evaluate a part and keep what it remembers; return states where it changes them, notes, and its mask."""
        plan, source = self._plan, self._source(asked, noted, state)
        *found, mask = self._evaluated(part, plan.wanted(part), source)
        changed = plan.rows(plan.changed)
        states, after = found[len(changed) :], dict(zip(changed, found, strict=False))
        rows = [after[key] if key in after else source(key) for key in plan.rows(plan.remembered)]
        put(self._memory.remembered, [as_words(x) for x in rows], self._memory.once)
        return tuple(states), tuple(after[key] for key in self._noted_keys), mask

    def _evaluated(self, part: Part, nodes: list[Node], source: Source) -> list[Array]:
        """Return the values of nodes of a part."""
        emit = Emitter(lambda node: source(part.inputs[node]), fusible(nodes), self._interpret)
        values = emit.values(ordered(nodes, set()), {})
        return [values[node] for node in nodes]

    def _source(self, asked: Asked, noted: Numbers, state: Numbers) -> Source:
        """Return what looks numbers up: in registers, or else in device memory, loaded when first asked for."""
        plan, memory, several = self._plan, self._memory, len(self._plan.avals)
        known = self._fixed | dict(zip(self._noted_keys, noted, strict=True))
        known |= {**dict(zip(self._state_keys, state, strict=True)), _FRESH: jnp.full(BLOCK, asked.fresh > 0)}
        areas = [
            (plan.rows(plan.common), memory.common),
            (plan.rows(plan.marks), memory.mark),
            (plan.rows(plan.remembered), memory.remembered),
            ([(k + several, entry) for k, entry in self._state_keys], memory.state),
        ]
        opened = [(keys, Rows(block, self._memory.once)) for keys, block in areas]
        places = {key: (rows, at) for keys, rows in opened for at, key in enumerate(keys)}

        def source(key: Key) -> Array:
            if key not in known:
                rows, at = places[key]
                known[key] = as_numbers(rows[at], plan.dtype(key))
            return known[key]

        return source

    def wait(self) -> None:
        """Let every thread of the block see what the others have stored."""
        if not self._interpret:
            triton.debug_barrier()


def _counts(*masks: Array) -> list[Array]:
    """Return how many runs of the block each of up to three masks holds for, by one sum."""
    together = sum(mask.astype(jnp.int32) << _COUNTED * k for k, mask in enumerate(masks))
    total = jnp.sum(together, dtype=jnp.int32)
    return [(total >> _COUNTED * k) & (2**_COUNTED - 1) for k in range(len(masks))]
