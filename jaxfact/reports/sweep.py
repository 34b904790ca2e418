"""A sweep for people: tables and figures of any store of results, even an unfinished one."""

import itertools
import math
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact.figures.styles import variants_of
from jaxfact.inputs import problem_with
from jaxfact.reports.again import of_sweep
from jaxfact.reports.pages import RESULTS, Report, Rows
from jaxfact.reports.pictures import PATH_SEEDS, arrived, pictures
from jaxfact.results import stats
from jaxfact.results.labels import TIMES
from jaxfact.results.strict_json import finite_or_none
from jaxfact.results.success import (
    axes_of,
    check_runs,
    finished,
    in_one_sentence,
    in_order,
    is_judged,
    success,
    without_tolerance,
)
from jaxfact.results.wording import counted, number, percent, share, value_of
from jaxfact.store.files import open_results

_ROWS = 24  # of a table along an axis
_QUANTILES = (0.05, 0.5, 0.95)
_SAID_ELSEWHERE = ("outcome", "hit", "tolerance", "loss_rose", "period", "gradient_norm", *TIMES)


@dataclass(frozen=True)
class Shown:
    """What is shown of a sweep: the runs of seeds that are done everywhere, at the values where any is.

    `axes` are those with several values, which are drawn along; `fixed` maps the others to their value; `seeds` counts
    all seeds that there are to be, and `left_out` says what else is not shown yet. Without a tolerance, runs are judged
    at the lowest level. `store` is None where the runs are in memory.
    """

    store: str | None
    runs: xr.Dataset
    axes: list[str]
    fixed: dict[str, Any]
    seeds: int
    judged: bool
    left_out: list[str]


def shown(given: str | Path | xr.Dataset) -> Shown:
    """Return what is to be shown of a store, or of the dataset that a sweep returned.

    Raises ValueError where there is no store, or no seed in it that is done at every point and with every variant.
    """
    store = None if isinstance(given, xr.Dataset) else str(given)
    everything = given if isinstance(given, xr.Dataset) else open_results(given)
    if store is None:
        check_runs(everything)
    elif "outcome" not in everything or "seed" not in everything.outcome.dims:
        raise problem_with("store", store, "holds no outcomes of runs along seed", "give the store of a sweep")
    runs = finished(everything)
    if runs is None:
        needed = "has no seed yet that is done at every point and with every variant"
        raise problem_with("store", store, needed, "repeat the sweep, or wait: jaxfact status says how far it has got")
    axes = axes_of(runs)
    left_out = [
        f"{name}: {everything.sizes[name] - runs.sizes[name]} of {everything.sizes[name]} have no run yet, or too few"
        for name in map(str, runs.outcome.dims)
        if name != "seed" and runs.sizes[name] < everything.sizes[name]
    ]
    runs = in_order(runs)
    drawn = [dim for dim in axes if runs.sizes[dim] > 1]
    fixed = {dim: runs[dim].values[0] for dim in axes if dim not in drawn}
    runs = runs.isel(dict.fromkeys(fixed, 0))
    judged = is_judged(runs)
    if judged:
        runs = runs.assign(tolerance=runs.tolerance.fillna(float(runs.level.min())))
    return Shown(store, runs, drawn, fixed, everything.sizes["seed"], judged, left_out)


def drawn(found: Shown) -> dict[str, Figure]:
    """Return the figures by name."""
    return {name: one.draw() for name, one in pictures(found).items()}


def report_of(found: Shown) -> Report:
    """Return what terminal, notebook and page say."""
    soon = "So far: " * bool(found.left_out or found.runs.sizes["seed"] < found.seeds)
    again = [] if found.store is None else [f"jaxfact report {shlex.quote(found.store)}"]
    made = of_sweep(found.runs, found.store) + ("\njf.report(runs)" if found.store is None else "")
    return Report(
        title="Sweep" if found.store is None else f"Sweep of {Path(found.store).absolute().name}",
        heading=heading(found),
        tables=tables(found),
        lines=_notes(found),
        captions={name: one.caption for name, one in pictures(found).items()},
        summary=as_json(found),
        runs={RESULTS: found.runs} if found.store is None else {},
        draw=partial(drawn, found),
        found=soon + in_one_sentence(found.runs),
        again="\n\n".join([*again, made]),
    )


def heading(found: Shown) -> list[str]:
    """Return the lines that say what was run."""
    attrs, runs = found.runs.attrs, found.runs
    axes = [f"{_axis_name(runs[name])}: {_values(runs[name].values)}" for name in found.axes]
    variants = [f"variants: {', '.join(map(str, runs.variant.values))}"] if "variant" in runs.dims else []
    problem = f"{attrs['problem']} of {'×'.join(map(str, attrs['shape']))}, " if "problem" in attrs else ""
    return [
        f"{problem}{counted(runs.sizes['seed'], 'seed')} at each point",
        *axes,
        *variants,
        f"at most {attrs.get('max_steps')} steps, looked at every {attrs.get('check_every')}; {attrs.get('dtype')} on "
        f"{attrs.get('device')}, jax {attrs.get('jax')}",
    ]


def tables(found: Shown) -> list[Rows]:
    """Return title, columns and rows: outcomes at each point by variant, times to arrive along an axis, and records.

    Runs of different points are never pooled: no interval would hold for them together.
    """
    each = stats.outcome_fractions(found.runs)
    found_tables = [_by_point(found, each) if _points(found) <= _ROWS else _over_points(found, each)]
    if found.judged and len(found.axes) == 1 and _points(found) <= _ROWS:
        found_tables.append(_along(found))
    return [*found_tables, *_records(found)]


def _records(found: Shown) -> list[Rows]:
    """Return the table of what was recorded where runs end, and has no path: quantiles over all runs of a variant."""
    known = {*_SAID_ELSEWHERE, *map(str, found.runs.coords)}
    ends = [
        str(name)
        for name, values in found.runs.data_vars.items()
        if str(name) not in known and "seed" in values.dims and {*values.dims} <= {*found.runs.outcome.dims}
    ]
    ends = [name for name in ends if not name.endswith("_path") and found.runs[name].dtype.kind in "iuf"]
    if not ends or found.axes:
        return []
    rows = []
    for name, part, _, _ in variants_of(found.runs):
        for end in ends:
            quantiles = np.quantile(part[end].values.astype(float), _QUANTILES, method="inverted_cdf")
            rows.append([name or "all", _axis_name(part[end]), *map(number, quantiles)])
    return [("where runs end: 5, 50, 95 % of them", ["variant", "number", "5 %", "50 %", "95 %"], rows)]


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
            rows.append([*_lead(found, name), *map(value_of, point), *shares])
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
        [name or "all", *(" – ".join(map(percent, part.fraction.sel(outcome=outcome).values)) for outcome in names)]
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
        "store": found.store,
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


def _notes(found: Shown) -> list[str]:
    """Return what is left out."""
    used = found.runs.sizes["seed"]
    held = ", ".join(f"{name} = {value_of(value)}" for name, value in found.fixed.items())
    paths = any(str(name).endswith("_path") for name in found.runs)
    said = {
        f"{used} of {found.seeds} seeds are done at every point and with every variant; the others are left out": (
            used < found.seeds
        ),
        f"shown at {held}": bool(held),
        f"paths are those of the first {PATH_SEEDS} seeds": paths and used > PATH_SEEDS,
        "no run arrived: times are not drawn": found.judged and not arrived(found),
        "runs had no tolerance: they are judged at the lowest level": without_tolerance(found.runs),
    }
    return [*(text for text, holds in said.items() if holds), *found.left_out]


def _along(found: Shown) -> Rows:
    """Return the table along the one axis: the fraction that succeeded and the times to arrive, by variant."""
    (axis,), runs = found.axes, found.runs
    level = next(iter(stats.judged_levels(runs)))
    succeeded, label = success(found.runs)
    rows = []
    for name, part, _, _ in variants_of(runs.assign(success=succeeded)):
        times = stats.time_to(part, level).quantile(_QUANTILES)
        for value in runs[axis].values:
            one = part.success.sel({axis: value})
            low, high = stats.wilson(one.sum(), one.size)
            reached = share(float(one.mean()), float(low), float(high))
            late = _late(part.sel({axis: value}))
            arrived = [_steps(time, late) for time in times.sel({axis: value}).values]
            rows.append([*_lead(found, name), value_of(value), reached, *arrived])
    title = (
        f"% of runs (fraction {label}; 95 % Wilson interval), and steps by which 5, 50, 95 % had arrived at {level:g}"
    )
    columns = [_axis_name(runs[axis]), label, "5 %", "50 %", "95 %"]
    return title, [*_lead(found, "variant"), *columns], rows


def _percent(at: xr.Dataset) -> str:
    return share(float(at.fraction), float(at.low), float(at.high))


def _late(runs: xr.Dataset) -> str:
    """Say when runs arrive that have not: after the budget that cut some of them off, or never."""
    return f"> {int(runs.steps.max())}" if (runs.outcome == "budget").any() else "never"


def _steps(time: float, late: str) -> str:
    return f"{time:.0f}" if np.isfinite(time) else late


def _values(values: np.ndarray) -> str:
    if len(values) <= 8 or values.dtype.kind not in "iuf":
        return ", ".join(map(value_of, values.tolist()))
    return f"{len(values)} values from {values.min():.4g} to {values.max():.4g}"
