"""Descent with injected noise, as older proofs needed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray, ScalarLike

from jaxfact.inputs import non_negative, positive, positive_integer
from jaxfact.methods.base import Method, added, descent_step, gradient_elsewhere, scaled_tree, stateless
from jaxfact.methods.descent import gradient_descent
from jaxfact.numerics.draws import fold, normal, uniform
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import Factors


class PerturbationState(NamedTuple):
    """The number of steps since the last perturbation."""

    waited: Int[Array, ""]


def add_noise(noise: ScalarLike) -> Method:
    """Add independent normal entries of standard deviation `noise` (in √σ₁) to the update, in all leaves."""
    non_negative("noise", noise, "the standard deviation per entry and step, for example 1e-5")

    def update(updates: Factors, state, factors: Factors | None = None, *, key: PRNGKeyArray, problem=None, **_):
        return added(updates, scaled_tree(noise, _normal(key, updates, problem))), state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]


def perturbed(step_size: optax.ScalarOrSchedule, noise: ScalarLike) -> Method:
    """Return gradient descent with iterate noise: a step, then normal entries of deviation `noise` (in √σ₁).

    It ends at an error floor of about √(noise²(m+n)d/(2η)) on ‖UVᵀ − Σ‖_F.
    """
    return optax.chain(gradient_descent(step_size), add_noise(noise))


def perturbed_on_sphere(step_size: ScalarLike, radius: ScalarLike) -> Method:
    """Return the noisy descent of Ge et al. (2015): w⁺ = w − η(∇f + radius·n), n uniform on the unit sphere.

    n is one direction in the joint space of U and V, or of all leaves of a pytree, drawn at every step; the paper's
    radius is 1.
    """
    non_negative("radius", radius, "1 is the published choice, for a problem of unit scale")

    def update(gradient: Factors, state, factors: Factors | None = None, *, key: PRNGKeyArray, problem=None, **_):
        direction = _normal(key, gradient, problem)
        return added(gradient, scaled_tree(radius / optax.tree.norm(direction), direction)), state

    return optax.chain(Method(stateless, update), gradient_descent(step_size))  # pyright: ignore[reportArgumentType]


def perturbed_in_ball(step_size: ScalarLike, *, radius: ScalarLike, threshold: ScalarLike, interval: int) -> Method:
    """Return the perturbed descent of Jin et al. (2017, Algorithm 2): a kick where the gradient is small.

    Where ‖∇f‖_F ≤ threshold (in σ₁^{3/2}) and `interval` steps have passed since the last kick, a point uniform
    in the ball of `radius` (in √σ₁) is added to the factors, and the gradient step is taken from there. The paper's
    stopping rule (no decrease after a kick) is left to the caller. Of a pytree the ball is in the joint space of all
    leaves; outside `descend` its update then needs `key=` and `value_fn=`, the loss as a function of the pytree.
    """
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")
    non_negative("radius", radius, "the radius of the ball in √σ₁, for example 1e-3")
    non_negative("threshold", threshold, "the gradient norm below which a kick is given, for example 1e-3")
    interval = positive_integer("interval", interval, "the least number of steps between two kicks")

    def init(factors: PyTree) -> PerturbationState:
        return PerturbationState(jnp.asarray(interval, jnp.int32))

    def update(
        gradient: PyTree,
        state: PerturbationState,
        factors: PyTree,
        *,
        key: PRNGKeyArray,
        problem=None,
        value_fn=None,
        **_,
    ):
        gradient_at = gradient_elsewhere("perturbed_in_ball", problem, value_fn)
        kicked = (optax.tree.norm(gradient) <= threshold) & (state.waited >= interval)
        kick = jax.tree.map(
            lambda x: jnp.where(kicked, x, 0), scaled_tree(radius, _in_unit_ball(key, factors, problem))
        )
        descent = descent_step(step_size, gradient_at(added(factors, kick)))
        return added(kick, descent), PerturbationState(jnp.where(kicked, 1, state.waited + 1))

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def _normal(key: PRNGKeyArray, like: Factors, problem: Problem | None) -> Factors:
    """Draw standard normals for a pair of factors, as the problem represents them, or for all leaves of a pytree."""
    if problem is not None:
        return problem.noise(key, like)
    leaves, structure = jax.tree.flatten(like)
    drawn = [normal(fold(key, place), x.shape, x.dtype) for place, x in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)


def _in_unit_ball(key: PRNGKeyArray, like: PyTree, problem: Problem | None) -> PyTree:
    """Draw a point uniform in the unit ball of the joint space: a direction times u^{1/dimension}."""
    direction = _normal(fold(key, 0), like, problem)
    if problem is None:
        leaves = jax.tree.leaves(like)
        dimension, dtype = sum(x.size for x in leaves), jnp.result_type(*leaves)
    else:
        used = problem.used_columns(like.width)
        rows = problem.shape if isinstance(like, Factors) else problem.shape[:1]
        columns = like.width if used is None else jnp.sum(used)
        dimension, dtype = sum(size / 1 for size in rows) * columns, problem.dtype
    radius = uniform(fold(key, 1), (), dtype) ** (1 / dimension)
    return scaled_tree(radius / optax.tree.norm(direction), direction)
