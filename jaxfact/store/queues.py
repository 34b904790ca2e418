"""The two queues of a sweep's tiles: all of them in memory, and those that a store does not hold yet."""

import errno
import queue
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.lanes import Engine, Work
from jaxfact.engine.outcomes import Limits, Plan
from jaxfact.engine.program import Program
from jaxfact.engine.recording import Found
from jaxfact.engine.tiles import Task
from jaxfact.results.labels import along_runs
from jaxfact.store import marks
from jaxfact.store.grid import Box, Grid, size
from jaxfact.store.layout import Tile
from jaxfact.store.tilestore import Results, TileStore

_PAUSE = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreError(OSError):
    """The results could not be written; what was written before is safe, and the same call goes on from there."""

    def __str__(self) -> str:
        return str(self.strerror)


class Part(Protocol):
    """One experiment of a sweep: how it is read, how its runs end, and what is written beside its results."""

    engine: Engine
    plan: Plan
    limits: Limits

    def attributes(self, axes: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what is written beside the results of runs along these axes."""
        ...

    def program(self, size: int) -> Program:
        """Return the program for tiles of a size."""
        ...

    def runs(self, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> Work:
        """Return seeds and points of runs, of which the points run fastest."""
        ...

    def labelled(self, found: Found, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> xr.Dataset:
        """Return the results of such runs as a dataset."""
        ...


class MemoryQueue:
    """All runs of a sweep, cut into tiles in their order, and what was found."""

    def __init__(self, runs: Work, size: int):
        self.total: int = int(runs.count)
        self.done: int = 0
        self.size: int = size
        self._runs = runs
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._begins = range(0, self.total, size)
        for begin in self._begins:
            self._waiting.put(begin)
        self._results: dict[Any, Found] = {}

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self._begins)

    @property
    def found(self) -> Found:
        """The results of all runs, in order."""
        return Found.joined([self._results[begin] for begin in self._begins])

    def take(self) -> Task | None:
        """Return the next tile."""
        try:
            begin = self._waiting.get_nowait()
        except queue.Empty:
            return None
        rows = slice(begin, begin + self.size)
        seeds, points = self._runs.seeds[rows], {name: values[rows] for name, values in self._runs.points.items()}
        return Task(begin, self._runs._replace(seeds=seeds, points=points, count=np.asarray(len(seeds), np.int32)))

    def keep(self, task: Task, found: Found, seconds: float) -> None:
        """Remember a tile's results."""
        self._results[task.name] = found

    def release(self, task: Task) -> None:
        """Do nothing: nobody else could take the tile."""


class _Claim(NamedTuple):
    """A tile that is ours: the boxes of its runs that were missing, and what releases it."""

    boxes: list[Box]
    given_back: ExitStack


class StoreQueue:
    """The tiles of one variant that a store does not hold; those that others work on are left to them.

    A patient queue waits for the tiles of others, and takes them over where their owner dies; any other leaves them.
    Nothing more is taken once the program has `halted`.
    """

    def __init__(self, store: TileStore, variant: int, part: Part, *, patient: bool, halted: Callable[[], bool]):
        self._store, self._part = store, part
        self._patient, self._halted, self._told = patient, halted, False
        self.total: int = store.grid.runs
        self.done: int = store.held(variant)
        self._left = deque(tile for tile in store.tiles(variant) if store.missing(tile))
        self._claims: dict[Any, _Claim] = {}

    def __len__(self) -> int:
        """Return the number of tiles that were missing."""
        return len(self._left)

    def take(self) -> Task | None:
        """Return the next tile that nobody works on; its lock is held until the tile is released."""
        while not self._halted():
            for _ in range(len(self._left)):
                try:
                    tile = self._left.popleft()
                except IndexError:  # another thread was faster
                    break
                if (task := self._claim(tile)) is not None:
                    return task
            if not self._left or not self._patient:
                return None
            self._tell()
            time.sleep(_PAUSE)
        return None

    def keep(self, task: Task, found: Found, seconds: float) -> None:
        """Write a tile's results and mark it. Raises StoreError where that is not possible."""
        results = _results_in(self._part, self._store.grid, self._claims[task.name].boxes, found)
        facts = {"seconds": round(seconds, 3), "run_steps": found.run_steps}
        try:
            self._store.write(task.name, results, facts)  # pyright: ignore[reportArgumentType]
        except OSError as error:
            raise StoreError(error.errno, self._unwritten(error)) from error

    def release(self, task: Task) -> None:
        """Let go of a tile's lock."""
        self._claims.pop(task.name).given_back.close()

    def _claim(self, tile: Tile) -> Task | None:
        claim = ExitStack()
        if not claim.enter_context(self._store.claimed(tile)):
            self._left.append(tile)
            return None
        boxes = self._store.missing(tile)
        if not boxes:  # somebody has done it in the meantime
            claim.close()
            self.done += size(self._store.grid.box(tile))
            return None
        self._claims[tile] = _Claim(boxes, claim)
        return Task(tile, _runs_in(self._part, self._store.grid, boxes))

    def _tell(self) -> None:
        """Say once who is waited for."""
        if self._told or not self._left or self._claims:
            return
        self._told = True
        owner = marks.owner(self._store.layout, self._left[0]) or "another process"
        warnings.warn(
            f"{self._store.path}: waiting for {len(self._left)} tiles, of which {owner} has one", stacklevel=2
        )

    def _unwritten(self, error: OSError) -> str:
        held = sum(map(self._store.held, range(len(self._store.variants))))
        total = self._store.grid.runs * len(self._store.variants)
        reason = "the disk is full" if error.errno in _FULL else f"the store cannot be written ({error})"
        return (
            f"{self._store.path}: {reason}; {held} of {total} runs are safe there: make room and repeat the call, "
            "which makes only the others"
        )


def _runs_in(part: Part, grid: Grid, boxes: Sequence[Box]) -> Work:
    """Return the runs of some boxes, one box after the other."""
    works = [part.runs(*grid.at(box)) for box in boxes]
    seeds, points = jax.tree.map(lambda *xs: np.concatenate(xs), *[(w.seeds, dict(w.points)) for w in works])
    return works[0]._replace(seeds=seeds, points=points, count=np.asarray(sum(map(size, boxes)), np.int32))


def _results_in(part: Part, grid: Grid, boxes: Sequence[Box], found: Found) -> list[tuple[Box, Results]]:
    """Return what was found in these boxes, as a store takes it."""
    parts, begin = [], 0
    for box in boxes:
        rows = found.rows(slice(begin, begin + size(box)))
        begin += size(box)
        lengths = dict(zip(grid.axes, map(len, box), strict=False))
        findings = part.engine.reading.findings
        variables = along_runs(rows, part.plan, lengths, findings.is_pair, findings.misfits)
        parts.append((box, Results(np.asarray(part.plan.levels), variables)))
    return parts
