"""A law of hitting times: its formula, how well its numbers are known, where it breaks, and what it predicts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.inputs import problem_with
from jaxfact.results.forms import Shape
from jaxfact.results.law_grid import Grid
from jaxfact.results.statistic import Statistic
from jaxfact.results.times import Times


@dataclass(frozen=True, eq=False)
class Law:
    """A formula for times over the axes of a sweep, and how well it is known.

    `error` is the largest root-mean-square relative error in a region of the grid that was not fitted, `region` which
    that is, `regions` all of them; `fit_error` that where it was fitted. `coefficients` has along `piece` and `term`
    the `value` in the formula, and `measured`, `low`, `high` as below; the term "1" is a constant, and of a power law
    the factor. `errors` are the relative errors at the points of the grid, NaN where the time is not known; `breaks`
    says where they are too large.

    `measured` is the number where all that the formula contains are fitted, and the interval is for 95 % of experiments
    with other seeds: Student's, with the spread of a bootstrap of the seeds. In simulations it held the truth in 95 to
    100 % of the experiments that found the form, from two seeds on for powers, three for logarithms and five for
    balances (`benchmarks/laws.py coverage`). That a form is only nearly right is not part of it.
    """

    formula: str
    latex: str
    complexity: float
    error: float
    region: str
    regions: Mapping[str, float] = field(repr=False)
    fit_error: float
    coefficients: xr.Dataset = field(repr=False)
    errors: xr.DataArray = field(repr=False)
    breaks: tuple[str, ...]
    statistic: Statistic
    shape: Shape = field(repr=False)
    numbers: np.ndarray = field(repr=False)
    features: tuple[str, ...] = field(repr=False)

    def predict(self, point: Mapping[str, Any]) -> xr.DataArray:
        """Return times in steps at values of the features, numbers or labelled arrays, which are broadcast.

        Raises ValueError where a feature of the formula is missing.
        """
        used = np.any(self.numbers[:, :-1] != 0, axis=0) | (np.array(self.shape.rate.exponents) != 0)
        missing = [name for name, needed in zip(self.features, used, strict=True) if needed and name not in point]
        if missing:
            raise problem_with("point", sorted(point), f"the law is of {', '.join(missing)} too", "give all of them")
        given = xr.broadcast(*(xr.DataArray(point.get(name, 1.0)) for name in self.features))
        logs = np.stack([np.log(np.asarray(one.values, float)).ravel() for one in given], axis=1)
        times = self.shape.rate.times(logs, self.shape.heights(logs, self.numbers))
        return given[0].copy(data=times.reshape(given[0].shape)).rename("time")

    def against(self, times: Times, given: Mapping[str, xr.DataArray] | None = None) -> xr.DataArray:
        """Return the relative errors of the law at the points of other times, NaN where those are not known."""
        return self.errors_on(Grid.of(times, self.statistic, given or {}))

    def errors_on(self, grid: Grid) -> xr.DataArray:
        """Return the relative errors on a grid.

        Where the budget came first only a time promised before that is wrong, by as much at least; where runs never
        arrive any finite time is, by −1.
        """
        predicted = self.predict(grid.features)
        errors = predicted / grid.times.where(grid.times > 0) - 1
        early = predicted / grid.budget - 1
        return xr.where(np.isfinite(grid.budget), early.where(early < 0), errors).rename("error")

    def __str__(self) -> str:
        told = [
            f"{self.formula}   ({self.statistic.text})",
            f"error {percent(self.fit_error)}, at most {percent(self.error)} in a region held out ({self.region})",
        ]
        for text, value, measured, low, high in _each_number(self.coefficients, self.shape.rate.curve is None):
            told.append(f"  {text}: {value:.4g}, measured {measured:.4g} [{low:.4g}, {high:.4g}]")
        return "\n".join(told + [f"breaks at {text}" for text in self.breaks])


@dataclass(frozen=True, eq=False)
class LawSearch:
    """What was found: the simplest law within the error, or none.

    `front` holds the forms of which none simpler has a smaller error, simplest first, whether within the error or not;
    `nearest` is the law, or the form that would be if the error were larger, None where hardly a run arrives.
    `noise` is how well the times themselves are known, the median over the grid of their relative standard errors over
    seeds; `why` says why there is no law.
    """

    law: Law | None
    nearest: Law | None
    front: tuple[Law, ...]
    noise: float
    why: str

    def __str__(self) -> str:
        if self.law is None:
            return f"no simple law: {self.why}"
        others = [f"  {one.complexity:g}: {percent(one.error)}  {one.formula}" for one in self.front]
        return "\n".join([str(self.law), "by complexity, with the error in regions held out:", *others])


def _each_number(coefficients: xr.Dataset, is_power: bool) -> Iterator[tuple[str, float, float, float, float]]:
    """Yield the numbers of a law that are not nought: which, as written, as measured, and the ends of the interval."""
    many = coefficients.sizes["piece"] > 1
    for piece in coefficients.piece.values:
        for term in coefficients.term.values:
            one = coefficients.sel(piece=piece, term=term)
            value, measured, low, high = (float(one[name]) for name in ("value", "measured", "low", "high"))
            if value and low != high:
                text = str(term) if term != "1" else "factor" if is_power else "constant"
                yield f"{text}{f' in piece {piece}' * many}", value, measured, low, high


def percent(error: float) -> str:
    """Write an error."""
    return f"{100 * error:.2g} %"
