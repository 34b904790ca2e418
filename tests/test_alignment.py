"""Distances after alignment, signal and residual, rows: SciPy, NumPy transcriptions, invariances, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, as_jax, frame, pair
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import minimize

import jaxfact as jf
from jaxfact import measures
from jaxfact.measures import alignment
from jaxfact.problems.compression import compress
from jaxfact.problems.partial import PartiallyObserved

VALUES = np.array([1.0, 0.6, 0.3])
PROBLEM = jf.Factorization(VALUES, shape=(9, 7), left=frame(9, 3, 1), right=frame(7, 3, 2))
BEST = jax.tree.map(np.asarray, PROBLEM.truncation(3))
SQUARE = jf.Tied(jf.Factorization(VALUES, shape=(8, 8), left=frame(8, 3, 3), right=frame(8, 3, 3)))
MIX = np.eye(3) + 0.3 * np.random.default_rng(4).normal(size=(3, 3))

distances = jax.jit(
    lambda problem, f: [
        m(problem, f)
        for m in (measures.procrustes_distance, measures.invertible_distance, measures.scaled_invertible_distance)
    ]
)
two_distances = jax.jit(
    lambda problem, f: [m(problem, f) for m in (measures.procrustes_distance, measures.invertible_distance)]
)
procrustes, gauss_newton = jax.jit(measures.procrustes_distance), jax.jit(alignment._gauss_newton)
sharpness = jax.jit(measures.relative_sharpness)
signal = jax.jit(measures.signal)


def near(size, seed=1):
    away = pair((9, 7), 3, seed, scale=size)
    turn = frame(3, 3, 5)
    return jf.Factors(*((x + a) @ turn for x, a in zip(BEST, away, strict=True)))


def by_scipy(factors, weights):
    """Return the least distance over invertible P that BFGS finds from the rotation."""
    first = orthogonal_procrustes(np.concatenate(factors), np.concatenate(BEST))[0]

    def squared(flat):
        P = flat.reshape(3, 3)
        moved = factors.U @ P, factors.V @ np.linalg.inv(P).T
        return sum(np.sum(((x - y) * weights) ** 2) for x, y in zip(moved, BEST, strict=True))

    return np.sqrt(minimize(squared, first.ravel(), method="BFGS", options={"gtol": 1e-9}).fun)


@pytest.mark.parametrize("size", [0.01, 0.1, 0.3])
def test_distances_against_scipy(size):
    factors = near(size)
    R = orthogonal_procrustes(np.concatenate(factors), np.concatenate(BEST))[0]
    rotated = np.linalg.norm(np.concatenate(factors) @ R - np.concatenate(BEST))
    found = distances(PROBLEM, as_jax(factors))
    expected = [rotated, by_scipy(factors, 1.0), by_scipy(factors, np.sqrt(VALUES))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found[1] < found[0] * (1 - 1e-4)


@pytest.mark.parametrize("size", [1e-9, 0.1, 0.3])
def test_invertible_distance_is_blind_to_invertible_mixing(size):
    """(U, V) → (UQ, VQ^{-T}); negative control: the Procrustes distance is not."""
    factors = near(size)
    mixed = jf.Factors(factors.U @ MIX, factors.V @ np.linalg.inv(MIX).T)
    plain, other = distances(PROBLEM, as_jax(factors)), distances(PROBLEM, as_jax(mixed))
    np.testing.assert_allclose(plain[1:], other[1:], rtol=1e-6, atol=1e-14)
    assert other[0] > 1.2 * plain[0]


def test_the_optimum_meets_the_criterion_of_ma_li_and_chi():
    """Lemma 2: at factors so aligned that the identity is optimal, UᵀU_off = V_offᵀV; there the distance is plain."""
    rng = np.random.default_rng(6)
    U, V = near(0.1)
    R = orthogonal_procrustes(np.concatenate([U, V]), np.concatenate(BEST))[0]
    U, V = U @ R, V @ R

    def excess(flat):
        P = flat.reshape(3, 3)
        return sum(np.sum((x - y) ** 2) for x, y in zip((U @ P, V @ np.linalg.inv(P).T), BEST, strict=True))

    P = minimize(excess, np.eye(3).ravel(), method="BFGS", options={"gtol": 1e-10}).x.reshape(3, 3)
    aligned = jf.Factors(U @ P, V @ np.linalg.inv(P).T)
    off = [x - y for x, y in zip(aligned, BEST, strict=True)]
    np.testing.assert_allclose(aligned.U.T @ off[0], off[1].T @ aligned.V, atol=1e-7)
    assert float(distances(PROBLEM, as_jax(aligned))[1]) == pytest.approx(np.linalg.norm(np.concatenate(off)), rel=1e-9)
    # The step of Gauss-Newton is zero there, and not elsewhere.
    at, goal = as_jax(aligned), as_jax(jf.Factors(*BEST))
    assert np.abs(gauss_newton(at, goal, jnp.ones(3))).max() < 1e-7
    elsewhere = as_jax(jf.Factors(*(x + 0.05 * rng.normal(size=x.shape) for x in aligned)))
    assert np.abs(gauss_newton(elsewhere, goal, jnp.ones(3))).max() > 1e-3


def test_distances_keep_their_digits_near_zero():
    """Scaling a move by 10⁻¹⁰ scales the distances, where ‖Z‖² + ‖Z⋆‖² − 2‖ZᵀZ⋆‖⋆ has no digit left."""
    small, smaller = (np.array(distances(PROBLEM, as_jax(near(size)))) for size in (1e-6, 1e-11))
    np.testing.assert_allclose(smaller, 1e-5 * small, rtol=1e-3)


def test_alignment_with_more_columns_than_the_rank():
    """Zero columns of the truth leave R free in part: the rest of U must count. ‖·‖² is the sum of what is off."""
    U, V = (np.concatenate([x, np.zeros((len(x), 2))], axis=1) for x in BEST)
    U[:, 3:] = 0.3 * np.linalg.svd(PROBLEM.left)[0][:, 3:5]
    Q = frame(5, 5, 7)
    factors = as_jax(jf.Factors(U @ Q, V @ Q))
    R = orthogonal_procrustes(np.concatenate(factors), np.concatenate(PROBLEM.truncation(5)))[0]
    expected = np.linalg.norm(np.concatenate(factors) @ R - np.concatenate(PROBLEM.truncation(5)))
    assert expected == pytest.approx(0.3 * np.sqrt(2), rel=1e-6)
    rotated, found = two_distances(PROBLEM, factors)
    assert float(rotated) == pytest.approx(expected, rel=1e-9)
    assert float(found) <= expected


def test_far_away_it_is_below_the_rotations():
    factors = as_jax(pair((9, 7), 3, scale=1e-3))
    rotated, found, _ = distances(PROBLEM, factors)
    assert by_scipy(jax.tree.map(np.asarray, factors), 1.0) < found < rotated


def test_distances_compress():
    for factors in (near(0.2), pair((9, 7), 3)):
        np.testing.assert_allclose(
            distances(PROBLEM, as_jax(factors)), distances(*compress(PROBLEM, as_jax(factors))), rtol=1e-7
        )


def test_procrustes_of_one_factor():
    X = jnp.asarray(pair((8, 8), 3).U)
    goal = np.asarray(SQUARE.truncation(3).X)
    expected = np.linalg.norm(X @ orthogonal_procrustes(X, goal)[0] - goal)
    assert float(procrustes(SQUARE, jf.TiedFactor(X))) == pytest.approx(expected, rel=1e-12)


def test_signal_and_residual_against_numpy():
    factors = pair((9, 7), 4)
    found = signal(PROBLEM, as_jax(factors))
    for seen, X, F in zip(found, factors, (PROBLEM.left, PROBLEM.right), strict=True):
        S = F @ (F.T @ X)
        values = np.linalg.svd(S, compute_uv=False)
        np.testing.assert_allclose(seen, [values[2], values[0], np.linalg.norm(X - S, 2)], rtol=1e-11)
    rows = max(np.linalg.norm(X, axis=1).max() for X in factors)
    assert float(measures.largest_row(PROBLEM, as_jax(factors))) == pytest.approx(rows, rel=1e-14)
    # At the truth the signal is √σ and nothing is left.
    exact = signal(PROBLEM, PROBLEM.truncation(3)).U
    np.testing.assert_allclose(exact, [np.sqrt(0.3), 1.0, 0.0], atol=1e-12)


class Masked(PartiallyObserved):
    """Some entries of a symmetric matrix, not symmetrically chosen."""

    mask: jax.Array
    truth: jf.Factorization
    unit: jax.Array
    shape: tuple[int, int] = (8, 8)

    def loss(self, factors):
        return jnp.sum(self.mask * (factors.product - self.truth.target) ** 2) / 2

    def misfit(self, factors):
        return jnp.sqrt(2 * self.loss(factors))

    def back_projection(self):
        return self.mask * self.truth.target


def test_moving_frames_against_numpy():
    """Ma & Fattahi's recursion with dense matrices; seen in full, the frame of the truth does not move its span."""
    mask = (np.random.default_rng(8).random((8, 8)) < 0.7) / 0.7
    problem = jf.Tied(Masked(jnp.asarray(mask), SQUARE.truth, jnp.ones(())))
    start = jf.TiedFactor(jnp.asarray(0.05 * pair((8, 8), 4).U))
    keep = {"factors": lambda problem, factors: factors}
    path = jf.descend(problem, jf.methods.gradient_descent(0.2), start, num_steps=30, every=1, record=keep).records[
        "factors"
    ]
    found = jax.jit(lambda path: measures.moving_signal(problem, path, 0.2))(path)
    target, frame_now = np.asarray(SQUARE.truth.target), np.asarray(SQUARE.truth.left)
    first = frame_now
    for t, X in enumerate(np.asarray(path.X)):
        S = frame_now @ (frame_now.T @ X)
        values = np.linalg.svd(S, compute_uv=False)
        expected = [values[2], values[0], np.linalg.norm(X - S, 2)]
        np.testing.assert_allclose([x[t] for x in found.signal], expected, rtol=1e-9)
        assert float(found.drift[t]) == pytest.approx(np.linalg.norm(frame_now - first, 2), abs=1e-12)
        assert float(found.row[t]) == pytest.approx(np.linalg.norm(frame_now, axis=1).max(), rel=1e-12)
        R = mask * (target - X @ X.T)
        left, _, right = np.linalg.svd((np.eye(8) + 0.1 * (R + R.T)) @ frame_now, full_matrices=False)
        frame_now = left @ right
    assert found.drift[-1] > 0.01


def test_rows_against_numpy():
    """u_kK_kᵀ in an orthonormal frame of which the first columns are the eigenvectors."""
    X = pair((8, 8), 4).U
    full = np.linalg.qr(np.concatenate([np.asarray(SQUARE.truth.left), frame(8, 5, 9)], axis=1))[0]
    full[:, :3] = SQUARE.truth.left
    turned = full.T @ X
    found = jax.jit(measures.rows(3))(SQUARE, jf.TiedFactor(jnp.asarray(X)))
    np.testing.assert_allclose(found.signal, np.sum(turned[:3] ** 2, axis=1), rtol=1e-12)
    coupling = [np.linalg.norm(turned[k : k + 1] @ turned[k + 1 :].T, 2) for k in range(3)]
    np.testing.assert_allclose(found.coupling, coupling, rtol=1e-12)


def test_rows_are_learned_one_after_the_other():
    """From a diagonal start rows are scalars, x⁺ = (1 + η(λ − x²))x: hit times by iterating that; uncoupled."""
    problem = jf.Tied(jf.Factorization(np.array([1.0, 0.5]), shape=(6, 6)))
    X = np.zeros((6, 2))
    X[0, 0], X[1, 1] = 1e-3, 1e-3
    run = jf.descend(
        problem,
        jf.methods.gradient_descent(0.1),
        jf.TiedFactor(jnp.asarray(X)),
        num_steps=200,
        every=1,
        record={"rows": measures.rows(2)},
    )
    seen = run.records["rows"]
    times = measures.rise_times(run.steps, seen.signal, jnp.array([0.5, 0.25]))
    for value, level, time in zip((1.0, 0.5), (0.5, 0.25), times, strict=True):
        x, t = 1e-3, 0
        while x * x < level:
            x, t = (1 + 0.1 * (value - x * x)) * x, t + 1
        assert int(time) == t
    np.testing.assert_array_equal(seen.coupling, 0)
    assert np.isinf(measures.rise_times(run.steps, seen.signal, 2.0)).all()


@pytest.mark.parametrize("name", ["dense, wide", "rank-deficient", "width above rank", "badly conditioned"])
def test_relative_sharpness_is_one_at_a_fit(name):
    case = PROBLEMS[name]
    problem = case.build()
    best = problem.truncation(case.width)
    if problem.rank <= case.width:
        mix = np.diag(np.linspace(0.5, 2.0, case.width))
        best = jf.Factors(best.U @ mix, best.V @ np.linalg.inv(mix))
    assert float(sharpness(problem, best)) == pytest.approx(1.0, rel=1e-6)
    # Negative control: near the origin the sharpness is 1, whatever the factors.
    away = jax.tree.map(lambda x: 0.1 * x, best)
    assert float(sharpness(problem, away)) > 5


def test_relative_sharpness_of_one_factor_and_of_a_mask():
    """1 for a tied fit, of which the Hessian's top is 2σ₁²(X); seen through a mask, as the dense Hessian says."""
    best = SQUARE.truncation(3)
    assert float(sharpness(SQUARE, best)) == pytest.approx(1.0, rel=1e-6)
    mask = (np.random.default_rng(8).random((8, 8)) < 0.5) / 0.5
    problem = Masked(jnp.asarray(mask), SQUARE.truth, jnp.ones(()))
    pair_ = jf.Factors(best.X, best.X)
    flat, unravel = jax.flatten_util.ravel_pytree(pair_)
    top = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda x: problem.loss(unravel(x))))(flat))[-1]
    assert float(sharpness(problem, pair_)) == pytest.approx(top / 2, rel=1e-6)
    assert top / 2 > 1.2


def test_a_sweep_records_them():
    """In the engine, compressed and tied; the distances agree with those of the run's own last factors."""
    record = [measures.procrustes_distance, measures.invertible_distance, measures.distance]

    def experiment(step_size):
        return jf.Run(PROBLEM, jf.starts.Gaussian(3, scale=0.3), jf.methods.gradient_descent(step_size))

    runs = jf.sweep(experiment, seeds=3, max_steps=400, tolerance=1e-12, record=record, every=200, step_size=[0.4])
    last = runs.isel(step=-1)
    assert np.all(last.invertible_distance_path <= last.procrustes_distance_path)
    # Near the truth both are of the order of the distance: at most it over √σ_r, and unbalanced fits keep the first.
    assert np.all(last.invertible_distance_path < 3 * last.distance_path)
    assert np.all(last.procrustes_distance_path > last.invertible_distance_path)


UNKNOWN = Masked(jnp.ones((8, 8)), None, jnp.ones(()))
TIED = jf.TiedFactor(jnp.ones((8, 2)))
REFUSED = [
    (
        lambda: measures.procrustes_distance(UNKNOWN, as_jax(pair((8, 8), 2))),
        r"^problem=Masked: its truth is not known; .+\.$",
    ),
    (lambda: measures.invertible_distance(SQUARE, TIED), r"^factors=one tied factor: needs a pair; .+\.$"),
    (
        lambda: measures.scaled_invertible_distance(PROBLEM, as_jax(pair((9, 7), 4))),
        r"^factors=width 4 of a truth of rank 3: .+\.$",
    ),
    (lambda: measures.rows(0), r"^count=0: needs a whole number, 1 or above; .+\.$"),
    (lambda: measures.rows(4)(SQUARE, TIED), r"^count=4: the truth has rank 3; .+\.$"),
    (lambda: measures.rows(1)(PROBLEM, near(0.1)), r"^factors=a pair: rows are those of one factor; .+\.$"),
    (lambda: measures.moving_signal(PROBLEM, TIED, 0.1), r"^problem=Factorization: the frame .+; use Tied\.$"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_what_has_no_meaning_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
