"""What all commands share: how JAX is set up, bars and log lines, and how a command ends in one line."""

import atexit
import gc
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from jaxfact.cli.output import can_print
from jaxfact.cli.waiting import Waiting
from jaxfact.inputs import printable
from jaxfact.showing.pace import RUNS, Counts, Unit
from jaxfact.showing.progress import Progress, is_terminal, shown_progress

if TYPE_CHECKING:
    from jaxfact.reports.pages import Report

_FEW = 500_000  # objects; by default Python looks through all of them a thousand times as a comparison gets ready
_LATE = 1 / 3  # of all runs: the first of three methods has ended, and the others were read meanwhile

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
def drawing_soon(progress: Progress) -> Iterator[Progress]:
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

    The page says by which command it was made. Another run may have made the folder meanwhile: then they go beside it.
    """
    from jaxfact.reports.pages import PAGE, RESULTS

    report = replace(report, again=_command())
    folder = _free(folder) if folder.is_dir() and any(folder.iterdir()) else folder
    with written_first(lambda: report.write(folder)):
        if as_json:
            tell_json(report.summary)
        else:
            (say or report.print)()
    results = f"results: {folder / RESULTS}   " if RESULTS in report.runs else ""
    print(f"{results}page: {folder / PAGE}", file=sys.stderr if as_json else sys.stdout)
    return folder


def _command() -> str:
    """Return the command that was given, without what would send its results to the same folder again."""
    words, kept = iter(sys.argv[1:]), ["jaxfact"]
    for word in words:
        if word == "--out":
            next(words, None)
        elif not word.startswith("--out="):
            kept.append(word)
    return shlex.join(kept)


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
def progress_shown(unit: Unit = RUNS, counts: Counts = dict) -> Iterator[Progress]:
    """Show how far the runs of the block have got; where there is no terminal, say at once what is waited for."""
    if not is_terminal():
        _waiting.say_if_long()
    with shown_progress(True, unit, counts) as tell:

        def told(done: int, total: int) -> None:
            _waiting.end()
            tell(done, total)

        yield told
    _waiting.end()
