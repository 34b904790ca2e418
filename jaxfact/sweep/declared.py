"""What a sweep is told once, checked, and how it answers: from memory, or through a store."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

import jaxfact.accessor  # noqa: F401, which registers `runs.jaxfact`
from jaxfact import measures
from jaxfact.engine.axes import MOST_RUNS, Steps, Values, axis, check_names, check_size, seed_numbers
from jaxfact.engine.devices import made_ahead
from jaxfact.engine.experiment import Experiment, check_signature
from jaxfact.engine.floors import checked_tolerance
from jaxfact.engine.levels import chosen_levels
from jaxfact.engine.program import Program
from jaxfact.engine.tiles import tile_size
from jaxfact.inputs import positive_integer, problem_with, seed_number
from jaxfact.measures.records import Records, named_measures
from jaxfact.results.labels import Origin, join, plain, taken_names
from jaxfact.showing.pace import Counts
from jaxfact.showing.progress import Progress
from jaxfact.store.differences import accepted_names
from jaxfact.store.medium import Place, reachable
from jaxfact.store.provenance import environment
from jaxfact.store.queues import MemoryQueue
from jaxfact.store.root import TILES
from jaxfact.store.status import Watch
from jaxfact.store.work import Request, as_in_store, progress_of, run_into
from jaxfact.sweep.cluster import Client, Cluster
from jaxfact.sweep.parts import Options, Part, part_of
from jaxfact.sweep.tasks import Job, Wanted

_AHEAD = 2  # variants that are read and compiled while one runs


class Told(NamedTuple):
    """Settings of runs, as a user gives them: see `sweep`."""

    max_steps: int
    tolerance: float | None | Mapping[str, float | None]
    levels: Any
    record: Records | None
    every: Any
    check_every: int
    base_seed: int
    checked: bool
    compress: bool
    compensated: bool


class Declared:
    """Experiments, their axes and the settings of their runs, checked; what runs are wanted is not known yet."""

    def __init__(
        self,
        experiment: Experiment | Mapping[str, Experiment],
        told: Told,
        axes: Mapping[str, Values],
        options: Iterable[str],
    ):
        self._given, self._record = experiment, told.record
        self.lone: bool = not isinstance(experiment, Mapping)
        self.named: dict[str, Experiment] = {"": experiment} if self.lone else dict(experiment)  # pyright: ignore
        self._tolerances = _tolerances(self.named, told.tolerance, self.lone)
        steps, recorded = Steps(told.max_steps, told.check_every, told.every), _recorded(told.record, told.every)
        check_names(axes, taken_names() | {TILES}, named_measures(recorded))
        for single in self.named.values():
            check_signature(single, axes, options)
        self.axes: dict[str, np.ndarray] = {name: labels_of(name, values) for name, values in axes.items()}
        self._options = Options(
            max_steps=steps.most,
            record=recorded,
            record_steps=steps.recorded,
            check_every=steps.stride,
            base_seed=seed_number("base_seed", told.base_seed),
            checked=told.checked,
            compress=told.compress,
            compensated=told.compensated,
            levels=chosen_levels(told.levels, self._tolerances.values()),
        )

    def parts(self, axes: Mapping[str, np.ndarray]) -> Iterator[Part]:
        """Read the experiments, by these values of the axes, one after the other.

        So what the runs of one variant share need not be in memory with that of the next, where it is much.
        """
        return (part_of(single, self._tolerances[name], self._options, axes) for name, single in self.named.items())

    def request(
        self,
        seeds: Any,
        axes: Mapping[str, np.ndarray],
        store: Place | None,
        progress: Progress,
        accept: Iterable[str],
        counts: Mapping[str, Any],
    ) -> Request:
        """Return what a call asks for, checked."""
        numbers = seed_numbers(seeds)
        kept = axes if store is None else as_in_store(store, axes)
        check_size(kept, numbers, (not self.lone) + 1, None if store is not None else MOST_RUNS)
        accept = accepted_names(accept)
        tile_runs, devices = (
            count if count is None else positive_integer(name, count, "leave it out for the usual number")
            for name, count in counts.items()
        )
        variants = None if self.lone else list(self.named)
        return Request(kept, numbers, variants, accept, tile_runs, devices, progress)

    def cluster(self, client: Client, request: Request, store: Place | None) -> Cluster:
        """Return the workers of a client, told of what is asked for; refuse a store that is out of their reach."""
        wanted = Wanted(
            self.named,
            self._tolerances,
            self._options,
            environment(),
            jax.config.jax_default_matmul_precision,  # pyright: ignore[reportAttributeAccessIssue]
            tuple(request.accept),
        )
        job = Job(wanted, request.axes, request.seeds, None if store is None else reachable(store))
        return Cluster(client, job)

    def results(self, parts: Iterable[Part], request: Request, store: Place | None) -> xr.Dataset:
        """Make what is asked for, in memory or in a store."""
        if store is not None:
            return run_into(store, list(parts), request)
        # The first is compiled where it is run, each other one while those before it run.
        made = (_ready(part, request, compiled=place > 0) for place, part in enumerate(parts))
        ready = made_ahead(made, _AHEAD, while_light=lambda ready: ready.part.is_light)
        found = [_in_memory(made, request, place, len(self.named)) for place, made in enumerate(ready)]
        runs = found[0] if self.lone else join(found, list(self.named))
        runs.attrs = plain(runs.attrs) | {"base_seed": Origin.of(self._given, self._record, runs.attrs)}
        return runs


def outcomes_in(store: Place | None) -> Counts:
    """Return what counts the outcomes in a store while runs go on; without a store there is nothing to count."""
    return dict if store is None else Watch(store).outcomes


def labels_of(name: str, values: Values) -> np.ndarray:
    """Return the labels of an axis; one number is an axis of one value."""
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    return axis(name, [values] if is_single(values) else values, x64)


def is_single(values: Values) -> bool:
    """Tell whether the values of an axis are one number, and no list."""
    try:
        return np.ndim(values) == 0
    except ValueError:  # lists of different lengths, which are refused where they are read
        return False


def without_single(runs: xr.Dataset, given: Mapping[str, Values]) -> xr.Dataset:
    """Return results without the dimensions of axes that were given one number; their coordinates stay."""
    return runs.isel({name: 0 for name, values in given.items() if is_single(values)})


class _Ready(NamedTuple):
    """One experiment, its tiles, its program, and the seconds it has taken to compile."""

    part: Part
    queue: MemoryQueue
    program: Program
    seconds: float


def _ready(part: Part, request: Request, *, compiled: bool) -> _Ready:
    """Cut the runs of one experiment into tiles, and trace its program, or compile it."""
    runs = part.runs(request.axes, request.seeds)
    threads = request.devices if request.cluster is None else request.cluster.threads
    queue = MemoryQueue(runs, tile_size(int(runs.count), part.engine.way, threads, request.tile_runs))
    program = part.program(queue.size)
    return _Ready(
        part, queue, program, program.compile(request.devices) if compiled and request.cluster is None else 0.0
    )


def _in_memory(made: _Ready, request: Request, place: int, count: int) -> xr.Dataset:
    """Run one of several experiments and keep everything in memory."""
    progress = progress_of(request.progress, place, count)
    if request.cluster is None:
        timing = made.program.run(made.queue, progress, request.devices)
        timing["compile_seconds"] += made.seconds
    else:
        began = time.perf_counter()
        request.cluster.gather(place, made.queue, progress)
        timing = {"compile_seconds": 0.0, "run_seconds": time.perf_counter() - began}
    runs = made.part.labelled(made.queue.found, request.axes, request.seeds)
    return runs.assign(timing).assign_attrs(made.part.attributes(request.axes))


def _tolerances(
    named: Mapping[str, Experiment], tolerance: float | None | Mapping[str, float | None], lone: bool
) -> dict[str, float | None]:
    if not isinstance(tolerance, Mapping):
        if not named:
            raise problem_with("experiment", "{}", "needs at least one experiment", "give a function or a filled dict")
        return dict.fromkeys(named, checked_tolerance(tolerance))
    if lone:
        raise problem_with("tolerance", dict(tolerance), "one experiment has one tolerance", "give a number")
    if set(tolerance) != set(named):
        raise problem_with("tolerance", sorted(tolerance), f"needs the variants {sorted(named)}", "name each once")
    return {name: checked_tolerance(one) for name, one in tolerance.items()}


def _recorded(record: Records | None, every: object) -> Records | None:
    """Return what is recorded: along the steps, or what is asked for of the end; refuse names that results have."""
    if every is not None:
        return record
    if record is None:
        return {}
    for name, measure in named_measures(record).items():
        if name in taken_names() and getattr(measures, name, None) is not measure:
            needed = "results have something else of this name"
            raise problem_with("record", name, needed, "give a mapping from other names to measures")
    return record
