"""Fresh measurements at every step: the single-epoch setting of matrix sensing."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxfact.inputs import positive, problem_with
from jaxfact.methods.base import Method
from jaxfact.numerics.draws import chi, fold, normal
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors


def fresh_batch(count: ScalarLike) -> Method:
    """Replace the gradient of a factorisation with that of `count` = p Gaussian measurements drawn anew at every step.

    With R = UVᵀ − Σ and A_i of standard normal entries the gradients are GV and GᵀU of G = (1/p)Σ⟨A_i, R⟩A_i, whose
    mean is R (Wind 2023, v2, Theorem 2.9). G is drawn in law and no A_i is stored: with R̂ = R/‖R‖_F, χ a chi variable
    with p degrees of freedom and N standard normal, G = ‖R‖_F(χ²/p·R̂ + χ/p·(N − ⟨N, R̂⟩R̂)), because the part of A_i
    along R is independent of the part across it. So E‖G − R‖²_F = ‖R‖²_F(mn+1)/p.

    `count` may be an axis of a sweep. Put it first in a chain: `optax.chain(fresh_batch(1000), gradient_descent(0.1))`.
    Raises ValueError for a count that is not above 0, and where the problem is not a `Factorization`.
    """
    positive("count", count, "the number of measurements per step")

    def init(factors: Factors) -> optax.EmptyState:
        return optax.EmptyState()

    def update(gradient, state: optax.EmptyState, factors: Factors, *, key: PRNGKeyArray, problem=None, **_):
        if not isinstance(problem, Factorization):
            needed = "fresh measurements need a known matrix"
            given = "none" if problem is None else type(problem).__name__
            raise problem_with("problem", given, needed, "give the Factorization of the truth")
        G = _batch(key, factors.product - problem.target, count)
        return Factors(G @ factors.V, G.T @ factors.U), state

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def _batch(key: PRNGKeyArray, residual: Float[Array, "m n"], count: ScalarLike) -> Float[Array, "m n"]:
    """Draw 𝒜*𝒜(R) of a fresh Gaussian 𝒜."""
    count = jnp.asarray(count, residual.dtype)
    norm = jnp.linalg.norm(residual)
    along = residual / jnp.where(norm > 0, norm, 1)
    noise = normal(fold(key, 0), residual.shape, residual.dtype)
    across = noise - jnp.sum(noise * along) * along
    length = chi(fold(key, 1), count[None])[0]
    return norm * length / count * (length * along + across)
