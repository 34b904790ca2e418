"""What sensing and completion share: the matrix is seen through fewer numbers than it has."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxfact.numerics.decompositions import svd
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import Factors, TiedFactor


class PartiallyObserved(Problem):
    """A problem ½‖𝒜(UVᵀ) − y‖² with E 𝒜*𝒜 = I, whose data may be fitted without the matrix being found.

    `truth` is the matrix sought, where it is known; then the unit is its σ₁ and `distance` is to it. Elsewhere the
    unit is ‖𝒜*y‖₂, a different number, and the distance is NaN: a run can fit but not converge.
    """

    @property
    def misfits(self) -> bool:
        """Whether the data can be fitted without the truth being found."""
        return True

    @property
    def unit_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the unit is."""
        return "‖𝒜*y‖₂" if self.truth is None else "σ₁"

    @abc.abstractmethod
    def misfit(self, factors: Factors) -> Float[Array, ""]:
        """Return ‖𝒜(UVᵀ) − y‖/‖y‖, not squared."""

    @abc.abstractmethod
    def back_projection(self) -> Float[Array, "m n"]:
        """Return 𝒜*(y), whose mean over the measurements is the matrix; in unit."""

    def distance(self, factors: Factors) -> Float[Array, ""]:
        """Return ‖UVᵀ − Σ_d‖_F/‖Σ_d‖_F, NaN where the truth is not known."""
        if self.truth is None:
            return jnp.full((), jnp.nan, self.dtype)
        return self.truth.distance(factors)

    def residual_matrix(self, factors: Factors) -> Float[Array, "m n"]:
        """Return 𝒜*(𝒜(UVᵀ) − y), the gradient of the loss in the product; in unit.

        It is ∇_U at the identity: the loss's ∇_U is this matrix times V, whatever further columns stand beside V.
        """
        m, n = self.shape
        U = jnp.concatenate([factors.U, jnp.zeros((m, n), factors.U.dtype)], axis=1)
        V = jnp.concatenate([factors.V, jnp.eye(n, dtype=factors.V.dtype)], axis=1)
        return self.gradient(Factors(U, V)).U[:, factors.width :]

    def truncation(self, width: int) -> Factors:
        """Return balanced factors of the best approximation of 𝒜*(y) of this rank (Ma, Li & Chi 2021, Alg. 1)."""
        with jax.ensure_compile_time_eval():  # inside a trace, known arrays would be traced, and decomposed by loops
            return balanced_pair(self.back_projection(), width)


def balanced_pair(matrix: Float[Array, "m n"], width: int) -> Factors:
    """Return P√S and Q√S for the best approximation P S Qᵀ of rank `width`; on the host unless traced."""
    left, values, right = leading(matrix, width)
    root = jnp.sqrt(values)
    return Factors(left * root, right * root)


def semidefinite_factor(matrix: Float[Array, "n n"], width: int) -> TiedFactor:
    """Return X with X Xᵀ the positive semidefinite matrix of rank `width` nearest to the matrix's symmetric part.

    Its columns are those of the largest eigenvalues, the negative ones replaced by zero; on the host unless traced.
    """
    symmetric, kept = (matrix + matrix.T) / 2, min(width, len(matrix))
    if isinstance(symmetric, Tracer):
        # A shift makes the largest eigenvalues the largest singular values: pairs ±λ share theirs, and would mix.
        shift = jnp.linalg.norm(symmetric)
        vectors, shifted, _ = svd(symmetric + shift * jnp.eye(len(matrix), dtype=matrix.dtype))
        values = shifted - shift
    else:
        values, vectors = (x[..., ::-1] for x in np.linalg.eigh(np.asarray(symmetric, float)))
    factor = jnp.asarray(vectors[:, :kept] * jnp.sqrt(jnp.maximum(values[:kept], 0)), matrix.dtype)
    return TiedFactor(jnp.pad(factor, ((0, 0), (0, width - kept))))


def leading(matrix: Float[Array, "m n"], width: int) -> tuple[Array, Array, Array]:
    """Return the first `width` singular vectors and values, zeros beyond min(m, n); on the host unless traced."""
    kept = min(width, *matrix.shape)
    if isinstance(matrix, Tracer):
        left, values, right = svd(matrix)
    else:
        left, values, transposed = np.linalg.svd(np.asarray(matrix, float), full_matrices=False)
        right = transposed.T
    unused = ((0, 0), (0, width - kept))
    parts: Any = (left[:, :kept], values[:kept], right[:, :kept])
    left, values, right = (jnp.asarray(x, matrix.dtype) for x in parts)
    return jnp.pad(left, unused), jnp.pad(values, unused[1]), jnp.pad(right, unused)
