"""Plain gradient descent."""

import optax

from jaxfact.inputs import positive
from jaxfact.methods.base import Method


def gradient_descent(step_size: optax.ScalarOrSchedule) -> Method:
    """Return simultaneous gradient descent, U⁺ = U − η∇_U f, V⁺ = V − η∇_V f (Ye & Du 2021, eq. 2).

    `step_size` η is in 1/σ₁, a number or an optax schedule. Raises ValueError unless a number is above 0.
    """
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")
    return optax.with_extra_args_support(optax.scale_by_learning_rate(step_size))
