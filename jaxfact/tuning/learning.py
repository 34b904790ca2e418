"""Learning schedules, weights, dampings and scales of starts by gradient, through the runs themselves."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import xarray as xr
from jaxtyping import PRNGKeyArray

from jaxfact.descent import factors_of
from jaxfact.engine.jaxprs import executable
from jaxfact.inputs import explained, positive, positive_integer, problem_with
from jaxfact.methods import gradient_descent
from jaxfact.methods.base import Method
from jaxfact.numerics.draws import fold, key_of
from jaxfact.numerics.products import in_full_precision
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors
from jaxfact.showing.pace import Unit
from jaxfact.showing.progress import Progress, shown_progress
from jaxfact.starts import Start
from jaxfact.tuning.iteration import Seen, Setting, State, first_state, keys_of, learning_step, start_at
from jaxfact.tuning.judging import compared, edge_along
from jaxfact.tuning.learned import BEFORE, LEARNED, Learned
from jaxfact.tuning.objectives import LogDistance, Objective
from jaxfact.tuning.parametrisations import Parametrisation, Piecewise

ITERATIONS: Unit = Unit("iterations", "iterations/s")
_EDGE_STARTS = 8
_LONGER = 10  # windows that held-out runs may take


@explained
@in_full_precision
def learn(
    problem: Problem,
    start: Start | AnyFactors | Callable[[Any], Start],
    method: Callable[[Any], Method | Callable] = gradient_descent,
    *,
    num_steps: int,
    schedule: Parametrisation | None = None,
    objective: Objective | None = None,
    optimiser: optax.GradientTransformation | None = None,
    starts: int = 256,
    iterations: int = 200,
    restarts: int = 1,
    window: int | None = None,
    key: PRNGKeyArray | None = None,
    baselines: Mapping[str, Any] | None = None,
    held_out: int = 1000,
    tolerance: float = 1e-5,
    max_steps: int | None = None,
    check_every: int = 1,
    base_seed: int = 0,
    progress: Progress | bool = True,
) -> Learned:
    """Learn a step-size schedule, a weight, a damping or the scale of a start by gradient through many runs.

    θ⁺ = θ + optimiser.update(mean over fresh starts of ∂objective(run)/∂θ): a run takes `num_steps` steps of
    method(value(θ)). Each iteration draws its own starts; runs whose gradients explode do not count, and where they are
    more than one in fifty the iteration is taken back (see `Learned.note`). Then what was learned runs beside what it
    began with, and beside the baselines, from the same fresh starts, in one `sweep`.

    A window of `num_steps` is all that is judged: what happens later counts for nothing, and a schedule keeps its last
    value, or its last block. Too short a window prefers what falls fast at first to what falls fast in the end
    (Wu et al. 2018). `window` also cuts derivatives every so many steps: then a step is judged only by the distances up
    to the next cut, and its effect on all that comes later is left out of the gradient, which is therefore biased
    towards steps that pay at once. It keeps gradients of long runs from exploding. It is for objectives that look along
    the whole run, `Time` or `LogDistance(share=1)`: with others, steps before the last cut have no derivative.

    Args:
        problem: The problem, the same in all runs.
        start: Where runs begin; or a function of what is learned that returns a start, to learn its scale.
        method: From the schedule or number that is learned to a method; plain descent by default, with steps in 1/σ₁.
            For a weight, `lambda weight: jf.methods.balanced(0.3, weight)`.
        num_steps: The number of steps after which a run is judged, about as many as the runs need.
        schedule: What is learned, one of the parametrisations of this module; `Piecewise()` by default.
        objective: What is lowered; `LogDistance()` by default.
        optimiser: An optax optimiser of θ, whose step sizes are in logarithms; `optax.adam(0.05)` by default.
        starts: How many runs an iteration has.
        iterations: How many iterations there are.
        restarts: How often it is begun anew, from another first θ (which only `Free` draws) and from other starts; the
            least objective is kept.
        window: The number of steps after which derivatives are cut; nowhere by default.
        key: From which all training starts are drawn.
        baselines: Numbers, schedules or methods by name, to run beside what was learned; see `best_constant`.
        held_out: How many fresh starts these runs have.
        tolerance: The distance at which they have arrived, as in `sweep`.
        max_steps: Their budget; by default ten times `num_steps`.
        check_every: The resolution of their times.
        base_seed: The seed of the fresh starts.
        progress: Whether it is shown how far it has got, or a function of the iterations done and of all of them.

    Raises:
        ValueError: For counts below 1, a window beyond the run, what is no parametrisation, objective, start or
            method, and what `sweep` refuses of the held-out runs.
    """
    counts = {"num_steps": num_steps, "starts": starts, "iterations": iterations, "restarts": restarts}
    counts = {name: positive_integer(name, count, "give a count") for name, count in counts.items()}
    held_out = positive_integer("held_out", held_out, "give a count")
    schedule, objective = schedule or Piecewise(), objective or LogDistance()
    _check(schedule, objective, window, counts["num_steps"])
    positive("tolerance", tolerance, "1e-5 is the usual one")
    optimiser = optax.adam(0.05) if optimiser is None else optimiser
    key = key_of(0) if key is None else key
    setting = Setting(start, method, schedule, objective, optimiser, counts["starts"], counts["num_steps"], window)
    before = schedule.value(first_state(setting, fold(key, 0)).parameters, setting.num_steps)
    _check_start(problem, start_at(start, before))
    last, history = _trained(setting, problem, key, counts["iterations"], counts["restarts"], progress)
    value = schedule.value(last.best, setting.num_steps)
    runs = compared(
        problem,
        start,
        method,
        {LEARNED: value, BEFORE: before, **(baselines or {})},
        tolerance=tolerance,
        max_steps=-(-(max_steps or _LONGER * setting.num_steps) // check_every) * check_every,
        seeds=held_out,
        base_seed=base_seed,
        check_every=check_every,
        progress=progress if isinstance(progress, bool) else False,
    )
    edge = None
    if callable(value):
        keys = keys_of(fold(key, 2), _EDGE_STARTS)
        begun = executable(setting.draws, problem, keys, value, quick=True)(problem, keys, value)
        edge = edge_along(problem, begun, method(value), value, setting.num_steps, keys)
    return Learned(value, last.best, objective.text, history, counts["starts"], runs, tolerance, edge)


def _trained(
    setting: Setting, problem: Problem, key: PRNGKeyArray, iterations: int, restarts: int, progress: Progress | bool
) -> tuple[State, xr.Dataset]:
    """Return the last state of the best restart, and what was seen along its iterations."""
    found: list[tuple[State, list[Seen]]] = []
    keys = keys_of(key, setting.starts)
    with shown_progress(progress, ITERATIONS) as tell:
        draw = None if setting.moves_start else executable(setting.draws, problem, keys, quick=True)
        begun = None if draw is None else draw(problem, keys)
        step = executable(partial(learning_step, setting), problem, first_state(setting, key), keys, begun)
        for restart in range(restarts):
            # The first restart begins with what is called "before".
            state, seen = first_state(setting, fold(key, 3 * restart)), []
            for index in range(iterations):
                keys = keys_of(fold(fold(key, 3 * restart + 1), index), setting.starts)
                state, one = step(problem, state, keys, begun if draw is None else draw(problem, keys))
                seen.append(jax.block_until_ready(one))  # what is told would else be how many were asked for
                tell(restart * iterations + index + 1, restarts * iterations)
            found.append((state, seen))
    state, seen = min(found, key=lambda one: float(one[0].objective))
    along = {name: ("iteration", np.asarray([getattr(one, name) for one in seen])) for name in Seen._fields}
    return state, xr.Dataset(along, {"iteration": np.arange(iterations)})


def _check(schedule: Any, objective: Any, window: Any, num_steps: int) -> None:
    """Refuse what is no parametrisation or objective, and a window beyond the run."""
    if not isinstance(schedule, Parametrisation):
        instead = "give jaxfact.tuning.Piecewise(), or Number(0.1) for a number"
        raise problem_with("schedule", type(schedule).__name__, "needs a Parametrisation", instead)
    if not isinstance(objective, Objective):
        instead = "give jaxfact.tuning.LogDistance(), or Time(1e-5)"
        raise problem_with("objective", type(objective).__name__, "needs an Objective", instead)
    if window is not None and positive_integer("window", window, "leave it out to cut nowhere") > num_steps:
        raise problem_with("window", window, f"is beyond the run's {num_steps} steps", "leave it out to cut nowhere")


def _check_start(problem: Problem, start: Start | AnyFactors) -> None:
    if not isinstance(start, Start):
        factors_of(problem, start)
    elif not isinstance(problem, Problem):
        raise problem_with("problem", type(problem).__name__, "needs a Problem", "give a jaxfact.Factorization")
