"""The blocks of Ye & Du (2021): signal, asymmetry, residual, and what decays."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from jaxfact.measures.base import Label, measure
from jaxfact.numerics.decompositions import eigenvalues, svd
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors


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


_FIELDS = {
    "A_min": Label("least singular value of the signal A", "√σ₁", r"$\sigma_q(A) \,/\, \sqrt{\sigma_1}$"),
    "A_max": Label("largest singular value of the signal A", "√σ₁", r"$\sigma_1(A) \,/\, \sqrt{\sigma_1}$"),
    "B": Label("asymmetry ‖B‖_F", "√σ₁", r"$\|B\|_F \,/\, \sqrt{\sigma_1}$"),
    "P_min": Label("least eigenvalue of the residual P", "σ₁", r"$\lambda_{\min}(P) \,/\, \sigma_1$"),
    "P_max": Label("largest eigenvalue of the residual P", "σ₁", r"$\lambda_{\max}(P) \,/\, \sigma_1$"),
    "Q": Label("‖Q‖_F of the residual", "σ₁", r"$\|Q\|_F \,/\, \sigma_1$"),
    "J": Label("‖J‖, which decays", "√σ₁", r"$\|J\| \,/\, \sqrt{\sigma_1}$"),
    "K": Label("‖K‖, which decays", "√σ₁", r"$\|K\| \,/\, \sqrt{\sigma_1}$"),
}


@measure(fields=_FIELDS)
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
