"""Hitting times of many seeds: what fraction has arrived when, budgets and failures told apart."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from jaxfact.engine.levels import place_of
from jaxfact.inputs import problem_with


class Times:
    """Hitting times of a level along the seeds: Kaplan-Meier, where a run that failed never arrives.

    `hit` holds steps, inf for runs that ended without arriving and NaN for those that the budget cut off; `steps` says
    when that was.
    """

    def __init__(self, hit: xr.DataArray, steps: xr.DataArray):
        self.hit: xr.DataArray = hit
        self.steps: xr.DataArray = steps

    def __repr__(self) -> str:
        """Say of how many runs they are, how many of these arrived, and what can be asked."""
        sizes = ", ".join(f"{count} {name}" for name, count in self.hit.sizes.items())
        arrived = int(np.isfinite(self.hit).sum())
        return f"Times({sizes}: {arrived} of {self.hit.size} arrived; .quantile([0.05, 0.5, 0.95]), .survival())"

    def quantile(self, q: Sequence[float]) -> xr.DataArray:
        """Return quantiles over seeds along `quantile`: the first step by which that fraction had arrived, else inf."""
        quantiles = np.atleast_1d(np.asarray(q, float))
        if np.any((quantiles < 0) | (quantiles > 1)):
            raise problem_with("q", quantiles.tolist(), "needs fractions from 0 to 1", "give [.05, .5, .95]")
        found = xr.apply_ufunc(
            lambda hit, steps: _first_above(hit, steps, quantiles),
            self.hit,
            self.steps,
            input_core_dims=[["seed"], ["seed"]],
            output_core_dims=[["quantile"]],
        )
        return found.assign_coords(quantile=quantiles)

    def survival(self) -> xr.DataArray:
        """Return the fraction not yet arrived along `time`, the steps at which some run arrived."""
        times = np.unique(self.hit.values[np.isfinite(self.hit.values)])
        times = np.union1d(times, [0.0])
        found = xr.apply_ufunc(
            lambda hit, steps: _survival_at(hit, steps, times),
            self.hit,
            self.steps,
            input_core_dims=[["seed"], ["seed"]],
            output_core_dims=[["time"]],
            vectorize=True,
        )
        return found.assign_coords(time=times)


def time_to(runs: xr.Dataset, level: float | None = None) -> Times:
    """Return the hitting times of a distance level, or of all levels, along `level`.

    Raises ValueError for a level that was not recorded.
    """
    if level is None:
        return Times(runs.hit, runs.steps)
    levels = runs.level.values
    place = place_of(level, levels)
    if place is None:
        raise problem_with("level", f"{level:g}", f"the levels are {', '.join(f'{x:g}' for x in levels)}", "choose one")
    return Times(runs.hit.isel(level=place, drop=True), runs.steps)


def _arrivals(hit: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps at which runs arrived, and the fraction not yet arrived then (Kaplan & Meier 1958).

    Both have one entry per run in the order of time, along the last axis; the step is inf where a run did not arrive.
    One that failed stays at risk for ever. One that the budget cut off was at risk until that step, and hands its share
    on to all later ones (Efron 1967): (n − i)/n after the i-th of n runs, times n − j + 1 over n − j for every j ≤ i
    that was cut off. That is the product-limit estimate, exact in floating point where nothing was cut off; SciPy's
    takes one sample at a time, and to import it takes longer than all statistics of a comparison.
    """
    times = np.where(np.isnan(hit), steps, hit)
    order = np.lexsort((np.isnan(hit), times), axis=-1)
    hit = np.take_along_axis(hit, order, axis=-1)
    later = np.arange(hit.shape[-1] - 1, -1, -1)
    handed_on = np.where(np.isnan(hit), (later + 1) / np.maximum(later, 1), 1.0)
    left = later / hit.shape[-1] * np.cumprod(handed_on, axis=-1)
    return np.where(np.isnan(hit), np.inf, hit), left


def _first_above(hit: np.ndarray, steps: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    times, left = _arrivals(*np.broadcast_arrays(hit, steps))
    # Fractions are products of fractions: compare beyond their rounding.
    reached = 1 - left[..., None, :] >= quantiles[:, None] * (1 - 1e-12)
    return np.min(np.where(reached, times[..., None, :], np.inf), axis=-1)


def _survival_at(hit: np.ndarray, steps: np.ndarray, times: np.ndarray) -> np.ndarray:
    found, left = _arrivals(hit, steps)
    arrived = np.isfinite(found)
    return np.append(1.0, left[arrived])[np.searchsorted(found[arrived], times, side="right")]
