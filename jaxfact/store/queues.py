"""The two queues of a sweep's tiles: all of them in memory, and those that a store does not hold yet."""

import errno
import queue
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import xarray as xr

from jaxfact.engine.lanes import Engine, Work
from jaxfact.engine.outcomes import Limits, Plan
from jaxfact.engine.program import Program
from jaxfact.engine.recording import Found
from jaxfact.engine.tiles import Task
from jaxfact.results.labels import along_runs
from jaxfact.showing.progress import Progress
from jaxfact.store import claims
from jaxfact.store.grid import Grid, Tile, size
from jaxfact.store.medium import StoreError
from jaxfact.store.tilestore import Results, TileStore

_PAUSE = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT)


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


class Cluster(Protocol):
    """Whoever makes tiles in other processes."""

    threads: int

    def make(self, tiles: Sequence[Tile], done: Callable[[Tile, int], None]) -> None:
        """Have tiles of a store made; `done` is told the runs of each that are there, none where another has it."""
        ...

    def gather(self, variant: int, runs: "MemoryQueue", progress: Progress | None) -> None:
        """Have the runs of a variant made, and keep what is found."""
        ...

    def drain(self) -> None:
        """Hand out no more."""
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


class StoreQueue:
    """Tiles of one variant that a store does not hold, of `total` runs; those that others work on are theirs.

    A patient queue waits for the tiles of others, and takes them over where their owner dies; any other leaves them.
    Nothing more is taken once the program has `halted`.
    """

    def __init__(
        self,
        store: TileStore,
        part: Part,
        left: Sequence[Tile],
        total: int,
        *,
        patient: bool,
        halted: Callable[[], bool],
    ):
        self._store, self._part = store, part
        self._patient, self._halted, self._told = patient, halted, False
        self._left = deque(left)
        self.total: int = total
        self.done: int = self.total - sum(size(store.grid.box(tile)) for tile in self._left)
        self._claims: dict[Any, ExitStack] = {}

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
        tile: Tile = task.name  # pyright: ignore[reportAssignmentType]
        facts = {"seconds": round(seconds, 3), "run_steps": found.run_steps}
        try:
            self._store.write(tile, results_of(self._part, self._store.grid, tile, found), facts)
        except OSError as error:
            raise StoreError(error.errno, self._unwritten(error)) from error

    def release(self, task: Task) -> None:
        """Let go of a tile's lock."""
        self._claims.pop(task.name).close()

    def _claim(self, tile: Tile) -> Task | None:
        claim = ExitStack()
        if not claim.enter_context(self._store.claimed(tile)):
            self._left.append(tile)
            return None
        if self._store.is_done(tile):  # somebody has done it in the meantime
            claim.close()
            self.done += size(self._store.grid.box(tile))
            return None
        self._claims[tile] = claim
        return Task(tile, self._part.runs(*self._store.grid.at(self._store.grid.box(tile))))

    def _tell(self) -> None:
        """Say once who is waited for."""
        if self._told or not self._left or self._claims:
            return
        self._told = True
        owner = claims.owner(self._store.medium, self._left[0]) or "another process"
        warnings.warn(
            f"{self._store.name}: waiting for {len(self._left)} tiles, of which {owner} has one", stacklevel=2
        )

    def _unwritten(self, error: OSError) -> str:
        held = sum(map(self._store.held, range(len(self._store.variants))))
        total = self._store.grid.runs * len(self._store.variants)
        reason = "the disk is full" if error.errno in _FULL else f"the store cannot be written ({error})"
        instead = "make room and repeat the call" if error.errno in _FULL else "repeat the call"
        safe = f"{held} of {total} runs are safe there"
        return f"{self._store.name}: {reason}; {safe}: {instead}, which makes only the others"


def results_of(part: Part, grid: Grid, tile: Tile, found: Found) -> Results:
    """Return what was found in a tile, as a store takes it."""
    lengths = dict(zip(grid.axes, map(len, grid.box(tile)), strict=False))
    findings = part.engine.reading.findings
    return Results(
        np.asarray(part.plan.levels), along_runs(found, part.plan, lengths, findings.is_pair, findings.misfits)
    )
