"""Experiment × axes × seeds → one labelled dataset."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jaxfact import invariants
from jaxfact.compressibility import compression_of
from jaxfact.descent import Records, recorded_steps
from jaxfact.experiment import Experiment, Program, check_experiment
from jaxfact.inputs import positive, positive_integer, problem_with
from jaxfact.labels import join, label, provenance
from jaxfact.lanes import Work, lanes_per_block
from jaxfact.outcomes import Rules
from jaxfact.problems.base import rounding_floor
from jaxfact.problems.factorization import Factorization
from jaxfact.tiles import Progress, Tiles


def sweep(
    experiment: Experiment | Mapping[str, Experiment],
    *,
    seeds: int | Sequence[int] | np.ndarray,
    max_steps: int,
    tolerance: float | None | Mapping[str, float | None],
    record: Records | None = None,
    every: int | Sequence[int] | None = None,
    check_every: int = 10,
    base_seed: int = 0,
    checked: bool = False,
    compress: bool = True,
    compensated: bool = False,
    progress: Progress | None = None,
    **axes: Sequence[float] | np.ndarray,
) -> xr.Dataset:
    """Run an experiment for every point of the axes and every seed, in one compiled program.

    `experiment` is a function of the axes, and of `key` if it draws its problem, that returns a `Run`; a dict of them
    becomes the dimension `method`. `seeds` is a count or an array of seed numbers; a run depends on its seed, its point
    and `base_seed` alone, so runs of one seed are paired along every axis and method.

    Runs are looked at every `check_every` steps and end as `converged` (distance ≤ tolerance,
    and ≤ 10·tolerance still after max(50, 10 %) further steps), `fitted` (the data are fitted to the tolerance, and
    after as many steps again and 50 more the truth is not found), `diverged`, `cycle`, or `budget` at `max_steps`, a
    multiple of `check_every`. `tolerance` is on the distance, relative and not squared; a mapping gives one for each
    method; with None a run ends only by divergence or at max_steps.

    `record` and `every` are as in `descend`, `every` in multiples of `check_every`; every record is found along `step`
    as its name with `_path` behind it, where a finished run keeps its last value and a diverged one counts as inf.
    `compress` lets runs take place on the exactly compressed problem where a probe of method and records finds that to
    be exact (with iterate noise: exact in law); the attribute `compression` says what was done. `compensated` carries
    the rounding error of each update into the next, which lowers the rounding floor of small steps to about ε/2.
    `checked` evaluates the invariants after every step and stops at the first that is broken. All local devices work;
    on a CPU there is one unless `jax_num_cpu_devices` says more.

    The dataset holds, along the axes and `seed`: `outcome`, `steps`, `period` (of a cycle, else 0), `hit` along `level`
    (the first checked step at or below it; inf if never, NaN if max_steps came first or the level lies below the
    method's tolerance), the last `loss`, `distance`, `imbalance`, `best_distance`, `loss_rose` (in the last block), and
    the records. Attributes say what is needed to run it again.

    Raises ValueError for counts below 1, axes that are empty, repeated or not numbers, a tolerance that rounding does
    not allow, and an experiment that does not fit; RuntimeError where an invariant is broken.
    """
    options = {
        "seeds": _seed_numbers(seeds),
        "max_steps": max_steps,
        "record": record,
        "every": every,
        "check_every": check_every,
        "base_seed": base_seed,
        "checked": checked,
        "compress": compress,
        "compensated": compensated,
        "axes": {name: _axis(name, values) for name, values in axes.items()},
    }
    _check_counts(max_steps, check_every, every)
    if not isinstance(experiment, Mapping):
        if isinstance(tolerance, Mapping):
            raise problem_with("tolerance", dict(tolerance), "one experiment has one tolerance", "give a number")
        return _sweep_one(experiment, tolerance, progress, **options)
    if not experiment:
        raise problem_with("experiment", "{}", "needs at least one experiment", "give a function or a filled dict")
    tolerances = dict.fromkeys(experiment, tolerance) if not isinstance(tolerance, Mapping) else dict(tolerance)
    if set(tolerances) != set(experiment):
        raise problem_with("tolerance", sorted(tolerances), f"needs the methods {sorted(experiment)}", "name each once")
    parts = []
    for place, (name, single) in enumerate(experiment.items()):
        overall = progress and partial(_report, progress, place, len(experiment))
        parts.append(_sweep_one(single, tolerances[name], overall, **options))
    return join(parts, list(experiment))


def _report(progress: Progress, place: int, count: int, done: int, total: int) -> None:
    progress(place * total + done, count * total)


def _sweep_one(
    experiment: Experiment,
    tolerance: float | None,
    progress: Progress | None,
    *,
    seeds: np.ndarray,
    max_steps: int,
    record: Records | None,
    every: int | Sequence[int] | None,
    check_every: int,
    base_seed: int,
    checked: bool,
    compress: bool,
    compensated: bool,
    axes: dict[str, np.ndarray],
) -> xr.Dataset:
    first = check_experiment(experiment, axes)
    _check_tolerance(tolerance, first.problem.unit.dtype)
    checks = invariants.applying_to(optax.with_extra_args_support(first.method)) if checked else ()
    points = {name: jnp.asarray(values) for name, values in axes.items()}
    can = compress and type(first.problem) is Factorization
    compression = compression_of(first.method, record) if can else None
    point = {name: values[0] for name, values in points.items()}
    program = Program(experiment, point, record, checks, compression, compensated)
    if compensated and program.uses_noise:
        raise problem_with("compensated", True, "noise hides what rounding does", "leave it out for noisy methods")
    runs = _all_runs({name: np.asarray(values) for name, values in points.items()}, seeds, base_seed)
    rules = Rules(
        max_steps=max_steps,
        check_every=check_every,
        levels=tuple(_levels(tolerance)),
        stops=tolerance is not None,
        record_steps=tuple(recorded_steps(every, max_steps)),
        periodic=not program.uses_noise,
        misfits=program.misfits,
        checked=checked,
        lanes=lanes_per_block(program, runs),
    )
    found, timing = Tiles(program, rules, runs, progress).run()
    return (
        label(found, rules, axes, seeds, program.is_pair)
        .assign(timing)
        .assign_attrs(provenance(experiment, rules, base_seed, first, compression))
    )


def _all_runs(points: Mapping[str, np.ndarray], seeds: np.ndarray, base_seed: int) -> Any:
    """Return seeds and points of every run, on the host; the points run fastest, so that tiles are alike."""
    base = np.asarray(jax.random.key_data(jax.random.key(base_seed, impl="threefry2x32")))
    grid = np.meshgrid(*points.values(), indexing="ij")
    flat = {name: np.tile(values.ravel(), len(seeds)) for name, values in zip(points, grid, strict=True)}
    count = max(1, int(np.prod([len(values) for values in points.values()])))
    return Work(base, np.repeat(seeds.astype(np.uint32), count), flat, np.asarray(count * len(seeds), np.int32))  # pyright: ignore[reportArgumentType]


def _levels(tolerance: float | None) -> list[float]:
    """Return 1e-1, 1e-2, … and the tolerance; six decades without one."""
    if tolerance is None:
        return [float(f"1e-{k}") for k in range(1, 7)]
    decades = [float(f"1e-{k}") for k in range(1, 17)]
    return [level for level in decades if level > tolerance * (1 + 1e-9)] + [float(tolerance)]


def _seed_numbers(seeds: int | Sequence[int] | np.ndarray) -> np.ndarray:
    instead = "give a count, or an array of distinct seed numbers from 0 to 2³²−1"
    if isinstance(seeds, int | np.integer):
        positive_integer("seeds", seeds, instead)
        return np.arange(int(seeds))
    numbers = _axis("seeds", seeds)
    if numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= 2**32:
        raise problem_with("seeds", numbers.tolist(), "needs whole numbers from 0 to 2³²−1", instead)
    return numbers


def _axis(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the values of a sweep axis as a 1-D array of distinct finite numbers, or refuse them."""
    instead = f"give a list of distinct numbers, for example {name}=[0.1, 0.3, 1.0]"
    try:
        array = np.asarray(values)
    except ValueError:
        raise problem_with(name, repr(values), "an axis needs plain numbers", instead) from None
    if array.dtype.kind not in "iuf":
        raise problem_with(name, repr(values), "an axis needs plain numbers", instead)
    if array.ndim != 1 or array.size == 0:
        raise problem_with(name, repr(values), "an axis needs at least one value, in one dimension", instead)
    if not np.all(np.isfinite(array)):
        raise problem_with(name, array.tolist(), "an axis needs finite numbers", instead)
    if len(np.unique(array)) != array.size:
        raise problem_with(name, array.tolist(), "an axis needs each value once", instead)
    return array


def _check_counts(max_steps: int, check_every: int, every: int | Sequence[int] | None) -> None:
    positive_integer("max_steps", max_steps, "give the budget of steps for one run")
    positive_integer("check_every", check_every, "1 looks at every step, 10 is usual")
    if max_steps % check_every:
        near = max_steps // check_every * check_every
        raise problem_with(
            "max_steps",
            max_steps,
            f"needs a multiple of check_every={check_every}",
            f"use {near or check_every}",
        )
    off = [step for step in recorded_steps(every, max_steps) if step % check_every]
    if off:
        raise problem_with(
            "every",
            off[:3],
            f"needs multiples of check_every={check_every}",
            "see log_steps(max_steps, unit=check_every)",
        )


def _check_tolerance(tolerance: float | None, dtype: np.dtype) -> None:
    if tolerance is None:
        return
    positive("tolerance", tolerance, "1e-5 is usual in float32; None runs to max_steps")
    floor = 3 * float(rounding_floor(np.finfo(dtype).eps, 1.0))
    if tolerance < floor:
        raise problem_with(
            "tolerance",
            f"{tolerance:g}",
            f"is below three times the rounding floor of {dtype} at step 1, {floor:.1e}",
            "raise it, or give the target in float64 after jax.config.update('jax_enable_x64', True)",
        )
