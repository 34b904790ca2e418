"""Figures of records against steps, each from the labelled results alone.

Every function takes a dataset with dimensions `seed` and perhaps `variant`; select a point of other axes first. Bands
are quantiles over runs, of which a diverged one counts as infinite. A quantile ends where it goes through runs that
were stopped because they had arrived: what they would have done is not known.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.labels import STEPS, asks_for_log, plain_name, scale_steps, symbol_label
from jaxfact.figures.sheets import Look, Sheet, count_of, drawing, provenance, put_title
from jaxfact.figures.styles import LINES, at_one_point, name_few_minor_ticks, variants_of
from jaxfact.inputs import problem_with, shown

_BAND = (0.05, 0.95)
_ABOVE = 100.0
_STOPPED = ("converged", "fitted")
SEEN = "line: median, band: 5–95 % of "
GONE = "; triangle: half have gone off"
ENDS = "a curve ends where half of the runs have arrived and were stopped"


def curve(
    runs: xr.Dataset,
    name: str,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot a record against steps: median and 5-95 % band over the runs, one colour and line per variant.

    Args:
        runs: results of one point, with `<name>_path` along `seed`, `step`, and perhaps `variant`. Of a record of
            several numbers each is drawn; one field of a record is `<record>_<field>`.
        name: of the record, `"distance"` say, or a measure of your own.
        ax: axes to draw into, instead of a new figure.
        size: width and height in inches.
        title: above the figure; by default what is seen.
        style: a venue, "neurips", "icml", "siam" or "slides"; by default your own matplotlib settings hold.

    Raises:
        ValueError: For a name without a path, and runs with axes left.
    """
    at_one_point(runs)
    paths = path_of(runs, name)
    seen = {"distance": "distance from the target", "imbalance": "imbalance of the factors"}
    with drawing(Look(ax, size, title, style), 2.5) as sheet:
        gone = bands(sheet, sheet.axes, runs, f"{name}_path")
        sheet.label_x(STEPS)
        sheet.axes.set_ylabel(symbol_label(paths))
        words = seen.get(name, plain_name(paths, name))
        return sheet.finish(
            f"{words[0].upper()}{words[1:]}", SEEN + count_of(runs) + gone, f"{ENDS}; {provenance(runs)}"
        )


def distance(
    runs: xr.Dataset,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot the distance from the target against steps, with the tolerance: `curve(runs, "distance")`."""
    return curve(runs, "distance", ax=ax, size=size, title=title, style=style)


def imbalance(
    runs: xr.Dataset,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot ‖UᵀU − VᵀV‖_F against steps: `curve(runs, "imbalance")`."""
    return curve(runs, "imbalance", ax=ax, size=size, title=title, style=style)


def singular_values(
    runs: xr.Dataset,
    target: Sequence[float] | Float[np.ndarray, " r"] = (),
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot the singular values of UVᵀ against steps, one panel per variant; grey lines are those of Σ, if given.

    The further arguments are those of `curve`; with `ax`, runs of one variant are needed.
    """
    at_one_point(runs)
    paths, panels = path_of(runs, "singular_values"), runs.sizes.get("variant", 1)
    (place,) = (dim for dim in paths.dims if str(dim).startswith("singular_values_"))
    count = paths.sizes[place]
    # The colours of variants are other colours: here a colour is a place in the order.
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, count))
    with drawing(Look(ax, size, title, style), 0.75, panels, each=1.35) as sheet:
        goes = False
        for axes, (name, part, _, _) in zip(sheet.panels, variants_of(runs), strict=True):
            known = _Known.of(part)
            for each in range(count):
                curves = known.quantiles(part.singular_values_path.isel({place: each}))
                label, line = rf"$\sigma_{{{each + 1}}}$", LINES[each % len(LINES)]
                goes |= _draw(sheet, axes, (name, f"sigma{each + 1}"), known.steps, curves, shades[each], line, label)
            for value in list(target)[:count]:
                axes.axhline(value, color="0.35", linewidth=0.6, zorder=0)
            axes.set(ylabel=symbol_label(paths), ylim=(-0.03, 1.15 * max([1.0, *target])))
            put_title(axes, name)
        scale_steps(sheet.axes, known.steps)
        sheet.label_x(STEPS)
        note = SEEN + count_of(runs) + GONE * goes + "\ngrey: singular values of the target" * (len(target) > 0)
        return sheet.finish("Singular values of the product", note, f"{ENDS}; {provenance(runs)}")


def path_of(runs: xr.Dataset, name: str) -> xr.DataArray:
    """Return what was recorded under a name along the steps; raises ValueError where nothing was."""
    paths = [str(known).removesuffix("_path") for known in runs if str(known).endswith("_path")]
    if not paths:
        raise problem_with("runs", "a sweep without records", "the figure is drawn from them", "sweep with every=100")
    if name not in paths:
        instead = f"choose one, or sweep with record={name!r}"
        raise problem_with("name", shown(name), f"the records are {', '.join(paths)}", instead)
    return runs[f"{name}_path"]


class _Known(NamedTuple):
    """The steps that are shown of a variant, and which of its runs still said something new at each of them."""

    steps: np.ndarray
    going: np.ndarray
    diverged: np.ndarray

    @classmethod
    def of(cls, runs: xr.Dataset) -> "_Known":
        steps = shown_steps(runs)
        stopped = np.isin(runs.outcome.values, _STOPPED)
        ended = runs.steps.values
        return cls(steps, ~stopped[:, None] | (ended[:, None] >= steps), runs.outcome.values == "diverged")

    def quantiles(self, path: xr.DataArray) -> Float[np.ndarray, "3 step"]:
        """Return the quantiles over runs, of observed values; NaN from where they go through runs that were stopped.

        The band is drawn as long as its upper end is known: those that have arrived lie below.
        """
        values = _values(path.sel(step=self.steps))
        order = np.argsort(values, axis=0, kind="stable")
        ranks = [max(int(np.ceil(q * len(values))) - 1, 0) for q in (_BAND[0], 0.5, _BAND[1])]
        columns = np.arange(len(self.steps))
        found = np.stack([values[order[rank], columns] for rank in ranks])
        last = [np.flatnonzero(self.going[order[rank], columns]).max(initial=0) for rank in ranks]
        found[1, last[1] + 1 :] = np.nan
        found[:, max(last[1:]) + 1 :] = np.nan
        return found


def bands(sheet: Sheet, axes: Axes, runs: xr.Dataset, path: str, levels: Sequence[float] = ()) -> str:
    """Draw median and band of every variant; what has no place on a logarithmic axis is said in words.

    The axis has room for `levels`, which the caller draws. Returns what is to be said where a median goes off.
    """
    drawn, ceiling, goes = [], 0.0, False
    for name, part, colour, line in variants_of(runs):
        known = _Known.of(part)
        for place, one in enumerate(_components(part[path])):
            drawn.append((name if place == 0 else "", place, known, known.quantiles(one), colour, line))
            ceiling = max(ceiling, _highest(_values(one.sel(step=known.steps)), known.diverged))
    numbers = np.concatenate([curves.ravel() for _, _, _, curves, _, _ in drawn])
    numbers = numbers[np.isfinite(numbers) & ((numbers <= ceiling) | (ceiling <= 0))]
    tolerances = _tolerances(runs) if path == "distance_path" else []
    is_log, limits = _scale(axes, numbers, [*tolerances, *levels])
    for name, place, known, curves, colour, line in drawn:
        said = _absence(curves, is_log)
        label = f"{name}: {said}" if name and said else name or None
        columns = name or "runs", f"{place}" if place else ""
        goes |= _draw(sheet, axes, columns, known.steps, curves, colour, line, label, limits, is_log)
    for place, level in enumerate(tolerances):
        label = "tolerance" if place == 0 else None
        axes.axhline(level, color="0.35", linewidth=0.8, linestyle=LINES[2], zorder=0, label=label)
    if not np.any(numbers):
        axes.set(yticks=[])
        axes.text(0.5, 0.3, _absence(numbers, True), transform=axes.transAxes, ha="center")
    scale_steps(axes, max((known.steps for _, _, known, *_ in drawn), key=len))
    return GONE * goes


def _draw(
    sheet: Sheet,
    axes: Axes,
    name: tuple[str, ...],
    steps: np.ndarray,
    curves: np.ndarray,
    colour: Any,
    line: Any,
    label: str | None,
    limits: tuple[float, float] = (-np.inf, np.inf),
    is_log: bool = False,
) -> bool:
    """Draw a median and its band as far as the limits, and keep the numbers; return whether the median goes off.

    A dot stands where it stops short, and a triangle at the upper edge where it goes off.
    """
    low, middle, high = curves
    axes.fill_between(steps, np.clip(low, *limits), np.clip(high, *limits), color=colour, alpha=0.2, linewidth=0)
    on_axis = np.where(np.isfinite(middle) & ((middle > 0) | (not is_log)), middle, np.nan)
    axes.plot(steps, on_axis, color=colour, linestyle=line, label=label)
    known = np.flatnonzero(~np.isnan(middle))
    off = np.flatnonzero(np.isposinf(middle) | (middle > limits[1]))[:1]
    ends = known[-1:] if known.size and known[-1] < len(steps) - 1 else off[off > 0] - 1
    if ends.size:
        axes.plot(steps[ends], on_axis[ends], ".", color=colour, markersize=5)
    sheet.mark_edge(axes, steps[off], colour)
    columns = {"step": steps, "low": low, "median": middle, "high": high}
    for what, values in columns.items():
        sheet.column((*name, what), values)
    return off.size > 0


def _scale(axes: Axes, numbers: np.ndarray, levels: Sequence[float]) -> tuple[bool, tuple[float, float]]:
    """Scale the vertical axis; return whether it is logarithmic, and between which numbers bands are drawn."""
    known = np.append(numbers, levels)
    if not asks_for_log(known):
        return False, (float(known.min(initial=np.inf)), float(known.max(initial=-np.inf))) if known.size else (
            0.0,
            1.0,
        )
    positive = known[known > 0]
    limits = float(positive.min()) / 2, float(positive.max()) * 2
    axes.set(yscale="log", ylim=limits)
    name_few_minor_ticks(axes.yaxis)
    return True, limits


def _highest(values: np.ndarray, diverged: np.ndarray) -> float:
    """Return the largest number of the runs that stay; if none does, so far above the starts that it shows them go."""
    kept = values[~diverged] if not diverged.all() else _ABOVE * values[:, :1]
    return float(kept[np.isfinite(kept)].max(initial=0.0))


def _tolerances(runs: xr.Dataset) -> list[float]:
    known = np.unique(runs.tolerance.values) if "tolerance" in runs else np.array([])
    return known[np.isfinite(known) & (known > 0)].tolist()


def _components(path: xr.DataArray) -> list[xr.DataArray]:
    """Return the numbers of a record one by one."""
    more = [dim for dim in path.dims if dim not in ("seed", "step")]
    flat = path.stack(number=more) if more else path.expand_dims("number")
    return [flat.isel(number=place) for place in range(flat.sizes["number"])]


def _absence(curves: np.ndarray, is_log: bool) -> str:
    """Say why a logarithmic axis shows nothing of curves; nothing where an axis shows something."""
    known = curves[np.isfinite(curves)]
    if np.any(known > 0) or (known.size and (np.any(known) or not is_log)):
        return ""
    return "0 throughout" if known.size else "infinite or unknown"


def _values(path: xr.DataArray) -> Float[np.ndarray, "seed step"]:
    values = path.transpose("seed", "step").values.astype(float)
    return np.where(np.isnan(values), np.inf, values)


def shown_steps(runs: xr.Dataset) -> np.ndarray:
    """Return the recorded steps up to the first at which every run has ended."""
    if "step" not in runs.dims:
        raise problem_with("runs", "a sweep without records", "the figure is drawn from them", "sweep with every=100")
    steps = runs.step.values
    return steps[: np.searchsorted(steps, runs.steps.values.max()) + 1]
