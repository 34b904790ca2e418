"""Descent whose step follows a bound of the curvature along it."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, ScalarLike

from jaxfact.inputs import positive, problem_with
from jaxfact.methods.base import Method, descent_step, stateless
from jaxfact.numerics.decompositions import largest_eigenvalue
from jaxfact.numerics.products import gram
from jaxfact.problems.factors import Factors, as_pair

_NEWTON = 8  # steps: from above, of a convex function, so that they overshoot nothing; four reach rounding


def curvature_descent(share: ScalarLike = 1.0) -> Method:
    """Return descent with the step η_t that solves η_t·K_t(η_t) = share (Xu et al. 2025, Theorem 3.1).

    K_t(η) = s² + √(2L) + 6σ²Lη² + 3s²√(2L)η with s² = σ₁²(U) + σ₁²(V), σ² the larger of the two and L the loss. The
    lemma, stated for ½‖UVᵀ − Σ‖²_F, promises L⁺ ≤ L − (η − K_tη²/2)‖∇L‖²: so every share below 2 lowers the loss, and
    1, the paper's 1/K_t, is promised most. At a balanced optimum s² = 2σ₁, and η_t is share/(2σ₁).

    Raises ValueError for a share that is not above 0, and where no problem is given, as outside `descend`.
    """
    positive("share", share, "1 is the paper's choice, and below 2 the loss falls")

    def update(gradient: Factors, state: optax.EmptyState, factors: Factors, *, problem=None, **_):
        if problem is None:
            needed = "its bound is that of the loss of one problem"
            raise problem_with("curvature_descent", "a gradient alone", needed, "use it in jf.descend or jf.sweep")
        squares = [largest_eigenvalue(gram(x)) for x in as_pair(factors)]
        step = _solved(squares[0] + squares[1], jnp.maximum(*squares), problem.loss(factors), share)
        return descent_step(step, gradient), state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]


def _solved(both: Array, largest: Array, loss: Array, share: ScalarLike) -> Float[Array, ""]:
    """Return the one positive root of 6σ²Lη³ + 3s²√(2L)η² + (s² + √(2L))η = share, by Newton's method from above."""
    root = jnp.sqrt(2 * jnp.maximum(loss, jnp.finfo(loss.dtype).tiny))  # whose derivative at 0 would not be finite
    cubic, square, linear = 6 * largest * loss, 3 * both * root, both + root
    eta = jnp.asarray(share, loss.dtype) / linear
    for _ in range(_NEWTON):
        value = ((cubic * eta + square) * eta + linear) * eta - share
        eta = eta - value / ((3 * cubic * eta + 2 * square) * eta + linear)
    return eta
