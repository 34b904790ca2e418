"""Numbers worth recording, each a function of a problem and a pair of factors.

Any such function serves as a record of `descend` and `sweep`; its name labels the result.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, ScalarLike

from jaxfact.decompositions import eigenvalues, svd
from jaxfact.factors import AnyFactors, Factors, TiedFactor, as_pair
from jaxfact.factors import singular_values as product_singular_values
from jaxfact.inputs import problem_with
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.products import gram

Measure = Callable[[Any, Any], PyTree]


class YeDu(NamedTuple):
    """Magnitudes of Ye & Du's blocks (2021, §2.1): signal A, asymmetry B, residual P + Q, and the decaying J, K.

    `A_min` and `A_max` are σ_q(A) and σ₁(A), `P_min` and `P_max` eigenvalues of P, `J` and `K` spectral norms, `B` and
    `Q` Frobenius norms. A, B, J, K are in √σ₁, P and Q in σ₁.
    """

    A_min: Float[Array, ""]
    A_max: Float[Array, ""]
    B: Float[Array, ""]
    P_min: Float[Array, ""]
    P_max: Float[Array, ""]
    Q: Float[Array, ""]
    J: Float[Array, ""]
    K: Float[Array, ""]


def loss(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return the problem's loss; ½‖UVᵀ − Σ‖²_F in σ₁² for a factorisation."""
    return problem.loss(factors)


def distance(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖UVᵀ − Σ_d‖_F/‖Σ_d‖_F, not squared; a pure number."""
    return problem.distance(factors)


def excess(problem: Factorization, factors: Factors) -> Float[Array, ""]:
    """Return the loss above the optimum of this width, in σ₁²; about the distance squared."""
    return problem.excess(factors)


def energy(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖U‖²_F + ‖V‖²_F, in σ₁; twice the nuclear norm of UVᵀ where the factors are balanced."""
    return factors.energy


def misfit(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖𝒜(UVᵀ) − y‖/‖y‖, the relative residual on the observed data, not squared; a pure number."""
    return problem.misfit(factors)


def imbalance(problem: Problem, factors: Factors) -> Float[Array, ""]:
    """Return ‖UᵀU − VᵀV‖_F, in σ₁; conserved by gradient flow (Du, Hu & Lee 2018).

    Raises ValueError for the one factor of a tied problem, which has none.
    """
    if isinstance(factors, TiedFactor):
        raise problem_with("imbalance", "one factor", "needs a pair of factors", "leave it out of the records")
    return jnp.linalg.norm(gram(factors.U) - gram(factors.V))


def singular_values(problem: Problem, factors: AnyFactors) -> Float[Array, " k"]:
    """Return the min(m, n, d) singular values of UVᵀ, largest first, in σ₁."""
    return product_singular_values(factors)


def gradient_norm(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return √(‖∇_U f‖²_F + ‖∇_V f‖²_F), in σ₁^{3/2}."""
    return jnp.sqrt(problem.gradient(factors).energy)


def sharpness(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return the largest eigenvalue of the loss's Hessian, in σ₁, by 20 Lanczos steps from a fixed start.

    At an exact fit it is σ₁²(U) + σ₁²(V) ≥ 2σ₁(Σ), so gradient descent can only settle where η·sharpness ≤ 2. Lanczos
    values approach from below: on isolated eigenvalues to rounding, in a cluster to about a per cent.
    """
    flat, unravel = ravel_pytree(factors)
    size = min(20, flat.size)

    def times_hessian(vector):
        product = jax.jvp(problem.gradient, (factors,), (unravel(vector),))[1]
        return ravel_pytree(product)[0]

    def lanczos(carry, index):
        basis, vector = carry
        basis = basis.at[index].set(vector)
        image = times_hessian(vector)
        rest = image
        for _ in range(2):  # one pass of Gram-Schmidt loses orthogonality once a Ritz value has converged
            rest = rest - basis.T @ (basis @ rest)
        norm = jnp.linalg.norm(rest)
        following = jnp.where(norm > 1e-6 * jnp.linalg.norm(image), rest / jnp.maximum(norm, 1e-30), 0)
        return (basis, following), image

    first = jax.random.normal(jax.random.key(0, impl="threefry2x32"), flat.shape, flat.dtype)
    empty = jnp.zeros((size, flat.size), flat.dtype)
    (basis, _), images = jax.lax.scan(lanczos, (empty, first / jnp.linalg.norm(first)), jnp.arange(size))
    projected = basis @ images.T
    # An invariant subspace met early leaves zero rows, whose eigenvalue 0 must not win over negative ones.
    missing = jnp.sum(basis**2, axis=1) < 0.5
    projected = (projected + projected.T) / 2 - jnp.diag(jnp.where(missing, 1e3 * jnp.abs(projected).max(), 0))
    return eigenvalues(projected)[-1]


def relative_sharpness(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return sharpness/(σ₁²(U) + σ₁²(V)), a pure number: how much smaller steps must be than on the observed matrix.

    It is 1 at an exact fit of a fully observed target, tied or not, and near 1 at a fit where 𝒜*𝒜 is near the identity
    on low-rank matrices; away from a fit it means nothing.
    """
    U, V = as_pair(factors)
    return sharpness(problem, factors) / (eigenvalues(gram(U))[-1] + eigenvalues(gram(V))[-1])


def stability(step_size: ScalarLike) -> Measure:
    """Return the measure η·sharpness/2: above 1 a minimiser repels gradient descent; `step_size` in 1/σ₁."""

    def stability(problem: Problem, factors: Factors) -> Float[Array, ""]:
        return jnp.asarray(step_size) * sharpness(problem, factors) / 2

    return stability


def ye_du(problem: Factorization, factors: Factors) -> YeDu:
    """Return the magnitudes of A = (U+V)/2, B = (U−V)/2, P = S − AAᵀ + BBᵀ, Q = ABᵀ − BAᵀ, J and K.

    U and V are the first q = min(r, d) rows in singular coordinates, J and K the others (Ye & Du 2021, §2.1).
    """
    U, V, J, K, _ = problem.coordinates(factors)
    A, B = (U + V) / 2, (U - V) / 2
    P = jnp.diag(problem.singular_values[: len(U)]) - A @ A.T + B @ B.T
    Q = A @ B.T - B @ A.T
    A_max, A_min = _ends(svd(A)[1]) if len(A) else (0.0, 0.0)
    P_min, P_max = _ends(eigenvalues(P)) if len(P) else (0.0, 0.0)
    return YeDu(
        A_min=jnp.asarray(A_min),
        A_max=jnp.asarray(A_max),
        B=jnp.linalg.norm(B),
        P_min=jnp.asarray(P_min),
        P_max=jnp.asarray(P_max),
        Q=jnp.linalg.norm(Q),
        J=_spectral_norm(J),
        K=_spectral_norm(K),
    )


def ye_du_constant(problem: Factorization, factors: Factors, scale: ScalarLike) -> Float[Array, ""]:
    """Return c_run, the least constant with which a start meets Ye & Du's initial event (2021, §3).

    max{ε/(√d σ_d(A)), σ₁(A)/(ε√d), ‖B‖_F/(dε), ‖J‖/(ε√max(m−d, d)), ‖K‖/(ε√max(n−d, d))}; `scale` ε in √σ₁.
    """
    size = ye_du(problem, factors)
    d = factors.width
    m, n = problem.shape
    return jnp.max(
        jnp.stack(
            [
                scale / (d**0.5 * size.A_min),
                size.A_max / (scale * d**0.5),
                size.B / (d * scale),
                size.J / (scale * jnp.maximum(m - d, d) ** 0.5),
                size.K / (scale * jnp.maximum(n - d, d) ** 0.5),
            ]
        )
    )


def _ends(values: Float[Array, " k"]) -> tuple[Array, Array]:
    return values[0], values[-1]


def _spectral_norm(matrix: Float[Array, "k d"]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.maximum(eigenvalues(matrix.T @ matrix)[-1], 0))
