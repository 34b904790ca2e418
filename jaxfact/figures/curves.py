"""Figures of a sweep, each from the labelled results alone, readable at 8 cm width.

Every function takes a dataset with dimensions `seed` and perhaps `variant` (select a point of other axes first) and
returns a matplotlib figure that belongs to no window. Bands are quantiles over runs: a finished run keeps its last
value, a diverged one counts as infinite.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact import measures
from jaxfact.figures.styles import (
    COLOURS,
    LINES,
    count_line,
    name_few_minor_ticks,
    new_figure,
    put_title,
    styled,
    variants_of,
)
from jaxfact.inputs import problem_with
from jaxfact.measures.base import label_of
from jaxfact.results import stats

_BAND = (0.05, 0.95)
_DISTANCE = label_of(measures.distance).latex


@styled
def distance(runs: xr.Dataset) -> Figure:
    """Plot the distance against steps: median and 5-95 % band over runs, one colour per variant."""
    figure, (axes,) = new_figure(2.5)
    bands(axes, runs, "distance_path")
    axes.set(xlabel="step $t$", ylabel=_DISTANCE)
    put_title(axes, count_line(runs, "median, band: 5–95 % of runs"))
    return figure


@styled
def survival(runs: xr.Dataset) -> Figure:
    """Plot the fraction of runs not yet at a distance, with pointwise Wilson intervals.

    The first panel judges all variants at the coarsest distance to which one was run, which all can reach; one that was
    run to a finer one is drawn there too, in a panel with the others that were.
    """
    judged = stats.judged_levels(runs)
    figure, panels = new_figure(1.1 + 1.8 * len(judged), len(judged))
    for axes, (level, able) in zip(panels, judged.items(), strict=True):
        for name, part, colour, line in _variants(runs):
            if name in able:
                _alive(axes, part, level, name, colour, line)
        axes.set(ylabel=f"fraction not yet at {level:g}", ylim=(-0.02, 1.02))
    panels[-1].set_xlabel("step $t$")
    put_title(panels[0], count_line(runs, "band: 95 % Wilson interval"))
    if "variant" in runs.dims:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _alive(axes: Axes, runs: xr.Dataset, level: float, name: str, colour: str, line: Any) -> None:
    alive = stats.time_to(runs, level).survival()
    times = np.append(alive.time.values, runs.steps.values.max())
    left = np.append(alive.values, alive.values[-1])
    low, high = stats.wilson(np.rint(left * runs.sizes["seed"]), runs.sizes["seed"])
    axes.step(times, left, where="post", color=colour, linestyle=line, label=name or None)
    axes.fill_between(times, low, high, step="post", color=colour, alpha=0.2, linewidth=0)


@styled
def imbalance(runs: xr.Dataset) -> Figure:
    """Plot ‖UᵀU − VᵀV‖_F against steps: median and 5-95 % band over runs."""
    figure, (axes,) = new_figure(2.5)
    bands(axes, runs, "imbalance_path")
    unit = r"\sigma_1" if runs.attrs.get("unit_name", "σ₁") == "σ₁" else r"\mathrm{unit}"
    axes.set(xlabel="step $t$", ylabel=r"$\|U^\top U-V^\top V\|_F\;/\;" + f"{unit}$")
    put_title(axes, count_line(runs, "median, band: 5–95 % of runs"))
    return figure


@styled
def singular_values(runs: xr.Dataset, target: Sequence[float] | Float[np.ndarray, " r"]) -> Figure:
    """Plot the singular values of UVᵀ against steps, one panel per variant; lines are those of Σ, `target`."""
    variants = list(_variants(runs))
    figure, panels = new_figure(0.7 + 1.35 * len(variants), len(variants))
    for axes, (name, part, _, _) in zip(panels, variants, strict=True):
        paths = part.singular_values_path
        steps = _shown_steps(part)
        steps = steps[steps > 0]
        for place in range(paths.sizes["singular_values_0"]):
            colour = COLOURS[place % len(COLOURS)]
            low, middle, high = _quantiles(paths.isel(singular_values_0=place).sel(step=steps))
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(steps, middle, color=colour, linestyle=LINES[place % len(LINES)], label=_alike(place, paths))
        for value in target[: paths.sizes["singular_values_0"]]:
            axes.axhline(value, color="0.35", linewidth=0.6, zorder=0)
        axes.set(ylabel=r"$\sigma_k(UV^\top)\,/\,\sigma_1$", ylim=(-0.03, 1.15 * max(target[0], 1)))
        put_title(axes, name)
    panels[-1].set_xscale("log")  # which all share
    name_few_minor_ticks(panels[-1].xaxis)
    panels[-1].set_xlabel("step $t$")
    figure.suptitle(count_line(runs, "median, band: 5–95 % of runs; grey lines: target"), x=0.01, ha="left")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[: len(COLOURS)], labels[: len(COLOURS)], loc="outside lower center", ncols=3)
    return figure


def _alike(place: int, paths: xr.DataArray) -> str:
    """Return the names of all singular values that are drawn as the one in a place, as colours come again."""
    return ", ".join(
        rf"$\sigma_{{{other + 1}}}$"
        for other in range(place % len(COLOURS), paths.sizes["singular_values_0"], len(COLOURS))
    )


@styled
def worst(runs: xr.Dataset, count: int = 10) -> Figure:
    """Plot the distance of the worst runs one by one, with the median of all: those that failed, then the slowest.

    With several variants the seeds are ranked by the first, and its rivals from the same start are drawn beside it.
    """
    variants = list(_variants(runs))
    first = variants[0][1]
    seeds = worst_seeds(first, count)
    paths = [part.distance_path.sel(step=_shown_steps(part)) for _, part, _, _ in variants]
    middle = _on_axis(_quantiles(paths[0])[1])
    rows = -(-len(seeds) // 2)
    figure, panels = new_figure(1.4 + 0.95 * rows, rows, 2)
    panels[0].set_yscale("log")  # which all share
    for axes, seed in zip(panels, seeds, strict=False):
        for (name, _, colour, line), path in zip(variants, paths, strict=True):
            shown = _on_axis(path.sel(seed=seed).values)
            axes.plot(path.step, shown, color=colour, linestyle=line, label=name or "run")
        axes.plot(paths[0].step, middle, color="0.6", linewidth=0.8, zorder=0, label="median of all")
        put_title(axes, f"seed {seed}: {first.outcome.sel(seed=seed).item()}")
    for axes in panels[len(seeds) :]:
        axes.set_visible(False)
    for axes in panels[-2:]:
        axes.set_xlabel("step $t$")
    figure.supylabel(_DISTANCE)
    figure.suptitle(f"{len(seeds)} of {count_line(runs, 'the slowest and the failed')}", x=0.01, ha="left")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def worst_seeds(runs: xr.Dataset, count: int) -> list[int]:
    """Return the seeds of one variant's worst runs: outcomes other than converged first, then the latest to arrive."""
    arrived = stats.time_to(runs, float(runs.level.values[~stats.is_beyond(runs).values][-1]))
    lateness = np.where(np.isnan(arrived.hit), np.inf, arrived.hit)
    failed = (runs.outcome != "converged").values
    order = np.lexsort((-np.nan_to_num(runs.distance.values, nan=np.inf, posinf=np.inf), -lateness, ~failed))
    return runs.seed.values[order[:count]].tolist()


def _variants(runs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset, str, object]]:
    """Yield every variant of runs that are all at one point."""
    left = [dim for dim in runs.outcome.dims if dim not in ("seed", "variant")]
    if left:
        raise problem_with("runs", f"axes {left}", "a figure shows one point", "select one with runs.sel(...)")
    yield from variants_of(runs)


def bands(axes: Axes, runs: xr.Dataset, path: str) -> None:
    """Draw median and band of every variant on a logarithmic axis; a band that leaves it reaches its edge.

    What has no place on it is said in words.
    """
    drawn = [(*variant, _shown_steps(variant[1])) for variant in _variants(runs)]
    curves = [_quantiles(part[path].sel(step=steps)) for _, part, _, _, steps in drawn]
    shown = np.concatenate([curve[(curve > 0) & np.isfinite(curve)] for curve in curves])
    bottom, top = (shown.min() / 2, shown.max() * 2) if shown.size else (0.1, 1.0)
    for (name, _, colour, line, steps), (low, middle, high) in zip(drawn, curves, strict=True):
        axes.fill_between(
            steps, np.clip(low, bottom, top), np.clip(high, bottom, top), color=colour, alpha=0.2, linewidth=0
        )
        said = _absence(low, middle, high)
        label = f"{name}: {said}" if name and said else name or None
        axes.plot(steps, _on_axis(middle), color=colour, linestyle=line, label=label)
    if shown.size:
        axes.set(yscale="log", ylim=(bottom, top))
    else:
        axes.set(yticks=[])
        axes.text(0.5, 0.3, _absence(*curves), transform=axes.transAxes, ha="center")
    if "variant" in runs.dims:
        axes.legend()


def _absence(*curves: np.ndarray) -> str:
    """Say why a logarithmic axis shows nothing of curves; nothing where it shows something."""
    if any(np.any((curve > 0) & np.isfinite(curve)) for curve in curves):
        return ""
    return "0 throughout" if not any(np.any(curve) for curve in curves) else "infinite or unknown"


def _quantiles(path: xr.DataArray) -> Float[np.ndarray, "3 step"]:
    """Return the quantiles over runs, of observed values: between a number and inf there is nothing to interpolate."""
    values = path.transpose("seed", "step").values.astype(float)
    values = np.where(np.isnan(values), np.inf, values)
    return np.quantile(values, (_BAND[0], 0.5, _BAND[1]), axis=0, method="inverted_cdf")


def _on_axis(values: np.ndarray) -> np.ndarray:
    """Return the values with gaps where a logarithmic axis has no place for them."""
    return np.where((values > 0) & np.isfinite(values), values, np.nan)


def _shown_steps(runs: xr.Dataset) -> np.ndarray:
    """Return the recorded steps up to the first at which every run has ended."""
    if "step" not in runs.dims:
        raise problem_with("runs", "a sweep without records", "the figure is drawn from them", "sweep with every=100")
    steps = runs.step.values
    return steps[: np.searchsorted(steps, runs.steps.values.max()) + 1]
