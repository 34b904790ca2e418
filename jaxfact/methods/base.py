"""What a method is, and the pytree algebra that methods share.

A method is an `optax.GradientTransformationExtraArgs` whose `update(gradient, state, factors, *, problem, key)` returns
what is added to the factors. So every optax optimiser is a method, ours work in any optax chain, and a hyperparameter
may be a traced number. Line searches and the like are given what optax calls `value`, `grad`, `value_fn`, `grad_fn` and
`obj_fn` too. A function of (gradient, factors) that returns the update becomes a method where a run begins. Step sizes
are in 1/σ₁, noise in √σ₁, damping in σ₁; weights are pure numbers.
"""

import inspect
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray, ScalarLike

from jaxfact.inputs import problem_with, shown
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor, as_factors

Method = optax.GradientTransformationExtraArgs

# With a separator, as an installed jaxfact lies beside jax.
_OPTAX, _JAX = (f"{Path(str(package.__file__)).parent}{os.sep}" for package in (optax, jax))


def as_method(given: Any) -> Method:
    """Return an optax transformation as one that takes further arguments, and a function as one without a state.

    Raises ValueError for anything else, such as an optimiser that has not been called.
    """
    if isinstance(given, optax.GradientTransformation):
        return optax.with_extra_args_support(given)
    name = getattr(given, "__name__", shown(given))
    if not callable(given) or isinstance(given, type):
        needed = "needs an optax transformation, or a function of (gradient, factors)"
        raise problem_with("Run.method", name, needed, "see jaxfact.methods")
    if not _takes(given, 2):
        needed = "is no transformation yet, nor a function of (gradient, factors)"
        raise problem_with("Run.method", name, needed, f"call it, as in {name}(0.1), where it returns a method")

    @wraps(given)  # so that what cannot be traced is told by the user's name and line
    def update(gradient: AnyFactors, state: optax.EmptyState, factors: AnyFactors, **_):
        updates = as_factors(given(gradient, factors))
        if jax.tree.structure(updates) != jax.tree.structure(factors):
            kind = type(updates).__name__
            what = f"one array, of shape {updates.shape}," if isinstance(updates, jax.Array) else f"a {kind}"
            needed = f"returns {what} where what is added to the factors is needed"
            raise problem_with("Run.method", name, needed, f"return {type(factors).__name__}, or call {name} first")
        shapes, wanted = (str([jnp.shape(x) for x in jax.tree.leaves(tree)])[1:-1] for tree in (updates, factors))
        if shapes != wanted:  # which would be broadcast
            raise problem_with("Run.method", name, f"returns {shapes}", f"return arrays of the shapes {wanted}")
        return updates, state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]


def name_of(method: Any) -> str:
    """Return the functions that made a method, in their order, with the numbers that they were given."""
    return " → ".join(_makers(getattr(method, "update", method))) or shown(method)


def _makers(update: Any) -> Iterator[str]:
    """Yield what a function holds that transforms updates, or its own maker."""
    cells = [cell.cell_contents for cell in getattr(update, "__closure__", None) or ()]
    held = [one for cell in cells for one in (cell if isinstance(cell, list | tuple) else [cell])]
    inner = [one for one in held if callable(one) and getattr(one, "__name__", "").startswith("update")]
    for one in inner:
        yield from _makers(one)
    if not inner and hasattr(update, "__qualname__"):
        names = zip(getattr(update.__code__, "co_freevars", ()), cells, strict=True)
        numbers = [f"{name}={value:g}" for name, value in names if isinstance(value, int | float)]
        yield f"{update.__qualname__.split('.')[0]}({', '.join(numbers)})"


def updated(
    problem: Problem,
    method: optax.GradientTransformation,
    gradient: AnyFactors,
    state: PyTree,
    factors: AnyFactors,
    key: PRNGKeyArray,
) -> tuple[AnyFactors, PyTree]:
    """Return what a method adds to the factors, and its next state; it is given all that optax's optimisers ask for.

    Raises ValueError for a method that needs still more.
    """

    def loss(factors, problem=problem, key=None, obj_fn=None, grad_fn=None):
        # Line searches hand all other arguments on to the function they search along, and refuse one it does not take.
        return problem.loss(factors)

    asked = {"problem": problem, "key": key, "grad": gradient, "value_fn": loss, "obj_fn": loss}
    asked["grad_fn"] = lambda factors, _: problem.gradient(factors)
    update = optax.with_extra_args_support(method).update
    taken = inspect.signature(update, follow_wrapped=False).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in taken.values()):
        asked = {name: value for name, value in asked.items() if name in taken}
    with naming_the_optimiser():
        try:
            return update(gradient, state, factors, **asked)
        except TypeError as error:
            if "value" not in str(error):
                raise
        # The loss costs something, so that only those who miss it are given it.
        return update(gradient, state, factors, value=problem.loss(factors), **asked)


@contextmanager
def naming_the_optimiser() -> Iterator[None]:
    """Say which of optax's optimisers failed, in one line, where one did."""
    try:
        yield
    except Exception as error:
        frames = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
        last = next(code for code in reversed(frames) if not code.co_filename.startswith(_JAX))
        if not last.co_filename.startswith(_OPTAX):
            raise
        name = last.co_qualname.partition(".")[0]
        said = " ".join(str(error).split())[:200].rstrip(".")
        raise problem_with("method", f"optax's {name}", f"cannot be run here ({said})", "choose another") from error


def _takes(function: Callable, count: int) -> bool:
    """Tell whether a function can be called with so many arguments by place."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # it does not say
        return True
    return True


def in_every_pair(what: str, kinds: tuple[type, ...], change: Callable, gradient: PyTree, factors: PyTree) -> PyTree:
    """Return a gradient changed by change(gradient, factors) in every pair of factors that a pytree holds.

    Other leaves stay as they are. Raises ValueError for a pytree without one.
    """
    need_pairs(what, kinds, factors)

    def changed(x: PyTree, g: PyTree) -> PyTree:
        return change(g, x) if isinstance(x, kinds) else g

    return jax.tree.map(changed, factors, gradient, is_leaf=lambda x: isinstance(x, kinds))


def need_pairs(what: str, kinds: tuple[type, ...], factors: PyTree) -> None:
    """Refuse a pytree that holds no factors of these kinds."""
    held = jax.tree.leaves(factors, is_leaf=lambda x: isinstance(x, kinds))
    if not any(isinstance(x, kinds) for x in held):
        given = "one factor" if isinstance(factors, TiedFactor) else f"a {type(factors).__name__} without factors"
        instead = "use gradient_descent, leave Tied out, or hold pairs as jaxfact.Factors"
        raise problem_with(what, given, "needs the two factors of a pair", instead)


def gradient_elsewhere(what: str, problem: Problem | None, value_fn: Callable | None) -> Callable[[PyTree], PyTree]:
    """Return the gradient as a function: the problem's, or that of what optax calls `value_fn`.

    Raises ValueError where neither is known.
    """
    if problem is not None:
        return problem.gradient
    if value_fn is None:
        needed = "needs the gradient at a second point"
        raise problem_with(what, "a gradient alone", needed, "give update(…, value_fn=loss), a function of the pytree")
    return jax.grad(value_fn)


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
