"""What the runs say, with intervals: survival, fractions, and paired comparisons."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats
import xarray as xr
from jaxtyping import Float

from jaxfact.choices import listed
from jaxfact.engine.levels import is_below, place_of
from jaxfact.inputs import problem_with

NAMES = ("quantile", "time", "outcome_name")
"""Dimensions that what is found here may have beside those of the runs."""

_CONFIDENCE = 0.95
_RESAMPLES = 2000


class Times:
    """Hitting times of a level along the seeds: Kaplan-Meier, where a run that failed never arrives.

    `hit` holds steps, inf for runs that ended without arriving and NaN for those that the budget cut off; `steps` says
    when that was.
    """

    def __init__(self, hit: xr.DataArray, steps: xr.DataArray):
        self.hit: xr.DataArray = hit
        self.steps: xr.DataArray = steps

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
            vectorize=True,
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


class PairedTimes(NamedTuple):
    """How two variants' hitting times compare, seed by seed.

    `ratio` is the geometric mean of the time ratios over seeds on which both arrived, `low` and `high` its bootstrap
    interval over seeds, widened by the resolution of the times. `both`, `first_only`, `second_only`, `neither` count
    seeds; `p_success` is McNemar's exact p-value for a difference in arriving. `verdict` is "equivalent" where the
    interval lies within [1−margin, 1+margin] and, with the same confidence, at most `margin` of the seeds arrived with
    one variant alone; "different" where one of the two is excluded; else "inconclusive".
    """

    ratio: float
    low: float
    high: float
    both: int
    first_only: int
    second_only: int
    neither: int
    p_success: float
    verdict: str


def time_to(runs: xr.Dataset, level: float) -> Times:
    """Return the hitting times of a distance level; raises ValueError for a level that was not recorded."""
    levels = runs.level.values
    place = place_of(level, levels)
    if place is None:
        raise problem_with("level", f"{level:g}", f"the levels are {', '.join(f'{x:g}' for x in levels)}", "choose one")
    return Times(runs.hit.isel(level=place, drop=True), runs.steps)


def best_over_time(runs: xr.Dataset, record: str) -> xr.Dataset:
    """Return the least value of a record along each run's path, as `value`, and the first step at which it was reached.

    Both are NaN where the record never was a number. Raises ValueError for a record that has no path.
    """
    path = runs.get(f"{record}_path")
    if path is None or "step" not in path.dims:
        paths = [str(name).removesuffix("_path") for name in runs if str(name).endswith("_path")]
        raise problem_with("record", repr(record), f"the paths are of {', '.join(paths) or 'nothing'}", "record it")
    known = path.fillna(np.inf)
    at = known.argmin("step")
    met = path.notnull().any("step")
    return xr.Dataset({"value": known.isel(step=at).drop_vars("step"), "step": path.step[at].drop_vars("step")}).where(
        met
    )


def wilson(successes: xr.DataArray | np.ndarray | int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's 95 % interval of a fraction (Wilson 1927)."""
    intervals = [
        scipy.stats.binomtest(int(k), count).proportion_ci(_CONFIDENCE, method="wilson")
        for k in np.ravel(np.asarray(successes))
    ]
    shape = np.shape(successes)
    return tuple(np.reshape([side[i] for side in intervals], shape) for i in range(2))  # pyright: ignore[reportReturnType]


def fraction_reached(runs: xr.Dataset) -> xr.Dataset:
    """Return the fraction of seeds that reached each level, with Wilson's interval, as `fraction`, `low`, `high`.

    NaN where a variant was not run down to a level.
    """
    return _fractions(np.isfinite(runs.hit)).where(~is_beyond(runs))


def outcome_fractions(runs: xr.Dataset) -> xr.Dataset:
    """Return the fraction of seeds with each outcome that occurs, along `outcome`, with Wilson's interval."""
    names = np.unique(runs.outcome.values)
    each = runs.outcome == xr.DataArray(names, {"outcome_name": names}, "outcome_name")
    return _fractions(each).rename(outcome_name="outcome")


def is_beyond(runs: xr.Dataset) -> xr.DataArray:
    """Tell which levels lie below the tolerance to which a variant was run: nothing is known there."""
    return is_below(runs.level, runs.tolerance)


def paired_times(runs: xr.Dataset, first: str, second: str, level: float, margin: float = 0.05) -> PairedTimes:
    """Compare the times that two variants need to a level, time(first)/time(second), on the same seeds.

    Raises ValueError for variants that are not there and for datasets with axes left; select a point first.
    """
    if "variant" not in runs.dims or not {first, second} <= set(runs.variant.values.tolist()):
        raise problem_with(
            "variants", f"{first}, {second}", "both must be in the dimension variant", "name two of them"
        )
    left = [name for name in runs.outcome.dims if name not in ("variant", "seed")]
    if left:
        raise problem_with("runs", f"axes {left}", "a comparison is made at one point", "select one with runs.sel(...)")
    below = [name for name in (first, second) if is_below(level, float(runs.tolerance.sel({"variant": name})))]
    if below:
        raise problem_with("level", f"{level:g}", f"{', '.join(below)} was not run that far", "choose a higher one")
    times = time_to(runs, level).hit
    one, two = times.sel({"variant": first}).values, times.sel({"variant": second}).values
    arrived = np.isfinite(one) & np.isfinite(two)
    only = [int(np.sum(np.isfinite(a) & ~np.isfinite(b))) for a, b in ((one, two), (two, one))]
    neither = int(len(one) - arrived.sum() - sum(only))
    p_success = scipy.stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    ratio, low, high = _ratio_interval(one[arrived], two[arrived], float(_resolution(runs)))
    discordant = wilson(sum(only), len(one))
    if 1 - margin <= low and high <= 1 + margin and discordant[1] <= margin:
        verdict = "equivalent"
    elif high < 1 - margin or low > 1 + margin or discordant[0] > margin:
        verdict = "different"
    else:
        verdict = "inconclusive"
    both, (first_only, second_only) = int(arrived.sum()), only
    return PairedTimes(ratio, low, high, both, first_only, second_only, neither, float(p_success), verdict)


class PairedErrors(NamedTuple):
    """The ratio of two errors made on the same splits and starts: geometric mean, interval and verdict."""

    ratio: float
    low: float
    high: float
    verdict: str


def nested_mean(values: Float[np.ndarray, "split seed"]) -> tuple[float, float, float]:
    """Return a mean with its bootstrap interval over splits, and over the starts within each; NaN for one split.

    The interval is about the choice of the splits of these data, which overlap: not about new data.
    """
    if len(values) < 2:
        return float(np.mean(values)), float("nan"), float("nan")
    means = resampled_means(values)
    low, high = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2], method="inverted_cdf")
    return float(np.mean(values)), float(low), float(high)


def paired_errors(
    one: Float[np.ndarray, "split seed"], two: Float[np.ndarray, "split seed"], margin: float = 0.05
) -> PairedErrors:
    """Compare errors above 0 on the same splits and starts; "equivalent" where the interval lies within the margin."""
    ratio, low, high = (float(np.exp(value)) for value in nested_mean(np.log(one / two)))
    if 1 - margin <= low and high <= 1 + margin:
        return PairedErrors(ratio, low, high, "equivalent")
    outside = high < 1 - margin or low > 1 + margin
    return PairedErrors(ratio, low, high, "different" if outside else "inconclusive")


def resampled_means(values: Float[np.ndarray, "seed *start"], resamples: int = _RESAMPLES) -> Float[np.ndarray, " k"]:
    """Return the means of bootstrap samples: of the seeds, or of the splits and then of the starts within each.

    The generator is fixed, so that a number always has the same interval. Along axes of a sweep seeds are shared:
    average over the axes first, as a resampled point is not a new run (Efron & Tibshirani 1993, ch. 6).
    """
    generator = np.random.default_rng(0)
    count, *inner = values.shape
    chosen = generator.integers(count, size=(resamples, count))
    if not inner:
        return values[chosen].mean(axis=1)
    (starts,) = inner
    within = generator.integers(starts, size=(resamples, count, starts))
    return values[chosen[..., None], within].mean(axis=(1, 2))


def _ratio_interval(one: np.ndarray, two: np.ndarray, resolution: float) -> tuple[float, float, float]:
    """Return the geometric mean of one/two with its bootstrap interval, widened by the resolution of the times."""
    positive = (one > 0) & (two > 0)
    one, two = one[positive], two[positive]
    if len(one) < 2:
        return float("nan"), float("nan"), float("nan")
    logarithms = np.log(one / two)
    low, high = np.quantile(resampled_means(logarithms), [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    # Each time is known to within one block; where times scatter by less, averaging over seeds does not help.
    blur = resolution / float(np.median(two))
    ratio = float(np.exp(logarithms.mean()))
    return ratio, float(np.exp(low)) - blur, float(np.exp(high)) + blur


def _resolution(runs: xr.Dataset) -> float:
    return np.max(np.asarray(runs.attrs["check_every"], float))


def _fractions(successes: xr.DataArray) -> xr.Dataset:
    count = successes.sizes["seed"]
    number = successes.sum("seed")
    low, high = wilson(number, count)
    return xr.Dataset({"fraction": number / count, "low": (number.dims, low), "high": (number.dims, high)})


def _arrivals(hit: np.ndarray, steps: np.ndarray) -> Any:
    """Return the Kaplan-Meier survival function; runs that never arrive stay at risk for ever."""
    censored = np.isnan(hit)
    finite = np.isfinite(hit)
    # SciPy wants finite numbers: a run that failed is known never to arrive, so it is cut off after all others.
    beyond = 2 * max(1.0, float(np.max(steps)), float(np.max(hit[finite], initial=0)))
    sample = scipy.stats.CensoredData(
        uncensored=hit[finite],
        right=np.concatenate([steps[censored], np.full(np.sum(np.isinf(hit)), beyond)]),
    )
    return scipy.stats.ecdf(sample).sf


def _first_above(hit: np.ndarray, steps: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    survival = _arrivals(hit, steps)
    arrived = 1 - survival.probabilities
    times = survival.quantiles
    # Probabilities are products of fractions: compare beyond their rounding.
    reached = arrived[None, :] >= quantiles[:, None] * (1 - 1e-12)
    happened = np.isin(times, hit)[None, :]
    reached &= happened
    found = times[np.argmax(reached, axis=1)]
    return np.where(reached.any(axis=1), found, np.inf)


def _survival_at(hit: np.ndarray, steps: np.ndarray, times: np.ndarray) -> np.ndarray:
    return _arrivals(hit, steps).evaluate(times)


def __dir__() -> list[str]:
    return listed(globals())
