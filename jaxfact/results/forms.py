"""The forms that a law may take: maxima of sums of logarithms over a rate, and maxima of power laws.

With features xᵢ > 0 every form is max_j (b_j + Σᵢ c_ji ln xᵢ), which is put equal to T·ρ or to ln T. So a sum of
logarithms has one piece, dominant balance two, and a power law with a factor log is a rate that is a power.
"""

import enum
from collections.abc import Iterator
from itertools import combinations, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_ROUNDS = 25  # of assigning points to pieces and fitting these: most starts settle within ten
_STARTS = 6  # random ones, beside one for each feature
_EXPONENTS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)
_MATTERS = 0.02  # below it ln(1 + x), x and −ln(1 − x) are the same to a per cent


class LawForm(enum.Enum):
    """What is tried: C·Πxᵢ^pᵢ; Σcᵢ ln xᵢ + b over a rate; and the larger of two such, where two effects balance.

    A rate is a product x of at most two powers, or ln(1 + x), or −ln(1 − x), all with any features.
    """

    POWER = (1, True)
    LOGARITHM = (1, False)
    LOGARITHMS = (2, False)
    POWERS = (2, True)

    @property
    def pieces(self) -> int:
        """How many terms the maximum is of."""
        return self.value[0]

    @property
    def is_power(self) -> bool:
        """Whether the logarithm of times is what the pieces are fitted to."""
        return self.value[1]


class Curve(enum.Enum):
    """What becomes of a product of powers x in a rate: x, ln(1 + x) of growth by steps, −ln(1 − x) of decay by them."""

    PLAIN = enum.auto()
    GROWTH = enum.auto()
    DECAY = enum.auto()

    def of(self, x: np.ndarray) -> np.ndarray:
        """Return the rate."""
        if self is Curve.PLAIN:
            return x
        with np.errstate(divide="ignore", invalid="ignore"):  # nothing decays by more than itself
            return np.log1p(x) if self is Curve.GROWTH else -np.log1p(-x)


class Rate(NamedTuple):
    """Times are divided by curve(Π xᵢ^exponentᵢ); without a curve it is the logarithm of times that is fitted."""

    curve: Curve | None
    exponents: tuple[float, ...]

    def of(self, logs: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " n"]:
        """Return ρ at points; 1 without a curve."""
        return np.ones(len(logs)) if self.curve is None else self.curve.of(np.exp(logs @ np.array(self.exponents)))

    def sides(self, logs: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the pieces are fitted to, and the weights that make its errors those of times, relative."""
        if self.curve is None:
            return np.log(times), np.ones_like(times)
        heights = times * self.of(logs)
        return heights, 1 / heights

    def times(self, logs: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Return the times of heights of the pieces."""
        return np.exp(heights) if self.curve is None else heights / self.of(logs)


class Shape(NamedTuple):
    """A form without its free numbers: what is fixed of each piece's slopes and, last, its offset; NaN is free."""

    rate: Rate
    fixed: Float[np.ndarray, "piece k+1"]

    @property
    def free(self) -> int:
        """How many numbers are fitted."""
        return int(np.isnan(self.fixed).sum())

    def heights(self, logs: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the highest piece at points."""
        return (logs @ numbers[:, :-1].T + numbers[:, -1]).max(axis=1)

    def errors(self, logs: np.ndarray, times: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Return the relative errors of times that these numbers give."""
        heights = self.heights(logs, numbers)
        with np.errstate(over="ignore"):  # of a power law far from where it was fitted
            return self.rate.times(logs, heights) / times - 1

    def fitted(self, logs: np.ndarray, times: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return all numbers, the free ones by least squares of relative errors, from the pieces of a start."""
        heights, weights = self.rate.sides(logs, times)
        return _settled(np.column_stack([logs, np.ones(len(logs))]), heights, weights, self.fixed, start)


def free_fit(rate: Rate, pieces: int, logs: np.ndarray, times: np.ndarray) -> tuple[Shape, np.ndarray]:
    """Fit a form of which nothing is fixed: of several starts the best (Magnani & Boyd 2009)."""
    columns = logs.shape[1] + 1
    shape = Shape(rate, np.full((pieces, columns), np.nan))
    heights, weights = rate.sides(logs, times)
    design = np.column_stack([logs, np.ones(len(logs))])
    best, least = np.zeros((pieces, columns)), np.inf
    for start in _starts(logs, pieces):
        numbers = _settled(design, heights, weights, shape.fixed, start)
        error = float(np.mean(((design @ numbers.T).max(axis=1) - heights) ** 2 * weights**2))
        if error < least:
            best, least = numbers, error
    return shape, best


def rates(logs: Float[np.ndarray, "n k"], features: int = 2) -> Iterator[Rate]:
    """List the rates of up to so many features, each once; ln(1 + x) and −ln(1 − x) where they differ from x."""
    count = logs.shape[1]
    for number in range(features + 1):
        for chosen in combinations(range(count), number):
            for powers in product(_EXPONENTS, repeat=number):
                exponents = np.zeros(count)
                exponents[list(chosen)] = powers
                yield Rate(Curve.PLAIN, tuple(exponents.tolist()))
                largest = float(np.exp((logs @ exponents).max()))
                if number and _MATTERS < largest < np.inf:
                    yield Rate(Curve.GROWTH, tuple(exponents.tolist()))
                    if largest < 1:
                        yield Rate(Curve.DECAY, tuple(exponents.tolist()))


def _starts(logs: np.ndarray, pieces: int) -> Iterator[np.ndarray]:
    """Yield planes to begin with: only which of them is highest where matters."""
    count = logs.shape[1]
    if pieces == 1:
        yield np.zeros((1, count + 1))
        return
    scales = np.maximum(logs.std(axis=0), 1e-12)
    centre = np.median(logs, axis=0)
    rng = np.random.default_rng(0)
    directions = [*np.eye(count), *rng.standard_normal((_STARTS, count))]
    for direction in directions:
        slopes = np.stack([np.zeros(count), direction / scales, *rng.standard_normal((pieces - 2, count))])
        yield np.column_stack([slopes, -slopes @ centre])


def _settled(design: np.ndarray, heights: np.ndarray, weights: np.ndarray, fixed: np.ndarray, start: np.ndarray):
    """Fit each piece where it is the highest, again and again; return the best that was met."""
    numbers, best, least, before = start, start, np.inf, None
    for _ in range(_ROUNDS if len(fixed) > 1 else 1):
        highest = (design @ numbers.T).argmax(axis=1)
        if before is not None and np.array_equal(highest, before):
            break
        before = highest
        numbers = np.stack(
            [_piece(design, heights, weights, fixed[j], numbers[j], highest == j) for j in range(len(fixed))]
        )
        error = float(np.sum((((design @ numbers.T).max(axis=1) - heights) * weights) ** 2))
        if error < least:
            best, least = numbers, error
    return best


def _piece(
    design: np.ndarray, heights: np.ndarray, weights: np.ndarray, fixed: np.ndarray, was: np.ndarray, rows: Bool
) -> np.ndarray:
    free = np.isnan(fixed)
    if not free.any():
        return fixed
    if rows.sum() < free.sum():
        return np.where(free, was, fixed)
    rest = heights[rows] - design[np.ix_(rows, ~free)] @ fixed[~free]
    weighted = design[np.ix_(rows, free)] * weights[rows, None]
    found = np.array(fixed)
    found[free] = np.linalg.lstsq(weighted.T @ weighted, weighted.T @ (rest * weights[rows]), rcond=None)[0]
    return found
