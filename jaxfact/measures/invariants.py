"""Identities and inequalities that hold on every step, as defects that are zero in exact arithmetic.

Each function takes a `Step` and returns a `Defect`, or None where it does not apply. A sweep that is `checked=True`
evaluates them after every step; `tests/test_invariants.py` breaks a step on purpose for each.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from jaxfact.choices import listed
from jaxfact.methods import Method
from jaxfact.methods.base import updated
from jaxfact.numerics.decompositions import eigenvalues
from jaxfact.numerics.draws import key_of
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors


class Step(NamedTuple):
    """One step of a method: the factors before and after it, and the gradient before it."""

    problem: Problem
    before: AnyFactors
    gradient: AnyFactors
    after: AnyFactors


class Defect(NamedTuple):
    """How far an identity is from holding, and the most that rounding explains."""

    value: Float[Array, ""]
    bound: Float[Array, ""]


Invariant = Callable[[Step], Defect | None]


def imbalance_change(step: Step) -> Defect | None:
    """Simultaneous descent moves D = UᵀU − VᵀV by a known amount, for every problem.

    ΔD = −(η_U−η_V)(Uᵀ∇_U + ∇_UᵀU) + η_U²∇_Uᵀ∇_U − η_V²∇_Vᵀ∇_V; with one step size the first-order part vanishes.
    The step sizes are read off the step itself. The bound is 50·ε·(‖U‖² + ‖V‖²), the larger of before and after.
    """
    if not isinstance(step.before, Factors):
        return None
    U, (dU, dV) = step.before.U, step.gradient
    eta_U, eta_V = _step_size(step.before.U, dU, step.after.U), _step_size(step.before.V, dV, step.after.V)
    cross = U.T @ dU
    predicted = (eta_V - eta_U) * (cross + cross.T) + eta_U**2 * dU.T @ dU - eta_V**2 * dV.T @ dV
    return Defect(jnp.linalg.norm(step.after.imbalance - step.before.imbalance - predicted), 50 * _rounding(step))


def descent(step: Step) -> Defect | None:
    """A descent step lowers the loss by what its local curvature constant promises (Xu et al. 2025, Thm 3.1).

    L⁺ ≤ L − (η − K_tη²/2)‖∇L‖², K_t = s² + √(2L) + 6σ²Lη² + 3s²√(2L)η, s² = σ₁²(U) + σ₁²(V), σ² the larger of the
    two; stated for ½‖UVᵀ − Σ‖²_F.
    """
    if not isinstance(step.problem, Factorization):
        return None
    before, after = step.problem.loss(step.before), step.problem.loss(step.after)
    eta = _step_size(step.before.U, step.gradient.U, step.after.U)
    squares = [_top(X) for X in step.before]
    both, largest = squares[0] + squares[1], jnp.maximum(*squares)
    root = jnp.sqrt(2 * before)
    curvature = both + root + 6 * largest * before * eta**2 + 3 * both * root * eta
    promised = before - (eta - curvature * eta**2 / 2) * step.gradient.energy
    rounding = 100 * jnp.finfo(before.dtype).eps * (before + after + _rounding_scale(step))
    # Where the promise overflows it promises nothing.
    return Defect(jnp.where(jnp.isfinite(promised), jnp.maximum(after - promised, 0), 0), rounding)


def rotation(step: Step) -> Defect:
    """The gradient at (UO, VO) is (∇_U O, ∇_V O) for every orthogonal d×d matrix O; checked at one fixed O."""
    width = step.before.width
    dtype = jax.tree.leaves(step.before)[0].dtype
    O = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0].astype(dtype)
    turned = step.problem.gradient(jax.tree.map(lambda x: x @ O, step.before))
    difference = jax.tree.map(lambda x, y: x - y @ O, turned, step.gradient)
    scale = step.before.energy
    epsilon = jnp.finfo(dtype).eps
    return Defect(jnp.sqrt(difference.energy), 50 * epsilon * jnp.sqrt(scale) * (1 + scale) * width)


def residual_split(step: Step) -> Defect | None:
    """The blocks make up the residual: ‖Σ − UVᵀ‖²_F is what they give, with ‖P‖² + ‖Q‖² on the leading q×q.

    Compares the m×n residual, at O(mnd) per step, with the loss from blocks, the leading one split (Ye & Du 2021).
    """
    if not isinstance(step.problem, Factorization):
        return None
    problem, after = step.problem, step.after
    U, V, *_ = problem.coordinates(after)
    A, B = (U + V) / 2, (U - V) / 2
    S = jnp.diag(problem.singular_values[: len(U)])
    P, Q = S - A @ A.T + B @ B.T, A @ B.T - B @ A.T
    parts = 2 * problem.loss(after) - jnp.sum((S - U @ V.T) ** 2) + jnp.sum(P**2) + jnp.sum(Q**2)
    whole = jnp.sum((problem.target - after.product) ** 2)
    scale = 1 + jnp.sum(problem.singular_values**2) + after.energy
    return Defect(jnp.abs(whole - parts), 50 * jnp.finfo(U.dtype).eps * scale**2)


def decaying_blocks(step: Step) -> Defect | None:
    """J and K never grow under descent with η ≤ 1/(3σ₁) while UᵀU + JᵀJ and VᵀV + KᵀK are at most 3σ₁.

    For a target whose rank the width reaches (Ye & Du 2021, §3.1). Beyond those hypotheses the defect is 0.
    """
    problem = step.problem
    if not isinstance(problem, Factorization) or problem.rank > step.before.width:
        return None
    old, new = problem.coordinates(step.before), problem.coordinates(step.after)
    eta = jnp.maximum(
        _step_size(step.before.U, step.gradient.U, step.after.U),
        _step_size(step.before.V, step.gradient.V, step.after.V),
    )
    bounded = jnp.maximum(*map(_top, step.before)) <= 3
    growth = jnp.maximum(_top(new.J) - _top(old.J), _top(new.K) - _top(old.K))
    return Defect(jnp.where(bounded & (eta <= 1 / 3), jnp.maximum(growth, 0), 0), 50 * _rounding(step))


OF_EVERY_STEP: tuple[Invariant, ...] = (rotation, residual_split)
OF_DESCENT: tuple[Invariant, ...] = (imbalance_change, descent, decaying_blocks)


def applying_to(method: Method) -> tuple[Invariant, ...]:
    """Return the invariants that a method must keep: all of them for simultaneous descent, else those of any step.

    Decided by a probe of three steps on a 5×4 problem: two from random points, which reveal a method with memory, and
    one next to an unbalanced exact fit, where the gradient is small beside noise, kicks and regularisers.
    """
    with jax.ensure_compile_time_eval():
        keys = jr.split(key_of(7), 5)
        problem = Factorization(jnp.array([1.0, 0.5]), shape=(5, 4))
        points = [Factors(jr.normal(key, (5, 2)), jr.normal(key, (4, 2))) for key in keys[:2]]
        fit = problem.truncation(2)
        points.append(Factors(10 * fit.U + 1e-4, fit.V / 10 - 1e-4))
        state, is_descent = method.init(points[0]), True
        for point, key in zip(points, keys[2:], strict=True):
            gradient = problem.gradient(point)
            updates, state = updated(problem, method, gradient, state, point, key)
            chex.assert_trees_all_equal_shapes(updates, point)
            is_descent &= _is_multiple(Factors(*jax.tree.leaves(updates)), gradient)
    return OF_EVERY_STEP + OF_DESCENT if is_descent else OF_EVERY_STEP


def _is_multiple(updates: Factors, gradient: Factors) -> bool:
    """Tell whether the updates are one multiple of the gradient, to rounding."""
    factor = _inner(updates, gradient) / gradient.energy
    rest = jax.tree.map(lambda u, g: u - factor * g, updates, gradient)
    return bool(jnp.sqrt(rest.energy) <= 1e-5 * jnp.abs(factor) * jnp.sqrt(gradient.energy))


def _step_size(before: Array, gradient: Array, after: Array) -> Array:
    """Return the η for which after = before − η·gradient, in least squares; 0 where the gradient vanishes."""
    squared = jnp.sum(gradient**2)
    return jnp.where(squared > 0, jnp.sum((before - after) * gradient) / jnp.where(squared > 0, squared, 1), 0)


def _rounding_scale(step: Step) -> Array:
    return jnp.maximum(step.before.energy, step.after.energy)


def _rounding(step: Step) -> Array:
    return jnp.finfo(step.before.U.dtype).eps * _rounding_scale(step)


def _top(matrix: Array) -> Array:
    """Return the square of the spectral norm."""
    return eigenvalues(matrix.T @ matrix)[-1]


def _inner(left: Factors, right: Factors) -> Array:
    return jnp.sum(left.U * right.U) + jnp.sum(left.V * right.V)


def __dir__() -> list[str]:
    return listed(globals())
