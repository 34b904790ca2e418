"""What lies beside the arrays about each tile: its mark, once it is done, and who works on it, until then.

What is not marked is not there. The system releases the locks of a process that dies, so that none is ever stale.
"""

import datetime
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from jaxfact.store.layout import Layout, Tile, read_json, write_json


def now() -> str:
    """Return the date and time, to the millisecond: rates are read from the dates of short tiles."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Mark(NamedTuple):
    """What a tile holds: up to where along the axes and the seeds, how many runs of each outcome, and in which files.

    `work` says, for each time that runs were made, how many there were, how many steps, in how many seconds, when, and
    by whom; `files` maps the name of every file to its length.
    """

    covers: list[int]
    outcomes: dict[str, int]
    work: list[dict[str, Any]]
    files: dict[str, int]


def read_mark(layout: Layout, tile: Tile) -> Mark | None:
    """Return the mark of a tile, None where it is not done."""
    try:
        return Mark(**read_json(layout.mark(tile))["attributes"])
    except FileNotFoundError:
        return None


def write_mark(layout: Layout, tile: Tile, mark: Mark) -> None:
    """Mark a tile: by a Zarr group, so that anybody can read it."""
    layout.mark(tile).parent.mkdir(exist_ok=True)
    write_json(layout.mark(tile), {"zarr_format": 3, "node_type": "group", "attributes": mark._asdict()})


def unmark(layout: Layout, tile: Tile) -> None:
    """Remove the mark of a tile."""
    shutil.rmtree(layout.mark(tile).parent)


def marks(path: Path) -> Iterator[tuple[Tile, Mark]]:
    """Yield the tiles of a store that are done, and their marks; none where there is no store yet."""
    layout = Layout(path)
    for tile in layout.marked():
        if (mark := read_mark(layout, tile)) is not None:
            yield tile, mark


def here() -> dict[str, Any]:
    """Return who is running: host and process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def changing(layout: Layout) -> AbstractContextManager[Any]:
    """Wait until nobody else changes attributes or shapes of a store, and keep others from it for the block."""
    return FileLock(layout.lock)


@contextmanager
def claimed(layout: Layout, tile: Tile, tidy: Callable[[], None]) -> Iterator[bool]:
    """Take a tile for the time of the block; false where another thread or process has it.

    `tidy` is called first where the last owner died, perhaps in the middle of a file.
    """
    lock, owner = FileLock(layout.tile_lock(tile), timeout=0), layout.owner(tile)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        if owner.exists():
            tidy()
        owner.write_text(json.dumps(here()))
        yield True
    finally:
        owner.unlink(missing_ok=True)
        layout.tile_lock(tile).unlink(missing_ok=True)
        lock.release()


def owner(layout: Layout, tile: Tile) -> str | None:
    """Return who has taken a tile, in words; None where that is unknown, or nobody has."""
    try:
        who = json.loads(layout.owner(tile).read_text())
    except (OSError, ValueError):  # given back, or taken, at this moment
        return None
    return f"process {who['pid']} on {who['host']}"


def owners(layout: Layout) -> Iterator[str]:
    """Yield who works on a tile, for every tile that is held by a live process."""
    for tile in layout.owned():
        who = owner(layout, tile)
        if who is not None and _is_held(layout.tile_lock(tile)):
            yield who


def _is_held(file: Path) -> bool:
    """Tell whether a live process holds a lock: the system releases those of dead ones."""
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only store: what the owner wrote is all there is
        return True
