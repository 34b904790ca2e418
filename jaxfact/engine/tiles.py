"""Blocks of runs: how large they are, where they come from, and where their results go."""

import queue
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxfact.engine.lanes import Found, Work
from jaxfact.engine.outcomes import Rules

_LARGEST = 4096
Progress = Callable[[int, int], None]
"""Called with the number of runs finished so far and the number of all runs."""


class Task(NamedTuple):
    """Some runs of one tile, by a name that means something to the queue they came from."""

    name: Hashable
    work: Work


class Queue(Protocol):
    """Where the tiles of a program come from and where their results go; called from one thread per device.

    `total` counts all runs and `done` those that need not be run. `take` returns None where nothing is left to do,
    `keep` is given the results of a task and the seconds they took, and `release` follows whether a task was finished
    or not.
    """

    total: int
    done: int

    def take(self) -> Task | None:
        """Return the next task."""
        ...

    def keep(self, task: Task, found: Found, seconds: float) -> None:
        """Keep a task's results."""
        ...

    def release(self, task: Task) -> None:
        """Let go of a task."""
        ...


class InMemory:
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
        self._results: dict[Hashable, Found] = {}

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
        return Task(begin, chosen(self._runs, slice(begin, begin + self.size)))

    def keep(self, task: Task, found: Found, seconds: float) -> None:
        """Remember a tile's results."""
        self._results[task.name] = found

    def release(self, task: Task) -> None:
        """Do nothing: nobody else could take the tile."""


def chosen(runs: Work, index: Any) -> Work:
    """Return some of the runs."""
    seeds, points = runs.seeds[index], {name: values[index] for name, values in runs.points.items()}
    return runs._replace(seeds=seeds, points=points, count=np.asarray(len(seeds), np.int32))


def tile_size(total: int, rules: Rules, devices: int | None, most: int | None) -> int:
    """Return how many runs a tile has, so that all devices have work."""
    count = min(devices or jax.local_device_count(), jax.local_device_count())
    return max(rules.lanes, min(most or _LARGEST, -(-total // count)))
