"""What the runs say, with intervals: survival, fractions, and paired comparisons."""

from typing import NamedTuple

import numpy as np
import scipy  # as in `deciding`
import xarray as xr
from jaxtyping import Float

from jaxfact.choices import listed
from jaxfact.engine.levels import is_below
from jaxfact.inputs import problem_with
from jaxfact.results.deciding import CONFIDENCE, numbers_that_decide, rounded_up, seeds_for_share, standard_errors
from jaxfact.results.forms import LawForm as LawForm
from jaxfact.results.intervals import quantile_interval as quantile_interval
from jaxfact.results.intervals import simultaneous_intervals as simultaneous_intervals
from jaxfact.results.intervals import survival_band as survival_band
from jaxfact.results.intervals import wilson as wilson
from jaxfact.results.laws import Law as Law
from jaxfact.results.laws import LawSearch as LawSearch
from jaxfact.results.laws import fit_law as fit_law
from jaxfact.results.statistic import Quantile as Quantile
from jaxfact.results.statistic import Statistic as Statistic
from jaxfact.results.statistic import Tail as Tail
from jaxfact.results.tables import table as table
from jaxfact.results.times import Times as Times
from jaxfact.results.times import time_to as time_to

_INTERVALS = ("quantile_interval", "simultaneous_intervals", "survival_band")
_TELLING = 5  # from fewer numbers their scatter is hardly known, and with it how many would decide


class PairedTimes(NamedTuple):
    """How two variants' hitting times compare, seed by seed.

    `ratio` is the geometric mean of the time ratios over seeds on which both arrived, `low` and `high` its interval
    over seeds (`mean_interval` of the logarithms), widened by the resolution of the times. `both`, `first_only`,
    `second_only`, `neither` count seeds; `p_success` is McNemar's exact p-value for a difference in arriving. `verdict`
    is "equivalent" where the interval lies within [1−margin, 1+margin] and, with the same confidence, at most `margin`
    of the seeds arrived with one variant alone; "different" where one of the two is excluded; else "inconclusive", and
    then `why` says why and what would help.
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
    why: str


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


def fraction_reached(runs: xr.Dataset, *, simultaneous: bool = False) -> xr.Dataset:
    """Return the fraction of seeds that reached each level, with Wilson's interval, as `fraction`, `low`, `high`.

    `simultaneous` intervals hold together, at all levels, points and variants (`simultaneous_intervals`). NaN where a
    variant was not run down to a level.
    """
    return _fractions(np.isfinite(runs.hit), simultaneous).where(~is_beyond(runs))


def outcome_fractions(runs: xr.Dataset, outcome: str | None = None, *, simultaneous: bool = False) -> xr.Dataset:
    """Return the fraction of seeds with each outcome that occurs, or with one, along `outcome`, with Wilson's interval.

    `simultaneous` intervals hold together, for all outcomes, points and variants (`simultaneous_intervals`).
    """
    names = np.unique(runs.outcome.values) if outcome is None else np.array([outcome])
    each = runs.outcome == xr.DataArray(names, {"outcome_name": names}, "outcome_name")
    return _fractions(each, simultaneous).rename(outcome_name="outcome")


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
    # Twice the probability of no more heads than these, of a fair coin.
    p_success = min(1.0, 2 * float(scipy.special.betainc(max(only), min(only) + 1, 0.5))) if sum(only) else 1.0
    ratios = _ratios(one[arrived], two[arrived], float(_resolution(runs)))
    alone = _Alone(sum(only), len(one), margin)
    by_times, by_shares = _side(ratios.interval, margin), alone.verdict
    verdict = next((said for said in ("different", "inconclusive") if said in (by_times, by_shares)), "equivalent")
    why = ""
    if verdict == "inconclusive":
        none = not arrived.any() and not sum(only)
        reasons = ["no start arrived with either"] if none else [ratios.why(margin) * (by_times == verdict), alone.why]
        why = "; ".join(filter(None, reasons))
    both, (first_only, second_only) = int(arrived.sum()), only
    neither = len(one) - both - first_only - second_only
    return PairedTimes(*ratios.interval, both, first_only, second_only, neither, p_success, verdict, why)


class PairedErrors(NamedTuple):
    """The ratio of two errors made on the same splits and starts: geometric mean, interval and verdict.

    `why` says why an "inconclusive" one is that, and what would help.
    """

    ratio: float
    low: float
    high: float
    verdict: str
    why: str


def paired_errors(
    one: Float[np.ndarray, "split seed"], two: Float[np.ndarray, "split seed"], margin: float = 0.05
) -> PairedErrors:
    """Compare errors above 0 on the same splits and starts; "equivalent" where the interval lies within the margin.

    The splits are what is independent: a split's errors count as one number, the mean of their logarithms.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # of runs that diverged, and of errors that are zero
        logarithms = np.log(one / two).mean(axis=1)
    found = mean_interval(logarithms)
    ratio, low, high = (float(np.exp(value)) for value in found)
    verdict = _side((ratio, low, high), margin)
    why = _too_wide(found, len(logarithms), margin, 0.0, "splits") if verdict == "inconclusive" else ""
    return PairedErrors(ratio, low, high, verdict, why)


def mean_interval(values: Float[np.ndarray, " n"], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return the mean of independent numbers and the two ends of its interval, at 95 % unless said otherwise.

    Student's interval x̄ ± t·s/√n, joined with Hall's (1992), which is Student's after the cubic transformation that
    takes the sample's skewness out. t is the quantile at 1 − α/2 with α = 0.05·n/(n + 6), at 95 %, as few numbers do
    not show how skewed their law is. From two numbers on this covers the mean of a normal, a uniform and an exponential
    law in at least 95 % of cases, and that of a lognormal one (σ = 1) in 93 %, where a bootstrap covers 49 % of normal
    means from two numbers and 85 % from five. The numbers are the seeds, or the splits: along axes of a sweep seeds are
    shared, so average over the axes first. The ends are NaN where fewer than two numbers, or one that is not finite,
    give no interval.
    """
    values = np.asarray(values, float)
    count, mean = len(values), float(np.mean(values))
    if count < 2 or not np.all(np.isfinite(values)):
        return mean, float("nan"), float("nan")
    spread, reach = float(np.std(values, ddof=1)), standard_errors(count, confidence) / count**0.5
    ends = [mean - spread * reach, mean + spread * reach]
    if count > 2 and spread > 0:
        skewness = float(np.sum(((values - mean) / spread) ** 3)) * count / ((count - 1) * (count - 2))
        ends += [mean - spread * _untransformed(side * reach, skewness, count) for side in (1, -1)]
    return mean, min(ends), max(ends)


def judged_levels(runs: xr.Dataset) -> dict[float, list[str]]:
    """Return the variants by the distance at which they are judged.

    First come all of them, at the coarsest distance to which one was run, or the first above it to which all were
    timed; then, at each finer one, those that were run that far. One without a tolerance was run to the lowest level;
    runs without variants are one called "".
    """
    tolerances = runs.tolerance.fillna(float(runs.level.min()))
    tolerances = tolerances.max([dim for dim in tolerances.dims if dim != "variant"]).values
    names = runs.variant.values.tolist() if "variant" in runs.dims else [""]
    each = dict(zip(names, np.broadcast_to(tolerances, len(names)).tolist(), strict=True))
    coarsest, *finer = sorted(set(each.values()), reverse=True)
    shared = [level for level in _shared_levels(runs) if not is_below(level, coarsest)]
    levels = [min(shared, default=coarsest), *finer]
    return {level: [name for name, own in each.items() if not is_below(level, own)] for level in levels}


def _shared_levels(runs: xr.Dataset) -> list[float]:
    """Return the levels to which all variants were timed: who came to a finer one must have met them."""
    ordered = np.isfinite(runs.hit).sortby("level")
    met = ordered.any([dim for dim in ordered.dims if dim not in ("variant", "level")]).transpose("level", ...).values
    untimed = np.maximum.accumulate(met, axis=0) & ~met
    return ordered.level.values[~untimed.reshape(len(met), -1).any(axis=1)].tolist()


class _Ratios(NamedTuple):
    """The logarithms of time ratios, seed by seed, and how far the resolution of the times may move one."""

    logarithms: np.ndarray
    blur: float

    @property
    def interval(self) -> tuple[float, float, float]:
        if len(self.logarithms) < 2:
            return float("nan"), float("nan"), float("nan")
        ratio, low, high = (float(np.exp(value)) for value in mean_interval(self.logarithms))
        return ratio, low - self.blur, high + self.blur

    def why(self, margin: float) -> str:
        count = len(self.logarithms)
        if count < 2:
            return f"both arrived on {count or 'no'} start{'s' * (count != 1)}, and times are compared on at least two"
        return _too_wide(mean_interval(self.logarithms), count, margin, self.blur, "seeds")


def _ratios(one: np.ndarray, two: np.ndarray, resolution: float) -> _Ratios:
    positive = (one > 0) & (two > 0)
    one, two = one[positive], two[positive]
    # Each time is known to within one block; where times scatter by less, averaging over seeds does not help.
    return _Ratios(np.log(one / two), resolution / float(np.median(two)) if len(two) else float("nan"))


class _Alone(NamedTuple):
    """On how many of the seeds one variant alone arrived."""

    number: int
    count: int
    margin: float

    @property
    def verdict(self) -> str:
        low, high = wilson(self.number, self.count)
        if high <= self.margin:
            return "equivalent"
        return "different" if low > self.margin else "inconclusive"

    @property
    def why(self) -> str:
        if self.verdict != "inconclusive":
            return ""
        needed = rounded_up(seeds_for_share(self.number / self.count, self.margin))
        most = float(wilson(self.number, self.count)[1])
        seen = f"on {self.number or 'none'} of {self.count} starts only one arrived, but that may be so on up to "
        return f"{seen}{100 * most:.2g} %: about {needed} seeds decide at this rate"


def _side(interval: tuple[float, float, float], margin: float) -> str:
    """Tell on which side of the margins an interval of ratios lies as a whole."""
    _, low, high = interval
    if 1 - margin <= low and high <= 1 + margin:
        return "equivalent"
    return "different" if high < 1 - margin or low > 1 + margin else "inconclusive"


def _too_wide(found: tuple[float, float, float], count: int, margin: float, blur: float, numbers: str) -> str:
    """Say that an interval of logarithms of ratios holds a margin, and what would help."""
    value = found[0]
    if not np.isfinite(value):
        return "an error is zero, or a run diverged"
    if count < 2:
        return f"one of the {numbers} gives no interval: take at least {_TELLING}"
    nearest = min((1 - margin, 1 + margin), key=lambda edge: abs(value - np.log(edge)))
    room = abs(value - np.log(nearest))
    if blur and room <= blur:
        return "the times are too coarse for that: look more often (a smaller check_every)"
    if count < _TELLING:
        return f"the interval holds {nearest:g}: {count} {numbers} are too few, take at least {_TELLING}"
    needed = rounded_up(numbers_that_decide(found, count, room - blur))
    return f"the interval holds {nearest:g}: about {needed} {numbers} decide if they scatter like these {count}"


def _untransformed(value: float, skewness: float, count: int) -> float:
    """Return the t at which Hall's g(t) = t + γt²/3 + γ²t³/27 + γ/(6n) has a value."""
    if abs(skewness) < 1e-6:
        return value
    return 3 / skewness * (float(np.cbrt(1 + skewness * (value - skewness / (6 * count)))) - 1)


def _resolution(runs: xr.Dataset) -> float:
    return np.max(np.asarray(runs.attrs["check_every"], float))


def _fractions(successes: xr.DataArray, simultaneous: bool = False) -> xr.Dataset:
    count = successes.sizes["seed"]
    number = successes.sum("seed")
    low, high = simultaneous_intervals(number.values, count) if simultaneous else wilson(number, count)
    return xr.Dataset({"fraction": number / count, "low": (number.dims, low), "high": (number.dims, high)})


def __dir__() -> list[str]:
    laws = ("Law", "LawForm", "LawSearch", "Quantile", "Statistic", "Tail", "fit_law")
    return listed(globals(), *laws, "Times", "time_to", "table", "wilson", *_INTERVALS)
