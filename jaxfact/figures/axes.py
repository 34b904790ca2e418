"""Figures of a sweep over one axis: how runs ended and when they arrived, one colour per variant.

Every function takes a dataset with the dimensions `seed`, perhaps `variant`, and the axis it draws along (select a
point of others first), and returns a matplotlib figure that belongs to no window.
"""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.figures.categories import NAMES, numbered
from jaxfact.figures.labels import label_axis
from jaxfact.figures.sheets import Look, Sheet, count_of, drawing, provenance
from jaxfact.figures.styles import along_one, at_one_point, name_few_minor_ticks, variants_of
from jaxfact.inputs import problem_with, shown
from jaxfact.results import stats

_QUANTILES = (0.05, 0.5, 0.95)


def outcomes(
    runs: xr.Dataset,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot how many of the runs at one point had each outcome, with Wilson intervals; the rest as in `curve`."""
    at_one_point(runs)
    found = stats.outcome_fractions(runs)
    count, bars = found.sizes["outcome"], runs.sizes.get("variant", 1)
    with drawing(Look(ax, size, title, style), 1.1 + 0.22 * count * bars) as sheet:
        height = 0.8 / bars
        variants = variants_of(found)
        for place, (name, part, colour, _) in enumerate(variants):
            at = np.arange(count) + (place - (bars - 1) / 2) * height
            # As lists: of an array with rows of one number matplotlib makes scalars, which NumPy deprecated.
            reach = np.maximum([part.fraction - part.low, part.high - part.fraction], 0).tolist()
            sheet.axes.barh(at, part.fraction, 0.9 * height, xerr=reach, color=colour, label=name or None)
            _keep(sheet, (name,), part)
        sheet.axes.set_yticks(np.arange(count), found.outcome.values)
        sheet.axes.invert_yaxis()
        sheet.axes.set(xlabel="fraction of runs", xlim=(0, 1.02))
        note = f"bar and line: 95 % Wilson interval of {count_of(runs)}"
        order = ", ".join(found.outcome.values.tolist())
        return sheet.finish("How the runs ended", note, f"from above: {order}; {provenance(runs)}")


def fractions(
    runs: xr.Dataset,
    axis: str,
    *,
    of: float | str | None = None,
    simultaneous: bool = False,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot fractions of the runs against an axis, with Wilson intervals, one colour and line per variant.

    Args:
        runs: results along `seed`, the axis, and perhaps `variant`.
        axis: what to draw along.
        of: a distance level, for the fraction that reached it, or an outcome; by default every outcome that occurs,
            one panel each.
        simultaneous: draw intervals that hold at all points together (`stats.exact_interval`, Bonferroni).
        ax, size, title, style: as in `curve`; axes are for one panel.

    Raises:
        ValueError: For an axis, a level or an outcome that the runs do not have, and runs with further axes.
    """
    along_one(runs, axis)
    runs = numbered(runs, axis)
    parts = {name: found.sortby(axis) for name, found in _fractions_of(runs, of, simultaneous).items()}
    with drawing(Look(ax, size, title, style), 1.0, len(parts), each=1.15 if len(parts) > 1 else 1.5) as sheet:
        for axes, (what, found) in zip(sheet.panels, parts.items(), strict=True):
            for place, (name, part, colour, line) in enumerate(variants_of(found)):
                at, ends = _beside(part, axis, place), (part.low.values, part.high.values)
                _along(axes, at, part.fraction.values, ends, NAMES in part[axis].attrs, (colour, line, name))
                _keep(sheet, (what if len(parts) > 1 else "", name), part, axis)
            axes.set(ylabel=what, ylim=(-0.04, 1.04))
        label_axis(sheet.panels[-1], "x", runs[axis])
        sheet.label_x(sheet.panels[-1].get_xlabel())
        kind = "95 % intervals that hold at all points together" if simultaneous else "95 % Wilson interval"
        seen = (
            "How the runs ended" if of is None else f"Fraction of runs: {next(iter(parts)).removeprefix('fraction ')}"
        )
        what = "line" if NAMES in runs[axis].attrs else "band"
        return sheet.finish(seen, f"{what}: {kind}, {count_of(runs)} at each point", provenance(runs))


def times_along(
    runs: xr.Dataset,
    axis: str,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot quantiles of the time to a distance against an axis; at the upper edge where infinite.

    The distance is the coarsest to which a variant was run, which all can reach. The rest is as in `curve`.
    """
    along_one(runs, axis)
    runs = numbered(runs, axis)
    level = next(iter(stats.judged_levels(runs)))
    quantiles = stats.time_to(runs, level).quantile(_QUANTILES).sortby(axis)
    known = quantiles.values[(quantiles.values > 0) & np.isfinite(quantiles.values)]
    bottom, top = (known.min() / 1.5, known.max() * 1.5) if known.size else (1.0, 10.0)
    with drawing(Look(ax, size, title, style), 2.9) as sheet:
        axes = sheet.axes
        for place, (name, part, colour, line) in enumerate(variants_of(quantiles.to_dataset(name="times"))):
            times, at = part.times, _beside(part, axis, place)
            low, middle, high = times.transpose("quantile", axis).values
            never = np.isinf(middle)
            band = np.where(np.isfinite(low), np.clip(low, bottom, top), np.nan), np.clip(high, bottom, top)
            look = colour, line, name
            _along(axes, at, np.where(never, np.nan, middle), band, NAMES in part[axis].attrs, look)
            sheet.mark_edge(axes, at[never], colour)
            columns = {axis: part[axis].values, "low": low, "median": middle, "high": high}
            for what, values in columns.items():
                sheet.column((name or "runs", what), values)
        axes.set(yscale="log", ylim=(bottom, top), ylabel=f"step at which {level:g} is reached")
        name_few_minor_ticks(axes.yaxis)
        label_axis(axes, "x", runs[axis])
        drawn = "dot: median, line" if NAMES in runs[axis].attrs else "line: median, band"
        note = f"{drawn}: 5–95 % of {count_of(runs)};\ntriangle: half do not arrive"
        return sheet.finish(f"Time to distance {level:g}", note, provenance(runs))


def _beside(part: xr.Dataset, axis: str, place: int) -> np.ndarray:
    """Return where a variant stands along the axis: at its values, and at categories side by side with the others."""
    at = part[axis].values
    return at + 0.12 * place if NAMES in part[axis].attrs else at


def _along(
    axes: Axes,
    at: np.ndarray,
    middle: np.ndarray,
    band: tuple[np.ndarray, np.ndarray],
    apart: bool,
    look: tuple[str, Any, str],
) -> None:
    """Draw a line in its band along numbers; along categories, which nothing lies between, dots and bars."""
    colour, line, name = look
    if apart:
        axes.vlines(at, *band, color=colour, linewidth=1)
        axes.plot(at, middle, ".", color=colour, label=name or None)
    else:
        axes.fill_between(at, *band, color=colour, alpha=0.2, linewidth=0)
        axes.plot(at, middle, color=colour, linestyle=line, marker=".", label=name or None)


def _fractions_of(runs: xr.Dataset, of: float | str | None, simultaneous: bool) -> dict[str, xr.Dataset]:
    """Return the fractions to draw by the name of their panel."""
    if of is not None and not isinstance(of, str):
        level = float(of)
        stats.time_to(runs, level)  # which refuses a level that is none
        found = stats.fraction_reached(runs.sel(level=[level], method="nearest"), simultaneous=simultaneous)
        return {f"fraction at {level:g}": found.isel(level=0, drop=True)}
    if of is not None and of not in OUTCOMES:
        raise problem_with("of", shown(of), f"the outcomes are {', '.join(OUTCOMES)}", "choose one, or a level")
    found = stats.outcome_fractions(runs, of, simultaneous=simultaneous)
    named = "{}" if of is None else "fraction {}"
    return {named.format(name): found.sel(outcome=name, drop=True) for name in found.outcome.values.tolist()}


def _keep(sheet: Sheet, name: tuple[str, ...], part: xr.Dataset, axis: str | None = None) -> None:
    """Keep fractions and their intervals as columns."""
    columns = {} if axis is None else {axis: part[axis].values}
    for what, values in (columns | {one: part[one].values for one in ("fraction", "low", "high")}).items():
        sheet.column((*name, what) if any(name) else ("runs", what), values)
