"""The compiled loop, and threads that work on a queue of tiles: one per device, or on a CPU one per core.

Every thread calls the same single-device program, on a CPU even the same executable. So no collective can appear, a
slow tile holds nobody up, and a run's bits are the same on any number of devices and threads.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from jaxfact.engine.compiling import compiled
from jaxfact.engine.devices import in_this_context, working_devices
from jaxfact.engine.jaxprs import Lowered
from jaxfact.engine.lanes import Engine, Tile, Work, is_finished
from jaxfact.engine.outcomes import Limits
from jaxfact.engine.recording import Found
from jaxfact.engine.steps import way_by_xla
from jaxfact.engine.tiles import Queue, Task, room
from jaxfact.showing.progress import Progress

_PROGRAMS = 16  # compiled programs that are kept, a few megabytes each
_CALL_SECONDS = 0.1
# On a CPU, XLA would split larger kernels of a step over threads, at many times what they cost on one; the other cores
# have tiles of their own.
ON_CPU: dict[str, Any] = {
    "xla_disable_hlo_passes": "cpu-parallel-task-assigner",
    "xla_cpu_prefer_vector_width": 512,
}
# On a GPU a loop whose number of passes is data asks the host before each; as part of a graph it asks the device.
ON_GPU: dict[str, Any] = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,DYNAMIC_SLICE_FUSION,CUDNN,WHILE",
    "xla_gpu_graph_min_graph_size": 1,
}


class Program:
    """The compiled loop of one experiment, for tiles of at least one size: see `room`.

    A smaller task is padded with runs nobody wants, which are never begun.
    """

    def __init__(self, engine: Engine, example: Work, size: int):
        self._engine, self._example = engine, example
        self.size: int = room(size, engine.bytes_of_one)
        self._traced, self._results = self._trace(example)
        self._origin = self
        self._begin()

    def _begin(self) -> None:
        self._progress: Progress | None = None
        self._most = 0
        self._done: dict[Hashable, int] = {}
        self._stop, self._drain = threading.Event(), threading.Event()

    def fits(self, size: int) -> bool:
        """Tell whether tiles of another size would have this program."""
        return room(size, self._engine.bytes_of_one) == self.size

    def compile(self, devices: int | None = None) -> float:
        """Compile the program for as many devices, before it is run on them; return the seconds it took."""
        began = time.perf_counter()
        for device in dict.fromkeys(working_devices(devices)):
            self._compile(device)
        return time.perf_counter() - began

    def anew(self) -> "Program":
        """Return the same program for another call, to be stopped and drained on its own."""
        made = copy(self)
        made._begin()
        return made

    def blank(self, limits: Limits) -> Found:
        """Return the results of one run that has not begun, for their shapes."""
        return self._engine.empty(1).found(1, limits)

    @property
    def fingerprint(self) -> str:
        """A hash of the program and of the arrays all runs share: two sweeps with the same one make the same runs."""
        return self._origin._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        engine, plain = self._engine, self
        if engine.rules.checked or engine.way.is_kernel:
            # JAX below 0.11.2 numbers checks within the process, and the program's text holds these numbers, which no
            # run depends on; nor does one on where the files lie, which the text of a kernel tells.
            rules = engine.rules._replace(checked=False)
            way = way_by_xla("its text tells the program", engine.reading, engine.own)
            plain = Program(Engine(engine.reading, rules, self._example, way), self._example, self.size)
        digest = hashlib.sha256(plain._lowered.digest.encode())
        if engine.way.is_kernel:
            digest.update(engine.way.said.encode())
        for array in self._engine.reading.shared:
            digest.update(np.asarray(_words(array)).tobytes())
        return digest.hexdigest()

    def drain(self) -> None:
        """Let every thread finish its tile and take no other."""
        self._drain.set()

    def run(self, queue: Queue, progress: Progress | None = None, devices: int | None = None) -> dict[str, float]:
        """Run what the queue holds, in at most one thread per tile; return the seconds it took to compile and to run.

        `devices` is how many devices work, all by default; see `working_devices`.
        """
        self._progress, self._done = progress, {}
        homes = working_devices(devices)[: max(1, len(queue))]
        began = time.perf_counter()
        with ThreadPoolExecutor(len(homes)) as threads:
            distinct = list(dict.fromkeys(homes))
            compiled, serve = in_this_context(self._compile), in_this_context(self._serve)
            programs = dict(zip(distinct, threads.map(compiled, distinct), strict=True))
            compiling = time.perf_counter() - began
            try:
                for future in [threads.submit(serve, home, programs[home], queue) for home in homes]:
                    future.result()
            except BaseException as error:
                self._stop.set()
                if _is_out_of_memory(error):
                    raise MemoryError(self._what_fits(homes[0])) from error
                raise
        return {"compile_seconds": compiling, "run_seconds": time.perf_counter() - began - compiling}

    def steps(self, task: Work, device: Any, *, beyond: bool = False) -> Iterator[Tile]:
        """Yield the state of one tile after every look at its runs, each valid until the next is asked for.

        It ends when all runs have ended; with `beyond` they go on for ever, and there may be at most one run per lane.
        """
        advance = self._compile(device)
        begun = self._engine.code, self._engine.reading.shared, self._padded(task), self._empty()
        code, shared, work, tile = jax.device_put(begun, device)
        lane = np.arange(self._engine.way.lanes, dtype=np.int32)
        while beyond or not is_finished(tile, task.count):
            tile = advance(code, shared, work, tile, np.ones((), np.int32))
            yield tile
            if beyond:  # a lane whose run has ended keeps its numbers, and only forgets whose they are
                run, outcome = np.where(lane < task.count, lane, -1), np.full_like(lane, -1)
                tile = tile._replace(lanes=tile.lanes._replace(run=run, outcome=outcome))

    def _serve(self, device: Any, advance: Callable, queue: Queue) -> None:
        """Take tiles from the queue until it is empty, or until another thread has failed."""
        try:
            with jax.default_device(device):
                code, shared = jax.device_put((self._engine.code, self._engine.reading.shared), device)
                while not self.halted() and (task := queue.take()) is not None:
                    try:
                        self._finish(task, partial(advance, code, shared), device, queue)
                    finally:
                        queue.release(task)
        except BaseException:
            self._stop.set()
            raise

    def halted(self) -> bool:
        """Tell whether no further tile is to be taken."""
        return self._stop.is_set() or self._drain.is_set()

    def _empty(self) -> Any:
        return self._engine.empty(self.size)

    def _padded(self, work: Work) -> Work:
        """Repeat the last run until the tile is full."""
        index = np.minimum(np.arange(self.size), int(work.count) - 1)
        points = {name: values[index] for name, values in work.points.items()}
        return work._replace(seeds=work.seeds[index], points=points)

    def _what_fits(self, device: Any) -> str:
        """Say how large a tile may be in the free memory."""
        tile, a_run = self._engine.empty(1), self._engine.bytes_of_one
        lanes = _bytes((tile.lanes, tile.recording.waiting))
        free = _free_bytes(device)
        # What is free now may be taken by the next attempt, and XLA needs scratch space besides.
        runs = self._most
        fits = min(runs // 2, int((free / 2 - lanes) / a_run))
        said = f"out of memory: a tile of {runs} runs needs {(runs * a_run + lanes) / 1e6:.0f} MB"
        found = f"about {free / 1e6:.0f} MB is free on {device}"
        instead = f"tile_runs={fits} fits" if fits >= self._engine.way.least else "record less, or less often"
        return f"{said}, and {found}; {instead}."

    @property
    def _lowered(self) -> Lowered:
        return self._origin._lowered_once

    @cached_property
    def _lowered_once(self) -> Lowered:
        return Lowered(self._traced.lower())

    def _take_apart(self) -> bool:
        """Trace the loop to be compiled in pieces; tell whether that is another program."""
        if not self._engine.is_whole:
            return False
        self._engine = self._engine.in_pieces()
        self._traced, self._results = self._trace(self._example)
        del self._lowered_once
        return True

    def _trace(self, example: Work) -> tuple[Any, Any]:
        """Trace the engine's loop, once for all devices; return that and the tree of its results.

        It is a function of arrays alone: so methods whose states are empty in different ways have one program.
        """
        checks = checkify.checkify(self._engine.advance, errors=checkify.user_checks)
        function = checks if self._engine.rules.checked else self._engine.advance
        arguments = (
            self._engine.code,
            self._engine.reading.shared,
            self._padded(example),
            self._empty(),
            np.ones((), np.int32),
        )
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        leaves, tree = jax.tree.flatten(shapes)
        before, tile = (jax.tree.structure(part).num_leaves for part in (arguments[:3], arguments[3]))

        found: list[Any] = []

        def flat(*leaves):
            results, of_results = jax.tree.flatten(function(*jax.tree.unflatten(tree, leaves)))
            found.append(of_results)
            return results

        return jax.jit(flat, donate_argnums=range(before, before + tile)).trace(*leaves), found[-1]

    def _compile(self, device: Any) -> Callable:
        """Compile the loop for a device."""
        with jax.default_device(device):
            try:
                compiled = _compiled(self._lowered, device)
            except jax.errors.JaxRuntimeError as error:
                # XLA cannot make one function of every loop, and only says so when it tries.
                if "UNIMPLEMENTED" not in str(error) or not self._origin._take_apart():
                    raise
                compiled = _compiled(self._lowered, device)
        tree = self._origin._results

        def advance(*arguments) -> Any:
            return jax.tree.unflatten(tree, compiled(*jax.tree.leaves(arguments)))

        return partial(_throwing, advance) if self._engine.rules.checked else advance

    def _finish(self, task: Task, advance: Callable, device: Any, queue: Queue) -> None:
        """Run one tile to its end, a few blocks per call."""
        began, blocks, count = time.perf_counter(), 16, int(task.work.count)
        self._most = max(self._most, count)
        work, tile = self._padded(task.work), self._empty()
        # A call puts on its device what is not there, in a fifth of the time that it takes here: the tile, once. A CPU
        # is given the work with every call, and a device across a bus keeps it.
        work = work if device.platform == "cpu" else jax.device_put(work, device)
        while not self._stop.is_set():
            started = time.perf_counter()
            tile = advance(work, tile, np.asarray(blocks, np.int32))
            busy = int(np.sum(np.asarray(tile.lanes.run) >= 0))
            self._done[task.name] = int(tile.next_run) - busy
            if self._progress:
                self._progress(queue.done + sum(self._done.values()), queue.total)
            if is_finished(tile, count):
                queue.keep(task, tile.found(count, task.work.limits), time.perf_counter() - began)
                return
            # Long calls hide progress and delay an interrupt; short ones cost their overhead.
            if time.perf_counter() - started < _CALL_SECONDS:
                blocks *= 2


def _is_out_of_memory(error: BaseException) -> bool:
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return exhausted or isinstance(error, MemoryError)


def _bytes(tree: Any) -> int:
    return sum(np.asarray(_words(leaf)).nbytes for leaf in jax.tree.leaves(tree))


def _free_bytes(device: Any) -> int:
    """Return the memory that is free on a device, or in this machine."""
    if stats := device.memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _words(array: Any) -> Any:
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


@lru_cache(_PROGRAMS)
def _compiled(program: Lowered, device: Any) -> Callable:
    """Compile a program unless an earlier sweep has: other seeds, points and targets of one shape need no new one."""
    return compiled(program.lowered, program.digest, device, {"cpu": ON_CPU, "gpu": ON_GPU}.get(device.platform))


def _throwing(advance: Callable, *arguments: Any) -> Tile:
    """Turn a failed check into a one-line exception."""
    error, tile = advance(*arguments)
    if message := error.get():
        raise RuntimeError(message.split(" (`check` failed)")[0])
    return tile
