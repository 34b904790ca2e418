"""The main job where entries are missing and the truth is unknown: completion, judged by held-out entries."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Float

from jaxfact import measures
from jaxfact.choices import Centring
from jaxfact.data import Centred, remove_biases, remove_mean, split
from jaxfact.descent import log_steps
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.tiles import Progress
from jaxfact.inputs import positive_integer, problem_with
from jaxfact.jobs.comparison import BALANCED, MARGIN, NOISY, PLAIN
from jaxfact.jobs.settings import RecoverySettings
from jaxfact.methods import add_noise, balanced
from jaxfact.numerics.draws import key_of
from jaxfact.problems.completion import Completion
from jaxfact.problems.entries import Observed
from jaxfact.problems.splits import TEST, TRAINING, VALIDATION, Part, Splits
from jaxfact.results import stats
from jaxfact.starts import Gaussian, Spectral
from jaxfact.sweep import sweep

SHRINKAGE = 2.0  # of biases, in entries: those of a row with a single one are halved twice over
_METHODS = (PLAIN, BALANCED, NOISY)
_USELESS = ("hit", "level", "distance", "best_distance", "tolerance", "period")  # they are about a known truth
_SPLITS = {200_000: 5, 2_000_000: 3}
_OF_SPLITS = 2**32 - 1  # a number that no seed has, so that splits and starts share no key

Errors = Float[np.ndarray, "split seed"]
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class MethodRecovery:
    """One row of the table: means over splits and starts, at the step of the least validation error.

    `test` and `test_at_end` are (mean, low, high) of the root mean square error, in the user's unit; `best_step` holds
    the quantiles 5, 50 and 95 % over runs; imbalances, in unit, and `misfit` are medians. `diverged` is a fraction.
    """

    method: str
    test: Interval
    validation: float
    best_step: Interval
    test_at_end: Interval
    misfit: float
    imbalance_start: float
    imbalance: float
    diverged: float


@dataclass(frozen=True)
class Recovery:
    """A recovery that has run: settings, the labelled runs along split, variant, seed and step, and what they say.

    `baselines` are test errors of predicting by the mean of the training entries, and by biases of rows and columns;
    `pairs` compares errors, by the names of the two.
    """

    shape: tuple[int, int]
    observed: int
    settings: RecoverySettings
    centring: Centring
    sharpness: float
    runs: xr.Dataset
    methods: list[MethodRecovery]
    baselines: dict[str, Interval]
    pairs: dict[tuple[str, str], stats.PairedErrors]
    notes: list[str] = field(default_factory=list)

    @property
    def splits(self) -> int:
        """How many splits there are."""
        return self.runs.sizes["split"]


def complete(
    matrix: Float[np.ndarray, "m n"],
    settings: RecoverySettings | None = None,
    *,
    centre: Centring = Centring.NONE,
    splits: int | None = None,
    progress: Progress | None = None,
) -> Recovery:
    """Complete a matrix whose missing entries are NaN, by three methods, and measure them on entries kept back.

    Each split parts the observed entries at random, by `base_seed`, into training, validation and test. The training
    entries are centred, by themselves; the descent fits them from Gaussian starts that all splits and methods share. A
    run is judged at the step of its least validation error, by its test error there, in the unit and level of the
    matrix. There are 5 splits, 3 of more than 200 000 entries, 2 of more than 2 000 000, unless `splits` is given.

    Warns of rows and columns without an observed entry. Raises ValueError for what is no m×n matrix of reals, infinite
    entries, fewer entries than the splits need, nothing left by centring, and settings that cannot work.
    """
    settings = RecoverySettings() if settings is None else settings
    entries, shape = _entries(matrix)
    count = _default_splits(len(entries.values)) if splits is None else splits
    positive_integer("splits", count, "5 are usual")
    drawn = [_parts(entries, settings, number) for number in range(count)]
    levels = {kind: [_level(entries, shape, parts, kind) for parts in drawn] for kind in Centring}
    cut = [Part(entries.values - level, parts) for level, parts in zip(levels[centre], drawn, strict=True)]
    settings, sharpness = _chosen(settings, entries, shape, cut[0])
    runs = _run(settings, Splits(entries, shape, cut, _dtype()), count, progress)
    methods = [_summarise(runs.sel({"variant": name})) for name in _METHODS]
    lone = {str(kind): _baseline(entries, drawn, levels[kind]) for kind in (Centring.MEAN, Centring.BIASES)}
    pairs = _pairs(runs, lone)
    baselines = {name: stats.nested_mean(errors) for name, errors in lone.items()}
    said = [
        _removed(centre, levels[centre]),
        *_gaps(entries, shape, drawn),
        *_warnings(runs, sharpness, settings, pairs),
    ]
    return Recovery(shape, len(entries.values), settings, centre, sharpness, runs, methods, baselines, pairs, said)


def _dtype() -> Any:
    return jax.dtypes.canonicalize_dtype(float)


def _entries(matrix: Float[np.ndarray, "m n"]) -> tuple[Observed, tuple[int, int]]:
    """Return the observed entries, row by row, after the checks and warnings of `Completion`."""
    problem = Completion.from_matrix(matrix, dense=True)
    rows, columns = np.nonzero(~np.isnan(matrix))
    return Observed(rows, columns, np.asarray(matrix, float)[rows, columns]), problem.shape


def _default_splits(count: int) -> int:
    return next((splits for limit, splits in _SPLITS.items() if count <= limit), 2)


def _parts(entries: Observed, settings: RecoverySettings, number: int) -> np.ndarray:
    """Return the part of every entry in one split."""
    base = key_of(settings.base_seed)
    key = jax.random.fold_in(jax.random.fold_in(base, _OF_SPLITS), number)
    places = entries._replace(values=np.arange(len(entries.values)))
    held = {"validation": settings.validation, "test": settings.test}
    found = split(places, key, training=1 - sum(held.values()), **held)
    parts = np.zeros(len(entries.values), np.int8)
    for name, part in (("training", TRAINING), ("validation", VALIDATION), ("test", TEST)):
        parts[found[name].values] = part
    return parts


def _level(entries: Observed, shape: tuple[int, int], parts: np.ndarray, kind: Centring) -> Float[np.ndarray, " k"]:
    """Return what centring removes from every entry; the training entries alone decide."""
    remove: dict[Centring, Callable[..., Centred]] = {
        Centring.MEAN: remove_mean,
        Centring.BIASES: partial(remove_biases, shrinkage=SHRINKAGE),
    }
    if kind not in remove:
        return np.zeros(len(entries.values))
    seen = parts == TRAINING
    matrix = np.full(shape, np.nan)
    matrix[entries.rows[seen], entries.columns[seen]] = entries.values[seen]
    found = remove[kind](matrix)
    return found.mean + found.row_bias[entries.rows] + found.column_bias[entries.columns]


def _chosen(
    settings: RecoverySettings, entries: Observed, shape: tuple[int, int], first: Part
) -> tuple[RecoverySettings, float]:
    """Return the settings with scale and step size, and the relative sharpness at the first split's spectral start."""
    seen = first.parts == TRAINING
    if not first.values[seen].any():
        raise problem_with("matrix", "nothing but what centring removes", "needs entries that vary", "check the data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a split leaves rows without entries is told in the notes
        # Dense, because the Hessian of this form takes a second to compile, that of the other ten.
        problem = Completion(entries.rows[seen], entries.columns[seen], first.values[seen], shape, dense=True)
    spectral = Spectral(settings.width).draw(key_of(0), problem)
    sharpness = float(jax.jit(measures.relative_sharpness)(problem, spectral))
    scale = min(1e-3, 0.1**1.5 / sum(shape) ** 0.5) if settings.scale is None else settings.scale
    step_size = min(0.5, 0.5 / sharpness) if settings.step_size is None else settings.step_size
    return replace(settings, scale=scale, step_size=step_size), sharpness


def _run(settings: RecoverySettings, splits: Splits, count: int, progress: Progress | None) -> xr.Dataset:
    """Run every method on every split, in one program: the three differ by two numbers."""
    runs = sweep(
        _experiment(settings, splits),
        seeds=settings.seeds,
        max_steps=settings.max_steps,
        tolerance=None,
        record={
            "validation": lambda problem, factors: problem.error(VALIDATION, factors),
            "test": lambda problem, factors: problem.error(TEST, factors),
            "misfit": measures.misfit,
            "imbalance": measures.imbalance,
        },
        every=[*log_steps(settings.max_steps, unit=settings.check_every), settings.max_steps],
        check_every=settings.check_every,
        base_seed=settings.base_seed,
        progress=progress,
        split=np.arange(count),
        variant=np.arange(len(_METHODS)),
    )
    runs = runs.drop_vars([name for name in _USELESS if name in runs.variables])
    runs["unit"] = ("split", np.asarray(splits.units, float))
    return runs.assign_coords(variant=list(_METHODS))


def _experiment(settings: RecoverySettings, splits: Splits) -> Experiment:
    weights, noises = jnp.asarray([0, settings.weight, 0]), jnp.asarray([0, 0, settings.noise])
    # As arrays they are no constants of the program, which then serves other matrices of the same pattern.
    step_size, scale = jnp.asarray(settings.step_size), jnp.asarray(settings.scale)
    start = Gaussian(settings.width, scale=scale, ratio=settings.unbalanced)

    def experiment(split, variant):
        number = jnp.asarray(variant, jnp.int32)
        # Without weight and noise this is plain descent, to the bit but for the sign of zeros.
        rule = optax.chain(balanced(step_size, weights[number]), add_noise(noises[number]))  # pyright: ignore[reportArgumentType]
        return Run(splits.at(split), start, rule)

    return experiment


def _at_best(runs: xr.Dataset, record: str) -> Errors:
    """Return a record of every run at the step of its least validation error."""
    best = stats.best_over_time(runs, "validation").step
    return runs[f"{record}_path"].sel(step=best).transpose("split", "seed").values


def _at_end(runs: xr.Dataset, record: str) -> Errors:
    return runs[f"{record}_path"].isel(step=-1).transpose("split", "seed").values


def _summarise(runs: xr.Dataset) -> MethodRecovery:
    steps = stats.best_over_time(runs, "validation").step.values
    low, middle, high = np.quantile(steps, (0.05, 0.5, 0.95), method="inverted_cdf")
    return MethodRecovery(
        method=str(runs.variant.values),
        test=stats.nested_mean(_at_best(runs, "test")),
        validation=float(_at_best(runs, "validation").mean()),
        best_step=(float(low), float(middle), float(high)),
        test_at_end=stats.nested_mean(_at_end(runs, "test")),
        misfit=float(np.median(_at_best(runs, "misfit"))),
        imbalance_start=float(runs.imbalance_path.isel(step=0).median()),
        imbalance=float(np.median(_at_best(runs, "imbalance"))),
        diverged=float(np.mean(runs.outcome == "diverged")),
    )


def _baseline(entries: Observed, drawn: list[np.ndarray], levels: list[np.ndarray]) -> Errors:
    """Return the test error of what centring removes, on every split."""
    residuals = [(entries.values - level)[parts == TEST] for level, parts in zip(levels, drawn, strict=True)]
    return np.array([[np.sqrt(np.mean(residual**2))] for residual in residuals])


def _pairs(runs: xr.Dataset, baselines: dict[str, Errors]) -> dict[tuple[str, str], stats.PairedErrors]:
    errors = {name: _at_best(runs.sel({"variant": name}), "test") for name in _METHODS} | baselines
    compared = [(BALANCED, PLAIN), (NOISY, PLAIN), *((PLAIN, name) for name in baselines)]
    return {(one, two): stats.paired_errors(errors[one], errors[two], MARGIN) for one, two in compared}


def _removed(centre: Centring, levels: list[np.ndarray]) -> str:
    if centre is Centring.NONE:
        return "nothing was removed before the descent (--centre mean or biases does)"
    what = {
        Centring.MEAN: "the mean of the training entries",
        Centring.BIASES: f"biases of rows and columns, fitted to the training entries, shrinkage {SHRINKAGE:g}",
    }[centre]
    low, high = min(level.min() for level in levels), max(level.max() for level in levels)
    return f"removed before the descent and added to its predictions: {what}, from {low:.4g} to {high:.4g}"


def _gaps(entries: Observed, shape: tuple[int, int], drawn: list[np.ndarray]) -> list[str]:
    """Return a line on rows and columns that a split leaves without training entries."""
    said = []
    for name, numbers, size in (("rows", entries.rows, shape[0]), ("columns", entries.columns, shape[1])):
        present = len(np.unique(numbers))
        most = max(present - len(np.unique(numbers[parts == TRAINING])) for parts in drawn)
        if most:
            said.append(f"up to {most} of {size} {name} lose all their entries to a split: the start predicts them")
    return said


def _warnings(
    runs: xr.Dataset,
    sharpness: float,
    settings: RecoverySettings,
    pairs: dict[tuple[str, str], stats.PairedErrors],
) -> list[str]:
    """Return what a reader should know before the numbers."""
    step_size, last = float(settings.step_size or 0), float(runs.step[-1])
    late = np.mean(stats.best_over_time(runs, "validation").step.values == last)
    lone = min((two for one, two in pairs if one == PLAIN), key=lambda two: 1 / pairs[PLAIN, two].ratio)
    gain = 1 - pairs[PLAIN, lone].ratio
    said = {
        f"step size {step_size:.3g} is above the edge {1 / sharpness:.3g} at the spectral start": (
            step_size * sharpness > 1
        ),
        f"{100 * late:.0f} % of the runs had their least validation error at the last step: raise --max-steps": (
            late > 0
        ),
        f"factors gain little: the test error of {PLAIN} descent is {100 * gain:.1f} % below that of {lone} alone": (
            abs(gain) < MARGIN
        ),
    }
    return [text for text, holds in said.items() if holds]


def as_json(recovery: Recovery) -> dict[str, Any]:
    """Return a recovery as plain numbers and strings; what is no finite number is null."""
    found = {
        "shape": list(recovery.shape),
        "observed": recovery.observed,
        "splits": recovery.splits,
        "centring": str(recovery.centring),
        "relative_sharpness": recovery.sharpness,
        "settings": asdict(recovery.settings),
        "notes": recovery.notes,
        "methods": [asdict(row) for row in recovery.methods],
        "baselines": recovery.baselines,
        "pairs": {f"{one} / {two}": pair._asdict() for (one, two), pair in recovery.pairs.items()},
    }
    return _finite(found)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
