"""How far factors are from those of the truth, up to what leaves the product unchanged.

U Vᵀ is the same for (UP, VP^{-T}), so the papers measure distances after the best P: a rotation (Tu et al. 2016), or
any invertible matrix (Ma, Li & Chi 2021; Tong, Ma & Chi 2021). All are evaluated as norms of differences, which keep
their digits near zero.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxfact.inputs import problem_with
from jaxfact.measures.base import measure
from jaxfact.numerics.decompositions import inverse, qr, svd, triangle
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor

_ITERATIONS = 40
_LONGEST = 0.5  # of a step in P⁻¹dP: the linearised problem says nothing about longer ones


@measure(text="distance after the best rotation", unit="√σ₁", latex=r"$\min_R\|FR-F^\star\|_F \,/\, \sqrt{\sigma_1}$")
def procrustes_distance(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return min over orthogonal R of ‖[U; V]R − [X⋆; Y⋆]‖_F, in √σ₁ (Tu et al. 2016, Theorem 3.3).

    X⋆ = P√S and Y⋆ = Q√S are the balanced factors of the truth's best approximation of this width. For one tied factor
    it is min ‖XR − X⋆‖_F. Raises ValueError where the truth is not known.
    """
    best = truth_of(problem).truncation(factors.width)
    goal = best.U if isinstance(factors, TiedFactor) else jnp.concatenate(best)
    here = jnp.concatenate(factors)
    return jnp.linalg.norm(here @ _rotation(here, goal) - goal)


@measure(
    text="distance after the best invertible matrix",
    unit="√σ₁",
    latex=r"$\min_P(\|UP-X^\star\|_F^2+\|VP^{-\top}-Y^\star\|_F^2)^{1/2} \,/\, \sqrt{\sigma_1}$",
)
def invertible_distance(problem: Problem, factors: Factors) -> Float[Array, ""]:
    """Return min over invertible P of √(‖UP − X⋆‖²_F + ‖VP^{-T} − Y⋆‖²_F), in √σ₁ (Ma, Li & Chi 2021, Theorem 1).

    X⋆ and Y⋆ are as in `procrustes_distance`. Found by 40 damped Gauss-Newton steps from the optimal rotation, so it is
    never above the Procrustes distance. Near the truth, where theory uses it, that is the minimum to rounding; far from
    it, or for factors near rank deficiency, it is an upper bound.

    Raises ValueError where the truth is not known, and for one tied factor: there P is orthogonal, see
    `procrustes_distance`.
    """
    return _aligned(problem, factors, jnp.ones(factors.width, problem.dtype))


@measure(
    text="weighted distance after the best invertible matrix",
    unit="σ₁",
    latex=r"$\min_P(\|(UP-X^\star)S^{1/2}\|_F^2+\|(VP^{-\top}-Y^\star)S^{1/2}\|_F^2)^{1/2} \,/\, \sigma_1$",
)
def scaled_invertible_distance(problem: Problem, factors: Factors) -> Float[Array, ""]:
    """Return min over invertible P of √(‖(UP − X⋆)S^½‖²_F + ‖(VP^{-T} − Y⋆)S^½‖²_F), in σ₁.

    The distance in which ScaledGD contracts whatever the condition number (Tong, Ma & Chi 2021, Theorem 13); found as
    `invertible_distance` is.

    Raises ValueError where the truth is not known or its rank is below the width, and for one tied factor.
    """
    truth = truth_of(problem)
    if truth.rank < factors.width:
        given = f"width {factors.width} of a truth of rank {truth.rank}"
        raise problem_with("factors", given, "columns of weight 0 would not count", "use measures.invertible_distance")
    return _aligned(problem, factors, jnp.sqrt(truth.singular_values[: factors.width]))


def _aligned(problem: Problem, factors: Factors, weights: Float[Array, " d"]) -> Float[Array, ""]:
    """Return the least weighted distance that Gauss-Newton finds; weights multiply columns of the differences."""
    if isinstance(factors, TiedFactor):
        raise problem_with("factors", "one tied factor", "needs a pair", "use measures.procrustes_distance")
    best = truth_of(problem).truncation(factors.width)
    here, goal = _shortened(factors, best)
    R = _rotation(jnp.concatenate(here), jnp.concatenate(goal))
    here = Factors(here.U @ R, here.V @ R)

    def off(pair: Factors) -> Float[Array, ""]:
        return jnp.sqrt(sum(jnp.sum(((x - y) * weights) ** 2) for x, y in zip(pair, goal, strict=True)))

    def step(_, carry):
        pair, least, length = carry
        change = length * _gauss_newton(pair, goal, weights)
        change = change * jnp.minimum(1, _LONGEST / jnp.maximum(jnp.linalg.norm(change), _LONGEST))
        turn = jnp.eye(len(R), dtype=R.dtype) + change
        moved = Factors(pair.U @ turn, pair.V @ (turn @ inverse(turn.T @ turn)))
        reached = off(moved)
        better = reached < least
        pair = Factors(*(jnp.where(better, new, old) for new, old in zip(moved, pair, strict=True)))
        return pair, jnp.where(better, reached, least), jnp.where(better, jnp.minimum(2 * length, 1), length / 4)

    start = (here, off(here), jnp.ones((), R.dtype))
    return lax.fori_loop(0, _ITERATIONS, step, start)[1]


def _gauss_newton(pair: Factors, goal: Factors, weights: Float[Array, " d"]) -> Float[Array, "d d"]:
    """Return Δ of the linearised problem min ‖(U(I+Δ) − X⋆)W‖² + ‖(V(I−Δᵀ) − Y⋆)W‖².

    With W = I it solves the Sylvester equation UᵀU·Δ + Δ·VᵀV = (V−Y⋆)ᵀV − Uᵀ(U−X⋆), whose right side is zero at the
    optimum (Ma, Li & Chi 2021, Lemma 2); with weights the same holds for WΔW and U, V with columns divided by W.
    """
    across = weights[:, None] * weights
    ratio = weights[:, None] / weights
    right = ratio * ((pair.V - goal.V).T @ pair.V) - ratio.T * (pair.U.T @ (pair.U - goal.U))
    left_basis, left, _ = svd(pair.U.T @ pair.U / across)
    right_basis, right_values, _ = svd(pair.V.T @ pair.V / across)
    total = left[:, None] + right_values
    turned = (left_basis.T @ right @ right_basis) * jnp.where(total > 0, 1 / jnp.where(total > 0, total, 1), 0)
    return left_basis @ turned @ right_basis.T / across


def _shortened(factors: Factors, best: Factors) -> tuple[Factors, Factors]:
    """Return both pairs in common frames of at most 2d rows: their Gram matrices and differences are the same."""
    rows = [triangle(jnp.concatenate([x, y], axis=1)) for x, y in zip(factors, best, strict=True)]
    here, goal = zip(*(jnp.split(x, 2, axis=1) for x in rows), strict=True)
    return Factors(*here), Factors(*goal)


def _rotation(here: Float[Array, "k d"], goal: Float[Array, "k d"]) -> Float[Array, "d d"]:
    """Return the orthogonal R that brings factors nearest to the goal: the polar factor of hereᵀ·goal."""
    left, _, right = svd(here.T @ goal)
    # Columns for a zero singular value are zero; qr leaves the others as they are and completes the frame.
    return qr(left)[0] @ right.T
