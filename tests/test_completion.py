"""Matrix completion against NumPy, in both evaluations; recovery, held-out errors, and its doors."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import as_jax, frame, pair

import jaxfact as jf
from jaxfact import measures
from jaxfact.problems.entries import DenseEntries, Observed, SparseEntries
from jaxfact.results import stats

KEY = jax.random.key(5, impl="threefry2x32")


def ragged(m: int, n: int, seed: int = 0) -> np.ndarray:
    """Return a mask with an empty row, an empty column, a full row, a row of one entry and rows of all lengths."""
    rng = np.random.default_rng(seed)
    mask = rng.random((m, n)) < rng.random((m, 1)) ** 3
    mask[1], mask[2], mask[3] = True, False, False
    mask[3, n // 2] = True
    mask[:, 4] = False
    return mask


MASKS = {
    "ragged": ragged(23, 17),
    "ragged, wide": ragged(9, 130, 1),
    "long columns": np.random.default_rng(2).random((300, 3)) < 0.97,
    "one entry": np.arange(12).reshape(4, 3) == 7,
    "everything": np.ones((6, 5), bool),
}


def quietly(build, *arguments, **options):
    """Build a problem that has empty rows on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(*arguments, **options)


def completion(mask: np.ndarray, matrix: np.ndarray, **options) -> jf.Completion:
    return quietly(jf.Completion.from_matrix, np.where(mask, matrix, np.nan), **options)


def numbers(shape, seed=3):
    return 4 * np.random.default_rng(seed).normal(size=shape)


@jax.jit
def evaluate(problem, factors):
    return problem.loss(factors), problem.misfit(factors), problem.gradient(factors)


@jax.jit
def of_everything(problem, factors):
    """Return loss, gradient and distance, which the fully observed problem has too."""
    return problem.loss(factors), problem.gradient(factors), problem.distance(factors)


gradient_of_loss = jax.jit(lambda problem, factors: jax.grad(problem.loss)(factors))


def close(actual, expected, rtol=1e-12, atol=1e-12):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected)


# How long rows and columns are is of the tables that evaluate entries; a masked product has one way for all.
@pytest.mark.parametrize(
    ("name", "width", "dense"),
    [
        *((name, 3, False) for name in MASKS),
        *((name, 3, True) for name in ("ragged", "one entry", "everything")),
        ("ragged", 1, False),
        ("ragged", 40, False),
    ],
)
def test_loss_and_gradient_against_numpy(name, width, dense):
    """And the gradient against that of the loss by automatic differentiation."""
    mask = MASKS[name]
    matrix = numbers(mask.shape)
    problem = completion(mask, matrix, dense=dense)
    assert isinstance(problem.observed, DenseEntries if dense else SparseEntries)
    p = mask.mean()
    unit = np.linalg.norm(mask * matrix / p, 2)
    U, V = factors = pair(mask.shape, width)
    residual = mask * (U @ V.T - matrix / unit)
    loss, misfit, gradient = evaluate(problem, factors)
    assert float(problem.unit) == pytest.approx(unit, rel=1e-12)
    assert float(problem.fraction) == pytest.approx(p, rel=1e-15)
    assert float(loss) == pytest.approx(np.sum(residual**2) / (2 * p), rel=1e-12)
    assert float(misfit) == pytest.approx(np.linalg.norm(residual) / np.linalg.norm(mask * matrix / unit), rel=1e-12)
    close(tuple(gradient), (residual @ V / p, residual.T @ U / p), atol=1e-10)
    close(gradient_of_loss(problem, as_jax(factors)), gradient, atol=1e-10)
    np.testing.assert_allclose(problem.back_projection(), mask * matrix / unit / p, atol=1e-14)


@pytest.mark.parametrize("dense", [True, False])
def test_a_batch_is_single_runs(dense):
    mask = MASKS["ragged"]
    problem = completion(mask, numbers(mask.shape), dense=dense)
    singles = [as_jax(pair(mask.shape, 3, seed)) for seed in range(3)]
    batch = jax.tree.map(lambda *xs: jnp.stack(xs, axis=-1), *singles)
    together = jax.jit(jax.vmap(lambda f: evaluate(problem, f), -1, -1))(batch)
    close(together, jax.tree.map(lambda *xs: jnp.stack(xs, axis=-1), *(evaluate(problem, f) for f in singles)))


def test_everything_observed_is_the_factorisation():
    matrix, factors = numbers((23, 17)), as_jax(pair((23, 17), 3))
    whole = jf.Factorization(matrix)
    for dense in (True, False):
        problem = completion(np.ones((23, 17), bool), matrix, truth=whole, dense=dense)
        found, expected = (of_everything(each, factors) for each in (problem, whole))
        assert float(found[0]) == pytest.approx(float(expected[0]), rel=1e-12)
        close(found[1], expected[1])
        assert float(found[2]) == float(expected[2])
    assert float(completion(np.ones((23, 17), bool), matrix).unit) == pytest.approx(float(whole.unit), rel=1e-12)


def test_unit_and_dtype():
    """The unit is σ₁ of a known truth; scaling all data scales the unit and nothing else. float32 stays float32."""
    mask, matrix = MASKS["ragged"], numbers((23, 17)).astype(np.float32)
    truth = jf.Factorization(matrix)
    known, unknown = completion(mask, matrix, truth=truth), completion(mask, matrix)
    assert known.unit == truth.unit
    assert (known.unit_name, unknown.unit_name) == ("σ₁", "‖𝒜*y‖₂")
    assert float(unknown.unit) == pytest.approx(np.linalg.norm(mask * matrix / mask.mean(), 2), rel=1e-6)
    factors = as_jax(pair((23, 17), 2), np.float32)
    assert np.isnan(unknown.distance(factors))
    tenfold = completion(mask, 8 * matrix)
    assert float(tenfold.unit) == pytest.approx(8 * float(unknown.unit), rel=1e-6)
    losses = [float(evaluate(problem, factors)[0]) for problem in (tenfold, unknown)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for dense in (True, False):
        problem = completion(mask, matrix, dense=dense)
        seen = jax.tree.leaves((jax.eval_shape(evaluate, problem, factors), problem))
        assert {x.dtype for x in seen if x.dtype.kind == "f"} == {np.dtype(np.float32)}


def test_evaluation_follows_the_share_and_keeps_the_entries():
    rng = np.random.default_rng(0)
    for share, is_dense in ((0.5, True), (1.0, True), (0.2, False), (0.016, False)):
        mask = rng.random((60, 200)) < share
        problem = completion(mask, numbers(mask.shape))
        assert problem.is_dense == is_dense
        rows, columns, values = problem.entries
        np.testing.assert_array_equal((rows, columns), np.nonzero(mask))
        np.testing.assert_allclose(values, numbers(mask.shape)[mask], rtol=1e-14)


def test_order_of_the_entries_does_not_matter():
    mask, matrix, factors = MASKS["ragged"], numbers((23, 17)), as_jax(pair((23, 17), 2))
    rows, columns = np.nonzero(mask)
    shuffled = np.random.default_rng(0).permutation(len(rows))
    given = (rows[shuffled], columns[shuffled], matrix[mask][shuffled])
    again = quietly(jf.Completion, *given, mask.shape, dense=False)
    close(evaluate(again, factors), evaluate(completion(mask, matrix, dense=False), factors))


def test_no_scatter_in_the_compiled_gradient():
    """The plain gradient, by automatic differentiation, is the negative control."""
    mask = MASKS["ragged"]
    problem = completion(mask, numbers(mask.shape), dense=False)
    batch = jax.ShapeDtypeStruct((23, 3, 16), float), jax.ShapeDtypeStruct((17, 3, 16), float)

    def lowered(gradient):
        return jax.jit(jax.vmap(gradient, -1, -1)).lower(jf.Factors(*batch)).as_text()

    assert "stablehlo.scatter" not in lowered(problem.gradient)
    assert "stablehlo.scatter" in lowered(jax.grad(problem.loss))


def descend_from_small_starts(problem, width, step_size, **options):
    start, method = jf.starts.Gaussian(width, scale=1e-3), jf.methods.gradient_descent(step_size)
    return jf.sweep(lambda: jf.Run(problem, start, method), seeds=4, **options)


@pytest.mark.parametrize("dense", [True, False])
def test_half_of_the_entries_give_the_matrix(dense):
    truth = jf.random_target(KEY, (60, 50), [1.0, 0.6])
    drawn = jf.Completion.of(truth, 0.5, KEY)
    assert float(drawn.fraction) == pytest.approx(0.5, abs=4 * 0.5 / 3000**0.5)
    problem = jf.Completion(*drawn.entries, drawn.shape, truth=truth, dense=dense)
    runs = descend_from_small_starts(problem, 2, 0.3, tolerance=1e-5, max_steps=1000)
    assert set(runs.outcome.values) == {"converged"}
    assert runs.distance.max() < 1e-4


def test_too_few_entries_are_fitted_and_not_completed():
    """Some 45 entries are fewer than 2·(24 + 20 − 2) degrees of freedom, and wide factors fit them soon."""
    truth = jf.random_target(KEY, (24, 20), [1.0, 0.6])
    problem = quietly(jf.Completion.of, truth, 0.1, KEY)
    runs = descend_from_small_starts(problem, 10, 0.05, tolerance=1e-3, max_steps=20000, check_every=50)
    assert set(runs.outcome.values) == {"fitted"}
    assert runs.misfit.max() < 1e-3
    assert runs.distance.min() > 0.1


def test_noise_has_the_given_size():
    truth = jf.random_target(KEY, (60, 50), [3.0, 2.0])
    problem = jf.Completion.of(truth, 1.0, KEY, noise=0.01)
    noise = (problem.entries.values - np.asarray(truth.target * truth.unit).ravel()) / 3
    assert np.std(noise) == pytest.approx(0.01, rel=4 / 6000**0.5)


def test_a_mask_and_a_truth_for_every_run():
    """Traced, key and fraction give the numbers that they give one by one."""
    fractions, keys = jnp.array([0.3, 0.9]), jax.random.split(KEY, 2)
    factors = as_jax(pair((12, 10), 2))

    def loss(fraction, key):
        truth = jf.random_target(key, (12, 10), np.array([1.0, 0.5]))
        return jf.Completion.of(truth, fraction, key, noise=0.1).loss(factors)

    batch = jax.jit(jax.vmap(loss))(fractions, keys)
    close(batch, [quietly(loss, *each) for each in zip(fractions, keys, strict=True)])

    def experiment(key, fraction):
        truth = jf.random_target(key, (30, 25), np.array([1.0]))
        return jf.Run(
            jf.Completion.of(truth, fraction, key), jf.starts.Gaussian(1, scale=1e-2), jf.methods.gradient_descent(0.3)
        )

    runs = quietly(jf.sweep, experiment, seeds=4, max_steps=600, tolerance=1e-5, fraction=[0.02, 0.8])
    assert set(runs.outcome.sel(fraction=0.8).values) == {"converged"}
    assert "converged" not in runs.outcome.sel(fraction=0.02).values


def test_tied_completion_of_a_symmetric_matrix():
    """(1/(2p))(P_Ω + P_Ωᵀ)(XXᵀ − Σ)X, as in Ma & Fattahi (2024)."""
    basis, X = frame(14, 2, 0), np.random.default_rng(1).normal(size=(14, 2))
    matrix, mask = (basis * [1.0, 0.5]) @ basis.T, np.random.default_rng(2).random((14, 14)) < 0.6
    problem = jf.Tied(completion(mask, matrix, truth=jf.Factorization(matrix)))
    gradient = problem.gradient(jf.TiedFactor(jnp.asarray(X)))
    residual = mask * (X @ X.T - matrix)
    np.testing.assert_allclose(gradient.X, (residual + residual.T) @ X / (2 * mask.mean()), atol=1e-12)


def test_random_target_has_its_values_and_haar_bases():
    values = [3.0, 2.0, 0.5]
    target = jf.random_target(KEY, (30, 20), values)
    for basis, size in ((target.left, 30), (target.right, 20)):
        assert basis.shape == (size, 3)
        np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-14)
    matrix = np.asarray(target.target * target.unit)
    np.testing.assert_allclose(np.linalg.svd(matrix)[1][:4], [*values, 0], atol=1e-14)
    # The mean of an entry's square is 1/size, that of an odd function is 0.
    first_column = jax.jit(jax.vmap(lambda key: jf.random_target(key, (4, 3), np.array([1.0])).left[:, 0]))
    draws = first_column(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(np.mean(draws, axis=0), 0, atol=4 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(np.mean(draws**2, axis=0), 1 / 4, atol=4 * 0.25 / 4000**0.5)


def test_split_is_disjoint_complete_and_held_out_error_is_numpy():
    mask, matrix = ragged(23, 17), numbers((23, 17))
    problem = completion(mask, matrix)
    parts = jf.data.split(problem.entries, KEY, train=0.7, validation=0.1, test=0.2)
    assert list(parts) == ["train", "validation", "test"]
    places = np.concatenate([rows * 17 + columns for rows, columns, _ in parts.values()])
    np.testing.assert_array_equal(np.sort(places), np.flatnonzero(mask))
    count = mask.sum()
    assert [len(part.values) for part in parts.values()] == pytest.approx(
        [0.7 * count, 0.1 * count, 0.2 * count], abs=1
    )
    train = quietly(jf.Completion, *parts["train"], (23, 17))
    held = jf.measures.HeldOut(*parts["test"])
    U, V = factors = as_jax(pair((23, 17), 2))
    rows, columns, values = parts["test"]
    predicted = float(train.unit) * np.asarray(U @ V.T)[rows, columns]
    np.testing.assert_allclose(values, matrix[rows, columns], rtol=1e-13)
    assert float(held(train, factors)) == pytest.approx(np.sqrt(np.mean((predicted - values) ** 2)), rel=1e-12)
    assert float(held.scale) == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-12)


def test_held_out_error_as_a_record_and_its_best_step():
    truth = jf.random_target(KEY, (30, 25), [2.0])
    noisy = jf.Completion.of(truth, 0.6, KEY, noise=0.005)
    parts = jf.data.split(noisy.entries, KEY, train=0.5, test=0.5)
    problem = quietly(jf.Completion, *parts["train"], (30, 25))
    records = [jf.measures.HeldOut(*parts["test"]), measures.incoherence]
    start, method = jf.starts.Gaussian(4, scale=1e-3), jf.methods.gradient_descent(0.2)
    options = {"seeds": 3, "max_steps": 400, "tolerance": None, "record": records, "every": 20}
    runs = jf.sweep(lambda: jf.Run(problem, start, method), **options)
    path = runs.held_out_path.values
    best = stats.best_over_time(runs, "held_out")
    np.testing.assert_array_equal(best.value, path.min(axis=1))
    np.testing.assert_array_equal(best.step, runs.step.values[path.argmin(axis=1)])
    # Wide factors fit the noise in the end: the best step lies before the last.
    assert np.all(best.step < 400)
    assert np.all(path[:, 0] > 2 * best.value)
    with pytest.raises(ValueError, match="the paths are of held_out, incoherence"):
        stats.best_over_time(runs, "loss")


def test_incoherence_and_spread():
    """1 for rows that are all alike, max(m, n)/d for one that holds everything; else by projections in NumPy."""
    flat = jf.Factors(jnp.ones((6, 1)), jnp.ones((4, 1)))
    spiky = jf.Factors(jnp.eye(6)[:, :2], jnp.eye(4)[:, :2])
    incoherence = jax.jit(lambda factors: measures.incoherence(None, factors))
    assert float(incoherence(flat)) == pytest.approx(1)
    assert float(incoherence(spiky)) == pytest.approx(3)
    U, V = factors = as_jax(pair((9, 7), 3))
    both = [len(X) / 3 * np.max(np.diag(X @ np.linalg.pinv(X))) for X in map(np.asarray, (U, V))]
    assert float(incoherence(factors)) == pytest.approx(max(both))
    assert float(measures.spread(None, flat)) == pytest.approx(1)
    assert float(measures.spread(None, jf.TiedFactor(jnp.array([[3.0], [4.0]])))) == pytest.approx(2**0.5 * 4 / 5)
    with pytest.raises(ValueError, match="needs one column"):
        measures.spread(None, factors)


GOOD = ([0, 1, 1], [0, 0, 1], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("place", "bad", "message"),
    [
        (0, [0, 1, 2], "rows=2 at position 2: needs numbers from 0 to 1"),
        (1, [0, -1, 1], "columns=-1 at position 1: needs numbers from 0 to 1"),
        (1, [0, 0, 0], r"\(1, 0\) a second time at position 2: needs each entry once"),
        (0, [0, 1], "needs three of equal length"),
        (0, [0.0, 1.0, 1.0], "rows=numbers of dtype float64: needs whole numbers"),
        (2, [1.0, np.nan, 3.0], "values=nan at position 1"),
        (2, [1.0, 2.0, np.inf], "values=inf at position 2"),
        (2, [1.0, 2.0, 3j], "needs real numbers"),
    ],
)
def test_bad_entries(place, bad, message):
    given = [bad if at == place else list(good) for at, good in enumerate(GOOD)]
    with pytest.raises(ValueError, match=message):
        jf.Completion(*given, (2, 2))
    assert jf.Completion(*GOOD, (2, 2)).unit > 0


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_derivatives_by_what_is_observed(dense, known):
    """Of the final loss by each entry, whose unit moves with it unless the truth is known; by central differences."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 5))
    rows, columns = np.nonzero(rng.random((6, 5)) < 0.8)
    truth = jf.Factorization(matrix)
    start = jf.starts.Gaussian(2, scale=0.3).draw(KEY, truth)

    def final_loss(values):
        problem = jf.Completion(rows, columns, values, (6, 5), truth=truth if known else None, dense=dense)
        run = jf.descend(problem, jf.methods.gradient_descent(0.3), start, num_steps=20)
        return problem.loss(run.factors)

    values, h, compiled = jnp.asarray(matrix[rows, columns]), 1e-5, jax.jit(final_loss)
    assert compiled(values) == pytest.approx(float(final_loss(np.asarray(values))), rel=1e-10)  # of plain arrays
    moved = [values + h * jnp.eye(len(values))[k] * sign for k in range(3) for sign in (1, -1)]
    differences = np.diff(np.reshape([compiled(each) for each in moved], (3, 2))[:, ::-1])[:, 0] / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(final_loss))(values)[:3], differences, rtol=1e-7)


def test_bad_problems():
    truth = jf.random_target(KEY, (6, 5), [1.0])
    for build, message in [
        (lambda: jf.Completion.from_matrix(np.full((3, 2), np.nan)), "needs at least one observed entry"),
        (lambda: jf.Completion.from_matrix(np.ones(3)), "needs an m×n matrix"),
        (lambda: jf.Completion(*GOOD, (2, 2), truth=truth), r"needs the shape of the problem, \(2, 2\)"),
        (lambda: jf.Completion.of(truth, 0.0, KEY), "needs a number above 0, up to 1"),
        (lambda: jf.Completion.of(truth, 0.5, KEY, noise=-1.0), "needs a finite number, 0 or above"),
        (
            lambda: jax.jit(lambda x: jf.Completion(x, *GOOD[1:], (2, 2)).unit)(jnp.arange(3)),
            "only values may be traced",
        ),
        (lambda: jax.jit(lambda p: jf.Completion.of(truth, p, KEY, dense=False).unit)(0.5), "needs tables"),
        (lambda: jf.data.split(Observed(*map(np.array, GOOD)), KEY, train=0.5), "sum to 1"),
        (lambda: jf.data.split(Observed(*map(np.array, GOOD)), KEY, train=0.9, test=0.1), "without any"),
        (lambda: jf.measures.HeldOut([7], [0], [1.0])(truth, truth.truncation(1)), "use entries of this problem"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()


def test_gaps_and_too_few_entries_are_warned_of():
    mask = np.zeros((40, 3), bool)
    mask[:30] = True
    with pytest.warns(UserWarning, match="10 of 40 rows have no observed entry .*: 30, 31, 32, 33, 34, …") as seen:
        jf.Completion.from_matrix(np.where(mask, 1.0, np.nan))
    assert len(seen) == 1
    truth = jf.random_target(KEY, (8, 6), [1.0, 0.5])
    rows, columns = np.nonzero(np.indices((8, 6)).sum(axis=0) % 3 == 0)
    with pytest.warns(UserWarning, match=r"16 observed entries are fewer than the r\(m\+n−r\) = 24 numbers") as seen:
        jf.Completion(rows, columns, np.ones(16), (8, 6), truth=truth)
    assert len(seen) == 1
    assert seen[0].filename == __file__
