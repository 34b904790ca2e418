"""Sensing against NumPy, at its doors, and in the engine; fresh measurements at every step against their law."""

import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import as_jax, frame, pair
from scipy import stats

import jaxfact as jf
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.reading import Reading
from jaxfact.problems import operators

KEY = jr.key(7)
M, N, P = 9, 7, 60
VALUES = np.array([2.0, 1.2])


def truth(dtype=float) -> jf.Factorization:
    left, right = (frame(size, 2, seed).astype(dtype) for size, seed in ((M, 1), (N, 2)))
    return jf.Factorization(VALUES.astype(dtype), shape=(M, N), left=left, right=right)


def problem(count=P, **options) -> jf.Sensing:
    return jf.Sensing.of(truth(), operators.gaussian(jr.key(2), (M, N), count), **options)


@jax.jit
def evaluate(sensing, factors):
    return sensing.loss(factors), sensing.misfit(factors), sensing.gradient(factors)


KINDS = [operators.gaussian, operators.rank_one, operators.entries, operators.transform]


@pytest.mark.parametrize("draw", KINDS)
def test_loss_misfit_and_gradient_against_numpy(draw):
    """With observations y = 𝒜(Σ) + noise; the gradient is also that of the loss, by jax.grad and by differences."""
    sensing = jf.Sensing.of(truth(), draw(jr.key(2), (M, N), 40), noise=0.1, key=KEY)
    factors, along = as_jax(pair((M, N), 3)), as_jax(pair((M, N), 3, seed=2))
    basis = np.eye(M * N).reshape(-1, M, N)
    measure = jax.jit(jax.vmap(lambda E: sensing.operator.measure(jf.Factors(E, jnp.eye(N))), out_axes=1))
    A = np.asarray(measure(basis))
    U, V = (np.asarray(x) for x in factors)
    y = np.asarray(sensing.observations)
    residual = A @ (U @ V.T).ravel() - y
    back = (A.T @ residual).reshape(M, N)
    found, misfit, gradient = evaluate(sensing, factors)
    assert float(found) == pytest.approx(np.sum(residual**2) / 2, rel=1e-12)
    assert float(misfit) == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(y), rel=1e-12)
    np.testing.assert_allclose(gradient.U, back @ V, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient.V, back.T @ U, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(sensing.back_projection(), (A.T @ y).reshape(M, N), rtol=1e-11, atol=1e-12)
    by_grad = jax.jit(lambda f: jax.grad(sensing.loss)(f))(factors)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), gradient, by_grad)
    # Along a line the loss is a quartic, for which the five-point formula is exact.
    moved = [as_jax(jf.Factors(*(x + t * z for x, z in zip(factors, along, strict=True)))) for t in (-2, -1, 1, 2)]
    f = [float(evaluate(sensing, at)[0]) for at in moved]
    slope = sum(np.sum(g * z) for g, z in zip(gradient, along, strict=True))
    assert (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12 == pytest.approx(float(slope), rel=1e-10)


@pytest.mark.parametrize("draw", KINDS)
def test_a_batch_is_single_runs(draw):
    sensing = jf.Sensing.of(truth(), draw(jr.key(2), (M, N), 40))
    runs = [as_jax(pair((M, N), 3, seed)) for seed in range(3)]
    batch = jax.tree.map(lambda *xs: jnp.stack(xs, -1), *runs)
    together = jax.jit(jax.vmap(lambda f: evaluate(sensing, f), -1, -1))(batch)
    single = jax.tree.map(lambda *xs: jnp.stack(xs, -1), *(evaluate(sensing, f) for f in runs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), together, single)


def test_the_noise_has_the_deviation_that_is_asked_for():
    """Before its weight 1/√p each measurement has noise of deviation 0.3, the unit being 2: y/unit − 𝒜(Σ/unit)."""
    noisy, clean = (problem(4000, noise=noise, key=KEY) for noise in (0.3, 0.0))
    noise = np.sqrt(4000) * np.asarray(noisy.observations - clean.observations)
    assert stats.kstest(noise / 0.3, "norm").pvalue > 1e-3
    exact = clean.operator.measure(truth().truncation(2))
    np.testing.assert_allclose(clean.observations, exact, rtol=1e-12)
    assert float(clean.unit) == 2


@jax.jit
def descended(sensing, start):
    return jf.descend(sensing, jf.methods.gradient_descent(0.1), start, num_steps=50).factors


def test_the_unit_takes_the_scale_out():
    """Twice the observations of twice the matrix are the same problem, with the truth known or not."""
    plain = problem()
    y = plain.observations * plain.unit
    double = jf.Factorization(2 * VALUES, shape=(M, N), left=truth().left, right=truth().right)
    known = [jf.Sensing(plain.operator, c * y, truth=t) for c, t in ((1, truth()), (2, double))]
    unknown = [jf.Sensing(plain.operator, c * y) for c in (1, 2)]
    start = as_jax(pair((M, N), 2, scale=0.1))
    for one, two in (known, unknown):
        ends = [descended(s, start) for s in (one, two)]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *ends)
        assert float(two.unit) == pytest.approx(2 * float(one.unit), rel=1e-12)
    norm = np.linalg.norm(np.asarray(plain.operator.adjoint(y)), 2)
    assert float(unknown[0].unit) == pytest.approx(norm, rel=1e-12)
    assert unknown[0].unit_name != known[0].unit_name == "σ₁"
    assert np.isnan(unknown[0].distance(start))


def swept(experiment, **options):
    settings = {"seeds": 8, "max_steps": 2000, "tolerance": 1e-3, "check_every": 20} | options
    return jf.sweep(experiment, **settings)


def test_enough_measurements_recover_the_matrix():
    """p = 60 is twice the 2(9+7−2) = 28 degrees of freedom; noise keeps the distance at its own size."""
    clean, noisy = problem(), problem(noise=1e-2, key=KEY)
    start, method = jf.starts.Gaussian(2, scale=0.05), jf.methods.gradient_descent(0.2)
    assert set(swept(lambda: jf.Run(clean, start, method)).outcome.values.ravel()) == {"converged"}
    floor = swept(lambda: jf.Run(noisy, start, method), tolerance=None, max_steps=1000).distance.values
    assert np.all((floor > 1e-3) & (floor < 0.05))


def test_too_few_measurements_are_fitted_without_recovery():
    with pytest.warns(UserWarning, match=r"10 measurements .* 28 degrees"):
        few = problem(10)
    runs = swept(lambda: jf.Run(few, jf.starts.Gaussian(2, scale=0.05), jf.methods.gradient_descent(0.1)))
    assert set(runs.outcome.values.ravel()) == {"fitted"}
    assert np.all(runs.distance > 0.1)


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")
def test_the_operator_may_be_drawn_by_each_run_and_its_count_be_an_axis():
    """Few measurements never find the matrix, many always do; one program serves both counts."""

    def experiment(count, key):
        operator = operators.gaussian(key, (M, N), count, padded_to=P)
        start = jf.starts.Gaussian(2, scale=0.05)
        return jf.Run(jf.Sensing.of(truth(), operator), start, jf.methods.gradient_descent(0.1))

    runs = swept(experiment, count=[12, P])
    assert not np.any(runs.outcome.sel(count=12) == "converged")
    assert np.mean(runs.outcome.sel(count=P) == "converged") >= 7 / 8
    assert len(np.unique(runs.loss.sel(count=P))) == 8


def test_spectral_start_is_the_truncated_back_projection():
    sensing = problem()
    U, V = sensing.truncation(2)
    left, values, right = np.linalg.svd(np.asarray(sensing.back_projection()))
    np.testing.assert_allclose(U @ V.T, left[:, :2] * values[:2] @ right[:2], atol=1e-12)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda o: jf.Sensing(o, np.ones(5)), "makes 60 measurements"),
        (lambda o: jf.Sensing(o, np.where(np.arange(P) < 3, np.nan, 1)), "3 NaN"),
        (lambda o: jf.Sensing.of(jf.Factorization(np.ones(1), shape=(4, 4)), o), "measures 9×7"),
        (lambda o: jf.Sensing.of(truth(), o, noise=-1.0), "noise=-1"),
        (lambda o: jf.Sensing.of(truth(), o, noise=0.1), "give key="),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(operators.gaussian(KEY, (M, N), P))


def test_enough_measurements_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem(28)


def test_dtype_follows_the_operator():
    sensing = jf.Sensing.of(truth(), operators.gaussian(KEY, (M, N), P, dtype=jnp.float32))
    factors = as_jax(pair((M, N), 2), jnp.float32)
    seen = jax.eval_shape(
        lambda f: (sensing.loss(f), sensing.gradient(f), sensing.distance(f), sensing.misfit(f)), factors
    )
    assert {x.dtype for x in jax.tree.leaves((seen, sensing))} == {jnp.dtype(jnp.float32)}


def test_fresh_batches_have_the_mean_and_spread_of_explicit_ones():
    """E G = R, E‖G − R‖² = ‖R‖²(mn+1)/p, for ours and for batches of stored matrices, over 4000 draws of p = 5.

    The mean within 4.5 deviations an entry; the spread, a mean of 4000 heavy-tailed squares, within 10 %.
    """
    count, factors = 5, as_jax(pair((M, N), 2))
    R = factors.product - truth().target
    method = jf.methods.fresh_batch(count)

    def ours(key):
        return method.update(None, method.init(factors), factors, problem=truth(), key=key)[0]

    def explicit(key):
        operator = operators.gaussian(key, (M, N), count)
        return operator.pull(operator.measure(factors) - operator.measure(truth().truncation(2)), factors)

    full = truth().gradient(factors)
    spread = float(jnp.sum(R**2)) * (M * N + 1) / count
    for draw in (ours, explicit):
        found = jax.jit(jax.vmap(draw))(jr.split(jr.key(1), 4000))
        for sample, mean in zip(found, full, strict=True):
            deviation = np.std(sample, axis=0) / np.sqrt(4000)
            assert np.all(np.abs(np.mean(sample, axis=0) - mean) < 4.5 * deviation)
    square = as_jax(jf.Factors(np.asarray(R), np.eye(N)))
    zero = jf.Factorization(np.zeros((M, N)))
    draws = jax.jit(jax.vmap(lambda key: method.update(None, (), square, problem=zero, key=key)[0].U))(
        jr.split(KEY, 4000)
    )
    assert np.mean(np.sum((draws - R) ** 2, axis=(1, 2))) == pytest.approx(spread, rel=0.1)


def test_fresh_batches_recover_the_matrix():
    """The noise of a batch is as large as the residual, so it vanishes with it; single measurements are too noisy.

    To second order a step changes the residual by 1 − 2η + η²·28/p, above 1 for p = 1 and η = 0.2.
    """
    start = as_jax(pair((M, N), 2, scale=0.05))

    def end(count):
        method = optax.chain(jf.methods.fresh_batch(count), jf.methods.gradient_descent(0.2))
        return truth().distance(jf.descend(truth(), method, start, num_steps=300, key=KEY).factors)

    many, few = jax.jit(jax.vmap(end))(jnp.array([500, 1]))
    assert many < 1e-6
    assert not few < 1e-1


def test_fresh_batches_are_not_compressed():
    """A batch sees all m×n entries: the probe must not take it for iterate noise."""
    assert compression_of(jf.methods.fresh_batch(50), [jf.measures.loss]) is None


def test_fresh_batches_need_a_known_matrix():
    factors = as_jax(pair((M, N), 2))
    with pytest.raises(ValueError, match="give the Factorization"):
        jf.methods.fresh_batch(5).update(factors, None, factors, problem=problem(), key=KEY)
    with pytest.raises(ValueError, match="count=0"):
        jf.methods.fresh_batch(0)


PEAK = """
import jax, numpy as np
import jaxfact as jf

def peak():  # not that of the process that started this one, which getrusage would begin with
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

def sweep(side, count):
    truth = jf.Factorization(np.ones(1, np.float32), shape=(side, side))
    operator = jf.operators.gaussian(jax.random.key(0), (side, side), count, dtype=np.float32)
    problem = jf.Sensing.of(truth, operator)
    before = peak()
    run = lambda: jf.Run(problem, jf.starts.Gaussian(1, scale=1e-2), jf.methods.gradient_descent(0.1))
    jf.sweep(run, seeds=64, max_steps=1, tolerance=None, check_every=1)
    return peak() - before

sweep(40, 200)  # what the compiler needs
print(sweep(100, 5000))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
def test_a_shared_operator_is_in_memory_once():
    """200 MB of matrices that 64 runs share: the sweep has no second copy of them."""
    ran = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 100, ran.stdout


def test_a_shared_operator_is_no_constant_of_the_program():
    """4 MB of matrices are one shared array, and the text of a step has none of their numbers."""
    sensing = jf.Sensing.of(truth(), operators.gaussian(KEY, (M, N), 8000))
    program = Reading(
        lambda: jf.Run(sensing, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(0.1)), {}, None
    )
    assert [x.shape for x in program.shared if x.size >= 8000 * M * N] == [(8000, M * N)]
    own = program.start(program.shared, KEY, {})
    step = jax.jit(lambda shared, own: program.advance(shared, own, jnp.zeros((), jnp.int32)))
    assert len(step.lower(program.shared, own).as_text()) < 100_000
