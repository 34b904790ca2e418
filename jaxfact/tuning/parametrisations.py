"""What is learned: free numbers, and the schedule or the positive number that they stand for."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from jaxfact.inputs import non_negative, positive, positive_integer
from jaxfact.numerics.draws import normal
from jaxfact.numerics.trees import PyTree


class Parametrisation(eqx.Module):
    """What is learned: free numbers θ, and the schedule or number that they stand for.

    Those of this module are positive for every θ, which are logarithms: so an update of θ changes a step by a factor.
    """

    @abc.abstractmethod
    def initial(self, num_steps: int, key: PRNGKeyArray) -> PyTree:
        """Return the first θ for runs of `num_steps` steps."""

    @abc.abstractmethod
    def value(self, parameters: PyTree, num_steps: int) -> Any:
        """Return what θ stands for: an optax schedule, or a number."""


class Number(Parametrisation):
    """One positive number, exp(θ): a step size, a weight, a damping, or the scale of a start.

    Raises ValueError for an `initial_value` that is not above 0.
    """

    initial_value: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        positive("initial_value", self.initial_value, "give where the search begins, for example 0.1")

    def initial(self, num_steps: int, key: PRNGKeyArray) -> Float[Array, ""]:
        """Return the logarithm of the number."""
        return jnp.log(jnp.asarray(self.initial_value, float))

    def value(self, parameters: Float[Array, ""], num_steps: int) -> Float[Array, ""]:
        """Return exp(θ)."""
        return jnp.exp(parameters)


class Piecewise(Parametrisation):
    """A step that is constant on `blocks` stretches of equal length, and keeps its last value afterwards.

    η_t = exp(θ_i), i = min(⌊t/L⌋, blocks − 1), L = ⌈num_steps/blocks⌉; all begin at `initial_value`, in the unit of
    the method's step (1/σ₁ for plain descent). As many blocks as steps give every step a number of its own.
    """

    blocks: int = eqx.field(static=True, default=10)
    initial_value: float = eqx.field(static=True, default=0.5)

    def __check_init__(self) -> None:
        positive_integer("blocks", self.blocks, "give the number of stretches, for example 10")
        positive("initial_value", self.initial_value, "below 1 (in 1/σ₁) minimisers are stable")

    def initial(self, num_steps: int, key: PRNGKeyArray) -> Float[Array, " blocks"]:
        """Return equal logarithms."""
        return jnp.full(self.blocks, jnp.log(jnp.asarray(self.initial_value, float)))

    def value(self, parameters: Float[Array, " blocks"], num_steps: int) -> "StretchSchedule":
        """Return the schedule."""
        return StretchSchedule(jnp.exp(parameters), -(-num_steps // self.blocks))


class Exponential(Parametrisation):
    """A step that goes from one value to another by a constant factor, and keeps the last afterwards.

    η_t = η₀·(η_T/η₀)^{min(t/T, 1)} for T = num_steps; η₀ = exp(θ₀) and η_T = exp(θ₁) are learned, and both begin at
    `initial_value`.
    """

    initial_value: float = eqx.field(static=True, default=0.5)

    def __check_init__(self) -> None:
        positive("initial_value", self.initial_value, "below 1 (in 1/σ₁) minimisers are stable")

    def initial(self, num_steps: int, key: PRNGKeyArray) -> Float[Array, " 2"]:
        """Return equal logarithms."""
        return jnp.full(2, jnp.log(jnp.asarray(self.initial_value, float)))

    def value(self, parameters: Float[Array, " 2"], num_steps: int) -> "GeometricSchedule":
        """Return the schedule."""
        return GeometricSchedule(jnp.exp(parameters), num_steps)


class Free(Parametrisation):
    """Steps with a number each: the first `first`, then a block of `block` that is repeated for ever.

    η_t = exp(θ_t) for t < first, then exp(θ_i), i = first + (t − first) mod block. In the limit of a quadratic the
    order of steps does not matter and equal ones stay equal, so they begin apart: at initial_value·e^{spread·z}, z
    standard normal. What is learned depends on where it begins: take several `restarts`.
    """

    first: int = eqx.field(static=True, default=8)
    block: int = eqx.field(static=True, default=8)
    initial_value: float = eqx.field(static=True, default=0.5)
    spread: float = eqx.field(static=True, default=0.5)

    def __check_init__(self) -> None:
        non_negative("first", self.first, "0 has the block from the start")
        positive_integer("block", self.block, "give how many steps are repeated, for example 8")
        positive("initial_value", self.initial_value, "below 1 (in 1/σ₁) minimisers are stable")
        non_negative("spread", self.spread, "0 begins with equal steps")

    def initial(self, num_steps: int, key: PRNGKeyArray) -> Float[Array, " numbers"]:
        """Draw logarithms around that of the initial value."""
        middle = jnp.log(jnp.asarray(self.initial_value, float))
        return middle + self.spread * normal(key, (self.first + self.block,), middle.dtype)

    def value(self, parameters: Float[Array, " numbers"], num_steps: int) -> "RepeatedSchedule":
        """Return the schedule."""
        return RepeatedSchedule(jnp.exp(parameters), self.first)


class StretchSchedule(eqx.Module):
    """An optax schedule: `values`, each for `length` steps, the last for ever."""

    values: Float[Array, " blocks"]
    length: int = eqx.field(static=True)

    def __call__(self, count: ScalarLike) -> Float[Array, ""]:
        """Return the step size after `count` steps."""
        return self.values[jnp.minimum(jnp.asarray(count) // self.length, len(self.values) - 1)]


class GeometricSchedule(eqx.Module):
    """An optax schedule: from the first of two values to the last in `length` steps, by a constant factor."""

    values: Float[Array, " 2"]
    length: int = eqx.field(static=True)

    def __call__(self, count: ScalarLike) -> Float[Array, ""]:
        """Return the step size after `count` steps."""
        share = jnp.minimum(jnp.asarray(count) / self.length, 1).astype(self.values.dtype)
        return self.values[0] * (self.values[1] / self.values[0]) ** share


class RepeatedSchedule(eqx.Module):
    """An optax schedule: `values`, of which those after the first `first` are repeated."""

    values: Float[Array, " numbers"]
    first: int = eqx.field(static=True)

    def __call__(self, count: ScalarLike) -> Float[Array, ""]:
        """Return the step size after `count` steps."""
        return self.values[self._place(jnp.asarray(count))]

    def _place(self, count: Int[Array, ""]) -> Int[Array, ""]:
        beyond = count - self.first
        return jnp.where(beyond < 0, count, self.first + jnp.remainder(beyond, len(self.values) - self.first))


def numbers_of(value: Any) -> Float[Array, " numbers"]:
    """Return all numbers that a learned value is made of."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(value)])
