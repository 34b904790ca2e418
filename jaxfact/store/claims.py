"""Who works on which tile of a store in a folder, where several processes may.

The system releases the locks of a process that dies, so that none is ever stale. Where there are no folders there are
no locks: two that make the same tile write the same bytes.
"""

import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jaxfact.store.folder import Folder
from jaxfact.store.grid import Tile
from jaxfact.store.marks import here
from jaxfact.store.medium import Damage, Medium, put_over

LOCKS = "tiles/locks"
_STORE = "store.lock"
_OWNER = ".owner"


def changing(medium: Medium) -> AbstractContextManager[Any]:
    """Wait until nobody else changes the root of a store, and keep others from it for the block."""
    return FileLock(_lock_of(medium, _STORE)) if isinstance(medium, Folder) else nullcontext()


@contextmanager
def claimed(medium: Medium, tile: Tile, files: Iterable[str] = ()) -> Iterator[bool]:
    """Take a tile for the time of the block; false where another thread or process has it.

    What its last owner has left half written of its files is removed, where that one died.
    """
    if not isinstance(medium, Folder):
        yield True
        return
    file = _lock_of(medium, f"{_name(tile)}.lock")
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        if owner(medium, tile) is not None:
            for key in files:
                medium.tidy(key)
        put_over(medium, owner_key(tile), json.dumps(here()).encode())
        yield True
    finally:
        medium.delete(owner_key(tile))
        file.unlink(missing_ok=True)
        lock.release()


def owner_key(tile: Tile) -> str:
    """Return the key of the file that says who works on a tile."""
    return f"{LOCKS}/{_name(tile)}{_OWNER}"


def owner(medium: Medium, tile: Tile) -> str | None:
    """Return who has taken a tile, in words; None where that is unknown, or nobody has."""
    return _said(medium, owner_key(tile))


def owners(medium: Medium) -> Iterator[str]:
    """Yield who works on a tile, for every tile that is held by a live process."""
    if not isinstance(medium, Folder) or medium.folder is None:
        return
    with suppress(Damage):
        for name in medium.list(LOCKS):
            if name.endswith(_OWNER):
                who = _said(medium, f"{LOCKS}/{name}")
                if who is not None and _is_held(medium.folder / LOCKS / f"{name.removesuffix(_OWNER)}.lock"):
                    yield who


def _said(medium: Medium, key: str) -> str | None:
    try:
        who = json.loads(medium.get(key) or b"")
        return f"process {int(who['pid'])} on {str(who['host'])[:64]}"
    except (OSError, ValueError, KeyError, TypeError):  # given back, or taken, at this moment; or anything else
        return None


def _lock_of(medium: Folder, name: str) -> Path:
    """Return the path of a lock; a link in its place, or in that of its folder, is moved aside before it is opened."""
    try:
        file = medium.made(LOCKS) / name
    except Damage as damage:
        medium.put_aside(damage.key)
        file = medium.made(LOCKS) / name
    if os.path.lexists(file) and not _is_lock(file):
        medium.put_aside(f"{LOCKS}/{name}")
    return file


def _is_lock(file: Path) -> bool:
    """Tell whether there is a file that has no other name: locking one empties it."""
    with suppress(FileNotFoundError):
        about = file.lstat()
        return stat.S_ISREG(about.st_mode) and about.st_nlink == 1
    return False


def _is_held(file: Path) -> bool:
    """Tell whether a live process holds a lock: the system releases those of dead ones."""
    if not _is_lock(file):
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a read-only store: what the owner wrote is all there is
        return True


def _name(tile: Tile) -> str:
    return "-".join(map(str, tile))
