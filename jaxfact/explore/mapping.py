"""Maps: how runs end over two controls, from coarse to fine, so that there is a picture at once."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from jaxfact.explore.controls import BUDGETS, CHECKED, HIGHEST, WIDEST, Control, State, check
from jaxfact.explore.laboratory import Laboratory, Program, axes_at

CODES: tuple[str, ...] = (
    "converged", "stationary elsewhere", "period 2", "period 4", "period 8", "other period", "no end: chaos, or slow",
    "diverged",
)  # fmt: skip
QUANTITIES: Mapping[str, str] = {
    "outcome": "how runs end",
    "fraction": "fraction converged",
    "time": "median time",
}
"""What may be shown of `Maps`, by the names of its fields."""
_CYCLES = {2: 2, 4: 3, 8: 4}
_AT_ONCE = 40_000  # runs between two pictures
_COARSEST = 32


class Asked(NamedTuple):
    """A map: two controls and the stretch of each, points a side, starts at each point, and the method."""

    method: str
    x: Control
    y: Control
    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    points: int
    seeds: int


class Maps(NamedTuple):
    """What is known so far, with y along the first axis: NaN where nothing is.

    `outcome` is a place among `CODES`, that of most starts; `fraction` is of starts that converged, `time` the median
    step of arrival, inf where less than half arrive.
    """

    outcome: Float[np.ndarray, "y x"]
    fraction: Float[np.ndarray, "y x"]
    time: Float[np.ndarray, "y x"]


def values_along(control: Control, ends: tuple[float, float], points: int) -> np.ndarray:
    """Return values along a control, evenly spaced as its slider is; whole numbers once each."""
    low, high = (control.on_slider(end) for end in ends)
    values = np.array([control.off_slider(place) for place in np.linspace(low, high, points)])
    return np.unique(values)


def pixels(control: Control, values: np.ndarray, most: int) -> tuple[Int[np.ndarray, " pixel"], float, float]:
    """Return which value each of a row of equal pixels shows, and where the row begins and ends on the slider.

    Values lie in the middle of their pixels; where whole numbers are unevenly spaced, a pixel shows the nearest one.
    """
    places = np.array([control.on_slider(value) for value in values.tolist()])
    gaps = np.diff(places)
    count = len(values) if not len(gaps) or np.ptp(gaps) < 1e-3 * gaps.mean() else most
    half = (places[-1] - places[0]) / max(count - 1, 1) / 2 or 0.5
    at = np.linspace(places[0], places[-1], count)
    return np.searchsorted((places[1:] + places[:-1]) / 2, at), float(places[0] - half), float(places[-1] + half)


def drawn(laboratory: Laboratory, state: State, asked: Asked, goes_on: Callable[[], bool]) -> Iterator[Maps]:
    """Yield the map as it fills: every 32nd point, then those between, until all are there or `goes_on` is False.

    What is not known yet shows its nearest known neighbour; points whose values contradict each other stay NaN. Raises
    ValueError where all do.
    """
    xs, ys = (values_along(one, ends, asked.points) for one, ends in ((asked.x, asked.x_ends), (asked.y, asked.y_ends)))
    refused = _refused(state, asked, xs, ys)
    prepared = laboratory.made(program_for(laboratory, state, asked))
    found = Maps(*(np.full((len(ys), len(xs)), np.nan) for _ in Maps._fields))
    seeds = range(state.values["first_seed"], state.values["first_seed"] + asked.seeds)
    for stride, rows, columns in _parts(len(ys), len(xs), asked.seeds):
        if not goes_on():
            return
        axes = axes_at(state) | {asked.x.name: xs[columns], asked.y.name: ys[rows]}
        runs = prepared(seeds, progress=False, axes=axes).transpose(asked.y.name, asked.x.name, "seed", ...)
        for whole, part in zip(found, _read(runs), strict=True):
            whole[np.ix_(rows, columns)] = part
        yield Maps(*(np.where(refused, np.nan, _filled(one, stride)) for one in found))


def program_for(laboratory: Laboratory, state: State, asked: Asked) -> Program:
    """Return the program of a map: one for scalars, which are the fastest, where width and rank are 1."""
    moving = {asked.x.name, asked.y.name}
    is_scalar = laboratory.problem is None and not moving & {"width", "rank"}
    is_scalar = is_scalar and state.values["width"] == state.values["rank"] == 1
    width, rank = (1, 1) if is_scalar else (WIDEST, HIGHEST)
    return Program(asked.method, BUDGETS[-1], False, width, rank)


def _parts(height: int, width: int, seeds: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield strides, rows and columns that together are every point once: products of a few rows and many columns."""
    stride = _COARSEST
    while stride > max(height, width):
        stride //= 2
    known_rows = known_columns = np.array([], int)
    while stride:
        rows, columns = np.arange(0, height, stride), np.arange(0, width, stride)
        fresh = np.setdiff1d(rows, known_rows)
        parts = [(fresh, columns), (known_rows, np.setdiff1d(columns, known_columns))]
        for part_rows, part_columns in parts:
            if len(part_rows) and len(part_columns):
                band = max(_AT_ONCE // (len(part_columns) * seeds), 1)
                for first in range(0, len(part_rows), band):
                    yield stride, part_rows[first : first + band], part_columns
        known_rows, known_columns, stride = rows, columns, stride // 2


def _refused(state: State, asked: Asked, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """Tell of which points the values contradict each other. Raises ValueError where all do."""
    # Of a control that the check does not read, one value stands for all.
    xs, ys = ((one[:1] if axis.name not in CHECKED else one) for axis, one in ((asked.x, xs), (asked.y, ys)))
    refused, problem = np.zeros((len(ys), len(xs)), bool), None
    for row, column in np.ndindex(refused.shape):
        try:
            check(state.moved(asked.x.name, xs[column].item()).moved(asked.y.name, ys[row].item()))
        except ValueError as error:
            refused[row, column], problem = True, error
    if problem is not None and refused.all():
        raise problem
    return refused


def _read(runs: xr.Dataset) -> Maps:
    outcome, period = runs.outcome.values, runs.period.values
    codes = np.full(outcome.shape, CODES.index("no end: chaos, or slow"))
    codes[outcome == "converged"] = 0
    codes[outcome == "stationary"] = 1
    codes[outcome == "diverged"] = CODES.index("diverged")
    cycles = outcome == "cycle"
    codes[cycles] = [_CYCLES.get(int(one), CODES.index("other period")) for one in period[cycles]]
    counts = np.stack([(codes == code).sum(-1) for code in range(len(CODES))])
    arrived = np.where(outcome == "converged", runs.hit.isel(level=-1).values, np.inf)
    median = np.sort(arrived, axis=-1)[..., (arrived.shape[-1] - 1) // 2]
    return Maps(counts.argmax(0), (outcome == "converged").mean(-1), median)


def _filled(known: np.ndarray, stride: int) -> np.ndarray:
    """Return the map with every unknown point as its nearest known one above and to the left."""
    filled = known.copy()
    for size in _strides(stride):
        blank = np.isnan(filled)
        if not blank.any():
            break
        rows, columns = (np.arange(length) // size * size for length in known.shape)
        filled = np.where(blank, filled[np.ix_(rows, columns)], filled)
    return filled


def _strides(first: int) -> Iterator[int]:
    size = max(first, 1)
    while size <= 2 * _COARSEST:
        yield size
        size *= 2
