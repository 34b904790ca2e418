"""Figures of a sweep, each from the labelled results alone, readable at 8 cm width.

Every function takes a dataset with dimensions `seed` and perhaps `method` (select a point of other axes first) and
returns a matplotlib figure that belongs to no window. Bands are quantiles over runs: a finished run keeps its last
value, a diverged one counts as infinite.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact import stats
from jaxfact.inputs import problem_with

# Okabe & Ito's palette, which colour-blind readers tell apart; line styles separate curves that coincide.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (4, 2)), (0, (1, 1.2)), "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
_BAND = (0.05, 0.95)
_FEW = 8  # values that are all named on an axis
_WIDTH = 3.15
_DISTANCE = r"$\|UV^\top-\Sigma_d\|_F \,/\, \|\Sigma_d\|_F$"
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "figure.titlesize": 7,
    "figure.labelsize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "jaxfact",
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with this module's style, whatever the user's own settings are."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # pyright: ignore[reportArgumentType]
            return draw(*args, **kwargs)

    return styled


@styled
def distance(runs: xr.Dataset) -> Figure:
    """Plot the distance against steps: median and 5-95 % band over runs, a method a colour."""
    figure, (axes,) = new_figure(2.5)
    _bands(axes, runs, "distance_path")
    axes.set(xlabel="step $t$", ylabel=_DISTANCE)
    axes.set_title(count_line(runs, "median, band: 5–95 % of runs"))
    return figure


@styled
def survival(runs: xr.Dataset) -> Figure:
    """Plot the fraction of runs not yet at each method's tolerance, with pointwise Wilson intervals."""
    figure, (axes,) = new_figure(2.9)
    for name, part, colour, line in _methods(runs):
        tolerance = float(part.tolerance)
        alive = stats.time_to(part, tolerance).survival()
        times = np.append(alive.time.values, part.steps.values.max())
        left = np.append(alive.values, alive.values[-1])
        low, high = stats.wilson(np.rint(left * part.sizes["seed"]), part.sizes["seed"])
        label = f"{name}, level {tolerance:g}".removeprefix(", ")
        axes.step(times, left, where="post", color=colour, linestyle=line, label=label)
        axes.fill_between(times, low, high, step="post", color=colour, alpha=0.2, linewidth=0)
    axes.set(xlabel="step $t$", ylabel="fraction not yet at the level", ylim=(-0.02, 1.02))
    axes.set_title(count_line(runs, "band: 95 % Wilson interval"))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@styled
def imbalance(runs: xr.Dataset) -> Figure:
    """Plot ‖UᵀU − VᵀV‖_F against steps: median and 5-95 % band over runs."""
    figure, (axes,) = new_figure(2.5)
    _bands(axes, runs, "imbalance_path")
    unit = r"\sigma_1" if runs.attrs.get("unit_name", "σ₁") == "σ₁" else r"\mathrm{unit}"
    axes.set(xlabel="step $t$", ylabel=r"$\|U^\top U-V^\top V\|_F\;/\;" + f"{unit}$")
    axes.set_title(count_line(runs, "median, band: 5–95 % of runs"))
    return figure


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
        _bands(axes, flat, path)
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


@styled
def singular_values(runs: xr.Dataset, target: Sequence[float] | Float[np.ndarray, " r"]) -> Figure:
    """Plot the singular values of UVᵀ against steps, a panel a method; `target` holds those of Σ, drawn as lines."""
    methods = list(_methods(runs))
    figure, panels = new_figure(0.7 + 1.35 * len(methods), len(methods))
    for axes, (name, part, _, _) in zip(panels, methods, strict=True):
        paths = part.singular_values_path
        steps = _shown_steps(part)
        steps = steps[steps > 0]
        for place in range(paths.sizes["singular_values_0"]):
            colour = COLOURS[place % len(COLOURS)]
            low, middle, high = _quantiles(paths.isel(singular_values_0=place).sel(step=steps))
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(steps, middle, color=colour, linestyle=LINES[place % len(LINES)])
        for value in target[: paths.sizes["singular_values_0"]]:
            axes.axhline(value, color="0.35", linewidth=0.6, zorder=0)
        axes.set(xscale="log", ylabel=r"$\sigma_k(UV^\top)\,/\,\sigma_1$", ylim=(-0.03, 1.15 * max(target[0], 1)))
        axes.set_title(name)
    panels[-1].set_xlabel("step $t$")
    figure.suptitle(count_line(runs, "median, band: 5–95 % of runs; grey lines: target"), x=0.01, ha="left")
    return figure


@styled
def worst(runs: xr.Dataset, count: int = 10) -> Figure:
    """Plot the distance of the worst runs one by one, with the median of all: those that failed, then the slowest.

    With several methods the seeds are ranked by the first, and its rivals from the same start are drawn beside it.
    """
    methods = list(_methods(runs))
    seeds = worst_seeds(methods[0][1], count)
    rows = -(-len(seeds) // 2)
    figure, panels = new_figure(1.4 + 0.95 * rows, rows, 2)
    for axes, seed in zip(panels, seeds, strict=False):
        for name, part, colour, line in methods:
            one = part.sel(seed=seed)
            steps = _shown_steps(part)
            axes.plot(
                steps,
                _on_axis(one.distance_path.sel(step=steps).values),
                color=colour,
                linestyle=line,
                label=name or "run",
            )
        first = methods[0][1]
        steps = _shown_steps(first)
        middle = _on_axis(_quantiles(first.distance_path.sel(step=steps))[1])
        axes.plot(steps, middle, color="0.6", linewidth=0.8, zorder=0, label="median of all")
        axes.set_yscale("log")
        axes.set_title(f"seed {seed}: {first.outcome.sel(seed=seed).item()}", loc="left")
    for axes in panels[len(seeds) :]:
        axes.set_visible(False)
    for axes in panels[-2:]:
        axes.set_xlabel("step $t$")
    figure.supylabel(_DISTANCE)
    figure.suptitle(f"{len(seeds)} of {count_line(runs, 'the slowest and the failed')}", x=0.01, ha="left")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled
def phase_diagram(diagram: xr.Dataset, outcome: str = "converged") -> Figure:
    """Plot how often runs had an outcome over the two axes of a phase diagram, with the threshold and its interval."""
    along, across = diagram.attrs["along"], diagram.attrs["across"]
    figure, (axes,) = new_figure(2.7)
    values = diagram[outcome].transpose(across, along).values
    columns, rows = (cell_edges(diagram[name].values) for name in (along, across))
    mesh = axes.pcolormesh(columns, rows, values, cmap="cividis", vmin=0, vmax=1)
    if outcome == "converged":
        met = (diagram.threshold.values > columns[0]) & (diagram.threshold.values < columns[-1])
        at, low, high = (diagram[name].values[met] for name in ("threshold", "threshold_low", "threshold_high"))
        reach = [at - np.maximum(low, columns[0]), np.minimum(high, columns[-1]) - at]
        axes.errorbar(at, diagram[across].values[met], xerr=reach, fmt=".", color="#D55E00", markersize=4)
    axes.set(xlabel=along.replace("_", " "), ylabel=across.replace("_", " "))
    axes.set(xscale=axis_scale(diagram[along].values), yscale=axis_scale(diagram[across].values))
    axes.set(xlim=(columns[0], columns[-1]), ylim=(rows[0], rows[-1]))
    if diagram.sizes[across] <= _FEW and axis_scale(diagram[across].values) == "linear":
        axes.set_yticks(diagram[across].values)
    figure.colorbar(mesh, ax=axes, label=f"fraction {outcome}")
    axes.set_title(f"{diagram.attrs['seeds']} runs a cell\ndot and bar: threshold and its 95 % interval")
    return figure


def worst_seeds(runs: xr.Dataset, count: int) -> list[int]:
    """Return the seeds of one method's worst runs: outcomes other than converged first, then the latest to arrive."""
    arrived = stats.time_to(runs, float(runs.level.values[runs.level.values >= runs.tolerance.values * (1 - 1e-9)][-1]))
    lateness = np.where(np.isnan(arrived.hit), np.inf, arrived.hit)
    failed = (runs.outcome != "converged").values
    order = np.lexsort((-np.nan_to_num(runs.distance.values, nan=np.inf, posinf=np.inf), -lateness, ~failed))
    return runs.seed.values[order[:count]].tolist()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (300 dpi) or SVG, by the path's suffix."""
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise problem_with("path", path, "needs the suffix .png or .svg", "choose one of them")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # pyright: ignore[reportArgumentType]
        figure.savefig(path, dpi=300, metadata=metadata)
    # The layout is settled now, and would take a third of the time of the next format.
    figure.set_layout_engine("none")


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure 8 cm wide and so many inches high, and its panels, row by row."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=columns > 1)
    return figure, list(panels.ravel())


def methods_of(runs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset, str, object]]:
    """Yield name, runs, colour and line style of every method."""
    names = runs.method.values.tolist() if "method" in runs.dims else [None]
    for place, name in enumerate(names):
        part = runs if name is None else runs.sel({"method": name})
        yield name or "", part, COLOURS[place % len(COLOURS)], LINES[place % len(LINES)]


def _methods(runs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset, str, object]]:
    """Yield every method of runs that are all of one point."""
    left = [dim for dim in runs.outcome.dims if dim not in ("seed", "method")]
    if left:
        raise problem_with("runs", f"axes {left}", "a figure shows one point", "select one with runs.sel(...)")
    yield from methods_of(runs)


def _bands(axes: Axes, runs: xr.Dataset, path: str) -> None:
    """Draw median and band of every method on a logarithmic axis; a band that leaves it reaches its edge."""
    drawn = [(*method, _shown_steps(method[1])) for method in _methods(runs)]
    curves = [_quantiles(part[path].sel(step=steps)) for _, part, _, _, steps in drawn]
    shown = np.concatenate([curve[(curve > 0) & np.isfinite(curve)] for curve in curves])
    bottom, top = (shown.min() / 2, shown.max() * 2) if shown.size else (0.1, 1.0)
    for (name, _, colour, line, steps), (low, middle, high) in zip(drawn, curves, strict=True):
        axes.fill_between(
            steps, np.clip(low, bottom, top), np.clip(high, bottom, top), color=colour, alpha=0.2, linewidth=0
        )
        axes.plot(steps, _on_axis(middle), color=colour, linestyle=line, label=name or None)
    axes.set(yscale="log", ylim=(bottom, top))
    if "method" in runs.dims:
        axes.legend()


def _quantiles(path: xr.DataArray) -> Float[np.ndarray, "3 step"]:
    """Return the quantiles over runs, of observed values: between a number and inf there is none to interpolate."""
    values = path.transpose("seed", "step").values.astype(float)
    values = np.where(np.isnan(values), np.inf, values)
    return np.quantile(values, (_BAND[0], 0.5, _BAND[1]), axis=0, method="inverted_cdf")


def _on_axis(values: np.ndarray) -> np.ndarray:
    """Return the values with gaps where a logarithmic axis has no place for them."""
    return np.where((values > 0) & np.isfinite(values), values, np.nan)


def is_geometric(values: np.ndarray) -> bool:
    """Tell whether values are spaced by a ratio rather than a difference."""
    return bool(len(values) > 2 and np.all(values > 0) and np.ptp(np.diff(np.log(values))) < np.ptp(np.diff(values)))


def axis_scale(values: np.ndarray) -> str:
    """Return the scale of an axis with these values."""
    return "log" if is_geometric(values) else "linear"


def cell_edges(values: np.ndarray) -> np.ndarray:
    """Return the borders of cells around the values, midway between neighbours on their axis."""
    scaled = np.log(values) if is_geometric(values) else np.asarray(values, float)
    steps = np.diff(scaled) if len(scaled) > 1 else np.ones(1)
    middle = (scaled[1:] + scaled[:-1]) / 2
    edges = np.concatenate([[scaled[0] - steps[0] / 2], middle, [scaled[-1] + steps[-1] / 2]])
    return np.exp(edges) if is_geometric(values) else edges


def _shown_steps(runs: xr.Dataset) -> np.ndarray:
    """Return the recorded steps up to the first at which every run has ended."""
    steps = runs.step.values
    return steps[: np.searchsorted(steps, runs.steps.values.max()) + 1]


def count_line(runs: xr.Dataset, interval: str) -> str:
    """Return the title that says how many runs there are and what the band is."""
    each = " a method" if "method" in runs.dims else ""
    return f"{runs.sizes['seed']} runs{each}\n{interval}"
