"""Tong, Ma & Chi (2021): ScaledGD contracts at a rate that does not depend on the condition number."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.measures import scaled_invertible_distance
from jaxfact.methods import gradient_descent, scaled_gd
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, bounded
from jaxfact.papers.tong_ma_chi_speed import C23, NEAR, RANK, Near, spread_to
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors

CONTRACTION, ERROR = 0.7, 0.15
"""Theorem 13: from 0.1·σ_r the distance falls by 1 − 0.7η a step, and the error from 0.15·σ_r."""
CONDITIONS, STEP_SIZES = (5.0, 20.0, 100.0), (0.1, 0.5, 2 / 3)
STEPS = 280
_ROUNDING = 1e-9  # of the promised bound over σ_r: below it rounding may be larger

Stepping = Callable[[optax.ScalarOrSchedule], optax.GradientTransformation]


def contractions(
    sweeps: Sweeps,
    *,
    conditions: Sequence[float] = CONDITIONS,
    step_sizes: Sequence[float] = STEP_SIZES,
    method: Stepping = scaled_gd,
    distance: float = NEAR,
) -> Runs:
    """Factorise 50×50 matrices of rank 3 by ScaledGD, from as far as the theorem allows."""

    def experiment(condition, step_size):
        problem = Factorization(spread_to(condition), shape=(50, 50))
        return Run(problem, Near(RANK, distance), method(step_size))

    return {
        "runs": sweeps(
            "runs",
            experiment,
            max_steps=STEPS,
            record={"error": error, "off": scaled_invertible_distance},
            every=[*range(40), *range(40, STEPS + 1, 10)],
            check_every=1,
            condition=conditions,
            step_size=step_sizes,
        )
    }


def error(problem: Problem, factors: AnyFactors) -> jax.Array:
    """Return ‖UVᵀ − X⋆‖_F, in σ₁."""
    return problem.distance(factors) * jnp.linalg.norm(truth_of(problem).singular_values)


def _contract(runs: Runs) -> list[Finding]:
    """Judge both bounds at every recorded step, for each condition number."""
    return [
        bounded(f"κ={float(condition):g}: {what}", ratios.sel(condition=condition).values, 1.0)
        for condition in runs["runs"].condition
        for what, ratios in _ratios(runs["runs"]).items()
    ]


def _ratios(runs: xr.Dataset) -> dict[str, xr.DataArray]:
    """Return both ratios to their bounds, the largest over those steps at which rounding does not count."""
    promised = (1 - CONTRACTION * runs.step_size) ** runs.step / runs.condition
    paths = {
        "max_t ‖LRᵀ−X⋆‖_F/(0.15σ_r(1−0.7η)^t)": runs.error_path / (ERROR * promised),
        "max_t dist/(0.1σ_r(1−0.7η)^t)": runs.off_path / (NEAR * promised),
    }
    counted = promised * runs.condition > _ROUNDING
    return {what: path.where(counted, 0).max("step", skipna=False) for what, path in paths.items()}


def _starts_near(runs: Runs) -> list[Hypothesis]:
    found = runs["runs"]
    distance = float((found.off_path.sel(step=0) * found.condition).max())
    step = float(found.step_size.max())
    return [
        Hypothesis("dist(F₀, F⋆)/σ_r, at most", distance, f"at most {NEAR:g}", distance <= NEAR),
        Hypothesis("the step size, at most", step, "at most 2/3", step <= 2 / 3),
    ]


def _plot_errors(runs: Runs) -> Plot:
    """Plot the largest error of all runs against steps, beside the bounds."""
    found = runs["runs"]
    measured, bounds = [], []
    for step_size in found.step_size.values:
        some = found.sel(step_size=step_size)
        bound = (ERROR * (1 - CONTRACTION * step_size) ** some.step).values
        kept = bound > ERROR * _ROUNDING
        most = (some.error_path * some.condition).max(("condition", "seed")).values
        measured.append(Series(rf"$\eta={step_size:.2g}$", some.step.values[kept], most[kept]))
        bounds += [(some.step.values[kept], bound[kept]), ([np.nan], [np.nan])]  # with a gap after each
    promised = Series(r"$0.15\,(1-0.7\eta)^t$", *map(np.concatenate, zip(*bounds, strict=True)))
    return Plot("step $t$", r"largest $\|LR^\top-X_\star\|_F/\sigma_r$", measured, [promised], y_scale="log")


def _slower(rate: float, rng: np.random.Generator, seeds: int) -> list[Finding]:
    """Return what the rule makes of errors that begin at 0.1·σ_r, 2 % more or less, and fall by 1 − rate·η a step."""
    step_size, steps = STEP_SIZES[0], np.arange(STEPS)
    begun = NEAR * rng.normal(1, 0.02, (seeds, 1))
    ratios = begun / ERROR * ((1 - rate * step_size) / (1 - CONTRACTION * step_size)) ** steps
    return [bounded("", ratios.max(axis=1), 1.0)]


TONG_CONTRACTION = Preset(
    name="tong_contraction",
    place="Theorem 13",
    randomness="A seed draws the start, shared by all κ and η; the targets are fixed.",
    needs_x64=True,
    seeds=20,
    seconds=15,
    job=contractions,
)

C22 = Claim(
    id="C22",
    title="ScaledGD contracts at every κ",
    place="Theorem 13",
    statement="Near a matrix that is seen in full, ScaledGD contracts by 1 − 0.7η a step or more, whatever the "
    "condition number.",
    formula="dist(F_t, F⋆) ≤ (1−0.7η)^t·0.1σ_r and ‖LRᵀ−X⋆‖_F ≤ (1−0.7η)^t·0.15σ_r if dist(F₀, F⋆) ≤ 0.1σ_r, η ≤ 2/3",
    preset=TONG_CONTRACTION,
    judge=_contract,
    plot=_plot_errors,
    power=Power("a contraction of 1 − 0.66η a step", 5, lambda rng: _slower(0.66, rng, 5)),
    control=Control(
        "plain descent of the same step sizes, in 1/σ₁",
        changed={"method": gradient_descent},
        small={"conditions": (20.0,), "step_sizes": (0.5,)},
        seeds=5,
    ),
    hypotheses=_starts_near,
)


PAPER = Paper(
    __name__,
    title="Accelerating Ill-Conditioned Low-Rank Matrix Estimation via Scaled Gradient Descent",
    authors=("Tian Tong", "Cong Ma", "Yuejie Chi"),
    year=2021,
    claims=(C22, C23),
)
