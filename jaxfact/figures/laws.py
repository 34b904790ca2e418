"""The figure of a law of hitting times."""

import itertools
import math
import textwrap
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser

from jaxfact.choices import Venue
from jaxfact.figures.labels import spoken
from jaxfact.figures.sheets import LETTER, Look, Sheet, drawing, provenance
from jaxfact.figures.styles import COLOURS, MARKERS, name_few_minor_ticks
from jaxfact.inputs import problem_with
from jaxfact.results import stats
from jaxfact.results.law_grid import Grid

_SHARE = 0.8  # of the width of a figure, for what stands above its axes


def law(
    found: stats.Law | stats.LawSearch,
    times: stats.Times,
    *,
    given: Mapping[str, xr.DataArray] | None = None,
    runs: xr.Dataset | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot hitting times against a law's, one point for each of the grid; the formula stands above.

    Where the shorter axes have few values, each has its colour and marker; a triangle stands at the upper edge where no
    time is known.

    Args:
        found: what `jaxfact.stats.fit_law` returned; of a search without a law, the nearest form is drawn.
        times: the hitting times, those that it was fitted to or others.
        given: derived quantities by name, as they were given to `fit_law`.
        runs: those of the times, for a caption that says with which precision and step they were run.
        ax, size, title, style: as in `curve`.

    Raises:
        ValueError: For a search that has found no form at all.
    """
    nearest = None if isinstance(found, stats.Law) or found.law is not None else found.nearest
    one = found if isinstance(found, stats.Law) else found.law or nearest
    if one is None:
        raise problem_with("found", "no law", str(found).removeprefix("no simple law: "), "sweep over more")
    grid = Grid.of(times, one.statistic, given or {})
    measured, promised = np.ravel(grid.times.values), np.ravel(one.predict(grid.features).values)
    with drawing(Look(ax, size, title, style), 2.9) as sheet:
        axes = sheet.axes
        axes.set(xscale="log", yscale="log", xlabel="time by the law, in steps")
        axes.set_ylabel(f"{one.statistic.text}, measured")
        lost = _points(sheet, grid.times, promised, one.error)
        for which in (axes.xaxis, axes.yaxis):
            name_few_minor_ticks(which)
        for name in grid.times.dims:
            sheet.column((str(name),), grid.times[name].broadcast_like(grid.times).transpose(*grid.times.dims))
        sheet.column(("law",), promised)
        sheet.column(("measured",), measured)
        formula, lead = f"${one.latex}$", "" if one is not nearest else "No simple law; the nearest:\n"
        note = f"grey: within {100 * one.error:.2g} %, the error where it was not fitted; hollow: off by more{lost}"
        told = f"{one.statistic.text} in steps; {_provenance(runs, times)}"
        above = lead + _fitting(sheet, one)
        return sheet.finish(lead + formula.replace(r"\frac", r"\dfrac"), note, told, above=above)


def _points(sheet: Sheet, times: xr.DataArray, promised: np.ndarray, error: float) -> str:
    """Draw the points of the grid, a colour and marker for each value of its shorter axes, and the law with its error.

    Returns what is to be said of points that have no place on the axes.
    """
    axes, measured = sheet.axes, np.ravel(times.values)
    known, never = np.isfinite(measured) & (measured > 0), ~np.isfinite(measured)
    promises = np.isfinite(promised) & (promised > 0)
    off = np.abs(promised / np.where(known, measured, 1) - 1) > error
    parts = _parts(times)
    for place, (name, mine) in enumerate(parts.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        size = 3.5 + 0.9 * (len(parts) - 1 - place)  # so that points in one place are all seen
        look = {"color": colour, "marker": marker, "markersize": size, "linestyle": "none"}
        axes.plot([], [], label=name, **look)
        for some, inside in ((known & ~off, colour), (known & off, "none")):
            drawn = mine & some & promises
            axes.plot(promised[drawn], measured[drawn], markerfacecolor=inside, **look)
        sheet.mark_edge(axes, np.unique(promised[mine & never & promises]), colour)
    both = promised[known & promises]
    if both.size:
        ends = np.array([both.min() * 0.8, both.max() * 1.25])
        axes.plot(ends, ends, color="black", linewidth=0.8, label="the law")
        axes.set_ylim(axes.get_ylim())  # which a large error shall not stretch
        high = ends / (1 - error) if error < 1 else np.full(2, axes.get_ylim()[1])
        axes.fill_between(ends, ends / (1 + error), high, color="0.88", linewidth=0, zorder=0)
    lost = ~(promises & (known | never))
    said = "; triangle: no time is known" if (never & promises).any() else ""
    return said + (f"; at {lost.sum()} of {lost.size} points there is no time above 0" if lost.any() else "")


def _parts(times: xr.DataArray) -> dict[str, np.ndarray]:
    """Return which points of the grid have which values on all axes but the longest, where these are few."""
    several = [dim for dim in times.dims if times.sizes[dim] > 1]
    shorter = sorted(several, key=lambda dim: times.sizes[dim])[:-1]
    count = math.prod(times.sizes[dim] for dim in shorter)
    if not 1 < count <= len(COLOURS):
        return {"measured": np.ones(times.size, bool)}
    at = [np.ravel(times[dim].broadcast_like(times).transpose(*times.dims).values) for dim in shorter]
    found: dict[str, np.ndarray] = {}
    for point in itertools.product(*(times[dim].values for dim in shorter)):
        name = ", ".join(f"{spoken(dim)} = {value:.4g}" for dim, value in zip(shorter, point, strict=True))
        found[name] = np.logical_and.reduce([one == value for one, value in zip(at, point, strict=True)])
    return found


def _fitting(sheet: Sheet, one: stats.Law) -> str:
    """Return the formula with fractions as large as there is room for, or else in plain text, in lines."""
    size = mpl.rcParams["axes.titlesize"]
    room = _SHARE * 72 * sheet.figure.get_figwidth()
    for formula in (f"${one.latex}$".replace(r"\frac", r"\dfrac"), f"${one.latex}$"):
        if MathTextParser("path").parse(formula, 72, FontProperties(size=size)).width <= room:
            return formula
    return "\n".join(textwrap.wrap(one.formula, int(room / (LETTER * size)), break_on_hyphens=False))


def _provenance(runs: xr.Dataset | None, times: stats.Times) -> str:
    return f"{times.hit.sizes['seed']} seeds" if runs is None else provenance(runs)
