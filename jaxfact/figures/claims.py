"""The figure of a claim: what was measured, with its intervals, against what is promised."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.sheets import Look, drawing
from jaxfact.figures.styles import COLOURS, FEW, LINES, MARKERS


class Series(NamedTuple):
    """A curve with intervals, or points where there are few, or out of order; all arrays are equally long."""

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


class Plot(NamedTuple):
    """What a claim's figure shows: series measured in colour, promised ones in black.

    A promised series with `low` and `high` is a grey region. Scales are those of matplotlib.
    """

    x_label: str
    y_label: str
    measured: Sequence[Series]
    promised: Sequence[Series]
    x_scale: str = "linear"
    y_scale: str = "linear"


def claim(
    plot: Plot,
    title: str = "",
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot what was measured against what is promised; `title` goes above, in one line or two.

    The further arguments are those of `curve`.
    """
    with drawing(Look(ax, size, title, style), 2.9) as sheet:
        axes = sheet.axes
        axes.set(xlabel=plot.x_label, ylabel=plot.y_label, xscale=plot.x_scale, yscale=plot.y_scale)
        for place, series in enumerate(plot.measured):
            _measured(axes, series, place)
        for place, series in enumerate(plot.promised):
            _promised(axes, series, place)
        for series in (*plot.measured, *plot.promised):
            arrays = {"x": series.x, "y": series.y, "low": series.low, "high": series.high}
            for what, values in arrays.items():
                if values is not None:
                    sheet.column((series.name, what), values)
        return sheet.finish(title.replace("\n", ". ") or plot.y_label)


def _measured(axes: Axes, series: Series, place: int) -> None:
    colour, x, y = COLOURS[place % len(COLOURS)], np.asarray(series.x, float), np.asarray(series.y, float)
    few = len(x) <= 3 * FEW or bool(np.any(np.diff(x) < 0))
    size = 3.5 if len(x) <= 3 * FEW else 2
    style = {"marker": MARKERS[place % len(MARKERS)], "markersize": size, "linestyle": "none"} if few else {}
    axes.plot(x, y, color=colour, label=series.name, zorder=3, **style)  # pyright: ignore[reportArgumentType]
    if series.low is None or series.high is None:
        return
    if few:
        axes.vlines(x, series.low, series.high, color=colour, linewidth=1, zorder=3)
    else:
        axes.fill_between(x, series.low, series.high, color=colour, alpha=0.25, linewidth=0)


def _promised(axes: Axes, series: Series, place: int) -> None:
    if series.low is not None and series.high is not None:
        axes.fill_between(series.x, series.low, series.high, color="0.88", linewidth=0, zorder=0, label=series.name)
        return
    axes.plot(series.x, series.y, color="black", linestyle=LINES[(1 + place) % len(LINES)], label=series.name, zorder=2)
