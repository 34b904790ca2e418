"""Figures with a point for each run, or for each point of a grid."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.figures.categories import NAMES, check_order
from jaxfact.figures.curves import path_of
from jaxfact.figures.labels import asks_for_log, axis_label, label_axis, plain_name, symbol_label
from jaxfact.figures.quantities import quantity
from jaxfact.figures.sheets import Look, Sheet, count_of, drawing, provenance, put_title
from jaxfact.figures.styles import COLOURS, MARKERS, along_one, name_few_minor_ticks, variants_of
from jaxfact.inputs import problem_with, shown
from jaxfact.results.success import axes_of, check_runs

_MANY = 3000  # points from which on a PDF has an image of them
# How runs end is not what variant they are of: hence other markers and, of the palette, the last colours first.
_ENDED = dict(zip(OUTCOMES, zip(reversed(COLOURS), MARKERS, strict=True), strict=True))


def bifurcation(
    runs: xr.Dataset,
    axis: str,
    *,
    of: str = "distance",
    last: int = 1,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot where each run ended against an axis, the step size say, one panel per variant: colours are outcomes.

    Below the edge of stability all runs end in one point; above it they cycle, wander or go off.

    Args:
        runs: results along `seed`, the axis, and perhaps `variant`.
        axis: what to draw along.
        of: what is drawn of each run, its last `"distance"` say, or the `"period"` of its cycle.
        last: how many of the last recorded values of a run are drawn, so that a cycle shows all its points.
        ax, size, title, style: as in `curve`; axes are for one panel.

    Raises:
        ValueError: For runs with further axes, a quantity that none of them has, and `last` without its record.
    """
    along_one(runs, axis)
    check_order(axis, runs[axis])
    values = quantity(runs, of).expand_dims("look") if last == 1 else _last(runs, of, last)
    values = values.where(values > 0) if of == "period" else values.astype(float)
    if values.isnull().all():
        needed = "no run ended in a cycle" if of == "period" else "no run has that number"
        raise problem_with("of", of, needed, "draw another, such as distance")
    if of != "period":  # of a run that diverged the last numbers may be no numbers
        lost = values.isnull() & (runs.outcome == "diverged")
        values = values.where(~lost, np.inf).assign_attrs(values.attrs)
    # What goes off would leave no room for the others.
    stays = runs.outcome != "diverged"
    inside = values.where(stays if stays.any() else True)
    known = inside.values[np.isfinite(inside.values) & (inside.values > 0)]
    is_log = asks_for_log(known)
    top = 2 * float(known.max()) if known.size else np.inf
    with drawing(Look(ax, size, title, style), 0.9, runs.sizes.get("variant", 1), each=1.7) as sheet:
        ended: dict[str, Any] = {}
        label = symbol_label(runs[of]) if of in runs and of != "period" else values.attrs["long_name"]
        reach = np.ptp(runs[axis].values) / 20 or 0.5
        both = runs[["outcome"]].assign(values=values)
        for axes, (name, part, _, _) in zip(sheet.panels, variants_of(both), strict=True):
            ended |= _ends(sheet, axes, part, axis, name, top)
            axes.set(ylabel=label)
            if is_log:
                axes.set(yscale="log", ylim=(known.min() / 2, top))
            put_title(axes, name)
        label_axis(sheet.panels[-1], "x", runs[axis])
        sheet.label_x(axis_label(runs[axis]))
        if sheet.axes.get_xscale() == "linear":
            sheet.axes.set_xlim(float(runs[axis].min()) - reach, float(runs[axis].max()) + reach)
        order = [name for name in OUTCOMES if name in ended]
        note = f"{count_of(runs)} at each value" + (f", the last {last} records of each" if last > 1 else "")
        note += "; triangle: beyond the axis" if (values > top).any() or np.isposinf(values).any() else ""
        seen = f"Where the runs end: {'period' if of == 'period' else plain_name(runs[of], of).removeprefix('last ')}"
        return sheet.finish(seen, note, provenance(runs), names=([ended[name] for name in order], order))


def scatter(
    runs: xr.Dataset,
    x: str | xr.DataArray,
    y: str | xr.DataArray = "hit",
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot one number of each run against another, one colour and marker per variant; at the upper edge where infinite.

    Args:
        runs: results along `seed`, perhaps `variant`, and any axes, which are drawn together.
        x: what is on the horizontal axis: a labelled array with a number for each run, or a name as in
            `"ln(1/ye_du_A_min@0)"`: of what the runs have, of a record at a step, `hit@LEVEL`, with `1/…` and `ln(…)`.
        y: what is on the vertical one, in the same way; by default the time to the level at which runs are judged.
        ax, size, title, style: as in `curve`.

    Raises:
        ValueError: For what is not one number for each run, and numbers of which no run has both.
    """
    check_runs(runs)
    both = xr.Dataset({"x": quantity(runs, x), "y": quantity(runs, y)})
    labels = both.x.attrs["long_name"], both.y.attrs["long_name"]
    if not (np.isfinite(both.x) & (np.isfinite(both.y) | np.isposinf(both.y))).any():
        named = ", ".join(given if isinstance(given, str) else str(given.name) for given in (x, y))
        raise problem_with("x, y", named, "no run has both numbers", "choose others")
    with drawing(Look(ax, size, title, style), 2.9) as sheet:
        axes = sheet.axes
        for place, (name, part, colour, _) in enumerate(variants_of(both)):
            at, height = np.ravel(part.x.values), np.ravel(part.y.values)
            seen, marker = np.isfinite(at) & np.isfinite(height), MARKERS[place % len(MARKERS)]
            style_of = {"markersize": 2.5, "markeredgewidth": 0, "alpha": 0.6, "rasterized": seen.sum() > _MANY}
            axes.plot(at[seen], height[seen], marker, color=colour, label=name or None, **style_of)
            sheet.mark_edge(axes, at[np.isfinite(at) & np.isposinf(height)], colour)
            for what, numbers in (("x", at), ("y", height)):
                sheet.column((name or "runs", what), numbers)
        for which, values, text in (("x", both.x, labels[0]), ("y", both.y, labels[1])):
            if NAMES in values.attrs:
                label_axis(axes, which, values)
                continue
            is_log = asks_for_log(np.asarray(values.values, float))
            axes.set(**{f"{which}label": text, f"{which}scale": "log" if is_log else "linear"})
            if is_log:
                name_few_minor_ticks(axes.xaxis if which == "x" else axes.yaxis)
        note = f"a point for each of {count_of(runs)}" + " at each point of the axes" * bool(axes_of(runs))
        note += "; triangle: never" if np.isposinf(both.y.values).any() else ""
        return sheet.finish("Run by run", note, f"{labels[1]} against {labels[0]}; {provenance(runs)}")


def _last(runs: xr.Dataset, of: str, last: int) -> xr.DataArray:
    """Return the last recorded values of each run, before it ended, along `look`; NaN where there are fewer."""
    if last < 1:
        raise problem_with("last", shown(last), "needs a whole number above 0", "1 is the last value")
    path = path_of(runs, of)
    number = xr.where(path.step <= runs.steps, 1, 0)
    behind = number.isel(step=slice(None, None, -1)).cumsum("step").isel(step=slice(None, None, -1))
    kept = path.where((number == 1) & (behind <= last))
    order = kept.isnull().argsort(axis=kept.get_axis_num("step"), kind="stable").isel(step=slice(last))
    taken = np.take_along_axis(kept.values, order.values, axis=kept.get_axis_num("step"))
    return order.copy(data=taken).rename(step="look").drop_vars("look").assign_attrs(long_name=axis_label(path))


def _ends(sheet: Sheet, axes: Axes, runs: xr.Dataset, axis: str, name: str, top: float) -> dict[str, Any]:
    """Draw where the runs of a variant ended, those beyond the top at the upper edge; return a handle per outcome."""
    ended = {}
    at, values, outcome = (one.values.ravel() for one in xr.broadcast(runs[axis], runs["values"], runs.outcome))
    for kind in np.unique(runs.outcome.values).tolist():
        mine, (colour, marker) = outcome == kind, _ENDED.get(kind, ("0.5", "."))
        shown = mine & np.isfinite(values) & (values <= top)
        style_of = {"markersize": 2.5, "markeredgewidth": 0, "alpha": 0.6, "rasterized": shown.sum() > _MANY}
        (ended[kind],) = axes.plot(at[shown], values[shown], marker, color=colour, label=kind, **style_of)
        sheet.mark_edge(axes, np.unique(at[mine & ((values > top) | np.isposinf(values))]), colour)
        for what, numbers in ((axis, at[mine]), ("value", values[mine])):
            sheet.column((name, kind, what), numbers)
    return ended
