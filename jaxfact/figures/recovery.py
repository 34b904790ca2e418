"""Errors of a completed matrix, on the entries held out."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.curves import bands
from jaxfact.figures.labels import STEPS
from jaxfact.figures.sheets import Look, count_of, drawing, provenance
from jaxfact.figures.styles import LINES

_PANELS = {"misfit_path": "training misfit", "validation_path": "validation error", "test_path": "test error"}


class Recovered(Protocol):
    """What is drawn of a `Recovery`: its runs, and the test errors of simpler predictions, each with an interval."""

    @property
    def runs(self) -> xr.Dataset:
        """The labelled runs, along `split`, `variant`, `seed` and `step`."""
        ...

    @property
    def baselines(self) -> Mapping[str, tuple[float, float, float]]:
        """By name: the mean over splits, and its interval."""
        ...


def recovery(
    found: Recovered,
    *,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot training misfit, validation and test error against steps, one panel each; grey lines are the baselines.

    `found` is what `jaxfact.complete` returns; the further arguments are those of `curve`.
    """
    runs, baselines = found.runs, {name: mean for name, (mean, *_) in found.baselines.items()}
    flat = over_splits(runs)
    with drawing(Look(None, size, title, style), 0.4, len(_PANELS), each=1.6) as sheet:
        for axes, (path, label) in zip(sheet.panels, _PANELS.items(), strict=True):
            bands(sheet, axes, flat, path)
            axes.set(ylabel=label, yscale="linear")
        for axes in sheet.panels[1:]:
            axes.set_ylim(*_between(runs, baselines.values()))
        highest, tests = max(baselines.values()), sheet.panels[2]
        for place, (name, value) in enumerate(baselines.items()):
            side = "bottom" if value == highest else "top"  # Names of levels close together do not meet.
            tests.axhline(value, color="0.35", linewidth=0.8, linestyle=LINES[place], zorder=0)
            small = mpl.rcParams["legend.fontsize"]
            tests.annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va=side, fontsize=small)
        sheet.axes.set_ylim(0, 1.1 * float(runs.misfit_path.isel(step=0).max()))
        tests.set_xscale("symlog", linthresh=runs.attrs["check_every"])
        tests.set_xlim(left=0)
        sheet.label_x(STEPS)
        note = f"line: median, band: 5–95 % of {count_of(flat)}"
        return sheet.finish("Errors on what was seen and on what was held out", note, provenance(flat))


def _between(runs: xr.Dataset, levels: Iterable[float]) -> tuple[float, float]:
    """Return limits for errors: from the best run's to the worst start's or level, with a margin."""
    best = float(np.nanmin(runs.test_path))
    worst = max(float(runs.test_path.isel(step=0).max()), *levels)
    margin = 0.1 * (worst - best) or worst or 1.0
    return best - margin, worst + margin


def over_splits(runs: xr.Dataset) -> xr.Dataset:
    """Return the runs of all splits along `seed`, numbered anew."""
    flat = runs.stack(run=("split", "seed")).drop_vars(["run", "split", "seed"]).rename(run="seed")
    return flat.assign_coords(seed=np.arange(flat.sizes["seed"]))
