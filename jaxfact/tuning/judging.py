"""What was learned, held against baselines on fresh starts, and against the edge of stability."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Float, PRNGKeyArray

from jaxfact.descent import descend
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.jaxprs import executable
from jaxfact.inputs import explained, problem_with
from jaxfact.measures.sharpness import sharpness
from jaxfact.methods import gradient_descent
from jaxfact.methods.base import Method
from jaxfact.numerics.draws import fold
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors
from jaxfact.results.intervals import quantile_interval, wilson
from jaxfact.results.times import time_to
from jaxfact.showing.progress import Progress
from jaxfact.starts import Start
from jaxfact.sweep.sweeping import sweep
from jaxfact.tuning.iteration import start_at


class Arrival(NamedTuple):
    """The median hitting time with its interval, and the share of the runs that arrived with Wilson's, both at 95 %.

    `stayed` is the share that was still there after a further max(50, 10 %) steps.
    """

    median: tuple[float, float, float]
    arrived: tuple[float, float, float]
    stayed: float


class Constant(NamedTuple):
    """The value of a grid with the least median hitting time, and the runs along the grid, `value`, and `seed`."""

    value: float
    runs: xr.Dataset


def experiment_at(problem: Problem, start: Any, method: Callable[[Any], Any], value: Any) -> Experiment:
    """Return the experiment without axes that runs a method at a value, or the method that is given instead of one."""

    def experiment() -> Run:
        if isinstance(value, optax.GradientTransformation):
            return Run(problem, start_at(start, None), value)
        return Run(problem, start_at(start, value), method(value))

    return experiment


@explained
def best_constant(
    problem: Problem,
    start: Start | AnyFactors | Callable[[Any], Start],
    method: Callable[[Any], Method | Callable] = gradient_descent,
    *,
    values: Sequence[float] | np.ndarray,
    tolerance: float,
    max_steps: int,
    seeds: int = 1000,
    base_seed: int = 1,
    check_every: int = 1,
    progress: Progress | bool = True,
) -> Constant:
    """Return the number of a grid with which half of the starts arrive soonest: the constant that is to be beaten.

    `method` is a function of the number, and `start` may be one; with the default the numbers are steps in 1/σ₁. The
    other arguments are those of `sweep`. `base_seed` is not that of the held-out starts, on which `learn` compares.
    Raises ValueError where half of the starts arrive with none.
    """

    def experiment(value: Any) -> Run:
        return Run(problem, start_at(start, value), method(value))

    told = {"seeds": seeds, "base_seed": base_seed, "check_every": check_every, "progress": progress}
    runs = sweep(
        experiment, max_steps=max_steps, tolerance=tolerance, **told, axes={"value": np.asarray(values, float)}
    )
    medians = time_to(runs, tolerance).quantile([0.5]).isel(quantile=0)
    if not np.isfinite(medians).any():
        needed = f"half of the starts arrive at distance {tolerance:g} with none of them"
        raise problem_with(
            "values", f"{np.min(values):g} to {np.max(values):g}", needed, "raise max_steps, or try others"
        )
    return Constant(float(medians["value"][int(medians.argmin("value"))]), runs)


def arrivals(runs: xr.Dataset, tolerance: float) -> dict[str, Arrival]:
    """Return when the runs of each variant arrived at the tolerance, and how many."""
    hits = time_to(runs, tolerance).hit.transpose("variant", "seed").values
    stayed = (runs.outcome == "converged").transpose("variant", "seed").values
    found = {}
    for name, hit, stays in zip(runs.variant.values.tolist(), hits, stayed, strict=True):
        number = int(np.isfinite(hit).sum())
        low, high = wilson(number, len(hit))
        share = number / len(hit), float(low), float(high)
        found[name] = Arrival(quantile_interval(hit, 0.5), share, float(np.mean(stays)))
    return found


def edge_along(
    problem: Problem,
    begun: AnyFactors,
    method: Method | Callable,
    schedule: Callable[[Any], Any],
    num_steps: int,
    keys: PRNGKeyArray,
) -> xr.DataArray:
    """Return η_t·sharpness/2 before every step of runs from these starts, along `start` and `step`.

    Above 1 the step is beyond 2/sharpness, where descent on the local quadratic would not be stable.
    """

    def along(problem: Problem, begun: AnyFactors, keys: PRNGKeyArray) -> Float[Array, "start step"]:
        def one(factors: AnyFactors, key: PRNGKeyArray) -> Float[Array, " step"]:
            told = {"num_steps": num_steps, "every": 1, "record": sharpness, "key": fold(key, 2)}
            return descend(problem, method, factors, **told).records["sharpness"][:-1]

        return jax.vmap(one)(begun, keys) * jax.vmap(schedule)(jnp.arange(num_steps)) / 2

    found = executable(along, problem, begun, keys, quick=True)(problem, begun, keys)
    return xr.DataArray(np.asarray(found), {"step": np.arange(num_steps)}, ("start", "step"), "edge")


def compared(
    problem: Problem,
    start: Any,
    method: Callable[[Any], Any],
    values: Mapping[str, Any],
    *,
    tolerance: float,
    max_steps: int,
    seeds: int,
    base_seed: int,
    check_every: int,
    progress: Progress | bool,
) -> xr.Dataset:
    """Return runs of all values, or methods, by name along `variant`, from the same fresh starts."""
    experiments = {name: experiment_at(problem, start, method, value) for name, value in values.items()}
    told = {"seeds": seeds, "base_seed": base_seed, "check_every": check_every, "progress": progress}
    return sweep(experiments, max_steps=max_steps, tolerance=tolerance, **told)
