"""How far an interval of few numbers reaches, and how many numbers make it decide."""

import numpy as np
import scipy  # whose `special` is loaded when an interval is asked for

CONFIDENCE = 0.95
_CAUTION = 6
"""How many numbers it takes before their own skewness is half believed: α = 0.05·n/(n + 6) for an interval of n."""
_MOST = 10**6  # numbers that anybody would ask for


def standard_errors(count: int, confidence: float = CONFIDENCE) -> float:
    """Return how many standard errors an interval of `count` numbers reaches to either side; inf for one."""
    return float(_standard_errors(np.array(count), confidence)) if count > 1 else float("inf")


def _standard_errors(counts: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    alpha = (1 - confidence) * counts / (counts + _CAUTION)
    return scipy.special.stdtrit(counts - 1, 1 - alpha / 2)


def numbers_that_decide(found: tuple[float, float, float], count: int, room: float) -> float:
    """Return about how many numbers would make an interval reach no further than `room` from its mean.

    They are taken to scatter as the `count` numbers that `found` is from. inf where more than a million would, NaN
    where there is no interval to judge by.
    """
    mean, low, high = found
    reach = max(mean - low, high - mean)
    if np.isnan(reach):
        return float("nan")
    candidates = np.unique(np.geomspace(count, _MOST, 500).astype(int))
    relative = _standard_errors(candidates) / candidates**0.5
    enough = relative * reach <= room * relative[0]
    return float(candidates[enough.argmax()]) if enough.any() else float("inf")


def seeds_for_share(share: float, margin: float) -> float:
    """Return how many seeds put Wilson's interval of a share on one side of a margin; inf for a share that is on it."""
    # The interval holds what the score test does not reject: (p̂ − p)² ≤ z²·p(1 − p)/n.
    z = float(scipy.special.ndtri((1 + CONFIDENCE) / 2))
    gap = abs(share - margin)
    return float(np.ceil(z**2 * margin * (1 - margin) / gap**2)) if gap else float("inf")


def rounded_up(number: float) -> str:
    """Return a number of seeds or splits in two figures, rounded up."""
    if not np.isfinite(number):
        return "more than a million"
    unit = 10 ** max(0, int(np.log10(number)) - 1)
    return f"{int(np.ceil(number / unit) * unit)}"
