"""The explorer's second tab: a map over two controls, which fills in while one looks, and zooms where one drags."""

# Bokeh's properties take plain values of which its annotations say nothing.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportCallIssue=false, reportIndexIssue=false

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import panel as pn
from bokeh.events import SelectionGeometry
from bokeh.models import (
    BoxSelectTool,
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    LinearColorMapper,
)
from bokeh.palettes import Cividis256
from bokeh.plotting import figure

from jaxfact.explore.appearance import OUTCOME_COLOURS
from jaxfact.explore.controls import BUDGETS, METHODS, Control, State
from jaxfact.explore.laboratory import Laboratory
from jaxfact.explore.mapping import CODES, QUANTITIES, Asked, Maps, drawn, pixels, values_along

# Those of the outcomes, darker for longer periods; white where nothing is known.
_PERIODS = ("#A6CEE8", "#5B9BD5", "#2A5599", "#8064A2")
_COLOURS = (
    *(OUTCOME_COLOURS[name] for name in ("converged", "stationary")),
    *_PERIODS,
    *(OUTCOME_COLOURS[name] for name in ("budget", "diverged")),
)
_QUANTITIES = {text: name for name, text in QUANTITIES.items()}
_SEEDS = (1, 4, 16)
_POINTS = (100, 250, 500)
_SIZE = 520
_BESIDE = {"flex": "1 1 320px", "min-width": "0", "max-width": f"{_SIZE + 190}px"}  # below, where there is no room
_PATIENCE = 2.0  # seconds, for a server to draw: it may have ended

_REFUSED = "Left white where the width is below the rank of equal singular values: the best approximations are a set."
_OUTDATED = "The other controls have been moved since: draw again."

Later = Callable[[Callable[[], None]], Any]


class MapTab:
    """The tab: what is mapped, and the picture; `state` tells where the other controls stand.

    A server's page has a document, and `later`, by which another thread has it changed.
    """

    def __init__(self, laboratory: Laboratory, state: Callable[[], State], document: Any, later: Later | None):
        self._laboratory, self._state, self._document, self._later = laboratory, state, document, later
        self._controls = {
            one.name: one for one in laboratory.controls if isinstance(one, Control) and not one.name.endswith("seed")
        }
        del self._controls["seeds"]
        labels = {one.label: name for name, one in self._controls.items()}
        wide = {"width": 190}
        self._x = pn.widgets.Select(label="across", options=labels, value="step_size", **wide)
        self._y = pn.widgets.Select(label="upward", options=labels, value="scale", **wide)
        self._method = pn.widgets.Select(label="method", options=list(METHODS), **wide)
        self._shows = pn.widgets.Select(label="colour", options=_QUANTITIES, **wide)
        self._points = pn.widgets.Select(label="points a side", options=list(_POINTS), value=_POINTS[1], **wide)
        self._seeds = pn.widgets.Select(label="starts at a point", options=list(_SEEDS), **wide)
        self._draw_it = pn.widgets.Button(label="draw", color="primary", width=90)
        self._out = pn.widgets.Button(label="zoom out", width=90)
        self._said = pn.pane.HTML("", sizing_mode="stretch_width")
        self._source = ColumnDataSource({"image": [], "x": [], "y": [], "dw": [], "dh": []})
        self._mapper = LinearColorMapper(palette=list(_COLOURS), low=-0.5, high=len(CODES) - 0.5, nan_color="white")
        self._bar = ColorBar(color_mapper=self._mapper, width=14, label_standoff=6)
        self._figure = self._made_figure()
        self._ends: dict[str, tuple[float, float]] = {}
        self._maps: Maps | None = None
        self._found: Maps | None = None
        self._mapped: State | None = None
        self._number = 0
        self._thread = ThreadPoolExecutor(1)
        for widget in (self._x, self._y):
            widget.param.watch(lambda _: self._zoom_out(), "value")
        for widget in (self._method, self._points, self._seeds):
            widget.param.watch(lambda _: self._begin(), "value")
        self._shows.param.watch(lambda _: self._show(), "value")
        self._draw_it.on_click(lambda _: self._begin())
        self._out.on_click(lambda _: self._zoom_out())

    def view(self) -> pn.viewable.Viewable:
        """Return what the tab shows."""
        self._pane = pn.pane.Bokeh(self._figure, sizing_mode="stretch_width")
        side = (self._x, self._y, self._method, self._shows, self._points, self._seeds)
        buttons = pn.Row(self._draw_it, self._out)
        note = pn.pane.HTML("Drag a box to zoom in. The other controls stand where they are.", width=190)
        chosen = pn.Column(*side, buttons, note, width=210)
        drawn = pn.Column(self._said, self._pane, styles=_BESIDE)
        return pn.FlexBox(chosen, drawn, sizing_mode="stretch_width")

    def opened(self) -> None:
        """Draw a first map when the tab is first opened."""
        if self._maps is None:
            self._begin()

    def outdate(self) -> None:
        """Say that the map is of another state than the page's."""
        if self._maps is not None:
            self._say(_OUTDATED)

    def close(self) -> None:
        """Stop what is being drawn."""
        self._number += 1
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _made_figure(self) -> Any:
        made = figure(
            height=_SIZE,
            sizing_mode="stretch_width",
            name="map",
            tools="",
            toolbar_location=None,
            title="",
            x_range=(0, 1),
            y_range=(0, 1),
        )
        made.add_tools(BoxSelectTool(persistent=False))
        made.image("image", "x", "y", "dw", "dh", source=self._source, color_mapper=self._mapper)
        made.add_layout(self._bar, "right")
        made.grid.visible = False
        made.on_event(SelectionGeometry, self._zoom)
        return made

    def _asked(self) -> Asked:
        x, y = self._controls[self._x.value], self._controls[self._y.value]
        ends = [self._ends.get(one.name, (one.low, one.high)) for one in (x, y)]
        return Asked(self._method.value, x, y, *ends, self._points.value, self._seeds.value)

    def _begin(self) -> None:
        """Draw anew; what is being drawn stops."""
        self._number += 1
        asked, number = self._asked(), self._number
        if asked.x == asked.y:
            self._refuse(f"across and upward={asked.x.name}: a map needs two controls; choose another.", number)
            return
        self._mapped = self._state()
        pictures = drawn(self._laboratory, self._mapped, asked, lambda: self._number == number)
        self._say("drawing")
        if self._later is None:
            for maps in self._told(pictures):
                self._found = maps
                self._take(asked, number)
        else:
            self._thread.submit(self._work, asked, number, pictures, self._later)

    def _work(self, asked: Asked, number: int, pictures: Iterator[Maps], later: Later) -> None:
        try:
            for maps in pictures:
                self._found, sent = maps, threading.Event()
                later(partial(self._take, asked, number, sent))
                sent.wait(_PATIENCE)
            later(partial(self._ended, number))
        except Exception as error:  # whatever the runs meet, the page goes on
            said = " ".join(str(error).split())
            later(partial(self._refuse, said, number))

    def _told(self, pictures: Iterator[Maps]) -> Iterator[Maps]:
        try:
            yield from pictures
            self._ended(self._number)
        except ValueError as error:
            self._refuse(str(error), self._number)

    def _ended(self, number: int) -> None:
        is_whole = self._maps is None or not np.isnan(self._maps.outcome).any()
        self._say(("" if is_whole else _REFUSED) if self._state() == self._mapped else _OUTDATED, number=number)

    def _refuse(self, said: str, number: int) -> None:
        """Say what is wrong, and leave no map standing that is not of what was asked for."""
        if number == self._number:
            self._maps = None
            self._source.data = {name: [] for name in self._source.data}
            self._say(said, is_wrong=True)
            self._push()

    def _take(self, asked: Asked, number: int, sent: threading.Event | None = None) -> None:
        if number == self._number:
            self._maps, self._drawn = self._found, asked
            self._show()
        if sent is not None:
            sent.set()

    def _show(self) -> None:
        if self._maps is None:
            return
        asked, name = self._drawn, self._shows.value
        values = self._maps._asdict()[name]
        columns, left, right = pixels(asked.x, values_along(asked.x, asked.x_ends, asked.points), asked.points)
        rows, low, high = pixels(asked.y, values_along(asked.y, asked.y_ends, asked.points), asked.points)
        with pn.io.hold(self._document):
            self._colour(name, values)
            made = self._figure
            made.x_range.update(start=left, end=right)
            made.y_range.update(start=low, end=high)
            for axis, one, ends in ((made.xaxis[0], asked.x, (left, right)), (made.yaxis[0], asked.y, (low, high))):
                axis.axis_label = one.label
                axis.update(**_ticks(one, *ends))
            made.title.text = f"{asked.method}: {QUANTITIES[name]} (within {BUDGETS[-1]} steps)"
            image = np.where(np.isfinite(values), values, np.nan)[np.ix_(rows, columns)].astype(np.float32)
            self._source.data = {"image": [image], "x": [left], "y": [low], "dw": [right - left], "dh": [high - low]}
        self._push()

    def _push(self) -> None:
        if self._document is None:
            pn.io.push_notebook(self._pane)

    def _colour(self, name: str, values: np.ndarray) -> None:
        """Give the colour bar the range of what is shown: names of outcomes, or numbers."""
        if name == "outcome":
            self._mapper.update(palette=list(_COLOURS), low=-0.5, high=len(CODES) - 0.5)
            self._bar.update(
                ticker=FixedTicker(ticks=list(range(len(CODES)))),
                major_label_overrides=dict(enumerate(CODES)),
                title=None,
            )
            return
        known = values[np.isfinite(values)]
        high = 1.0 if name == "fraction" else float(known.max(initial=1.0))
        self._mapper.update(palette=list(Cividis256), low=0.0, high=high)
        ticks = np.linspace(0, high, 6)
        words = {tick: f"{tick:.3g}" for tick in ticks.tolist()}
        title = "fraction" if name == "fraction" else "steps (white: less than half arrive)"
        self._bar.update(ticker=FixedTicker(ticks=ticks.tolist()), major_label_overrides=words, title=title)

    def _zoom(self, event: Any) -> None:
        """Draw the box that was dragged, where it is one."""
        if not event.final or self._maps is None or event.geometry.get("type") != "rect":
            return
        asked, box = self._drawn, event.geometry
        for one, sides in ((asked.x, ("x0", "x1")), (asked.y, ("y0", "y1"))):
            low, high = sorted(one.off_slider(box[side]) for side in sides)
            if high > low:
                self._ends[one.name] = low, high
        self._begin()

    def _zoom_out(self) -> None:
        self._ends.clear()
        self._begin()

    def _say(self, text: str, *, is_wrong: bool = False, number: int | None = None) -> None:
        if number in (None, self._number):
            colour = "#b00020" if is_wrong else "inherit"
            self._said.object = f'<div style="color:{colour};min-height:1.2em">{text}</div>'


def _ticks(control: Control, low: float, high: float) -> dict[str, Any]:
    """Return where an axis has ticks, in the coordinates of the slider, and what they are called."""
    # A browser keeps the names of ticks that an axis had before, so that every tick is given one.
    if not control.logarithmic:
        unit = 10.0 ** np.floor(np.log10((high - low) / 4))
        step = next(unit * one for one in (1, 2, 5, 10) if unit * one >= (high - low) / 6)
        step = max(step, 1.0) if control.whole else step
        ticks = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step
        return {
            "ticker": FixedTicker(ticks=ticks.tolist()),
            "major_label_overrides": {tick: f"{tick:.4g}" for tick in ticks.tolist()},
        }
    leading = (1, 2, 5) if high - low < 2 else (1,)
    values = [one * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for one in leading]
    places = {math.log10(value): f"{value:g}" for value in values if low <= math.log10(value) <= high}
    if len(places) < 2:  # a narrow stretch
        places = {place: f"{10**place:.4g}" for place in np.linspace(low, high, 5).tolist()}
    return {"ticker": FixedTicker(ticks=list(places)), "major_label_overrides": places}
