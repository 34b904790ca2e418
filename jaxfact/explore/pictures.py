"""The pictures of the explorer's first tab, in Bokeh: made once, and given other numbers at every move."""

# Bokeh's properties take plain values of which its annotations say nothing.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportCallIssue=false, reportIndexIssue=false

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, Range1d, Span
from bokeh.plotting import figure

from jaxfact.explore.appearance import (
    CHOSEN,
    GREY,
    METHOD_COLOURS,
    METHOD_DASHES,
    OUTCOME_COLOURS,
    SIZES,
    largest,
    round_above,
)
from jaxfact.explore.controls import METHODS, WIDEST
from jaxfact.explore.laboratory import TOLERANCE
from jaxfact.explore.summaries import Curve, Shown, Summary, singular_values
from jaxfact.explore.times import Times

_ENDS = tuple(OUTCOME_COLOURS)
_SHADES = ("#440154", "#3b528b", "#21918c", "#5ec962", "#c8b100")  # viridis, its yellow darkened to be read on white
_LOGARITHMIC = {"distance": "‖UVᵀ − Σ_d‖ / ‖Σ_d‖", "imbalance": "‖UᵀU − VᵀV‖ / σ₁"}
LEGENDS: Mapping[str, Mapping[str, str]] = {
    "singular_values": {f"σ{'₁₂₃₄₅'[place]}": shade for place, shade in enumerate(_SHADES)},
    "outcomes": OUTCOME_COLOURS,
}
"""What colours mean in a figure of some name, for a line below it: a legend in it is drawn anew with each move."""
_CURVES = ("step", "low", "median", "high")
_ABOVE = 30.0  # times the largest median ends an axis: what goes farther leaves the picture
_FAR = 1e30  # beyond every axis, for what is infinite
Picture = Any


class Pictures:
    """Six figures and what they are drawn from; `on_choice` is called with method and seed when a run is clicked."""

    def __init__(self, on_choice: Callable[[str, int], None]):
        self._steps = Range1d(0, 1)
        self._ranges = {name: Range1d(1e-4, 1) for name in ("distance", "imbalance")}
        self._ranges["singular_values"] = Range1d(0, 1)
        empty = {name: [] for name in _CURVES}
        self._distance = {name: ColumnDataSource(empty) for name in METHODS}
        self._imbalance = {name: ColumnDataSource(empty) for name in METHODS}
        self._waiting = {name: ColumnDataSource({"step": [], "fraction": []}) for name in METHODS}
        self._values = ColumnDataSource({name: [] for name in ("step", *_places())})
        self._target = ColumnDataSource({"value": []})
        self._outcomes = ColumnDataSource({name: [] for name in ("method", *_ENDS)})
        self._times = Times(on_choice)
        self._drawn: set[str] = set()
        self._fitted: tuple[Shown, list[np.ndarray]] | None = None
        self._chosen = ColumnDataSource({name: [] for name in ("step", "distance", "imbalance")})
        self._frozen = ColumnDataSource({name: [] for name in ("step", "distance", "imbalance")})
        self._frozen_waiting = ColumnDataSource({"step": [], "fraction": []})
        self.figures: tuple[Picture, ...] = (
            self._draw_distance(),
            self._draw_waiting(),
            self._times.figure,
            self._draw_imbalance(),
            self._draw_values(),
            self._draw_ends(),
        )
        for made in self.figures:
            # Every tick is measured and drawn anew with each move.
            made.axis.minor_tick_line_color = None
            for renderer in made.renderers:  # nothing is selected here, nor muted
                renderer.nonselection_glyph = renderer.muted_glyph = None
            for ticker in (axis.ticker for axis in made.axis if hasattr(axis.ticker, "desired_num_ticks")):
                ticker.desired_num_ticks = 4

    def show(self, shown: Shown, of_values: str, target: np.ndarray) -> None:
        """Draw another state; `of_values` is the method whose singular values are drawn, beside those of the target."""
        for name in {*shown.of, *self._drawn}:
            one = shown.of.get(name)
            self._distance[name].data = _columns(one, "distance")
            self._imbalance[name].data = _columns(one, "imbalance")
            there = {"step": [], "fraction": []} if one is None else {"step": one.gone, "fraction": one.waiting}
            self._waiting[name].data = _in_line(there)
        self._times.show(shown)
        self._drawn = set(shown.of)
        summary = shown.of[of_values]
        for made in (made for made in self.figures if made.name in _LOGARITHMIC):
            end = "10⁻⁹" if summary.distance.median.dtype == np.float32 else "10⁻¹⁸"
            made.yaxis.axis_label = f"{_LOGARITHMIC[made.name]}, to {end}"
        used = singular_values(shown, of_values)
        nothing = np.full(len(summary.steps), np.nan)
        columns = {place: used[at] if at < len(used) else nothing for at, place in enumerate(_places())}
        self._values.data = _in_line({"step": summary.steps, **columns})
        self._target.data = _in_line({"value": target})
        self.figures[4].title.text = f"Singular values of UVᵀ: {of_values}"
        self._outcomes.data = {
            "method": list(shown.of),
            **{outcome: [one.outcomes[outcome] for one in shown.of.values()] for outcome in _ENDS},
        }
        self.figures[5].y_range.factors = list(shown.of)[::-1]
        if len(self._chosen.data["step"]):
            self._chosen.data = {name: [] for name in self._chosen.data}
        lines = [one for one in used if np.sum(np.isfinite(one)) > 1]  # of a point alone nothing is seen
        self._fit(shown, [*lines, target])
        self._hide_empty()

    def show_run(self, steps: np.ndarray, distance: np.ndarray, imbalance: np.ndarray) -> None:
        """Draw the path of one run over the others."""
        self._chosen.data = {"step": steps, "distance": _positive(distance), "imbalance": _positive(imbalance)}
        for name, path in (("distance", distance), ("imbalance", imbalance)):
            kept = self._ranges[name]
            low, high = _decades([_positive(path[np.isfinite(path)]), np.array([kept.start, kept.end])])
            kept.update(start=low, end=high)
        self._hide_empty()

    def freeze(self, shown: Shown) -> None:
        """Keep the medians, and who has not arrived, in grey."""
        kept = [one for one in shown.of.values()]
        self._frozen.data = {
            "step": [one.steps for one in kept],
            "distance": [_positive(one.distance.median) for one in kept],
            "imbalance": [_positive(one.imbalance.median) for one in kept],
        }
        self._frozen_waiting.data = {"step": [one.gone for one in kept], "fraction": [one.waiting for one in kept]}
        self._hide_empty()

    def thaw(self) -> None:
        """Remove what was kept."""
        for source in (self._frozen, self._frozen_waiting):
            source.data = {name: [] for name in source.data}
        if self._fitted is not None:
            self._fit(*self._fitted)
        self._hide_empty()

    def _hide_empty(self) -> None:
        """Leave out of the drawing what has no data, which takes a browser time too."""
        for renderer in (renderer for made in self.figures for renderer in made.renderers):
            renderer.visible = any(len(column) for column in renderer.data_source.data.values())

    def _fit(self, shown: Shown, values: list[np.ndarray]) -> None:
        """Give every axis a range of round numbers, so that the pictures keep their frames while a slider is moved.

        A browser that finds other widths of labels lays the picture out anew, which takes it as long as to draw it.
        """
        self._fitted = shown, values
        self._steps.end = round_above(max([shown.last_step, *(one[-1] for one in self._frozen.data["step"])]))
        for name, source in (("distance", self._distance), ("imbalance", self._imbalance)):
            drawn = [np.asarray(source[method].data[column]) for method in shown.of for column in _CURVES[1:]]
            top = _ABOVE * largest([one[one < _FAR] for one in (*drawn[1::3], *self._frozen.data[name])])
            held = [np.array([TOLERANCE])] if name == "distance" else []
            low, high = _decades([*held, *(np.minimum(one, top) for one in (*drawn, *self._frozen.data[name]))])
            self._ranges[name].update(start=low, end=high)
        self._ranges["singular_values"].end = round_above(1.05 * largest(values))

    def _draw_distance(self) -> Picture:
        made = self._along_steps("distance", "Distance from the target", _LOGARITHMIC["distance"], "log")
        _bands(made, self._distance)
        made.multi_line("step", "distance", source=self._frozen, color=GREY, line_dash="dashed")
        made.line("step", "distance", source=self._chosen, color=CHOSEN, line_width=2.5)
        made.add_layout(Span(location=TOLERANCE, dimension="width", line_color=GREY, line_dash="dotted"))
        return made

    def _draw_imbalance(self) -> Picture:
        made = self._along_steps("imbalance", "Imbalance of the factors", _LOGARITHMIC["imbalance"], "log")
        _bands(made, self._imbalance)
        made.multi_line("step", "imbalance", source=self._frozen, color=GREY, line_dash="dashed")
        made.line("step", "imbalance", source=self._chosen, color=CHOSEN, line_width=2.5)
        return made

    def _draw_waiting(self) -> Picture:
        made = self._along_steps("survival", "Not arrived yet", "fraction of runs", "linear")
        made.multi_line("step", "fraction", source=self._frozen_waiting, color=GREY, line_dash="dashed")
        for name, source in self._waiting.items():
            made.step("step", "fraction", source=source, mode="after", **_line_of(name))
        return made

    def _draw_values(self) -> Picture:
        made = self._along_steps("singular_values", "Singular values of UVᵀ", "σᵢ / σ₁, median", "linear")
        made.hspan(y="value", source=self._target, line_color=GREY, line_dash="dotted")
        for name, shade in zip(_places(), _SHADES, strict=True):
            made.line("step", name, source=self._values, color=shade, line_width=2)
        return made

    def _draw_ends(self) -> Picture:
        made = figure(
            title="How the runs ended", name="outcomes", **SIZES, y_range=[], x_range=Range1d(0, 1),
            tools="",
        )  # fmt: skip
        made.hbar_stack(
            list(_ENDS), y="method", height=0.7, source=self._outcomes, line_color="white",
            color=[OUTCOME_COLOURS[name] for name in _ENDS],
        )  # fmt: skip
        made.xaxis.axis_label = "fraction of runs"
        made.ygrid.visible = False
        return made

    def _along_steps(self, name: str, title: str, label: str, scale: str) -> Picture:
        made = figure(
            title=title, name=name, **SIZES, x_range=self._steps, y_axis_type=scale,
            y_range=self._ranges.get(name, Range1d(0, 1.03)), tools="",
        )  # fmt: skip
        made.xaxis.axis_label = "step t"
        made.yaxis.axis_label = label
        made.xgrid.visible = False
        return made


def _bands(made: Picture, sources: Mapping[str, ColumnDataSource]) -> None:
    for name, source in sources.items():
        made.varea("step", "low", "high", source=source, color=METHOD_COLOURS[name], alpha=0.2)
    for name, source in sources.items():
        made.line("step", "median", source=source, **_line_of(name))


def _line_of(method: str) -> dict[str, Any]:
    return {"color": METHOD_COLOURS[method], "line_dash": list(METHOD_DASHES[method]), "line_width": 2}


def _places() -> list[str]:
    return [f"sigma{place + 1}" for place in range(WIDEST)]


def _columns(summary: Summary | None, name: str) -> dict[str, Any]:
    if summary is None:
        return {column: [] for column in _CURVES}
    curve: Curve = getattr(summary, name)
    return _in_line(dict(zip(_CURVES, (summary.steps, *map(_positive, curve)), strict=True)))


def _in_line(columns: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return columns as lists, which are sent in one message: every array is sent in two of its own."""
    return {name: np.asarray(values).tolist() for name, values in columns.items()}


def _positive(values: np.ndarray) -> np.ndarray:
    """Return values as a logarithmic axis can show them, those below a hundredth of rounding there.

    What is smaller is rounding, which may also give zero.
    """
    least = 10.0 ** (np.floor(np.log10(np.finfo(values.dtype).eps)) - 2)
    return np.clip(values, least, _FAR)  # NaN stays


def _decades(arrays: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return decades, three at least, between which all positive values lie; those below 1 where there is none.

    So ticks are powers of ten, whose labels are as wide at every move.
    """
    given = np.concatenate([np.asarray(one, float) for one in arrays])
    logs = np.log10(given[np.isfinite(given)])
    low, high = (np.floor(logs.min() + 1e-6), np.ceil(logs.max() - 1e-6)) if len(logs) else (-3, 0)
    return float(10.0**low), float(10.0 ** max(high, low + 3))
