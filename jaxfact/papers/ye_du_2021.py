"""Ye & Du (2021): plain descent factorises a matrix of exact rank from a random start, without regulariser or noise."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
import xarray as xr
from optax import GradientTransformation

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import gradient_descent
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always
from jaxfact.papers.ye_du_times import C2
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.results import stats
from jaxfact.starts import Gaussian

STEP_SIZE, STEPS, TOLERANCE = 0.05, 20_000, 1e-6
ENSEMBLE = ((10, 10, (1.0, 0.5)), (20, 15, (1.0, 0.7, 0.4)), (30, 30, (1.0, 0.8, 0.6, 0.4, 0.2)))
"""m, n and the singular values, as many as the width."""

Stepping = Callable[[float], GradientTransformation | Callable]


def proven_scale(m: int, n: int, values: Sequence[float]) -> float:
    """Return ε = σ_d/(√(dσ₁)(m+n)) of Theorem 1.1, without the constant and the logarithms that are not stated."""
    return values[-1] / ((len(values) * values[0]) ** 0.5 * (m + n))


def proven_step(m: int, n: int, values: Sequence[float]) -> float:
    """Return η = σ_dε²/(dσ₁³) of Theorem 1.1, without its constant."""
    return values[-1] * proven_scale(m, n, values) ** 2 / (len(values) * values[0] ** 3)


def ensemble(
    sweeps: Sweeps,
    *,
    shapes: Sequence[tuple[int, int, tuple[float, ...]]] = ENSEMBLE,
    method: Stepping = gradient_descent,
    steps: int = STEPS,
) -> Runs:
    """Factorise three matrices of exact rank, of the scale ε of the theorem, with a step that is not as small."""

    def descended(m: int, n: int, values: tuple[float, ...]) -> xr.Dataset:
        problem = Factorization(np.asarray(values), shape=(m, n))
        start = Gaussian(len(values), scale=proven_scale(m, n, values))
        run = Run(problem, start, method(STEP_SIZE))
        found = sweeps(f"d{len(values)}", lambda: run, max_steps=steps, tolerance=TOLERANCE)
        said = {"rank": len(values), "times_proven_step": STEP_SIZE / proven_step(m, n, values)}
        return found.assign_attrs(said)

    return {f"d{len(values)}": descended(m, n, values) for m, n, values in shapes}


def frozen(step_size: float) -> Callable[[Factors, Factors], Factors]:
    """Return descent that never moves V, which Theorem 1.1 is not about."""
    return lambda gradient, _: Factors(-step_size * gradient.U, jnp.zeros_like(gradient.V))


def _converge(runs: Runs) -> list[Finding]:
    return [
        always(f"{_said(found)}: fraction of starts that come within {TOLERANCE:g}", _converged(found))
        for found in runs.values()
    ]


def _converged(runs: xr.Dataset) -> np.ndarray:
    return (runs.outcome == "converged").values


def _said(runs: xr.Dataset) -> str:
    m, n = runs.attrs["shape"]
    return f"{m}×{n}, d={runs.attrs['rank']}"


def _steps_of(runs: Runs) -> list[Hypothesis]:
    """Return by how much the step is beyond the proven one: its constant is not known, so nothing follows."""
    largest = max(found.attrs["times_proven_step"] for found in runs.values())
    return [Hypothesis("η over σ_dε²/(dσ₁³), at most", largest, "O(1), by a constant that is not stated", None)]


def _survivors(runs: Runs) -> Plot:
    """Plot the share of starts that have not arrived against steps, beside the budget by which all shall have."""
    measured = []
    for found in runs.values():
        left = stats.time_to(found, TOLERANCE).survival()
        shown = left.isel(time=slice(None, None, max(1, left.sizes["time"] // 400)))
        shown = shown.where(shown > 0, drop=True)
        measured.append(Series(_said(found), shown.time.values, shown.values))
    count = next(iter(runs.values())).sizes["seed"]
    ends = np.array([min(one.x[-1] for one in measured) / 10, max(one.x[-1] for one in measured) * 1.1])
    promised = [Series("fewer than one start", ends, ends, np.full(2, 0.2 / count), np.full(2, 1 / count))]
    return Plot("step $t$", "starts that have not arrived", measured, promised, y_scale="log")


YEDU_ENSEMBLE = Preset(
    name="yedu_ensemble",
    place="Theorem 1.1",
    randomness="A seed draws the start; the targets are fixed.",
    needs_x64=True,
    seeds=10_000,
    seconds=12,
    job=ensemble,
    sweeps=len(ENSEMBLE),
)

C1 = Claim(
    id="C1",
    place="Theorem 1.1",
    statement="Descent from a small Gaussian start always comes as near to a target of exact rank as one likes, though "
    "its steps are thousands of times longer than the proof allows.",
    formula="P(‖UVᵀ − Σ‖ ≤ δ) → 1 from entries N(0, ε²), ε = σ_d/(√(dσ₁)(m+n))",
    preset=YEDU_ENSEMBLE,
    judge=_converge,
    plot=_survivors,
    power=Power("that 3 in 10,000 starts fail", 10_000, lambda rng: [always("", rng.random(10_000) > 3e-4)]),
    control=Control(
        "V is never moved, so that its random columns would have to span the target's",
        changed={"method": frozen},
        small={"shapes": ENSEMBLE[:1]},
        seeds=50,
    ),
    hypotheses=_steps_of,
    departure="The theorem's η = O(σ_dε²/(dσ₁³)) needs some 10⁵ steps; η = 0.05 is in the table of presets.",
)

PAPER = Paper(
    __name__,
    title="Global Convergence of Gradient Descent for Asymmetric Low-Rank Matrix Factorization",
    authors=("Tian Ye", "Simon S. Du"),
    year=2021,
    claims=(C1, C2),
)
