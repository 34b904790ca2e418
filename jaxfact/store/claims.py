"""Who works on what: locks, which the system gives back when a process dies, so that none is ever stale."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxfact.store.layout import Layout, Tile


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
    """Return who has taken a tile, in words; None where that is not known, or nobody has."""
    try:
        who = json.loads(layout.owner(tile).read_text())
    except (OSError, ValueError):  # given back, or taken, at this moment
        return None
    return f"process {who['pid']} on {who['host']}"


def owners(layout: Layout) -> Iterator[str]:
    """Yield who works on a tile, for every tile that is held by a process that lives."""
    for tile in layout.owned():
        who = owner(layout, tile)
        if who is not None and _is_held(layout.tile_lock(tile)):
            yield who


def _is_held(file: Path) -> bool:
    """Tell whether a process that lives has a lock: the system releases those of the others."""
    if not file.exists():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a store that may only be read: what the owner wrote is all there is
        return True
