"""The figure of a claim: what was measured, with its intervals, against what is promised."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.figures.styles import COLOURS, FEW, LINES, new_figure, put_title, styled

_MARKERS = ("o", "s", "^", "D", "v", "P")
_LONG = 26  # letters of a name that leaves no room for another one beside it


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


@styled
def claim(plot: Plot, title: str = "") -> Figure:
    """Plot what was measured against what is promised, 8 cm wide; `title` goes above, in one line or two."""
    figure, (axes,) = new_figure(2.9)
    axes.set(xlabel=plot.x_label, ylabel=plot.y_label, xscale=plot.x_scale, yscale=plot.y_scale)
    for place, series in enumerate(plot.measured):
        _measured(axes, series, place)
    for place, series in enumerate(plot.promised):
        _promised(axes, series, place)
    names = [series.name for series in (*plot.measured, *plot.promised)]
    figure.legend(loc="outside lower center", ncols=1 if max(map(len, names)) > _LONG else 2)
    if title:
        put_title(axes, title)
    return figure


def _measured(axes: Axes, series: Series, place: int) -> None:
    colour, x, y = COLOURS[place % len(COLOURS)], np.asarray(series.x, float), np.asarray(series.y, float)
    few = len(x) <= 3 * FEW or bool(np.any(np.diff(x) < 0))
    size = 3.5 if len(x) <= 3 * FEW else 2
    style = {"marker": _MARKERS[place % len(_MARKERS)], "markersize": size, "linestyle": "none"} if few else {}
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
