"""How a number that runs show is judged: what is expected of it, its interval, and how seldom it is refuted wrongly."""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # whose `special` is loaded when an interval is asked for
import xarray as xr

from jaxfact.results import stats
from jaxfact.results.deciding import numbers_that_decide, rounded_up

ALARM = 2e-5
"""The chance that one number is called `violated` though what is expected of it holds; 480 of them stay below 1 %."""
MEAN, WILSON, RANGE = "95 % for the mean over seeds", "95 %, Wilson", "range over runs"
BOOTSTRAP, NORMAL = "95 %, bootstrap over seeds", "95 %, normal"
BRACKET = "95 %, between points of the grid"
LOOSE = 100
"""A bound this many times as large as what it bounds is called loose."""
_RESAMPLES = 200
_FREEDOM = 8  # of Student's law, for extremes: the largest of 30 that lie on a bound is found 3 errors beyond it


class Verdict(enum.StrEnum):
    """What runs say of a claim: it holds, it is refuted, its hypotheses are not met, or it is left open."""

    HOLDS = "holds"
    VIOLATED = "violated"
    OUTSIDE = "outside hypotheses"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Finding:
    """One number that the runs show, with its interval, what is expected of it, and what follows.

    `interval` says what `low` and `high` are. `verdict` is None where nothing is expected; where the number is left
    open, `why` says so, and what would help. `alarm` bounds the chance that it is called violated though what is
    expected holds, 0 where no chance is involved.
    """

    what: str
    measured: float
    low: float
    high: float
    interval: str
    expected: str
    verdict: Verdict | None
    why: str = ""
    alarm: float = 0.0


def above(what: str, values: np.ndarray, bound: float) -> Finding:
    """Expect the mean over seeds to lie above a bound, with its whole interval."""
    return _mean(what, values, bound, np.inf)


def below(what: str, values: np.ndarray, bound: float) -> Finding:
    """Expect the mean over seeds to lie below a bound, with its whole interval."""
    return _mean(what, values, -np.inf, bound)


def within(what: str, values: np.ndarray, least: float, most: float) -> Finding:
    """Expect the mean over seeds to lie between two numbers, with its whole interval."""
    return _mean(what, values, least, most)


def near(what: str, values: np.ndarray, bound: float) -> Finding:
    """Report the mean over seeds beside a number, and expect nothing."""
    return Finding(what, *stats.mean_interval(values), MEAN, f"about {bound:.3g}", None)


def bounded(what: str, values: np.ndarray, bound: float) -> Finding:
    """Expect the largest value of all runs to be at most a bound, which is called loose where it says little."""
    most = float(np.max(values))
    loose = " (loose)" if 0 < LOOSE * most < bound else ""
    verdict = Verdict.HOLDS if most <= bound else Verdict.VIOLATED
    return Finding(what, most, float(np.min(values)), most, RANGE, f"≤ {bound:.3g}{loose}", verdict)


def unjudged(what: str, values: np.ndarray) -> Finding:
    """Report the largest value of all runs, of which nothing is expected."""
    return Finding(what, float(np.max(values)), float(np.min(values)), float(np.max(values)), RANGE, "–", None)


def always(what: str, successes: np.ndarray) -> Finding:
    """Expect every run to succeed; among n of them a failing share of 3/n is noticed in 95 % of cases."""
    count = np.size(successes)
    low, high = stats.wilson(int(np.sum(successes)), count)
    verdict = Verdict.HOLDS if np.all(successes) else Verdict.VIOLATED
    return Finding(what, float(np.mean(successes)), float(low), float(high), WILSON, "1", verdict)


def rare(what: str, occurred: np.ndarray, most: float) -> Finding:
    """Expect fewer than a share of runs to do something, with its whole Wilson interval."""
    number, count = int(np.sum(occurred)), np.size(occurred)
    low, high = stats.wilson(number, count)
    found = Finding(what, number / count, float(low), float(high), WILSON, _said(-np.inf, most), None)
    # Clopper & Pearson's end, as Wilson's is false in a tail of few: at 10 of 10,000 expected, in 1e-4 of cases.
    least = float(scipy.special.betaincinv(number, count - number + 1, ALARM / 2)) if number else 0.0
    return _between(found, (least, 1.0), -np.inf, most)


def measured(what: str, value: float, error: float, least: float, most: float) -> Finding:
    """Expect a number to lie between two others, with its whole normal interval by its standard error."""
    ends = [float(scipy.special.ndtri(1 - alpha / 2)) * error for alpha in (0.05, ALARM)]
    (low, high), strict = ((value - reach, value + reach) for reach in ends)
    return _between(Finding(what, value, low, high, NORMAL, _said(least, most), None), strict, least, most)


def estimated(what: str, statistic: Callable[[np.ndarray], float], seeds: int, least: float, most: float) -> Finding:
    """Expect a statistic to lie between two numbers, with its whole interval by a bootstrap over seeds.

    `statistic` gets the places of the seeds it is to use, each once or more often. It is called violated by
    Student's interval with the bootstrap's standard error, as tails are beyond what resampling shows, and as an extreme
    of several numbers lies further out than the truth.
    """
    rng = np.random.default_rng(0)
    value = float(statistic(np.arange(seeds)))
    drawn = np.array([statistic(rng.integers(seeds, size=seeds)) for _ in range(_RESAMPLES)])
    if not np.all(np.isfinite(drawn)):
        # A run that diverged, or never arrived, shows nothing that was expected.
        return Finding(what, value, np.nan, np.nan, BOOTSTRAP, _said(least, most), Verdict.VIOLATED)
    low, high = (float(end) for end in np.quantile(drawn, [0.025, 0.975]))
    reach = float(scipy.special.stdtrit(_FREEDOM, 1 - ALARM / 2)) * float(np.std(drawn))
    found = Finding(what, value, low, high, BOOTSTRAP, _said(least, most), None)
    return _between(found, (value - reach, value + reach), least, most)


def bracketed(what: str, at: Sequence[float] | np.ndarray, successes: np.ndarray, least: float, most: float) -> Finding:
    """Expect the point at which half of the runs succeed to lie between two numbers, where fewer succeed further on.

    `at` holds the grid in ascending order, `successes` the runs along (grid, seed). The interval reaches from the last
    point at which, by Wilson's interval, more than half succeed to the next at which fewer do.
    """
    at, count = np.asarray(at, float), successes.shape[1]
    ends = [_bracket(at, *stats.wilson(successes.sum(axis=1), count, confidence)) for confidence in (0.95, 1 - ALARM)]
    (low, high), strict = ends
    middle = float(np.mean([end for end in (low, high) if np.isfinite(end)] or [np.nan]))
    return _between(Finding(what, middle, low, high, BRACKET, _said(least, most), None), strict, least, most)


def log_slopes(x: Sequence[float] | np.ndarray, y: xr.DataArray, axis: str) -> np.ndarray:
    """Return the least-squares slope of log y against log x for each seed."""
    return np.polyfit(np.log(x), np.log(y.transpose(axis, "seed").values), 1)[0]


def _bracket(at: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Return the last point before which more than half succeed, and the first after which fewer do."""
    more, fewer = low > 0.5, high < 0.5
    upward = np.flatnonzero(fewer)
    end = float(at[upward[0]]) if len(upward) else np.inf
    before = np.flatnonzero(more & (at < end))
    return (float(at[before[-1]]) if len(before) else -np.inf), end


def _mean(what: str, values: np.ndarray, least: float, most: float) -> Finding:
    """Judge a mean by its interval: it holds between the bounds, is refuted beyond one, and is left open on one."""
    values, expected = np.asarray(values, float), _said(least, most)
    found = mean, low, high = stats.mean_interval(values)
    if not np.all(np.isfinite(values)):
        # A run that diverged, or never arrived, shows nothing that was expected.
        return Finding(what, mean, low, high, MEAN, expected, Verdict.VIOLATED)
    verdict = _verdict((low, high), stats.mean_interval(values, 1 - ALARM)[1:], least, most)
    why = _open(found, len(values), least, most) if verdict is Verdict.INCONCLUSIVE else ""
    return Finding(what, mean, low, high, MEAN, expected, verdict, why, ALARM)


def _verdict(shown: tuple[float, float], strict: tuple[float, float], least: float, most: float) -> Verdict:
    """Say `holds` where the interval that is shown lies between the bounds, `violated` where the strict one does not
    meet them."""
    if least < shown[0] and shown[1] < most:
        return Verdict.HOLDS
    return Verdict.VIOLATED if strict[1] < least or strict[0] > most else Verdict.INCONCLUSIVE


def _between(found: Finding, strict: tuple[float, float], least: float, most: float) -> Finding:
    """Judge a number by the interval that it is shown with, and by the strict one."""
    verdict = _verdict((found.low, found.high), strict, least, most)
    why = "the interval reaches beyond what is expected: more seeds narrow it" * (verdict is Verdict.INCONCLUSIVE)
    return replace(found, verdict=verdict, why=why, alarm=ALARM)


def _said(least: float, most: float) -> str:
    """Say between which numbers something is expected; an end may be infinite."""
    if np.isinf(most):
        return f"> {least:.4g}"
    return f"< {most:.4g}" if np.isinf(least) else f"{least:.4g} to {most:.4g}"


def _open(found: tuple[float, float, float], count: int, least: float, most: float) -> str:
    """Say why an interval decides nothing, and how many seeds would."""
    if count < 2:
        return "one seed gives no interval: take at least 5"
    if found[2] < least or found[1] > most:
        return f"it is beyond what is expected, but so far by chance in more than {ALARM:g} of cases: take more seeds"
    nearest = min((least, most), key=lambda bound: abs(found[0] - bound))
    needed = numbers_that_decide(found, count, abs(found[0] - nearest))
    said = rounded_up(needed)
    return f"the interval holds {nearest:.3g}: about {said} seeds decide if they scatter like these {count}"
