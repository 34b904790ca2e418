"""A sweep on the workers of a cluster: tiles are tasks of `dask.distributed`, which hands them out, and again."""

import errno
import itertools
import queue
import time
import uuid
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any, Protocol, TypeAlias, TypeVar

from jaxfact.engine.tiles import Task
from jaxfact.inputs import problem_with, shown
from jaxfact.showing.progress import Progress
from jaxfact.store.grid import Tile
from jaxfact.store.medium import StoreError
from jaxfact.store.queues import MemoryQueue
from jaxfact.sweep.tasks import Job, run_blocks, run_tiles

T = TypeVar("T")
Left: TypeAlias = Mapping[Any, tuple[Any, ...]]
"""What is to be made, by name: tuples that begin with the number of the variant."""

_LOOK = 0.2  # seconds between two looks at whether the scheduler is there
_SILENT = 5.0  # and until it is said that there are no workers
_ROUNDS, _TRIES = 5, 3
_TASKS, _MOST = 32, 16
"""Tasks that each thread has at least, where there are tiles for them, and tiles of the largest."""


class Client(Protocol):
    """What a sweep asks of a `dask.distributed.Client`."""

    status: str

    def submit(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Have a function called by a worker."""
        ...

    def map(self, function: Callable[..., Any], items: Sequence[Any], /, **options: Any) -> Sequence[Any]:
        """Have a function called for each of some items."""
        ...

    def cancel(self, futures: Any) -> Any:
        """Forget tasks."""
        ...

    def nthreads(self) -> Mapping[str, int]:
        """Return how many threads each worker has."""
        ...


class Cluster:
    """The workers of a client, and one sweep, which is sent to each of them once."""

    def __init__(self, client: Client, job: Job):
        if not all(hasattr(client, name) for name in ("submit", "map", "cancel", "nthreads")):
            needed = "needs a dask.distributed.Client"
            raise problem_with("cluster", shown(client), needed, "give Client(address), or Client(cluster)")
        self._client, self._packed, self._token = client, job.packed(), uuid.uuid4().hex
        self._is_draining = self._is_told = False
        self._heard = 0.0  # when a task ended last

    @property
    def threads(self) -> int:
        """How many tiles its workers make at a time, at least one."""
        return max(1, sum(self._client.nthreads().values()))

    def make(self, tiles: Sequence[Tile], done: Callable[[Tile, int], None]) -> None:
        """Have tiles of a store made; `done` is told the runs of each that are there, none where another has taken it.

        Raises StoreError where the cluster is lost, and what a tile raised that was tried three times.
        """
        self._run(run_tiles, {tile: tile for tile in tiles}, done)

    def gather(self, variant: int, runs: MemoryQueue, progress: Progress | None) -> None:
        """Have all runs of a variant made and bring their results here. Raises as `make`."""
        tasks: dict[Hashable, Task] = {task.name: task for task in iter(runs.take, None)}

        def keep(name: Hashable, made: tuple[Any, float]) -> None:
            runs.keep(tasks[name], *made)
            runs.done += int(tasks[name].work.count)
            if progress:
                progress(runs.done, runs.total)

        self._run(run_blocks, {name: (variant, name, runs.size) for name in tasks}, keep)

    def drain(self) -> None:
        """Hand out no more; what workers have begun they finish."""
        self._is_draining = True

    def _run(self, function: Callable[..., list[T]], left: Left, keep: Callable[[Any, T], None]) -> None:
        """Have a function called for all names, some at a time, and again where its worker was lost."""
        tries = 0
        while left and not self._is_draining:
            self._check()  # or all that was flying comes back at once, cancelled, and is handed out to nobody
            again = self._round(function, left, keep)
            tries = tries + 1 if len(again) == len(left) else 0
            if tries == _ROUNDS:
                raise self._lost(f"{len(left)} tiles were lost with their workers {_ROUNDS} times")
            left = again

    def _round(self, function: Callable[..., list[T]], left: Left, keep: Callable[[Any, T], None]) -> Left:
        """Call a function for all names; return those whose worker, or whose copy of the sweep, was lost."""
        again: dict[Any, tuple[Any, ...]] = {}
        ended = queue.SimpleQueue[Any]()
        try:
            groups = list(_groups(left, min(_MOST, max(1, len(left) // (_TASKS * self.threads)))))
            # As the result of a task it is sent to each worker once, made again where the last that had it is lost, and
            # waited for where workers are yet to come.
            number = uuid.uuid4().hex
            sent = self._client.submit(bytes, self._packed, pure=False, key=f"sweep-{number}")
            # Of tasks whose names are pairs dask gives a worker few at a time: when it dies, few are blamed.
            keys = [(f"tile-{number}", place) for place in range(len(groups))]
            options = {"key": keys, "retries": _TRIES, "token": self._token, "packed": sent, "pure": False}
            futures = self._client.map(function, [[left[name] for name in names] for names in groups], **options)
            flying: dict[Any, Sequence[Any]] = dict(zip(futures, groups, strict=True))
            for future in flying:
                future.add_done_callback(ended.put)
        except (OSError, TimeoutError, ValueError) as error:
            raise self._lost(str(error)) from error
        try:
            self._heard = time.monotonic()
            while flying and not self._is_draining:
                if (future := self._next(ended)) is None:
                    continue
                names = flying.pop(future)
                if future.status == "finished":
                    for name, made in zip(names, self._result_of(future), strict=True):
                        keep(name, made)
                elif future.status == "error" and not _is_of_the_cluster(future.exception()):
                    raise future.exception()
                else:
                    again |= {name: left[name] for name in names}
        finally:
            if flying and self._client.status == "running":
                self._client.cancel(list(flying))
        return again

    def _next(self, ended: "queue.SimpleQueue[Any]") -> Any:
        """Return the next task that has ended, None after a while; say once where there are no workers."""
        try:
            future = ended.get(timeout=_LOOK)
            self._heard = time.monotonic()
            return future
        except queue.Empty:
            self._check()
        if time.monotonic() - self._heard >= _SILENT and not self._is_told:
            self._heard = time.monotonic()
            with suppress(OSError, TimeoutError):  # the scheduler is gone, which the next look finds
                if not self._client.nthreads():
                    self._is_told = True
                    warnings.warn("the cluster has no workers: waiting until there are some", stacklevel=2)
        return None

    def _check(self) -> None:
        if self._client.status != "running":
            raise self._lost("its scheduler is gone") from None

    def _result_of(self, future: Any) -> Any:
        try:
            return future.result()
        except (OSError, TimeoutError, CancelledError) as error:  # it is done, and cannot be brought here
            raise self._lost(f"{type(error).__name__}") from error

    def _lost(self, why: str) -> StoreError:
        said = f"the cluster was lost ({why}); what a store holds is safe: repeat the call, which makes only the others"
        return StoreError(errno.ECONNABORTED, said)


def _groups(left: Left, most: int) -> Iterator[list[Any]]:
    """Yield the names of what is to be made, some of one variant at a time."""
    for _, names in itertools.groupby(left, key=lambda name: left[name][0]):
        of_one = list(names)
        for begin in range(0, len(of_one), most):
            yield of_one[begin : begin + most]


def _is_of_the_cluster(error: BaseException) -> bool:
    """Tell whether a task failed because several workers died with it in turn, and not of itself."""
    from distributed import KilledWorker  # pyright: ignore[reportMissingImports]

    return isinstance(error, KilledWorker)
