"""Which figures show a sweep: every axis with the others held, and every record at a few points; nothing is pooled."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact import figures
from jaxfact.results import stats
from jaxfact.results.success import success
from jaxfact.results.wording import value_of

PATH_SEEDS = 10_000
"""Of so many seeds the paths are drawn: a band over more looks the same."""
_POINTS = 3  # along the first axis, at which records are drawn


class Swept(Protocol):
    """What is drawn of a sweep: its runs, the axes with several values, and whether times to a distance are known."""

    @property
    def runs(self) -> xr.Dataset:
        """The runs, all of them done."""
        ...

    @property
    def axes(self) -> list[str]:
        """The axes with several values."""
        ...

    @property
    def judged(self) -> bool:
        """Whether the runs were timed."""
        ...


class Picture(NamedTuple):
    """A figure to be drawn, and what it shows."""

    caption: str
    draw: Callable[[], Figure]


def pictures(found: Swept) -> dict[str, Picture]:
    """Return the figures of a sweep by name."""
    made = {}
    if len(found.axes) > 1:
        along, across = found.axes[:2]
        succeeded, did = success(_held(found, {along, across}))
        held = _said(found, {along, across})
        draw = partial(figures.heatmap, succeeded.mean("seed"), along, across, label=f"fraction {did}")
        made["fractions"] = Picture(f"Fraction of the runs that {_in_past(did)} over two axes{held}.", draw)
    for axis in found.axes:
        made |= _along(found, axis)
    if not found.axes:
        made["outcomes"] = Picture(_OUTCOMES, partial(figures.outcomes, found.runs))
    for suffix, at, runs in _points(found):
        made |= {f"{name}{suffix}": Picture(f"{caption}{at}", draw) for name, caption, draw in _at(found, runs)}
    return made


def arrived(found: Swept) -> bool:
    """Tell whether runs were timed and one of them arrived, without which times are nothing to be drawn."""
    return found.judged and bool(np.isfinite(found.runs.hit.sel(level=list(stats.judged_levels(found.runs)))).any())


def _along(found: Swept, axis: str) -> dict[str, Picture]:
    """Return outcomes and times along one axis, at the middle values of the others."""
    runs, held = _held(found, {axis}), _said(found, {axis})
    name = "" if len(found.axes) == 1 else f"_along_{axis}"
    held = f" Here{held.removeprefix(',')}." if held else ""
    made = {f"outcomes{name}": Picture(_OUTCOMES + held, partial(figures.fractions, runs, axis))}
    if arrived(found):
        made[f"times{name}"] = Picture(_TIMES + held, partial(figures.times_along, runs, axis))
    return made


def _at(found: Swept, runs: xr.Dataset) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    """Yield name, caption and figure of all that is drawn of the runs at one point."""
    if arrived(found):
        yield "survival", _SURVIVAL, partial(figures.survival, runs)
    some = runs.isel(seed=slice(PATH_SEEDS))
    for path in map(str, runs.data_vars):
        if path.endswith("_path") and "step" in runs[path].dims:
            name = path.removesuffix("_path")
            what = runs[path].attrs.get("long_name", "a record")
            said = f"{name.replace('_', ' ').capitalize()}: {what}, against steps. {_BAND}"
            yield name, said, partial(figures.curve, some, name)
    if found.judged and "distance_path" in runs and not found.axes:
        yield "worst", _WORST, partial(figures.worst, some)


def _points(found: Swept) -> Iterator[tuple[str, str, xr.Dataset]]:
    """Yield the points at which runs are drawn: the least, middle and greatest value of the first axis."""
    if not found.axes:
        yield "", "", found.runs
        return
    first = found.axes[0]
    places = np.unique(np.linspace(0, found.runs.sizes[first] - 1, _POINTS).round().astype(int))
    for number, place in enumerate(places.tolist(), 1):
        runs = _held(found, {first}).isel({first: place})
        at = ", ".join(f"{axis} = {value_of(runs[axis].item())}" for axis in found.axes)
        yield f"_at_{number}", f" At {at}.", runs


def _held(found: Swept, free: set[str]) -> xr.Dataset:
    """Return the runs at the middle value of every axis but the free ones."""
    return found.runs.isel(_middles(found, free))


def _middles(found: Swept, free: set[str]) -> dict[Any, int]:
    return {axis: found.runs.sizes[axis] // 2 for axis in found.axes if axis not in free}


def _said(found: Swept, free: set[str]) -> str:
    """Say at which values the other axes are held."""
    held = {axis: found.runs[axis].values[place] for axis, place in _middles(found, free).items()}
    return ", at " + ", ".join(f"{axis} = {value_of(value)}" for axis, value in held.items()) if held else ""


def _in_past(did: str) -> str:
    return did if did == "converged" else f"came to distance {did.removeprefix('at ')}"


_OUTCOMES = "Fraction of the runs that ended in each way, one colour per variant, with 95 % Wilson intervals."
_TIMES = (
    "Steps to the distance that every variant was run to: Kaplan-Meier median, band 5–95 % of the runs. Runs that fail "
    "never arrive; a triangle at the upper edge means that fewer than half have arrived."
)
_SURVIVAL = (
    "Fraction of starts not yet at the distance that every variant was run to, and in panels of their own at finer "
    "ones, of the variants that went on (Kaplan-Meier; runs that fail never arrive). Band: pointwise 95 % Wilson "
    "interval."
)
_BAND = (
    "Line: median over the starts; band: 5–95 % of them. A curve ends where half of the runs have arrived and were "
    "stopped."
)
_WORST = (
    "The worst ten starts of the first variant one by one: failures first, then the slowest. Coloured: every variant "
    "from that start; grey: the first variant's median over the starts."
)
