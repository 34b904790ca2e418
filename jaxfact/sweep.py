"""Experiment × axes × seeds → one labelled dataset."""

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from jaxfact import measures
from jaxfact.engine.axes import (
    MOST_RUNS,
    Steps,
    Values,
    as_run,
    axis,
    both_given,
    check_names,
    check_size,
    seed_numbers,
)
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.experiment import Experiment, check_experiment, check_signature
from jaxfact.engine.floors import check_tolerance, checked_tolerance
from jaxfact.engine.lanes import Engine, Found, Work
from jaxfact.engine.levels import chosen_levels
from jaxfact.engine.outcomes import Limits, Plan, Rules
from jaxfact.engine.program import Program
from jaxfact.engine.reading import Reading
from jaxfact.engine.tiles import Progress, tile_size
from jaxfact.inputs import explained, positive_integer, problem_with, seed_number, shown
from jaxfact.measures import invariants
from jaxfact.measures.records import Records, named_measures
from jaxfact.methods.base import as_method
from jaxfact.numerics.draws import key_of
from jaxfact.numerics.products import in_full_precision
from jaxfact.problems.factorization import Factorization
from jaxfact.results.labels import Origin, join, label, plain, taken_names
from jaxfact.store import provenance
from jaxfact.store.differences import accepted_names
from jaxfact.store.layout import TILES
from jaxfact.store.queues import MemoryQueue
from jaxfact.store.work import Request, as_in_store, progress_of, run_into


@explained
@in_full_precision
def sweep(
    experiment: Experiment | Mapping[str, Experiment],
    *,
    seeds: int | Sequence[int] | np.ndarray,
    max_steps: int,
    tolerance: float | None | Mapping[str, float | None],
    levels: Sequence[float] | None = None,
    record: Records | None = None,
    every: int | Sequence[int] | None = None,
    check_every: int = 10,
    base_seed: int = 0,
    checked: bool = False,
    compress: bool = True,
    compensated: bool = False,
    progress: Progress | None = None,
    store: str | Path | None = None,
    accept: Iterable[str] = (),
    tile_runs: int | None = None,
    devices: int | None = None,
    axes: Mapping[str, Values] | None = None,
    **more_axes: Values,
) -> xr.Dataset:
    """Run an experiment for every point of the axes and every seed, in one compiled program.

    Runs end as `converged` (distance ≤ tolerance, and still ≤ 10·tolerance after max(50, 10 %) further steps), `fitted`
    (the data are fitted to the tolerance, and the truth is still not found after as many steps again and 50 more),
    `diverged`, `cycle` (the whole state has come back bit for bit, after two steps or more), `stationary` (it has, and
    stayed within rounding of one point), or `budget` (`max_steps` came first). A run depends only on its seed, its
    point and `base_seed`, so runs of one seed are paired along every axis and variant. With `store`, the same call
    continues a sweep that was interrupted or killed, mends damaged tiles, and makes what new seeds and axis values add;
    several processes with the same call share the work, and results are read only when they are looked at. The first
    interrupt or SIGTERM finishes the tiles in flight, the second stops at once.

    Args:
        experiment: A function of the axes, and of `key` if it draws its problem, that returns a `Run`; a dict of them
            becomes the dimension `variant`.
        seeds: A count, or an array of distinct seed numbers from 0 to 2³²−1.
        max_steps: The budget of steps for one run, a multiple of `check_every`.
        tolerance: The distance at which a run may end, relative and not squared; a mapping gives one for each variant.
            With None, a run ends only by divergence or at `max_steps`.
        levels: The distances to which runs are timed, beside the tolerance; 0.1, 0.01, … down to it by default.
        record: Measures along the steps, as in `descend`; each is found along `step` under its name with `_path`
            appended; there a finished run keeps its last value and a diverged one counts as inf. By default loss,
            distance and imbalance where `every` is given.
        every: The steps to record, a stride or a list (see `log_steps`), in multiples of `check_every`. Without it each
            measure of `record` is evaluated where a run ends, and found under its own name.
        check_every: The number of steps between two looks at a run, the resolution of all times.
        base_seed: The number from which all random keys derive, from 0 to 2³²−1.
        checked: Whether the invariants are evaluated after every step; the first that is broken stops the sweep.
        compress: Whether runs may take place on the exactly compressed problem, where a probe of method and records
            finds that to be exact (with iterate noise: exact in law). The attribute `compression` says what was done.
        compensated: Whether the rounding error of each update is carried into the next, which lowers the rounding floor
            of small steps to about ε/2.
        progress: Called with the number of runs finished so far and the number of all runs.
        store: The path of a store that is written tile by tile, new or of the same sweep.
        accept: Names of harmless differences from what made the store, to go on despite them: jaxfact, jax, jaxlib,
            device, cpu_features, xla_flags, program; the last bits of new runs may differ.
        tile_runs: The largest number of runs in a tile, which is run and written as one.
        devices: How many local devices work, all of them by default; on a CPU how many threads, by default as many as
            cores that this process may use.
        axes: The values of each axis, for names that collide with options; others may be given by keyword.
        **more_axes: The values of each axis by keyword.

    Returns:
        A dataset along the axes and `seed`: `outcome`, `steps`, `period` (the smallest of a cycle, else 0), `hit` along
        `level` (the first checked step at or below it; inf if never, NaN if `max_steps` came first or the level lies
        below the variant's tolerance), the last `loss`, `distance`, `imbalance`, `best_distance`, `loss_rose` (in the
        last block), `gradient_norm` (of a stationary run, else NaN), and the records. Attributes say what is needed to
        run it again.

    Raises:
        ValueError: For counts below 1; axes that are empty, repeated, not numbers, or named like a variable of the
            result; a tolerance below three times the distance at which rounding stalls a run; levels below the
            tolerance; an experiment that does not fit; and a store made by another sweep.
        RuntimeError: Where an invariant is broken.
        StoreError: Where a store cannot be written.
        MemoryError: Where a tile does not fit into memory; it says how large one may be.
    """
    lone = not isinstance(experiment, Mapping)
    named: dict[str, Experiment] = {"": experiment} if lone else dict(experiment)  # pyright: ignore[reportAssignmentType]
    tolerances = _tolerances(named, tolerance, lone)
    given = both_given(axes, more_axes)
    steps, recorded = Steps(max_steps, check_every, every), _recorded(record, every)
    check_names(given, taken_names() | {TILES}, named_measures(recorded))
    for single in named.values():
        check_signature(single, given, _OPTIONS)
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    labels = {name: axis(name, values, x64) for name, values in given.items()}
    options = Options(
        seeds=seed_numbers(seeds),
        axes=labels if store is None else as_in_store(Path(store), labels),
        max_steps=steps.most,
        record=recorded,
        record_steps=steps.recorded,
        check_every=steps.stride,
        base_seed=seed_number("base_seed", base_seed),
        checked=checked,
        compress=compress,
        compensated=compensated,
        levels=chosen_levels(levels, tolerances.values()),
    )
    check_size(options.axes, options.seeds, (not lone) + 1, None if store is not None else MOST_RUNS)
    accept = accepted_names(accept)
    if not callable(progress or print):
        raise problem_with(
            "progress", shown(progress), "needs a function of two counts", "give progress=print, or none"
        )
    tile_runs, devices = (
        count if count is None else positive_integer(name, count, "leave it out for the usual number")
        for name, count in (("tile_runs", tile_runs), ("devices", devices))
    )
    # One after the other: what the runs of one variant share need not be in memory with that of the next.
    parts = (Part(single, tolerances[name], options) for name, single in named.items())
    if store is not None:
        request = Request(
            axes=options.axes,
            seeds=options.seeds,
            variants=None if lone else list(named),
            accept=accept,
            tile_runs=tile_runs,
            devices=devices,
            progress=progress,
        )
        return run_into(Path(store), list(parts), request)
    found = [
        _in_memory(part, tile_runs, devices, progress_of(progress, place, len(named)))
        for place, part in enumerate(parts)
    ]
    runs = found[0] if lone else join(found, list(named))
    runs.attrs = plain(runs.attrs) | {"base_seed": Origin.of(experiment, record, runs.attrs)}
    return runs


_OPTIONS = tuple(inspect.signature(sweep).parameters)


class Options(NamedTuple):
    """What the experiments of one sweep have in common."""

    seeds: np.ndarray
    axes: dict[str, np.ndarray]
    max_steps: int
    record: Records | None
    record_steps: tuple[int, ...]
    check_every: int
    base_seed: int
    checked: bool
    compress: bool
    compensated: bool
    levels: tuple[float, ...] = ()


class Part:
    """One experiment of a sweep, read: its program, its rules, and what is written beside its results."""

    def __init__(self, experiment: Experiment, tolerance: float | None, options: Options):
        corners = check_experiment(experiment, options.axes)
        check_tolerance(tolerance, corners, options.compensated)
        first = corners[0]
        method = as_method(first.method)
        checks = invariants.applying_to(method) if options.checked else ()
        can = options.compress and type(first.problem) is Factorization
        compression = compression_of(method, options.record) if can else None
        self._x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
        point = {name: as_run(values, self._x64)[0] for name, values in options.axes.items()}
        self.reading: Reading = Reading(experiment, point, options.record, checks, compression, options.compensated)
        if options.compensated and self.reading.uses_noise:
            raise problem_with("compensated", True, "noise hides what rounding does", "leave it out for noisy methods")
        self.options = options
        first_point = {name: values[:1] for name, values in options.axes.items()}
        self.plan: Plan = Plan(options.max_steps, options.check_every, tolerance, options.record_steps, options.levels)
        self.limits: Limits = self.plan.limits(first.problem.dtype)
        self.rules: Rules = Rules(
            periodic=not self.reading.uses_noise,
            misfits=self.reading.findings.misfits,
            checked=options.checked,
            stops=tolerance is not None,
        )
        self.engine: Engine = Engine(self.reading, self.rules, self.runs(first_point, options.seeds[:1]))
        records = named_measures(options.record)
        self.attributes: dict[str, Any] = provenance.of_sweep(
            experiment, self.plan, self.engine.way.lanes, options.base_seed, first, compression
        )
        self.attributes |= {
            "lanes": self.engine.way.said,
            "axes": list(options.axes),
            "tolerance": tolerance,
            "levels": list(options.levels),
            "record_names": list(records),
            "record_steps": list(options.record_steps),
            "record_functions": [provenance.place(measure) for measure in records.values()],
            "checked": options.checked,
            "compensated": options.compensated,
        }

    def runs(self, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> Work:
        """Return seeds and points of runs, on the host; the points run fastest, so that tiles are alike."""
        options = self.options
        base = np.asarray(jax.random.key_data(key_of(options.base_seed)))
        grid = np.meshgrid(*axes.values(), indexing="ij")
        flat = {
            name: np.tile(as_run(values.ravel(), self._x64), len(seeds))
            for name, values in zip(axes, grid, strict=True)
        }
        count = math.prod(map(len, axes.values()))
        numbers = np.asarray(count * len(seeds), np.int32), np.asarray(options.check_every, np.int32)
        return Work(base, np.repeat(seeds.astype(np.uint32), count), flat, *numbers, self.limits)  # pyright: ignore[reportArgumentType]

    def labelled(self, found: Found, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> xr.Dataset:
        """Return the results of such runs as a dataset."""
        findings = self.reading.findings
        record = named_measures(self.options.record)
        return label(found, self.plan, record, axes, seeds, findings.is_pair, findings.misfits)


def _in_memory(part: Part, tile_runs: int | None, devices: int | None, progress: Progress | None) -> xr.Dataset:
    """Run one experiment and keep everything in memory."""
    options = part.options
    runs = part.runs(options.axes, options.seeds)
    queue = MemoryQueue(runs, tile_size(int(runs.count), part.engine.way, devices, tile_runs))
    tiles = Program(part.engine, runs, queue.size)
    timing = tiles.run(queue, progress, devices)
    return part.labelled(queue.found, options.axes, options.seeds).assign(timing).assign_attrs(part.attributes)


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
