"""Gradient flow in closed form: against an integrator, late, and as the limit of small steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, as_jax, frame, pair
from scipy.integrate import solve_ivp

import jaxfact as jf

TIME = 2.0
# Names of the table, widths and imbalances λ; the widths leave room for UᵀU = VᵀV + λI.
CASES = [
    ("dense, tall", 3, 0.0),
    ("dense, tall", 3, 0.6),
    ("dense, tall", 2, -0.6),
    ("dense, wide", 2, 0.3),
    ("rank-deficient", 3, -1.0),
    ("singular values", 3, -0.2),
    ("width above rank", 4, 0.0),
    ("width above rank", 4, 0.5),
]
LATE = 1e6


def lambda_balanced(shape, width, balance):
    """Return generic factors with UᵀU − VᵀV = λI."""
    m, n = shape
    generic = 0.4 * np.random.default_rng(3).normal(size=(n if balance >= 0 else m, width))
    values, vectors = np.linalg.eigh(generic.T @ generic + abs(balance) * np.eye(width))
    heavy = frame(m if balance >= 0 else n, width, 4) @ (vectors * np.sqrt(values)) @ vectors.T
    return jf.Factors(heavy, generic) if balance >= 0 else jf.Factors(generic, heavy)


def integrated(matrix, factors, time):
    """Return UVᵀ(t) by a Runge-Kutta integration of the factors' own flow."""
    m, width = factors.U.shape

    def velocity(_, state):
        W = state.reshape(-1, width)
        R = matrix - W[:m] @ W[m:].T
        return np.concatenate([R @ W[m:], R.T @ W[:m]]).ravel()

    start = np.concatenate(factors).ravel()
    last = solve_ivp(velocity, (0, time), start, method="DOP853", rtol=1e-12, atol=1e-14).y[:, -1]
    W = last.reshape(-1, width)
    return W[:m] @ W[m:].T


@pytest.mark.parametrize(("name", "width", "balance"), CASES)
def test_balanced_flow_against_an_integrator(name, width, balance):
    problem, matrix = PROBLEMS[name].build(), PROBLEMS[name].scaled_matrix
    factors = lambda_balanced(problem.shape, width, balance)
    np.testing.assert_allclose(as_jax(factors).imbalance, balance * np.eye(width), atol=1e-14)
    flow = jf.flow.balanced_flow(problem, as_jax(factors), [0.0, TIME])
    np.testing.assert_allclose(flow.product[0], factors.product, atol=1e-14)
    np.testing.assert_allclose(flow.product[1], integrated(matrix, factors, TIME), atol=1e-10)
    np.testing.assert_allclose(flow.imbalance, np.stack([balance * np.eye(width)] * 2), atol=1e-13)


@pytest.mark.parametrize(("name", "width", "balance"), CASES)
def test_late_flow_is_at_the_best_approximation(name, width, balance):
    """To rounding; without imbalance the d − r columns beyond the rank end at √(d − r)/(2t), whatever the start.

    There F is 0, QQᵀ → Π/t for a projection Π of rank d − r, and balance divides it evenly: JᵀJ = KᵀK = I/(2t).
    """
    problem, factors = PROBLEMS[name].build(), lambda_balanced(PROBLEMS[name].build().shape, width, balance)
    flow = jf.flow.balanced_flow(problem, as_jax(factors), LATE)
    left = float(jnp.linalg.norm(flow.product - problem.truncation(width).product))
    beyond = width - problem.rank if balance == 0 else 0
    assert left == pytest.approx(max(beyond, 0) ** 0.5 / (2 * LATE), rel=1e-4, abs=1e-13)
    np.testing.assert_allclose(flow.imbalance, balance * np.eye(width), atol=1e-13)


def test_the_formula_as_it_is_written_loses_every_digit():
    """At time 60 its matrix has a condition number of e^{2·60·(σ₁ − σ₃)}; the closed form and an integrator do not."""
    problem, matrix = PROBLEMS["dense, tall"].build(), PROBLEMS["dense, tall"].scaled_matrix
    factors = lambda_balanced(problem.shape, 3, 0.0)
    exact = integrated(matrix, factors, 60.0)
    np.testing.assert_allclose(jf.flow.balanced_flow(problem, as_jax(factors), 60.0).product, exact, atol=1e-10)
    assert np.linalg.norm(riccati(matrix, factors, 0.0, 60.0) - exact) > 1e-4


def riccati(matrix, factors, balance, time):
    """Return the closed form for a given λ, which need not be that of the factors (Braun et al. 2022)."""
    m, n = matrix.shape
    Q = np.concatenate(factors)
    F = np.block([[balance / 2 * np.eye(m), matrix], [matrix.T, -balance / 2 * np.eye(n)]])
    values, vectors = np.linalg.eigh(F)
    integral = np.where(np.abs(values) < 1e-9, time, np.expm1(2 * values * time) / (2 * values + (values == 0)))
    along = vectors.T @ Q
    moved = vectors @ (np.exp(values * time)[:, None] * along)
    inner = np.eye(Q.shape[1]) + along.T @ (integral[:, None] * along)
    return (moved @ np.linalg.solve(inner, moved.T))[:m, m:]


@pytest.mark.parametrize(("name", "width", "balance"), CASES)
def test_descent_approaches_the_flow_at_first_order(name, width, balance):
    problem, factors = PROBLEMS[name].build(), lambda_balanced(PROBLEMS[name].build().shape, width, balance)
    flow = jf.flow.balanced_flow(problem, as_jax(factors), TIME).product
    # Negative control: with the wrong sign of λ the closed form is not the limit of descent.
    flipped = riccati(PROBLEMS[name].scaled_matrix, factors, -balance, TIME)
    errors, wrong = [], []
    for num_steps in (200, 400):
        method = jf.methods.gradient_descent(TIME / num_steps)
        product = jf.descend(problem, method, as_jax(factors), num_steps=num_steps).factors.product
        errors.append(np.linalg.norm(product - flow))
        wrong.append(np.linalg.norm(product - flipped))
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.05)
    assert (wrong[0] / wrong[1] < 1.1) == (balance != 0)


@pytest.mark.parametrize("time", [0.0, TIME])
def test_derivatives_are_those_of_the_flow(time):
    """f falls by ‖∇f‖² per unit of time, at time 0 too, and a rotation of the start's columns does not move it."""
    problem = PROBLEMS["dense, tall"].build()
    start = as_jax(lambda_balanced(problem.shape, 3, 0.6))

    def loss(factors, time):
        return problem.loss(jf.flow.balanced_flow(problem, factors, time))

    by_start, by_time = jax.jit(jax.grad(loss, argnums=(0, 1)))(start, time)
    slopes = problem.gradient(jf.flow.balanced_flow(problem, start, time))
    assert float(by_time) == pytest.approx(-float(slopes.energy), rel=1e-12)
    skew = np.array([[0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]])
    turned, grown = (
        sum(float(jnp.sum(g * (x @ by))) for g, x in zip(by_start, start, strict=True)) for by in (skew, np.eye(3))
    )
    assert abs(turned) < 1e-12 < 1e-2 < abs(grown)


def test_single_precision_is_late_too():
    problem = PROBLEMS["dense, wide"].build(np.float32)
    flow = jf.flow.balanced_flow(problem, as_jax(lambda_balanced(problem.shape, 2, 0.3), np.float32), LATE)
    assert flow.U.dtype == np.float32
    assert float(problem.distance(flow)) < 1e-6


def test_a_start_that_is_not_balanced_is_refused():
    problem = PROBLEMS["dense, tall"].build()
    with pytest.raises(ValueError, match=r"^factors=imbalance off λI by .+: needs UᵀU − VᵀV = λI; start from Balanced"):
        jf.flow.balanced_flow(problem, as_jax(pair((7, 5), 3)), TIME)
    with pytest.raises(ValueError, match=r"^times=-1: needs finite numbers, 0 or above; give times in 1/σ₁\.$"):
        jf.flow.balanced_flow(problem, as_jax(lambda_balanced(problem.shape, 2, 0.0)), -1)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.3])
def test_aligned_modes_are_logistic(scale):
    """From s·(P√S, Q√S) the singular values of the flow never mix: each is a logistic curve from s²·σ."""
    problem = PROBLEMS["singular values and bases"].build()
    start = jf.starts.Spectral(2, scale).draw(jax.random.key(0), problem)
    values = problem.singular_values[:2]
    times = np.array([0.0, 0.7, 8.0])
    flows = jf.flow.balanced_flow(problem, start, times).product
    for time, flow in zip(times, flows, strict=True):
        expected = jf.flow.logistic_mode(values, scale**2 * values, time)
        modes = jnp.diag(problem.left[:, :2].T @ flow @ problem.right[:, :2])
        np.testing.assert_allclose(modes, expected, rtol=1e-11)
        np.testing.assert_allclose(flow, (problem.left[:, :2] * expected) @ problem.right[:, :2].T, atol=1e-13)


def test_logistic_mode_by_hand_and_by_descent():
    """ȧ = 2a(s − a), so a(t) = s/(1 + e^{−2st}) from s/2; descent with small steps follows it at first order."""
    assert float(jf.flow.logistic_mode(0.8, 0.4, 1.5)) == pytest.approx(0.8 / (1 + np.exp(-2.4)), rel=1e-14)
    # Without a target ȧ = −2a², a zero stays, and late modes are at their target.
    found = jf.flow.logistic_mode([0.0, 0.7, 0.7], [0.4, 0.0, 1e-12], [[1.5], [1e6]])
    np.testing.assert_allclose(found, [[0.4 / 2.2, 0, 1e-12 * np.exp(2.1)], [0.4 / (1 + 8e5), 0, 0.7]], rtol=1e-8)
    problem = jf.Factorization(np.array([1.0, 0.5]), shape=(3, 2))
    start = jf.starts.Spectral(2, 0.1).draw(jax.random.key(0), problem)
    expected = jf.flow.logistic_mode(problem.singular_values, 0.01 * problem.singular_values, 3.0)
    errors = []
    for num_steps in (1000, 2000):
        run = jf.descend(problem, jf.methods.gradient_descent(3.0 / num_steps), start, num_steps=num_steps)
        errors.append(np.abs(jf.measures.singular_values(problem, run.factors) - expected))
    np.testing.assert_allclose(errors[0] / errors[1], 2.0, rtol=0.05)
    assert errors[1].max() < 2e-3
