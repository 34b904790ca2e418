"""What all commands share: how JAX is set up, bars and log lines, and how a command ends in one line."""

import atexit
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from jaxfact.cli.output import can_print
from jaxfact.cli.waiting import Waiting
from jaxfact.inputs import printable

if TYPE_CHECKING:
    from rich.console import Console

    from jaxfact.engine.tiles import Progress
    from jaxfact.reports.pages import Report

_FEW = 500_000  # objects; by default Python looks through all of them a thousand times as a comparison gets ready
_LOG_SECONDS = 60.0
_SHOWN_SECONDS = 0.5
_COUNTED_SECONDS = 5.0
_LATE = 1 / 3  # of all runs: the first of three methods has ended, and the others were read meanwhile

Counts = Callable[[], Mapping[str, int]]
"""Returns how many runs have had each outcome so far."""


_waiting = Waiting()


def configure(x64: bool) -> None:
    """Choose the precision, and look for garbage seldom.

    Nearly all that a command makes it needs to its end. As Python exits, garbage is looked for once more, which would
    take longest; not among what is frozen.
    """
    _waiting.begin()
    gc.set_threshold(_FEW, 10, 10)
    atexit.register(gc.freeze)
    import jax

    # On a GPU the default would round the factors of a product to ten bits.
    jax.config.update("jax_default_matmul_precision", "highest")
    if x64:
        jax.config.update("jax_enable_x64", True)


def fail(message: str, code: int = 2) -> Never:
    """End the command with one line."""
    _waiting.end()
    print(printable("jaxfact: " + " ".join(message.split())), file=sys.stderr)
    sys.exit(code)


def new_folder(usual: str, out: Path | None) -> Path:
    """Return the folder for the results: `out`, or the first of usual, usual-2, … that does not exist.

    Refuses one that cannot be made or that holds something.
    """
    from jaxfact.results.whole import check_new_folder

    folder = _free(Path(usual)) if out is None else out
    check_new_folder(folder)
    return folder


def _free(usual: Path) -> Path:
    folder, number = usual, 1
    while folder.exists():
        number += 1
        folder = usual.with_name(f"{usual.name}-{number}")
    return folder


@contextmanager
def drawing_soon(progress: "Progress") -> "Iterator[Progress]":
    """Load what reports and figures need while the block's later runs go on, which it tells as it tells its progress.

    Before, Python has the programs of these runs to make; then it is idle most of the time.
    """
    thread, begun = threading.Thread(target=_load_for_drawing), threading.Lock()

    def told(done: int, total: int) -> None:
        if done > _LATE * total and begun.acquire(blocking=False):
            thread.start()
        progress(done, total)

    try:
        yield told
    finally:
        if begun.locked():
            thread.join()


def _load_for_drawing() -> None:
    with suppress(Exception):  # what fails here fails again where it is needed, and is said there
        import scipy.special  # noqa: F401, which intervals are computed with
        import zarr  # noqa: F401, which results are written with

        from jaxfact.figures.saving import get_ready
        from jaxfact.reports import report  # noqa: F401

        get_ready()


def tell(report: "Report", folder: Path, as_json: bool, say: Callable[[], object] | None = None) -> Path:
    """Write a job's folder, then print its numbers, by `say` if that is given; return where the results are.

    Another run may have made the folder meanwhile: then they go beside it.
    """
    from jaxfact.reports.pages import PAGE, RESULTS

    folder = _free(folder) if folder.is_dir() and any(folder.iterdir()) else folder
    with written_first(lambda: report.write(folder)):
        if as_json:
            tell_json(report.summary)
        else:
            (say or report.print)()
    results = f"results: {folder / RESULTS}   " if RESULTS in report.runs else ""
    print(f"{results}page: {folder / PAGE}", file=sys.stderr if as_json else sys.stdout)
    return folder


def tell_json(value: Any) -> None:
    """Print JSON, with escapes where the terminal lacks a letter."""
    from jaxfact.results import strict_json

    text = strict_json.dumps(value)
    print(text if can_print(text, sys.stdout.encoding) else strict_json.dumps(value, escaped=True))


@contextmanager
def written_first(write: Callable[[], object]) -> Iterator[None]:
    """Write results before they are told in the block; a disk that is full is said after that."""
    failure = None
    try:
        write()
    except OSError as error:
        failure = error
    try:
        yield
    except KeyboardInterrupt:
        fail("interrupted" if failure else "interrupted while telling; the results are written", 130)
    if failure is not None:
        raise failure


@contextmanager
def progress_bar(unit: str = "runs") -> "Iterator[Progress]":
    """Show one bar over all runs, or whatever `unit` is, on the error stream.

    Where there is no terminal, say in one line what is waited for.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("compiling and running", total=None)

        def report(done: int, total: int) -> None:
            _waiting.end()
            bar.update(task, completed=done, total=total)

        if not console.is_terminal:
            _waiting.say_if_long()
        yield report
        _waiting.end()


@contextmanager
def sweep_progress(counts: Counts) -> "Iterator[Progress]":
    """Show a bar with rate, time left and outcomes; where there is no terminal, one line per minute."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        _waiting.say_if_long()
        yield _Log(counts)
        _waiting.end()
        return
    with _bar(console, counts) as report:
        yield report


@contextmanager
def _bar(console: "Console", counts: Counts) -> "Iterator[Progress]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task, pace = bar.add_task("compiling", total=None, said=""), Pace(counts)

        def report(done: int, total: int) -> None:
            if said := pace.said_every(_SHOWN_SECONDS, done, total):
                bar.update(task, completed=done, total=total, description="running", said=said)

        yield report


class _Log:
    """Progress as one plain line per minute, for files and batch systems."""

    def __init__(self, counts: Counts):
        self._pace = Pace(counts)

    def __call__(self, done: int, total: int) -> None:
        _waiting.end()
        if said := self._pace.said_every(_LOG_SECONDS, done, total):
            print(f"jaxfact: {done} of {total} runs, {said}", file=sys.stderr, flush=True)


class Pace:
    """How fast runs have ended since this process began to run them, in words; called from several threads."""

    def __init__(self, counts: Counts, clock: Callable[[], float] = time.monotonic):
        self._counts, self._clock, self._lock = counts, clock, threading.Lock()
        self._began: tuple[float, int] | None = None
        self._last, self._counted, self._found = 0.0, -_COUNTED_SECONDS, {}

    def said_every(self, seconds: float, done: int, total: int) -> str:
        """Return rate, time left and outcomes, or nothing where less time has passed since they were last said."""
        with self._lock:
            now = self._clock()
            if self._began is None:
                self._began, self._last = (now, done), now  # what a store held before took none of this process's time
            if now - self._last < seconds:
                return ""
            self._last = now
            if now - self._counted >= _COUNTED_SECONDS:
                self._counted, self._found = now, self._counts()
            rate = (done - self._began[1]) / (now - self._began[0])
        left = f"{duration((total - done) / rate)} left" if rate > 0 else "time left unknown"
        return "; ".join(filter(None, [f"{rate:.3g} runs/s, {left}", counted(self._found)]))


def counted(outcomes: Mapping[str, int]) -> str:
    """Return counts of outcomes in words, the most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items(), key=lambda item: -item[1]))


def duration(seconds: float) -> str:
    """Return a time in words of two units at most."""
    whole = round(seconds)
    for unit, length, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{whole} s"
