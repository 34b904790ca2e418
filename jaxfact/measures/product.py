"""Numbers worth recording, each a function of a problem and a pair of factors.

Any such function serves as a record of `descend` and `sweep`; its name labels the result.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxfact.inputs import problem_with
from jaxfact.numerics.products import gram
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor
from jaxfact.problems.factors import singular_values as product_singular_values


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
