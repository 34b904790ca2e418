"""Errors of a matrix that is completed, on the entries that are kept back."""

from collections.abc import Iterable, Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact.figures.curves import bands
from jaxfact.figures.styles import LINES, count_line, new_figure, styled


@styled
def recovery(runs: xr.Dataset, baselines: Mapping[str, float]) -> Figure:
    """Plot training misfit, validation and test error against steps, a panel each; baselines are grey lines."""
    flat = over_splits(runs)
    figure, panels = new_figure(5.2, 3)
    for axes, path, label in zip(
        panels,
        ("misfit_path", "validation_path", "test_path"),
        ("training misfit", "validation error", "test error"),
        strict=True,
    ):
        bands(axes, flat, path)
        axes.set_ylabel(label)
    panels[0].set_title(count_line(flat, "median, band: 5–95 % of runs"))
    for axes in panels[1:]:
        axes.get_legend().remove()  # pyright: ignore[reportOptionalMemberAccess]
        axes.set(yscale="linear", ylim=_between(runs, baselines.values()))
    for place, (name, value) in enumerate(baselines.items()):
        panels[2].axhline(value, color="0.35", linewidth=0.8, linestyle=LINES[place], zorder=0)
        panels[2].annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    panels[0].set(yscale="linear", ylim=(0, 1.1 * float(runs.misfit_path.isel(step=0).max())))
    panels[2].set_xscale("symlog", linthresh=runs.attrs["check_every"])
    panels[2].set_xlim(left=0)
    panels[2].set_xlabel("step $t$")
    return figure


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
