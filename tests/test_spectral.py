"""Starts from the data, and steps scaled by them: NumPy transcriptions, fixed points, laws, both views."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import PROBLEMS, as_jax, frame, pair

import jaxfact as jf
from jaxfact.problems.compression import Compressed, reduced
from jaxfact.problems.partial import PartiallyObserved, semidefinite_factor

KEY = jr.key(5)
LEFT, RIGHT, VALUES = frame(12, 2, 1), frame(10, 2, 2), np.array([1.0, 0.6])
TARGET = (LEFT * VALUES) @ RIGHT.T
SQUARE = (LEFT * VALUES) @ LEFT.T


class Seen(PartiallyObserved):
    """Sensing by an explicit matrix A, one row per measurement."""

    A: jax.Array
    y: jax.Array
    truth: jf.Factorization | None
    unit: jax.Array
    shape: tuple[int, int] = eqx.field(static=True)

    def _residual(self, factors):
        return self.A @ factors.product.ravel() - self.y

    def loss(self, factors):
        return jnp.sum(self._residual(factors) ** 2) / 2

    def misfit(self, factors):
        return jnp.linalg.norm(self._residual(factors)) / jnp.linalg.norm(self.y)

    def back_projection(self):
        return (self.A.T @ self.y).reshape(self.shape)


def seen(matrix=TARGET, measurements=400, symmetric=False):
    """Return Gaussian sensing of a matrix, E 𝒜*𝒜 = I."""
    A = np.random.default_rng(3).normal(size=(measurements, matrix.size)) / measurements**0.5
    left, right = (LEFT, LEFT) if symmetric else (LEFT, RIGHT)
    truth = jf.Factorization(VALUES, shape=matrix.shape, left=left, right=right)
    return Seen(jnp.asarray(A), jnp.asarray(A @ matrix.ravel()), truth, truth.unit, matrix.shape)


def test_residual_matrix_is_the_adjoint_of_the_residual():
    problem, factors = seen(), pair((12, 10), 3)
    A, y = np.asarray(problem.A), np.asarray(problem.y)
    expected = (A.T @ (A @ (factors.U @ factors.V.T).ravel() - y)).reshape(12, 10)
    np.testing.assert_allclose(jax.jit(lambda f: problem.residual_matrix(f))(as_jax(factors)), expected, atol=1e-13)


def projected(problem, width, steps, nearest):
    """Return Tu et al.'s iterate, in plain NumPy."""
    A, y = np.asarray(problem.A), np.asarray(problem.y)
    M = np.zeros(problem.shape)
    for _ in range(steps):
        M = nearest(M - (A.T @ (A @ M.ravel() - y)).reshape(M.shape), width)
    return M


def best(matrix, width):
    left, values, right = np.linalg.svd(matrix)
    return (left[:, :width] * values[:width]) @ right[:width]


def best_semidefinite(matrix, width):
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors[:, -width:] * np.maximum(values[-width:], 0)) @ vectors[:, -width:].T


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_projected_gradient_against_numpy(steps):
    problem = seen()
    start = jf.starts.ProjectedGradient(2, steps).draw(KEY, problem)
    np.testing.assert_allclose(start.product, projected(problem, 2, steps, best), atol=1e-12)
    np.testing.assert_allclose(start.imbalance, 0, atol=1e-12)
    if steps == 1:
        np.testing.assert_allclose(start.product, jf.starts.Spectral(2).draw(KEY, problem).product, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 6])
def test_projected_gradient_in_one_factor(steps):
    problem = seen(SQUARE, 1000, symmetric=True)
    start = jf.starts.ProjectedGradient(3, steps).draw(KEY, jf.Tied(problem))
    np.testing.assert_allclose(start.product, projected(problem, 3, steps, best_semidefinite), atol=1e-12)


def test_projected_gradient_comes_nearer_at_every_step():
    """Its error contracts where the isometry constant is small; the spectral start alone is 0.25 away."""
    problem = seen(measurements=1000)
    distances = [
        float(problem.distance(jf.starts.ProjectedGradient(2, steps).draw(KEY, problem))) for steps in (1, 3, 5, 9)
    ]
    assert distances[0] > 0.1
    assert all(later < 0.5 * earlier for earlier, later in zip(distances, distances[1:], strict=False))


def test_on_a_full_target_it_is_the_truncation():
    problem = PROBLEMS["dense, tall"].build()
    start = jf.starts.ProjectedGradient(3, 4).draw(KEY, problem)
    jax.tree.map(np.testing.assert_array_equal, start, problem.truncation(3))


def test_spectral_starts_when_traced_are_those_of_the_host():
    """As where the measurements depend on the key: decomposed by loops. The columns' signs are free."""
    problem, tied = seen(), jf.Tied(seen(SQUARE, 300, symmetric=True))
    for start in (jf.starts.Spectral(2), jf.starts.ProjectedGradient(2, 3)):
        for one in (problem, tied):
            traced = jax.jit(lambda problem, start=start: start.draw(KEY, problem).product)(one)
            np.testing.assert_allclose(traced, start.draw(KEY, one).product, atol=1e-12)


def test_a_known_problem_is_decomposed_on_the_host_inside_a_trace():
    problem = seen()

    def draw():
        return jf.starts.ProjectedGradient(2, 3).draw(KEY, problem)

    primitives = str(jax.make_jaxpr(draw)())
    assert "svd" not in primitives
    assert "while" not in primitives
    assert "svd" in str(jax.make_jaxpr(lambda problem: jf.starts.Spectral(2).draw(KEY, problem))(problem))


def test_semidefinite_factor_of_pairs_of_opposite_eigenvalues():
    """diag(1, −1, ½, −½) in a rotated frame: singular vectors of ±λ may mix, eigenvectors may not."""
    Q = frame(5, 4, 4)
    matrix = (Q * [1.0, -1.0, 0.5, -0.5]) @ Q.T
    expected = (Q[:, [0, 2]] * [1.0, 0.5]) @ Q[:, [0, 2]].T
    for width in (2, 4, 7):
        for X in (
            semidefinite_factor(matrix, width).X,
            jax.jit(semidefinite_factor, static_argnums=1)(matrix, width).X,
        ):
            assert X.shape == (5, width)
            np.testing.assert_allclose(X @ X.T, expected, atol=1e-13)


@pytest.mark.parametrize("name", ["dense, wide", "singular values and bases"])
def test_columns_are_those_of_the_target(name):
    """U₀ = left·ΣΦ₁/√d and V₀ = right·Φ₂/√n: U₀ is in the column space, and both have the stated variance."""
    case = PROBLEMS[name]
    problem, matrix = case.build(), case.scaled_matrix
    start, n = jf.starts.ColumnSpace(2, left=3.0, right=0.7), problem.shape[1]
    keys = jr.split(KEY, 2000)
    U, V = map(np.asarray, jax.jit(jax.vmap(start.draw, (0, None)))(keys, problem))
    basis = np.linalg.svd(matrix)[0][:, : np.linalg.matrix_rank(matrix)]
    assert np.abs(U - basis @ (basis.T @ U)).max() < 1e-13
    covariance = np.einsum("kid,kjd->ij", U, U) / len(keys)
    # d columns of variance left²/d each; 2000·d draws leave a relative error of about 0.02 on the diagonal.
    np.testing.assert_allclose(covariance, 9.0 * matrix @ matrix.T, atol=0.15 * 9)
    assert np.mean(V**2) == pytest.approx(0.49 / n, rel=0.04)
    assert abs(np.mean(np.sum(U**2, (1, 2))) / (9 * np.sum(matrix**2)) - 1) < 0.1
    assert abs(np.corrcoef(U[:, 0, 0], V[:, 0, 0])[0, 1]) < 0.1


def test_columns_of_a_back_projection():
    """On a partly observed matrix Σ is 𝒜*(y); negative control: not the truth."""
    problem = seen()
    start = jf.starts.ColumnSpace(3, left=1.0)
    U, V = start.draw(KEY, problem)
    mix = np.linalg.lstsq(np.asarray(problem.back_projection()), np.asarray(U), rcond=None)
    assert np.abs(np.asarray(problem.back_projection()) @ mix[0] - U).max() < 1e-12
    assert np.abs(U - LEFT @ (LEFT.T @ U)).max() > 0.01
    assert not np.any(V)


@pytest.mark.parametrize(("shape", "bases"), [((30, 20), False), ((9, 30), True), ((6, 5), True)])
def test_columns_are_the_same_in_compressed_form(shape, bases):
    sides = {"left": frame(shape[0], 3, 6), "right": frame(shape[1], 3, 7)} if bases else {}
    problem = jf.Factorization(np.array([1.0, 0.7, 0.4]), shape=shape, **sides)
    start = jf.starts.ward_kolda(4, 9 / 16)
    small = Compressed(problem, 4)
    draw = jax.jit(lambda key, problem: start.draw(key, problem))
    full, compressed = draw(KEY, problem), draw(KEY, small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), compressed, reduced(small, problem, full))


def test_ward_kolda_by_hand():
    """1/(√(9/16)·8) = 1/6 and √(9/16)·8·½/9 = 1/3."""
    start = jf.starts.ward_kolda(5, 9 / 16)
    assert float(start.left) == pytest.approx(1 / 6, rel=1e-14)
    assert float(start.right) == pytest.approx(1 / 3, rel=1e-14)


def test_scaled_steps_against_numpy():
    """Cross scaling: ∇_U by ‖V₀‖², ∇_V by ‖U₀‖², kept for the whole run; negative control: the other way round."""
    factors = pair((12, 10), 3)
    problem = jf.Factorization(TARGET)
    U, V = factors
    squares = [np.linalg.norm(x, 2) ** 2 for x in factors]

    def run(of_U, of_V):
        X, Y = U, V
        for _ in range(20):
            R = X @ Y.T - TARGET
            X, Y = X - 0.4 / of_U * R @ Y, Y - 0.4 / of_V * R.T @ X
        return X

    scaled = jax.jit(
        lambda eta: jf.descend(problem, jf.methods.scaled_by_start(eta), as_jax(factors), num_steps=20).factors
    )
    found = scaled(0.4).U
    np.testing.assert_allclose(found, run(squares[1], squares[0]), rtol=1e-11)
    assert np.abs(found - run(squares[0], squares[1])).max() > 1e-3


def test_scaled_steps_in_one_factor():
    problem = jf.Tied(jf.Factorization(SQUARE))
    X = jf.TiedFactor(jnp.asarray(pair((12, 12), 2).U))
    square = np.linalg.norm(X.X, 2) ** 2
    one, other = (
        jax.jit(lambda X, method=method: jf.descend(problem, method, X, num_steps=9).factors.X)(X)
        for method in (jf.methods.scaled_by_start(0.3), jf.methods.gradient_descent(0.3 / square))
    )
    np.testing.assert_allclose(one, other, rtol=1e-11)


def test_a_sweep_runs_from_these_starts():
    """Beyond Procrustes (2021) finds a sensed matrix from its start, with a traced step size, in the engine."""
    problem = seen(measurements=800)

    def experiment(step_size):
        return jf.Run(problem, jf.starts.ProjectedGradient(2, 4), jf.methods.scaled_by_start(step_size))

    runs = jf.sweep(experiment, seeds=2, max_steps=2000, tolerance=1e-8, step_size=[0.2, 0.5])
    assert np.all(runs.distance < 1e-8)
    assert np.all(runs.steps.sel(step_size=0.5) < runs.steps.sel(step_size=0.2))


REFUSED = [
    (lambda: jf.starts.ProjectedGradient(0, 2), r"^width=0: needs a whole number, 1 or above; .+\.$"),
    (lambda: jf.starts.ProjectedGradient(2, 0), r"^steps=0: needs a whole number, 1 or above; .+\.$"),
    (lambda: jf.starts.ColumnSpace(2, left=0.0), r"^left=0: needs a finite number above 0; .+\.$"),
    (lambda: jf.starts.ColumnSpace(2, left=1.0, right=-1.0), r"^right=-1: needs a finite number, 0 or above; .+\.$"),
    (lambda: jf.starts.ward_kolda(2, -1.0), r"^step_size=-1: needs a finite number above 0; .+\.$"),
    (
        lambda: jf.starts.ColumnSpace(2, left=1.0).draw(KEY, jf.Tied(jf.Factorization(SQUARE))),
        r"^start=ColumnSpace: needs the two factors of a pair; leave Tied out\.$",
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_starts_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
