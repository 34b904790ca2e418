"""The main job where entries are missing and the truth is unknown: completion, judged by held-out entries."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Float

from jaxfact import measures
from jaxfact.choices import Centring
from jaxfact.data.numbers import centred_exponent, times_power
from jaxfact.descent import log_steps
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.inputs import explained, positive_integer, problem_with
from jaxfact.jobs import sentences
from jaxfact.jobs.compared import MARGIN, completing
from jaxfact.jobs.parting import SHRINKAGE, observed_entries, parts_of_split, removed_level, usual_splits
from jaxfact.jobs.settings import USUAL_WIDTH, RecoverySettings, small_scale, width_line
from jaxfact.methods import add_noise, balanced
from jaxfact.numerics.draws import key_of
from jaxfact.problems.completion import Completion
from jaxfact.problems.entries import Observed
from jaxfact.problems.splits import TEST, TRAINING, VALIDATION, Part, Splits
from jaxfact.results import stats
from jaxfact.results.wording import number
from jaxfact.showing.markup import REPORTED, Table, card
from jaxfact.showing.progress import Progress
from jaxfact.starts import Gaussian, Spectral
from jaxfact.sweep import sweep

_ROUNDING = 1e-12  # of what is left beside what was removed
_USELESS = ("hit", "level", "distance", "best_distance", "tolerance", "period")  # they are about a known truth

Errors = Float[np.ndarray, "split seed"]
Interval = tuple[float, float, float]
"""A number, and the lower and upper end of its interval."""


@dataclass(frozen=True)
class MethodRecovery:
    """One method of a `Recovery`, at the step of the least validation error of each run; means over splits and starts.

    Attributes:
        method: its name, as in the dimension `variant` of the runs.
        test: (mean, low, high) of the root mean square test error, in the unit of the matrix; the interval is over
            splits, each with the mean of its starts, and about the choice of these splits, which overlap: not about
            new data. NaN for one split.
        validation: the mean validation error, in the unit of the matrix.
        best_step: the steps by which 5, 50 and 95 % of the runs had their least validation error.
        test_at_end: (mean, low, high) of the test error at the last step.
        misfit: median ‖P_Ω(UVᵀ−Σ)‖_F/‖P_Ω(Σ)‖_F of the training entries.
        imbalance_start: median ‖UᵀU−VᵀV‖_F of the starts, in unit.
        imbalance: the median at the step of the least validation error, in unit.
        diverged: the fraction of the runs that diverged.
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
    """What `complete` found; `jf.report` shows it as tables, figures and a page.

    Attributes:
        shape: m and n.
        observed: how many entries are observed.
        settings: what it was run with, width, scale and step size filled in.
        centring: what was removed before the descent.
        sharpness: the relative sharpness at the spectral start of the first split.
        runs: the labelled results along `split`, `variant`, `seed` and `step`.
        methods: a summary per method, the reference first.
        baselines: (mean, low, high) of the test errors of predicting by the mean of the training entries alone, and
            by biases of rows and columns alone.
        pairs: how the test errors of two compare on the same splits and starts, by their names.
        notes: what a reader should know before the numbers.
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

    def _repr_html_(self) -> str:
        """Say in a notebook what was found, a row for each method."""
        alone = {f"{name} only": at for name, at in self.baselines.items()}
        rows = [
            [name, *map(number, at)] for name, at in ({row.method: row.test for row in self.methods} | alone).items()
        ]
        table = Table(["predicted by", "test error", "from", "to (95 %)"], rows)
        return card("Recovery", said=sentences.of_recovery(self), table=table, note=REPORTED)


@explained
def complete(
    matrix: Any,
    settings: RecoverySettings | None = None,
    *,
    centre: Centring = Centring.NONE,
    splits: int | None = None,
    progress: Progress | bool = True,
) -> Recovery:
    """Complete a matrix whose missing entries are NaN, and judge the methods by held-out entries.

    Each split divides the observed entries at random, by `base_seed`, into training, validation and test. The training
    entries are centred by themselves; plain, balanced and noise-injected descent on 1/(2p)·‖P_Ω(UVᵀ − Σ)‖²_F fit them
    from Gaussian starts that all splits and methods share. A run is judged at the step of its least validation error,
    by its test error there, in the unit and level of the matrix. Warns of rows and columns without an observed entry.

    Args:
        matrix: m×n real numbers, NaN where an entry is missing; or whatever else `Completion.from_matrix` takes.
        settings: step size in 1/unit, scale and noise in √unit; the defaults of `RecoverySettings` if None.
        centre: what is removed from the training entries, and added back to the predictions.
        splits: how many; by default 5, or 3 for more than 200 000 entries, 2 for more than 2 000 000.
        progress: whether it is shown, as by `sweep`, or a function of the number of finished runs and of all runs.

    Raises:
        ValueError: for anything but an m×n matrix of reals, infinite entries, fewer entries than the splits need,
            nothing left by centring, and settings that cannot work.
    """
    given = RecoverySettings() if settings is None else settings
    if centre not in list(Centring):
        raise problem_with("centre", centre, f"needs one of {', '.join(Centring)}", "leave it out to remove nothing")
    entries, shape, exponent = observed_entries(matrix)
    count = usual_splits(len(entries.values)) if splits is None else splits
    count = positive_integer("splits", count, "5 is usual")
    drawn = [parts_of_split(entries, given, number) for number in range(count)]
    levels = {kind: [removed_level(entries, shape, parts, kind) for parts in drawn] for kind in Centring}
    cut = [Part(entries.values - level, parts) for level, parts in zip(levels[centre], drawn, strict=True)]
    _check_varied(entries, cut, centre)
    settings, sharpness = _chosen(given, entries, shape, cut[0])
    runs = _run(settings, Splits(entries, shape, cut, _dtype()), count, exponent, progress)
    methods = [_summarise(runs.sel({"variant": name})) for name in completing()]
    alone = {kind: _baseline(entries, drawn, levels[kind]) for kind in (Centring.MEAN, Centring.BIASES)}
    lone = {str(kind): times_power(errors, exponent) for kind, errors in alone.items()}
    pairs = _pairs(runs, lone)
    baselines = {name: _over_splits(errors) for name, errors in lone.items()}
    said = [
        *(width_line(settings.columns, f"all that a {shape[0]}×{shape[1]} matrix has") if given.width is None else []),
        _removed(centre, [times_power(level, exponent) for level in levels[centre]]),
        *_gaps(entries, shape, drawn),
        *_warnings(runs, sharpness, settings, pairs),
    ]
    return Recovery(shape, len(entries.values), settings, centre, sharpness, runs, methods, baselines, pairs, said)


def _dtype() -> Any:
    return jax.dtypes.canonicalize_dtype(float)


def _chosen(
    settings: RecoverySettings, entries: Observed, shape: tuple[int, int], first: Part
) -> tuple[RecoverySettings, float]:
    """Return the settings with width, scale and step size, and the relative sharpness at the first spectral start."""
    seen = first.parts == TRAINING
    width = min(USUAL_WIDTH, *shape) if settings.width is None else settings.width
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes say where a split leaves rows without entries
        # Dense, because the Hessian of this form takes one second to compile, that of the other ten.
        problem = Completion(entries.rows[seen], entries.columns[seen], first.values[seen], shape, dense=True)
    spectral = Spectral(width).draw(key_of(0), problem)
    sharpness = float(jax.jit(measures.relative_sharpness)(problem, spectral))
    scale = small_scale(shape) if settings.scale is None else settings.scale
    step_size = min(0.5, 0.5 / sharpness) if settings.step_size is None else settings.step_size
    return replace(settings, width=width, scale=scale, step_size=step_size), sharpness


def _check_varied(entries: Observed, cut: list[Part], centre: Centring) -> None:
    """Refuse what leaves a split nothing to fit, rounding aside."""
    least = _ROUNDING * np.abs(entries.values).max()
    empty = [number for number, part in enumerate(cut) if np.abs(part.values[part.parts == TRAINING]).max() <= least]
    if not empty:
        return
    if not entries.values.any():
        raise problem_with("matrix", "zero in every known entry", "there is nothing to complete", "check the data")
    if centre == Centring.NONE:
        given = f"zero in every training entry of split {empty[0]}"
        raise problem_with("matrix", given, "needs others", "take another base_seed or fewer splits")
    instead = "centre less, or check the data"
    raise problem_with("matrix", f"nothing but what centring by {centre} removes", "needs entries that vary", instead)


def _run(
    settings: RecoverySettings, splits: Splits, count: int, exponent: int, progress: Progress | bool
) -> xr.Dataset:
    """Run every method on every split, in one program: they differ by two numbers."""
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
        row=np.arange(len(completing())),
    )
    runs = runs.drop_vars([name for name in _USELESS if name in runs.variables])
    runs["unit"] = ("split", times_power(splits.units, exponent))
    for name in ("validation_path", "test_path"):  # the runs see entries divided by 2^exponent
        runs[name] = runs[name].copy(data=times_power(runs[name].values, exponent))
    # The dimension `variant` is that of a dict of experiments, which would need one program each.
    runs = runs.rename(row="variant").assign_coords(variant=list(completing()))
    return runs.assign_attrs(axes=["split", "variant"])


def _experiment(settings: RecoverySettings, splits: Splits) -> Experiment:
    weights, noises = (jnp.asarray(x) for x in zip(*(of(settings) for of in completing().values()), strict=True))
    # As arrays they are not constants of the program, which then serves other matrices with the same pattern.
    step_size, scale = jnp.asarray(settings.step_size), jnp.asarray(settings.scale)
    start = Gaussian(settings.columns, scale=scale, ratio=settings.unbalanced)

    def experiment(split, row):
        number = jnp.asarray(row, jnp.int32)
        # Without weight and noise this is plain descent to the bit, except for the sign of zeros.
        rule = optax.chain(balanced(step_size, weights[number]), add_noise(noises[number]))  # pyright: ignore[reportArgumentType]
        return Run(splits.at(split), start, rule)

    return experiment


def _at_best(runs: xr.Dataset, record: str) -> Errors:
    """Return a record of every run at the step of its least validation error."""
    best = stats.best_over_time(runs, "validation").step
    return runs[f"{record}_path"].sel(step=best).transpose("split", "seed").values


def _at_end(runs: xr.Dataset, record: str) -> Errors:
    return runs[f"{record}_path"].isel(step=-1).transpose("split", "seed").values


def _over_splits(errors: Errors) -> Interval:
    """Return the mean over splits and starts with its interval: the splits are what is independent."""
    means = errors.mean(axis=1)
    exponent = centred_exponent(means[np.isfinite(means)])  # the squares of 1e-170 are zero
    mean, low, high = (float(times_power(x, exponent)) for x in stats.mean_interval(times_power(means, -exponent)))
    return mean, low, high


def _summarise(runs: xr.Dataset) -> MethodRecovery:
    steps = stats.best_over_time(runs, "validation").step.values
    low, middle, high = np.quantile(steps, (0.05, 0.5, 0.95), method="inverted_cdf")
    return MethodRecovery(
        method=str(runs.variant.values),
        test=_over_splits(_at_best(runs, "test")),
        validation=float(_at_best(runs, "validation").mean()),
        best_step=(float(low), float(middle), float(high)),
        test_at_end=_over_splits(_at_end(runs, "test")),
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
    errors = {name: _at_best(runs.sel({"variant": name}), "test") for name in completing()} | baselines
    reference, *others = completing()
    compared = [*((name, reference) for name in others), *((reference, name) for name in baselines)]
    return {(one, two): stats.paired_errors(errors[one], errors[two], MARGIN) for one, two in compared}


def _removed(centre: Centring, levels: Sequence[np.ndarray]) -> str:
    if centre == Centring.NONE:
        return "nothing was removed before the descent; the mean or biases can be"
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
    step_size, last, reference = float(settings.step_size or 0), float(runs.step[-1]), next(iter(completing()))
    late = np.mean(stats.best_over_time(runs, "validation").step.values == last)
    lone = max((two for one, two in pairs if one == reference), key=lambda two: pairs[reference, two].ratio)
    ratio = pairs[reference, lone].ratio
    gain = f"{100 * abs(1 - ratio):.1f} % {'below' if ratio < 1 else 'above'}"
    said = {
        f"step size {step_size:.3g} is above the edge {1 / sharpness:.3g} at the spectral start": (
            step_size * sharpness > 1
        ),
        f"{100 * late:.0f} % of the runs had their least validation error at the last step: raise max_steps, to "
        f"{2 * settings.max_steps} for example": late > 0,
        f"factors gain {'nothing' if ratio > 1 else 'little'}: the test error of {reference} descent is {gain} that of "
        f"{lone} alone": 1 - MARGIN < ratio < np.inf,
        f"factors gain nothing: {lone} alone leaves no test error": ratio == np.inf,
    }
    return [text for text, holds in said.items() if holds]
