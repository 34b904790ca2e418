"""Progress, shown while somebody waits: a bar on a terminal or in a notebook, and in a log a line now and then.

A thread looks at the counts and draws them, so that silence while an experiment is compiled is broken too, and those
who run only note two numbers. What is over within a second shows nothing.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from jaxfact.inputs import problem_with, shown
from jaxfact.showing.markup import bar
from jaxfact.showing.notebook import is_notebook
from jaxfact.showing.pace import RUNS, Counts, Pace, Unit, duration

Progress = Callable[[int, int], None]
"""Called with the number of runs finished so far and the number of all runs."""

_QUICK = 1.0  # seconds in which nothing is shown
_REFRESHED = 0.5
_LINE, _RARE_LINE = 10.0, 60.0  # seconds between lines of a log, in the first minute and later
_one_at_a_time = threading.Lock()


@contextmanager
def shown_progress(wanted: Progress | bool, unit: Unit = RUNS, counts: Counts = dict) -> Iterator[Progress]:
    """Yield what is to be told how much is done of how much, and show it on the error stream or in the notebook.

    A function that is wanted instead is told the counts itself; False shows nothing, as does what goes on within
    something that is shown. Raises ValueError for anything else.
    """
    if callable(wanted):
        yield wanted
        return
    if not isinstance(wanted, bool):
        needed = "needs a function of two counts, True or False"
        raise problem_with("progress", shown(wanted), needed, "leave it out to see how far it has got")
    if not wanted or not _one_at_a_time.acquire(blocking=False):
        yield _ignored
        return
    pace, over = Pace(unit, counts), threading.Event()
    watching = threading.Thread(target=_watch, args=(_view(), pace, over), daemon=True)
    try:
        watching.start()
        yield pace.told
    finally:
        over.set()
        watching.join()
        _one_at_a_time.release()


def is_terminal() -> bool:
    """Tell whether the error stream is a terminal on which a line can be drawn anew."""
    try:
        return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


class _View(Protocol):
    """What shows progress: for the first time after `pause` seconds, and again after those it returns."""

    pause: float

    def show(self, pace: Pace) -> float: ...

    def end(self) -> None: ...


def _ignored(done: int, total: int) -> None:
    """Take the counts, and show nothing."""


def _view() -> _View:
    return _Cell() if is_notebook() else _Bar() if is_terminal() else _Log()


def _watch(view: _View, pace: Pace, over: threading.Event) -> None:
    pause = view.pause
    with suppress(Exception):  # a stream that is closed, a store that is read in vain: nothing here may end a run
        while not over.wait(pause):
            pause = view.show(pace)
        view.end()


class _Log:
    """Progress as plain lines, for files and batch systems."""

    def __init__(self):
        self.pause, self._began = _LINE, time.monotonic()

    def show(self, pace: Pace) -> float:
        seconds = time.monotonic() - self._began
        said = pace.speed() or f"{duration(seconds)} so far"
        print(f"jaxfact: {pace.amount()}, {said}", file=sys.stderr, flush=True)
        return _LINE if seconds < _RARE_LINE else _RARE_LINE

    def end(self) -> None:
        """What was said stays."""


class _Bar:
    """Progress as a bar on a terminal, which goes when it is done; lines that are printed meanwhile go above it."""

    def __init__(self):
        self.pause, self._drawn = _QUICK, None

    def show(self, pace: Pace) -> float:
        if self._drawn is None:
            self._drawn = self._begun()
        done, total = pace.counted or (0, None)
        self._drawn.update(self._drawn.task_ids[0], completed=done, total=total, said=_words(pace))
        return _REFRESHED

    def end(self) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def _begun(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.fields[said]}", markup=False)
        # Standard output is the user's: what is printed there must not come out of the error stream.
        drawn = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        drawn.add_task("", total=None, said="")
        drawn.start()
        return drawn


class _Cell:
    """Progress in the output of a notebook's cell, where nothing is left of it at the end."""

    def __init__(self):
        self.pause, self._handle = _QUICK, None

    def show(self, pace: Pace) -> float:
        said, (done, total) = _words(pace), pace.counted or (0, 0)
        self._put({"text/plain": said, "text/html": bar(done, total, said)})
        return _REFRESHED

    def end(self) -> None:
        if self._handle is not None:
            self._put({"text/plain": "", "text/html": ""})

    def _put(self, content: dict[str, str]) -> None:
        if self._handle is None:
            from IPython.display import display  # pyright: ignore[reportMissingImports]

            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def _words(pace: Pace) -> str:
    return ", ".join(filter(None, [pace.amount(), pace.speed()]))
