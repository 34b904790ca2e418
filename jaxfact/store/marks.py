"""Which tiles are done, and what they hold: what is not marked is not there.

A process keeps the marks of its tiles in files of its own, which it replaces whenever it has done another one. They are
arrays that `numpy.load` reads, with a checksum behind. A tile may be marked twice, by two that made the same bytes.
"""

import datetime
import io
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from jaxfact.store.grid import Tile
from jaxfact.store.medium import Damage, Medium
from jaxfact.store.metadata import is_summed, summed
from jaxfact.store.root import TILES, Root

MOST = 512
"""Marks in a file, which is written again for each of them."""

HELD = 1 << 32
"""In front of a file's checksum: that the tile has it."""

_BEGIN, _END = "marks-", ".npy"


class Mark(NamedTuple):
    """What is written of a tile: runs by outcome, steps, seconds, when, by whom, and the checksums of its files.

    `seen` is the latest time of change of its files when they were known to be whole, in nanoseconds; `sums` maps the
    variables it has to their CRC-32C.
    """

    tile: Tile
    outcomes: Mapping[str, int]
    run_steps: int
    seconds: float
    sums: Mapping[str, int]
    seen: int = 0


def now() -> str:
    """Return the date and time, to the millisecond: rates are read from the dates of short tiles."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def here() -> dict[str, Any]:
    """Return who is running: host and process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


def kind_of(root: Root) -> np.dtype:
    """Return the type of a mark in a store."""
    return np.dtype(
        [
            ("tile", "<i4", (len(root.counts),)),
            ("outcomes", [(name, "<i8") for name in root.outcomes]),
            ("run_steps", "<i8"),
            ("seconds", "<f8"),
            ("date", "<f8"),
            ("host", "S64"),
            ("pid", "<i8"),
            ("seen", "<i8"),
            ("sums", [(name, "<u8") for name in root.of_runs]),
        ]
    )


class Marks:
    """The marks of a store, read again where they have changed.

    `damaged` maps files of marks to what is wrong with them.
    """

    def __init__(self, medium: Medium, root: Root):
        self._medium, self._root, self._kind = medium, root, kind_of(root)
        self._files: dict[str, np.ndarray] = {}
        self.damaged: dict[str, str] = {}
        self.records: np.ndarray = np.zeros(0, self._kind)
        self._latest = self.records
        self.numbers: np.ndarray = np.zeros(0, np.int64)
        self.refresh()

    def refresh(self) -> None:
        """Read what has changed since; a file that has gone was put together with others, which are read then."""
        for _ in range(5):
            names = self._names()
            if all([self._read(name) for name in names]):
                break
        self._files = {name: self._files[name] for name in names if name in self._files}
        self._put_together(np.concatenate([np.zeros(0, self._kind), *self._files.values()]))

    def _names(self) -> list[str]:
        """Return the names of all files of marks; none where something else lies in place of their folder."""
        try:
            return [name for name in self._medium.list(TILES) if is_marks(name)]
        except Damage as damage:
            self.damaged[damage.key] = damage.what
            return []

    def small(self) -> tuple[list[str], np.ndarray]:
        """Return the files that are not full, and their marks."""
        names = [name for name, records in self._files.items() if len(records) < MOST]
        return names, np.concatenate([np.zeros(0, self._kind), *(self._files[name] for name in names)])

    def unchanged(self, names: Sequence[str]) -> list[str]:
        """Return the files that still hold what was read of them; their writers may have added marks since."""
        same = []
        for name in names:
            with suppress(Damage):
                content = self._medium.get(key := f"{TILES}/{name}")
                if content is not None and np.array_equal(_records_in(key, content, self._kind), self._files[name]):
                    same.append(name)
        return same

    def number(self, tile: Tile) -> int:
        """Return the number of a tile among all of the store, in its order on disk."""
        return int(np.ravel_multi_index(tile, self._root.counts))

    def find(self, tile: Tile) -> np.void | None:
        """Return the mark of a tile, None where there is none."""
        number = self.number(tile)
        place = int(np.searchsorted(self.numbers, number))
        return self.records[place] if place < len(self.numbers) and self.numbers[place] == number else None

    def latest(self, tile: Tile) -> np.void | None:
        """Return the last mark of a tile, also where it says that the tile was taken back."""
        found = self._latest[np.all(self._latest["tile"] == tile, axis=1)]
        return found[0] if len(found) else None

    def done(self) -> np.ndarray:
        """Return for every tile, in its place, whether it is marked."""
        found = np.zeros(int(np.prod(self._root.counts)), bool)
        found[self.numbers] = True
        return found.reshape(self._root.counts)

    def _read(self, name: str) -> bool:
        """Read a file, unless it is full, which none changes any more; false where it has gone."""
        if len(self._files.get(name, ())) >= MOST:
            return True
        key = f"{TILES}/{name}"
        try:
            content = self._medium.get(key)
            if content is None:
                return False
            self._files[name] = _records_in(key, content, self._kind)
            self.damaged.pop(key, None)
        except Damage as damage:
            self.damaged[key] = damage.what
        return True

    def _put_together(self, records: np.ndarray) -> None:
        """Keep the mark of each tile that was seen last; none of tiles that this root does not have."""
        counts, tiles = np.array(self._root.counts), records["tile"]
        there = np.flatnonzero(np.all((tiles >= 0) & (tiles < counts), axis=1))
        there = there[np.argsort(-records["seen"][there], kind="stable")]
        numbers = np.ravel_multi_index(tuple(tiles[there].T), tuple(counts))
        numbers, first = np.unique(numbers, return_index=True)
        self._latest = records[there[first]]
        held = np.any([self._latest["sums"][name] >= HELD for name in self._kind["sums"].names or ()], axis=0)
        self.numbers, self.records = (numbers, self._latest) if held.all() else (numbers[held], self._latest[held])


class Writer:
    """What marks the tiles that one process makes."""

    def __init__(self, medium: Medium, root: Root):
        self._medium, self._kind = medium, kind_of(root)
        self._name, self._count, self._lock = secrets.token_hex(8), 0, Lock()
        self._kept = np.zeros(0, self._kind)

    def write(self, marks: Sequence[Mark]) -> None:
        """Mark tiles. Where that fails none of them is."""
        host, pid, date = here()["host"].encode("ascii", "replace"), os.getpid(), _seconds_now()
        new = np.zeros(len(marks), self._kind)
        for k, mark in enumerate(marks):
            outcomes = tuple(mark.outcomes.get(name, 0) for name in self._kind["outcomes"].names or ())
            sums = tuple(HELD | mark.sums[n] if n in mark.sums else 0 for n in self._kind["sums"].names or ())
            about = (mark.run_steps, mark.seconds, date, host, pid, mark.seen)
            new[k] = (mark.tile, outcomes, *about, sums)
        self.put(new)

    def put(self, new: np.ndarray) -> None:
        """Add marks as they are."""
        with self._lock:
            kept = np.concatenate([self._kept, new])
            self._medium.put(f"{TILES}/{_BEGIN}{self._name}-{self._count}{_END}", _content_of(kept), synced=True)
            self._kept = kept
            if len(kept) >= MOST:
                self._count, self._kept = self._count + 1, self._kept[:0]


def is_marks(name: str) -> bool:
    """Tell whether a name in `tiles` is that of a file of marks."""
    return name.startswith(_BEGIN) and name.endswith(_END)


def _content_of(records: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, records, allow_pickle=False)
    return summed(file.getvalue())


@lru_cache(MOST)
def _header_of(kind: np.dtype, count: int) -> bytes:
    """Return what lies in front of so many marks: parsing it takes longer than reading them."""
    file = io.BytesIO()
    np.save(file, np.zeros(count, kind), allow_pickle=False)
    return file.getvalue()[: file.tell() - count * kind.itemsize]


def _records_in(key: str, content: bytes, kind: np.dtype) -> np.ndarray:
    """Return the marks in a file. Raises Damage for anything else."""
    if not is_summed(content):
        raise Damage(key, "has another checksum than it should")
    count = max(0, (len(content) - len(_header_of(kind, 0))) // kind.itemsize)
    if content.startswith(header := _header_of(kind, min(count, MOST))):
        return np.frombuffer(content, kind, count, len(header))
    try:  # NumPy of another version may write another header
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, SyntaxError, EOFError, TypeError, OverflowError, RecursionError):
        raise Damage(key, "is not what a sweep writes") from None
    if found.dtype != kind or found.ndim != 1:
        raise Damage(key, "is not what a sweep writes")
    return found


def _seconds_now() -> float:
    return datetime.datetime.now(datetime.UTC).timestamp()
