"""Lanes in vector registers: blocks of steps and looks at runs, compiled by LLVM from the program of one run.

XLA's kernels write a run's few hundred numbers to memory several times per step, and start some forty kernels per look.
Here 16 runs are one vector: each of a run's numbers is a register, or a place in the first level of cache, and a vector
goes on from look to look until some of its runs have ended. XLA calls the result as a custom call inside its own loop,
which draws runs and stores results.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfact.engine import machine
from jaxfact.engine.llvm import SLOT, Text
from jaxfact.engine.native import Flags, Functions, Load, Part, Place, Shapes, differ, entries, leaves, longest
from jaxfact.engine.noting import Records
from jaxfact.engine.rows import Rows, stored
from jaxfact.engine.scalars import Node, Nodes, Unscalarisable
from jaxfact.engine.writing import Output, RowOutputs, write
from jaxfact.numerics.trees import PyTree


class Blocks:
    """Blocks of steps of many lanes, compiled; raises Unscalarisable, with the reason, where that cannot be.

    Called with its code, shared and uniform arrays, lanes, records at steps and at the end, a number of blocks, and
    `enough`: a vector stops when `enough` of its runs have ended, and after as many blocks. Where it does not write the
    records, for the reason `unrecorded`, it is given none, and stops where one is due. Returns the lanes, the records,
    and the number of blocks that the longest took.
    """

    stepped: None = None

    def __init__(self, functions: Functions, shapes: Shapes, lanes: int):
        machine.check()
        assembly = _Assembly(functions, shapes, lanes)
        self.runs: int = assembly.runs
        self.unrecorded: str = assembly.unrecorded
        self._lanes = lanes
        self._changed, self._scratch, self._arrays = assembly.changed, assembly.scratch, assembly.arrays
        self.code: np.ndarray = machine.code_of(machine.module(assembly.text))

    def __call__(
        self, code: Any, shared: list[Any], uniform: PyTree, lanes: PyTree, records: PyTree, blocks: Any, enough: Any
    ) -> tuple[Any, Any, Any]:
        """Advance lanes; return them, the records and the number of blocks."""
        (leaves, tree), (rows, of_rows) = jax.tree.flatten(lanes), jax.tree.flatten(records)
        if leaves[0].shape[-1] != self._lanes:
            raise ValueError(f"code for {self._lanes} lanes was called with {leaves[0].shape[-1]}")
        if len(rows) != self._arrays:
            raise ValueError(f"code that writes {self._arrays} arrays of records was called with {len(rows)}")
        arguments = [*shared, *jax.tree.leaves(uniform), blocks, enough, *leaves, *rows]
        first = len(arguments) - len(leaves) - len(rows)
        places = [*self._changed, *range(len(leaves), len(leaves) + len(rows))]
        shaped = [jax.ShapeDtypeStruct(arguments[first + k].shape, arguments[first + k].dtype) for k in places]
        extra = [jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((self._scratch,), jnp.uint8)]
        call = machine.called([*shaped, *extra], {first + k: place for place, k in enumerate(places)})
        *moved, done, _ = call(code, *arguments)
        for k, leaf in zip(self._changed, moved, strict=False):
            leaves[k] = leaf
        return jax.tree.unflatten(tree, leaves), jax.tree.unflatten(of_rows, moved[len(self._changed) :]), done


class _Assembly:
    """Writes the function that XLA calls."""

    def __init__(self, functions: Functions, shapes: Shapes, lanes: int):
        self._shapes, self._lanes = shapes, lanes
        self._avals = jax.tree.leaves(shapes.lane)
        places = jax.tree.unflatten(jax.tree.structure(shapes.lane), range(len(self._avals)))
        self._places = places
        self._own, self._mark = jax.tree.leaves(places.own), jax.tree.leaves(places.mark[0])
        self._state_of = dict(zip(self._mark, jax.tree.leaves((places.own.factors, places.own.state)), strict=True))
        if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in self._avals):
            raise Unscalarisable("its state holds a random key")
        self.runs: int = 8 if any(np.dtype(x.dtype) == np.float64 for x in self._avals) else 16
        if lanes % self.runs:
            raise Unscalarisable(f"{lanes} lanes are no multiple of {self.runs}")
        flag, number = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.bool_, jnp.int32))
        count, most = len(shapes.shared), longest(jax.tree.leaves(shapes.lane.own))
        self._step = Part.of(functions.step, most, count, shapes.shared, shapes.lane.own, number)
        self._look = Part.of(functions.look, most, count, shapes.shared, shapes.uniform, flag, shapes.lane)
        self._circle = Part.of(functions.circle, most, 0, shapes.lane, shapes.lane.own)
        self._flags = Part.of(functions.flags, most, 0, shapes.lane)
        self._records, self.unrecorded = self._recording(functions, most)
        self.arrays: int = self._records.arrays if self._records else 0
        self._lay_out()
        self.text: Text = Text(self.runs)
        self._write()

    def _recording(self, functions: Functions, longest: int) -> tuple[Records | None, str]:
        """Return what is recorded of runs; None where nothing is or it cannot be done here, and why it cannot."""
        try:
            records = Records.of(functions, longest, self._shapes, self.runs)
        except Unscalarisable as reason:
            return None, str(reason)
        return (records if records.record.outputs else None), ""

    def _lay_out(self) -> None:
        """Give every leaf a place in scratch memory; what a step changes has two, for before and after."""
        before = self._step.inputs[len(self._shapes.shared) :]
        after = zip(self._own, before, self._step.outputs, strict=False)
        self._moving = [k for k, old, new in after if differ(old, new)]
        if not self._moving:
            raise Unscalarisable("it changes nothing")
        held = {*self._own, *self._mark}
        small = [k for k in range(len(self._avals)) if k not in held]
        fixed = [k for k in self._own if k not in self._moving]
        sizes = {k: int(np.prod(x.shape)) for k, x in enumerate(self._avals)}
        self._state = SLOT * sum(sizes[k] for k in self._moving)
        self._leaves: dict[int, Place] = {}
        at = 0
        for k in (*self._moving, *self._mark, *fixed, *small):
            if k == self._mark[0]:
                at += self._state
            self._leaves[k] = Place(at, sizes[k], np.dtype(self._avals[k].dtype))
            at += sizes[k] * SLOT
        self._recorded = at
        at += SLOT * len(self._records.nodes) if self._records else 0
        self.scratch: int = at + SLOT  # it may begin anywhere
        seen = [(self._look, len(self._look.inputs) - len(self._avals)), (self._circle, 0)]
        self._small = [k for k in small if any(differ(p.inputs[first + k], p.outputs[k]) for p, first in seen)]
        schedule = [self._places.slot, self._places.due] if self._records else []
        self.changed: list[int] = sorted([*self._moving, *self._mark, *self._small, *schedule])

    def _write(self) -> None:
        """Write the loop over vectors, and within it that over blocks of steps."""
        text, shapes = self.text, self._shapes
        uniform = jax.tree.leaves(shapes.uniform)
        count = len(shapes.shared) + len(uniform) + 2
        given = [machine.buffer(text, "%arguments", k) for k in range(count + len(self._avals))]
        found = [machine.buffer(text, "%results", k) for k in range(len(self.changed) + self.arrays + 2)]
        self._rows = found[len(self.changed) : -2]
        avals = [*shapes.shared, *uniform]
        everyone = [self._of_all(pointer, aval) for pointer, aval in zip(given, avals, strict=False)]
        self._shared, self._uniform = everyone[: len(shapes.shared)], everyone[len(shapes.shared) :]
        limits = [text.set(f"load i32, ptr {given[k]}") for k in (len(shapes.shared), count - 2, count - 1)]
        address = text.set(f"ptrtoint ptr {found[-1]} to i64")
        aligned = text.set(f"and i64 {text.set(f'add i64 {address}, {SLOT - 1}')}, -{SLOT}")
        self._base = text.set(f"inttoptr i64 {aligned} to ptr")

        def vector(state: list[str]) -> list[str]:
            at, most = state
            offset = text.set(f"mul i64 {at}, {self.runs}")
            self._fetch(given[count:], offset)
            taken, now = self._rounds(*limits)
            self._put(dict(zip(self.changed, found, strict=False)), offset, now)
            longer = text.set(f"icmp sgt i32 {taken}, {most}")
            return [text.set(f"add i64 {at}, 1"), text.set(f"select i1 {longer}, i32 {taken}, i32 {most}")]

        vectors = self._lanes // self.runs
        _, most = text.loop(
            [("i64", "0"), ("i32", "0")], lambda state: text.set(f"icmp slt i64 {state[0]}, {vectors}"), vector
        )
        text.do(f"store i32 {most}, ptr {found[-2]}")
        text.do("br label %leave")

    def _rounds(self, stride: str, blocks: str, enough: str) -> list[str]:
        """Write the blocks of one vector; return how many there were, and where in scratch memory the state lies."""
        text, flags = self.text, Flags(*[""] * 7)
        holds, wanted = text.any, ""

        def going(state: list[str]) -> str:
            nonlocal flags, wanted
            flags = Flags(*self._evaluated(self._flags, self._lane(state[1])))
            ended = text.call(f"llvm.ctpop.i{self.runs}", f"i{self.runs}", [(f"i{self.runs}", text.bits(flags.ended))])
            few = text.set(f"icmp slt i32 {text.set(f'zext i{self.runs} {ended} to i32')}, {enough}")
            first = text.set(f"icmp eq i32 {state[0]}, 0")
            wanted = text.set(f"and i1 {holds(flags.busy)}, {few}")
            if self._records is None:
                undisturbed = text.set(f"or i1 {first}, {text.set(f'xor i1 {holds(flags.due)}, true')}")
                wanted = text.set(f"and i1 {wanted}, {undisturbed}")
            something = text.set(f"or i1 {wanted}, {holds(flags.returned)}")
            return text.set(f"and i1 {something}, {text.set(f'icmp slt i32 {state[0]}, {blocks}')}")

        def block(state: list[str]) -> list[str]:
            # Runs that have returned are followed round together, when the vector would otherwise stop.
            circling = text.set(f"or i1 {text.set(f'xor i1 {wanted}, true')}, {holds(flags.midway)}")
            text.when(circling, lambda: self._thawed(flags.frozen, state[1]))
            fresh = holds(flags.fresh)
            some = text.set(f"select i1 {fresh}, i32 0, i32 {stride}")
            now = self._steps(text.set(f"select i1 {circling}, i32 1, i32 {some}"), state[1])
            text.when(circling, lambda: self._circled(state[1], now), lambda: self._looked(fresh, now))
            if self._records:
                self._noted(self._records, flags, now)
            return [text.set(f"add i32 {state[0]}, 1"), now]

        return text.loop([("i32", "0"), ("i64", "0")], going, block)

    def _steps(self, count: str, now: str) -> str:
        """Write the loop over steps; return where the state lies after them."""
        text, number = self.text, self._places.step
        begun = text.load(np.int32, self._slot(number, now))

        def step(state: list[str]) -> list[str]:
            done, at = state
            to = text.set(f"sub i64 {self._state}, {at}")
            taken = text.set(f"add {text.type(np.int32)} {begun}, {text.spread('i32', done)}")
            sources = [*self._shared, *(self._loads(k, at) for k in self._own), lambda entry, beyond: taken]
            moved = {k: x for k, x in zip(self._own, self._step.outputs, strict=False) if k in self._moving}
            self._run(moved, sources, to)
            return [text.set(f"add i32 {done}, 1"), to]

        return text.loop(
            [("i32", "0"), ("i64", now)], lambda state: text.set(f"icmp slt i32 {state[0]}, {count}"), step
        )[1]

    def _looked(self, fresh: str, now: str) -> None:
        """Write a look at the runs of a vector."""
        text, flag = self.text, self.text.spread("i1", fresh)
        sources = [*self._shared, *self._uniform, lambda entry, beyond: flag, *self._lane(now)]
        marks = self._remembered(self._look, sources)
        text.when(text.any(marks), lambda: self._replaced(marks, self._state_of.values(), self._mark, now, now))

    def _circled(self, before: str, now: str) -> None:
        """Write what is made of a step round the orbits of the runs that have returned; the others keep their state."""
        text = self.text
        taken = self._remembered(self._circle, [*self._lane(before), *(self._loads(k, now) for k in self._own)])
        kept = text.set(f"xor {text.type(bool)} {taken}, {text.constant(True, bool)}")
        self._replaced(kept, self._moving, self._moving, before, now)

    def _noted(self, records: Records, before: Flags, now: str) -> None:
        """Write what records the runs of a vector that are at a step for that, and those that have just ended."""
        text, after = self.text, Flags(*self._evaluated(self._flags, self._lane(now)))
        over, ends = (self._masked("xor", flags.ended, flags.returned) for flags in (before, after))
        ends = self._masked("and", ends, self._masked("xor", over, text.constant(True, bool)))

        def record() -> None:
            run, slot = (self._slot(k, "0") for k in (self._places.run, self._places.slot))
            rows = records.rows(self._rows, text.address(self._base, self._recorded), run, slot)
            own = leaves([*self._shared, *(self._loads(k, now) for k in self._own)])
            records.write(text, own, rows, after.due, ends)
            if records.following is not None:
                self._scheduled(records.following, after.due, now)

        text.when(text.any(self._masked("or", after.due, ends)), record)

    def _scheduled(self, following: Part, due: str, now: str) -> None:
        """Write what gives runs that were due their next slot, and when it is due."""
        text, number = self.text, self.text.type(np.int32)
        found = self._evaluated(following, [*self._uniform, *self._lane(now)])
        for k, new in zip((self._places.slot, self._places.due), found, strict=True):
            place = self._slot(k, "0")
            old = text.load(np.int32, place)
            text.store(np.int32, text.set(f"select {text.type(bool)} {due}, {number} {new}, {number} {old}"), place)

    def _masked(self, operation: str, a: str, b: str) -> str:
        return self.text.set(f"{operation} {self.text.type(bool)} {a}, {b}")

    def _remembered(self, part: Part, sources: list[Load]) -> str:
        """Write a part, store the lane's small leaves when all is computed, and return its last output, a mask."""
        small = [(node, k, e) for k in self._small for e, node in enumerate(entries(part.outputs[k]))]
        [mask] = entries(part.outputs[-1])
        *values, marks = self._evaluated(part, sources, [*(node for node, _, _ in small), mask])
        for value, (node, k, entry) in zip(values, small, strict=True):
            self.text.store(node.dtype, value, self.text.address(self._slot(k, "0"), entry * SLOT))
        return marks

    def _evaluated(self, part: Part, sources: list[Load], nodes: list[Node] | None = None) -> list[str]:
        """Write what computes nodes of a part, all its outputs by default; return their values."""
        nodes = [node for array in part.outputs for node in entries(array)] if nodes is None else nodes
        values: dict[int, str] = {}
        outputs = [Output(node, lambda value, k=k: values.__setitem__(k, value)) for k, node in enumerate(nodes)]
        write(self.text, outputs, leaves(sources))
        return [values[k] for k in range(len(nodes))]

    def _run(self, moved: dict[int, Nodes | Rows], sources: list[Load], to: str) -> None:
        """Write what computes leaves, each entry stored at once."""
        text, keys = self.text, list(moved)
        single, loops = stored(list(moved.values()))
        bases = [self._slot(k, to) for k in keys]

        def storing(place: int, entry: int, stride: int, node: Node) -> Callable[..., None]:
            def store(value: str, row: str | None = None) -> None:
                beyond = 0 if row is None else text.set(f"mul i64 {row}, {stride * SLOT}")
                text.store(node.dtype, value, text.address(text.address(bases[place], beyond), entry * SLOT))

            return store

        outputs = [Output(node, storing(place, entry, 0, node)) for place, entry, node in single]
        rows = [RowOutputs(x.begin, x.end, [(store[-1], storing(*store)) for store in x.stores]) for x in loops]
        write(text, outputs, leaves(sources), rows)

    def _replaced(self, mask: str, sources: Iterable[int], targets: Iterable[int], before: str, now: str) -> None:
        """Write a loop that replaces leaves by others where a mask holds."""
        text = self.text
        for source, target in zip(sources, targets, strict=True):
            dtype, begin, end = self._leaves[target].dtype, self._slot(source, before), self._slot(target, now)

            def replace(entry: str, dtype=dtype, begin=begin, end=end) -> None:
                kind, place = text.type(dtype), text.address(end, entry)
                new, old = text.load(dtype, text.address(begin, entry)), text.load(dtype, place)
                text.store(dtype, text.set(f"select {text.type(bool)} {mask}, {kind} {new}, {kind} {old}"), place)

            self._each(self._leaves[target].entries, replace)

    def _thawed(self, frozen: str, now: str) -> None:
        """Write what makes the mark the state of frozen lanes again, which have moved on unobserved."""
        marks = {mark: k for mark, k in self._state_of.items() if k in self._moving}
        self._replaced(frozen, marks.keys(), marks.values(), now, now)

    def _fetch(self, pointers: list[str], offset: str) -> None:
        """Write a loop that copies a vector's lanes into scratch memory."""
        text = self.text
        for k, pointer in enumerate(pointers):
            dtype, slot = self._leaves[k].dtype, self._slot(k, "0")
            at = text.address(pointer, text.set(f"mul i64 {offset}, {dtype.itemsize}"))

            def copy(entry: str, dtype=dtype, slot=slot, at=at) -> None:
                there = text.address(at, self._row(entry, dtype))
                text.store(dtype, text.load(dtype, there, 1), text.address(slot, entry))

            self._each(self._leaves[k].entries, copy)

    def _put(self, pointers: dict[int, str], offset: str, now: str) -> None:
        """Write a loop that copies what has changed back; of lanes that are frozen, the mark is the state."""
        text = self.text
        flags = Flags(*self._evaluated(self._flags, self._lane(now)))
        self._thawed(flags.frozen, now)
        for k, pointer in pointers.items():
            dtype, slot = self._leaves[k].dtype, self._slot(k, now)
            at = text.address(pointer, text.set(f"mul i64 {offset}, {dtype.itemsize}"))

            def copy(entry: str, dtype=dtype, slot=slot, at=at) -> None:
                there = text.address(at, self._row(entry, dtype))
                text.store(dtype, text.load(dtype, text.address(slot, entry)), there, 1)

            self._each(self._leaves[k].entries, copy)

    def _row(self, entry: str, dtype: np.dtype) -> str:
        """Return how far from an array's first lanes those of an entry lie, given its offset in scratch memory."""
        return self.text.set(
            f"mul i64 {self.text.set(f'lshr i64 {entry}, {SLOT.bit_length() - 1}')}, {self._lanes * dtype.itemsize}"
        )

    def _each(self, entries: int, body: Callable[[str], None]) -> None:
        """Write a loop over the entries of a leaf, by their offsets in scratch memory."""
        text = self.text

        def passed(state: list[str]) -> list[str]:
            body(state[0])
            return [text.set(f"add i64 {state[0]}, {SLOT}")]

        text.loop([("i64", "0")], lambda state: text.set(f"icmp slt i64 {state[0]}, {entries * SLOT}"), passed)

    def _lane(self, now: str) -> list[Load]:
        """Return what loads the leaves of a lane."""
        return [self._loads(k, now) for k in range(len(self._avals))]

    def _loads(self, k: int, now: str) -> Load:
        leaf, text = self._leaves[k], self.text

        def load(entry: int, beyond: str | None) -> str:
            base = self._slot(k, now)
            base = base if beyond is None else text.address(base, text.set(f"mul i64 {beyond}, {SLOT}"))
            return text.load(leaf.dtype, text.address(base, entry * SLOT))

        return load

    def _of_all(self, pointer: str, aval: Any) -> Load:
        """Return what loads a number that all runs share."""
        dtype, text = np.dtype(aval.dtype), self.text

        def load(entry: int, beyond: str | None) -> str:
            base = pointer if beyond is None else text.address(pointer, text.set(f"mul i64 {beyond}, {dtype.itemsize}"))
            return text.splat(dtype, text.address(base, entry * dtype.itemsize))

        return load

    def _slot(self, k: int, now: str) -> str:
        """Return the address of a leaf in scratch memory: what moves lies in the half that is current."""
        base = self.text.address(self._base, now) if k in self._moving else self._base
        return self.text.address(base, self._leaves[k].offset)
