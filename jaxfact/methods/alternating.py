"""Descent in one factor after the other."""

import optax
from jaxtyping import ScalarLike

from jaxfact.inputs import positive
from jaxfact.methods.base import Method, descent_step, need_pair, stateless
from jaxfact.problems.factors import Factors


def alternating(step_size: ScalarLike) -> Method:
    """Return alternating descent: U⁺ = U − η∇_U f(U, V), then V⁺ = V − η∇_V f(U⁺, V) (Ward & Kolda 2023)."""
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")

    def update(gradient: Factors, state: optax.EmptyState, factors: Factors, *, problem, **_):
        need_pair("alternation", factors)
        step_U = descent_step(step_size, gradient.U)
        moved = Factors(factors.U + step_U, factors.V)
        return Factors(step_U, descent_step(step_size, problem.gradient(moved).V)), state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]
