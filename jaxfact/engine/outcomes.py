"""How runs end: what is remembered of each, and the rules by which it has converged, fitted, settled or diverged."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxfact.engine.levels import ladder
from jaxfact.engine.reading import Glance, Own
from jaxfact.numerics.trees import PyTree

OUTCOMES = ("budget", "converged", "fitted", "diverged", "cycle", "stationary")
BUDGET, CONVERGED, FITTED, DIVERGED, CYCLE, STATIONARY = range(len(OUTCOMES))
RETURNED = len(OUTCOMES)
"""Of a run whose state was met before, until it has been followed once round its orbit: a cycle, or stationary."""

EXPLOSION = 1e8
_POINT = 64
"""In machine epsilons of a factor's norm: how far apart the states of an orbit may lie that counts as one point."""
_STAY = 50

NEVER = 2**31 - 1
"""A step that no run is at, unless it is the last that can be counted."""

_LEVELS, _SLOTS = 16, 512


class Limits(NamedTuple):
    """When runs end, are timed and recorded, as data of the program: with other numbers, nothing is compiled again.

    `most` is the budget of steps, `goal` the distance at which a run may end and `near` the one below which it must
    stay. Beyond the last of the levels there are some that no distance meets, beyond the last step to be recorded some
    that no run reaches: their numbers shape arrays, and are rounded up.
    """

    most: Int[Array, ""]
    levels: Float[Array, " level"]
    goal: Float[Array, ""]
    near: Float[Array, ""]
    record_steps: Int[Array, " slot"]

    @property
    def counts(self) -> tuple[int, int]:
        """How many levels and recorded steps are wanted; on the host."""
        return int(np.sum(self.levels >= 0)), int(np.sum(self.record_steps < NEVER))


class Plan(NamedTuple):
    """What is wanted of a sweep's runs: when to look at one, and when it ends; recorded with the results.

    With `tolerance`, a distance, a run may end before `max_steps` other than by divergence; None runs every run to its
    end. `record_steps` are multiples of `check_every`. `chosen` are the levels that the user wants, none for the usual
    ones.
    """

    max_steps: int
    check_every: int
    tolerance: float | None
    record_steps: tuple[int, ...]
    chosen: tuple[float, ...] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        """The distances that runs are timed to, the last being the tolerance where there is one."""
        return ladder(self.tolerance, self.chosen)

    def limits(self, dtype: Any) -> Limits:
        """Return the limits, on the host; distances have this dtype."""
        levels, steps = np.asarray(self.levels), np.asarray(self.record_steps, np.int32)
        unmet = np.full(-len(levels) % _LEVELS, -1.0)
        never = np.full(_slots(len(steps)) - len(steps), NEVER, np.int32)
        whole = np.asarray(self.max_steps, np.int32), np.concatenate([steps, never])
        numbers = np.concatenate([levels, unmet]), levels[-1], 10 * levels[-1]
        distances = [np.asarray(number, dtype) for number in numbers]
        return Limits(whole[0], *distances, whole[1])  # pyright: ignore[reportArgumentType, reportCallIssue]


def _slots(count: int) -> int:
    """Return room for so many recorded steps: a power of two from 16 to 512, then multiples of 512; none for none."""
    if count > _SLOTS:
        return -(-count // _SLOTS) * _SLOTS
    return max(16, 1 << (count - 1).bit_length()) if count else 0


class Rules(NamedTuple):
    """What decides how runs end, and shapes the program: the engine's constants.

    `periodic` says that a state met twice repeats for ever, `misfits` that the data may be fitted where the truth is
    not found, `stops` that a run may end before its budget other than by divergence, `checked` that every step is.
    """

    periodic: bool
    misfits: bool
    checked: bool
    stops: bool


class Lane(NamedTuple):
    """One run in flight: what it owns, and what is remembered of it.

    `run` is −1 where the lane is idle, `outcome` −1 while the run goes on, `step` −1 before its first look. The run is
    next recorded at step `due`, which is number `slot` of those to be recorded. Of a run that has returned to its mark,
    `circled` counts the steps taken round the orbit since, `back` is the first of them that came back within rounding,
    0 before, and `still` tells whether it has stayed within rounding of one point.
    """

    run: Int[Array, ""]
    step: Int[Array, ""]
    due: Int[Array, ""]
    slot: Int[Array, ""]
    outcome: Int[Array, ""]
    own: Own
    mark: tuple[PyTree, Int[Array, ""]]
    circled: Int[Array, ""]
    back: Int[Array, ""]
    still: Bool[Array, ""]
    hit: Int[Array, " level"]
    arrived: Int[Array, ""]
    fitted: Int[Array, ""]
    first_energy: Float[Array, ""]
    loss: Float[Array, ""]
    distance: Float[Array, ""]
    misfit: Float[Array, ""]
    imbalance: Float[Array, ""]
    best: Float[Array, ""]
    rose: Bool[Array, ""]


def seen(
    rules: Rules, limits: Limits, stride: Int[Array, ""], lanes: Lane, glance: Glance, look: Bool[Array, ""]
) -> tuple[Lane, Bool[Array, " lane"]]:
    """Look at the runs after a block of steps, or at the fresh ones alone, and say whose state is to be marked.

    What becomes of a run is its own affair: nothing here depends on other lanes.
    """
    fresh = is_fresh(lanes)
    moved = lanes._replace(
        step=jnp.where(fresh, 0, lanes.step + stride),
        first_energy=jnp.where(fresh, glance.energy, lanes.first_energy),
    )
    moved = note(rules, limits, moved, glance)
    moved = judge(rules, limits, moved._replace(rose=(moved.loss > lanes.loss) & ~fresh), glance)
    moved, marks = remember(rules, limits, stride, moved)
    looked = jnp.where(look, fresh, lanes.outcome < 0)
    return choose(looked, moved, lanes), looked & marks


def step_of(limits: Limits, slot: Int[Array, " lane"] | int) -> Int[Array, " lane"]:
    """Return the step that is recorded as number `slot`, or `NEVER` where there is none."""
    if not limits.record_steps.size:
        return jnp.full_like(slot, NEVER)
    return jnp.take(limits.record_steps, slot, mode="fill", fill_value=NEVER)


def following(limits: Limits, step: Int[Array, ""]) -> Int[Array, ""]:
    """Return the first step to be recorded after another, or `NEVER`: `step_of` without a look-up, for one lane."""
    return jnp.min(jnp.where(limits.record_steps > step, limits.record_steps, NEVER), initial=NEVER)


def note(rules: Rules, limits: Limits, lanes: Lane, glance: Glance) -> Lane:
    """Remember what the runs have reached; works for one lane and for all."""
    levels = limits.levels.astype(glance.distance.dtype)
    met = glance.distance <= jnp.reshape(levels, (-1, *[1] * glance.distance.ndim))
    at_goal = (glance.distance <= limits.goal.astype(glance.distance.dtype)) & (lanes.arrived < 0)
    fits = _fits(rules, limits, glance.misfit)
    return lanes._replace(
        hit=jnp.where((lanes.hit < 0) & met, lanes.step, lanes.hit),
        arrived=jnp.where(at_goal, lanes.step, lanes.arrived),
        fitted=jnp.where(fits, jnp.where(lanes.fitted < 0, lanes.step, lanes.fitted), -1),
        misfit=glance.misfit,
        loss=glance.loss,
        distance=glance.distance,
        imbalance=glance.imbalance,
        best=jnp.fmin(lanes.best, glance.distance),
    )


def judge(rules: Rules, limits: Limits, lanes: Lane, glance: Glance) -> Lane:
    """Say how the runs that end here have ended; no rule looks at how flat the loss is."""
    finite = jnp.isfinite(glance.energy) & jnp.isfinite(glance.loss)
    diverged = ~finite | (glance.energy > EXPLOSION * jnp.maximum(1, lanes.first_energy))
    last = lanes.step >= limits.most
    outcome = jnp.where(last, BUDGET, -1)
    if rules.stops and rules.periodic:
        moving = (lanes.arrived < 0) & (lanes.fitted < 0) & (lanes.step > 0)
        outcome = jnp.where(moving & _same(lanes.own, lanes.mark[0]), RETURNED, outcome)
    if rules.stops and rules.misfits:
        # A run that finds the truth fits the data a little earlier: it is given as long again to find it.
        waited = lanes.step >= 2 * lanes.fitted + _STAY
        outcome = jnp.where((lanes.fitted >= 0) & (lanes.arrived < 0) & (waited | last), FITTED, outcome)
    if rules.stops:
        outcome = jnp.where(_waited(lanes) & _stayed(limits, glance.distance), CONVERGED, outcome)
    outcome = jnp.where(diverged, DIVERGED, outcome)
    return lanes._replace(outcome=jnp.where(lanes.run >= 0, outcome, -1).astype(jnp.int32))


def remember(rules: Rules, limits: Limits, stride: Int[Array, ""], lanes: Lane) -> tuple[Lane, Bool[Array, " lane"]]:
    """Forget an arrival that did not last, and say which runs a snapshot is due of.

    They are taken at powers of two of the block count (Brent), and of a run that has ended, so that it may move on.
    """
    left = _waited(lanes) & ~_stayed(limits, lanes.distance)
    lanes = lanes._replace(arrived=jnp.where(left, -1, lanes.arrived))
    ended = (lanes.outcome >= 0) & (lanes.outcome != RETURNED)
    if not (rules.stops and rules.periodic):
        return lanes, ended
    # At no step, after one block, and when the steps since the last snapshot are as many as before it.
    power = (lanes.outcome < 0) & ((lanes.step == 0) | (lanes.step == jnp.maximum(stride, 2 * lanes.mark[1])))
    mark = lanes.mark[0], jnp.where(power, lanes.step, lanes.mark[1])
    return lanes._replace(mark=mark), power | ended


def _fits(rules: Rules, limits: Limits, misfit: Array) -> Array:
    """Tell whether the data are fitted to the tolerance."""
    if not (rules.stops and rules.misfits):
        return jnp.zeros(misfit.shape, bool)
    return misfit <= limits.goal.astype(misfit.dtype)


def _stayed(limits: Limits, distance: Array) -> Array:
    return distance <= limits.near.astype(distance.dtype)


def _waited(lanes: Lane) -> Bool[Array, " lane"]:
    """Tell which runs have been near their goal for long enough: max(50, 10 %) further steps."""
    return (lanes.arrived >= 0) & (
        lanes.step >= lanes.arrived + jnp.maximum(_STAY, lax.div(lanes.arrived + 9, jnp.full_like(lanes.arrived, 10)))
    )


def is_fresh(lanes: Lane) -> Bool[Array, " lane"]:
    """Tell which runs have not been looked at yet."""
    return (lanes.run >= 0) & (lanes.step < 0)


def is_due(lanes: Lane) -> Bool[Array, " lane"]:
    """Tell which runs are at a step to be recorded; none that is circling is."""
    return (lanes.run >= 0) & (lanes.outcome != RETURNED) & (lanes.step == lanes.due)


def circle(lanes: Lane, own: Own) -> Lane:
    """Follow the runs that have returned one step further round their orbits, and say what these are when they close.

    The step is taken by the loop that the run itself went through, so that the first return bit for bit is the smallest
    period in the run's own arithmetic.
    """
    circling = lanes.outcome == RETURNED
    circled, still = lanes.circled + 1, lanes.still & _is_near(own.factors, lanes.mark[0][0])
    first = (lanes.back == 0) & _is_near((own.factors, own.state), lanes.mark[0], own.factors)
    back = jnp.where(first, circled, lanes.back)
    # A state that does not return in time, on a device whose sums vary, proves nothing: the run goes on.
    late = jnp.where(circled < lanes.step - lanes.mark[1], RETURNED, -1)
    outcome = jnp.where(_same(own, lanes.mark[0]), jnp.where(still, STATIONARY, CYCLE), late).astype(jnp.int32)
    new = {"own": own, "outcome": outcome, "circled": circled, "back": back, "still": still}
    return lanes._replace(**choose(circling, new, {name: getattr(lanes, name) for name in new}))


def period_of(lanes: Lane) -> Int[Array, " lane"]:
    """Return the periods of cycles, 0 of other runs: after how many steps the state is the same within rounding.

    Near the step sizes at which a period doubles, an orbit may close bit for bit only after several rounds that differ
    in their last bits. A return after one step, of an orbit that does not stay there, is no round.
    """
    rounds = (lanes.back > 1) & (lanes.circled % jnp.maximum(lanes.back, 1) == 0)
    return jnp.where(lanes.outcome == CYCLE, jnp.where(rounds, lanes.back, lanes.circled), 0)


def _same(own: Own, mark: PyTree) -> Bool[Array, " lane"]:
    """Tell whether factors and method state equal the mark's bit for bit: then the run repeats for ever."""

    def equal(new, old):
        new, old = _bits(new), _bits(old)
        return jnp.all(new == old, axis=range(new.ndim - 1))

    def all_equal(new, old):
        return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(equal, new, old))), axis=0)

    # Hardly any run is where it was, and one that is not is nearly always told by its first rows.
    state = own.factors, own.state
    first = all_equal(*(jax.tree.map(lambda x: x[:1] if x.ndim > 2 else x, tree) for tree in (state, mark)))
    return jax.lax.cond(jnp.any(first), lambda: first & all_equal(state, mark), lambda: first)


def _bits(x: Array) -> Array:
    """Return an array as whole numbers, so that 0 is not −0, and NaN is itself."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.moveaxis(jax.random.key_data(x), -2, -1)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return x


def _is_near(tree: PyTree, mark: PyTree, least: PyTree = ()) -> Bool[Array, " lane"]:
    """Tell whether every array of numbers is within rounding of the mark's, and every other array equal to it.

    Rounding is that of the array itself, or of the smallest of some others where that is larger: what a method
    accumulates may be small, and is made of numbers that are not.
    """
    floors = [_size(x) for x in jax.tree.leaves(least)]

    def near(new, old):
        if not jnp.issubdtype(new.dtype, jnp.floating):
            new, old = _bits(new), _bits(old)
            return jnp.all(new == old, axis=range(new.ndim - 1))
        size = jnp.maximum(_size(old), jnp.min(jnp.stack(floors), axis=0)) if floors else _size(old)
        return _size(new - old) <= _POINT * jnp.finfo(new.dtype).eps * size

    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(near, tree, mark))), axis=0)


def _size(x: Float[Array, "*entry lane"]) -> Float[Array, " lane"]:
    # Column by column, as XLA has no code for the sum of all entries within a loop that is one function.
    columns = [x[:, k] for k in range(x.shape[1])] if x.ndim > 2 else [x]
    return jnp.sqrt(sum(jnp.sum(column**2, axis=range(column.ndim - 1)) for column in columns))


def choose(condition: Bool[Array, " lane"], new: PyTree, old: PyTree) -> PyTree:
    """Take the new value of every leaf where the condition holds, lane by lane."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), new, old)
