"""Compression: one run in two views, draws and noise exact in law, and the probe that decides."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import frame, pair
from scipy import stats

import jaxfact as jf
from jaxfact import measures
from jaxfact.compressibility import KNOWN, Compression, compression_of
from jaxfact.draws import bartlett, fold
from jaxfact.problems.compression import Compressed, reduced

KEY = jr.key(17, impl="threefry2x32")
# A two-sided normal deviation beyond this has probability 7e-6; the keys are fixed.
Z = 4.5

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
    "plain": jf.gradient_descent(0.9),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "balanced": jf.balanced(0.5, 0.125),
    "scaled": jf.scaled(0.5, 1e-2),
    "alternating": jf.alternating(0.9),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), jf.gradient_descent(0.5)),
    "decayed": optax.chain(optax.add_decayed_weights(1e-3), jf.gradient_descent(0.5)),
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
    factors = jf.Gaussian(width, scale=scale).draw(KEY, problem)
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
    "block RMS clipping": optax.chain(optax.clip_by_block_rms(0.1), jf.gradient_descent(0.3)),
    "two draws of noise": optax.chain(jf.add_noise(0.1), jf.gradient_descent(0.3), jf.add_noise(0.1)),
    "noise of optax": optax.noisy_sgd(0.1, key=1),
    "made for one shape": optax.chain(
        optax.stateless(lambda updates, _: jax.tree.map(lambda x: x + jnp.ones((12, 3)), updates))
    ),
}


@pytest.mark.parametrize("method", NOT_COMPRESSIBLE)
def test_what_does_not_compress_is_found(method):
    assert compression_of(NOT_COMPRESSIBLE[method], None) is None


def test_records_are_probed():
    def largest_row(problem, factors):
        return jnp.max(jnp.linalg.norm(factors.U, axis=1))

    def to_a_fixed_matrix(problem, factors):
        return jnp.linalg.norm(factors.U - jnp.ones((12, 3)))

    plain = jf.gradient_descent(0.1)
    for record in KNOWN:
        # A name of its own, so that it is probed like a user's record.
        probed = {"probed": lambda problem, factors, record=record: record(problem, factors)}
        assert compression_of(plain, probed) is not None, record.__name__
    assert compression_of(plain, [measures.loss, largest_row]) is None
    assert compression_of(plain, [to_a_fixed_matrix]) is None


def test_noisy_methods_are_told_from_quiet_ones():
    momentum = optax.chain(optax.sgd(0.1, momentum=0.9), jf.add_noise(0.1))
    before = optax.chain(jf.add_noise(0.1), optax.sgd(0.1, momentum=0.9))
    assert compression_of(jf.perturbed(0.3, 0.1), None) == Compression(1, noisy=True)
    assert compression_of(jf.perturbed_on_sphere(0.3, 0.1), None) == Compression(1, noisy=True)
    assert compression_of(momentum, None) == compression_of(before, None) == Compression(2, noisy=True)


@pytest.mark.parametrize("start", [jf.Gaussian, jf.Orthogonal, jf.Balanced])
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
        return jf.Run(problem, jf.Gaussian(width, scale=0.1), jf.gradient_descent(step_size))

    options = {"seeds": 20, "max_steps": 400, "tolerance": 1e-6, "every": 100, "step_size": [0.3, 0.9]}
    small, full = jf.sweep(experiment, **options), jf.sweep(experiment, compress=False, **options)
    assert (small.attrs["compression"], full.attrs["compression"]) == ("exact", "none")
    np.testing.assert_array_equal(small.outcome, full.outcome)
    np.testing.assert_array_equal(small.hit, full.hit)
    for name in ("loss_path", "distance_path", "imbalance_path"):
        np.testing.assert_allclose(small[name], full[name], atol=1e-12)
    assert np.unique(small.distance).size == 40


# --- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 95, 10**6])
def test_chi_has_its_law(freedom):
    from jaxfact.draws import chi

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
    "plain": (jf.perturbed(0.3, NOISE), 1, [Dropped, OneTooFew]),
    "momentum": (optax.chain(optax.sgd(0.1, momentum=0.8), jf.add_noise(NOISE)), 2, [Dropped, NotRotated]),
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
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.Gaussian(2, scale=0.01), jf.perturbed(0.3, 1e-3)),
        seeds=200,
        max_steps=400,
        tolerance=None,
    )
    full = jf.sweep(
        lambda: jf.Run(problem, jf.Gaussian(2, scale=0.01), jf.perturbed(0.3, 1e-3)),
        seeds=200,
        max_steps=400,
        tolerance=None,
        compress=False,
    )
    assert runs.attrs["compression"] == "in law"
    assert stats.ks_2samp(runs.distance.values, full.distance.values).pvalue > 1e-3
    assert stats.ks_2samp(runs.imbalance.values, full.imbalance.values).pvalue > 1e-3


# --- sizes as axes ---------------------------------------------------------------------------------------------------


def test_sizes_are_axes():
    """m and n may be axes of one program; each point is the run of that size alone, to rounding."""

    def experiment(m, n):
        return jf.Run(jf.Factorization([1, 0.5], shape=(m, n)), jf.Gaussian(2, norm=0.1), jf.gradient_descent(0.5))

    options = {"seeds": 8, "max_steps": 200, "tolerance": None, "every": 50}
    runs = jf.sweep(experiment, m=[3, 20, 10**6], n=[4, 10**6], **options)
    for m, n in ((20, 4), (10**6, 10**6)):
        alone = jf.sweep(lambda m=m, n=n: experiment(m, n), **options)
        np.testing.assert_allclose(runs.loss_path.sel(m=m, n=n), alone.loss_path, atol=1e-13)
    assert np.all(runs.loss_path.isel(step=-1) < 1e-2)


def test_a_size_axis_needs_compression():
    def experiment(m):
        return jf.Run(jf.Factorization([1, 0.5], shape=(m, 9)), jf.Gaussian(3, norm=0.1), optax.adam(0.1))

    with pytest.raises(ValueError, match="traced sizes.*cannot be formed"):
        jf.sweep(experiment, seeds=2, max_steps=100, tolerance=None, m=[10, 20])


def test_rank_and_condition_are_axes():
    """Zeros pad the spectrum: loss, distance and gradient are those of the short one."""

    def experiment(rank, condition):
        values = jf.data.singular_values(rank, condition, padded_to=4)
        return jf.Run(jf.Factorization(values, shape=(20, 15)), jf.Gaussian(5, scale=1e-4), jf.gradient_descent(0.5))

    runs = jf.sweep(experiment, seeds=20, max_steps=5000, tolerance=1e-6, rank=[1, 2, 4], condition=[1.0, 5.0])
    assert np.all(runs.outcome == "converged")
    slow, quick = (runs.hit.sel(level=1e-6, rank=4, condition=c).median() for c in (5.0, 1.0))
    assert slow > 3 * quick
    padded = jax.jit(lambda v: jf.Factorization(v, shape=(7, 6)).distance(jf.Factors(*F)))
    F = pair((7, 6), 3)
    expected = jf.Factorization([1, 0.5], shape=(7, 6)).distance(jf.Factors(*F))
    np.testing.assert_allclose(padded(jnp.array([1, 0.5, 0, 0])), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ["plain", "balanced", "scaled", "momentum"])
def test_width_is_an_axis(method):
    """Columns beyond the width are zero and stay so; the distance is to the best approximation of the width."""

    def experiment(width):
        problem = jf.Factorization([1, 0.6, 0.3], shape=(20, 15))
        start = jf.Gaussian(width, scale=0.1, padded_to=4)
        return jf.Run(problem, start, jf.scaled(0.5) if method == "scaled" else METHODS[method])

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
    "unbounded width": (lambda n: jf.Gaussian(n, scale=0.1), "width=a traced number.*padded_to"),
    "unbounded rank": (lambda n: jf.data.singular_values(n, 2.0), "rank=a traced number.*padded_to"),
}


@pytest.mark.parametrize("name", BAD)
def test_traced_sizes_need_a_bound(name):
    make, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda n: make(n) and 0, jnp.asarray(2))


def test_width_above_its_bound():
    with pytest.raises(ValueError, match="width=6.*padded_to=5"):
        jf.Gaussian(6, scale=0.1, padded_to=5)
    with pytest.raises(ValueError, match="rank=6.*padded_to=5"):
        jf.data.singular_values(6, 2.0, padded_to=5)
