"""The contract of a problem."""

import abc

import equinox as eqx
import jax
from jaxtyping import Array, Float, ScalarLike

from jaxfact.factors import Factors


class Problem(eqx.Module):
    """A loss on pairs of factors, stated in the unit of its target (σ₁ where the target is known).

    A subclass states `loss` and `distance`, and overrides `gradient` where structure makes it cheaper than
    differentiating the loss. It is an immutable pytree: its arrays are data, its shape is static.
    """

    shape: eqx.AbstractVar[tuple[int, int]]
    unit: eqx.AbstractVar[Float[Array, ""]]

    @abc.abstractmethod
    def loss(self, factors: Factors) -> Float[Array, ""]:
        """Return the loss, in unit²; accurate near zero."""

    @abc.abstractmethod
    def distance(self, factors: Factors) -> Float[Array, ""]:
        """Return ‖UVᵀ − Σ_d‖_F / ‖Σ_d‖_F, Σ_d the best approximation of the factors' width; never squared."""

    def gradient(self, factors: Factors) -> Factors:
        """Return ∂loss/∂U and ∂loss/∂V, both from the given factors, in unit^{3/2}."""
        return jax.grad(self.loss)(factors)


def rounding_floor(epsilon: ScalarLike, step_size: ScalarLike) -> Float[Array, ""]:
    """Return the distance below which rounding holds a run up: about ⅓·ε/η, 4e-8/η in float32.

    `epsilon` is the machine epsilon of the factors' dtype, `step_size` is relative to 1/unit. Each step adds a
    rounding error of about ε to the factors, of which the descent removes a fraction η: measured, not a theorem.
    """
    return jax.numpy.asarray(epsilon) / 3 / step_size
