"""Problems in one symmetric factor."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import frame

import jaxfact as jf

SIZE, WIDTH, KEY = 9, 3, jr.key(4)
MATRIX = frame(SIZE, 3, 1) @ np.diag([2.0, 1.0, 0.5]) @ frame(SIZE, 3, 1).T
X = 0.4 * np.random.default_rng(2).normal(size=(SIZE, WIDTH))


@pytest.fixture(scope="module")
def problem():
    return jf.Tied(jf.Factorization(MATRIX))


def test_loss_gradient_and_distance_against_numpy(problem):
    """¼‖XXᵀ − Σ‖², (XXᵀ − Σ)X and ‖XXᵀ − Σ‖/‖Σ‖ in units of σ₁ = 2."""
    residual = X @ X.T - MATRIX / 2
    factors = jf.TiedFactor(jnp.asarray(X))
    assert problem.loss(factors) == pytest.approx(np.sum(residual**2) / 4, rel=1e-12)
    np.testing.assert_allclose(problem.gradient(factors).X, residual @ X, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jax.grad(problem.loss)(factors).X, residual @ X, rtol=1e-10, atol=1e-12)
    assert problem.distance(factors) == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(MATRIX / 2), rel=1e-12)


def test_descent_is_that_of_a_numpy_loop(problem):
    """One step of the papers: X⁺ = X + η(Σ − XXᵀ)X."""
    found = jf.descend(problem, jf.methods.gradient_descent(0.1), jf.TiedFactor(jnp.asarray(X)), num_steps=50)
    moved = X
    for _ in range(50):
        moved = moved + 0.1 * (MATRIX / 2 - moved @ moved.T) @ moved
    np.testing.assert_allclose(found.factors.X, moved, rtol=1e-10)


def test_a_tied_run_is_a_run_of_two_equal_factors(problem):
    """From U = V a symmetric target keeps the pair equal, at the same step size."""
    pair = jf.Factors(jnp.asarray(X), jnp.asarray(X))
    two = jf.descend(jf.Factorization(MATRIX), jf.methods.gradient_descent(0.1), pair, num_steps=40)
    one = jf.descend(problem, jf.methods.gradient_descent(0.1), jf.TiedFactor(jnp.asarray(X)), num_steps=40)
    np.testing.assert_allclose(two.factors.U, one.factors.X, rtol=1e-10)
    np.testing.assert_allclose(two.factors.V, one.factors.X, rtol=1e-10)


METHODS = {
    "gradient descent": lambda: jf.methods.gradient_descent(0.3),
    "scaled, damped": lambda: jf.methods.scaled_gd(0.5, 0.1),
    "momentum": lambda: optax.sgd(0.2, momentum=0.5),
}


@pytest.mark.parametrize("name", METHODS)
def test_sweeps_converge_and_have_no_imbalance(problem, name):
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(WIDTH, scale=1e-2), METHODS[name]()),
        seeds=16,
        max_steps=4000,
        tolerance=1e-8,
        every=1000,
        record=[jf.measures.energy, jf.measures.singular_values],
    )
    assert np.all(runs.outcome == "converged")
    assert "imbalance" not in runs
    # The trace of the product is that of the target.
    np.testing.assert_allclose(runs.energy_path.isel(step=-1), 1.75, rtol=1e-6)


def test_the_usual_records_leave_the_imbalance_out(problem):
    found = jf.descend(problem, jf.methods.gradient_descent(0.1), problem.truncation(WIDTH), num_steps=10, every=5)
    assert set(found.records) == {"loss", "distance"}
    np.testing.assert_allclose(found.records["distance"], 0, atol=1e-12)


def test_noise_has_the_drift_of_one_factor(problem):
    """Without a gradient, ‖X‖² grows by noise²·nd a step; 200 runs tell 2 % at four standard errors."""
    still = optax.chain(optax.set_to_zero(), jf.methods.add_noise(0.1))
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(WIDTH, scale=1e-9), still),
        seeds=200,
        max_steps=20,
        tolerance=None,
        every=20,
        record=[jf.measures.energy],
        check_every=20,
    )
    expected = 20 * 0.1**2 * SIZE * WIDTH
    spread = expected * (2 / (SIZE * WIDTH * 200)) ** 0.5
    assert float(runs.energy_path.isel(step=-1).mean()) == pytest.approx(expected, abs=4 * spread)


def test_checked_runs_keep_the_rotation_identity(problem):
    jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(WIDTH, scale=0.1), jf.methods.gradient_descent(0.1)),
        seeds=4,
        max_steps=50,
        tolerance=None,
        checked=True,
    )

    class Crooked(jf.Tied):
        def gradient(self, factors):
            first = jnp.zeros_like(factors.X).at[0, 0].set(0.1 * jnp.sum(factors.X[:, 0] ** 2))
            return jax.tree.map(lambda g: g + first, super().gradient(factors))

    broken = Crooked(problem.problem)
    with pytest.raises(RuntimeError, match="rotation"):
        jf.sweep(
            lambda: jf.Run(broken, jf.starts.Gaussian(WIDTH, scale=0.1), jf.methods.gradient_descent(0.1)),
            seeds=4,
            max_steps=50,
            tolerance=None,
            checked=True,
        )


NEGATIVE = frame(SIZE, 3, 1) @ np.diag([2.0, 1.0, -0.5]) @ frame(SIZE, 3, 1).T


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: jf.Tied(jf.Factorization(np.ones((3, 4)))), "needs a square matrix"),
        (lambda: jf.Tied(jf.Factorization(np.triu(np.ones((4, 4))))), "needs a symmetric matrix"),
        (lambda: jf.Tied(jf.Factorization(NEGATIVE)), "eigenvalue -2.5e-01.*none below 0"),
        (lambda: jf.Tied(jf.Tied(jf.Factorization(MATRIX))), "needs a problem in two factors"),
        (lambda: jf.Tied(MATRIX), "needs a problem in two factors"),
    ],
    ids=["not square", "not symmetric", "negative", "twice", "a matrix"],
)
def test_what_cannot_be_tied(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("method", "message"),
    [(lambda: jf.methods.balanced(0.1, 1 / 8), "balancing"), (lambda: jf.methods.alternating(0.1), "alternation")],
    ids=["balanced", "alternating"],
)
def test_methods_of_pairs_are_refused(problem, method, message):
    with pytest.raises(ValueError, match=f"{message}=one factor: needs the two factors of a pair"):
        jf.sweep(
            lambda: jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), method()), seeds=2, max_steps=10, tolerance=None
        )


def test_pairs_are_refused(problem):
    pair = jf.Factors(jnp.asarray(X), jnp.asarray(X))
    with pytest.raises(ValueError, match=r"factors=U .*needs X \(9, 3\)"):
        jf.sweep(lambda: jf.Run(problem, pair, jf.methods.gradient_descent(0.1)), seeds=2, max_steps=10, tolerance=None)
    with pytest.raises(ValueError, match="one factor cannot be unbalanced"):
        jf.starts.Gaussian(2, scale=0.1, ratio=3.0).draw(KEY, problem)
    with pytest.raises(ValueError, match="imbalance=one factor"):
        jf.measures.imbalance(problem, jf.TiedFactor(jnp.asarray(X)))
