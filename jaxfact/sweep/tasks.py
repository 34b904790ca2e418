"""What a worker of a cluster does: it reads a sweep once, and then makes its tiles, one or some in a call.

Nothing here knows what hands the calls out. A sweep travels as bytes, so that whoever carries them need not know what
functions and arrays are in it.
"""

import hashlib
import importlib
import importlib.util
import io
import pickle
import sys
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from jaxfact.engine.experiment import Experiment
from jaxfact.engine.program import Program
from jaxfact.engine.recording import Found
from jaxfact.inputs import problem_with
from jaxfact.store import provenance
from jaxfact.store.differences import differences
from jaxfact.store.grid import Tile, size
from jaxfact.store.medium import Place
from jaxfact.store.queues import MemoryQueue, StoreQueue
from jaxfact.store.tilestore import TileStore
from jaxfact.sweep.parts import Options, Part, part_of

T = TypeVar("T")

_MOST = 2  # sweeps that a worker remembers, and experiments


class Wanted(NamedTuple):
    """Experiments, and how they are run, wherever and with whatever seeds.

    `environment` is what bits depend on beside them, of which what is named in `accept` may be another on a worker.
    """

    named: Mapping[str, Experiment]
    tolerances: Mapping[str, float | None]
    options: Options
    environment: Mapping[str, Any]
    precision: str | None
    accept: tuple[str, ...] = ()


class Job(NamedTuple):
    """What a worker needs to know of a sweep; `place` is its store, None where results travel back."""

    wanted: Wanted
    axes: Mapping[str, np.ndarray]
    seeds: np.ndarray
    place: Place | None

    def packed(self) -> bytes:
        """Return it as bytes, with the code of the experiments where that is not of an installed package.

        What sweeps of the same experiments have in common are bytes of their own, so that workers read them once.
        """
        import cloudpickle  # pyright: ignore[reportMissingImports] - which comes with the cluster

        with ExitStack() as registered:
            for module in {id(module): module for module in map(_home, self.wanted.named.values())}.values():
                if module is not None:
                    cloudpickle.register_pickle_by_value(module)
                    registered.callback(cloudpickle.unregister_pickle_by_value, module)
            pickler = _with_lazy_modules(cloudpickle.Pickler)
            # Arrays of 64 bits would come out with 32 where JAX is not told before.
            x64 = bool(self.wanted.environment["x64"])
            return pickle.dumps((x64, _bytes_of(pickler, self.wanted), _bytes_of(pickler, self[1:])))


def run_tiles(tiles: Sequence[Tile], *, token: str, packed: bytes) -> list[int]:
    """Make tiles of one variant of a store, but those that are there or that another process has.

    Returns how many runs of each are there. `token` names this call of the sweep among all: for each the store is
    opened once. Raises StoreError where a tile cannot be written, and ValueError where this worker would compute other
    bits.
    """
    with _settled(packed) as worker:
        return worker.made(token, tiles)


def run_blocks(blocks: Sequence[tuple[int, int, int]], *, token: str, packed: bytes) -> list[tuple[Found, float]]:
    """Return the results of blocks of runs, and the seconds they took: of a variant, from a number on, so many.

    They are counted in the order of points and seeds. Raises ValueError as `run_tiles`.
    """
    with _settled(packed) as worker:
        return [worker.found(*block) for block in blocks]


class _Worker:
    """A sweep as one process has read it."""

    def __init__(self, job: Job):
        self._job, self._lock = job, Lock()
        self._ready: dict[tuple[int, int], tuple[Part, Program]] = {}
        self._store: tuple[str, TileStore] | None = None
        self._runs: dict[int, Any] = {}

    def made(self, token: str, tiles: Sequence[Tile]) -> list[int]:
        store = self._opened(token)
        part, program = self._read(tiles[0][0], int(np.prod(store.grid.blocks)))
        runs = [size(store.grid.box(tile)) for tile in tiles]
        program.run(StoreQueue(store, part, tiles, sum(runs), patient=False, halted=program.halted), devices=1)
        return [count if store.is_done(tile) else 0 for tile, count in zip(tiles, runs, strict=True)]

    def found(self, variant: int, begin: int, count: int) -> tuple[Found, float]:
        part, program = self._read(variant, count)
        with self._lock:
            if variant not in self._runs:
                self._runs = {variant: part.runs(self._job.axes, self._job.seeds)}
            runs = self._runs[variant]
        rows = slice(begin, begin + count)
        points = {name: values[rows] for name, values in runs.points.items()}
        seeds, began = runs.seeds[rows], time.perf_counter()
        task = runs._replace(seeds=seeds, points=points, count=np.asarray(len(seeds), np.int32))
        queue = MemoryQueue(task, count)
        program.run(queue, devices=1)
        return queue.found, time.perf_counter() - began

    def _opened(self, token: str) -> TileStore:
        """Return the store as it was when a call began, or later."""
        with self._lock:
            if self._store is None or self._store[0] != token:
                assert self._job.place is not None, "tiles are those of a store"
                self._store = token, TileStore(self._job.place)
            return self._store[1]

    def _read(self, variant: int, count: int) -> tuple[Part, Program]:
        """Return a variant and its program, for this call alone; read and compiled by whoever comes first."""
        with self._lock:
            key = variant, count
            if key not in self._ready:
                wanted = self._job.wanted
                name = list(wanted.named)[variant]
                # The client has warned of all there is; here, other threads draw random numbers of their own.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)
                    part = part_of(wanted.named[name], wanted.tolerances[name], wanted.options, self._job.axes)
                program = part.program(max(part.engine.way.lanes, count))
                program.compile(1)
                self._ready[key] = part, program
            part, program = self._ready[key]
        return part, program.anew()


_workers: OrderedDict[str, _Worker] = OrderedDict()
_wanted: OrderedDict[str, Wanted] = OrderedDict()
_lock = RLock()


@contextmanager
def _settled(packed: bytes) -> Iterator[_Worker]:
    """Yield what this process knows of a sweep, under the settings of JAX that the sweep has."""
    worker = _known(_workers, packed, lambda: _Worker(_unpacked(packed)))
    wanted = worker._job.wanted
    with jax.enable_x64(wanted.environment["x64"]), jax.default_matmul_precision(wanted.precision):
        yield worker


def _known(known: OrderedDict[str, T], content: bytes, read: Callable[[], T]) -> T:
    """Return what was read from some bytes, lately or now."""
    digest = hashlib.sha256(content).hexdigest()
    with _lock:
        if digest not in known:
            known[digest] = read()
        known.move_to_end(digest)
        while len(known) > _MOST:
            known.popitem(last=False)
        return known[digest]


def _unpacked(packed: bytes) -> Job:
    """Return the sweep in some bytes. Raises ValueError where its runs would have other bits here."""
    x64, wanted, others = pickle.loads(packed)
    with jax.enable_x64(x64):
        return Job(_known(_wanted, wanted, lambda: _checked(pickle.loads(wanted))), *pickle.loads(others))


def _checked(wanted: Wanted) -> Wanted:
    """Return what is wanted. Raises ValueError where its runs would have other bits here."""
    with jax.default_matmul_precision(wanted.precision):
        differing = differences(wanted.environment, provenance.environment())
    if refused := [said for name, said in differing.items() if name not in wanted.accept]:
        instead = "run the sweep where workers are of its own kind, or accept what may change last bits"
        raise problem_with("cluster", "a worker", f"is another machine: {'; '.join(refused)}", instead)
    return wanted


def _bytes_of(pickler: Any, content: Any) -> bytes:
    file = io.BytesIO()
    pickler(file).dump(content)
    return file.getvalue()


def _with_lazy_modules(pickler: Any) -> Any:
    """Return a kind of pickler that knows modules of every kind by their names, such as those that load lazily."""

    class Known(pickler):
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, ModuleType) and type(obj) is not ModuleType:
                return importlib.import_module, (obj.__name__,)
            return super().reducer_override(obj)

    return Known


def _home(experiment: Any) -> ModuleType | None:
    """Return the module whose code must travel with an experiment; None where workers have it, or it travels anyway."""
    module = sys.modules.get(getattr(experiment, "__module__", None) or "__main__")
    if module is None or module.__name__ in ("__main__", "builtins") or module.__name__.startswith("jaxfact."):
        return None
    try:
        found = importlib.util.find_spec(module.__name__)
    except (ImportError, ValueError):
        found = None
    return None if found is not None and "site-packages" in str(found.origin) else module
