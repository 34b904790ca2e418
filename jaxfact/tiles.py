"""A queue of tiles of runs, and one thread a device that works on it.

Every thread calls the same single-device program, on a CPU even the same executable. So no collective can appear, a
slow tile holds up nobody, and a run's bits are the same on any number of devices.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np
from jax.experimental import checkify

from jaxfact.experiment import Program
from jaxfact.lanes import Engine, Tile, Work, is_finished
from jaxfact.outcomes import Rules

_LARGEST = 4096
_PROGRAMS = 16  # compiled programs that are kept, a few megabytes each
_CALL_SECONDS = 0.1
# On a CPU XLA would split larger kernels of a step over threads, at many times what they cost on one; the other cores
# have tiles of their own.
ON_CPU = {"xla_disable_hlo_passes": "cpu-parallel-task-assigner", "xla_cpu_prefer_vector_width": 512}

Progress = Callable[[int, int], None]
"""Called with the number of runs finished so far and the number of all runs."""


class Tiles:
    """All runs of one program, cut into tiles of one size, of which the last is padded with runs nobody wants."""

    def __init__(self, program: Program, rules: Rules, runs: Work, progress: Progress | None):
        self._runs, self._progress = runs, progress
        self._total = int(runs.count)
        self._devices = jax.local_devices()
        size = min(_LARGEST, max(rules.lanes, -(-self._total // len(self._devices))))
        self._engine = Engine(program, rules, size)
        self._shapes = jax.eval_shape(self._engine.one, program.shared, runs)
        self._traced = self._trace()
        self._waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._done = dict.fromkeys(range(0, self._total, size), 0)
        for begin in self._done:
            self._waiting.put(begin)
        self._results: dict[int, Any] = {}
        self._stop = threading.Event()

    def run(self) -> tuple[Any, dict[str, float]]:
        """Run everything; return finished runs, records and last records in order, and the seconds it took."""
        used = self._devices[: len(self._done)]
        # CPU devices are all the same cores: one program serves them, called from as many threads.
        homes = [used[0]] * len(used) if used[0].platform == "cpu" else used
        began = time.perf_counter()
        with ThreadPoolExecutor(len(used)) as threads:
            distinct = list(dict.fromkeys(homes))
            programs = dict(zip(distinct, threads.map(self._compile, distinct), strict=True))
            compiling = time.perf_counter() - began
            try:
                for future in [threads.submit(self._serve, home, programs[home]) for home in homes]:
                    future.result()
            except BaseException:
                self._stop.set()
                raise
        timing = {"compile_seconds": compiling, "run_seconds": time.perf_counter() - began - compiling}
        return jax.tree.map(lambda *parts: np.concatenate(parts), *map(self._results.get, self._done)), timing

    def _serve(self, device: Any, advance: Callable) -> None:
        """Take tiles from the queue until it is empty, or until another thread failed."""
        try:
            with jax.default_device(device):
                shared = jax.device_put(self._engine.program.shared, device)
                while not self._stop.is_set() and (begin := self._next()) is not None:
                    work, tile = jax.device_put((self._work(begin), self._engine.empty(*self._shapes)), device)
                    self._finish(begin, partial(advance, shared, work), tile)
        except BaseException:
            self._stop.set()
            raise

    def _next(self) -> int | None:
        try:
            return self._waiting.get_nowait()
        except queue.Empty:
            return None

    def _work(self, begin: int) -> Any:
        index = np.minimum(np.arange(begin, begin + self._engine.tile), self._total - 1)
        count = min(self._engine.tile, self._total - begin)
        points = {name: values[index] for name, values in self._runs.points.items()}
        return Work(self._runs.base, self._runs.seeds[index], points, np.asarray(count, np.int32))  # pyright: ignore[reportArgumentType]

    def _trace(self) -> Any:
        """Trace the engine's loop, once for all devices."""
        checks = checkify.checkify(self._engine.advance, errors=checkify.user_checks)
        function = checks if self._engine.rules.checked else self._engine.advance
        arguments = (
            self._engine.program.shared,
            self._work(0),
            self._engine.empty(*self._shapes),
            np.ones((), np.int32),
        )
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        return jax.jit(function, donate_argnums=2).trace(*shapes)

    def _compile(self, device: Any) -> Callable:
        """Compile the loop for a device."""
        with jax.default_device(device):
            compiled = _compiled(_Lowered(self._traced.lower()), device)
        return partial(_throwing, compiled) if self._engine.rules.checked else compiled

    def _finish(self, begin: int, advance: Callable, tile: Tile) -> None:
        """Run one tile to its end, some blocks a call."""
        count, blocks = min(self._engine.tile, self._total - begin), 16
        while not self._stop.is_set():
            started = time.perf_counter()
            tile = advance(tile, np.asarray(blocks, np.int32))
            busy = int(np.sum(np.asarray(tile.lanes.run) >= 0))
            self._done[begin] = int(tile.next_run) - busy
            if self._progress:
                self._progress(sum(self._done.values()), self._total)
            if is_finished(tile, count):
                found = (tile.finished, tile.recording.at_steps, tile.recording.last)
                self._results[begin] = jax.tree.map(lambda x: np.asarray(x)[:count], found)
                return
            # Long calls hide progress and delay an interrupt; short ones cost their overhead.
            if time.perf_counter() - started < _CALL_SECONDS:
                blocks *= 2


class _Lowered:
    """A program before compilation, equal to every other of the same text."""

    def __init__(self, lowered: jax.stages.Lowered):
        self.lowered, self.text = lowered, lowered.as_text()

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lowered) and self.text == other.text


@lru_cache(_PROGRAMS)
def _compiled(program: _Lowered, device: Any) -> Callable:
    """Compile a program, unless a sweep before has: other seeds, points and targets of one shape need no other."""
    return program.lowered.compile(ON_CPU if device.platform == "cpu" else None)


def _throwing(advance: Callable, *arguments: Any) -> Tile:
    """Turn a failed check into an exception of one line."""
    error, tile = advance(*arguments)
    if message := error.get():
        raise RuntimeError(message.split(" (`check` failed)")[0])
    return tile
