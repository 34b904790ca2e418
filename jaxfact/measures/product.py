"""Numbers worth recording, each a function of a problem and its factors.

Any such function serves as a record of `descend` and `sweep`; these are found by name too.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxfact.inputs import problem_with
from jaxfact.measures.base import measure
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor
from jaxfact.problems.factors import singular_values as product_singular_values


@measure(text="loss", unit="σ₁²", latex=r"$f \,/\, \sigma_1^2$")
def loss(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return the problem's loss; ½‖UVᵀ − Σ‖²_F in σ₁² for a factorisation."""
    return problem.loss(factors)


@measure(text="‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F", unit="1", latex=r"$\|UV^\top-\Sigma_d\|_F \,/\, \|\Sigma_d\|_F$")
def distance(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖UVᵀ − Σ_d‖_F/‖Σ_d‖_F, not squared; a pure number."""
    return problem.distance(factors)


@measure(text="loss above the optimum", unit="σ₁²", latex=r"$(f-f^\star) \,/\, \sigma_1^2$")
def excess(problem: Factorization, factors: Factors) -> Float[Array, ""]:
    """Return the loss above the optimum of this width, in σ₁²; about the distance squared."""
    return problem.excess(factors)


@measure(text="‖U‖²_F+‖V‖²_F", unit="σ₁", latex=r"$(\|U\|_F^2+\|V\|_F^2) \,/\, \sigma_1$")
def energy(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖U‖²_F + ‖V‖²_F, in σ₁; twice the nuclear norm of UVᵀ where the factors are balanced."""
    if not isinstance(factors, Factors):
        return factors.energy
    UU, VV = problem.grams(factors)
    return jnp.trace(UU) + jnp.trace(VV)


@measure(text="‖𝒜(UVᵀ)−y‖/‖y‖", unit="1", latex=r"$\|\mathcal{A}(UV^\top)-y\| \,/\, \|y\|$")
def misfit(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖𝒜(UVᵀ) − y‖/‖y‖, the relative residual on the observed data, not squared; a pure number."""
    return problem.misfit(factors)


@measure(text="‖UᵀU−VᵀV‖_F", unit="σ₁", latex=r"$\|U^\top U-V^\top V\|_F \,/\, \sigma_1$")
def imbalance(problem: Problem, factors: Factors) -> Float[Array, ""]:
    """Return ‖UᵀU − VᵀV‖_F, in σ₁; conserved by gradient flow (Du, Hu & Lee 2018).

    Raises ValueError for the one factor of a tied problem, which has none.
    """
    if isinstance(factors, TiedFactor):
        raise problem_with("imbalance", "one factor", "needs a pair of factors", "leave it out of the records")
    UU, VV = problem.grams(factors)
    return jnp.linalg.norm(UU - VV)


@measure(text="singular values of UVᵀ", unit="σ₁", latex=r"$\sigma_k(UV^\top) \,/\, \sigma_1$")
def singular_values(problem: Problem, factors: AnyFactors) -> Float[Array, " k"]:
    """Return the min(m, n, d) singular values of UVᵀ, largest first, in σ₁."""
    return product_singular_values(factors)


@measure(text="‖∇f‖_F", unit="σ₁^{3/2}", latex=r"$\|\nabla f\|_F \,/\, \sigma_1^{3/2}$")
def gradient_norm(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return √(‖∇_U f‖²_F + ‖∇_V f‖²_F), in σ₁^{3/2}."""
    return jnp.sqrt(problem.gradient(factors).energy)
