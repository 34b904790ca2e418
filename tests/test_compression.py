"""Compression: one run in two views, and the probe that decides. Its laws and sizes have files of their own."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import frame, pair

import jaxfact as jf
from jaxfact import measures
from jaxfact.engine import jaxprs
from jaxfact.engine.compressibility import KNOWN, Compression, compression_of
from jaxfact.problems.compression import Compressed, reduced

KEY = jr.key(17, impl="threefry2x32")

TARGETS = {
    "tall": ([1, 0.7, 0.4], (40, 30), 3),
    "wide, over-parametrised": ([1, 0.7, 0.4], (9, 30), 5),
    "badly conditioned": ([1, 0.1, 0.01], (25, 20), 3),
    "m < r + d": ([1, 0.5, 0.3], (5, 4), 4),
    "full rank": ([1, 0.8, 0.5, 0.2], (4, 9), 2),
    "width below the rank": ([1, 0.8, 0.5, 0.2], (12, 9), 2),
    "width above both sides": ([1, 0.5], (4, 3), 6),
}
METHODS = {
    "plain": jf.methods.gradient_descent(0.9),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "balanced": jf.methods.balanced(0.5, 0.125),
    "scaled": jf.methods.scaled_gd(0.5, 1e-2),
    "alternating": jf.methods.alternating(0.9),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), jf.methods.gradient_descent(0.5)),
    "decayed": optax.chain(optax.add_decayed_weights(1e-3), jf.methods.gradient_descent(0.5)),
}
RECORDS = [measures.loss, measures.distance, measures.imbalance, measures.energy]


def build(name: str, dense: bool = False) -> tuple[jf.Factorization, int]:
    values, shape, width = TARGETS[name]
    if not dense:
        return jf.Factorization(values, shape=shape), width
    left, right = (frame(size, len(values), seed) for seed, size in enumerate(shape))
    return jf.Factorization(left * values @ right.T), width


@lru_cache
def both_views(name, method, dense):
    """Return the records of one start over 1000 steps, run in full and compressed."""
    problem, width = build(name, dense)
    scale = 1e-3 if dense else 0.1
    factors = jf.starts.Gaussian(width, scale=scale).draw(KEY, problem)
    small, start = jf.compress(problem, factors)
    return [
        jax.jit(lambda f, p=p: jf.descend(p, METHODS[method], f, num_steps=1000, every=50, record=RECORDS).records)(f)
        for p, f in ((problem, factors), (small, start))
    ]


@pytest.mark.parametrize(
    ("name", "dense"), [*((name, False) for name in TARGETS), ("tall", True), ("m < r + d", True), ("full rank", True)]
)
def test_a_compressed_run_is_the_run(name, dense):
    """Over 1000 steps all records agree to 1e-10·‖Σ‖, whatever the shape of the problem."""
    full, small = both_views(name, "plain", dense)
    for record, values in full.items():
        np.testing.assert_allclose(small[record], values, atol=1e-10, err_msg=record)
    assert np.ptp(full["loss"]) > 0.01, "something happened"


@pytest.mark.parametrize("method", METHODS)
def test_every_compressible_method(method):
    assert compression_of(METHODS[method], RECORDS) == Compression(1, noisy=False)
    full, small = both_views("tall", method, False)
    for record, values in full.items():
        np.testing.assert_allclose(small[record], values, atol=1e-10, err_msg=record)
    assert np.ptp(full["loss"]) > 0.01


NOT_COMPRESSIBLE = {
    "adam": optax.adam(0.1),
    "sign": optax.sign_sgd(0.1),
    "block RMS clipping": optax.chain(optax.clip_by_block_rms(0.1), jf.methods.gradient_descent(0.3)),
    "two draws of noise": optax.chain(
        jf.methods.add_noise(0.1), jf.methods.gradient_descent(0.3), jf.methods.add_noise(0.1)
    ),
    "noise of optax": optax.noisy_sgd(0.1, key=1),
    "first row held": optax.stateless(lambda updates, _: jax.tree.map(lambda x: -0.1 * x.at[0].set(0), updates)),
    "made for one shape": optax.chain(
        optax.stateless(lambda updates, _: jax.tree.map(lambda x: x + jnp.ones((12, 3)), updates))
    ),
}


@pytest.mark.parametrize("method", NOT_COMPRESSIBLE)
def test_what_does_not_compress_is_found(method):
    assert compression_of(NOT_COMPRESSIBLE[method], None) is None


def test_a_method_that_does_the_same_with_other_numbers_is_compiled_once_and_judged_anew():
    """Blocks are clipped at a root mean square of 0.1, at 10³ never: one program, whose verdict is that of its data."""

    def method(most):
        return optax.chain(optax.clip_by_block_rms(jnp.asarray(most)), jf.methods.gradient_descent(0.3))

    compiled = jaxprs._compiled
    assert compression_of(method(0.1), None) is None
    before = compiled.cache_info()
    assert compression_of(method(1e3), None) == Compression(1, noisy=False)
    assert compression_of(method(0.1), None) is None
    assert compiled.cache_info().misses == before.misses
    assert compiled.cache_info().hits == before.hits + 2


def test_a_method_whose_closure_changes_is_probed_again():
    does = [lambda gradient: gradient]
    method = optax.stateless(lambda updates, _: jax.tree.map(lambda x: -0.1 * does[0](x), updates))
    assert compression_of(method, None) == Compression(1, noisy=False)
    does[0] = jnp.sign
    assert compression_of(method, None) is None


def test_records_are_probed():
    def largest_row(problem, factors):
        return jnp.max(jnp.linalg.norm(factors.U, axis=1))

    def to_a_fixed_matrix(problem, factors):
        return jnp.linalg.norm(factors.U - jnp.ones((12, 3)))

    def first_entry(problem, factors):
        return factors.product[0, 0]

    def first_residual(problem, factors):
        return jnp.abs(factors.product - problem.target)[0, 0]

    plain = jf.methods.gradient_descent(0.1)
    for record in KNOWN:
        # A name of its own, so that it is probed like a user's record.
        probed = {"probed": lambda problem, factors, record=record: record(problem, factors)}
        assert compression_of(plain, probed) is not None, record.__name__
    assert compression_of(plain, [measures.loss, largest_row]) is None
    assert compression_of(plain, [to_a_fixed_matrix]) is None
    # In singular coordinates these would be entries of another matrix.
    assert compression_of(plain, [first_entry]) is None
    assert compression_of(plain, [first_residual]) is None


def test_noisy_methods_are_told_from_quiet_ones():
    momentum = optax.chain(optax.sgd(0.1, momentum=0.9), jf.methods.add_noise(0.1))
    before = optax.chain(jf.methods.add_noise(0.1), optax.sgd(0.1, momentum=0.9))
    assert compression_of(jf.methods.perturbed(0.3, 0.1), None) == Compression(1, noisy=True)
    assert compression_of(jf.methods.perturbed_on_sphere(0.3, 0.1), None) == Compression(1, noisy=True)
    assert compression_of(momentum, None) == compression_of(before, None) == Compression(2, noisy=True)


@pytest.mark.parametrize("start", [jf.starts.Gaussian, jf.starts.Orthogonal, jf.starts.Balanced])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dense", [False, True], ids=["diagonal", "dense"])
def test_one_start_two_views(start, name, dense):
    """What a start draws on the compressed problem is the compressed form of what it draws on the full one."""
    problem, width = build(name, dense)
    rule = start(width, scale=0.3)
    small = Compressed(problem, width)
    direct, through = rule.draw(KEY, small), reduced(small, problem, rule.draw(KEY, problem))
    assert direct.U.shape == through.U.shape == (small.rows[0], width)
    r = problem.rank
    for a, b in zip(direct, through, strict=True):
        # A triangle is one of many frames; Balanced and Orthogonal stand in another.
        np.testing.assert_allclose(a[:r], b[:r], atol=1e-12)
        np.testing.assert_allclose(a[r:].T @ a[r:], b[r:].T @ b[r:], atol=1e-12)
    np.testing.assert_allclose(small.loss(direct), problem.loss(rule.draw(KEY, problem)), rtol=1e-10)


def test_expand_undoes_compress():
    problem, width = build("tall", dense=True)
    small, factors = jf.compress(problem, jax.tree.map(jnp.asarray, pair((40, 30), width)))
    again = jf.expand(problem, factors, KEY)
    for a, b in zip(jf.compress(problem, again)[1], factors, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert small.shape == (40, 30)
    assert factors.U.shape == factors.V.shape == (6, 3)


def test_sweeps_compress_by_themselves():
    """Switching compression off changes no number beyond rounding, and the dataset says what was done."""
    problem, width = build("tall", dense=True)

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, scale=0.1), jf.methods.gradient_descent(step_size))

    options = {"seeds": 20, "max_steps": 400, "tolerance": 1e-6, "every": 100, "step_size": [0.3, 0.9]}
    small, full = jf.sweep(experiment, **options), jf.sweep(experiment, compress=False, **options)
    assert (small.attrs["compression"], full.attrs["compression"]) == ("exact", "none")
    np.testing.assert_array_equal(small.outcome, full.outcome)
    np.testing.assert_array_equal(small.hit, full.hit)
    for name in ("loss_path", "distance_path", "imbalance_path"):
        np.testing.assert_allclose(small[name], full[name], atol=1e-12)
    assert np.unique(small.distance).size == 40
