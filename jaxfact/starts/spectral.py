"""Starts from the data: projected-gradient warm starts, and random columns of the matrix."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxfact.inputs import non_negative, positive, positive_integer, problem_with
from jaxfact.numerics.draws import fold
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor, as_pair
from jaxfact.problems.partial import PartiallyObserved, balanced_pair, semidefinite_factor
from jaxfact.problems.tied import Tied
from jaxfact.starts.random import Start, standard_factors, whole_width


def _whole_steps(steps: Any) -> int:
    instead = "3·log(√r·κ) + 5 is enough for the theorem; 1 is the Spectral start"
    return positive_integer("steps", steps, instead)


class ProjectedGradient(Start):
    """Balanced factors after `steps` of M⁺ = P_d(M − 𝒜*(𝒜(M) − y)) from M = 0 (Tu et al. 2016, with step size 1).

    P_d is the best approximation of rank d = `width`, positive semidefinite where the problem is tied. The first step
    is the `Spectral` start; on a fully observed target that is a fixed point, and is returned at once. Each step
    decomposes an m×n matrix: on the host, once for all runs, unless the problem depends on the key or the point.

    Raises ValueError for a width or a number of steps below 1.
    """

    width: int = eqx.field(static=True, converter=whole_width)
    steps: int = eqx.field(static=True, converter=_whole_steps)

    compresses: ClassVar[bool] = True

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Return the factors; the key is not used."""
        observed = problem.problem if isinstance(problem, Tied) else problem
        factors = problem.truncation(self.width)
        if not isinstance(observed, PartiallyObserved):
            return factors
        nearest = semidefinite_factor if isinstance(problem, Tied) else balanced_pair
        with jax.ensure_compile_time_eval():
            for _ in range(self.steps - 1):
                factors = nearest(factors.product - observed.residual_matrix(as_pair(factors)), self.width)
        return factors


class ColumnSpace(Start):
    """Random combinations of the target's columns on the left: U₀ = left·ΣΦ₁/√d, V₀ = right·Φ₂/√n.

    Φ₁ and Φ₂ are n×d matrices of independent standard normals, and Σ the target: 𝒜*(y) where it is partly observed.
    `left` is in 1/√σ₁ and `right` in √σ₁. With right = 0 it is the start of Xu, Wang, Zhao, Ward & Tao (2024), large on
    the left; `ward_kolda` gives that of Ward & Kolda (2023).

    Raises ValueError for a width below 1, a `left` that is not above 0, a negative `right`, and one tied factor.
    """

    width: int = eqx.field(static=True, converter=whole_width)
    left: ScalarLike
    right: ScalarLike = 0.0

    compresses: ClassVar[bool] = True

    def __check_init__(self) -> None:
        positive("left", self.left, "50 is a large start; see ward_kolda for a moderate one")
        non_negative("right", self.right, "0 starts with V = 0")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> Factors:
        """Draw Φ₁ and Φ₂, each from its own key."""
        first, second = (standard_factors(fold(key, i), problem, self.width) for i in range(2))
        if isinstance(first, TiedFactor):
            raise problem_with("start", "ColumnSpace", "needs the two factors of a pair", "leave Tied out")
        scales = self.left / self.width**0.5, self.right / jnp.asarray(problem.shape[1]) ** 0.5
        left, right = (jnp.asarray(scale, problem.dtype) for scale in scales)
        return Factors(left * _columns(problem, first), right * second.V)


def ward_kolda(width: int, step_size: ScalarLike, C: ScalarLike = 8.0, nu: ScalarLike = 0.5) -> ColumnSpace:
    """Return the start U₀ = ΣΦ₁/(√(η·d)·C), V₀ = √(η/n)·(Cν/9)·Φ₂ of alternating descent (Ward & Kolda 2023).

    `step_size` η is in 1/σ₁; theirs is 9/(4Cν), 9/16 at the defaults. The theorem requires C ≥ 4 and ν ≤ ½.
    Raises ValueError for a step size, C or nu that is not above 0.
    """
    for name, value in (("step_size", step_size), ("C", C), ("nu", nu)):
        positive(name, value, "9/16, 8 and 1/2 go together")
    root = jnp.sqrt(step_size)
    return ColumnSpace(width, left=1 / (root * C), right=root * C * nu / 9)


def _columns(problem: Problem, mix: Factors) -> Float[Array, "m d"]:
    """Return ΣΦ or 𝒜*(y)Φ for Φ = mix.V: the gradient in U at the product 0 is −𝒜*(y)V, in compressed form too."""
    return -problem.gradient(Factors(jnp.zeros_like(mix.U), mix.V)).U
