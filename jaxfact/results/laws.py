"""Finding simple laws of hitting times over the axes of a sweep."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from jaxfact.inputs import positive, problem_with
from jaxfact.results.deciding import standard_errors
from jaxfact.results.forms import LawForm
from jaxfact.results.formulas import Writing, symbol
from jaxfact.results.law import Law, LawSearch, percent
from jaxfact.results.law_grid import FEWEST_POINTS, Grid
from jaxfact.results.law_search import Judged, Points, judge, search
from jaxfact.results.regions import FEWEST, regions
from jaxfact.results.simplifying import Fitted
from jaxfact.results.statistic import Quantile, Statistic, draws, over_points
from jaxfact.results.times import Times

_RESAMPLES = 200
_MEDIAN = Quantile()


def fit_law(
    times: Times,
    *,
    given: Mapping[str, xr.DataArray] | None = None,
    error: float = 0.05,
    statistic: Statistic = _MEDIAN,
    forms: Iterable[LawForm] = LawForm,
) -> LawSearch:
    """Find the simplest law of hitting times over the axes of a sweep: max_j(b_j + Σᵢ c_ji ln xᵢ)/ρ(x), or C·Πxᵢ^pᵢ.

    The xᵢ are the axes, and quantities that are `given`; what others determine (a logarithm that is a sum of theirs) is
    left out, the given first to stay. Slopes are multiples of ½ or ¼, or fitted; ρ is x, ln(1 + x) or −ln(1 − x) of a
    product x of at most two powers. What is fitted is the relative error of times. A form's numbers are fitted again
    without each half of each axis of three values or more, and without each corner of two; its error is the largest
    root mean square in what was held out. Of the forms within `error` that one is the law whose terms all earn their
    place: one unit of complexity, a term or a number, has to lower the error by a fifth, down to a quarter of `error`;
    and a fitted number counts as nought, a factor as one, where its interval holds that. The forms themselves are found
    with all points in view; `Law.against` other times is a test that they have not seen. Where there is no law, ends of
    axes are cut off, which `breaks` tells, as long as half of the points are left. Where the budget came first, or less
    than half of the runs ever arrive, the time is not known; a law that promises arrival there breaks there.

    Args:
        times: Hitting times, of `time_to(runs)` along `level` or of one level, along `seed` and axes of
            numbers above 0.
        given: Derived quantities above 0 by name, along axes.
        error: The relative error below which a law is one.
        statistic: What stands for the times of all seeds: `Quantile()` or `Tail()`, whose laws are those of a rate.
        forms: What is tried.

    Raises:
        ValueError: For axes or quantities that are not numbers above 0, names that occur twice, no axis of three
            values, and no forms.
    """
    positive("error", error, "0.05 is five per cent")
    grid = Grid.of(times, statistic, given or {})
    if max(grid.times.shape, default=0) < FEWEST:
        raise problem_with("axes", grid.times.dims, f"none has {FEWEST} values, to hold some out", "sweep over more")
    known = int(grid.known.sum())
    if known < FEWEST_POINTS:
        return LawSearch(None, None, (), np.nan, f"times are known at {known} of {grid.known.size} points")
    points, tried = grid.points(), tuple(forms)
    if not tried:
        raise problem_with("forms", tried, "needs one at least", "give [jf.stats.LawForm.POWER]")
    if not regions(points.places):
        return LawSearch(None, None, (), np.nan, "times are known at less than three values of every axis")
    found = search(points, tried, error)
    resampled = _resampled(grid)
    seen = _Seen(points.where(found.rows), resampled[:, found.rows], grid.hit.shape[1])
    front = tuple(_law(one, grid, seen._replace(resampled=resampled[:0]), error) for one in found.front)
    best = _law(_without_idle_numbers(found.best, seen, error), grid, seen, error)
    noise = _noise(resampled, points.times)
    why = "" if best.error <= error else _why(best, noise, error)
    return LawSearch(None if why else best, best, front, noise, why)


class _Seen(NamedTuple):
    """What a law is fitted to, with its bootstrap over the seeds."""

    points: Points
    resampled: Float[np.ndarray, "b n"]
    seeds: int

    def measured(self, one: Fitted) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of a form when all that are not nought are fitted, and how far their intervals reach.

        These are Student's, with the standard error of the bootstrap; NaN without one.
        """
        used = (one.numbers != 0) | np.isnan(one.shape.fixed)
        used[:, -1] |= one.shape.rate.curve is None  # the factor 1 of a power law
        free = Fitted(one.shape._replace(fixed=np.where(used, np.nan, 0.0)), one.numbers)
        numbers = free.refitted(self.points.logs, self.points.times).numbers
        if len(self.resampled) == 0:
            return numbers, np.full_like(numbers, np.nan)
        again = [_refitted(free, self.points, times) for times in self.resampled]
        factor = standard_errors(self.seeds) * (self.seeds / (self.seeds - 1)) ** 0.5
        return numbers, factor * np.std(again, axis=0, ddof=1)


def _without_idle_numbers(one: Judged, seen: _Seen, error: float) -> Judged:
    """Leave out fitted numbers whose intervals hold nought, and factors whose intervals hold one, if the law bears it.

    Seeds are shared along the axes, so their scatter looks like a law of its own.
    """
    while True:
        shape, _ = one.fitted
        numbers, reach = seen.measured(one.fitted)
        idle = np.zeros_like(numbers)
        idle[:, -1] = np.all(shape.fixed[:, :-1] == 0, axis=1) & (shape.rate.curve is not None)
        is_idle = np.isnan(shape.fixed) & (np.abs(numbers - idle) <= reach)
        fixed = np.where(is_idle, idle, shape.fixed)
        simpler = Fitted(shape._replace(fixed=fixed), np.where(np.isnan(fixed), one.fitted.numbers, fixed))
        again = judge(simpler.refitted(seen.points.logs, seen.points.times), seen.points, regions(seen.points.places))
        if not is_idle.any() or again.error > error:
            return one
        one = again


def _law(one: Judged, grid: Grid, seen: _Seen, error: float) -> Law:
    """Tell all about a form; without resamples there are no intervals."""
    names, (shape, numbers) = grid.names, one.fitted
    symbols = [symbol(name, grid.features[name].attrs.get("latex", "")) for name in names]
    everywhere = Law(
        formula=Writing(names, False).law(shape, numbers),
        latex=Writing(symbols, True).law(shape, numbers),
        complexity=one.fitted.complexity,
        error=one.error,
        region=one.where,
        regions=one.errors,
        fit_error=one.fitted.error(seen.points.logs, seen.points.times),
        coefficients=_coefficients(one.fitted, names, seen),
        errors=grid.times,
        breaks=(),
        statistic=grid.statistic,
        shape=shape,
        numbers=numbers,
        features=names,
    )
    errors = everywhere.errors_on(grid)
    return replace(everywhere, errors=errors, breaks=tuple(_breaks(errors, error)))


def _coefficients(one: Fitted, names: tuple[str, ...], seen: _Seen) -> xr.Dataset:
    """Return the numbers of a form beside what they are when all that is not nought is fitted, with intervals."""
    measured, reach = seen.measured(one)
    arrays = {"value": one.numbers, "measured": measured, "low": measured - reach, "high": measured + reach}
    if one.shape.rate.curve is None:
        arrays = {name: np.column_stack([each[:, :-1], np.exp(each[:, -1])]) for name, each in arrays.items()}
    coordinates = {"piece": np.arange(1, len(measured) + 1), "term": [*names, "1"]}
    return xr.Dataset({name: (("piece", "term"), array) for name, array in arrays.items()}, coordinates)


def _refitted(one: Fitted, points: Points, times: np.ndarray) -> np.ndarray:
    known = np.isfinite(times) & (times > 0)
    return one.refitted(points.logs[known], times[known]).numbers


def _resampled(grid: Grid) -> np.ndarray:
    """Return the times at points where they are known, of bootstrap samples of the seeds."""
    seeds = grid.hit.shape[1]
    if seeds < 2:
        return np.empty((0, int(grid.known.sum())))
    return over_points(grid.statistic, grid.hit[grid.known], grid.steps[grid.known], draws(seeds, _RESAMPLES))


def _noise(resampled: np.ndarray, times: np.ndarray) -> float:
    """Return the median of the relative standard errors of times."""
    always = np.isfinite(resampled).all(axis=0) & (len(resampled) > 1)
    return float(np.median(resampled[:, always].std(axis=0) / times[always])) if always.any() else np.nan


def _breaks(errors: xr.DataArray, error: float) -> Iterator[str]:
    """Say at which values of an axis the law misses by more than the error, worst first, each without those before."""
    for name, value, known in _slices(errors):
        if len(known) == 0:
            yield f"{name} = {value:g} (the times are not known)"
    while any(len(known) for _, _, known in _slices(errors)):
        missed = {(name, value): np.sqrt(np.mean(known**2)) for name, value, known in _slices(errors) if len(known)}
        (name, value), by = max(missed.items(), key=lambda one: one[1])
        if by <= error:
            return
        yield f"{name} = {value:g} ({percent(by)})"
        errors = errors.where(errors[name] != value)


def _slices(errors: xr.DataArray) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yield each value of each axis with the known errors there."""
    for axis, name in enumerate(map(str, errors.dims)):
        for value, there in zip(errors[name].values.tolist(), np.moveaxis(errors.values, axis, 0), strict=True):
            yield name, value, there[~np.isnan(there)]


def _why(nearest: Law, noise: float, error: float) -> str:
    missed = f"the nearest form, {nearest.formula}, misses {nearest.region} by {percent(nearest.error)}"
    if noise > error / 2:
        return f"{missed}; the times themselves are known to {percent(noise)} only, take more seeds"
    return missed
