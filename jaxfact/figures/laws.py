"""The figure of a law of hitting times."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.sheets import Look, drawing, provenance
from jaxfact.figures.styles import COLOURS, name_few_minor_ticks
from jaxfact.inputs import problem_with
from jaxfact.results import stats
from jaxfact.results.law_grid import Grid

_MEASURED = COLOURS[0]


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
    """Plot hitting times against a law's, one point for each point of the grid; the formula stands above.

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
    known = np.isfinite(measured) & (measured > 0)
    with drawing(Look(ax, size, title, style), 2.9) as sheet:
        axes = sheet.axes
        off = np.abs(promised / np.where(known, measured, 1) - 1) > one.error
        points = {"measured": (known & ~off, _MEASURED), "off by more": (known & off, "none")}
        for name, (some, inside) in points.items():
            if some.any():
                look = {"color": _MEASURED, "markerfacecolor": inside, "markersize": 3.5}
                axes.plot(promised[some], measured[some], "o", label=name, **look)
        ends = np.array([promised[known].min() * 0.8, promised[known].max() * 1.25]) if known.any() else np.ones(2)
        axes.plot(ends, ends, color="black", linewidth=0.8, label="the law")
        axes.fill_between(ends, ends * (1 - one.error), ends * (1 + one.error), color="0.88", linewidth=0, zorder=0)
        words = f"{one.statistic.text}, measured"
        axes.set(xscale="log", yscale="log", xlabel="time by the law, in steps", ylabel=words)
        for which in (axes.xaxis, axes.yaxis):
            name_few_minor_ticks(which)
        sheet.column(("law",), promised)
        sheet.column(("measured",), measured)
        latex = one.latex.replace(r"\frac", r"\dfrac")  # large enough to be read
        formula = f"${latex}$" if one is not nearest else f"No simple law; the nearest: ${latex}$"
        note = f"grey: within {100 * one.error:.2g} %, the error where it was not fitted"
        return sheet.finish(formula, note, f"{one.statistic.text} in steps; {_provenance(runs, times)}")


def _provenance(runs: xr.Dataset | None, times: stats.Times) -> str:
    return f"{times.hit.sizes['seed']} seeds" if runs is None else provenance(runs)
