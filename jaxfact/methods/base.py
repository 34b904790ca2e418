"""What a method is, and the pytree algebra that methods share.

A method is an `optax.GradientTransformationExtraArgs` whose `update(gradient, state, factors, *, problem, key)` returns
what is added to the factors. So every optax optimiser is a method, ours work in any optax chain, and a hyperparameter
may be a traced number. Step sizes are in 1/σ₁, noise in √σ₁, damping in σ₁; weights are pure numbers.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxfact.inputs import problem_with
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.factors import AnyFactors, Factors

Method = optax.GradientTransformationExtraArgs


def need_pair(what: str, factors: AnyFactors) -> None:
    """Refuse what is not a pair of factors."""
    if not isinstance(factors, Factors):
        raise problem_with(
            what, "one factor", "needs the two factors of a pair", "use gradient_descent, or leave Tied out"
        )


def stateless(factors: Factors) -> optax.EmptyState:
    """Return the state of a method that has none."""
    return optax.EmptyState()


def added(left: PyTree, right: PyTree) -> PyTree:
    """Return the sum of two trees."""
    return jax.tree.map(jnp.add, left, right)


def scaled_tree(factor: ScalarLike, tree: PyTree) -> PyTree:
    """Return a multiple of a tree, in the dtype of its leaves."""
    return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, tree)


def descent_step(step_size: ScalarLike, gradient: PyTree) -> PyTree:
    """Return the plain step −η∇."""
    return jax.tree.map(lambda x: -jnp.asarray(step_size, x.dtype) * x, gradient)
