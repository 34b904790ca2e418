"""What is drawn of a move: quantiles along the steps, who has not arrived, how runs ended, and times of all starts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.explore.controls import State
from jaxfact.explore.laboratory import TOLERANCE, Laboratory
from jaxfact.figures.curves import Known

_ABOVE = 30.0  # times the largest median: what is farther away is drawn at the edge


class Curve(NamedTuple):
    """The 5 % quantile, the median and the 95 % quantile along the steps; NaN from where runs were stopped."""

    low: Float[np.ndarray, " step"]
    median: Float[np.ndarray, " step"]
    high: Float[np.ndarray, " step"]


class Summary(NamedTuple):
    """One method's runs in numbers: `gone` holds when the fraction `waiting` of the runs had not arrived yet."""

    steps: Int[np.ndarray, " step"]
    distance: Curve
    imbalance: Curve
    singular_values: list[Float[np.ndarray, " step"]]
    gone: Float[np.ndarray, " time"]
    waiting: Float[np.ndarray, " time"]
    arrived: Float[np.ndarray, " seed"]
    outcomes: Mapping[str, float]


class Shown(NamedTuple):
    """All that a page shows of a state, and the runs behind it."""

    state: State
    runs: xr.Dataset
    signals: Float[np.ndarray, " seed"]
    of: Mapping[str, Summary]

    @property
    def last_step(self) -> int:
        """The last step that is drawn."""
        return max(int(one.steps[-1]) for one in self.of.values())


def look(laboratory: Laboratory, state: State) -> Shown:
    """Run what a state asks for, and say what came of it."""
    runs = laboratory.run(state, state.seeds)
    of = {name: summary(runs.sel(variant=name), state.budget) for name in state.methods}
    return Shown(state, runs, laboratory.smallest_signals(state), of)


def summary(runs: xr.Dataset, budget: int) -> Summary:
    """Return the numbers of one variant."""
    known = Known.of(runs)
    arrived = runs.hit.isel(level=-1).values
    values = runs.singular_values_path
    (place,) = (dim for dim in values.dims if dim not in ("seed", "step"))
    gone, waiting = _survival(arrived, budget)
    outcome = runs.outcome.values
    return Summary(
        known.steps,
        _curve(known, runs.distance_path),
        _curve(known, runs.imbalance_path),
        [known.quantiles(values.isel({place: each}))[1] for each in range(values.sizes[place])],
        gone,
        waiting,
        arrived,
        {name: float(np.mean(outcome == name)) for name in OUTCOMES},
    )


def sentence(shown: Shown) -> str:
    """Say in a line what is seen: who arrived, and when half of the runs had."""
    parts = []
    for name, one in shown.of.items():
        half = np.sort(np.where(np.isfinite(one.arrived), one.arrived, np.inf))[(len(one.arrived) - 1) // 2]
        median = f"half of them by step {half:.0f}" if np.isfinite(half) else "less than half"
        parts.append(f"{name}: {100 * one.outcomes['converged']:.4g} % arrive, {median}")
    return f"{len(shown.state.seeds)} starts to distance {TOLERANCE:g}. {'; '.join(parts)}."


def _curve(known: Known, path: xr.DataArray) -> Curve:
    low, median, high = known.quantiles(path)
    at_most = _ABOVE * np.max(median[np.isfinite(median)], initial=0)
    return Curve(*(np.where(np.isnan(one), np.nan, np.minimum(one, at_most)) for one in (low, median, high)))


def _survival(arrived: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps at which the fraction of runs that have not arrived falls, and the fraction from there on."""
    times, counts = np.unique(arrived[np.isfinite(arrived)], return_counts=True)
    left = 1 - np.cumsum(counts) / len(arrived)
    last = left[-1] if len(left) else 1.0
    return np.concatenate([[0], times, [budget]]), np.concatenate([[1], left, [last]])
