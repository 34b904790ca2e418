"""How sharply the loss curves: the largest eigenvalues of its Hessian."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, ScalarLike

from jaxfact.inputs import positive_integer, problem_with
from jaxfact.measures.base import Measure, labelled, measure
from jaxfact.numerics.decompositions import eigenvalues
from jaxfact.numerics.draws import key_of
from jaxfact.numerics.products import gram
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, as_pair


@measure(text="sharpness", unit="σ₁", latex=r"$\lambda_{\max}(\nabla^2f) \,/\, \sigma_1$")
def sharpness(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return the largest eigenvalue of the loss's Hessian, in σ₁, by 20 Lanczos steps from a fixed start.

    At an exact fit it is σ₁²(U) + σ₁²(V) ≥ 2σ₁(Σ), so gradient descent can only settle where η·sharpness ≤ 2. Lanczos
    values approach it from below: to rounding for an isolated eigenvalue, to about one per cent in a cluster.
    """
    return _ritz_values(problem, factors, 20)[-1]


def curvatures(count: int, steps: int = 20) -> Measure:
    """Return the measure of the `count` largest eigenvalues of the loss's Hessian, in σ₁, largest first, by Lanczos.

    `steps` Hessian-vector products from a fixed random start, every vector orthogonalised twice against all others. An
    eigenvalue of several dimensions is found once, so at a balanced optimum they are 2σ₁, σ₁ + σ₂, …, without
    repetition. All are approached from below: after s steps the error of λ₁ is at most
    (λ₁ − λ_min)·(tan φ / T_{s−1}(1 + 2γ))², γ = (λ₁ − λ₂)/(λ₂ − λ_min), φ the angle from the start, T the Chebyshev
    polynomial (Kaniel 1966, Paige 1971). Later ones are less accurate. With as many steps as there are entries they are
    exact to rounding; where there are fewer distinct ones than `count` the rest are NaN.

    Raises ValueError for counts below 1, and more eigenvalues than steps.
    """
    positive_integer("count", count, "give the number of eigenvalues")
    positive_integer("steps", steps, "give the number of Hessian-vector products")
    if count > steps:
        raise problem_with("count", count, f"{steps} steps find {steps} eigenvalues at most", "give more steps")

    @labelled(text="largest curvatures", unit="σ₁", latex=r"$\lambda_k(\nabla^2f) \,/\, \sigma_1$")
    def curvatures(problem: Problem, factors: AnyFactors) -> Float[Array, " count"]:
        found = _ritz_values(problem, factors, steps)[::-1]
        return jnp.pad(found, (0, max(count - len(found), 0)), constant_values=jnp.nan)[:count]

    return curvatures


def _ritz_values(problem: Problem, factors: AnyFactors, steps: int) -> Float[Array, " steps"]:
    """Return the eigenvalues of the Hessian on the Krylov space of a fixed vector, smallest first, NaN before them."""
    flat, unravel = ravel_pytree(factors)
    size = min(steps, flat.size)

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

    first = jax.random.normal(key_of(0), flat.shape, flat.dtype)
    empty = jnp.zeros((size, flat.size), flat.dtype)
    (basis, _), images = jax.lax.scan(lanczos, (empty, first / jnp.linalg.norm(first)), jnp.arange(size))
    projected = basis @ images.T
    # An invariant subspace met early leaves zero rows, whose eigenvalue 0 must not beat negative ones.
    missing = jnp.sum(basis**2, axis=1) < 0.5
    projected = (projected + projected.T) / 2 - jnp.diag(jnp.where(missing, 1e3 * jnp.abs(projected).max(), 0))
    return jnp.where(jnp.arange(size) < jnp.sum(missing), jnp.nan, eigenvalues(projected))


@measure(
    text="sharpness/(σ₁²(U)+σ₁²(V))",
    unit="1",
    latex=r"$\lambda_{\max}(\nabla^2f) \,/\, (\sigma_1^2(U)+\sigma_1^2(V))$",
)
def relative_sharpness(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return sharpness/(σ₁²(U) + σ₁²(V)), a pure number: how much smaller steps must be than on the observed matrix.

    It is 1 at an exact fit of a fully observed target, tied or not, and near 1 at a fit where 𝒜*𝒜 is near the identity
    on low-rank matrices; away from a fit it means nothing.
    """
    U, V = as_pair(factors)
    return sharpness(problem, factors) / (eigenvalues(gram(U))[-1] + eigenvalues(gram(V))[-1])


def stability(step_size: ScalarLike) -> Measure:
    """Return the measure η·sharpness/2: above 1 a minimiser repels gradient descent; `step_size` in 1/σ₁."""

    @labelled(text="step size × sharpness/2", unit="1", latex=r"$\eta\,\lambda_{\max}(\nabla^2f) \,/\, 2$")
    def stability(problem: Problem, factors: Factors) -> Float[Array, ""]:
        return jnp.asarray(step_size) * sharpness(problem, factors) / 2

    return stability
