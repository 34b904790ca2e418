"""Descent in one factor after the other."""

import jax
import optax
from jaxtyping import ScalarLike

from jaxfact.inputs import positive
from jaxfact.methods.base import Method, descent_step, gradient_elsewhere, need_pairs, stateless
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.factors import Factors


def alternating(step_size: ScalarLike) -> Method:
    """Return alternating descent: U⁺ = U − η∇_U f(U, V), then V⁺ = V − η∇_V f(U⁺, V) (Ward & Kolda 2023).

    In a pytree that holds `Factors` every U and all other leaves move first, then every V. Outside `descend` its
    update needs `value_fn=`, the loss as a function of the pytree.
    """
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")

    def update(gradient: PyTree, state: optax.EmptyState, factors: PyTree, *, problem=None, value_fn=None, **_):
        need_pairs("alternation", (Factors,), factors)
        gradient_at = gradient_elsewhere("alternation", problem, value_fn)
        step = descent_step(step_size, gradient)
        later = descent_step(step_size, gradient_at(jax.tree.map(_moved, factors, step, is_leaf=_is_pair)))
        return jax.tree.map(_one_after_the_other, step, later, is_leaf=_is_pair), state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]


def _moved(x: PyTree, step: PyTree) -> PyTree:
    return Factors(x.U + step.U, x.V) if _is_pair(x) else x + step


def _one_after_the_other(step: PyTree, later: PyTree) -> PyTree:
    return Factors(step.U, later.V) if _is_pair(step) else step


def _is_pair(x: PyTree) -> bool:
    return isinstance(x, Factors)
