"""The main job: plain, balanced and noise-injected descent on one matrix, from the same random starts."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact import measures
from jaxfact.descent import log_steps
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.levels import ladder
from jaxfact.engine.tiles import Progress
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import ComparisonSettings
from jaxfact.methods import balanced, gradient_descent, perturbed
from jaxfact.problems.base import Problem, rounding_floor
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import TiedFactor
from jaxfact.problems.tied import Tied
from jaxfact.results import stats
from jaxfact.starts import Gaussian
from jaxfact.sweep import sweep

PLAIN, BALANCED, NOISY = "plain", "balanced", "noisy"
_TIE = 1e-6
QUANTILES = (0.05, 0.5, 0.95)
MARGIN = 0.05


@dataclass(frozen=True)
class MethodSummary:
    """One row of the table: fractions with Wilson intervals, times as Kaplan-Meier quantiles.

    `reached` maps each level to (fraction, low, high), or None below the method's own tolerance; `outcomes` likewise;
    `times` maps each of the `QUANTILES` to a step, inf for never. `imbalance` is the median at the end of the runs,
    `imbalance_start` at their beginning, `predicted_imbalance` what the step's identities predict: `prediction` says
    whether as a bound (≤), a limit (→) or a root mean square (≈); all None for the one factor of a tied problem.
    """

    method: str
    tolerance: float
    floor: float
    reached: dict[float, tuple[float, float, float] | None]
    outcomes: dict[str, tuple[float, float, float]]
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
        """Run-steps a second, compilation apart."""
        return self.run_steps / self.run_seconds


@dataclass(frozen=True)
class Comparison:
    """A comparison that has run: its settings, the labelled results, and what they say.

    `truth` is the matrix that is looked for; it is the problem itself where every entry is observed.
    """

    problem: Problem
    truth: Factorization
    settings: ComparisonSettings
    runs: xr.Dataset
    methods: list[MethodSummary]
    pairs: dict[str, tuple[float, stats.PairedTimes]]
    notes: list[str] = field(default_factory=list)


def compare(problem: Problem, settings: ComparisonSettings, progress: Progress | None = None) -> Comparison:
    """Run the three methods from the same Gaussian starts and summarise them; a tied problem has no balanced one.

    The runs on a fully observed target take place in its singular coordinates, which changes neither the methods nor
    the law of the starts. Every method is judged at `tolerance`, the noisy one at the first level above its predicted
    floor.

    Raises ValueError where a setting cannot work on this target: see `ComparisonSettings`; a zero or unknown target,
    a tolerance below three times the rounding floor of the dtype at this step size, and noise whose floor lies above
    every level.
    """
    problem, truth = _rotated(problem)
    if truth.rank == 0:
        raise problem_with("matrix", "all zeros", "needs a non-zero entry", "a zero target is for the Python API")
    if settings.scale is None:
        settings = replace(settings, scale=min(1e-3, 0.1**1.5 / sum(problem.shape) ** 0.5))
    _check_tolerance(problem, settings)
    # What is seen through few numbers is held back less along some directions than the whole matrix is.
    noise_floor = predicted_floor(truth, settings) * (2 if problem.misfits else 1)
    judged = _judged_level(settings.tolerance, noise_floor)
    chosen = experiments(problem, settings)
    tolerances = {name: judged if name == NOISY else settings.tolerance for name in chosen}
    record = [measures.distance, measures.imbalance, measures.energy, measures.singular_values, measures.misfit]
    absent = [measures.imbalance] * isinstance(problem, Tied) + [measures.misfit] * (not problem.misfits)
    runs = sweep(
        chosen,
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
    floors = {PLAIN: 0.0, BALANCED: 0.0, NOISY: noise_floor}
    outcomes = stats.outcome_fractions(runs)
    methods = [
        _summarise(truth, settings, runs.sel({"variant": name}), outcomes.sel({"variant": name}), floors[name])
        for name in tolerances
    ]
    pairs = {
        name: (tolerances[name], stats.paired_times(runs, name, PLAIN, tolerances[name], MARGIN))
        for name in tolerances
        if name != PLAIN
    }
    said = [
        *_compression_lines(runs),
        *_sharpness_lines(problem, truth, settings),
        *notes(truth, settings, noise_floor),
    ]
    return Comparison(problem, truth, settings, runs, methods, pairs, said)


def _rotated(problem: Problem) -> tuple[Problem, Factorization]:
    """Return the problem, in singular coordinates where it is fully observed, and the matrix that is looked for."""
    if isinstance(problem, Factorization):
        problem = problem.in_singular_coordinates()
        return problem, problem
    if isinstance(problem, Tied) and isinstance(problem.problem, Factorization):
        inner = problem.problem.in_singular_coordinates()
        return Tied(inner), inner
    if problem.truth is None:
        raise problem_with("problem", type(problem).__name__, "needs a known truth", "see jaxfact.complete")
    return problem, problem.truth


def experiments(problem: Problem, settings: ComparisonSettings) -> dict[str, Experiment]:
    """Return the experiments of a comparison, which share their starts: three, without the balanced one if tied."""
    start = Gaussian(settings.width, scale=settings.scale, ratio=settings.unbalanced)
    methods = {
        PLAIN: gradient_descent(settings.step_size),
        BALANCED: balanced(settings.step_size, settings.weight),
        NOISY: perturbed(settings.step_size, settings.noise),
    }
    if isinstance(problem, Tied):
        del methods[BALANCED]
    return {name: (lambda method=method: Run(problem, start, method)) for name, method in methods.items()}


def predicted_floor(problem: Factorization, settings: ComparisonSettings) -> float:
    """Return the distance at which iterate noise holds a run up: the stationary root mean square of the linear process.

    Around the balanced optimum each mode of the error obeys x⁺ = (1 − ηλ)x + noise, whose variance is
    noise²/(ηλ(2 − ηλ)). Entries of the leading d×d block have λ = σᵢ + σⱼ and enter the product with weight λ; an entry
    of U outside it pairs with that of V, with λ = σⱼ ± σᵢ and weight σⱼ, or stands alone beyond the rank: λ = σⱼ.
    For an exact rank and small η this is the well-known √(noise²·(m+n)d/(2η)). Beyond the stability edge it is inf.
    Columns beyond the rank are not held back; they add at most noise²·max_steps·√(mn(d−r)). Where σ_d = σ_{d+1}, moving
    between the best approximations costs no distance.
    """
    head = min(settings.width, problem.rank)
    values = np.asarray(problem.singular_values, float)
    leading, tail = values[:head, None], values[None, head:]
    m, n = problem.shape

    def variance(rate: np.ndarray, weight: np.ndarray) -> float:
        decay = settings.step_size * rate
        held = (rate > _TIE) & (decay < 2)
        spread = weight / np.where(held, decay * (2 - decay), 1)
        return float(np.sum(np.where(held, spread, np.where(rate > _TIE, np.inf, 0))))

    total = variance(leading + leading.T, leading + leading.T)
    for rate in (leading - tail, leading + tail):
        total += variance(rate, np.broadcast_to(leading, rate.shape))
    total += (m + n - 2 * problem.rank) * variance(leading, leading)
    free = settings.noise**2 * settings.max_steps * (m * n * (settings.width - head)) ** 0.5
    return float(np.hypot(settings.noise * np.sqrt(total), free) / np.linalg.norm(leading)) if settings.noise else 0.0


def notes(truth: Factorization, settings: ComparisonSettings, noise_floor: float) -> list[str]:
    """Return what a reader should know before the numbers: edges, floors, and hypotheses that do not hold."""
    m, n = truth.shape
    edge = 1 / (8 * settings.weight) if settings.weight else np.inf
    said = {
        f"noise holds {NOISY} up at a distance of about {noise_floor:.2g}; it is judged at the first level above, "
        f"{_judged_level(settings.tolerance, noise_floor):g}": 0 < noise_floor < np.inf,
        f"with this step size {NOISY} has no stationary floor; it is judged at the tolerance": np.isinf(noise_floor),
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
    kinds = dict(
        zip(runs.variant.values, kinds if isinstance(kinds, list) else [kinds] * runs.sizes["variant"], strict=True)
    )
    said = {"exact": "exactly", "in law": "exactly in law", "none": "not at all"}
    text = ", ".join(f"{name} {said[kind]}" for name, kind in kinds.items())
    return [f"runs compressed to the rows that move: {text}"] if set(kinds.values()) != {"none"} else []


def _judged_level(tolerance: float, floor: float) -> float:
    """Return the least of 1e-1, 1e-2, … and the tolerance that lies above the floor; the tolerance if there is none."""
    if np.isinf(floor):
        return tolerance
    levels = ladder(tolerance)
    above = [level for level in levels if level > floor]
    if not above:
        raise problem_with(
            "noise",
            f"floor {floor:.2g}",
            f"its floor lies above the first level, {levels[0]:g}",
            "lower the noise",
        )
    return above[-1]


def _check_tolerance(problem: Problem, settings: ComparisonSettings) -> None:
    dtype = problem.unit.dtype
    floor = 3 * float(rounding_floor(jnp.finfo(dtype).eps, settings.step_size))
    if settings.tolerance < floor:
        raise problem_with(
            "tolerance",
            f"{settings.tolerance:g}",
            f"is below three times the rounding floor of {dtype} at step size {settings.step_size:g}, {floor:.1e}",
            "raise it, take a larger step, or compute in float64 with --x64",
        )


def _summarise(
    truth: Factorization, settings: ComparisonSettings, runs: xr.Dataset, outcomes: xr.Dataset, floor: float
) -> MethodSummary:
    method, tolerance = str(runs.variant.values), float(runs.tolerance)
    reached = stats.fraction_reached(runs)
    times = stats.time_to(runs, tolerance).quantile(QUANTILES).values
    pair = "imbalance" in runs
    predicted, prediction = _predicted_imbalance(truth, settings, runs) if pair else (None, "")
    return MethodSummary(
        method=method,
        tolerance=tolerance,
        floor=floor,
        reached={
            float(level): None if np.isnan(at.fraction) else _triple(at)
            for level in runs.level.values
            if (at := reached.sel(level=level)) is not None
        },
        outcomes={str(name): _triple(outcomes.sel(outcome=name)) for name in outcomes.outcome.values},
        times={q: float(value) for q, value in zip(QUANTILES, times, strict=True)},
        imbalance_start=float(runs.imbalance_path.isel(step=0).median()) if pair else None,
        imbalance=float(np.median(np.where(runs.outcome == "diverged", np.inf, runs.imbalance))) if pair else None,
        predicted_imbalance=predicted,
        prediction=prediction,
        run_steps=int(runs.steps.sum()),
        run_seconds=float(runs.run_seconds),
        compile_seconds=float(runs.compile_seconds),
    )


def _predicted_imbalance(truth: Factorization, settings: ComparisonSettings, runs: xr.Dataset) -> tuple[float, str]:
    """Return the median imbalance that the step's identities predict for the end of the runs, and the rule.

    Plain descent moves D by at most 2η(f₀ − f_T), as long as steps lower the loss by half their first-order promise.
    The regulariser contracts D. Noise moves D by noise²(m−n)I a step on average and by a random walk of variance
    2·noise²(d+1)(‖U‖² + ‖V‖²) a step; the small drift of the descent itself is left out there.
    """
    start = float(runs.imbalance_path.isel(step=0).median())
    if runs.variant == BALANCED and settings.weight:
        return 0.0, "→"
    # From nothing to the best approximation the loss falls by half the sum of its squared singular values.
    fall = float(jnp.sum(truth.singular_values[: settings.width] ** 2) / 2)
    bound = start + 2 * settings.step_size * fall
    if runs.variant != NOISY or not settings.noise:
        return bound, "≤"
    m, n = truth.shape
    d, noise = settings.width, settings.noise
    ends = runs.step.values[None, :].clip(max=runs.steps.values[:, None])
    energy = runs.energy_path.transpose("seed", "step").values
    stretch = np.diff(ends, axis=1)
    walked = np.sum(stretch * np.where(stretch > 0, energy[:, 1:] + energy[:, :-1], 0) / 2, axis=1)
    drift = noise**2 * abs(m - n) * runs.steps.values * d**0.5
    moved = drift**2 + 2 * noise**2 * (d + 1) * walked
    return float(np.median(np.sqrt(start**2 + moved))), "≈"


def _triple(at: xr.Dataset) -> tuple[float, float, float]:
    return float(at.fraction), float(at.low), float(at.high)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain numbers and strings; a time that is never reached is null."""
    return {
        "shape": list(comparison.problem.shape),
        "unit": float(comparison.problem.unit),
        "settings": asdict(comparison.settings),
        "notes": comparison.notes,
        "methods": [
            {
                **{k: _finite(v) for k, v in asdict(row).items() if k not in ("reached", "outcomes", "times")},
                "reached": {f"{level:g}": value for level, value in row.reached.items()},
                "outcomes": row.outcomes,
                "times": {f"{q:g}": value if np.isfinite(value) else None for q, value in row.times.items()},
                "run_steps_per_second": row.throughput,
            }
            for row in comparison.methods
        ],
        "pairs": {
            name: {"level": level, **{k: _finite(v) for k, v in pair._asdict().items()}}
            for name, (level, pair) in comparison.pairs.items()
        },
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
