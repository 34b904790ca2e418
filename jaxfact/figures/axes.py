"""Figures of a sweep over its axes: how runs ended and when they arrived, one colour per variant.

Every function takes a dataset with the dimensions `seed`, perhaps `variant`, and the axes it draws along (select
a point of others first), and returns a matplotlib figure that belongs to no window.
"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxfact.figures.styles import (
    FEW,
    axis_scale,
    cell_edges,
    count_line,
    name_few_minor_ticks,
    new_figure,
    styled,
    variants_of,
)
from jaxfact.results import stats

_QUANTILES = (0.05, 0.5, 0.95)
_UNKNOWN = "0.75"  # the grey of what no number is known of


@styled
def outcomes(runs: xr.Dataset) -> Figure:
    """Plot how many of the runs at one point had each outcome, with Wilson intervals."""
    found = stats.outcome_fractions(runs)
    variants = list(variants_of(found))
    count = found.sizes["outcome"]
    figure, (axes,) = new_figure(1.1 + 0.22 * count * len(variants))
    height = 0.8 / len(variants)
    for place, (name, part, colour, _) in enumerate(variants):
        at = np.arange(count) + (place - (len(variants) - 1) / 2) * height
        # As lists: of an array with rows of one number matplotlib makes scalars, which NumPy deprecated.
        reach = np.maximum([part.fraction - part.low, part.high - part.fraction], 0).tolist()
        axes.barh(at, part.fraction, 0.9 * height, xerr=reach, color=colour, label=name or None)
    axes.set_yticks(np.arange(count), found.outcome.values)
    axes.invert_yaxis()
    axes.set(xlabel="fraction of runs", xlim=(0, 1.02))
    axes.set_title(count_line(runs, "bar: 95 % Wilson interval"))
    _name_variants(figure, axes)
    return figure


@styled
def outcomes_along(runs: xr.Dataset, axis: str) -> Figure:
    """Plot the fraction of runs with each outcome against an axis, one panel per outcome, with Wilson intervals."""
    found = stats.outcome_fractions(runs).sortby(axis)
    figure, panels = new_figure(1.0 + 1.15 * found.sizes["outcome"], found.sizes["outcome"])
    for axes, outcome in zip(panels, found.outcome.values, strict=True):
        for name, part, colour, line in variants_of(found.sel(outcome=outcome)):
            at = part[axis].values
            axes.fill_between(at, part.low, part.high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(at, part.fraction, color=colour, linestyle=line, marker=".", label=name or None)
        axes.set(ylabel=str(outcome), ylim=(-0.04, 1.04))
    label_axis(panels[-1], "x", runs[axis])
    panels[0].set_title("fractions of " + count_line(runs, "band: 95 % Wilson interval"))
    _name_variants(figure, panels[0])
    return figure


@styled
def times_along(runs: xr.Dataset, axis: str) -> Figure:
    """Plot quantiles of the time to a distance against an axis; at the upper edge where infinite.

    The distance is the coarsest to which a variant was run, which all can reach.
    """
    figure, (axes,) = new_figure(2.9)
    level = next(iter(stats.judged_levels(runs)))
    drawn = [
        (name, stats.time_to(part, level).quantile(_QUANTILES).sortby(axis), colour, line)
        for name, part, colour, line in variants_of(runs)
    ]
    shown = np.concatenate([times.values[(times.values > 0) & np.isfinite(times.values)] for _, times, _, _ in drawn])
    bottom, top = (shown.min() / 1.5, shown.max() * 1.5) if shown.size else (1.0, 10.0)
    for name, times, colour, line in drawn:
        at = times[axis].values
        low, middle, high = times.transpose("quantile", axis).values
        never = np.isinf(middle)
        band = np.clip(low, bottom, top), np.clip(high, bottom, top)
        axes.fill_between(at, *band, where=np.isfinite(low), color=colour, alpha=0.2, linewidth=0)
        axes.plot(at, np.where(never, np.nan, middle), color=colour, linestyle=line, marker=".", label=name or None)
        edge = axes.get_xaxis_transform()
        axes.plot(at[never], np.ones(never.sum()), "^", color=colour, transform=edge, clip_on=False, markersize=4)
    axes.set(yscale="log", ylim=(bottom, top), ylabel=f"step at which {level:g} is reached")
    name_few_minor_ticks(axes.yaxis)
    label_axis(axes, "x", runs[axis])
    axes.set_title(count_line(runs, "median, band: 5–95 %; triangle: not reached"))
    _name_variants(figure, axes)
    return figure


@styled
def heat_map(success: xr.DataArray, along: str, across: str, label: str) -> Figure:
    """Plot the fraction of seeds with success over two axes, one panel per variant; grey where it is no number."""
    fraction = success.mean("seed").sortby([along, across])
    names = fraction.variant.values.tolist() if "variant" in fraction.dims else [""]
    figure, panels = new_figure(0.7 + 1.9 * len(names), len(names))
    columns, rows = (cell_edges(fraction[name].values) for name in (along, across))
    for axes, name in zip(panels, names, strict=True):
        part = fraction.sel({"variant": name}) if "variant" in fraction.dims else fraction
        axes.set_facecolor(_UNKNOWN)
        # As an image: SVG viewers leave hairlines between cells.
        cells = part.transpose(across, along).where(np.isfinite(part))
        mesh = axes.pcolormesh(columns, rows, cells, cmap="cividis", vmin=0, vmax=1, rasterized=True)
        label_axis(axes, "y", fraction[across])
        axes.set(xlim=(columns[0], columns[-1]), ylim=(rows[0], rows[-1]))
        axes.set_title(name)
    label_axis(panels[-1], "x", fraction[along])
    figure.colorbar(mesh, ax=panels, label=label, aspect=30)
    if not np.isfinite(fraction).all():
        figure.legend(handles=[Patch(color=_UNKNOWN, label="no number")], loc="outside lower center")
    figure.suptitle(f"{success.sizes['seed']} runs per cell", x=0.01, ha="left")
    return figure


def axis_label(coordinate: xr.DataArray) -> str:
    """Return what a coordinate is and its symbol, or its unit where there is no symbol."""
    text = coordinate.attrs.get("long_name", str(coordinate.name).replace("_", " "))
    symbol, unit = coordinate.attrs.get("latex"), coordinate.attrs.get("units", "1")
    if symbol:
        return f"{text} {symbol}"
    return text if unit == "1" else f"{text} / {unit}"


def label_axis(axes: Axes, which: str, coordinate: xr.DataArray) -> None:
    """Label and scale an axis; if a linear one has few values, all are named."""
    values = np.sort(coordinate.values)
    scale = axis_scale(values)
    axes.set(**{f"{which}label": axis_label(coordinate), f"{which}scale": scale})
    if scale == "log":
        name_few_minor_ticks(axes.xaxis if which == "x" else axes.yaxis)
    elif len(values) <= FEW:
        axes.set(**{f"{which}ticks": values, f"{which}ticklabels": [f"{value:.4g}" for value in values]})


def _name_variants(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=2)
