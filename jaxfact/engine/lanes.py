"""Many runs at once: lanes that advance in blocks of steps, retire finished runs and draw the next ones.

A vmapped loop would run until its slowest lane ends. Here a fixed number of lanes is fed from a queue inside the
compiled loop, so that no run waits for another. What happens to a run depends on its seed, its point and the engine's
constants, never on its neighbours; so it has the same bits among ten runs or a million.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify
from jaxtyping import Array, Bool, Float, Int, UInt

from jaxfact.engine.loops import while_loop
from jaxfact.engine.outcomes import (
    CYCLE,
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
    judge,
    note,
    remember,
    step_of,
)
from jaxfact.engine.reading import Own, Reading
from jaxfact.engine.recording import Recording, blank, nothing_recorded, scattered, set_aside
from jaxfact.engine.steps import Steps
from jaxfact.numerics.draws import fold, key_from
from jaxfact.numerics.products import pinned
from jaxfact.numerics.trees import PyTree

_REFILL = 8  # lanes wait until one in eight has ended


class Finished(NamedTuple):
    """What is kept of every run of a tile; times are −1 where the level was not met.

    The period is that of a cycle, the gradient norm that of a stationary run; 0 and NaN elsewhere.
    """

    outcome: Int[Array, " run"]
    steps: Int[Array, " run"]
    period: Int[Array, " run"]
    hit: Int[Array, "run level"]
    loss: Float[Array, " run"]
    distance: Float[Array, " run"]
    misfit: Float[Array, " run"]
    imbalance: Float[Array, " run"]
    best: Float[Array, " run"]
    rose: Bool[Array, " run"]
    gradient: Float[Array, " run"]


class Found(NamedTuple):
    """The results of some runs, on the host: what is kept of each, its records at their steps, and those at its end.

    All arrays have the runs along their first axis; the records at steps have the steps along their second.
    """

    finished: Finished
    at_steps: dict[str, PyTree]
    last: dict[str, PyTree]

    def rows(self, rows: slice) -> "Found":
        """Return the results of some of the runs."""
        return jax.tree.map(lambda x: x[rows], self)

    @property
    def run_steps(self) -> int:
        """How many steps all the runs took together."""
        return int(np.sum(self.finished.steps, dtype=np.int64))

    @classmethod
    def joined(cls, parts: "Sequence[Found]") -> "Found":
        """Return the results of several blocks of runs, one after the other."""
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)


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


def one_run(reading: Reading, work: Work) -> Own:
    """Return the shapes of what one run of a tile owns."""
    return jax.eval_shape(partial(_start, reading), reading.shared, work, 0)


def _start(reading: Reading, shared: list[Array], work: Work, run: Int[Array, ""] | int) -> Own:
    """Begin one run of a tile; its key is fold_in(base, seed)."""
    key = fold(key_from(work.base), work.seeds[run])
    return reading.start(shared, key, jax.tree.map(lambda x: x[run], work.points))


class Engine:
    """The loop of one experiment under one set of rules, for tiles of any size; without `steps`, XLA takes them.

    On a CPU the loop over looks may be compiled as a `whole`.

    Every array of a `Lane` has the lanes along its last axis, which is innermost in memory: one vector instruction
    advances several runs.
    """

    def __init__(self, reading: Reading, rules: Rules, steps: Steps | None = None, *, whole: bool = False):
        self.reading: Reading = reading
        self.rules: Rules = rules
        self._taken = steps
        self._whole = whole and not rules.checked

    def empty(self, fresh: Lane, records: PyTree, *, runs: int, slots: int) -> Any:
        """Return a `Tile` that has not begun, on the host: idle lanes, and room for the results of all runs."""
        rules = self.rules
        lanes = jax.tree.map(lambda x: blank((*x.shape, rules.lanes), x.dtype), fresh)
        lanes = lanes._replace(run=np.full(rules.lanes, -1, np.int32))
        finished = jax.tree.map(lambda x: np.zeros((runs, *x.shape), x.dtype), _result(fresh, fresh.step, fresh.loss))
        recording = nothing_recorded(_recorded(fresh.own), records, runs, slots, rules.lanes)
        return Tile(lanes, np.zeros((), np.int32), finished, recording)  # pyright: ignore[reportArgumentType]

    def advance(self, shared: list[Array], work: Work, tile: Tile, blocks: Array) -> Tile:
        """Run at most `blocks` blocks of the tile; call again until it is finished."""

        def going(carry):
            done, tile = carry
            return (done < blocks) & ~is_finished(tile, work.count)

        def stretch(carry):
            done, tile = carry
            tile = self._refill(shared, work, tile)
            done, lanes = self._blocks(shared, work, tile.lanes, done, blocks, tile.next_run < work.count)
            return done, self._store(shared, work.limits, tile._replace(lanes=lanes))

        return lax.while_loop(going, stretch, (jnp.zeros((), jnp.int32), tile))[1]

    def _blocks(
        self, shared: list[Array], work: Work, lanes: Lane, done: Array, blocks: Array, more: Bool[Array, ""]
    ) -> tuple[Array, Lane]:
        """Advance all lanes until enough of them have ended to be worth a refill, or a record is due."""
        enough = jnp.where(more, max(1, self.rules.lanes // _REFILL), self.rules.lanes)

        def wanted(lanes, enough):
            ended = jnp.sum(lanes.outcome >= 0, dtype=jnp.int32)
            busy = jnp.any((lanes.run >= 0) & (lanes.outcome < 0))
            return busy & (ended < enough) & ~jnp.any(is_due(lanes))

        def going(carry, given):
            (done, lanes), (_, _, enough, blocks) = carry, given
            return (done < blocks) & (wanted(lanes, enough) | jnp.any(lanes.outcome == RETURNED))

        def block(carry, given):
            (done, lanes), (shared, work, enough, _) = carry, given
            # Runs that have returned are followed round together, when they would otherwise be stored.
            return done + 1, self._block(shared, work, lanes, ~wanted(lanes, enough))

        # With no lane busy there is nothing to do here: the tile is visited once more for waiting records.
        return while_loop(going, block, (done, lanes), (shared, work, enough, blocks), whole=self._whole)

    def _block(self, shared: list[Array], work: Work, lanes: Lane, circling: Bool[Array, ""]) -> Lane:
        """Take a block of steps and look at all runs; where some are fresh, take no step and look at those alone.

        Where runs that have returned are circling, they alone take one step: in the same loop as ever, because another
        one, of the same operations, may be compiled into other last bits.
        """
        look = jnp.any(is_fresh(lanes))
        own = self._steps(shared, lanes, jnp.where(circling, 1, jnp.where(look, 0, work.stride)))
        seen = self.seen(shared, work.limits, work.stride, lanes, own, look)
        return choose(circling, circle(lanes, own), seen) if self._finds_returns else seen

    def seen(
        self, shared: list[Array], limits: Limits, stride: Int[Array, ""], lanes: Lane, own: Own, look: Bool[Array, ""]
    ) -> Lane:
        """Look at the runs after a block of steps, or at the fresh ones alone; what becomes of each is its own affair.

        Nothing here depends on other lanes, or on how many there are along the last axis.
        """
        fresh = is_fresh(lanes)
        glance = jax.vmap(self.reading.glance, (None, -1), -1)(shared, own)
        moved = lanes._replace(
            own=own,
            step=jnp.where(fresh, 0, lanes.step + stride),
            first_energy=jnp.where(fresh, glance.energy, lanes.first_energy),
        )
        moved = note(self.rules, limits, moved, glance)
        moved = judge(self.rules, limits, moved._replace(rose=(moved.loss > lanes.loss) & ~fresh), glance)
        looked = jnp.where(look, fresh, lanes.outcome < 0)
        return choose(looked, remember(self.rules, limits, stride, moved), lanes)

    @property
    def _finds_returns(self) -> bool:
        """Whether a run may end because its state was met before."""
        return self.rules.stops and self.rules.periodic

    def one(self, shared: list[Array], work: Work) -> tuple[Lane, PyTree]:
        """Return a lane and its records, for their shapes."""
        own = _start(self.reading, shared, work, 0)
        glance = self.reading.glance(shared, own)
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
        return lane, self.reading.record(shared, own)

    def _refill(self, shared: list[Array], work: Work, tile: Tile) -> Tile:
        """Give idle lanes the next runs of the queue."""
        idle = tile.lanes.run < 0
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
                still=jnp.ones_like(lanes.still),
                best=jnp.full_like(lanes.best, jnp.inf),
            )
            return choose(fed, fresh, lanes)

        lanes = lax.cond(jnp.any(fed), draw, lambda lanes: lanes, tile.lanes)
        return tile._replace(lanes=lanes, next_run=tile.next_run + jnp.sum(fed, dtype=jnp.int32))

    def _steps(self, shared: list[Array], lanes: Lane, count: Int[Array, ""]) -> Own:
        """Advance every lane by some steps; idle lanes move too, unobserved."""
        if self._taken is not None:
            return self._taken(shared, lanes.own, lanes.step, count)

        def going(carry, given):
            return carry[0] < given[0]

        def step(carry, given):
            (index, own), (_, shared, began) = carry, given
            moved = jax.vmap(self.reading.advance, (None, -1, 0), -1)(shared, own, began + index)
            if self.rules.checked:
                self._check(shared, own, moved, lanes, began + index)
            return index + 1, pinned(moved)

        begun, given = (jnp.zeros_like(count), lanes.own), (count, shared, lanes.step)
        return while_loop(going, step, begun, given, whole=self._whole)[1]

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
        rows = jnp.where(ended, lanes.run, len(tile.finished.outcome))
        period = jnp.where(lanes.outcome == CYCLE, lanes.circled, 0)
        result = _result(lanes, period, self._slopes(shared, lanes))
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
    """Tell whether all runs of a tile have ended and all records are measured."""
    ended = ~jnp.any(tile.lanes.run >= 0) & (tile.next_run >= count)
    waiting = tile.recording.waiting
    return ended if waiting is None else ended & (waiting.count == 0)


def _recorded(own: Own) -> Own:
    """Return what records depend on."""
    return own._replace(state=None, noise_key=None)


def _result(lanes: Lane, period: Array, gradient: Array) -> Finished:
    """Return what is kept of runs."""
    return Finished(
        outcome=lanes.outcome,
        steps=lanes.step,
        period=period,
        hit=lanes.hit,
        loss=lanes.loss,
        distance=lanes.distance,
        misfit=lanes.misfit,
        imbalance=lanes.imbalance,
        best=lanes.best,
        rose=lanes.rose,
        gradient=gradient,
    )
