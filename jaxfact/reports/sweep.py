"""A sweep for people: tables and figures of any store of results, even an unfinished one."""

import itertools
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact import figures
from jaxfact.figures.styles import variants_of
from jaxfact.inputs import problem_with
from jaxfact.reports.pages import Report, Rows
from jaxfact.results import stats
from jaxfact.results.flags import PENDING
from jaxfact.results.strict_json import finite_or_none
from jaxfact.store.files import open_results

_PATH_SEEDS = 10_000  # whose paths are drawn: a band over more looks the same
_ROWS = 24  # of a table along an axis
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Shown:
    """What is shown of a store: the runs of seeds that are done everywhere, at the first value of further axes.

    `axes` are those that are drawn along, two at most; `fixed` maps those that are held to their value; `seeds` counts
    all seeds of the store. Without a tolerance, runs are judged at the lowest level.
    """

    path: Path
    runs: xr.Dataset
    axes: list[str]
    fixed: dict[str, Any]
    seeds: int
    judged: bool


def shown(path: str | Path) -> Shown:
    """Return what is to be shown of a store.

    Raises ValueError where there is no store, or no seed in it that is done at every point and with every variant.
    """
    runs = open_results(path)
    if "outcome" not in runs or "seed" not in runs.outcome.dims:
        raise problem_with("store", path, "holds no outcomes of runs along seed", "give the store of a sweep")
    waiting = (runs.outcome == PENDING).any([dim for dim in runs.outcome.dims if dim != "seed"]).values
    if waiting.all():
        needed = "has no seed yet that is done at every point and with every variant"
        raise problem_with("store", path, needed, "repeat the sweep, or wait: jaxfact status says how far it has got")
    count = runs.sizes["seed"]
    if waiting.any():
        runs = runs.isel(seed=np.flatnonzero(~waiting))
    axes = [str(dim) for dim in runs.outcome.dims if dim not in ("seed", "variant")]
    runs = runs.sortby(axes)  # a store has them in the order in which they came
    drawn = [dim for dim in axes if runs.sizes[dim] > 1][:2]
    fixed = {dim: runs[dim].values[0] for dim in axes if dim not in drawn}
    runs = runs.isel(dict.fromkeys(fixed, 0))
    judged = "hit" in runs and "tolerance" in runs
    if judged:
        runs = runs.assign(tolerance=runs.tolerance.fillna(float(runs.level.min())))
    return Shown(Path(path), runs, drawn, fixed, count, judged)


def drawn(found: Shown) -> dict[str, Figure]:
    """Return the figures by name."""
    runs, axes = found.runs, found.axes
    if len(axes) == 2:
        success, label = _success(found)
        along, across = axes
        return {"fractions": figures.heatmap(success.mean("seed"), along, across, label=label)}
    if axes:
        times = {"times": figures.times_along(runs, axes[0])} if found.judged else {}
        return {"outcomes": figures.fractions(runs, axes[0]), **times}
    curves = {"outcomes": figures.outcomes(runs)}
    if found.judged:
        curves["survival"] = figures.survival(runs)
    some = runs.isel(seed=slice(_PATH_SEEDS))
    for name, draw in (("distance", figures.distance), ("imbalance", figures.imbalance)):
        if f"{name}_path" in runs:
            curves[name] = draw(some)
    if found.judged and "distance_path" in runs:
        curves["worst"] = figures.worst(some)
    return curves


def report_of(found: Shown) -> Report:
    """Return what terminal, notebook and page say."""
    return Report(
        title=f"Sweep of {found.path.absolute().name}",
        heading=heading(found),
        tables=tables(found),
        lines=_notes(found),
        captions=_CAPTIONS,
        summary=as_json(found),
        runs={},
        draw=partial(drawn, found),
    )


def heading(found: Shown) -> list[str]:
    """Return the lines that say what was run."""
    attrs, runs = found.runs.attrs, found.runs
    axes = [f"{_axis_name(runs[name])}: {_values(runs[name].values)}" for name in found.axes]
    variants = [f"variants: {', '.join(map(str, runs.variant.values))}"] if "variant" in runs.dims else []
    problem = f"{attrs['problem']} of {'×'.join(map(str, attrs['shape']))}, " if "problem" in attrs else ""
    return [
        f"{problem}{runs.sizes['seed']} seeds at each point",
        *axes,
        *variants,
        f"at most {attrs.get('max_steps')} steps, looked at every {attrs.get('check_every')}; {attrs.get('dtype')} on "
        f"{attrs.get('device')}, jax {attrs.get('jax')}",
    ]


def tables(found: Shown) -> list[Rows]:
    """Return title, columns and rows: outcomes at each point by variant, and along one axis the times to arrive.

    Runs of different points are never pooled: no interval would hold for them together.
    """
    each = stats.outcome_fractions(found.runs)
    found_tables = [_by_point(found, each) if _points(found) <= _ROWS else _over_points(found, each)]
    if found.judged and len(found.axes) == 1 and _points(found) <= _ROWS:
        found_tables.append(_along(found))
    return found_tables


def _points(found: Shown) -> int:
    return math.prod(found.runs.sizes[axis] for axis in found.axes)


def _by_point(found: Shown, each: xr.Dataset) -> Rows:
    """Return the table of outcomes with a row per variant and point."""
    points = list(itertools.product(*(found.runs[axis].values for axis in found.axes)))
    names, rows = each.outcome.values.tolist(), []
    for name, part, _, _ in variants_of(each):
        for point in points:
            at = part.sel(dict(zip(found.axes, point, strict=True)))
            shares = [_percent(at.sel(outcome=outcome)) for outcome in names]
            rows.append([*_lead(found, name), *(f"{value:.4g}" for value in point), *shares])
    axes = [_axis_name(found.runs[axis]) for axis in found.axes]
    where = " at each point" if axes else ""
    title = f"% of runs by outcome{where} (95 % Wilson interval)"
    return title, [*_lead(found, "variant"), *axes, *map(str, names)], rows


def _lead(found: Shown, name: str) -> list[str]:
    """Return the first cell of a row, a variant's name; where there are none, the point begins the row."""
    return [] if found.axes and "variant" not in found.runs.dims else [name or "all"]


def _over_points(found: Shown, each: xr.Dataset) -> Rows:
    """Return the table of outcomes with a row per variant: how they are spread over the points."""
    names = each.outcome.values.tolist()
    spread = each.fraction.quantile([0, 0.5, 1], found.axes)
    rows = [
        [name or "all", *(" – ".join(map(_number, part.fraction.sel(outcome=outcome).values)) for outcome in names)]
        for name, part, _, _ in variants_of(spread.to_dataset())
    ]
    title = f"% of runs by outcome: least – median – greatest of {_points(found)} points"
    return title, ["variant", *map(str, names)], rows


def as_json(found: Shown) -> dict[str, Any]:
    """Return the numbers of the figures, as plain lists; a time that is never reached is null."""
    runs = found.runs
    names = np.unique(runs.outcome).tolist()
    fractions = {name: (runs.outcome == name).mean("seed").values.tolist() for name in names}
    long = ("experiment", "experiment_file", "cpu_features")
    numbers = {
        "store": str(found.path),
        "seeds": runs.sizes["seed"],
        "seeds_in_store": found.seeds,
        "axes": {name: runs[name].values.tolist() for name in runs.outcome.dims if name not in ("seed", "variant")},
        **({"variants": runs.variant.values.tolist()} if "variant" in runs.dims else {}),
        "fixed": {name: value.item() for name, value in found.fixed.items()},
        "fractions": {"along": [dim for dim in runs.outcome.dims if dim != "seed"], **fractions},
        "attributes": {k: v for k, v in runs.attrs.items() if k not in long},
    }
    return finite_or_none(numbers)


def _axis_name(coordinate: xr.DataArray) -> str:
    """Return an axis's name with its unit, in plain text."""
    text, unit = coordinate.attrs.get("long_name", str(coordinate.name)), coordinate.attrs.get("units", "1")
    return text if unit == "1" else f"{text} in {unit}"


_CAPTIONS = {
    "fractions": "Fraction of the runs that succeeded over two axes of the sweep, one panel per variant.",
    "outcomes": "Fraction of the runs that ended in each way, one colour per variant, with 95 % Wilson intervals.",
    "times": "Steps to the distance that every variant was run to: Kaplan-Meier median, band 5–95 % of the runs. Runs "
    "that fail never arrive; a triangle at the upper edge means that fewer than half have arrived.",
    "survival": "Fraction of starts not yet at the distance that every variant was run to, and in panels of their own "
    "at finer ones, of the variants that went on (Kaplan-Meier; runs that fail never arrive). Band: pointwise 95 % "
    "Wilson interval.",
    "distance": "Distance to the best approximation against steps. Line: median over the starts; band: 5–95 % of them. "
    "A finished run keeps its last value.",
    "imbalance": "Imbalance of the factors against steps. Line: median; band: 5–95 % of the starts.",
    "worst": "The worst ten starts of the first variant one by one: failures first, then the slowest. Coloured: every "
    "variant from that start; grey: the first variant's median over the starts.",
}


def _success(found: Shown) -> tuple[xr.DataArray, str]:
    """Return which runs succeeded, and the name of their fraction: without a tolerance, those at the lowest level, and
    with several, those at the coarsest."""
    runs = found.runs
    if found.judged and len(levels := list(stats.judged_levels(runs))) > 1:
        return np.isfinite(runs.hit.sel(level=levels[0], drop=True)), f"fraction at {levels[0]:g}"
    if not _without_tolerance(runs) or not found.judged:
        return runs.outcome == "converged", "fraction converged"
    return np.isfinite(runs.hit.isel(level=-1, drop=True)), f"fraction at {float(runs.level[-1]):g}"


def _without_tolerance(runs: xr.Dataset) -> bool:
    return runs.attrs.get("tolerance") == "null"


def _notes(found: Shown) -> list[str]:
    """Return what is left out."""
    used = found.runs.sizes["seed"]
    held = ", ".join(f"{name} = {value:.4g}" for name, value in found.fixed.items())
    paths = any(str(name).endswith("_path") for name in found.runs) and not found.axes
    said = {
        f"{used} of {found.seeds} seeds are done at every point and with every variant; the others are left out": (
            used < found.seeds
        ),
        f"shown at {held}": bool(held),
        f"paths are those of the first {_PATH_SEEDS} seeds": paths and used > _PATH_SEEDS,
        "runs had no tolerance: they are judged at the lowest level": _without_tolerance(found.runs),
    }
    return [text for text, holds in said.items() if holds]


def _along(found: Shown) -> Rows:
    """Return the table along the one axis: the fraction that succeeded and the times to arrive, by variant."""
    (axis,), runs = found.axes, found.runs
    level = next(iter(stats.judged_levels(runs)))
    success, label = _success(found)
    rows = []
    for name, part, _, _ in variants_of(runs.assign(success=success)):
        times = stats.time_to(part, level).quantile(_QUANTILES)
        for value in runs[axis].values:
            one = part.success.sel({axis: value})
            low, high = stats.wilson(one.sum(), one.size)
            share = _shares(float(one.mean()), float(low), float(high))
            late = _late(part.sel({axis: value}))
            arrived = [_steps(time, late) for time in times.sel({axis: value}).values]
            rows.append([*_lead(found, name), f"{value:.4g}", share, *arrived])
    title = f"% of runs ({label}; 95 % Wilson interval), and steps by which 5, 50, 95 % had arrived at {level:g}"
    columns = [_axis_name(runs[axis]), label.removeprefix("fraction "), "5 %", "50 %", "95 %"]
    return title, [*_lead(found, "variant"), *columns], rows


def _percent(at: xr.Dataset) -> str:
    return _shares(float(at.fraction), float(at.low), float(at.high))


def _shares(*values: float) -> str:
    fraction, low, high = map(_number, values)
    return f"{fraction} ({low}–{high})"


def _number(share: float) -> str:
    return f"{100 * share:.1f}".removesuffix(".0")


def _late(runs: xr.Dataset) -> str:
    """Say when runs arrive that have not: after the budget that cut some of them off, or never."""
    return f"> {int(runs.steps.max())}" if (runs.outcome == "budget").any() else "never"


def _steps(time: float, late: str) -> str:
    return f"{time:.0f}" if np.isfinite(time) else late


def _values(values: np.ndarray) -> str:
    if len(values) <= 8:
        return ", ".join(f"{value:.4g}" for value in values)
    return f"{len(values)} values from {values.min():.4g} to {values.max():.4g}"
