"""The main job: descent and its modifications on one matrix, from the same random starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr

from jaxfact import measures
from jaxfact.descent import log_steps
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.floors import check_above_floor
from jaxfact.inputs import explained, problem_with
from jaxfact.jobs import remarks, sentences
from jaxfact.jobs.compared import MARGIN, Compared, Prediction, compared_on, floor_notes, judged_level
from jaxfact.jobs.settings import USUAL_WIDTH, ComparisonSettings, small_scale, width_line
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.results import stats
from jaxfact.results.wording import number, share
from jaxfact.showing.markup import REPORTED, Table, card
from jaxfact.showing.progress import Progress
from jaxfact.starts import Gaussian
from jaxfact.sweep import sweep

QUANTILES = (0.05, 0.5, 0.95)

Interval = tuple[float, float, float]
"""A fraction, and the lower and upper end of its interval."""


@dataclass(frozen=True)
class MethodSummary:
    """One method of a `Comparison`: fractions with 95 % Wilson intervals.

    Attributes:
        method: its name, as in the dimension `variant` of the runs.
        tolerance: the relative distance to which it was run.
        floor: the predicted relative distance at which it stalls, 0 where nothing stalls it.
        reached: (fraction, low, high) of the starts that reached each level; None below the tolerance.
        outcomes: (fraction, low, high) of the starts by outcome.
        imbalance_start: median ‖UᵀU−VᵀV‖_F of the starts, in σ₁; None, as the next two, for one tied factor.
        imbalance: the median at the end of the runs, a diverged run counting as inf.
        predicted_imbalance: what the step's identities predict for it.
        prediction: whether as a bound (≤), a limit (→) or a root mean square (≈).
        run_steps: steps of all runs together.
        run_seconds: how long they took, without compilation.
        compile_seconds: how long compilation took, partly while other methods ran; what methods share is compiled
            with the first that needs it.
    """

    method: str
    tolerance: float
    floor: float
    reached: dict[float, Interval | None]
    outcomes: dict[str, Interval]
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
class Judgement:
    """Methods judged alike: by their times to one distance, to which all of them were run.

    Attributes:
        level: the relative distance.
        times: by method, the step by which 5, 50 and 95 % of the starts had arrived there, as Kaplan-Meier quantiles;
            inf where so many had not.
        failed: by method, the fraction of the starts that ended without arriving, and not because of the budget.
        pairs: by the name of each method but the first, how its times compare with that one's.
    """

    level: float
    times: dict[str, dict[float, float]]
    failed: dict[str, float]
    pairs: dict[str, stats.PairedTimes]

    @property
    def reference(self) -> str:
        """The method that the others are paired with."""
        return next(iter(self.times))


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `jf.report` shows it as tables, figures and a page.

    Attributes:
        problem: the problem of the runs, in singular coordinates where it is fully observed.
        truth: the matrix sought; the problem itself where every entry is observed.
        settings: what it was run with, width and scale filled in.
        runs: the labelled results along `variant` and `seed`.
        methods: a summary per method, the reference first.
        judged: how the methods compare at the coarsest level to which one was run, which all can reach.
        finer: how those compare that were run to finer levels, a judgement for each.
        notes: what a reader should know before the numbers.
    """

    problem: Problem
    truth: Factorization
    settings: ComparisonSettings
    runs: xr.Dataset
    methods: list[MethodSummary]
    judged: Judgement
    finer: list[Judgement]
    notes: list[str] = field(default_factory=list)

    def _repr_html_(self) -> str:
        """Say in a notebook what was found, a row for each method."""
        outcomes = list(self.methods[0].outcomes)
        half = {name: number(times[0.5]) for name, times in self.judged.times.items()}
        rows = [
            [row.method, *(share(*row.outcomes[name]) for name in outcomes), half[row.method]] for row in self.methods
        ]
        columns = ["method", *(f"% {name}" for name in outcomes), f"half at {self.judged.level:g} by step"]
        return card("Comparison", said=sentences.of_comparison(self), table=Table(columns, rows), note=REPORTED)


@explained
def compare(
    problem: Problem, settings: ComparisonSettings | None = None, *, progress: Progress | bool = True
) -> Comparison:
    """Run plain, balanced and noise-injected descent from the same Gaussian starts, and summarise them.

    U ← U − η∇_U f(U, V), and V likewise, at the same time; balanced descent adds weight·‖UᵀU−VᵀV‖²_F to f;
    noise-injected descent adds normal noise to every entry at each step. A problem in one factor has no balanced
    descent. The runs on a fully observed target take place in its singular coordinates, which changes neither the
    methods nor the law of the starts. Every method is run to `settings.tolerance`, or, where noise stalls it, to the
    first level above its predicted floor; all are judged at the coarsest of these, and apart from that those that went
    further at the finer ones.

    Args:
        problem: a `Factorization`, or a `Sensing`, `Completion` or `Tied` problem whose truth is known.
        settings: step size in 1/σ₁, scale and noise in √σ₁; the defaults of `ComparisonSettings` if None.
        progress: whether it is shown, as by `sweep`, or a function of the number of finished runs and of all runs.

    Raises:
        ValueError: for a zero or unknown target, a tolerance below three times the distance at which rounding stalls a
            run at this step size, and noise whose floor lies above every level.
    """
    problem, truth = _rotated(problem)
    given = ComparisonSettings() if settings is None else settings
    settings, lowered = _checked(problem, truth, given), given.width is None
    rows = compared_on(problem)
    floors = {row.name: row.floor(problem, truth, settings) for row in rows}
    tolerances = {row.name: judged_level(row, settings.tolerance, floors[row.name], settings.levels) for row in rows}
    # Noise stalls runs, and takes longest to draw: while it is drawn, the other methods are read and compiled.
    slowest_first = sorted(rows, key=lambda row: -floors[row.name])
    runs = _run(problem, settings, slowest_first, tolerances, progress).sel(variant=[row.name for row in rows])
    said = [
        *remarks.budget_lines(runs, truth, settings),
        *width_line(settings.columns, f"the rank of the {'×'.join(map(str, truth.shape))} matrix") * lowered,
        *remarks.compression_lines(runs),
        *remarks.sharpness_lines(problem, truth, settings),
        *(line for row in rows for line in floor_notes(row, settings.tolerance, floors[row.name], settings.levels)),
        *remarks.notes(truth, settings),
    ]
    methods = _summaries(truth, settings, runs, rows, floors)
    judged, *finer = (_judged(runs, level, names) for level, names in stats.judged_levels(runs).items())
    return Comparison(problem, truth, settings, runs, methods, judged, finer, said)


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
    """Return the settings with their width and scale; refuse a target and a tolerance that no run could meet."""
    if truth.rank == 0:
        raise problem_with("matrix", "all zeros", "needs a non-zero entry", "jf.sweep takes a zero target")
    if settings.width is None:
        settings = replace(settings, width=min(USUAL_WIDTH, truth.rank))
    if settings.scale is None:
        settings = replace(settings, scale=small_scale(problem.shape))
    check_above_floor(settings.tolerance, problem, settings.step_size, settings.columns)
    return settings


def _run(
    problem: Problem,
    settings: ComparisonSettings,
    rows: Sequence[Compared],
    tolerances: Mapping[str, float],
    progress: Progress | bool,
) -> xr.Dataset:
    record = [measures.distance, measures.imbalance, measures.energy, measures.singular_values, measures.misfit]
    absent = [measures.imbalance] * isinstance(problem, Tied) + [measures.misfit] * (not problem.misfits)
    return sweep(
        {row.name: _experiment(problem, settings, row) for row in rows},
        seeds=settings.seeds,
        max_steps=settings.max_steps,
        tolerance=tolerances,
        levels=settings.levels or None,
        record=[measure for measure in record if measure not in absent],
        every=log_steps(settings.max_steps, unit=settings.check_every),
        check_every=settings.check_every,
        base_seed=settings.base_seed,
        compress=settings.compress,
        progress=progress,
    )


def _experiment(problem: Problem, settings: ComparisonSettings, row: Compared) -> Experiment:
    start, method = Gaussian(settings.columns, scale=settings.scale, ratio=settings.unbalanced), row.method(settings)
    return lambda: Run(problem, start, method)


def _judged(runs: xr.Dataset, level: float, names: list[str]) -> Judgement:
    """Judge the methods that were run to a level by their times to it."""
    parts = {name: runs.sel({"variant": name}) for name in names}
    reference, *others = names
    return Judgement(
        level=level,
        times={name: _times(part, level) for name, part in parts.items()},
        failed={name: float(np.mean(np.isinf(stats.time_to(part, level).hit))) for name, part in parts.items()},
        pairs={name: stats.paired_times(runs, name, reference, level, MARGIN) for name in others},
    )


def _times(runs: xr.Dataset, level: float) -> dict[float, float]:
    quantiles = stats.time_to(runs, level).quantile(QUANTILES).values
    return {q: float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}


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
