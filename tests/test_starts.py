"""The laws and identities of the starts, and the published scales."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import PROBLEMS, STARTS, draw

import jaxfact as jf
from jaxfact.problems.compression import Compressed

KEYS = jr.split(jr.key(11), 3000)
# A two-sided normal deviation beyond this has probability 7e-6; the keys are fixed.
Z = 4.5
# Up to both sides of `low`, between them, and above both.
WIDTHS = (3, 4, 6)


one_draw = jax.jit(draw)
# Starts that are compared are drawn together: their random bits are compiled once.
all_draws = jax.jit(lambda starts, key, problem: [draw(start, key, problem) for start in starts])
distances = jax.jit(lambda starts, problem: [problem.distance(draw(start, KEYS[0], problem)) for start in starts])
many_draws = jax.jit(jax.vmap(all_draws, in_axes=(None, 0, None)))


def draws(problem, *starts):
    return [jf.Factors(*map(np.asarray, drawn)) for drawn in many_draws(starts, KEYS, problem)]


def z_of_variance(sample, variance):
    return (np.mean(sample**2) / variance - 1) * np.sqrt(sample.size / 2)


@pytest.fixture(scope="module")
def tall():
    return jf.Factorization(np.array([1.0, 0.5]), shape=(9, 4))


@pytest.fixture(scope="module")
def low():
    return jf.Factorization(np.array([1.0, 0.5]), shape=(5, 3))


def test_gaussian_has_the_stated_variance_in_every_entry(tall):
    for sample in draws(tall, jf.starts.Gaussian(2, scale=0.3))[0]:
        assert abs(z_of_variance(sample, 0.09)) < Z
        assert np.abs(sample.mean(axis=0) * np.sqrt(len(KEYS)) / 0.3).max() < Z
        assert max(abs(z_of_variance(column, 0.09)) for column in sample.reshape(len(KEYS), -1).T) < Z
        # Negative control: 3 % off is seen.
        assert abs(z_of_variance(sample, 0.09 * 1.06)) > Z


def test_gaussian_factors_are_not_correlated(tall):
    U, V = (x.reshape(len(KEYS), -1) for x in draws(tall, jf.starts.Gaussian(2, scale=1.0))[0])
    across = U.T @ V / np.sqrt(len(KEYS))
    assert np.abs(across).max() < Z
    # Negative control: factors drawn from one key share their entries.
    shared = np.asarray(jax.vmap(lambda key: jr.normal(key, (2,)))(KEYS))
    assert np.abs(shared.T @ shared / np.sqrt(len(KEYS))).max() > Z


def test_gaussian_by_norm_means_the_same_at_every_size():
    """scale = norm/√(m+n), so that E‖[U; V]‖²_F = norm²·width whatever m and n."""
    by_its_norm, by_its_scale = jf.starts.Gaussian(3, norm=0.8), jf.starts.Gaussian(3, scale=0.8 / np.sqrt(50))
    one, same = all_draws([by_its_norm, by_its_scale], KEYS[0], jf.Factorization(np.array([1.0]), shape=(30, 20)))
    np.testing.assert_allclose(one.U, same.U, rtol=1e-13)
    for shape in ((9, 4), (30, 20)):
        (by_norm,) = draws(jf.Factorization(np.array([1.0]), shape=shape), by_its_norm)
        squared = np.sum(by_norm.U**2, axis=(1, 2)) + np.sum(by_norm.V**2, axis=(1, 2))
        deviation = 0.8**2 * np.sqrt(2 * 3 / sum(shape) / len(KEYS))
        assert abs(squared.mean() - 0.8**2 * 3) < Z * deviation
        # Negative control: the entries of another size would be off by far more.
        assert abs(squared.mean() - 0.8**2 * 3 * sum(shape) / 25) > Z * deviation


@pytest.mark.parametrize("ratio", [0.25, 25.0])
def test_ratio_is_that_of_the_factors_root_mean_squares(tall, ratio):
    """The scales are ε·t and ε/t with t = √(ratio·√(n/m)): their product stays ε²."""
    plain, tilted = draws(tall, *(jf.starts.Gaussian(2, scale=0.1, ratio=r) for r in (None, ratio)))
    tilt = np.sqrt(ratio * np.sqrt(4 / 9))
    np.testing.assert_allclose(tilted.U, plain.U * tilt, rtol=1e-12)
    np.testing.assert_allclose(tilted.V, plain.V / tilt, rtol=1e-12)
    squares = [np.mean(np.sum(x**2, axis=(1, 2))) for x in tilted]
    deviation = np.sqrt(2 / len(KEYS) * (1 / 18 + 1 / 8))
    assert abs(np.log(squares[0] / squares[1] / ratio**2)) < Z * deviation
    # Negative control: the same without regard to m ≠ n would be off by m/n.
    assert abs(np.log(squares[0] / squares[1] / ratio**2 * 4 / 9)) > Z * deviation


def test_orthogonal_frames_are_exact(low):
    """Columns where they fit, rows where the width exceeds the size."""
    for width, pair in zip(
        WIDTHS, all_draws([jf.starts.Orthogonal(d, 0.6) for d in WIDTHS], KEYS[0], low), strict=True
    ):
        for factor, size in zip(map(np.asarray, pair), low.shape, strict=True):
            gram = factor.T @ factor if width <= size else factor @ factor.T
            np.testing.assert_allclose(gram, 0.36 * np.eye(min(width, size)), atol=1e-15)


def test_orthogonal_is_haar():
    """A Haar matrix of O(3) has mean 0, entry variance ⅓, E tr = 0 and E tr² = 1; raw Householder QR does not."""
    problem = jf.Factorization(np.array([1.0]), shape=(3, 3))
    ((U, V),) = draws(problem, jf.starts.Orthogonal(3, 1.0))
    raw = np.linalg.qr(np.random.default_rng(0).normal(size=(len(KEYS), 3, 3)))[0]

    def largest_z(sample):
        traces = np.trace(sample, axis1=1, axis2=2)
        means = np.sqrt(len(sample)) * np.abs(sample.mean(axis=0)) / np.sqrt(1 / 3)
        squares = traces**2 - 1
        return max(means.max(), np.sqrt(len(sample)) * abs(squares.mean()) / squares.std())

    assert largest_z(U) < Z
    assert largest_z(V) < Z
    assert largest_z(raw) > 10 * Z
    assert np.abs(np.einsum("kij,kij->k", U, V).mean()) < Z / np.sqrt(len(KEYS))


def test_balanced_keeps_the_gaussian_product(low):
    """The imbalance is UᵀU − VᵀV."""
    starts = [start for d in WIDTHS for start in (jf.starts.Gaussian(d, scale=0.3), jf.starts.Balanced(d, 0.3))]
    drawn = [jf.Factors(*map(np.asarray, pair)) for pair in all_draws(starts, KEYS[0], low)]
    for gaussian, balanced in zip(drawn[::2], drawn[1::2], strict=True):
        np.testing.assert_allclose(balanced.U @ balanced.V.T, gaussian.U @ gaussian.V.T, atol=1e-14)
        unequal, equal = (U.T @ U - V.T @ V for U, V in (gaussian, balanced))
        np.testing.assert_allclose(equal, 0, atol=1e-14)
        assert np.abs(unequal).max() > 0.1


@pytest.mark.parametrize("name", ["dense, tall", "rank-deficient", "width above both sides"])
def test_spectral_is_the_optimum(name):
    case = PROBLEMS[name]
    best, half = distances([jf.starts.Spectral(case.width), jf.starts.Spectral(case.width, 0.5)], case.build())
    assert float(best) < 1e-14
    # Scaled by s, the product is s²·Σ_d: its distance is 1 − s².
    assert float(half) == pytest.approx(0.75, rel=1e-12)


def test_spectral_needs_a_known_target(tall):
    class Unknown(jf.Problem):
        shape: tuple = (2, 2)
        unit: float = np.float64(1.0)
        truth: None = None

        def loss(self, factors):
            return jnp.sum(factors.U)

        def distance(self, factors):
            return jnp.sum(factors.U)

    with pytest.raises(ValueError, match=r"^problem=Unknown: has no spectral start; start from Gaussian"):
        jf.starts.Spectral(1).draw(KEYS[0], Unknown())


def test_one_key_one_draw(tall):
    """Of every start: the same key gives the same bits, and another key other ones where anything is random."""
    starts = [begin(tall, 2) for begin in STARTS.values()]
    first, again, other = (all_draws(starts, key, tall) for key in (KEYS[0], KEYS[0], KEYS[1]))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    fixed = {"spectral", "projected gradient", "explicit factors"}
    for name, one, two in zip(STARTS, first, other, strict=True):
        assert [bool(np.any(np.asarray(a) != np.asarray(b))) for a, b in zip(one, two, strict=True)] == [
            name not in fixed
        ] * 2, name


@pytest.mark.parametrize("unit", [1.0, 40.0])
def test_ye_du_scale_and_step_by_hand(unit):
    """ε = σ_d/(√(d^e·σ₁)(m+n)) = 0.5/(√2·20), η = σ_d·ε²/(d·σ₁³); in units of σ₁ the target's size is immaterial."""
    problem = jf.Factorization(unit * np.array([1.0, 0.5]), shape=(10, 10))
    scale = jf.starts.ye_du_scale(problem, 2)
    assert float(scale) == pytest.approx(0.0176777, rel=1e-5)
    assert float(jf.starts.ye_du_scale(problem, 2, exponent=3)) == pytest.approx(0.5 / (8**0.5 * 20), rel=1e-12)
    assert float(jf.starts.ye_du_step_size(problem, 2, scale)) == pytest.approx(7.8125e-5, rel=1e-12)
    # Over-parametrised, σ_d is the last singular value there is, and d the width.
    assert float(jf.starts.ye_du_scale(problem, 8)) == pytest.approx(0.5 / (8**0.5 * 20), rel=1e-12)
    assert float(jf.starts.ye_du_step_size(problem, 1, 0.1)) == pytest.approx(0.01, rel=1e-12)


REFUSED = [
    (lambda: jf.starts.Gaussian(0, scale=0.1), r"^width=0: needs a whole number, 1 or above; .+\.$"),
    (lambda: jf.starts.Gaussian(2.5, scale=0.1), r"^width=2.5: needs a whole number, 1 or above; .+\.$"),
    (lambda: jf.starts.Gaussian(2), r"^scale, norm=neither: needs one of the two; pass scale= .+\.$"),
    (lambda: jf.starts.Gaussian(2, scale=1.0, norm=1.0), r"^scale, norm=both: needs one of the two; pass scale= .+\.$"),
    (lambda: jf.starts.Gaussian(2, scale=-1.0), r"^scale=-1: needs a finite number above 0; .+\.$"),
    (lambda: jf.starts.Gaussian(2, norm=np.nan), r"^norm=nan: needs a finite number above 0; .+\.$"),
    (lambda: jf.starts.Gaussian(2, scale=1.0, ratio=0.0), r"^ratio=0: needs a finite number above 0; .+\.$"),
    (lambda: jf.starts.Orthogonal(2, 0.0), r"^scale=0: needs a finite number above 0; .+\.$"),
    (lambda: jf.starts.Balanced(True, 1.0), r"^width=True: needs a whole number, 1 or above; .+\.$"),
    (lambda: jf.starts.Spectral(2, np.inf), r"^scale=inf: needs a finite number above 0; .+\.$"),
    (
        lambda: jf.starts.ye_du_scale(jf.Factorization(np.zeros((2, 2))), 1),
        r"^problem=a zero target: .+ need σ_d > 0; give a non-zero target\.$",
    ),
]


@pytest.mark.parametrize(("build", "message"), REFUSED)
def test_starts_that_cannot_work_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("width", [3, 25])
def test_a_normed_start_has_its_spectral_norm(width, compressed):
    # The stacked norm of Wind (2023), of one factor for Ma & Fattahi (2024); rotations of the rows leave it as it is.
    problem = jf.Factorization(np.array([1.0, 0.5]), shape=(30, 20))
    start = jf.starts.NormedGaussian(width, 0.02)
    problem = Compressed(problem, width) if compressed else problem
    tied = jf.Tied(jf.Factorization(np.array([1.0, 0.5]), shape=(20, 20)))
    pair, gaussian = all_draws([start, jf.starts.Gaussian(width, scale=1.0)], jr.key(1), problem)
    assert np.linalg.norm(np.concatenate(pair), 2) == pytest.approx(0.02, rel=1e-12)
    size = np.linalg.norm(np.concatenate(gaussian), 2)
    np.testing.assert_allclose(np.concatenate(pair), np.concatenate(gaussian) * (0.02 / size), rtol=1e-12)
    if not compressed:
        assert np.linalg.norm(one_draw(start, jr.key(1), tied).X, 2) == pytest.approx(0.02, rel=1e-12)


def test_a_start_on_a_sphere_has_its_frobenius_norm_and_no_direction(tall):
    """‖(U, V)‖_F is exact; each of the 13·2 entries has the mean square norm²/26, whichever factor it is in."""
    on_sphere, gaussian = draws(tall, jf.starts.Sphere(2, 0.3), jf.starts.Gaussian(2, scale=1.0))
    energy = np.sum(on_sphere.U**2, (1, 2)) + np.sum(on_sphere.V**2, (1, 2))
    np.testing.assert_allclose(energy, 0.09, rtol=1e-12)
    size = np.sqrt(np.sum(gaussian.U**2, (1, 2)) + np.sum(gaussian.V**2, (1, 2)))
    np.testing.assert_allclose(on_sphere.U, 0.3 * gaussian.U / size[:, None, None], rtol=1e-12)
    assert abs(z_of_variance(on_sphere.V, 0.09 / 26)) < Z
    small = jf.starts.Sphere(2, 0.3).draw(KEYS[0], Compressed(tall, 2))
    assert float(small.energy) == pytest.approx(0.09, rel=1e-12)
