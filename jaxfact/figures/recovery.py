"""Errors of a completed matrix, on the entries held out."""

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact.figures.curves import bands
from jaxfact.figures.styles import LINES, count_line, new_figure, styled


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


@styled
def recovery(found: Recovered) -> Figure:
    """Plot training misfit, validation and test error against steps, one panel each; grey lines are the baselines.

    `found` is what `jaxfact.complete` returns.
    """
    runs, baselines = found.runs, {name: mean for name, (mean, *_) in found.baselines.items()}
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
    highest = max(baselines.values())
    for place, (name, value) in enumerate(baselines.items()):
        side = "bottom" if value == highest else "top"  # Names of levels close together do not meet.
        panels[2].axhline(value, color="0.35", linewidth=0.8, linestyle=LINES[place], zorder=0)
        panels[2].annotate(name, (1, value), xycoords=("axes fraction", "data"), ha="right", va=side, fontsize=7)
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
