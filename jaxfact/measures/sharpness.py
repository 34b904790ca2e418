"""How sharply the loss curves: the largest eigenvalue of its Hessian."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, ScalarLike

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

    first = jax.random.normal(key_of(0), flat.shape, flat.dtype)
    empty = jnp.zeros((size, flat.size), flat.dtype)
    (basis, _), images = jax.lax.scan(lanczos, (empty, first / jnp.linalg.norm(first)), jnp.arange(size))
    projected = basis @ images.T
    # An invariant subspace met early leaves zero rows, whose eigenvalue 0 must not beat negative ones.
    missing = jnp.sum(basis**2, axis=1) < 0.5
    projected = (projected + projected.T) / 2 - jnp.diag(jnp.where(missing, 1e3 * jnp.abs(projected).max(), 0))
    return eigenvalues(projected)[-1]


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
