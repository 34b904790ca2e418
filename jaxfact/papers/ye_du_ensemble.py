"""The experiments of Ye & Du's Theorem 1.1: matrices of exact rank from starts of the theorem's scale."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.measures import loss
from jaxfact.methods import gradient_descent
from jaxfact.papers.claims import Hypothesis, Preset, Runs, Sweeps
from jaxfact.papers.ye_du_stages import stages
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.starts import Gaussian

STEP_SIZE, STEPS, TOLERANCE = 0.05, 20_000, 1e-6
Shape = tuple[int, int, tuple[float, ...]]
ENSEMBLE: tuple[Shape, ...] = (
    (10, 10, (1.0, 0.5)),
    (20, 15, (1.0, 0.7, 0.4)),
    (30, 30, (1.0, 0.8, 0.6, 0.4, 0.2)),
)
"""m, n and the singular values, as many as the width."""
TINY = ENSEMBLE[0]
TINY_STEPS, TINY_LOSS = 310_000, 1e-8
_RECORDED = (*range(0, 80, 10), *(10 * eighth * 2**octave for octave in range(9) for eighth in range(8, 16)))

Stepping = Callable[[float], optax.GradientTransformation | Callable]


def proven_scale(m: int, n: int, values: Sequence[float]) -> float:
    """Return ε = σ_d/(√(dσ₁)(m+n)) of Theorem 1.1, without the constant and the logarithms that are not stated."""
    return values[-1] / ((len(values) * values[0]) ** 0.5 * (m + n))


def proven_step(m: int, n: int, values: Sequence[float]) -> float:
    """Return η = σ_dε²/(dσ₁³) of Theorem 1.1, without its constant."""
    return values[-1] * proven_scale(m, n, values) ** 2 / (len(values) * values[0] ** 3)


def ensemble(
    sweeps: Sweeps, *, shapes: Sequence[Shape] = ENSEMBLE, method: Stepping = gradient_descent, steps: int = STEPS
) -> Runs:
    """Factorise three matrices of exact rank, of the scale ε of the theorem, with a step that is not as small."""
    told = {"max_steps": steps, "tolerance": TOLERANCE, "every": [step for step in _RECORDED if step <= steps]}
    return {f"d{len(shape[2])}": _descended(sweeps, shape, STEP_SIZE, method, **told) for shape in shapes}


def tiny(sweeps: Sweeps, *, method: Stepping = gradient_descent) -> Runs:
    """Factorise the smallest of them with the step that is proven, as long as it takes."""
    level = (2 * TINY_LOSS) ** 0.5 / float(np.linalg.norm(TINY[2]))
    told = {"max_steps": TINY_STEPS, "tolerance": None, "levels": (level,), "every": 2_000, "check_every": 1_000}
    return {"runs": _descended(sweeps, TINY, proven_step(*TINY), method, **told)}


def _descended(sweeps: Sweeps, shape: Shape, step_size: float, method: Stepping, **told: Any) -> xr.Dataset:
    m, n, values = shape
    scale = proven_scale(*shape)
    run = Run(Factorization(np.asarray(values), shape=(m, n)), Gaussian(len(values), scale=scale), method(step_size))
    found = sweeps(f"d{len(values)}", lambda: run, record={"stages": stages, "loss": loss}, **told)
    known = {"rank": len(values), "least": values[-1], "start_scale": scale, "descent_step": step_size}
    return found.assign_attrs(known | {"times_proven_step": step_size / proven_step(*shape)})


def frozen(step_size: float) -> Callable[[Factors, Factors], Factors]:
    """Return descent that never moves V, which Theorem 1.1 is not about."""
    return lambda gradient, _: Factors(-step_size * gradient.U, jnp.zeros_like(gradient.V))


def heavy_ball(step_size: float) -> optax.GradientTransformation:
    """Return descent with momentum 0.9, which overshoots."""
    return optax.sgd(step_size, momentum=0.9)


def tenth(step_size: float) -> optax.GradientTransformation:
    """Return descent with a tenth of the step, which is slower than is promised for the step itself."""
    return gradient_descent(step_size / 10)


def said(runs: xr.Dataset) -> str:
    """Say what was factorised: its shape and rank."""
    m, n = runs.attrs["shape"]
    return f"{m}×{n}, d={runs.attrs['rank']}"


def steps_beyond(runs: Runs) -> list[Hypothesis]:
    """Return by how much the step is beyond the proven one: its constant is not known, so nothing follows."""
    largest = max(found.attrs["times_proven_step"] for found in runs.values())
    return [Hypothesis("η over σ_dε²/(dσ₁³), at most", largest, "O(1), by a constant that is not stated", None)]


YEDU_ENSEMBLE = Preset(
    name="yedu_ensemble",
    place="Theorem 1.1",
    randomness="A seed draws the start; the targets are fixed.",
    needs_x64=True,
    seeds=10_000,
    seconds=20,
    job=ensemble,
    sweeps=len(ENSEMBLE),
)

YEDU_TINY_THEORY = Preset(
    name="yedu_tiny_theory",
    place="Theorem 1.1",
    randomness="A seed draws the start; the target is fixed.",
    needs_x64=True,
    seeds=64,
    seconds=6,
    job=tiny,
)
