"""Intervals of fractions and of times, of one, or of a whole grid or curve together."""

import numpy as np
import scipy  # as in `deciding`
import xarray as xr
from jaxtyping import Float, Int

from jaxfact.inputs import problem_with
from jaxfact.results.deciding import CONFIDENCE


def wilson(
    successes: xr.DataArray | np.ndarray | int, count: int, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's interval of a fraction (Wilson 1927).

    (p̂ + z²/2n ± z√(p̂(1−p̂)/n + z²/4n²))/(1 + z²/n); its end is 0 or 1 where none or all succeeded. Raises ValueError
    for numbers below 0 or above the count.
    """
    if count < 1 or np.any((np.asarray(successes) < 0) | (np.asarray(successes) > count)):
        raise problem_with("successes", f"{successes} of {count}", "needs numbers from 0 to the count", "give such")
    number, z = np.asarray(successes), scipy.special.ndtri((1 + confidence) / 2)
    share, whole = number / count, 2 * (count + z**2)
    middle = (2 * count * share + z**2) / whole
    reach = z / whole * np.sqrt(4 * count * share * (1 - share) + z**2)
    return np.where(number == 0, 0.0, middle - reach), np.where(number == count, 1.0, middle + reach)


def simultaneous_intervals(
    successes: Int[np.ndarray, "*grid"], count: int, confidence: float = CONFIDENCE
) -> tuple[Float[np.ndarray, "*grid"], Float[np.ndarray, "*grid"]]:
    """Return intervals of all fractions of a grid, which all hold together with at least the confidence.

    Each is Clopper and Pearson's (1934), exact at 1 − α/k for k fractions, so that by Bonferroni's inequality all k
    hold with probability 1 − α at least, however the fractions depend on one another: along the axes of a sweep seeds
    are shared. Wilson's intervals would not do, as they fall short for small fractions far out in the tails.

    Raises ValueError for numbers below 0 or above the count.
    """
    number = np.asarray(successes, float)
    if count < 1 or np.any((number < 0) | (number > count)):
        raise problem_with("successes", f"{successes} of {count}", "needs numbers from 0 to the count", "give such")
    tail = (1 - confidence) / max(number.size, 1) / 2
    low = scipy.special.betaincinv(np.maximum(number, 1), count - number + 1, tail)
    high = scipy.special.betaincinv(number + 1, np.maximum(count - number, 1), 1 - tail)
    return np.where(number == 0, 0.0, low), np.where(number == count, 1.0, high)


def survival_band(
    survival: Float[np.ndarray, "*any"], count: int, confidence: float = CONFIDENCE
) -> tuple[Float[np.ndarray, "*any"], Float[np.ndarray, "*any"]]:
    """Return a band that holds the true fraction not yet arrived at every step with at least the confidence.

    Ŝ ± √(ln(2/α)/2n), Dvoretzky, Kiefer and Wolfowitz's inequality with Massart's constant (1990), cut off at 0 and 1.
    It is for `count` runs none of which was cut off before the last step that is shown.
    """
    reach = np.sqrt(np.log(2 / (1 - confidence)) / (2 * count))
    survival = np.asarray(survival, float)
    return np.maximum(survival - reach, 0.0), np.minimum(survival + reach, 1.0)


def quantile_interval(times: np.ndarray, quantile: float, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Return a quantile of times and its interval, between two of them; NaN, the budget, and inf are beyond the last.

    The i-th of n times is below the quantile with the probability that a binomial number is at least i.
    """
    ranked = np.sort(np.where(np.isnan(times), np.inf, times))
    count, tail = len(ranked), (1 - confidence) / 2
    below = scipy.special.bdtr(np.arange(count + 1), count, quantile)  # P(number below ≤ k)
    first = int(np.searchsorted(below, tail, side="right"))  # the largest k with P(number < k) ≤ tail
    last = int(np.searchsorted(below, 1 - tail)) + 1
    middle = ranked[max(int(np.ceil(quantile * count * (1 - 1e-12))) - 1, 0)]
    low = ranked[first - 1] if first else 0.0
    return float(middle), float(low), float(ranked[last - 1] if last <= count else np.inf)
