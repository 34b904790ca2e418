"""How far descent moves the imbalance that gradient flow conserves: in second order of the step alone."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.measures import gradient_norm, loss
from jaxfact.methods import gradient_descent
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, bounded, log_slopes, within
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.starts import Gaussian

STEP_SIZES = (0.025, 0.05, 0.1, 0.2, 0.4)
SCALE, TIME = 0.1, 60
"""The size of the start's entries, and for how long runs go on, ηt in 1/σ₁."""
_SLOPE = 0.1
_ROUNDING = 1e-12

Stepping = Callable[[float], Any]


def unequal(step_size: float) -> Callable[[Factors, Factors], Factors]:
    """Return descent in which V takes half the step of U, so that the imbalance moves in first order."""
    return lambda gradient, _: Factors(-step_size * gradient.U, -step_size / 2 * gradient.V)


def descents(sweeps: Sweeps, *, step_sizes: Sequence[float] = STEP_SIZES, method: Stepping = gradient_descent) -> Runs:
    """Factorise a 12×9 matrix with several steps, and record every step of each."""
    problem, start = Factorization(np.array([1.0, 0.7, 0.4]), shape=(12, 9)), Gaussian(3, scale=SCALE)

    def descended(step_size: float) -> xr.Dataset:
        name = f"step{step_size:g}"
        run = Run(problem, start, method(step_size))
        found = sweeps(
            name,
            lambda: run,
            max_steps=round(TIME / step_size),
            record={"loss": loss, "gradient": gradient_norm, "difference": difference},
            every=1,
            check_every=1,
        )
        return found.assign_attrs(descent_step=step_size)

    return {f"step{step_size:g}": descended(step_size) for step_size in step_sizes}


def difference(problem: Problem, factors: Factors) -> jax.Array:
    """Return the imbalance UᵀU − VᵀV as a matrix."""
    UU, VV = problem.grams(factors)
    return jnp.asarray(UU - VV)


def judged(runs: Runs) -> list[Finding]:
    """Judge both bounds of the drift, and that it is proportional to the step."""
    drifts, slopes = _drifts(runs), _slopes(runs)
    gradients = np.array([each.descent_step**2 * _squares(each) for each in runs.values()])
    losses = np.array([2 * each.descent_step * _path(each, "loss")[:, 0] for each in runs.values()])
    return [
        within("log-log slope of ‖D_T − D₀‖_F in η", slopes, 1 - _SLOPE, 1 + _SLOPE),
        bounded("max ‖D_T − D₀‖_F/(2ηf₀)", np.ravel(drifts / losses), 1.0),
        bounded("max ‖D_T − D₀‖_F/(η²Σ_t‖∇f_t‖²)", np.ravel(drifts / gradients), 1.0),
    ]


def _path(runs: xr.Dataset, name: str) -> np.ndarray:
    return runs[f"{name}_path"].transpose("seed", "step", ...).values


def _drifts(runs: Runs) -> np.ndarray:
    """Return ‖D_T − D₀‖_F along (step size, seed)."""
    ends = [_path(each, "difference")[:, [0, -1]] for each in runs.values()]
    return np.array([np.linalg.norm(each[:, 1] - each[:, 0], axis=(-2, -1)) for each in ends])


def _squares(runs: xr.Dataset) -> np.ndarray:
    """Return Σ_t‖∇f_t‖² over the steps that were taken."""
    return np.sum(_path(runs, "gradient")[:, :-1] ** 2, axis=1)


def _slopes(runs: Runs) -> np.ndarray:
    steps = [each.descent_step for each in runs.values()]
    return log_slopes(steps, xr.DataArray(_drifts(runs), dims=("step_size", "seed")), "step_size")


def descends(runs: Runs) -> list[Hypothesis]:
    """Return by how much the worst step falls short of descent by (η/2)‖∇f‖², which 2ηf₀ is derived from."""
    short = []
    for each in runs.values():
        losses, gradients = _path(each, "loss"), _path(each, "gradient")
        promised = losses[:, :-1] - each.descent_step / 2 * gradients[:, :-1] ** 2
        short.append(np.max(losses[:, 1:] - promised))
    worst = float(np.max(short))
    return [Hypothesis("f⁺ − f + (η/2)‖∇f‖², at most", worst, f"≤ {_ROUNDING:g}", worst <= _ROUNDING)]


def plotted(runs: Runs) -> Plot:
    """Plot the drift against the step, beside its bound and slope 1 from the first."""
    steps, drifts = np.array([each.descent_step for each in runs.values()]), _drifts(runs)
    low, middle, high = np.quantile(drifts, [0.05, 0.5, 0.95], axis=1)
    losses = [float(np.median(_path(each, "loss")[:, 0])) for each in runs.values()]
    return Plot(
        x_label=r"$\log_2(\eta\sigma_1)$",
        y_label=r"$\|D_T - D_0\|_F \,/\, \sigma_1$",
        measured=[Series("median, 5–95 %", np.log2(steps), middle, low, high)],
        promised=[
            Series(r"bound $2\eta f_0$", np.log2(steps), 2 * steps * np.array(losses)),
            Series("slope 1", np.log2(steps), middle[0] * steps / steps[0]),
        ],
        y_scale="log",
    )


DRIFT = Preset(
    name="imbalance_drift",
    place="derived",
    randomness="A seed draws the start; the target is fixed.",
    needs_x64=True,
    seeds=100,
    seconds=15,
    job=descents,
    sweeps=len(STEP_SIZES),
)

C14 = Claim(
    id="C14",
    title="steps move the imbalance in second order",
    place="derived",
    statement="Descent moves the imbalance, which gradient flow conserves, only in second order of the step: over a "
    "whole run by at most 2ηf₀, and in proportion to η.",
    formula="D⁺ − D = η²(VᵀRᵀRV − UᵀRRᵀU), so that ‖D_T − D₀‖_F ≤ η²Σ‖∇f‖² ≤ 2ηf₀ if f⁺ ≤ f − (η/2)‖∇f‖²",
    preset=DRIFT,
    judge=judged,
    plot=plotted,
    power=Power(
        "a slope of 1.15, if slopes scatter by 0.1 over seeds",
        20,
        lambda rng: [within("", rng.normal(1.15, 0.1, 20), 1 - _SLOPE, 1 + _SLOPE)],
    ),
    control=Control(
        "half the step for V, so that the imbalance moves in first order",
        changed={"method": unequal},
        small={"step_sizes": STEP_SIZES[3:]},
        seeds=20,
    ),
    hypotheses=descends,
    departure=f"The slope is judged within {_SLOPE:g} of 1, as it is 1 only in the limit of small steps, and how near "
    "depends on the start. Entries of 0.01, which were tried first, give 0.87 up to η = 0.4, which this rule calls "
    "violated, and locally 0.98 at η = 0.02 and 0.72 at 0.3: ∝ η is no law of large steps from small starts.",
)
