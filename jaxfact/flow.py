"""Gradient flow, the limit of small steps, where it has a closed form."""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, ScalarLike

from jaxfact.choices import listed
from jaxfact.inputs import problem_with
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors


def logistic_mode(value: ScalarLike, start: ScalarLike, time: ScalarLike) -> Float[Array, ""]:
    """Return s(t) = s⋆/(1 + (s⋆/s₀ − 1)e^{−2s⋆t}), a singular value of UVᵀ that starts aligned and balanced.

    `value` s⋆ is the target's singular value, `start` s₀ that of U₀V₀ᵀ, `time` is in 1/σ₁ (Saxe et al. 2014).
    """
    value, start, time = jnp.asarray(value), jnp.asarray(start), jnp.asarray(time)
    return value / (1 + (value / start - 1) * jnp.exp(-2 * value * time))


def balanced_flow(problem: Factorization, factors: Factors, time: ScalarLike) -> Float[Array, "m n"]:
    """Return UVᵀ(t) of gradient flow from a λ-balanced start, U₀ᵀU₀ − V₀ᵀV₀ = λI, for any λ; in σ₁.

    With Q = [U; V] and F = [[λ/2·I, Σ], [Σᵀ, −λ/2·I]], QQᵀ(t) = e^{Ft}Q₀(I + Q₀ᵀ(∫₀ᵗ e^{2Fs} ds)Q₀)⁻¹Q₀ᵀe^{Ft}
    (Fukumizu 1998; Braun et al. 2022). `time` is in 1/σ₁. F is (m+n)×(m+n) and its exponential grows, so this is for
    small problems in float64.

    Raises ValueError where the start is not λ-balanced.
    """
    D = factors.imbalance
    balance = jnp.trace(D) / len(D)
    if not isinstance(D, Tracer):
        defect = float(jnp.abs(D - balance * jnp.eye(len(D))).max())
        if defect > 1e-6 * float(factors.energy):
            raise problem_with(
                "factors", f"imbalance off λI by {defect:.2g}", "needs UᵀU − VᵀV = λI", "start from Balanced"
            )
    m, n = problem.shape
    Q = jnp.concatenate(factors)
    target = problem.target
    half = balance / 2
    F = jnp.block([[half * jnp.eye(m), target], [target.T, -half * jnp.eye(n)]])
    values, vectors = jnp.linalg.eigh(F)
    grown = jnp.exp(values * time)
    doubled = 2 * values
    small = jnp.abs(doubled * time) < 1e-8
    integral = jnp.where(small, time, jnp.expm1(doubled * time) / jnp.where(small, 1, doubled))
    along = vectors.T @ Q
    inner = jnp.eye(Q.shape[1]) + along.T @ (integral[:, None] * along)
    moved = vectors @ (grown[:, None] * along)
    return (moved @ jnp.linalg.solve(inner, moved.T))[:m, m:]


def __dir__() -> list[str]:
    return listed(globals())
