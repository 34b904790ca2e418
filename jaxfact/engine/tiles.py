"""Blocks of runs: how many advance together, how large a tile is, where tiles come from and where results go."""

from collections.abc import Callable, Hashable
from typing import NamedTuple, Protocol

import jax
import numpy as np

from jaxfact.engine.devices import working_devices
from jaxfact.engine.lanes import Found, Work, one_run
from jaxfact.engine.outcomes import Rules
from jaxfact.engine.reading import Reading
from jaxfact.engine.steps import way_of

_CPU_ENTRIES = 1600
# A GPU's multiprocessor holds four times as many numbers in registers.
_MULTIPROCESSOR_ENTRIES, _MULTIPROCESSORS = 2**14, 132
_LARGEST, _LANEFULS = 4096, 8  # with no more runs than lanes a tile waits for its slowest run
_CHEAP = 2**22  # bytes that are moved in a millisecond
Progress = Callable[[int, int], None]
"""Called with the number of runs finished so far and the number of all runs."""


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


def tile_size(total: int, rules: Rules, devices: int | None, most: int | None) -> int:
    """Return how many runs a tile has, so that every thread has work."""
    a_share = -(-total // len(working_devices(devices)))
    return max(rules.lanes, min(most or max(_LARGEST, _LANEFULS * rules.lanes), a_share))


def room(runs: int, bytes_of_one: int) -> int:
    """Return for how many runs a tile has room, so that another number of runs seldom needs another program.

    It is the usual largest number while that is cheap; beyond, it is rounded up by an eighth at most.
    """
    if runs <= _LARGEST <= _CHEAP // bytes_of_one:
        return _LARGEST
    unit = max(1, (1 << (runs.bit_length() - 1)) // 8)
    return -(-runs // unit) * unit


def lanes_per_block(reading: Reading, work: Work) -> int:
    """Return how many lanes advance together; chosen from shapes only, because the last bits may depend on it.

    On a CPU the largest block at which no kernel of a step is split over threads, which would cost more than it gains:
    about 1600 numbers in the largest array, from 8 to 128 lanes. Elsewhere see `lanes_on_multiprocessors`, and
    `Way.lanes` for runs in registers.
    """
    own = one_run(reading, work)
    sizes = [leaf.size for leaf in jax.tree.leaves((own.factors, own.state))]
    if working_devices(1)[0].platform == "cpu":
        if reading.findings.lanes is not None:
            return reading.findings.lanes
        return int(np.clip(_CPU_ENTRIES // max(sizes) // 16 * 16, 16, 128))
    count = getattr(working_devices(1)[0], "core_count", _MULTIPROCESSORS)
    lanes = lanes_on_multiprocessors(max(sum(sizes), reading.findings.advance.largest), count)
    return max(lanes, way_of(reading, own).lanes * count)


def lanes_on_multiprocessors(numbers: int, multiprocessors: int) -> int:
    """Return how many lanes fill a GPU: 2¹⁴ numbers per multiprocessor, from 128 to 131,072 lanes.

    `numbers` are those of a run: its factors and its method's state, or the largest array of a step if that is larger.
    With fewer lanes a step costs its launches; with more, what a step reads and writes leaves the cache.
    """
    lanes = _MULTIPROCESSOR_ENTRIES * multiprocessors // numbers
    return int(np.clip(lanes // 128 * 128, 128, 2**17))
