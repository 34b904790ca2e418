"""The picture of when every start arrived, of which one can be clicked."""

# Bokeh's properties take plain values of which its annotations say nothing.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from collections.abc import Callable
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, Range1d
from bokeh.plotting import figure

from jaxfact.explore.appearance import CHOSEN, METHOD_COLOURS, SIZES, largest, round_above
from jaxfact.explore.controls import METHODS
from jaxfact.explore.summaries import Shown

_NOTHING: dict[str, list[float]] = {"x": [], "y": []}
_NEAR = 12.0  # pixels, within which a start is meant
_FRAME = {"inner_width": 300, "inner_height": 200}  # pixels, where a browser has not said


class Times:
    """The time of every start against ln(√σ₁ / σ_min(A₀)); `on_choice` gets method and seed of one that is clicked.

    A glyph for each start is what a browser takes longest to draw. So the dots of a method are one line with gaps, as
    thick as it is long, and which dot is clicked is found here.
    """

    def __init__(self, on_choice: Callable[[str, int], None]):
        self._on_choice = on_choice
        self._signals, self._steps = Range1d(0, 1), Range1d(0, 1)
        self._arrived = {name: ColumnDataSource(_NOTHING) for name in METHODS}
        self._never = {name: ColumnDataSource(_NOTHING) for name in METHODS}
        self._picked = ColumnDataSource(_NOTHING)
        self._drawn: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._spans = 1.0, 1.0
        self._seeds: np.ndarray = np.empty(0, int)
        self.figure: Any = self._made()

    def show(self, shown: Shown) -> None:
        """Draw another state."""
        x = -np.log(np.maximum(shown.signals, np.finfo(float).tiny))
        last, budget = largest([one.arrived for one in shown.of.values()]), shown.state.budget
        waits = any(not np.all(np.isfinite(one.arrived)) for one in shown.of.values())
        left, right = float(np.floor(x.min())), float(np.ceil(x.max() + 0.3))
        right = max(right, left + 1)
        self._spans = right - left, round_above(1.02 * max(1.04 * budget if waits else last, 1))
        self._signals.update(start=left, end=right)
        self._steps.end = self._spans[1]
        for name in self._drawn.keys() - shown.of.keys():
            self._arrived[name].data = self._never[name].data = _NOTHING
        self._drawn, self._seeds = {}, np.asarray(shown.state.seeds)
        for name, one in shown.of.items():
            has, never = np.isfinite(one.arrived), self._never[name]
            y = np.where(has, one.arrived, 1.04 * budget)
            self._drawn[name] = x, y
            self._arrived[name].data = _dots(x[has], y[has], (right - left) / 1000)
            if not np.all(has) or len(never.data["x"]):
                never.data = {"x": x[~has], "y": y[~has]}
        if len(self._picked.data["x"]):
            self._picked.data = _NOTHING

    def _made(self) -> Any:
        made = figure(
            title="Time of every start (click one)", name="times", **SIZES, tools="",
            x_range=self._signals, y_range=self._steps,
        )  # fmt: skip
        for name, colour in METHOD_COLOURS.items():
            made.line("x", "y", source=self._arrived[name], color=colour, alpha=0.5, line_width=4, line_cap="square")
            made.scatter("x", "y", source=self._never[name], color=colour, marker="x", size=6, line_alpha=0.5)
        made.scatter("x", "y", source=self._picked, color=CHOSEN, size=8, fill_alpha=0, line_width=2)
        made.xaxis.axis_label = "ln(√σ₁ / σ_min(A₀))"
        made.yaxis.axis_label = "steps T (×: not arrived)"
        made.xgrid.visible = False
        made.on_event(Tap, self._tapped)
        return made

    def _tapped(self, event: Tap) -> None:
        """Choose the start that was clicked, if there is one."""
        frame = _FRAME | self.figure.properties_with_values(include_defaults=False)
        near, chosen = _NEAR, None
        for name, (x, y) in self._drawn.items():
            across = (x - event.x) / self._spans[0] * frame["inner_width"]
            upward = (y - event.y) / self._spans[1] * frame["inner_height"]
            away = np.hypot(across, upward)
            place = int(np.argmin(away))
            if away[place] < near:
                near, chosen = away[place], (name, place)
        if chosen is not None:
            name, place = chosen
            x, y = self._drawn[name]
            self._picked.data = {"x": [x[place]], "y": [y[place]]}
            self._on_choice(name, int(self._seeds[place]))


def _dots(x: np.ndarray, y: np.ndarray, length: float) -> dict[str, np.ndarray]:
    """Return a line that is drawn for a short way at every point."""
    gap = np.full_like(x, np.nan)
    dots = np.stack([x - length / 2, x + length / 2, gap], axis=-1)
    return {"x": dots.astype(np.float32).ravel(), "y": np.repeat(y, 3).astype(np.float32)}
