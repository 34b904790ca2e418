"""Sums of products with the same factor, made one product: counted, and held against the program as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

import jaxfact as jf
from jaxfact.engine.factoring import factored
from jaxfact.numerics.products import times
from jaxfact.numerics.tracing import is_call

X, Y = np.random.default_rng(0).standard_normal((2, 6, 3))
A, B, C = np.random.default_rng(1).standard_normal((3, 3, 3))


def other(function):
    """Return a compiled function of another's name."""
    function.__name__ = function.__qualname__ = "times"
    return jax.jit(function)


def products(jaxpr) -> int:
    return sum(e.primitive.name == "dot_general" or is_call(e, times) for e in jaxpr.eqns)


# Name, function of two factors, three matrices and a number, products before and after.
PROGRAMS = {
    "a sum": (lambda X, Y, A, B, C, s: times(X, A) + times(X, B), 2, 1),
    "a difference": (lambda X, Y, A, B, C, s: times(X, A) - times(X, B), 2, 1),
    "a multiple": (lambda X, Y, A, B, C, s: times(X, A) - Y + 4 * (s * times(X, B)), 2, 1),
    "below a minus": (lambda X, Y, A, B, C, s: (Y - times(X, A)) - s * times(X, B), 2, 1),
    "a number spread out": (
        lambda X, Y, A, B, C, s: Y + times(X, A) - jax.lax.broadcast(s, (6, 3)) * times(X, B),
        2,
        1,
    ),
    "the multiple first": (lambda X, Y, A, B, C, s: s * times(X, B) + (Y - times(X, A)), 2, 1),
    "three": (lambda X, Y, A, B, C, s: times(X, A) + times(X, B) - times(X, C), 3, 1),
    "as NumPy has it": (lambda X, Y, A, B, C, s: X @ A + s * (X @ B), 2, 1),
    "two factors": (lambda X, Y, A, B, C, s: times(X, A) + times(Y, C) + times(X, B) - times(Y, A), 4, 2),
    "different factors": (lambda X, Y, A, B, C, s: times(X, A) + times(Y, B), 2, 2),
    "used twice": (lambda X, Y, A, B, C, s: (times(X, A) + (XB := times(X, B)), XB), 2, 2),
    "another scale": (lambda X, Y, A, B, C, s: times(X, A) + Y * times(X, B), 2, 2),
    "transposed": (lambda X, Y, A, B, C, s: A @ B + jnp.einsum("ki,jk->ij", A, B), 2, 2),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_products_are_joined_and_nothing_else_changes(name):
    program, before, after = PROGRAMS[name]
    arguments = (X, Y, A, B, C, np.float64(0.3))
    closed = jax.make_jaxpr(program)(*arguments)
    better = factored(closed.jaxpr)
    assert (products(closed.jaxpr), products(better)) == (before, after)
    found = core.jaxpr_as_fun(core.ClosedJaxpr(better, closed.consts))(*arguments)
    for one, two in zip(found, jax.tree.leaves(program(*arguments)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-13)


def test_another_function_called_times_is_left_alone():
    for function in (other(lambda X, G: X @ G + 1), other(lambda X, G: X - X @ G)):
        closed = jax.make_jaxpr(lambda X, A, B: function(X, A) + function(X, B))(X, A, B)  # noqa: B023
        assert len(factored(closed.jaxpr).eqns) == len(closed.jaxpr.eqns)


def test_a_balanced_step_multiplies_each_factor_once():
    """And is U − η((VᵀV + 4wD)-weighted U − ΣV), in NumPy."""
    problem, method = jf.Factorization(np.array([1.0, 0.5, 0.2]), shape=(6, 6)), jf.methods.balanced(0.1, 0.125)

    def advance(factors):
        updates, _ = method.update(problem.gradient(factors), method.init(factors), factors)
        return jax.tree.map(jnp.add, factors, updates)

    closed = jax.make_jaxpr(advance)(jf.Factors(jnp.asarray(X), jnp.asarray(Y)))
    better = factored(closed.jaxpr)
    assert (products(closed.jaxpr), products(better)) == (4, 2)
    target, D = np.diag([1, 0.5, 0.2, 0, 0, 0]), X.T @ X - Y.T @ Y
    wanted = (
        X - 0.1 * ((X @ Y.T - target) @ Y + 0.5 * X @ D),
        Y - 0.1 * ((X @ Y.T - target).T @ X - 0.5 * Y @ D),
    )
    for one, two in zip(core.jaxpr_as_fun(core.ClosedJaxpr(better, closed.consts))(X, Y), wanted, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-13)
