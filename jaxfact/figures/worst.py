"""The figure of the worst runs, one by one."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.curves import path_of, shown_steps
from jaxfact.figures.labels import STEPS, scale_steps, symbol_label
from jaxfact.figures.sheets import Look, Sheet, drawing, provenance, put_title
from jaxfact.figures.styles import at_one_point, variants_of
from jaxfact.results import stats

_ABOVE = 30.0  # times the worst start, to where the axis reaches


def worst(
    runs: xr.Dataset,
    count: int = 10,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot the distance of the worst runs one by one, with the median of all: those that failed, then the slowest.

    With several variants the seeds are ranked by the first, and its rivals from the same start are drawn beside it. A
    run that goes off leaves the axis where a triangle stands. The further arguments are those of `curve`.
    """
    at_one_point(runs)
    symbol = symbol_label(path_of(runs, "distance"))
    parts = [part for _, part, _, _ in variants_of(runs)]
    first, seeds = parts[0], worst_seeds(parts[0], count)
    paths = [part.distance_path.sel(step=shown_steps(part)) for part in parts]
    steps = paths[0].step.values
    # Of the runs themselves, and as far as most are still running.
    values = np.nan_to_num(paths[0].transpose("step", "seed").values, nan=np.inf, posinf=np.inf)
    middle = np.quantile(values, 0.5, axis=1, method="inverted_cdf")
    going = (first.steps.values[:, None] >= steps).mean(axis=0) >= 0.5
    limits = _limits([path.sel(seed=seeds).values for path in paths])
    with drawing(Look(ax, size, title, style), 1.4, len(seeds), each=0.95, columns=2, share_y=True) as sheet:
        sheet.axes.set(yscale="log", ylim=limits)  # which all share
        for axes, seed in zip(sheet.panels, seeds, strict=True):
            for (name, part, colour, line), path in zip(variants_of(runs), paths, strict=True):
                one = path.sel(seed=seed, step=path.step.values[: _ended(part, path, seed)])
                _run(sheet, axes, one, (name or "run", f"seed{seed}"), limits[1], colour, line)
            axes.plot(
                steps[going], _on_axis(middle[going]), color="0.6", linewidth=0.8, zorder=0, label="median of all"
            )
            put_title(axes, f"seed {seed}: {first.outcome.sel(seed=seed).item()}")
        scale_steps(sheet.axes, steps)
        sheet.label_x(STEPS)
        if len(seeds) > 1:
            sheet.figure.supylabel(symbol)
        else:
            sheet.axes.set_ylabel(symbol)
        note = f"the failed and the slowest {len(seeds)} of {runs.sizes['seed']} starts"
        return sheet.finish("The worst starts, one by one", note, provenance(runs))


def _run(
    sheet: Sheet, axes: Axes, path: xr.DataArray, name: tuple[str, str], top: float, colour: str, line: object
) -> None:
    """Draw one run as far as it went; a triangle at the edge says where it left."""
    values = path.values.astype(float)
    axes.plot(path.step, _on_axis(values), color=colour, linestyle=line, label=name[0])  # pyright: ignore[reportArgumentType]
    if len(values) > 1 and not values[1] <= top:  # a start of which no line is seen
        axes.plot(path.step.values[:1], _on_axis(values[:1]), ".", color=colour, markersize=5)
    sheet.mark_edge(axes, path.step.values[~(values <= top)][:1], colour)
    for what, numbers in (("step", path.step.values), ("distance", values)):
        sheet.column((*name, what), numbers)


def _ended(runs: xr.Dataset, path: xr.DataArray, seed: int) -> int:
    """Return how many of the recorded steps a run took part in."""
    return int(np.searchsorted(path.step.values, int(runs.steps.sel(seed=seed)))) + 1


def _limits(paths: list[np.ndarray]) -> tuple[float, float]:
    """Return the limits of an axis that shows the runs that stay, and of others how they leave."""
    values = np.concatenate([path.ravel() for path in paths]).astype(float)
    values = values[np.isfinite(values) & (values > 0)]
    if values.size == 0:
        return 0.1, 1.0
    starts = np.concatenate([path[..., 0].ravel() for path in paths])
    begun = float(starts[np.isfinite(starts)].max(initial=float(values.min())))
    return float(values.min()) / 2, min(float(values.max()), _ABOVE * begun) * 2


def worst_seeds(runs: xr.Dataset, count: int) -> list[int]:
    """Return the seeds of one variant's worst runs: outcomes other than converged first, then the latest to arrive."""
    arrived = stats.time_to(runs, float(runs.level.values[~stats.is_beyond(runs).values][-1]))
    lateness = np.where(np.isnan(arrived.hit), np.inf, arrived.hit)
    failed = (runs.outcome != "converged").values
    order = np.lexsort((-np.nan_to_num(runs.distance.values, nan=np.inf, posinf=np.inf), -lateness, ~failed))
    return runs.seed.values[order[:count]].tolist()


def _on_axis(values: np.ndarray) -> np.ndarray:
    """Return the values with gaps where a logarithmic axis has no place for them."""
    return np.where((values > 0) & np.isfinite(values), values, np.nan)
