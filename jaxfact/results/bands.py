"""Intervals that hold together, over a whole grid or a whole curve."""

import numpy as np
import scipy  # as in `deciding`
from jaxtyping import Float, Int

from jaxfact.inputs import problem_with
from jaxfact.results.deciding import CONFIDENCE


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
