"""Which form is the law: judged where it was not fitted, in whole regions of the grid."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxfact.results.forms import LawForm
from jaxfact.results.regions import FEWEST, regions
from jaxfact.results.simplifying import Fitted, candidates, score

_JUDGED = 40  # forms that are fitted without each region: the best by their errors where they were fitted
_PER_NUMBER = 3  # points that a free number needs
_TRIMS = 3  # ends of axes that may be cut off in search of where a law holds
_ENOUGH = 0.25  # of the error that is asked for: below it no more terms for the last digits
_KEPT = 0.5  # share of the points that a law must be about


class Points(NamedTuple):
    """Points of a grid with finite times: logarithms of the features, times, and where on each axis they are."""

    logs: Float[np.ndarray, "n k"]
    times: Float[np.ndarray, " n"]
    places: Mapping[str, Float[np.ndarray, " n"]]

    def where(self, rows: Bool[np.ndarray, " n"]) -> "Points":
        """Return some of the points."""
        return Points(self.logs[rows], self.times[rows], {name: at[rows] for name, at in self.places.items()})


class Judged(NamedTuple):
    """A form fitted to all points, and its errors in each region when it was fitted to the others."""

    fitted: Fitted
    errors: Mapping[str, float]

    @property
    def error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())

    @property
    def where(self) -> str:
        """Where that is."""
        return max(self.errors, key=lambda region: self.errors[region])


class Search(NamedTuple):
    """The best form, those that are the best of their complexity, simplest first, and the points that it is about."""

    best: Judged
    front: tuple[Judged, ...]
    rows: Bool[np.ndarray, " n"]


def search(points: Points, forms: tuple[LawForm, ...], error: float) -> Search:
    """Return the form that a law has, or the nearest to one.

    Where none is within the error on the whole grid, the end of an axis at which the best one misses most is cut off,
    and again, as long as every axis keeps three values and the rest is half of the points.
    """
    rows = np.ones(len(points.times), bool)
    first = found = _on_all(points, forms, error)
    for _ in range(_TRIMS):
        if found.best.error <= error:
            return found._replace(rows=rows)
        cut = _worst_end(points.where(rows), found.best.fitted)
        if cut is None:
            break
        name, value = cut
        rows = rows & (points.places[name] != value)
        if rows.mean() < _KEPT:
            break
        found = _on_all(points.where(rows), forms, error)
    return found._replace(rows=rows) if found.best.error <= error and rows.mean() >= _KEPT else first


def _on_all(points: Points, forms: tuple[LawForm, ...], error: float) -> Search:
    logs, times, _ = points
    tried = [one.refitted(logs, times) for form in forms for one in candidates(logs, times, form)]
    tried.sort(key=lambda one: score(one.error(logs, times), one.complexity))
    held_out = regions(points.places)
    judged = [judge(one, points, held_out) for one in tried[:_JUDGED]]
    within = [one for one in judged if one.error <= error]
    front, least = [], np.inf
    for one in sorted(judged, key=lambda one: (one.fitted.complexity, one.error)):
        if one.error < least:
            front.append(one)
            least = one.error
    best = min(within or judged, key=lambda one: score(one.error, one.fitted.complexity, _ENOUGH * error))
    return Search(best, tuple(front), np.ones(len(times), bool))


def judge(one: Fitted, points: Points, held_out: Mapping[str, Bool[np.ndarray, " n"]]) -> Judged:
    """Fit a form without each region and hold it against that."""
    errors = {}
    for text, rows in held_out.items():
        rest, region = points.where(~rows), points.where(rows)
        enough = len(rest.times) >= _PER_NUMBER * max(one.shape.free, 1)
        again = one.refitted(rest.logs, rest.times) if enough else one
        errors[text] = again.error(region.logs, region.times) if enough else np.inf
    return Judged(one, errors)


def _worst_end(points: Points, one: Fitted) -> tuple[str, float] | None:
    """Return the end of an axis where the errors are largest, among axes that have values to spare."""
    squares = one.shape.errors(points.logs, points.times, one.numbers) ** 2
    ends = {}
    for name, at in points.places.items():
        values = np.unique(at)
        if len(values) > FEWEST:
            ends |= {(name, float(end)): squares[at == end].mean() for end in (values[0], values[-1])}
    return max(ends, key=lambda end: ends[end]) if ends else None
