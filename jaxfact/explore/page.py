"""The page: controls, pictures, and what happens between a move and the next picture."""

import asyncio
import html
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import panel as pn
from bokeh.document import Document
from bokeh.models import CustomJS, CustomJSTickFormatter

from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.explore.appearance import METHOD_COLOURS, METHOD_DASHES
from jaxfact.explore.controls import METHODS, Choice, Control, State, address_of, check
from jaxfact.explore.exported import archive, line_of
from jaxfact.explore.laboratory import Laboratory, recorded_steps
from jaxfact.explore.map_tab import Later, MapTab
from jaxfact.explore.pictures import LEGENDS, Pictures
from jaxfact.explore.summaries import Shown, look, sentence
from jaxfact.inputs import problem_with

_TITLES = {"method": "Method", "start": "Start", "target": "Target", "runs": "Runs"}
_GRID = ":host{display:grid!important;grid-template-columns:repeat(auto-fill,minmax(min(330px,100%),1fr));gap:6px}"
_FEW = 100  # whole numbers, for which there is room on a slider
_PATIENCE = 2.0  # seconds, for a server to draw: it may have ended
_SIDE = 250
_NARROW = """@media (max-width: 700px) {
  :host { max-height: 40vh; min-width: 100%; overflow-y: auto; position: sticky; top: 0; z-index: 99;
    background: white; box-shadow: 0 3px 6px #888888, inset 0 -12px 8px -10px #888888; } }"""
"""Above the pictures the controls are a box of their own, so that both are seen."""
_WIDE = {"flex": "1 1 340px", "min-width": "0"}  # beside the controls, or below them where there is no room


class Page:
    """One page, as one visitor sees it: a server has one for each, a notebook one for each cell.

    `said` is a line about the address it was opened with, "" where there is nothing to say.
    """

    def __init__(self, laboratory: Laboratory, state: State, said: str = ""):
        self._laboratory, self._state, self._shown = laboratory, state, None
        self._said = said
        document = pn.state.curdoc
        self._document = document if document is not None and document.session_context else None
        self._pictures = Pictures(self._choose)
        # Panel would make every move a page of the browser's history.
        self._pictures.figures[0].js_on_change("tags", CustomJS(code="history.replaceState(null, '', cb_obj.tags[0])"))
        self._later = None if self._document is None else _in_turn(self._document)
        self._map = MapTab(laboratory, lambda: self._state, self._document, self._later)
        self._widgets = {one.name: _widget(one, state.values[one.name]) for one in laboratory.controls}
        self._methods = pn.widgets.CheckBoxGroup(options=list(METHODS), value=list(state.methods))
        self._of_values = pn.widgets.Select(label="singular values of", options=list(state.methods), width=150)
        first = _line(said or "preparing the programs", is_wrong=bool(said))
        self._message = pn.pane.HTML(first, sizing_mode="stretch_width")
        self._line = pn.pane.HTML("", sizing_mode="stretch_width")
        self._key = pn.pane.HTML(_key_of(state.methods), sizing_mode="stretch_width")
        for control in laboratory.controls:
            widget = self._widgets[control.name]
            widget._debounce = 0  # Panel's 50 ms; of moves that come meanwhile, the last is shown in any case
            widget.param.watch(partial(self._moved, control), "value")
        self._methods.param.watch(self._chose_methods, "value")
        self._of_values.param.watch(lambda _: self._change(self._draw_again), "value")
        self._next: State | None = None
        self._found: Shown | None = None
        self._thread = ThreadPoolExecutor(1)
        self._panes: list[Any] = []

    def view(self) -> pn.viewable.Viewable:
        """Return the page, which begins to compute what it shows when it is there."""
        self._panes = [pn.pane.Bokeh(made, sizing_mode="stretch_width") for made in self._pictures.figures]
        cells = [_with_legend(pane) for pane in self._panes]
        grid = pn.Column(*cells, sizing_mode="stretch_width", stylesheets=[_GRID])
        runs = pn.Column(self._message, self._key, grid, self._line, sizing_mode="stretch_width")
        tabs = pn.Tabs(("Runs", runs), ("Map", self._map.view()), sizing_mode="stretch_width")
        tabs.param.watch(lambda event: self._map.opened() if event.new == 1 else None, "active")
        page = pn.FlexBox(self._controls(), pn.Column(tabs, styles=_WIDE), sizing_mode="stretch_width")
        if self._document is None:
            self._ask(self._state)
            return page
        pn.state.on_session_destroyed(lambda _: self._close())
        # What a thread draws while the session and its socket are being made may reach neither.
        pn.state.onload(lambda: self._ask(self._state))
        return page

    def _controls(self) -> pn.viewable.Viewable:
        groups: dict[str, list[Any]] = {group: [] for group in _TITLES}
        for control in self._laboratory.controls:
            groups[control.group].append(self._widgets[control.name])
        freeze = pn.widgets.Button(label="freeze", width=62)
        thaw = pn.widgets.Button(label="clear", width=56)
        freeze.on_click(lambda _: self._freeze())
        thaw.on_click(lambda _: self._change(self._pictures.thaw))
        export = pn.widgets.FileDownload(
            callback=self._archive, filename="jaxfact-explore.zip", label="export", width=76, height=32, auto=True
        )
        parts: list[Any] = [self._methods, pn.Row(freeze, thaw, export)]
        for group, widgets in groups.items():
            parts += [pn.pane.HTML(f"<b>{_TITLES[group]}</b>", margin=(8, 10, 0, 10)), *widgets] if widgets else []
        parts.append(self._of_values)
        return pn.Column(*parts, width=_SIDE, stylesheets=[_NARROW])

    def _moved(self, control: Control | Choice, event: Any) -> None:
        if event.new is None:
            self._refuse(str(problem_with(control.name, "nothing", "needs a whole number", "give one")))
            return
        value = control.off_slider(event.new) if isinstance(control, Control) else event.new
        if value != self._state.values[control.name] or self._said:
            self._go(self._state.moved(control.name, value))

    def _chose_methods(self, event: Any) -> None:
        chosen = tuple(name for name in METHODS if name in event.new)
        if chosen:
            self._of_values.options = list(chosen)
            self._key.object = _key_of(chosen)
        self._go(self._state._replace(methods=chosen))

    def _go(self, state: State) -> None:
        self._state = state
        try:
            check(state)
            if not state.methods:
                raise problem_with("methods", "none", "one is needed", "choose one")
        except ValueError as error:
            self._refuse(str(error))
            return
        self._said = ""
        self._map.outdate()
        self._ask(state)

    def _refuse(self, said: str) -> None:
        self._said = said
        self._message.object = _line(said, is_wrong=True)

    def _ask(self, state: State) -> None:
        """Have a state shown: in a server by this page's thread, of several that wait the last; in a notebook now."""
        if self._document is None:
            self._found = look(self._laboratory, state)
            self._draw()
            return
        self._next = state
        self._thread.submit(self._show_next)

    def _show_next(self) -> None:
        """Show what was asked for last, unless that has been done; the next waits until this is on its way."""
        state, self._next = self._next, None
        if state is None or self._later is None:
            return
        sent = threading.Event()
        try:
            # Handed over here: what the server is given to call, it lets go of when Python next looks for circles.
            self._found = look(self._laboratory, state)
            call = partial(self._draw, sent)
        except Exception as error:  # whatever a run meets, the page goes on
            call = partial(self._fail, " ".join(str(error).split()), sent)
        self._later(call)
        sent.wait(_PATIENCE)

    def _fail(self, said: str, sent: threading.Event) -> None:
        self._refuse(said)
        sent.set()

    def _draw(self, sent: threading.Event | None = None) -> None:
        self._shown = self._found
        self._change(self._draw_again)
        if self._document is not None and self._shown is not None:
            address = address_of(self._shown.state, self._laboratory.controls)
            self._pictures.figures[0].tags = [f"?{address}" if address else "."]
        if sent is not None:
            sent.set()

    def _draw_again(self) -> None:
        if self._shown is None:
            return
        shown = self._shown
        of_values = self._of_values.value if self._of_values.value in shown.of else next(iter(shown.of))
        self._pictures.show(shown, of_values, self._target(shown.state))
        if not self._said:
            self._message.object = _line(sentence(shown))
        self._line.object = ""

    def _change(self, change: Any) -> None:
        """Change pictures, and tell the browser of all changes at once."""
        with pn.io.hold(self._document):
            change()
        if self._document is None:
            pn.io.push_notebook(*self._panes)

    def _choose(self, method: str, seed: int) -> None:
        """Draw the path of one run, and say how to run it again."""
        if self._shown is None:
            return
        place = self._shown.state.seeds.index(seed)
        run = {name: values[place] for name, values in self._shown.runs[method].items()}
        steps = recorded_steps(self._shown.state.budget)
        known = steps <= run["steps"]
        paths = run["distance_path"][known], run["imbalance_path"][known]
        self._change(lambda: self._pictures.show_run(steps[known], *paths))
        code = line_of(self._shown.state, self._laboratory, method, seed)
        ended, arrived = OUTCOMES[run["outcome"]], run["hit"][-1]
        when = f"arrived at step {arrived:.0f}, " if np.isfinite(arrived) else ""
        said = f"{method}, seed {seed}: {when}ended ({ended}) at step {run['steps']}. The same run again:"
        code = html.escape(code, quote=False)
        self._line.object = f'{_line(said)}<pre style="white-space:pre-wrap">{code}</pre>'

    def _freeze(self) -> None:
        if self._shown is not None:
            self._change(partial(self._pictures.freeze, self._shown))

    async def _archive(self) -> Any:
        """Return what is exported; other pages are served meanwhile."""
        return await asyncio.to_thread(self._packed)

    def _packed(self) -> Any:
        return archive(self._shown or look(self._laboratory, self._state), self._laboratory)

    def _target(self, state: State) -> np.ndarray:
        return self._laboratory.target_values(state)

    def _close(self) -> None:
        self._next = None
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._map.close()


def _in_turn(document: Document) -> Later:
    """Return what has a page's document changed by the server's own thread, which calls this.

    Asked for from another thread, a callback is lost if the server is just sending what it held back.
    """
    loop = asyncio.get_running_loop()
    return lambda call: loop.call_soon_threadsafe(document.add_next_tick_callback, call)


def _widget(control: Control | Choice, value: Any) -> Any:
    look: dict[str, Any] = {"label": control.label, "width": _SIDE - 30}
    if isinstance(control, Choice):
        return pn.widgets.Select(options=list(control.options), value=value, **look)
    low, high, look["value"] = (control.on_slider(one) for one in (control.low, control.high, value))
    if control.whole and not control.logarithmic:
        kind = pn.widgets.IntInput if high > _FEW else pn.widgets.IntSlider
        return kind(start=int(low), end=int(high), **look)
    number = "Math.pow(10, tick)" if control.logarithmic else "tick"
    text = f"Math.round({number}).toFixed(0)" if control.whole else f"Number({number}.toPrecision(3)).toString()"
    shown_as = CustomJSTickFormatter(code=f"return {text}")
    return pn.widgets.FloatSlider(start=low, end=high, step=(high - low) / 200, format=shown_as, **look)


def _key_of(methods: Sequence[str]) -> str:
    """Return what tells methods by colour and dashes."""
    dashes = {name: " ".join(map(str, METHOD_DASHES[name])) for name in methods}
    lines = "".join(
        f'<span style="margin-right:14px;white-space:nowrap"><svg width="34" height="10"><line x2="34" y1="5" y2="5"'
        f' stroke="{METHOD_COLOURS[name]}" stroke-width="3" stroke-dasharray="{dash}"/></svg> {name}</span>'
        for name, dash in dashes.items()
    )
    note = "line: median, band: 5–95 % of the runs, while they go on; dotted: tolerance, target; dark dashes: frozen"
    return f"<div>{lines}<span style='color:#595959'>{note}</span></div>"


def _with_legend(pane: pn.pane.Bokeh) -> pn.viewable.Viewable:
    """Return a figure with a line below it that tells what its own colours mean, if it has any."""
    colours = LEGENDS.get(pane.object.name)
    if colours is None:
        return pane
    below = pn.pane.HTML(_chips(colours), sizing_mode="stretch_width", margin=(0, 10, 6, 46))
    return pn.Column(pane, below, sizing_mode="stretch_width")


def _chips(colours: Mapping[str, str]) -> str:
    return "".join(
        f'<span style="margin-right:14px;white-space:nowrap"><span style="display:inline-block;width:14px;height:10px;'
        f'background:{colour};margin-right:4px"></span>{name}</span>'
        for name, colour in colours.items()
    )


def _line(text: str, is_wrong: bool = False) -> str:
    colour = "#b00020" if is_wrong else "inherit"
    return f'<div style="color:{colour}">{html.escape(text)}</div>'
