"""Tables of what runs found, for LaTeX."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import xarray as xr

from jaxfact.engine.levels import is_below
from jaxfact.inputs import problem_with
from jaxfact.results.intervals import quantile_interval, wilson
from jaxfact.results.latex import latex_name, latex_text
from jaxfact.results.times import time_to
from jaxfact.results.wording import value_of


class Compared(Protocol):
    """What has runs, such as a comparison."""

    @property
    def runs(self) -> xr.Dataset:
        """The labelled runs."""
        ...


def table(
    found: xr.Dataset | Compared,
    *,
    levels: Sequence[float] | None = None,
    quantile: float = 0.5,
    caption: str | None = None,
    label: str = "runs",
) -> str:
    r"""Return a LaTeX table (booktabs): per variant, what fraction reached each level and how many steps it took.

    Fractions have Wilson's interval; a quantile of times has the interval between two order statistics, which the
    number of runs below the quantile, a binomial one, leaves out with 2.5 % on either side (Thompson 1936). Runs that
    never arrive count as infinitely late, and an end that lies beyond the budget is \(\infty\).

    Args:
        found: runs at one point or along one axis, with `seed` and perhaps `variant`; or what `jaxfact.compare` has
            returned.
        levels: distances; by default the coarsest and the finest to which all were run.
        quantile: of the times, 0.5 the median.
        caption: by default what the table shows, what the intervals are, and what was run.
        label: the table is `tab:<label>`.

    Raises:
        ValueError: For runs along several axes, a level that was not timed, and a quantile that is no fraction.
    """
    runs = found if isinstance(found, xr.Dataset) else found.runs
    if not 0 < quantile < 1:
        raise problem_with("quantile", quantile, "needs a number between 0 and 1", "0.5 is the median")
    axes = [str(dim) for dim in runs.outcome.dims if dim not in ("seed", "variant")]
    if len(axes) > 1:
        raise problem_with(
            "runs", f"axes {axes}", "a table is along one", "select a point of others with runs.sel(...)"
        )
    judged = [float(level) for level in runs.level.values] if levels is None else [float(level) for level in levels]
    judged = judged if levels is not None or len(judged) < 3 else [judged[0], judged[-1]]
    rows = [_row(runs, axes, name, place, judged, quantile) for name in _names(runs) for place in _places(runs, axes)]
    heads = [*(["variant"] if "variant" in runs.dims else []), *(_heading(runs[axis]) for axis in axes)]
    share = [rf"\% at {level:g}" for level in judged]
    time = [rf"steps to {level:g}" for level in judged]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(_caption(runs, quantile) if caption is None else caption)}}}",
            rf"\label{{tab:{latex_name(label)}}}",
            rf"\begin{{tabular}}{{{'l' * len(heads)}{'r' * len(share + time)}}}",
            r"\toprule",
            f"{' & '.join([*heads, *share, *time])} \\\\",
            r"\midrule",
            *(f"{' & '.join(row)} \\\\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _names(runs: xr.Dataset) -> list[str]:
    return runs.variant.values.tolist() if "variant" in runs.dims else [""]


def _places(runs: xr.Dataset, axes: Sequence[str]) -> list[float | None]:
    return runs[axes[0]].values.tolist() if axes else [None]


def _row(
    runs: xr.Dataset, axes: Sequence[str], name: str, place: float | None, levels: Sequence[float], quantile: float
) -> list[str]:
    one = runs.sel({"variant": name}) if "variant" in runs.dims else runs
    one = one if place is None else one.sel({axes[0]: place})
    hits = [time_to(one, level).hit.values for level in levels]
    known = [not is_below(level, float(one.tolerance)) for level in levels]
    shares = [_share(hit) if there else "--" for hit, there in zip(hits, known, strict=True)]
    times = [
        _interval(*map(_steps, quantile_interval(hit, quantile))) if there else "--"
        for hit, there in zip(hits, known, strict=True)
    ]
    return [
        *([latex_text(str(name))] if "variant" in runs.dims else []),
        *([] if place is None else [latex_text(value_of(place))]),
        *shares,
        *times,
    ]


def _share(hit: np.ndarray) -> str:
    arrived = int(np.isfinite(hit).sum())
    low, high = wilson(arrived, len(hit))
    return _interval(
        *(f"{100 * share:.1f}".removesuffix(".0") for share in (arrived / len(hit), float(low), float(high)))
    )


def _interval(value: str, low: str, high: str) -> str:
    return f"{value} [{low}, {high}]"


def _steps(time: float) -> str:
    return f"{time:.0f}" if np.isfinite(time) else r"$\infty$"


def _heading(coordinate: xr.DataArray) -> str:
    text = latex_text(str(coordinate.attrs.get("long_name", coordinate.name)))
    symbol = coordinate.attrs.get("latex", "")
    return f"{text} {symbol}" if symbol else text


def _caption(runs: xr.Dataset, quantile: float) -> str:
    what = "median" if quantile == 0.5 else f"{quantile:g} quantile of the"
    attrs = runs.attrs
    told = [
        f"Percentage of the runs that reached each distance, with Wilson's 95 % interval, and the {what} number of "
        "steps to it, with the 95 % interval between order statistics",
        f"{runs.sizes['seed']} seeds per row, {attrs.get('dtype')}, checked every {attrs.get('check_every')} steps, "
        f"step size in units of 1/{attrs.get('unit_name', 'σ₁')}",
    ]
    return ". ".join(told) + "."
