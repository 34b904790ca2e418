"""Many runs at once: lanes that advance in blocks of steps, retire finished runs and draw the next ones.

A vmapped loop would run until its slowest lane ends. Here a fixed number of lanes is fed from a queue inside the
compiled loop, so that no run waits for another. What happens to a run depends on its seed, its point and the engine's
constants, never on its neighbours; so its numbers are the same bits among ten runs or a million.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify
from jaxtyping import Array, Bool, Float, Int, PyTree

from jaxfact.experiment import Glance, Own, Program

OUTCOMES = ("budget", "converged", "fitted", "diverged", "cycle")
BUDGET, CONVERGED, FITTED, DIVERGED, CYCLE = range(len(OUTCOMES))

_EXPLOSION = 1e8
_SAME = 8
_STAY = 50


class Rules(NamedTuple):
    """When to look at a run, and when it ends; the engine's constants, recorded with the results.

    `levels` are distances, the last being the tolerance where `stops` is true; `record_steps` are multiples of
    `check_every`; `periodic` says that a state met twice repeats for ever.
    """

    max_steps: int
    check_every: int
    levels: tuple[float, ...]
    stops: bool
    record_steps: tuple[int, ...]
    periodic: bool
    checked: bool
    lanes: int


class Lane(NamedTuple):
    """One run in flight: what it owns, and what is remembered of it. `run` is −1 where the lane is idle."""

    run: Int[Array, ""]
    step: Int[Array, ""]
    own: Own
    mark: tuple[PyTree, Int[Array, ""]]
    hit: Int[Array, " level"]
    arrived: Int[Array, ""]
    first_energy: Float[Array, ""]
    loss: Float[Array, ""]
    distance: Float[Array, ""]
    imbalance: Float[Array, ""]
    best: Float[Array, ""]
    rose: Bool[Array, ""]


class Finished(NamedTuple):
    """What is kept of every run of a tile; times are −1 where the level was not met."""

    outcome: Int[Array, " run"]
    steps: Int[Array, " run"]
    period: Int[Array, " run"]
    hit: Int[Array, "run level"]
    loss: Float[Array, " run"]
    distance: Float[Array, " run"]
    imbalance: Float[Array, " run"]
    best: Float[Array, " run"]
    rose: Bool[Array, " run"]


class Tile(NamedTuple):
    """The loop's state: lanes, the queue's head, results, and records at their steps and at the end of each run."""

    lanes: Lane
    next_run: Int[Array, ""]
    finished: Finished
    records: PyTree
    last: PyTree


class Work(NamedTuple):
    """The runs of a tile: their keys and points, of which the first `count` are wanted."""

    keys: Array
    points: Mapping[str, Array]
    count: Int[Array, ""]


def lanes_per_block(program: Program, work: Work) -> int:
    """Return how many lanes advance together: about 32,768 numbers of factors and state, from 8 to 128 lanes.

    Chosen from shapes only, never from the number of runs, because the last bits may depend on it.
    """
    own = jax.eval_shape(program.start, program.shared, work.keys[0], jax.tree.map(lambda x: x[0], work.points))
    size = sum(leaf.size for leaf in jax.tree.leaves((own.factors, own.state)))
    return int(np.clip(32768 // size // 8 * 8, 8, 128))


class Engine:
    """The compiled loop of one program under one set of rules, for tiles of a fixed size."""

    def __init__(self, program: Program, rules: Rules, tile: int):
        self.program, self.rules, self.tile = program, rules, tile
        self._levels = jnp.asarray(rules.levels)
        self._record_steps = jnp.asarray(rules.record_steps, jnp.int32)

    def empty(self, shared: list[Array], work: Work) -> Tile:
        """Return a tile that has not begun: idle lanes and blank results."""
        rules, tile = self.rules, self.tile
        fresh, records = jax.eval_shape(lambda s, w: self._begin(s, w, jnp.zeros((), jnp.int32)), shared, work)
        lanes = jax.tree.map(lambda x: _blank((rules.lanes, *x.shape), x.dtype), fresh)
        lanes = lanes._replace(run=jnp.full(rules.lanes, -1, jnp.int32))
        number = fresh.loss.dtype
        finished = Finished(
            outcome=jnp.zeros(tile, jnp.int32),
            steps=jnp.zeros(tile, jnp.int32),
            period=jnp.zeros(tile, jnp.int32),
            hit=jnp.full((tile, len(rules.levels)), -1, jnp.int32),
            loss=jnp.zeros(tile, number),
            distance=jnp.zeros(tile, number),
            imbalance=jnp.zeros(tile, number),
            best=jnp.zeros(tile, number),
            rose=jnp.zeros(tile, bool),
        )
        spread = (tile, len(rules.record_steps))
        blank = jax.tree.map(lambda x: jnp.zeros((*spread, *x.shape), x.dtype), records)
        last = jax.tree.map(lambda x: jnp.zeros((tile, *x.shape), x.dtype), records)
        return Tile(lanes, jnp.zeros((), jnp.int32), finished, blank, last)

    def advance(self, shared: list[Array], work: Work, tile: Tile, blocks: Array) -> Tile:
        """Run at most `blocks` blocks of the tile; call again until no lane is busy and the queue is empty."""

        def going(carry):
            done, tile = carry
            return (done < blocks) & (jnp.any(tile.lanes.run >= 0) | (tile.next_run < work.count))

        def block(carry):
            done, tile = carry
            tile = self._refill(shared, work, tile)
            before = tile.lanes
            lanes = self._step_block(shared, before)
            glances = jax.vmap(self.program.glance, (None, 0))(shared, lanes.own)
            lanes = jax.vmap(self._note)(lanes, glances)
            outcome = jax.vmap(self._judge)(lanes, glances, before.loss)
            lanes = lanes._replace(rose=lanes.loss > before.loss)
            period = self._periods(shared, lanes, outcome == CYCLE)
            tile = self._store(shared, tile._replace(lanes=lanes), outcome, period)
            lanes = jax.vmap(self._remember)(tile.lanes)
            return done + 1, tile._replace(lanes=lanes)

        return lax.while_loop(going, block, (jnp.zeros((), jnp.int32), tile))[1]

    def _begin(self, shared: list[Array], work: Work, run: Int[Array, ""]) -> tuple[Lane, PyTree]:
        """Start one run and look at it before its first step."""
        point = jax.tree.map(lambda x: x[run], work.points)
        own = self.program.start(shared, work.keys[run], point)
        glance = self.program.glance(shared, own)
        zero, never = jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32)
        lane = Lane(
            run=run,
            step=zero,
            own=own,
            mark=((own.factors, own.state), zero),
            hit=jnp.full(len(self.rules.levels), -1, jnp.int32),
            arrived=never,
            first_energy=glance.energy,
            loss=glance.loss,
            distance=glance.distance,
            imbalance=glance.imbalance,
            best=glance.distance,
            rose=jnp.zeros((), bool),
        )
        records = self.program.record(shared, own) if self.rules.record_steps else {}
        return self._note(lane, glance), records

    def _refill(self, shared: list[Array], work: Work, tile: Tile) -> Tile:
        """Give idle lanes the next runs of the queue."""
        idle = tile.lanes.run < 0
        claimed = tile.next_run + jnp.cumsum(idle) - 1
        fed = idle & (claimed < work.count)

        def draw(lanes):
            run = jnp.minimum(claimed, self.tile - 1).astype(jnp.int32)
            fresh, records = jax.vmap(self._begin, (None, None, 0))(shared, work, run)
            return _choose(fed, fresh, lanes), records

        def keep(lanes):
            records = jax.tree.map(lambda x: jnp.zeros((self.rules.lanes, *x.shape[2:]), x.dtype), tile.records)
            return lanes, records

        lanes, records = lax.cond(jnp.any(fed), draw, keep, tile.lanes)
        stored = tile.records
        if 0 in self.rules.record_steps:
            rows = jnp.where(fed, lanes.run, self.tile)
            stored = jax.tree.map(lambda all_, new: all_.at[rows, 0].set(new, mode="drop"), stored, records)
        return tile._replace(lanes=lanes, next_run=tile.next_run + jnp.sum(fed, dtype=jnp.int32), records=stored)

    def _step_block(self, shared: list[Array], lanes: Lane) -> Lane:
        """Advance every lane by `check_every` steps; idle lanes move too, and nobody looks."""

        def step(index, own):
            moved = jax.vmap(self.program.advance, (None, 0, 0))(shared, own, lanes.step + index)
            if self.rules.checked:
                self._check(shared, own, moved, lanes, lanes.step + index)
            return moved

        own = lax.fori_loop(0, self.rules.check_every, step, lanes.own)
        return lanes._replace(own=own, step=lanes.step + self.rules.check_every)

    def _check(self, shared: list[Array], before: Own, after: Own, lanes: Lane, steps: Array) -> None:
        """Fail, naming run, step and quantity, where an invariant's defect exceeds its bound."""
        defects = jax.vmap(self.program.defects, (None, 0, 0))(shared, before, after)
        bounded = after.factors.energy <= _EXPLOSION * jnp.maximum(1, lanes.first_energy)
        for name, (value, bound) in zip(self.program.quantities, defects, strict=True):
            broken = (lanes.run >= 0) & bounded & ~(value <= bound)
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

    def _note(self, lane: Lane, glance: Glance) -> Lane:
        """Remember what a run has reached."""
        met = glance.distance <= self._levels.astype(glance.distance.dtype)
        at_goal = met[-1] & (lane.arrived < 0)
        return lane._replace(
            hit=jnp.where((lane.hit < 0) & met, lane.step, lane.hit),
            arrived=jnp.where(at_goal, lane.step, lane.arrived),
            loss=glance.loss,
            distance=glance.distance,
            imbalance=glance.imbalance,
            best=jnp.fmin(lane.best, glance.distance),
        )

    def _judge(self, lane: Lane, glance: Glance, previous_loss: Array) -> Int[Array, ""]:
        """Return how a run ends here, or −1 where it goes on; no rule looks at how flat the loss is."""
        rules = self.rules
        finite = jnp.isfinite(glance.energy) & jnp.isfinite(glance.loss)
        diverged = ~finite | (glance.energy > _EXPLOSION * jnp.maximum(1, lane.first_energy))
        due = (lane.arrived >= 0) & (lane.step >= lane.arrived + _stay(lane.arrived))
        converged = rules.stops & due & self._stayed(glance.distance)
        repeats = rules.stops & rules.periodic & (lane.arrived < 0) & _same(lane.own, lane.mark[0])
        exhausted = lane.step >= rules.max_steps
        outcome = jnp.where(exhausted, BUDGET, -1)
        outcome = jnp.where(repeats, CYCLE, outcome)
        outcome = jnp.where(converged, CONVERGED, outcome)
        return jnp.where((lane.run >= 0), jnp.where(diverged, DIVERGED, outcome), -1).astype(jnp.int32)

    def _stayed(self, distance: Array) -> Array:
        return distance <= jnp.asarray(10 * self.rules.levels[-1], distance.dtype)

    def _remember(self, lane: Lane) -> Lane:
        """Take a new snapshot at powers of two of the block count (Brent), and forget an arrival that did not last."""
        block = lane.step // self.rules.check_every
        power = (block & (block - 1)) == 0
        state = (lane.own.factors, lane.own.state)
        mark = _choose(power, (state, lane.step), lane.mark)
        due = (lane.arrived >= 0) & (lane.step >= lane.arrived + _stay(lane.arrived))
        left = due & ~self._stayed(lane.distance)
        return lane._replace(mark=mark, arrived=jnp.where(left, -1, lane.arrived))

    def _periods(self, shared: list[Array], lanes: Lane, found: Bool[Array, " lane"]) -> Int[Array, " lane"]:
        """Return the period of the runs found periodic, by stepping each until it meets itself again."""
        nothing = jnp.zeros(self.rules.lanes, jnp.int32)
        if not (self.rules.stops and self.rules.periodic):
            return nothing
        longest = lanes.step - lanes.mark[1]

        def going(carry):
            count, _, period = carry
            return jnp.any(found & (period == 0)) & (count < jnp.max(jnp.where(found, longest, 0)))

        def step(carry):
            count, own, period = carry
            own = jax.vmap(self.program.advance, (None, 0, 0))(shared, own, lanes.step + count)
            again = jax.vmap(lambda new, old: _same(new, (old.factors, old.state)))(own, lanes.own)
            return count + 1, own, jnp.where((period == 0) & again, count + 1, period)

        _, _, period = lax.while_loop(going, step, (jnp.zeros((), jnp.int32), lanes.own, nothing))
        return jnp.where(found, jnp.where(period > 0, period, longest), 0)

    def _store(self, shared: list[Array], tile: Tile, outcome: Array, period: Array) -> Tile:
        """Write the records that are due and the results of finished runs, and free their lanes."""
        lanes, ended = tile.lanes, outcome >= 0
        rows = jnp.where(ended, lanes.run, self.tile)
        result = Finished(outcome, lanes.step, period, *(getattr(lanes, name) for name in Finished._fields[3:]))
        finished = jax.tree.map(lambda all_, new: all_.at[rows].set(new, mode="drop"), tile.finished, result)
        tile = tile._replace(finished=finished, lanes=lanes._replace(run=jnp.where(ended, -1, lanes.run)))
        if not self.rules.record_steps:
            return tile
        slot = jnp.searchsorted(self._record_steps, lanes.step).astype(jnp.int32)
        slot = jnp.minimum(slot, len(self.rules.record_steps) - 1)
        due = (lanes.run >= 0) & (self._record_steps[slot] == lanes.step)

        def measure(own):
            return jax.vmap(self.program.record, (None, 0))(shared, own)

        def skip(own):
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure, own))

        records = lax.cond(jnp.any(due | ended), measure, skip, lanes.own)
        at = jnp.where(due, lanes.run, self.tile)
        return tile._replace(
            records=jax.tree.map(lambda all_, new: all_.at[at, slot].set(new, mode="drop"), tile.records, records),
            last=jax.tree.map(lambda all_, new: all_.at[rows].set(new, mode="drop"), tile.last, records),
        )


def _stay(arrived: Array) -> Array:
    """Return how long a run must stay near its goal after it first arrived there."""
    return jnp.maximum(_STAY, (arrived + 9) // 10)


def _same(own: Own, mark: PyTree) -> Bool[Array, ""]:
    """Tell whether factors and method state equal the mark's, entry by entry within 8 machine epsilons."""

    def equal(new, old):
        if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
            return jnp.all(jax.random.key_data(new) == jax.random.key_data(old))
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return jnp.all(new == old)
        return jnp.all(jnp.abs(new - old) <= _SAME * jnp.finfo(new.dtype).eps * jnp.abs(new))

    leaves = jax.tree.leaves(jax.tree.map(equal, (own.factors, own.state), mark))
    return jnp.all(jnp.stack(leaves))


def _choose(condition: Array, new: PyTree, old: PyTree) -> PyTree:
    """Take the new value of every leaf where the condition holds, lane by lane."""

    def choose(x, y):
        return jnp.where(jnp.reshape(condition, condition.shape + (1,) * (x.ndim - condition.ndim)), x, y)

    return jax.tree.map(choose, new, old)


def _blank(shape: Sequence[int], dtype: jnp.dtype) -> Array:
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0, impl="threefry2x32"), tuple(shape))
    return jnp.zeros(shape, dtype)
