"""From a fit with free numbers to simple forms: which numbers may be nought, a half or one, and at what cost."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxfact.results.forms import Curve, LawForm, Rate, Shape, free_fit, rates

_EARNED = 0.2  # how much a unit of complexity must lower the logarithm of the error: each earns its place by a fifth
_EXACT = 1e-3  # errors below it count as it while forms are simplified
_STEPS = (0.5, 0.25)  # slopes of laws are mostly multiples of a half, and some of a quarter
_RATES = 6  # kept for further fitting: where there is a law, the right one is the best by far
_MOST = 1500  # points that the search looks at; the laws it finds are judged by all
_POLISHES = 20


class Fitted(NamedTuple):
    """A form with its numbers."""

    shape: Shape
    numbers: Float[np.ndarray, "piece k+1"]

    @property
    def complexity(self) -> float:
        """How long the formula is: a unit for each logarithm, power, constant, curve, and piece after the first.

        What all pieces share counts once. A multiple of a quarter counts half a unit more than one of a half, a fitted
        slope a unit more; a fixed constant is nought or one, and free.
        """
        slopes, offsets = self.shape.fixed[:, :-1], self.shape.fixed[:, -1]
        rate = self.shape.rate
        shared = np.all(slopes == slopes[:1], axis=0)
        once = [*slopes[0, shared], *slopes[:, ~shared].ravel()]
        curved = rate.curve not in (None, Curve.PLAIN)
        constants = np.isnan(offsets).sum()
        return sum(map(_cost, (*once, *rate.exponents))) + float(constants + len(offsets) - 1 + curved)

    def error(self, logs: np.ndarray, times: np.ndarray) -> float:
        """Return the root mean square of the relative errors of times."""
        errors = np.minimum(np.abs(self.shape.errors(logs, times, self.numbers)), 1e3)
        return float(np.sqrt(np.mean(errors**2)))

    def refitted(self, logs: np.ndarray, times: np.ndarray) -> "Fitted":
        """Return the same form fitted to other times."""
        return self._replace(numbers=self.shape.fitted(logs, times, self.numbers))


def score(error: float, complexity: float, enough: float = _EXACT) -> float:
    """Return what is least for the form to prefer; an error below `enough` is as good as that."""
    return float(np.log(max(error, enough)) + _EARNED * complexity)


def candidates(logs: np.ndarray, times: np.ndarray, form: LawForm) -> list[Fitted]:
    """Return what a form may become, each once, from all numbers free to all of them simple.

    Logarithms are over the rates that suit one piece best.
    """
    if len(times) > _MOST:
        some = np.random.default_rng(0).permutation(len(times))[:_MOST]
        logs, times = logs[some], times[some]
    found = {}
    for rate in [Rate(None, (0.0,) * logs.shape[1])] if form.is_power else _best_rates(logs, times):
        for one in _simpler_and_simpler(rate, form.pieces, logs, times):
            found[repr((rate, one.shape.fixed.tolist()))] = one
    return list(found.values())


def _best_rates(logs: np.ndarray, times: np.ndarray) -> list[Rate]:
    errors = {rate: Fitted(*free_fit(rate, 1, logs, times)).error(logs, times) for rate in rates(logs)}
    return sorted(errors, key=lambda rate: score(errors[rate], sum(map(_cost, rate.exponents))))[:_RATES]


def _simpler_and_simpler(rate: Rate, pieces: int, logs: np.ndarray, times: np.ndarray) -> Iterator[Fitted]:
    """Fix one number after the other, each time the one that costs least, then look about for better simple ones."""

    def judged(one: Fitted) -> float:
        return score(one.error(logs, times), one.complexity)

    def fixing(one: Fitted, place: tuple[int, int], value: float) -> Fitted:
        fixed = np.array(one.shape.fixed)
        fixed[place] = value
        shape = one.shape._replace(fixed=fixed)
        return Fitted(shape, shape.fitted(logs, times, np.where(np.isnan(fixed), one.numbers, fixed)))

    one = Fitted(*free_fit(rate, pieces, logs, times))
    yield one
    while places := [(j, i) for j, i in np.argwhere(np.isnan(one.shape.fixed[:, :-1])).tolist()]:
        trials = [fixing(one, place, value) for place in places for value in _simple_near(one.numbers[place])]
        one = min(trials, key=judged)
        yield one
    for _ in range(_POLISHES):
        trials = [fixing(one, place, value) for place, value in _moves(one.shape.fixed)]
        better = min(trials, key=judged)
        if judged(better) >= judged(one):
            break
        one = better
        yield one


def _moves(fixed: np.ndarray) -> Iterator[tuple[tuple[int, int], float]]:
    """List the neighbours of simple numbers: slopes a step away, or nought; offsets nought, one, or free."""
    last = fixed.shape[1] - 1
    for j, i in np.ndindex(*fixed.shape):
        value = float(fixed[j, i])
        if i == last:
            yield from (((j, i), other) for other in (0.0, 1.0, np.nan) if not np.array_equal(other, value, True))
        else:
            others = {value + sign * step for step in _STEPS for sign in (-1, 1)} | {0.0}
            yield from (((j, i), other) for other in others - {value})


def _simple_near(value: float) -> set[float]:
    return {0.0, *(round(value / step) * step for step in _STEPS)}


def _cost(slope: float) -> float:
    if np.isnan(slope):
        return 2.0
    return 0.0 if slope == 0 else 1.0 + 0.5 * (slope % 0.5 != 0)
