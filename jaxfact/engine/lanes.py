"""Many runs at once: lanes that advance in blocks of steps, retire finished runs and draw the next ones.

A vmapped loop would run until its slowest lane ends. Here a fixed number of lanes is fed from a queue inside the
compiled loop, so that no run waits for another. What happens to a run depends on its seed, its point and the engine's
constants, never on its neighbours; so it has the same bits among ten runs or a million.
"""

from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import core, lax
from jax.experimental import checkify
from jaxtyping import Array, Bool, Float, Int, UInt

from jaxfact.engine.devices import working_devices
from jaxfact.engine.loops import while_loop
from jaxfact.engine.outcomes import (
    EXPLOSION,
    RETURNED,
    STATIONARY,
    Lane,
    Limits,
    Rules,
    choose,
    circle,
    is_due,
    is_fresh,
    period_of,
    seen,
    step_of,
)
from jaxfact.engine.reading import Own, Reading
from jaxfact.engine.recording import (
    Finished,
    Found,
    Recording,
    blank,
    nothing_recorded,
    result_of,
    scattered,
    set_aside,
)
from jaxfact.engine.steps import Way, way_of
from jaxfact.numerics.draws import fold, key_from
from jaxfact.numerics.products import pinned
from jaxfact.numerics.trees import PyTree

_REFILL = 8  # lanes wait until one in eight has ended


class Tile(NamedTuple):
    """The loop's state: lanes, the queue's head, results and records."""

    lanes: Lane
    next_run: Int[Array, ""]
    finished: Finished
    recording: Recording

    def found(self, count: int, limits: Limits) -> Found:
        """Return the results of the first `count` runs at the wanted levels and steps, on the host."""
        levels, steps = limits.counts
        held = Found(self.finished, self.recording.at_steps, self.recording.last)
        finished, at_steps, last = jax.tree.map(lambda x: np.asarray(x)[:count], held)
        return Found(
            finished._replace(hit=finished.hit[:, :levels]), jax.tree.map(lambda x: x[:, :steps], at_steps), last
        )


class Work(NamedTuple):
    """The runs of a tile: a base key's words, seeds and points, of which the first `count` are wanted.

    `stride` is the number of steps between two looks at a run. It is data, so that a run can be followed step by step
    in the program that made it, with its bits.
    """

    base: UInt[Array, "2"]
    seeds: UInt[Array, " run"]
    points: Mapping[str, Array]
    count: Int[Array, ""]
    stride: Int[Array, ""]
    limits: Limits


def _start(reading: Reading, shared: list[Array], work: Work, run: Int[Array, ""] | int) -> Own:
    """Begin one run of a tile; its key is fold_in(base, seed)."""
    key = fold(key_from(work.base), work.seeds[run])
    return reading.start(shared, key, jax.tree.map(lambda x: x[run], work.points))


def _begun(reading: Reading, shared: list[Array], work: Work) -> tuple[Lane, PyTree]:
    """Return a lane and its records, for their shapes."""
    own = _start(reading, shared, work, 0)
    glance = reading.glance(shared, own)
    never = jnp.full((), -1, jnp.int32)
    lane = Lane(
        run=never,
        step=never,
        due=never,
        slot=never,
        outcome=never,
        own=own,
        mark=((own.factors, own.state), never),
        circled=never,
        back=never,
        still=never > 0,
        hit=jnp.full(work.limits.levels.shape, -1, jnp.int32),
        arrived=never,
        fitted=never,
        first_energy=glance.energy,
        loss=glance.loss,
        distance=glance.distance,
        misfit=glance.misfit,
        imbalance=glance.imbalance,
        best=glance.distance,
        rose=never > 0,
    )
    return lane, reading.record(shared, own)


class Engine:
    """The loop of one experiment under one set of rules, whose runs advance in some way; `example` is for its shapes.

    Every array of a `Lane` has the lanes along its last axis, which is innermost in memory: one vector instruction
    advances several runs.
    """

    def __init__(self, reading: Reading, rules: Rules, example: Work, way: Way | None = None):
        self.reading: Reading = reading
        self.rules: Rules = rules
        self._lane, self._records = jax.eval_shape(partial(_begun, reading), reading.shared, example)
        self._slots = len(example.limits.record_steps)
        self.way: Way = way or way_of(reading, rules, self._lane, example.limits)
        self.is_whole: bool = working_devices(1)[0].platform == "cpu" and not rules.checked

    def in_pieces(self) -> "Engine":
        """Return the same engine, whose loops XLA need not compile as one function."""
        made = copy(self)
        made.is_whole = False
        return made

    @property
    def lane(self) -> Lane:
        """The shapes of one lane."""
        return self._lane

    @property
    def own(self) -> Own:
        """The shapes of what one run owns."""
        return self._lane.own

    @property
    def bytes_of_one(self) -> int:
        """The memory that the results of one run take in a tile."""
        tile = self.empty(1)
        return sum(np.asarray(leaf[:1]).nbytes for leaf in jax.tree.leaves((tile.finished, tile.recording[:2])))

    def empty(self, runs: int) -> Any:
        """Return a `Tile` of some runs that has not begun, on the host: idle lanes, and blank results.

        These have a row more, to which goes what is of no run: where such rows lay beyond the end, XLA's kernels on a
        CPU lost the last one of a full tile.
        """
        fresh, lanes = self._lane, self.way.lanes
        none = np.full(lanes, -1, np.int32)
        idle = jax.tree.map(lambda x: blank((*x.shape, lanes), x.dtype), fresh)._replace(run=none)
        kept = result_of(fresh, fresh.step, fresh.loss)
        finished = jax.tree.map(lambda x: np.zeros((runs + 1, *x.shape), x.dtype), kept)
        waiting = 0 if self._records_natively else lanes
        recording = nothing_recorded(_recorded(fresh.own), self._records, runs, self._slots, waiting)
        return Tile(idle, np.zeros((), np.int32), finished, recording)  # pyright: ignore[reportArgumentType]

    @property
    def code(self) -> UInt[np.ndarray, "2"]:
        """The address of what advances lanes in vectors: data, so that methods share a program; 0 elsewhere."""
        return np.zeros(2, np.uint32) if self.way.blocks is None else self.way.blocks.code

    @property
    def _records_natively(self) -> bool:
        return self.way.blocks is not None and not self.way.blocks.unrecorded

    def advance(self, code: Array, shared: list[Array], work: Work, tile: Tile, blocks: Array) -> Tile:
        """Run at most `blocks` blocks of the tile by the engine's `code`; call again until it is finished."""

        def going(carry):
            done, tile = carry
            return (done < blocks) & ~is_finished(tile, work.count)

        def stretch(carry):
            done, tile = carry
            tile = self._refill(shared, work, tile)
            done, tile = self._blocks(code, shared, work, tile, done, blocks)
            return done, self._store(shared, work.limits, tile)

        return lax.while_loop(going, stretch, (jnp.zeros((), jnp.int32), tile))[1]

    def _blocks(
        self, code: Array, shared: list[Array], work: Work, tile: Tile, done: Array, blocks: Array
    ) -> tuple[Array, Tile]:
        """Advance all lanes until enough of them have ended to be worth a refill, or a record is due here."""
        lanes, more = tile.lanes, tile.next_run < work.count
        if (native := self.way.blocks) is not None:
            few = native.runs if work.limits.record_steps.size else native.runs // _REFILL
            enough = jnp.where(more, few, native.runs).astype(jnp.int32)
            recording, uniform = tile.recording, (work.stride, work.limits)
            records = (recording.at_steps if self._slots else (), recording.last) if self._records_natively else ()
            lanes, records, count = native(code, shared, uniform, lanes, records, blocks - done, enough)
            if self._records_natively:
                at_steps, last = records
                recording = Recording(at_steps if self._slots else recording.at_steps, last, None)
            done, lanes = self._followed(shared, done + count, lanes, blocks)
            return done, tile._replace(lanes=lanes, recording=recording)
        enough = jnp.where(more, max(1, self.way.lanes // _REFILL), self.way.lanes)

        def wanted(lanes, enough):
            ended = jnp.sum(lanes.outcome >= 0, dtype=jnp.int32)
            busy = jnp.any((lanes.run >= 0) & (lanes.outcome < 0))
            return busy & (ended < enough) & ~jnp.any(is_due(lanes))

        def going(carry, given):
            (done, lanes), (*_, enough, blocks) = carry, given
            return (done < blocks) & (wanted(lanes, enough) | jnp.any(lanes.outcome == RETURNED))

        def block(carry, given):
            (done, lanes), (shared, stride, limits, enough, _) = carry, given
            # Runs that have returned are followed round together, when they would otherwise be stored.
            return done + 1, self._block(shared, stride, limits, lanes, ~wanted(lanes, enough))

        # With no lane busy there is nothing to do here: the tile is visited once more for waiting records.
        given = shared, work.stride, work.limits, enough, blocks
        done, lanes = while_loop(going, block, (done, lanes), given, whole=self.is_whole)
        return done, tile._replace(lanes=lanes)

    def _followed(self, shared: list[Array], done: Array, lanes: Lane, blocks: Array) -> tuple[Array, Lane]:
        """Follow runs that have returned round their orbits, where what advances lanes leaves that to do."""
        stepped = None if self.way.blocks is None else self.way.blocks.stepped
        if stepped is None or not self._finds_returns:
            return done, lanes

        def going(carry):
            return (carry[0] < blocks) & jnp.any(carry[1].outcome == RETURNED)

        def once(carry):
            done, lanes = carry
            return done + 1, circle(lanes, stepped(shared, lanes))

        return lax.while_loop(going, once, (done, lanes))

    def _block(
        self, shared: list[Array], stride: Int[Array, ""], limits: Limits, lanes: Lane, circling: Bool[Array, ""]
    ) -> Lane:
        """Take a block of steps and look at all runs; where some are fresh, take no step and look at those alone.

        Where runs that have returned are circling, they alone take one step: in the same loop as ever, because another
        one, of the same operations, may be compiled into other last bits.
        """
        look = jnp.any(is_fresh(lanes))
        own = self._steps(shared, lanes, jnp.where(circling, 1, jnp.where(look, 0, stride)))
        glance = jax.vmap(self.reading.glance, (None, -1), -1)(shared, own)
        moved, marks = seen(self.rules, limits, stride, lanes._replace(own=own), glance, look)
        looked = jnp.where(look, is_fresh(lanes), lanes.outcome < 0)
        mark = choose(marks, (own.factors, own.state), lanes.mark[0])
        moved = moved._replace(own=choose(looked, own, lanes.own), mark=(mark, moved.mark[1]))
        return choose(circling, circle(lanes, own), moved) if self._finds_returns else moved

    @property
    def _finds_returns(self) -> bool:
        """Whether a run may end because its state was met before."""
        return self.rules.stops and self.rules.periodic

    def _refill(self, shared: list[Array], work: Work, tile: Tile) -> Tile:
        """Give idle lanes the next runs of the queue."""
        idle = tile.lanes.run < 0
        if self.way.blocks is not None and work.limits.record_steps.size:
            # Runs of a vector begin together, so that their records are due together.
            runs = self.way.blocks.runs
            idle = jnp.repeat(jnp.all(idle.reshape(-1, runs), axis=1), runs, total_repeat_length=len(idle))
        claimed = tile.next_run + jnp.cumsum(idle) - 1
        fed = idle & (claimed < work.count)

        run = jnp.minimum(claimed, len(work.seeds) - 1).astype(jnp.int32)

        def draw(lanes):
            own = jax.vmap(partial(_start, self.reading), (None, None, 0), -1)(shared, work, run)
            fresh = lanes._replace(
                run=run,
                step=jnp.full_like(run, -1),
                due=jnp.full_like(run, step_of(work.limits, 0)),
                slot=jnp.zeros_like(run),
                outcome=jnp.full_like(run, -1),
                own=own,
                hit=jnp.full_like(lanes.hit, -1),
                arrived=jnp.full_like(run, -1),
                fitted=jnp.full_like(run, -1),
                circled=jnp.zeros_like(run),
                back=jnp.zeros_like(run),
                still=jnp.ones_like(lanes.still),
                best=jnp.full_like(lanes.best, jnp.inf),
            )
            return choose(fed, fresh, lanes)

        lanes = lax.cond(jnp.any(fed), draw, lambda lanes: lanes, tile.lanes)
        return tile._replace(lanes=lanes, next_run=tile.next_run + jnp.sum(fed, dtype=jnp.int32))

    def _steps(self, shared: list[Array], lanes: Lane, count: Int[Array, ""]) -> Own:
        """Advance every lane by some steps; idle lanes move too, unobserved."""
        if self.way.steps is not None:
            return self.way.steps(shared, lanes.own, lanes.step, count)

        def going(carry, given):
            return carry[0] < given[0]

        def step(carry, given):
            (index, own), (_, shared, began) = carry, given
            moved = jax.vmap(self.reading.advance, (None, -1, 0), -1)(shared, own, began + index)
            if self.rules.checked:
                self._check(shared, own, moved, lanes, began + index)
            return index + 1, pinned(moved)

        begun, given = (jnp.zeros_like(count), lanes.own), (count, shared, lanes.step)
        return while_loop(going, step, begun, given, whole=self.is_whole)[1]

    def _check(self, shared: list[Array], before: Own, after: Own, lanes: Lane, steps: Array) -> None:
        """Fail, naming run, step and quantity, where an invariant's defect exceeds its bound."""
        defects = jax.vmap(self.reading.defects, (None, -1, -1), -1)(shared, before, after)
        energy = sum(jnp.sum(x**2, axis=(0, 1)) for x in after.factors)
        watched = (lanes.run >= 0) & (lanes.outcome < 0) & (energy <= EXPLOSION * jnp.maximum(1, lanes.first_energy))
        for name, defect in zip(self.reading.checks, defects, strict=True):
            if defect is None:
                continue
            value, bound = defect
            broken = watched & ~(value <= bound)
            worst = jnp.argmax(broken)
            checkify.check(
                ~jnp.any(broken),
                f"invariant {name} is broken in run {{run}} of its tile at step {{step}}: "
                "defect {value}, bound {bound}",
                run=lanes.run[worst],
                step=steps[worst],
                value=value[worst],
                bound=bound[worst],
            )

    def _slopes(self, shared: list[Array], lanes: Lane) -> Float[Array, " lane"]:
        """Return the gradient norms of stationary runs, NaN for the others."""
        unknown = jnp.full_like(lanes.loss, jnp.nan)
        if not self._finds_returns:
            return unknown
        settled = lanes.outcome == STATIONARY
        slopes = jax.vmap(self.reading.slope, (None, -1), -1)
        found = lax.cond(jnp.any(settled), lambda own: slopes(shared, own), lambda own: unknown, lanes.own)
        return jnp.where(settled, found, jnp.nan)

    def _store(self, shared: list[Array], limits: Limits, tile: Tile) -> Tile:
        """Write the records that are due and the results of finished runs, and free their lanes."""
        lanes, ended = tile.lanes, (tile.lanes.outcome >= 0) & (tile.lanes.outcome != RETURNED)
        rows = jnp.where(ended, lanes.run, len(tile.finished.outcome) - 1)
        result = result_of(lanes, period_of(lanes), self._slopes(shared, lanes))
        due = is_due(lanes)
        slot = jnp.where(due, lanes.slot + 1, lanes.slot)
        free = lanes._replace(
            run=jnp.where(ended, -1, lanes.run),
            outcome=jnp.where(ended, -1, lanes.outcome),
            due=jnp.where(due, step_of(limits, slot), lanes.due),
            slot=slot,
        )
        measure, own = partial(self._measure, shared), _recorded(lanes.own)
        return tile._replace(
            finished=scattered(tile.finished, result, rows),
            lanes=free,
            recording=set_aside(measure, tile.recording, own, due, ended, lanes.run, lanes.slot),
        )

    def _measure(self, shared: list[Array], own: Own) -> PyTree:
        return jax.vmap(self.reading.record, (None, -1), -1)(shared, own)


def is_finished(tile: Tile, count: Int[Array, ""] | int) -> Bool[Array, ""]:
    """Tell whether all runs of a tile have ended and all records are measured; between calls without compiling."""
    waiting = tile.recording.waiting
    looked_at = tile.lanes.run, tile.next_run, 0 if waiting is None else waiting.count
    run, next_run, unmeasured = looked_at if isinstance(tile.next_run, core.Tracer) else jax.device_get(looked_at)
    return ~(run >= 0).any() & (next_run >= count) & (unmeasured == 0)


def _recorded(own: Own) -> Own:
    """Return what records depend on."""
    return own._replace(state=None, noise_key=None)
