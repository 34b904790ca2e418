"""Experiment × axes × seeds → one labelled dataset."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from jaxfact.engine.axes import Values, both_given
from jaxfact.engine.experiment import Experiment
from jaxfact.inputs import explained
from jaxfact.measures.records import Records
from jaxfact.numerics.products import in_full_precision
from jaxfact.showing.progress import Progress, shown_progress
from jaxfact.sweep.cluster import Client
from jaxfact.sweep.declared import Declared, Told, outcomes_in, without_single


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
    progress: Progress | bool = True,
    store: str | Path | None = None,
    accept: Iterable[str] = (),
    check_store: bool = False,
    tile_runs: int | None = None,
    devices: int | None = None,
    cluster: Client | None = None,
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
        experiment: A function of the axes, and of `key` if it draws its problem, that returns a `Run`; a dict of
            such functions, by name, becomes the dimension `variant`.
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
        progress: Whether it is shown how far the runs have got, after a second: as a bar on a terminal or in a
            notebook, else as a line now and then on the error stream. A function is called instead, with the number of
            runs finished so far and the number of all runs.
        store: The path of a store that is written tile by tile, new or of the same sweep.
        accept: Names of differences from what made the store, to go on despite them: jaxfact, jax, jaxlib, device,
            cpu_features, xla_flags, after which the last bits of new runs may differ, and program, after which new runs
            are those of a changed experiment or of changed data, beside the old ones.
        check_store: Whether every file that the store holds is read first, and what is damaged made again. Without it a
            file in a folder is read where its length or time has changed, and an object of a service never.
        tile_runs: The largest number of runs in a tile, which is run and written as one.
        devices: How many local devices work, all of them by default; on a CPU how many threads, by default as many as
            cores that this process may use.
        cluster: A `dask.distributed.Client`, whose workers make the tiles: into the store, which they must reach under
            the same path or URL, or without one into the memory of this process; `devices` is of no account then.
        axes: The values of each axis, for names that collide with options; others may be given by keyword.
        **more_axes: The values of each axis by keyword; one number gives a coordinate, and no dimension.

    Returns:
        A dataset along the axes and `seed`: `outcome`, `steps`, `period` (the smallest of a cycle, else 0), `hit` along
        `level` (the first checked step at or below it; inf if never, NaN if `max_steps` came first or the level lies
        below the variant's tolerance), the last `loss`, `distance`, `imbalance`, `best_distance`, `loss_rose` (in the
        last block), `gradient_norm` (of a stationary run, else NaN), and the records. Attributes say what is needed to
        run it again; `lanes` says whether runs advanced in vectors or by XLA's kernels, and what kept them there.

    Raises:
        ValueError: For counts below 1; axes that are empty, repeated, not numbers, or named like a variable of the
            result; a tolerance below three times the distance at which rounding stalls a run; levels below the
            tolerance; an experiment that does not fit; and a store made by another sweep.
        RuntimeError: Where an invariant is broken.
        StoreError: Where a store cannot be written, or a cluster is lost.
        MemoryError: Where a tile does not fit into memory; it says how large one may be.
    """
    told = Told(max_steps, tolerance, levels, record, every, check_every, base_seed, checked, compress, compensated)
    given = both_given(axes, more_axes)
    counts = {"tile_runs": tile_runs, "devices": devices}
    with shown_progress(progress, counts=outcomes_in(store)) as tell:
        declared = Declared(experiment, told, given, _OPTIONS)
        request = declared.request(seeds, declared.axes, store, tell, accept, counts)._replace(check_store=check_store)
        if cluster is not None:
            request = request._replace(cluster=declared.cluster(cluster, request, store))
        return without_single(declared.results(declared.parts(request.axes), request, store), given)


_OPTIONS = tuple(inspect.signature(sweep).parameters)
