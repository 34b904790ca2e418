"""Problems in one symmetric factor, X Xᵀ: the setting of the papers on positive semidefinite matrices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxfact.inputs import problem_with
from jaxfact.numerics.draws import fold, normal
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import TiedFactor, as_pair
from jaxfact.problems.partial import PartiallyObserved, semidefinite_factor

_SYMMETRIC = 1e-5


class Tied(Problem):
    """A square problem with V = U = X: half the loss of `problem` at (X, X).

    The gradient is the mean of the two blocks of the problem's gradient. So ½‖UVᵀ − Σ‖²_F becomes ¼‖XXᵀ − Σ‖²_F with
    gradient (XXᵀ − Σ)X (Stöger & Soltanolkotabi 2021; Chen et al. 2024; Ma & Fattahi 2024), and a step size means what
    it means there. Factors are a `TiedFactor`. There is no imbalance: that record is absent, and balanced and
    alternating descent are refused.

    Raises ValueError where the problem is not square, or its truth is known and not symmetric positive semidefinite.
    """

    problem: Problem

    def __init__(self, problem: Problem):
        if not isinstance(problem, Problem) or isinstance(problem, Tied):
            raise problem_with("problem", type(problem).__name__, "needs a problem in two factors", "give that one")
        m, n = problem.shape
        if problem.rows[0] != problem.rows[1]:
            raise problem_with("problem", f"{m}×{n}", "one factor needs a square matrix", "leave Tied out")
        if problem.truth is not None:
            _check_semidefinite(problem.truth)
        self.problem = problem

    @property
    def shape(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sizes of the matrix."""
        return self.problem.shape

    @property
    def unit(self) -> Float[Array, ""]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The unit of the problem in two factors."""
        return self.problem.unit

    @property
    def unit_name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the unit is."""
        return self.problem.unit_name

    @property
    def summary(self) -> str:
        """How much of the matrix is seen, in a few words."""
        return f"{self.problem.summary}, in one factor X Xᵀ"

    @property
    def misfits(self) -> bool:
        """Whether the data can be fitted without the truth being found."""
        return self.problem.misfits

    @property
    def lanes(self) -> int | None:
        """The hint of the problem in two factors."""
        return self.problem.lanes

    @property
    def truth(self) -> Factorization | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The matrix sought, where it is known."""
        return self.problem.truth

    def loss(self, factors: TiedFactor) -> Float[Array, ""]:
        """Return ½·loss(X, X), in unit²."""
        return self.problem.loss(as_pair(factors)) / 2

    def gradient(self, factors: TiedFactor) -> TiedFactor:
        """Return (∇_U + ∇_V)/2 at (X, X), in unit^{3/2}."""
        blocks = as_pair(self.problem.gradient(as_pair(factors)))
        return TiedFactor((blocks.U + blocks.V) / 2)

    def distance(self, factors: TiedFactor) -> Float[Array, ""]:
        """Return the distance of X Xᵀ, as for U Vᵀ."""
        return self.problem.distance(as_pair(factors))

    def misfit(self, factors: TiedFactor) -> Float[Array, ""]:
        """Return the relative residual of X Xᵀ on the data."""
        return self.problem.misfit(as_pair(factors))

    def standard_normal(self, key: PRNGKeyArray, width: int) -> TiedFactor:
        """Draw one factor of independent standard normal entries."""
        return TiedFactor(normal(fold(key, 0), (self.problem.rows[0], width), self.dtype))

    def truncation(self, width: int) -> TiedFactor:
        """Return X with X Xᵀ the best positive semidefinite approximation of rank `width` that the data give.

        For a partly observed matrix it is that of the symmetric part of 𝒜*(y), as in Ma & Fattahi (2024, Lemma 1).
        """
        if isinstance(self.problem, PartiallyObserved):
            with jax.ensure_compile_time_eval():  # inside a trace known arrays would be traced, and decomposed by loops
                return semidefinite_factor(self.problem.back_projection(), width)
        U, V = self.problem.truncation(width)
        # For a symmetric matrix V is U up to the sign of columns with a negative eigenvalue, which X Xᵀ cannot have.
        return TiedFactor(jnp.where(jnp.sum(U * V, axis=0) > 0, (U + V) / 2, 0))

    def used_columns(self, width: int) -> Bool[Array, " d"] | None:
        """Tell which columns of factors of this width are not padding."""
        return self.problem.used_columns(width)


def _check_semidefinite(truth: Factorization) -> None:
    """Refuse a target that is not symmetric positive semidefinite; traced ones pass."""
    left, right = truth.left, truth.right
    if left is None or right is None or isinstance(left, Tracer) or isinstance(right, Tracer):
        return
    values, P, Q = (np.asarray(x, float) for x in (truth.singular_values, left, right))
    matrix = (P * values) @ Q.T
    skew = float(np.abs(matrix - matrix.T).max(initial=0))
    if skew > _SYMMETRIC:
        given = f"a target with ‖Σ − Σᵀ‖_max = {skew:.1e}"
        raise problem_with("target", given, "one factor needs a symmetric matrix", "leave Tied out, or symmetrise it")
    least = float(np.linalg.eigvalsh(Q.T @ matrix @ Q).min(initial=0))
    if least < -_SYMMETRIC:
        given = f"a target with the eigenvalue {least:.1e} (in {truth.unit_name})"
        raise problem_with("target", given, "X Xᵀ has none below 0", "leave Tied out, or drop the negative part")
