"""Running what a store does not hold yet: its queue of tiles, and what may come between."""

import contextlib
import errno
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxfact.engine.lanes import Found, Work
from jaxfact.engine.program import Program
from jaxfact.engine.tiles import Task
from jaxfact.store.tilestore import Box, Results, TileStore, size

_PAUSE = 0.2
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreError(OSError):
    """The results could not be written; what was written before is safe, and the same call goes on from there."""

    def __str__(self) -> str:
        return str(self.strerror)


class StoreQueue:
    """The tiles of one variant that a store does not hold; those that others work on are left to them.

    `runs_of` returns the runs of some boxes and `results` what was found in one. A patient queue waits for the tiles of
    others, and takes them where their owner dies; another leaves them.
    """

    def __init__(
        self,
        store: TileStore,
        variant: int,
        runs_of: Callable[[list[Box]], Work],
        results: Callable[[Found, Box], Results],
        *,
        patient: bool,
        halted: Callable[[], bool],
    ):
        self._store, self._variant, self._runs_of, self._results = store, variant, runs_of, results
        self._patient, self._halted, self._told = patient, halted, False
        self.total: int = store.runs
        self.done: int = store.held(variant)
        self._left = deque(tile for tile in store.tiles() if store.missing(tile, variant))
        self._claims: dict[Any, contextlib.ExitStack] = {}
        self._boxes: dict[Any, list[Box]] = {}

    def __len__(self) -> int:
        """Return the number of tiles that were missing."""
        return len(self._left)

    def take(self) -> Task | None:
        """Return the next tile nobody works on; its lock is held until it is released."""
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
        """Write a tile's results and mark it."""
        boxes, parts, begin = self._boxes[task.name], [], 0
        for box in boxes:
            parts.append((box, self._results(found.rows(slice(begin, begin + size(box))), box)))
            begin += size(box)
        facts = {"seconds": round(seconds, 3), "run_steps": found.run_steps}
        try:
            self._store.write(task.name, self._variant, parts, facts)  # pyright: ignore[reportArgumentType]
        except OSError as error:
            raise StoreError(error.errno, self._unwritten(error)) from error

    def release(self, task: Task) -> None:
        """Let go of a tile's lock."""
        self._claims.pop(task.name).close()

    def _claim(self, tile: Any) -> Task | None:
        claim = contextlib.ExitStack()
        if not claim.enter_context(self._store.claimed(tile, self._variant)):
            self._left.append(tile)
            return None
        boxes = self._store.missing(tile, self._variant)
        if not boxes:  # somebody has done it in the meantime
            claim.close()
            self.done += size(self._store.box(tile))
            return None
        self._claims[tile], self._boxes[tile] = claim, boxes
        return Task(tile, self._runs_of(boxes))

    def _tell(self) -> None:
        """Say once who is waited for."""
        if self._told or not self._left or self._claims:
            return
        self._told = True
        owner = self._store.owner(self._left[0], self._variant)
        warnings.warn(
            f"{self._store.path}: waiting for {len(self._left)} tiles, of which {owner} has one", stacklevel=2
        )

    def _unwritten(self, error: OSError) -> str:
        held = sum(self._store.held(variant) for variant in range(len(self._store.variants or [""])))
        total = self._store.runs * len(self._store.variants or [""])
        reason = "the disk is full" if error.errno in _FULL else f"the store cannot be written ({error})"
        return (
            f"{self._store.path}: {reason}; {held} of {total} runs are safe there: make room and repeat the call, "
            "which makes the others alone"
        )


@contextlib.contextmanager
def drained_by_signals(program: Program, path: Path) -> Iterator[None]:
    """Finish the tiles in flight at the first interrupt or SIGTERM, stop at once at the second.

    Raises KeyboardInterrupt that says how to go on, where the block was cut short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def handle(number: int, _: object) -> None:
        caught.append(number)
        program.drain()
        if len(caught) > 1:
            raise KeyboardInterrupt(f"stopped at once; {_resume(path)}")
        warnings.warn("finishing the tiles in flight; interrupt again to stop at once", stacklevel=2)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt(f"stopped; {_resume(path)}")


def _resume(path: Path) -> str:
    return f"what is in {path} is safe: repeat the call, which makes the other runs alone"
