"""Compression: sizes, rank, condition and width as axes of one program."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import pair

import jaxfact as jf
from jaxfact import measures
from jaxfact.problems.compression import Compressed

KEY = jr.key(17, impl="threefry2x32")
METHODS = {
    "plain": jf.methods.gradient_descent(0.9),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "balanced": jf.methods.balanced(0.5, 0.125),
    "scaled": jf.methods.scaled_gd(0.5),
}


def test_sizes_are_axes():
    """m and n may be axes of one program; each point is the run of that size alone, to rounding."""

    def experiment(m, n):
        return jf.Run(
            jf.Factorization([1, 0.5], shape=(m, n)), jf.starts.Gaussian(2, norm=0.1), jf.methods.gradient_descent(0.5)
        )

    options = {"seeds": 8, "max_steps": 200, "tolerance": None, "every": 50}
    runs = jf.sweep(experiment, m=[3, 20, 10**6], n=[4, 10**6], **options)
    for m, n in ((20, 4), (10**6, 10**6)):
        alone = jf.sweep(lambda m=m, n=n: experiment(m, n), **options)
        np.testing.assert_allclose(runs.loss_path.sel(m=m, n=n), alone.loss_path, atol=1e-13)
    assert np.all(runs.loss_path.isel(step=-1) < 1e-2)


def test_a_size_axis_needs_compression():
    def experiment(m):
        return jf.Run(jf.Factorization([1, 0.5], shape=(m, 9)), jf.starts.Gaussian(3, norm=0.1), optax.adam(0.1))

    with pytest.raises(ValueError, match="traced sizes.*cannot be formed"):
        jf.sweep(experiment, seeds=2, max_steps=100, tolerance=None, m=[10, 20])


def test_rank_and_condition_are_axes():
    """Zeros pad the spectrum: loss, distance and gradient are those of the short one."""

    def experiment(rank, condition):
        values = jf.data.singular_values(rank, condition, padded_to=4)
        return jf.Run(
            jf.Factorization(values, shape=(20, 15)),
            jf.starts.Gaussian(5, scale=1e-4),
            jf.methods.gradient_descent(0.5),
        )

    runs = jf.sweep(experiment, seeds=20, max_steps=5000, tolerance=1e-6, rank=[1, 2, 4], condition=[1.0, 5.0])
    assert np.all(runs.outcome == "converged")
    slow, quick = (runs.hit.sel(level=1e-6, rank=4, condition=c).median() for c in (5.0, 1.0))
    assert slow > 3 * quick
    padded = jax.jit(lambda v: jf.Factorization(v, shape=(7, 6)).distance(jf.Factors(*F)))
    F = pair((7, 6), 3)
    expected = jf.Factorization([1, 0.5], shape=(7, 6)).distance(jf.Factors(*F))
    np.testing.assert_allclose(padded(jnp.array([1, 0.5, 0, 0])), expected, rtol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_width_is_an_axis(method):
    """Columns beyond the width are zero and stay so; the distance is to the best approximation of the width."""

    def experiment(width):
        problem = jf.Factorization([1, 0.6, 0.3], shape=(20, 15))
        start = jf.starts.Gaussian(width, scale=0.1, padded_to=4)
        return jf.Run(problem, start, METHODS[method])

    def spare_columns(problem, factors):
        used = problem.used_columns(factors.width)
        return sum(jnp.sum(jnp.abs(jnp.where(used, 0, x))) for x in factors)

    record = {"distance": measures.distance, "spare": spare_columns}
    widths = [1, 2] if method == "scaled" else [1, 2, 3]
    runs = jf.sweep(
        experiment, seeds=10, max_steps=3000, tolerance=None, width=widths, record=record, every=[3000], compress=True
    )
    assert np.all(runs.distance < 1e-5)
    for width in widths[:2]:
        tail = sum(s**2 for s in [1, 0.6, 0.3][width:]) / 2
        np.testing.assert_allclose(runs.loss.sel(width=width), tail, atol=1e-6)


def test_padded_noise_stays_in_its_columns():
    problem = Compressed(jf.Factorization([1, 0.6], shape=(30, 20)).at_width(2), 4, noisy=True)
    drawn = problem.noise(KEY, problem.standard_normal(KEY, 4))
    for x in drawn:
        assert not np.asarray(x[:, 2:]).any()
        assert np.asarray(x[:, :2]).any()


BAD = {
    "unbounded width": (lambda n: jf.starts.Gaussian(n, scale=0.1), "width=a traced number.*padded_to"),
    "unbounded rank": (lambda n: jf.data.singular_values(n, 2.0), "rank=a traced number.*padded_to"),
}


@pytest.mark.parametrize("name", BAD)
def test_traced_sizes_need_a_bound(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda n: make(n) and 0, jnp.asarray(2))


def test_width_above_its_bound():
    with pytest.raises(ValueError, match="width=6.*padded_to=5"):
        jf.starts.Gaussian(6, scale=0.1, padded_to=5)
    with pytest.raises(ValueError, match="rank=6.*padded_to=5"):
        jf.data.singular_values(6, 2.0, padded_to=5)
