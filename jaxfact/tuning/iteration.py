"""One step of learning: derivatives through many runs at once, of which those that explode do not count."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxfact.descent import descend
from jaxfact.engine.outcomes import EXPLOSION
from jaxfact.inputs import problem_with
from jaxfact.methods.base import Method, as_method
from jaxfact.numerics.draws import fold
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor, as_factors
from jaxfact.starts import Start
from jaxfact.tuning.cutting import cut
from jaxfact.tuning.objectives import Objective
from jaxfact.tuning.parametrisations import Parametrisation

_RECORDS = 64  # at least so many numbers along a run, and √num_steps of a long one, which bounds the memory
_WILD = 100.0  # a change of θ by 1 % then changes what a run is judged by, by more than all of it
_COUNTED = 3.0  # medians of the gradients' norms that one run counts for at most
_TOO_MANY = 0.02  # of the runs
_RETREAT = 0.1  # of the way to the first θ
_SLOWER, _FASTER = 0.5, 1.03  # of the rate, after an iteration that is taken back and after one that is not


class Setting(NamedTuple):
    """What stays the same from one iteration to the next, and is no array."""

    start: Start | AnyFactors | Callable[[Any], Start]
    method: Callable[[Any], Method | Callable]
    schedule: Parametrisation
    objective: Objective
    optimiser: optax.GradientTransformation
    starts: int
    num_steps: int
    window: int | None

    @property
    def moves_start(self) -> bool:
        """Whether the start is a function of what is learned, so that it must be drawn where that is known."""
        return callable(self.start) and not isinstance(self.start, Start)

    def draws(self, problem: Problem, keys: PRNGKeyArray, value: Any = None) -> AnyFactors:
        """Return the starts of runs with these keys, along the first axis of their arrays."""
        return jax.vmap(lambda key: drawn(start_at(self.start, value), problem, key))(keys)


class State(NamedTuple):
    """Where learning stands: θ, the optimiser's state, the first θ, the best so far and its objective, and the rate.

    `rate` multiplies the optimiser's updates: halved where an iteration is taken back, else raised by 3 %, up to 1.
    """

    parameters: PyTree
    optimiser: PyTree
    first: PyTree
    best: PyTree
    objective: Float[Array, ""]
    rate: Float[Array, ""]


class Seen(NamedTuple):
    """What one iteration saw, at the θ with which it began.

    Attributes:
        objective: its mean over all runs, those that diverged included.
        gradient: the median of the norms of single runs' gradients, of those that count.
        diverged: how many runs had diverged at the end of the window.
        dropped: how many runs' gradients did not count, not finite or above a hundred times the objective.
        rate: by what the optimiser's update was multiplied.
    """

    objective: Float[Array, ""]
    gradient: Float[Array, ""]
    diverged: Int[Array, ""]
    dropped: Int[Array, ""]
    rate: Float[Array, ""]


def first_state(setting: Setting, key: PRNGKeyArray) -> State:
    """Return the state before the first iteration."""
    parameters = setting.schedule.initial(setting.num_steps, key)
    worst, rate = jnp.full((), jnp.inf, float), jnp.ones((), float)
    return State(parameters, setting.optimiser.init(parameters), parameters, parameters, worst, rate)


def keys_of(key: PRNGKeyArray, number: int) -> PRNGKeyArray:
    """Return the keys of the runs of an iteration."""
    return jax.vmap(lambda index: fold(key, index))(jnp.arange(number))


def learning_step(
    setting: Setting, problem: Problem, state: State, keys: PRNGKeyArray, begun: AnyFactors | None
) -> tuple[State, Seen]:
    """Return the next state, and what was seen of the runs with these keys; a pure function.

    `begun` are their starts, None where these depend on what is learned. They are drawn apart, because what draws takes
    as long to compile as derivatives through the runs.

    The gradients of single runs are averaged, each cut to three times the median of their norms, so that runs at the
    edge of stability do not decide for all. Those that are not finite, or where a change of one per cent would change
    the objective by more than itself, count as zero. Where that is more than one in fifty, nothing is learned: θ goes
    back to the best so far, the optimiser forgets the iteration, and its updates are halved. Best is the least mean
    objective of an iteration in which all gradients counted and no run diverged. It is so judged again from other
    starts; where that fails, it moves by a tenth of the way towards the first θ, and is no longer known to be good.
    """
    judge = jax.value_and_grad(lambda *args: judged(setting, *args), has_aux=True)
    (values, diverged), gradients = jax.vmap(judge, in_axes=(None, None, 0, 0))(state.parameters, problem, keys, begun)
    norms = jax.vmap(optax.tree.norm)(gradients)
    counts = norms <= _WILD * jnp.maximum(1, jnp.abs(values))  # False where it is not a number
    mean, median = averaged(gradients, norms, counts)
    objective, dropped = jnp.mean(values), jnp.sum(~counts)
    back = dropped > _TOO_MANY * setting.starts
    better = (objective < state.objective) & (dropped == 0) & ~diverged.any()
    best, least = _chosen(better, (state.parameters, objective), (state.best, state.objective))
    failed = back & jnp.all(jnp.stack([jnp.all(x == y) for x, y in _pairs(state.parameters, state.best)]))
    nearer = jax.tree.map(lambda x, first: x + _RETREAT * (first - x), best, state.first)
    best, least = _chosen(failed, (nearer, jnp.full_like(least, jnp.inf)), (best, least))
    updates, optimiser = setting.optimiser.update(mean, state.optimiser, state.parameters)
    moved = jax.tree.map(lambda x, u: (x + state.rate * u).astype(x.dtype), state.parameters, updates)
    parameters, optimiser = _chosen(back, (best, state.optimiser), (moved, optimiser))
    rate = jnp.where(back, _SLOWER * state.rate, jnp.minimum(1, _FASTER * state.rate))
    seen = Seen(objective, median, jnp.sum(diverged), dropped, state.rate)
    return State(parameters, optimiser, state.first, best, least.astype(state.objective.dtype), rate), seen


def judged(
    setting: Setting, parameters: PyTree, problem: Problem, key: PRNGKeyArray, begun: AnyFactors | None
) -> tuple[Array, Bool[Array, ""]]:
    """Return the objective of one run, and whether the run diverged."""
    value = setting.schedule.value(parameters, setting.num_steps)
    factors = drawn(start_at(setting.start, value), problem, key) if begun is None else begun
    method = as_method(setting.method(value))
    method = method if setting.window is None else cut(method, setting.window)
    return followed(problem, method, factors, setting.objective, setting.num_steps, fold(key, 2))


def followed(
    problem: Problem, method: Method, factors: AnyFactors, objective: Objective, num_steps: int, key: PRNGKeyArray
) -> tuple[Array, Bool[Array, ""]]:
    """Return what a run is judged by, and whether it diverged, by the engine's rule."""
    gap = max(1, num_steps // max(_RECORDS, math.isqrt(num_steps)))
    every = sorted({*range(0, num_steps + 1, gap), num_steps})
    run = descend(problem, method, factors, num_steps=num_steps, every=every, record={"it": objective.measure}, key=key)
    path = run.records["it"]
    first, last = (optax.tree.norm(tree, squared=True) for tree in (factors, run.factors))
    # Not a number is not below anything.
    return objective.of(path, run.steps.astype(path.dtype)), ~(last <= EXPLOSION * jnp.maximum(first, 1))


def averaged(
    gradients: PyTree, norms: Float[Array, " run"], counts: Bool[Array, " run"]
) -> tuple[PyTree, Float[Array, ""]]:
    """Return the mean of the gradients that count, each cut to some medians of their norms, and that median."""
    median = jnp.nan_to_num(jnp.nanmedian(jnp.where(counts, norms, jnp.nan)))
    share = jnp.minimum(1, _COUNTED * median / jnp.where(counts & (norms > 0), norms, 1))
    number = jnp.maximum(jnp.sum(counts), 1)

    def mean(gradient: Array) -> Array:
        each = (len(counts),) + (1,) * (gradient.ndim - 1)
        # Not a number times zero is not a number.
        return jnp.sum(jnp.where(counts.reshape(each), gradient, 0) * share.reshape(each), axis=0) / number

    return jax.tree.map(mean, gradients), median


def drawn(start: Start | AnyFactors, problem: Problem, key: PRNGKeyArray) -> AnyFactors:
    """Return the first factors of the run of a key."""
    return start.draw(fold(key, 1), problem) if isinstance(start, Start) else as_factors(start)


def start_at(start: Any, value: Any) -> Start | AnyFactors:
    """Return a start, which may be a function of what is learned.

    Raises ValueError for anything else.
    """
    if callable(start) and not isinstance(start, Start | type):
        start = start(value)
    if not isinstance(start, Start | Factors | TiedFactor | tuple | list):
        instead = "give one of jaxfact.starts, or a function of what is learned that returns one"
        raise problem_with("start", type(start).__name__, "needs a Start or factors", instead)
    return start


def _pairs(left: PyTree, right: PyTree) -> list[tuple[Array, Array]]:
    return list(zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))


def _chosen(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
