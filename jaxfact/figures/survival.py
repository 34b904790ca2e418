"""The figure of hitting times: what fraction of the runs has not arrived yet."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.labels import STEPS
from jaxfact.figures.sheets import Look, Sheet, count_of, drawing, provenance
from jaxfact.figures.styles import at_one_point, legible, name_few_minor_ticks, named_variants, variants_of
from jaxfact.results import stats

_DECADES = 100.0  # between the first and the last arrivals, from which on steps are logarithmic


def survival(
    runs: xr.Dataset,
    level: float | None = None,
    *,
    simultaneous: bool = False,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot the fraction of runs not yet at a distance, with pointwise Wilson intervals from the first arrival on.

    Args:
        runs: results at one point, along `seed` and perhaps `variant`.
        level: the distance. By default the first panel judges all variants at the coarsest to which one was run, which
            all can reach; one that was run to a finer one is drawn there too, in a panel with the others that were.
        simultaneous: draw a band that holds at all steps together (`stats.survival_band`).
        ax, size, title, style: as in `curve`; axes are for one panel.

    Raises:
        ValueError: For a level that was not timed, and runs with axes left.
    """
    at_one_point(runs)
    judged = stats.judged_levels(runs) if level is None else {float(level): named_variants(runs)}
    with drawing(Look(ax, size, title, style), 1.1, len(judged), each=1.8) as sheet:
        for axes, (at, able) in zip(sheet.panels, judged.items(), strict=True):
            for name, part, colour, line in variants_of(runs):
                if name in map(legible, able):
                    _alive(sheet, axes, part, at, (name, colour, line), simultaneous)
            axes.set(ylabel=f"fraction not yet at {at:g}", ylim=(-0.02, 1.02))
        _scale(sheet, runs)
        sheet.label_x(STEPS)
        kind = "95 % band for all steps together" if simultaneous else "95 % Wilson interval at each step"
        told = f"distances are {', '.join(f'{one:g}' for one in judged)} of the target's norm; {provenance(runs)}"
        return sheet.finish("Runs that have not arrived yet", f"band: {kind}, {count_of(runs)}", told)


def _alive(
    sheet: Sheet, axes: Axes, runs: xr.Dataset, level: float, look: tuple[str, str, Any], simultaneous: bool
) -> None:
    name, colour, line = look
    alive = stats.time_to(runs, level).survival()
    count, last = runs.sizes["seed"], max(float(runs.steps.values.max()), float(alive.time[-1]))
    times = np.append(alive.time.values, last)
    left = np.append(alive.values, alive.values[-1])
    if simultaneous:
        # Nobody arrives before the first step; from then on somebody may have, whom these runs do not show.
        times, left = np.insert(times, 1, min(1.0, times[1])), np.insert(left, 1, left[0])
        low, high = stats.survival_band(left, count)
        low[0] = max(low[0], float(left[0] == 1))
    else:  # as is usual, the band begins where the first run arrives
        low, high = stats.wilson(np.rint(left * count), count)
        low = np.where(left == 1, 1.0, low)
    axes.step(times, left, where="post", color=colour, linestyle=line, label=name or None)
    axes.fill_between(times, low, high, step="post", color=colour, alpha=0.2, linewidth=0)
    for what, values in {"step": times, "fraction": left, "low": low, "high": high}.items():
        sheet.column((name or "runs", f"{level:g}" if len(sheet.panels) > 1 else "", what), values)


def _scale(sheet: Sheet, runs: xr.Dataset) -> None:
    """Take a logarithmic axis of steps where arrivals range over decades."""
    arrivals = runs.hit.values[np.isfinite(runs.hit.values) & (runs.hit.values > 0)]
    if arrivals.size and arrivals.max() > _DECADES * arrivals.min():
        sheet.axes.set_xscale("log")
        sheet.axes.set_xlim(left=arrivals.min() / 1.5)
        for axes in sheet.panels:
            name_few_minor_ticks(axes.xaxis)
