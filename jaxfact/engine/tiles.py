"""Blocks of runs: how many advance together, how large a tile is, where tiles come from and where results go."""

from collections.abc import Hashable
from typing import NamedTuple, Protocol

from jaxfact.engine.devices import working_devices
from jaxfact.engine.lanes import Work
from jaxfact.engine.recording import Found
from jaxfact.engine.steps import Way

_LARGEST, _LANEFULS = 4096, 8  # with no more runs than lanes a tile waits for its slowest run
_CHEAP = 2**22  # bytes that are moved in a millisecond


class Task(NamedTuple):
    """Some runs of one tile, by a name that means something to the queue they came from."""

    name: Hashable
    work: Work


class Queue(Protocol):
    """Where the tiles of a program come from and where their results go; called from several threads.

    `total` counts all runs and `done` those that need not be run. `take` returns None where nothing is left to do,
    `keep` is given the results of a task and the seconds they took, and `release` follows whether a task was finished
    or not.
    """

    total: int
    done: int

    def __len__(self) -> int:
        """Return the number of tiles to be taken."""
        ...

    def take(self) -> Task | None:
        """Return the next task."""
        ...

    def keep(self, task: Task, found: Found, seconds: float) -> None:
        """Keep a task's results."""
        ...

    def release(self, task: Task) -> None:
        """Let go of a task."""
        ...


def tile_size(total: int, way: Way, devices: int | None, most: int | None) -> int:
    """Return how many runs a tile has, so that every thread has work."""
    a_share = -(-total // len(working_devices(devices)))
    return max(way.least, min(most or max(_LARGEST, _LANEFULS * way.lanes), a_share))


def room(runs: int, bytes_of_one: int) -> int:
    """Return for how many runs a tile has room, so that another number of runs seldom needs another program.

    It is the usual largest number while that is cheap; beyond, it is rounded up by an eighth at most.
    """
    if runs <= _LARGEST <= _CHEAP // bytes_of_one:
        return _LARGEST
    unit = max(1, (1 << (runs.bit_length() - 1)) // 8)
    return -(-runs // unit) * unit
