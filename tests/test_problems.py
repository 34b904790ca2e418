"""The fully observed problem against dense linear algebra, near zero, at its critical points, and at its doors."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, as_jax, frame, pair

import jaxfact as jf

# m, n, rank of the target, width of the factors
SIZES = [(1, 1, 1, 1), (5, 3, 3, 2), (3, 5, 2, 4), (6, 6, 4, 4), (4, 3, 3, 6), (30, 20, 5, 3), (9, 2, 1, 2)]


@jax.jit
def evaluate(problem, factors):
    return problem.loss(factors), problem.distance(factors), problem.excess(factors), problem.gradient(factors)


def dense(matrix, factors):
    """Return loss, distance and excess by dense linear algebra, and the gradient from the residual."""
    U, V = factors
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    width = U.shape[1]
    best = (left[:, :width] * values[:width]) @ right[:width]
    loss = np.sum((U @ V.T - matrix) ** 2) / 2
    residual = U @ V.T - matrix
    distance = np.linalg.norm(U @ V.T - best) / np.linalg.norm(best)
    return loss, distance, loss - np.sum(values[width:] ** 2) / 2, (residual @ V, residual.T @ U)


@pytest.mark.parametrize(("m", "n", "rank", "width"), SIZES)
def test_loss_and_distance_against_dense_algebra(m, n, rank, width):
    values = np.linspace(1.0, 0.2, rank)
    left, right = frame(m, rank, 1), frame(n, rank, 2)
    matrix, plain = left @ np.diag(values) @ right.T, np.zeros((m, n))
    np.fill_diagonal(plain, np.pad(values, (0, min(m, n) - rank)))
    factors = pair((m, n), width)
    problems = [
        (jf.Factorization(matrix), matrix),
        (jf.Factorization(values, shape=(m, n), left=left, right=right), matrix),
        (jf.Factorization(values, shape=(m, n)), plain),
    ]
    for problem, target in problems:
        expected = dense(target, factors)
        actual = evaluate(problem, as_jax(factors))
        np.testing.assert_allclose(problem.target, target, atol=1e-14)
        np.testing.assert_allclose(actual[:3], expected[:3], rtol=1e-12)
        for a, e in zip(actual[3], expected[3], strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-13)


def exact(values, factors):
    """Return loss and distance in extended precision, for a diagonal target that the width fits exactly."""
    U, V = (np.asarray(x).astype(np.longdouble) for x in factors)
    target = np.zeros((len(U), len(V)), np.longdouble)
    np.fill_diagonal(target[: len(values), : len(values)], values)
    squared = np.sum((U @ V.T - target) ** 2)
    return float(squared / 2), float(np.sqrt(squared) / np.linalg.norm(values))


def exact_fit(problem, width, idle):
    """Return an exact fit of rank 3; `idle` is the size of rows J and K whose product with all else is zero."""
    U, V = (np.array(x) for x in problem.truncation(width))
    U[3:, 3:4], V[3:, 4:] = idle, -idle
    Q = frame(width, width, 5)
    return jf.Factors(U @ Q, V @ Q)


@pytest.mark.parametrize("size", [1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize(("width", "padding", "idle"), [(3, 0, 0.0), (5, 0, 0.0), (8, 0, 0.5), (6, 3, 0.5)])
def test_loss_and_distance_are_resolved_near_zero(size, width, padding, idle):
    """To three digits at a distance of 1e-12, where the Gram form of the loss has none left.

    So also where rows J and K off the target stay large, of a width above the rank, zeros in the spectrum or not.
    """
    values = np.array([1.0, 0.5, 0.25] + padding * [0.0])
    problem = jf.Factorization(values, shape=(8, 6))
    away = pair((8, 6), width, scale=0.3 * size)
    U, V = factors = jax.tree.map(np.add, exact_fit(problem, width, idle), away)
    loss, distance = exact(values, factors)
    assert 0.1 * size < distance < 10 * size
    assert float(problem.distance(as_jax(factors))) == pytest.approx(distance, rel=1e-3, abs=0)
    assert float(problem.loss(as_jax(factors))) == pytest.approx(loss, rel=2e-3, abs=0)

    naive = (np.sum((U.T @ U) * (V.T @ V)) - 2 * np.sum((problem.target @ V) * U) + np.sum(values**2)) / 2
    assert (abs(naive / loss - 1) > 2e-3) == (size < 1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_over_parametrised_run_reports_its_true_distance(dtype):
    """From a start of scale 0.3 the idle rows stay large; the loss must stay positive and the distance right."""
    problem = jf.Factorization(np.array([1.0, 0.7, 0.4], dtype), shape=(10, 8))
    start = as_jax(pair((10, 8), 12, seed=3, scale=0.3), dtype)
    record = {"at": lambda problem, f: f, "loss": jf.measures.loss, "distance": jf.measures.distance}
    run = jf.descend(problem, jf.methods.gradient_descent(0.3), start, num_steps=900, every=25, record=record).records
    product = np.asarray(run["at"].U, float) @ np.asarray(run["at"].V, float).transpose(0, 2, 1)
    true = np.linalg.norm(product - np.asarray(problem.target, float), axis=(1, 2))
    resolved = true > 300 * np.finfo(dtype).eps
    assert resolved.sum() >= 8
    norm = np.linalg.norm([1.0, 0.7, 0.4])
    np.testing.assert_allclose(run["distance"][resolved], true[resolved] / norm, rtol=0.02)
    np.testing.assert_allclose(run["loss"][resolved], true[resolved] ** 2 / 2, rtol=0.04)
    assert np.all(run["loss"] >= 0)


def test_distance_near_zero_in_the_users_coordinates():
    """A move δ·P·N of U at the optimum changes the product by δ‖N√S‖ exactly; the bases cost no digits."""
    case = PROBLEMS["badly conditioned"]
    problem = case.build()
    U, V = problem.truncation(3)
    N = np.random.default_rng(0).normal(size=(3, 3))
    values = np.asarray(problem.singular_values)
    moved = jf.Factors(U + 1e-12 * problem.left @ N, V)
    expected = 1e-12 * np.linalg.norm(N * np.sqrt(values)) / np.linalg.norm(values)
    assert float(problem.distance(moved)) == pytest.approx(expected, rel=1e-3, abs=0)


@pytest.mark.parametrize("name", ["singular values and bases", "dense, tall"])
def test_every_subset_of_singular_triples_is_critical(name):
    """Eckart & Young: the loss there is half the sum of the other squares; the first d triples have the least."""
    problem = PROBLEMS[name].build()
    values = np.asarray(problem.singular_values)
    width = 2
    losses = {}
    for count in range(width + 1):
        for chosen in map(list, combinations(range(len(values)), count)):
            root = np.zeros((count, width))
            np.fill_diagonal(root, np.sqrt(values[chosen]))
            factors = jf.Factors(problem.left[:, chosen] @ root, problem.right[:, chosen] @ root)
            losses[tuple(chosen)] = float(problem.loss(factors))
            others = np.delete(values, chosen)
            assert losses[tuple(chosen)] == pytest.approx(np.sum(others**2) / 2, rel=1e-12)
            assert max(np.abs(g).max() for g in problem.gradient(factors)) < 2e-15
    assert min(losses, key=losses.get) == (0, 1)


@pytest.mark.parametrize("name", PROBLEMS)
def test_truncation_is_the_balanced_optimum(name):
    case = PROBLEMS[name]
    problem = case.build()
    best = problem.truncation(case.width)
    left, values, right = np.linalg.svd(case.scaled_matrix, full_matrices=False)
    kept = slice(0, case.width)
    np.testing.assert_allclose(best.product, (left[:, kept] * values[kept]) @ right[kept], atol=1e-14)
    np.testing.assert_allclose(best.imbalance, 0, atol=1e-14)
    assert best.width == case.width
    loss, distance, excess, gradient = evaluate(problem, best)
    assert abs(excess) < 1e-15
    assert float(loss) == pytest.approx(np.sum(values[case.width :] ** 2) / 2, abs=1e-15)
    assert float(distance) < 1e-7 if name == "repeated singular values" else float(distance) < 1e-14
    assert max(np.abs(g).max() for g in gradient) < 1e-14


def test_unit_is_the_largest_singular_value():
    matrix, factors = PROBLEMS["dense, tall"].matrix, pair((7, 5), 3)
    small, large = jf.Factorization(matrix), jf.Factorization(50 * matrix)
    assert float(small.unit) == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-14)
    assert float(large.unit) == pytest.approx(50 * float(small.unit), rel=1e-14)
    np.testing.assert_allclose(large.unit * large.target, 50 * matrix, atol=1e-12)
    np.testing.assert_allclose(evaluate(large, factors)[:3], evaluate(small, factors)[:3], rtol=1e-13)


@pytest.mark.parametrize("name", ["dense, tall", "singular values and bases", "width above rank"])
def test_singular_coordinates_change_nothing_but_the_frame(name):
    case = PROBLEMS[name]
    problem = case.build()
    diagonal = problem.in_singular_coordinates()
    assert diagonal.left is None
    factors = as_jax(pair(problem.shape, case.width))
    # Complete each basis to a rotation of all rows.
    full = []
    for basis in (problem.left, problem.right):
        rest = np.random.default_rng(0).normal(size=(len(basis), len(basis) - basis.shape[1]))
        rest -= basis @ (basis.T @ rest)
        full.append(np.concatenate([basis, np.linalg.qr(rest)[0]], axis=1))
    turned = jf.Factors(*(P.T @ x for P, x in zip(full, factors, strict=True)))
    *before, gradient = evaluate(problem, factors)
    *after, turned_gradient = evaluate(diagonal, turned)
    np.testing.assert_allclose(after, before, rtol=1e-12)
    for P, g, t in zip(full, gradient, turned_gradient, strict=True):
        np.testing.assert_allclose(t, P.T @ g, atol=1e-13)


def test_distance_where_the_best_approximation_is_not_unique():
    """All projections of rank 2 are best approximations of the identity, so the distance must not prefer one."""
    problem = jf.Factorization(np.eye(4))
    assert not problem.is_truncation_unique(2)
    assert problem.is_truncation_unique(4)
    Q = frame(4, 2, 7)
    assert float(problem.distance(as_jax(jf.Factors(Q, Q)))) < 1e-15
    U, V = factors = pair((4, 4), 2)
    excess = np.sum((U @ V.T - np.eye(4)) ** 2) / 2 - 1.0
    assert float(problem.distance(as_jax(factors))) == pytest.approx(np.sqrt(2 * excess / 2), rel=1e-12)
    # Negative control: just above the gap of 1e-6 one of them is best, and another is √2 away.
    for gap, distance in ((2e-6, np.sqrt(2)), (5e-7, 5e-7)):
        split = jf.Factorization(np.array([1, 1, 1 - gap, 1 - gap]), shape=(4, 4))
        last = as_jax(jf.Factors(np.eye(4)[:, 2:], np.eye(4)[:, 2:]))
        assert bool(split.is_truncation_unique(2)) == (gap > 1e-6)
        assert float(split.distance(last)) == pytest.approx(distance, rel=1e-3)


@pytest.mark.parametrize(("target", "shape"), [(np.zeros((4, 3)), None), (np.zeros(0), (4, 3))])
def test_zero_target(target, shape):
    """Its unit is 1 and its distance absolute."""
    problem = jf.Factorization(target, shape=shape)
    assert (problem.rank, float(problem.unit)) == (0, 1.0)
    U, V = factors = pair((4, 3), 2)
    loss, distance, excess, gradient = evaluate(problem, factors)
    assert float(distance) == pytest.approx(np.linalg.norm(U @ V.T), rel=1e-13)
    np.testing.assert_allclose([loss, excess], np.sum((U @ V.T) ** 2) / 2, rtol=1e-13)
    np.testing.assert_allclose(gradient.V, V @ (U.T @ U), rtol=1e-12)


REFUSED = [
    ([np.ones((2, 2, 2))], {}, ["array of shape (2, 2, 2)", "needs an m×n matrix", "reshape"]),
    ([np.ones(3)], {}, ["array of shape (3,)", "together with shape=(m, n)", "reshape"]),
    ([np.ones((2, 2))], {"shape": (2, 2)}, ["array of shape (2, 2)", "needs an m×n matrix", "reshape"]),
    ([np.zeros((0, 3))], {}, ["array of shape (0, 3)", "at least one entry", "give a matrix"]),
    ([1j * np.ones((2, 2))], {}, ["complex128", "needs real numbers", "take the real part"]),
    ([[["a", "b"]]], {}, ["dtype <U1", "needs numbers", "convert the array"]),
    ([[[1.0, np.nan], [np.inf, 0.0]]], {}, ["2 masked, NaN or infinite", "needs every entry", "fill or drop"]),
    ([[0.5, 1.0]], {"shape": (3, 3)}, ["[0.5, 1.0]", "largest first", "sort them"]),
    ([[1.0, -0.5]], {"shape": (3, 3)}, ["[1.0, -0.5]", "≥ 0", "sort them"]),
    ([[1.0, 0.5]], {"shape": (1, 3)}, ["shape=(1, 3)", "at least 2 rows and columns", "give fewer values"]),
    ([[1.0]], {"shape": (2, 3), "left": np.eye(2, 1)}, ["only one of them", "both or none", "give the other"]),
    (
        [[1.0]],
        {"shape": (2, 3), "left": np.eye(2, 2), "right": np.eye(3, 1)},
        ["left=array of shape (2, 2)", "needs shape (2, 1)", "one column per singular value"],
    ),
    (
        [[1.0]],
        {"shape": (2, 3), "left": np.eye(2, 1), "right": np.ones((3, 1))},
        ["right=array of shape (3, 1)", "orthonormal columns", "take them from a singular value decomposition"],
    ),
]


@pytest.mark.parametrize(("arguments", "keywords", "parts"), REFUSED)
def test_constructor_says_what_was_given_what_is_needed_and_what_to_do(arguments, keywords, parts):
    with pytest.raises(ValueError, match="=") as error:
        jf.Factorization(*arguments, **keywords)
    at = [str(error.value).find(part) for part in parts]
    assert at == sorted(at), str(error.value)
    assert at[0] >= 0, str(error.value)


def test_construction_from_traced_singular_values():
    """As an experiment does whose spectrum is an axis; a trailing zero is a rank that is not there."""
    factors = as_jax(pair((6, 5), 3))
    spectra = np.array([[3.0, 1.0, 0.5], [2.0, 1.9, 0.0], [0.0, 0.0, 0.0]])
    build = jax.jit(jax.vmap(lambda values: evaluate(jf.Factorization(values, shape=(6, 5)), factors)))
    for i, values in enumerate(spectra):
        expected = evaluate(jf.Factorization(values[values > 0], shape=(6, 5)), factors)
        for a, e in zip(jax.tree.leaves(build(spectra)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a[i], e, rtol=1e-12)


@pytest.mark.parametrize("name", ["dense, tall", "rank-deficient", "zero"])
def test_construction_from_a_traced_matrix(name):
    case = PROBLEMS[name]
    factors = as_jax(pair(case.target.shape, case.width))
    traced = jax.jit(lambda matrix: evaluate(jf.Factorization(matrix), factors))(jnp.asarray(case.target))
    expected = evaluate(case.build(), factors)
    for a, e in zip(jax.tree.leaves(traced), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-11, atol=1e-12)


def test_traced_matrix_keeps_the_target():
    matrix = PROBLEMS["dense, wide"].matrix
    problem = jax.jit(lambda matrix: jf.Factorization(matrix))(matrix)
    np.testing.assert_allclose(problem.unit * problem.target, matrix, atol=1e-13)
    # What is known of its spectrum before tracing differs, the arrays do not.
    assert [x.shape for x in jax.tree.leaves(problem)] == [x.shape for x in jax.tree.leaves(jf.Factorization(matrix))]


def test_beyond_the_rank_long_parts_at_right_angles_are_no_distance():
    """J and K of norm 1, orthogonal to each other: ‖JKᵀ‖ is rounding, where their Gram matrices would leave √ε."""
    problem = jf.Factorization(np.ones(1, np.float32), shape=(80, 90))
    Z = frame(3, 3, 5)
    U, V = np.zeros((80, 3)), np.zeros((90, 3))
    U[0, 0] = V[0, 0] = 1
    U[1:, 1:2], V[1:, 2:] = frame(79, 1, 6), frame(89, 1, 7)
    factors = jax.tree.map(jnp.float32, jf.Factors(U @ Z, V @ Z))
    epsilon = float(np.finfo(np.float32).eps)
    assert float(problem.distance(factors)) < 30 * epsilon
    UU, VV = (np.float32(X[1:].T @ X[1:]) for X in factors)
    assert np.sqrt(abs(np.sum(UU * VV))) > 100 * epsilon


def test_imbalance_and_energy_from_the_blocks_of_the_distance():
    """In singular coordinates the Gram matrices are sums over two blocks of rows; the same numbers otherwise."""
    factors = as_jax(jf.Factors(frame(60, 3, 1), 2 * frame(50, 3, 2)))
    for problem in (jf.Factorization(np.linspace(1, 0.1, 50), shape=(60, 50)), jf.Factorization(np.eye(60, 50))):
        assert float(jf.measures.energy(problem, factors)) == pytest.approx(15, rel=1e-12)
        assert float(jf.measures.imbalance(problem, factors)) == pytest.approx(3 * np.sqrt(3), rel=1e-12)
