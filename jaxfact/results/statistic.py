"""Numbers that stand for the times of many seeds, under any weights of the seeds: quantiles, and the rate of the tail.

Weights are how often a bootstrap has drawn each seed; all resamples are taken at once.
"""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from jaxfact.inputs import problem_with


class Statistic(Protocol):
    """A time that stands for those of all seeds at one point of a grid; `text` says in words which."""

    @property
    def text(self) -> str:
        """What the time is."""
        ...

    def of(
        self, hit: Float[np.ndarray, " n"], steps: Float[np.ndarray, " n"], weights: Float[np.ndarray, "b n"]
    ) -> Float[np.ndarray, " b"]:
        """Return it for each row of weights: `hit` as in `Times`, `steps` where the budget came first."""
        ...


class Quantile(NamedTuple):
    """The time by which a fraction of the seeds had arrived (Kaplan & Meier 1958); inf where fewer ever do.

    Half the spacing of the looks is taken off, as a run arrived between two of them.
    """

    fraction: float = 0.5

    @property
    def text(self) -> str:
        """Which quantile."""
        return "median time" if self.fraction == 0.5 else f"time by which {100 * self.fraction:g} % arrive"

    def of(self, hit: np.ndarray, steps: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the quantile for each row of weights."""
        if not 0 < self.fraction < 1:
            raise problem_with("fraction", self.fraction, "needs a number between 0 and 1", "0.5 is the median")
        times = np.where(np.isnan(hit), steps, hit)
        order = np.lexsort((np.isnan(hit), times))
        times, drawn = times[order], np.asarray(weights, float)[:, order]
        at_risk = np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1]
        leaving = drawn * np.isfinite(hit[order])
        left = np.cumprod(1 - leaving / np.maximum(at_risk, 1), axis=1)
        # Fractions are products of fractions: compare beyond their rounding.
        reached = 1 - left >= self.fraction * (1 - 1e-12)
        first = np.where(reached.any(axis=1), times[reached.argmax(axis=1)], np.inf)
        return first - looks(hit) / 2


class Tail(NamedTuple):
    """The steps in which the number of runs that are still on their way falls by e, among the last `share` of them.

    That is 1/λ of P(T > t) ∝ e^(−λt): the maximum-likelihood estimate from the arrivals after the quantile 1 − share
    and the steps that were waited for them, those of runs that the budget cut off too. On steps that are looked at
    every k the wait is geometric, and λ = −ln(1 − p)/k. inf where a run never arrives.
    """

    share: float = 0.1

    @property
    def text(self) -> str:
        """Which part of the runs."""
        return f"steps by which the tail, the last {100 * self.share:g} % of the runs, falls by e"

    def of(self, hit: np.ndarray, steps: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return 1/λ for each row of weights; where the tail begins is not drawn anew."""
        if not 0 < self.share < 1:
            raise problem_with("share", self.share, "needs a number between 0 and 1", "0.1 is the last tenth")
        every = looks(hit)
        begins = Quantile(1 - self.share).of(hit, steps, np.ones((1, len(hit))))[0] + every / 2
        times = np.where(np.isnan(hit), steps, hit)
        late = times > begins
        if not np.isfinite(begins) or np.isinf(times).any():
            return np.full(len(weights), np.inf)
        arrived = weights[:, late] @ np.isfinite(hit[late]).astype(float)
        waited = weights[:, late] @ (times[late] - begins)
        with np.errstate(divide="ignore", invalid="ignore"):  # of a resample without any arrival
            if every == 0:
                return waited / arrived
            return -every / np.log1p(-arrived * every / waited)


def looks(hit: np.ndarray) -> float:
    """Return how many steps apart times are looked at, their greatest common divisor; 0 where they are not whole."""
    times = hit[np.isfinite(hit)]
    if len(times) == 0 or np.any(times != np.round(times)):
        return 0.0
    return float(np.gcd.reduce(times.astype(np.int64)))


def over_points(
    statistic: Statistic, hit: Float[np.ndarray, "p n"], steps: Float[np.ndarray, "p n"], weights: np.ndarray
) -> Float[np.ndarray, "b p"]:
    """Return a statistic at all points for each row of weights; seeds are drawn together at all points."""
    return np.stack([statistic.of(*both, weights) for both in zip(hit, steps, strict=True)], axis=1)


def draws(seeds: int, resamples: int) -> Float[np.ndarray, "b n"]:
    """Return how often each seed is drawn in each of so many bootstrap samples; the same at every call."""
    rng = np.random.default_rng(0)
    return np.stack([np.bincount(rng.integers(seeds, size=seeds), minlength=seeds) for _ in range(resamples)]).astype(
        float
    )
