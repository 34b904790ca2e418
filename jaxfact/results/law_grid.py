"""Times and features of a grid as the search for a law takes them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from jaxfact.inputs import problem_with
from jaxfact.results.law_search import Points
from jaxfact.results.statistic import Statistic, over_points
from jaxfact.results.times import Times

FEWEST_POINTS = 8
"""Points with known times below which nothing is looked for."""
_DETERMINED = 1e-9  # of its spread, what is left of a feature's logarithm without the others' share


class Grid(NamedTuple):
    """Times over axes, with the features that a law may be of, all broadcast over the axes."""

    times: xr.DataArray
    features: Mapping[str, xr.DataArray]
    hit: Float[np.ndarray, "p n"]
    steps: Float[np.ndarray, "p n"]
    statistic: Statistic

    @classmethod
    def of(cls, times: Times, statistic: Statistic, given: Mapping[str, xr.DataArray]) -> "Grid":
        """Return the grid of times along `seed`. Raises ValueError for what is no number above 0."""
        if "seed" not in times.hit.dims:
            raise problem_with(
                "times", f"along {times.hit.dims}", "a law is of many seeds", "take jf.stats.time_to(runs)"
            )
        axes = [str(name) for name in times.hit.dims if name != "seed"]
        both = [name for name in given if name in axes]
        if both:
            raise problem_with("given", ", ".join(both), "is an axis already", "choose another name")
        hit = times.hit.transpose(*axes, "seed")
        named = {**given, **{name: hit[name] for name in axes}}
        features = {name: _positive(name, one, hit.isel(seed=0, drop=True)) for name, one in named.items()}
        for name in given:
            features[name].attrs.clear()  # arithmetic hands on those of an axis
        seeds = hit.sizes["seed"]
        steps = times.steps.broadcast_like(hit).transpose(*hit.dims).values.reshape(-1, seeds)
        flat = hit.values.astype(float).reshape(-1, seeds)
        found = over_points(statistic, flat, steps, np.ones((1, seeds)))[0]
        shaped = hit.isel(seed=0, drop=True).copy(data=found.reshape(hit.shape[:-1]))
        return cls(shaped.rename("time"), features, flat, steps, statistic)

    @property
    def known(self) -> Float[np.ndarray, " p"]:
        """Tell at which points, in a row, the time is known, and above 0: runs may begin at their level."""
        times = self.times.values.ravel()
        return np.isfinite(times) & (times > 0)

    @property
    def budget(self) -> xr.DataArray:
        """The steps before which the time is known not to lie, where the budget came first; NaN elsewhere."""
        is_open, cut_off = ~self.known, np.isnan(self.hit)
        is_open &= cut_off.any(axis=1) & (cut_off.mean(axis=1) >= np.isinf(self.hit).mean(axis=1))
        last = np.where(cut_off, self.steps, 0).max(axis=1)
        return self.times.copy(data=np.where(is_open, last, np.nan).reshape(self.times.shape))

    @property
    def names(self) -> tuple[str, ...]:
        """The features that no others determine."""
        logs = {name: np.log(one.values).ravel()[self.known] for name, one in self.features.items()}
        kept: dict[str, np.ndarray] = {}
        for name, values in logs.items():
            others = np.column_stack([*kept.values(), np.ones(len(values))])
            left = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
            if np.linalg.norm(left) > _DETERMINED * max(np.linalg.norm(values), 1):
                kept[name] = values
        return tuple(kept)

    def points(self) -> Points:
        """Return the points with known times."""
        known, axes = self.known, [str(name) for name in self.times.dims]
        places = {name: self.features[name].values.ravel()[known] for name in axes}
        logs = np.stack([np.log(self.features[name].values).ravel()[known] for name in self.names], axis=1)
        return Points(logs, self.times.values.ravel()[known], places)


def _positive(name: str, values: Any, over: xr.DataArray) -> xr.DataArray:
    """Return a feature over all axes, in their order."""
    labelled = xr.DataArray(values)
    strange = [str(dim) for dim in labelled.dims if dim not in over.dims]
    if strange:
        raise problem_with(name, f"along {', '.join(strange)}", "needs axes of the times", "select along the others")
    if labelled.dtype.kind not in "iuf" or not np.all(np.isfinite(labelled.values) & (labelled.values > 0)):
        raise problem_with(name, "no numbers above 0", "laws are of logarithms", "select along it, or leave values out")
    return labelled.astype(float).broadcast_like(over).transpose(*over.dims).rename(name)
