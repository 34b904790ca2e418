"""Compression: draws and noise are exact in law."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import pair
from scipy import stats

import jaxfact as jf
from jaxfact import measures
from jaxfact.numerics.draws import bartlett, chi, fold
from jaxfact.problems.compression import Compressed, reduced

KEY = jr.key(17, impl="threefry2x32")
# A two-sided normal deviation beyond this has probability 7e-6; the keys are fixed.
Z = 4.5


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 95, 10**6])
def test_chi_has_its_law(freedom):
    keys = jax.vmap(lambda i: fold(KEY, i))(jnp.arange(500))
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: chi(key, jnp.full(40, float(freedom)))))(keys)).ravel()
    assert stats.kstest(drawn, stats.chi(freedom).cdf).pvalue > 1e-3
    # Negative control, and power: half a degree too few is seen where a degree is a fifth of all or more.
    if freedom <= 5:
        assert stats.kstest(drawn, stats.chi(freedom + 0.5).cdf).pvalue < 1e-6


def test_no_freedom_no_rows():
    triangle = np.asarray(bartlett(KEY, jnp.array([1.0, 0.0, -2.0]), 3))
    assert np.all(triangle[0, 1:] == 0)
    assert np.all(triangle[0, 0] != 0)
    assert not triangle[1:].any()


def grams_off(sample):
    """Return z scores of the mean Gram matrix of (m−r)×d normals, m − r = 6: diagonal 6, others 0."""
    count, width = len(sample), sample.shape[-1]
    mean = np.einsum("sij,sik->jk", sample, sample) / count
    spread = np.sqrt(6 * (1 + np.eye(width)) / count)
    return (mean - 6 * np.eye(width)) / spread


def test_direct_draws_have_the_law_of_the_full_ones():
    """m − r = 6: Gram matrices of the off-rows by mean and, on the diagonal, by their chi-squared distribution.

    20,000 draws: a degree of freedom too few moves the mean by 40 standard errors, so it is missed with probability 0.
    """
    problem = jf.Factorization([1, 0.5], shape=(8, 9))
    keys = jax.vmap(lambda i: fold(KEY, i))(jnp.arange(20_000))
    small = Compressed(problem, 3)
    drawn = jax.jit(jax.vmap(lambda key: small.standard_normal(key, 3)))(keys)
    off = np.asarray(drawn.U[:, 2:])
    assert np.abs(grams_off(off)).max() < Z
    assert stats.kstest(np.sum(off**2, axis=1)[:, 1], stats.chi2(6).cdf).pvalue > 1e-3
    along = np.asarray(drawn.U[:, :2])
    assert stats.kstest(along.ravel(), "norm").pvalue > 1e-3
    # Negative control: one degree of freedom too few.
    few = np.asarray(jax.jit(jax.vmap(lambda key: bartlett(key, jnp.array([5.0]), 3)[0]))(keys))
    assert np.abs(grams_off(few)).max() > 5 * Z


class Dropped(Compressed):
    """Broken on purpose: the part of the noise that leaves the frame is left out."""

    def noise(self, key, factors):
        drawn = super().noise(key, factors)
        return jf.Factors(*(x.at[len(x) - s :].set(0) for x, s in zip(drawn, self.spare, strict=True)))


class OneTooFew(Compressed):
    """Broken on purpose: the part of the noise that leaves the frame has one degree of freedom too few."""

    def noise(self, key, factors):
        drawn = super().noise(key, factors)
        freedom = [jnp.asarray(m - r + s - 1.0) for m, r, s in zip(self.shape, self.rows, self.spare, strict=True)]
        off = bartlett(fold(key, 1), jnp.stack(freedom), factors.width)
        return jf.Factors(*(x.at[len(x) - len(t) :].set(t) for x, t in zip(drawn, off, strict=True)))


class NotRotated(Compressed):
    """Broken on purpose: the iterate is rotated back into its frame, the buffer is left alone."""

    def reframed(self, tree):
        factors, state = tree
        return super().reframed((factors, ()))[0], state


NOISE, STEPS, COUNT = 0.05, 30, 4000


def final_numbers(problem, method, start, count=COUNT):
    """Return loss, imbalance and ‖J‖² of many noisy runs from one start."""
    small = isinstance(problem, Compressed)
    factors = reduced(problem, NOISY_PROBLEM, start) if small else start

    @jax.jit
    @jax.vmap
    def run(key):
        last = jf.descend(problem, method, factors, num_steps=STEPS, key=key).factors
        return jnp.stack([problem.loss(last), measures.imbalance(problem, last), jnp.sum(last.U[2:] ** 2)])

    return np.asarray(run(jax.vmap(lambda i: fold(fold(KEY, 5 + small), i))(jnp.arange(count))))


NOISY_PROBLEM = jf.Factorization(np.array([1, 0.6]), shape=(12, 10))
NOISY = {
    "plain": (jf.methods.perturbed(0.3, NOISE), 1, [Dropped, OneTooFew]),
    "momentum": (optax.chain(optax.sgd(0.1, momentum=0.8), jf.methods.add_noise(NOISE)), 2, [Dropped, NotRotated]),
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_is_exact_in_law(name):
    """Loss, imbalance and ‖J‖² after 30 noisy steps, 4000 runs in full and compressed: two-sample tests.

    Level 1e-3 each. Broken variants must be seen with p < 1e-6: so a deviation as small as theirs is missed with
    probability below 1e-3 at this level.
    """
    method, pairs, broken = NOISY[name]
    start = jax.tree.map(jnp.asarray, pair((12, 10), 2, scale=0.3))
    full = final_numbers(NOISY_PROBLEM, method, start)
    small = Compressed(NOISY_PROBLEM, 2, frames=pairs, noisy=True)
    assert small.spare == (2, 2)
    law = final_numbers(small, method, start)
    for k in range(3):
        assert stats.ks_2samp(full[:, k], law[:, k]).pvalue > 1e-3
        assert abs(full[:, k].mean() - law[:, k].mean()) < Z * np.hypot(full[:, k].std(), law[:, k].std()) / COUNT**0.5
    for kind in broken:
        wrong = final_numbers(kind(NOISY_PROBLEM, 2, frames=pairs, noisy=True), method, start)
        assert min(stats.ks_2samp(full[:, k], wrong[:, k]).pvalue for k in range(3)) < 1e-6, kind


def test_noisy_sweeps_are_compressed_in_law():
    problem = jf.Factorization([1, 0.6], shape=(30, 20))

    def experiment():
        return jf.Run(problem, jf.starts.Gaussian(2, scale=0.01), jf.methods.perturbed(0.3, 1e-3))

    options = {"seeds": 200, "max_steps": 400, "tolerance": None}
    runs, full = jf.sweep(experiment, **options), jf.sweep(experiment, compress=False, **options)
    assert (runs.attrs["compression"], full.attrs["compression"]) == ("in law", "none")
    assert stats.ks_2samp(runs.distance.values, full.distance.values).pvalue > 1e-3
    assert stats.ks_2samp(runs.imbalance.values, full.imbalance.values).pvalue > 1e-3
