"""The main job: descent and its modifications on one matrix, from the same random starts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact import measures
from jaxfact.descent import log_steps
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.tiles import Progress
from jaxfact.inputs import explained, problem_with
from jaxfact.jobs.compared import MARGIN, Compared, Prediction, compared_on, floor_notes, judged_level
from jaxfact.jobs.settings import ComparisonSettings, small_scale
from jaxfact.problems.base import Problem, rounding_floor
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import TiedFactor
from jaxfact.problems.tied import Tied
from jaxfact.results import stats
from jaxfact.starts import Gaussian
from jaxfact.sweep import sweep

QUANTILES = (0.05, 0.5, 0.95)

Interval = tuple[float, float, float]
"""A fraction, and the lower and upper end of its interval."""


@dataclass(frozen=True)
class MethodSummary:
    """One method of a `Comparison`: fractions with 95 % Wilson intervals, times as Kaplan-Meier quantiles.

    Attributes:
        method: its name, as in the dimension `variant` of the runs.
        tolerance: the relative distance at which it is judged.
        floor: the predicted relative distance at which it stalls, 0 where nothing stalls it.
        reached: (fraction, low, high) of the starts that reached each level; None below the tolerance.
        outcomes: (fraction, low, high) of the starts by outcome.
        times: the step by which 5, 50 and 95 % of the starts had arrived at the tolerance; inf for never.
        imbalance_start: median ‖UᵀU−VᵀV‖_F of the starts, in σ₁; None, as the next two, for one tied factor.
        imbalance: the median at the end of the runs, a diverged run counting as inf.
        predicted_imbalance: what the step's identities predict for it.
        prediction: whether as a bound (≤), a limit (→) or a root mean square (≈).
        run_steps: steps of all runs together.
        run_seconds: how long they took, without compilation.
        compile_seconds: how long compilation took.
    """

    method: str
    tolerance: float
    floor: float
    reached: dict[float, Interval | None]
    outcomes: dict[str, Interval]
    times: dict[float, float]
    imbalance_start: float | None
    imbalance: float | None
    predicted_imbalance: float | None
    prediction: str
    run_steps: int
    run_seconds: float
    compile_seconds: float

    @property
    def throughput(self) -> float:
        """Run-steps per second, without compilation."""
        return self.run_steps / self.run_seconds


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `jf.report` shows it as tables, figures and a page.

    Attributes:
        problem: the problem of the runs, in singular coordinates where it is fully observed.
        truth: the matrix sought; the problem itself where every entry is observed.
        settings: what it was run with, the scale filled in.
        runs: the labelled results along `variant` and `seed`.
        methods: a summary per method, the reference first.
        pairs: by the name of each other method, the level and how its times to it compare with the reference's.
        notes: what a reader should know before the numbers.
    """

    problem: Problem
    truth: Factorization
    settings: ComparisonSettings
    runs: xr.Dataset
    methods: list[MethodSummary]
    pairs: dict[str, tuple[float, stats.PairedTimes]]
    notes: list[str] = field(default_factory=list)

    @property
    def reference(self) -> str:
        """The method that the others are paired with."""
        return self.methods[0].method


@explained
def compare(
    problem: Problem, settings: ComparisonSettings | None = None, *, progress: Progress | None = None
) -> Comparison:
    """Run plain, balanced and noise-injected descent from the same Gaussian starts, and summarise them.

    U ← U − η∇_U f(U, V), and V likewise, at the same time; balanced descent adds weight·‖UᵀU−VᵀV‖²_F to f;
    noise-injected descent adds normal noise to every entry at each step. A problem in one factor has no balanced
    descent. The runs on a fully observed target take place in its singular coordinates, which changes neither the
    methods nor the law of the starts. Every method is judged at `settings.tolerance`, or, where noise stalls it, at
    the first level above its predicted floor.

    Args:
        problem: a `Factorization`, or a `Sensing`, `Completion` or `Tied` problem whose truth is known.
        settings: step size in 1/σ₁, scale and noise in √σ₁; the defaults of `ComparisonSettings` if None.
        progress: called with the number of finished runs and of all runs.

    Raises:
        ValueError: for a zero or unknown target, a tolerance below three times the rounding floor of the dtype at this
            step size, and noise whose floor lies above every level.
    """
    problem, truth = _rotated(problem)
    settings = _checked(problem, truth, ComparisonSettings() if settings is None else settings)
    rows = compared_on(problem)
    floors = {row.name: row.floor(problem, truth, settings) for row in rows}
    tolerances = {row.name: judged_level(row, settings.tolerance, floors[row.name]) for row in rows}
    runs = _run(problem, settings, rows, tolerances, progress)
    said = [
        *_compression_lines(runs),
        *_sharpness_lines(problem, truth, settings),
        *(line for row in rows for line in floor_notes(row, settings.tolerance, floors[row.name])),
        *notes(truth, settings),
    ]
    methods = _summaries(truth, settings, runs, rows, floors)
    return Comparison(problem, truth, settings, runs, methods, _pairs(runs, tolerances), said)


def _rotated(problem: Problem) -> tuple[Problem, Factorization]:
    """Return the problem, in singular coordinates where it is fully observed, and the matrix sought."""
    if not isinstance(problem, Problem):
        instead = "pass jf.Factorization(matrix); jf.complete(matrix) is for one with missing entries"
        raise problem_with("problem", type(problem).__name__, "needs a problem", instead)
    if isinstance(problem, Factorization):
        problem = problem.in_singular_coordinates()
        return problem, problem
    if isinstance(problem, Tied) and isinstance(problem.problem, Factorization):
        inner = problem.problem.in_singular_coordinates()
        return Tied(inner), inner
    if problem.truth is None:
        instead = "jf.complete(matrix) judges the methods by held-out entries"
        raise problem_with("problem", type(problem).__name__, "needs a known truth", instead)
    return problem, problem.truth


def _checked(problem: Problem, truth: Factorization, settings: ComparisonSettings) -> ComparisonSettings:
    """Return the settings with their scale; refuse a target and a tolerance that no run could meet."""
    if truth.rank == 0:
        raise problem_with("matrix", "all zeros", "needs a non-zero entry", "jf.sweep takes a zero target")
    if settings.scale is None:
        settings = replace(settings, scale=small_scale(problem.shape))
    dtype = problem.unit.dtype
    floor = 3 * float(rounding_floor(jnp.finfo(dtype).eps, settings.step_size))
    if settings.tolerance < floor:
        raise problem_with(
            "tolerance",
            f"{settings.tolerance:g}",
            f"is below three times the rounding floor of {dtype} at step size {settings.step_size:g}, {floor:.1e}",
            "raise it, take a larger step, or compute in float64 (--x64 at the command line)",
        )
    return settings


def _run(
    problem: Problem,
    settings: ComparisonSettings,
    rows: Sequence[Compared],
    tolerances: Mapping[str, float],
    progress: Progress | None,
) -> xr.Dataset:
    record = [measures.distance, measures.imbalance, measures.energy, measures.singular_values, measures.misfit]
    absent = [measures.imbalance] * isinstance(problem, Tied) + [measures.misfit] * (not problem.misfits)
    return sweep(
        {row.name: _experiment(problem, settings, row) for row in rows},
        seeds=settings.seeds,
        max_steps=settings.max_steps,
        tolerance=tolerances,
        record=[measure for measure in record if measure not in absent],
        every=log_steps(settings.max_steps, unit=settings.check_every),
        check_every=settings.check_every,
        base_seed=settings.base_seed,
        compress=settings.compress,
        progress=progress,
    )


def _experiment(problem: Problem, settings: ComparisonSettings, row: Compared) -> Experiment:
    start, method = Gaussian(settings.width, scale=settings.scale, ratio=settings.unbalanced), row.method(settings)
    return lambda: Run(problem, start, method)


def notes(truth: Factorization, settings: ComparisonSettings) -> list[str]:
    """Return what a reader should know before the numbers: edges, and hypotheses that do not hold."""
    m, n = truth.shape
    edge = 1 / (8 * settings.weight) if settings.weight else np.inf
    said = {
        f"width {settings.width} is above min(m, n) = {min(m, n)}: over-parametrised": settings.width > min(m, n),
        f"width {settings.width} is above the rank {truth.rank}: over-parametrised": (
            truth.rank < settings.width <= min(m, n)
        ),
        f"step size {settings.step_size:g} is above 1/σ₁, where no minimiser is stable": settings.step_size > 1,
        f"step size {settings.step_size:g} is above the regulariser's own edge 1/(8·weight·σ₁) = {edge:.3g}": (
            settings.step_size > edge
        ),
        f"σ_{settings.width} and σ_{settings.width + 1} agree: the best approximation is not unique, and the distance "
        "is √(2·excess)/‖Σ_d‖": not bool(truth.is_truncation_unique(settings.width)),
    }
    return [text for text, holds in said.items() if holds]


def _sharpness_lines(problem: Problem, truth: Factorization, settings: ComparisonSettings) -> list[str]:
    """Return a line on how far the unit convention holds at the truth of a problem that is not fully observed."""
    if not problem.misfits:
        return []
    optimum = truth.truncation(settings.width)
    factors = TiedFactor(optimum.U) if isinstance(problem, Tied) else optimum
    ratio = float(jax.jit(measures.relative_sharpness)(problem, factors))
    line = f"sharpness at the truth: {ratio:.3g} times that of full observation (1: the units of the step hold)"
    unstable = f"; step size {settings.step_size:g} is above its edge, {1 / ratio:.3g}"
    return [line + unstable * (settings.step_size * ratio > 1)]


def _compression_lines(runs: xr.Dataset) -> list[str]:
    """Return a line that says how the runs were compressed, one for all methods."""
    kinds = runs.attrs["compression"]
    each = json.loads(kinds) if kinds.startswith("[") else [kinds] * runs.sizes["variant"]
    kinds = dict(zip(runs.variant.values, each, strict=True))
    said = {"exact": "exactly", "in law": "exactly in law", "none": "not at all"}
    text = ", ".join(f"{name} {said[kind]}" for name, kind in kinds.items())
    return [f"runs compressed to the rows that move: {text}"] if set(kinds.values()) != {"none"} else []


def _pairs(runs: xr.Dataset, tolerances: Mapping[str, float]) -> dict[str, tuple[float, stats.PairedTimes]]:
    """Compare each other method with the first, at the level at which that method is judged."""
    reference, *others = tolerances
    return {
        name: (tolerances[name], stats.paired_times(runs, name, reference, tolerances[name], MARGIN)) for name in others
    }


def _summaries(
    truth: Factorization,
    settings: ComparisonSettings,
    runs: xr.Dataset,
    rows: Sequence[Compared],
    floors: Mapping[str, float],
) -> list[MethodSummary]:
    # Of all methods together, so that each has a fraction for every outcome that any of them had.
    outcomes = stats.outcome_fractions(runs)
    summaries = []
    for row in rows:
        part, ended = (found.sel({"variant": row.name}) for found in (runs, outcomes))
        predicted = row.imbalance(truth, settings, part) if "imbalance" in part else None
        summaries.append(_summary(part, ended, floors[row.name], predicted))
    return summaries


def _summary(runs: xr.Dataset, outcomes: xr.Dataset, floor: float, predicted: Prediction | None) -> MethodSummary:
    tolerance = float(runs.tolerance)
    reached = stats.fraction_reached(runs)
    times = stats.time_to(runs, tolerance).quantile(QUANTILES).values
    pair = "imbalance" in runs
    return MethodSummary(
        method=str(runs.variant.values),
        tolerance=tolerance,
        floor=floor,
        reached={
            float(level): None if np.isnan(at.fraction) else _interval(at)
            for level in runs.level.values
            if (at := reached.sel(level=level)) is not None
        },
        outcomes={str(name): _interval(outcomes.sel(outcome=name)) for name in outcomes.outcome.values},
        times={q: float(value) for q, value in zip(QUANTILES, times, strict=True)},
        imbalance_start=float(runs.imbalance_path.isel(step=0).median()) if pair else None,
        imbalance=float(np.median(np.where(runs.outcome == "diverged", np.inf, runs.imbalance))) if pair else None,
        predicted_imbalance=predicted.value if predicted else None,
        prediction=predicted.rule if predicted else "",
        run_steps=int(runs.steps.sum()),
        run_seconds=float(runs.run_seconds),
        compile_seconds=float(runs.compile_seconds),
    )


def _interval(at: xr.Dataset) -> Interval:
    return float(at.fraction), float(at.low), float(at.high)
