"""Derivatives of runs: by every parameter of every method, in both modes, of both orders, and what they cost.

Differences are those of four points, (8(f(h) − f(−h)) − f(2h) + f(−2h))/12h, whose error is h⁴f⁗/30.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import KEY, as_jax, frame, pair
from jax.flatten_util import ravel_pytree

import jaxfact as jf
from jaxfact.numerics.products import gram

H = 2e-4
OFFSETS, WEIGHTS = np.array([1, -1, 2, -2]), np.array([8, -8, -1, 1]) / (12 * H)
ETA = 0.2
START = as_jax(pair((4, 3), 2))


class Case(NamedTuple):
    """A method of traced numbers, and their values."""

    method: Callable[..., optax.GradientTransformation]
    numbers: list[float]


# What a parameter is: step size, values of a schedule, weight, noise, radius, damping, momentum, decay.
METHODS = {
    "gradient descent": Case(jf.methods.gradient_descent, [ETA]),
    "schedule": Case(lambda *v: jf.methods.gradient_descent(lambda t: jnp.stack(v)[t // 3]), [0.2, 0.1]),
    "exponential": Case(lambda a, b: optax.sgd(lambda t: a * jnp.exp(-b * t)), [ETA, 0.1]),
    "balanced": Case(jf.methods.balanced, [ETA, 0.1]),
    "perturbed": Case(jf.methods.perturbed, [ETA, 0.02]),
    "on sphere": Case(jf.methods.perturbed_on_sphere, [ETA, 0.1]),
    "in ball": Case(
        lambda step, radius: jf.methods.perturbed_in_ball(step, radius=radius, threshold=9.0, interval=2), [ETA, 0.1]
    ),
    "scaled": Case(jf.methods.scaled_gd, [ETA, 0.1]),
    "scaled by start": Case(jf.methods.scaled_by_start, [ETA]),
    "curvature": Case(jf.methods.curvature_descent, [1.0]),
    "alternating": Case(jf.methods.alternating, [ETA]),
    "fresh batches": Case(lambda step: optax.chain(jf.methods.fresh_batch(50), optax.sgd(step)), [ETA]),
    "momentum": Case(lambda step, beta: optax.sgd(step, momentum=beta), [ETA, 0.5]),
    "Nesterov": Case(lambda step, beta: optax.sgd(step, momentum=beta, nesterov=True), [ETA, 0.5]),
    "Adam": Case(lambda *v: optax.adam(*v), [ETA, 0.9, 0.99, 0.1]),
}


def outcome(problem, method, start):
    """Return a number made of a record and of the last factors."""
    run = jf.descend(problem, method, start, num_steps=6, every=3, record="loss", key=KEY)
    return jnp.sum(jnp.cos(run.records["loss"])) + sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(run.factors))


def check(function, at):
    """Hold both modes against differences of values, and second derivatives against those of gradients.

    All come from one program: the tangent of the value is forward mode, that of the gradient a row of the Hessian.
    """
    flat, unravel = ravel_pytree(at)
    size, every = len(flat), np.eye(len(flat))
    points = flat + H * np.append(OFFSETS, 0)[:, None, None] * every

    def derivatives(x, v):
        return jax.jvp(jax.value_and_grad(lambda x: function(unravel(x))), (x,), (v,))

    found = jax.jit(jax.vmap(derivatives))(points.reshape(-1, size), np.tile(every, (5, 1)))
    (values, gradients), (pushed, rows) = jax.tree.map(lambda x: np.reshape(x, (5, size, *x.shape[1:])), found)
    gradient, hessian = gradients[-1, 0], rows[-1]
    largest = np.abs(gradient).max()
    np.testing.assert_allclose(pushed[-1], gradient, rtol=1e-11, atol=1e-13 * largest)
    np.testing.assert_allclose(gradient, WEIGHTS @ values[:-1], rtol=1e-6, atol=1e-9 * largest)
    known = np.tensordot(WEIGHTS, gradients[:-1], 1)
    np.testing.assert_allclose(hessian, known, rtol=1e-6, atol=1e-8 * np.abs(known).max())
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-9, atol=1e-11 * np.abs(known).max())
    return gradient, hessian


@pytest.mark.parametrize("name", METHODS)
def test_derivatives_by_numbers_start_and_target(name):
    make, numbers = METHODS[name]

    def function(at):
        problem = jf.Factorization(at["values"], shape=(4, 3))
        return outcome(problem, make(*at["numbers"]), at["start"])

    at = {"numbers": jnp.array(numbers), "start": START, "values": jnp.array([1.0, 0.6, 0.3])}
    gradient, hessian = check(function, at)
    assert np.all(np.abs(gradient[: len(numbers)]) > 1e-4)
    assert np.all(np.abs(hessian[: len(numbers)]).max(axis=1) > 1e-3)  # which is none of zeros


# From numbers to a problem whose data they are. Completion by its entries is in test_completion.py.
BY_DATA = {
    "a dense matrix": lambda x: jf.Factorization(x.reshape(4, 3)),
    "sensing": lambda x: jf.Sensing(jf.operators.gaussian(KEY, (4, 3), 12, dtype=float), x),
    "one factor": lambda x: jf.Tied(jf.Factorization(x[:3], shape=(4, 4))),
}


@pytest.mark.parametrize("name", BY_DATA)
def test_derivatives_by_the_data_of_a_problem(name):
    data = np.linspace(1.0, 0.3, 12) if name == "one factor" else np.random.default_rng(3).normal(size=12)
    start = jf.problems.factors.TiedFactor(START.U) if name == "one factor" else START

    def function(at):
        return outcome(BY_DATA[name](at["data"]), jf.methods.gradient_descent(at["numbers"]), at["start"])

    check(function, {"numbers": jnp.array([ETA]), "data": jnp.asarray(data), "start": start})


def test_a_gram_matrix_has_derivatives_of_any_order():
    """Against those of the plain product, of one matrix and of several: of a Hessian only tangents are a batch."""
    several = np.random.default_rng(1).normal(size=(3, 4, 2))

    def derivatives(of):
        value = lambda X: jnp.sum(jnp.sin(of(X)) ** 2)  # noqa: E731
        return lambda X: (jax.grad(value)(X), jax.hessian(value)(X), jax.jacfwd(jax.hessian(value))(X))

    mine, plain = derivatives(gram), derivatives(lambda X: X.T @ X)
    for around, given in ((lambda f: f, several[0]), (jax.vmap, several)):
        found, known = jax.jit(lambda x, around=around: (around(mine)(x), around(plain)(x)))(given)
        for one, other in zip(found, known, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_the_scalar_mode_has_its_closed_form():
    """On u = v the product follows s⁺ = s(1 + η(1 − s))², and so do its derivatives by η, by hand."""
    s, first, second, eta = 0.01, 0.0, 0.0, 0.05
    for _ in range(100):
        g, dg = 1 + eta * (1 - s), (1 - s) - eta * first
        ddg = -2 * first - eta * second
        s, first, second = (
            s * g**2,
            first * g**2 + 2 * s * g * dg,
            second * g**2 + 4 * first * g * dg + 2 * s * (dg**2 + g * ddg),
        )
    problem, start = jf.Factorization([1.0], shape=(1, 1)), jf.Factors(*jnp.full((2, 1, 1), 0.1))

    def product(eta):
        run = jf.descend(problem, jf.methods.gradient_descent(eta), start, num_steps=100)
        return run.factors.product[0, 0]

    found = jax.jit(lambda x: (product(x), jax.grad(product)(x), jax.jacfwd(product)(x), jax.hessian(product)(x)))(eta)
    assert abs(first) > 0.5
    np.testing.assert_allclose(found, [s, first, first, second], rtol=1e-10)
    # Negative control: of the flow, whose product is a logistic curve in ηt, the derivative is another.
    flow = 1 / (1 + 99 * np.exp(-2 * eta * 100))
    assert abs(found[1] / (2 * 100 * flow * (1 - flow)) - 1) > 1e-2


def test_steps_that_no_block_divides():
    """101 is prime: ten blocks of ten and a rest, each recomputed, against steps taken one by one."""
    problem = jf.Factorization([1.0, 0.5], shape=(4, 3))

    def by_run(eta):
        return jf.descend(problem, jf.methods.balanced(eta, 0.1), START, num_steps=101).factors.U[0, 0]

    def by_hand(eta):
        def step(factors, _):
            D = factors.imbalance
            gradient = jax.grad(lambda f: jnp.sum((f.product - problem.target) ** 2) / 2)(factors)
            U, V = (x - eta * (g + s * 0.4 * x @ D) for x, g, s in zip(factors, gradient, (1, -1), strict=True))
            return jf.Factors(U, V), None

        return jax.lax.scan(step, START, length=101)[0].U[0, 0]

    known = jax.jit(jax.grad(by_hand))(0.02)
    np.testing.assert_allclose(jax.jit(jax.grad(by_run))(0.02), known, rtol=1e-11)
    assert abs(known) > 1e-2


def test_a_compressed_run_has_the_derivatives_of_the_whole_run():
    """By numbers of the method, by singular values and by the scale of the start, on which no rotation depends."""
    values, (m, n), width = jnp.array([1.0, 0.6]), (9, 7), 2
    bases = frame(m, 2, 1), frame(n, 2, 2)
    whole = jf.Factorization(values, shape=(m, n), left=bases[0], right=bases[1])
    start = as_jax(pair((m, n), width))
    small, begun = jf.compress(whole, start)
    assert small.rows == (4, 4)

    def derivatives(problem, start):
        def loss(numbers, values, scale):
            here = eqx.tree_at(lambda p: p.singular_values, problem, values)
            begun = jax.tree.map(lambda x: scale * x, start)
            return here.loss(jf.descend(here, jf.methods.balanced(*numbers), begun, num_steps=20).factors)

        return jax.jit(jax.grad(loss, (0, 1, 2)))(jnp.array([0.2, 0.1]), values, 1.0)

    large, little = derivatives(whole, start), derivatives(small, begun)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), large, little)


def test_a_run_that_diverges_or_is_chaotic_leaves_its_neighbours_alone():
    """Steps below the edge, in a cycle of two, in chaos, and beyond 2, where descent leaves for good."""
    problem, start = jf.Factorization([1.0], shape=(1, 1)), jf.Factors(*jnp.full((2, 1, 1), 0.3))

    def product(eta):
        return jf.descend(problem, jf.methods.gradient_descent(eta), start, num_steps=400).factors.product[0, 0]

    gradient = jax.jit(jax.vmap(jax.grad(product)))
    steps = np.array([0.01, 0.02, 1.1, 1.95, 3.0])
    found = gradient(steps)
    alone = gradient(np.full(5, 0.01)), gradient(np.full(5, 0.02))
    assert found[0] == alone[0][0]
    assert found[1] == alone[1][0]
    assert np.all(np.isfinite(found[:4]))
    # A stable orbit moves with the step, and along an unstable one derivatives grow exponentially.
    assert 0.1 < abs(found[2]) < 100
    assert abs(found[3]) > 1e10
    assert not np.isfinite(found[4])


def temporary_bytes(derivative, num_steps, **records):
    """Return the memory that a compiled derivative of a run takes beside what it is given and returns."""
    problem = jf.Factorization(np.linspace(1, 0.2, 5), shape=(10, 10))

    def loss(eta, start):
        return problem.loss(
            jf.descend(problem, jf.methods.gradient_descent(eta), start, num_steps=num_steps, **records).factors
        )

    compiled = jax.jit(derivative(loss)).lower(0.1, as_jax(pair((10, 10), 5))).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_of_reverse_mode_grows_as_the_root_of_the_steps():
    """The factors of one step are 800 bytes: of 10⁵ they would be 80 MB."""
    used = [temporary_bytes(jax.grad, 10**k) for k in (3, 4, 5)]
    assert used[2] < 1e6
    np.testing.assert_allclose(np.divide(used[1:], used[:-1]), 10**0.5, rtol=0.15)
    assert temporary_bytes(jax.grad, 10**5, record="loss") < 1.1 * used[2]
    # Forward mode keeps nothing.
    assert temporary_bytes(jax.jacfwd, 10**3) == temporary_bytes(jax.jacfwd, 10**5) < 2e4
