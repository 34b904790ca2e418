"""The loops that replace LAPACK, against LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import frame

from jaxfact.numerics import decompositions

SHAPES = [(7, 3), (3, 7), (5, 5), (1, 1), (4, 1), (1, 4), (12, 6), (20, 20)]


@pytest.mark.parametrize("shape", SHAPES)
def test_decompositions_agree_with_lapack(shape):
    """To 1e-12 of norms near 1 to 10: factors multiply back, are orthonormal, and have LAPACK's spectrum."""
    X = np.random.default_rng(0).normal(size=shape)
    k, identity = min(shape), np.eye(min(shape))
    Q, R = jax.jit(decompositions.qr)(X)
    np.testing.assert_allclose(Q @ R, X, atol=1e-12)
    np.testing.assert_allclose(Q.T @ Q, identity, atol=1e-12)
    np.testing.assert_array_equal(R, np.triu(R))
    P, s, Z = jax.jit(decompositions.svd)(X)
    np.testing.assert_allclose(P * s @ Z.T, X, atol=1e-12)
    np.testing.assert_allclose(P.T @ P, identity, atol=1e-12)
    np.testing.assert_allclose(Z.T @ Z, identity, atol=1e-12)
    np.testing.assert_allclose(s, np.linalg.svd(X, compute_uv=False)[:k], rtol=1e-12)
    np.testing.assert_allclose(jax.jit(decompositions.singular_values)(X), s, rtol=1e-12)
    symmetric = X.T @ X - np.eye(shape[1])
    np.testing.assert_allclose(
        jax.jit(decompositions.eigenvalues)(symmetric), np.linalg.eigvalsh(symmetric), atol=1e-11
    )
    gram = X.T @ X + np.eye(shape[1])
    np.testing.assert_allclose(jax.jit(decompositions.inverse)(gram), np.linalg.inv(gram), atol=1e-12)


def test_graded_values_keep_their_relative_precision():
    """One-sided Jacobi resolves 1e-100 beside 1 on a rotated diagonal; a Gram matrix would end at 1e-8."""
    graded = np.array([1.0, 1e-10, 1e-100])
    Z = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(decompositions.svd(jnp.asarray(Z * graded))[1], graded, rtol=1e-12)
    np.testing.assert_allclose(decompositions.singular_values(jnp.asarray(Z * graded)), graded, rtol=1e-12)
    assert np.sqrt(abs(np.linalg.eigvalsh((Z * graded) @ (Z * graded).T)[0])) > 1e-12


@pytest.mark.parametrize("condition", [1e2, 1e4])
def test_long_columns_are_condensed_with_the_precision_of_reflections(condition):
    """The smallest value to 30·ε·κ in single precision, against SciPy's in double; a Gram matrix would lose ε·κ²."""
    width = 4
    values = np.geomspace(1, 1 / condition, width)
    X = np.stack([frame(100, width, k) * values @ frame(width, width, 100 + k) for k in range(20)]).astype(np.float32)
    expected = np.linalg.svd(X.astype(float), compute_uv=False)
    R = np.asarray(jax.jit(jax.vmap(decompositions.condensed))(X), float)
    error = np.abs(np.linalg.svd(R, compute_uv=False) / expected - 1)
    epsilon = float(np.finfo(np.float32).eps)
    assert R.shape == (20, width, width)
    assert np.max(error) < 30 * epsilon * condition
    by_gram = np.sqrt(np.abs(np.linalg.eigvalsh(X.mT @ X)[:, ::-1]))
    assert np.max(np.abs(by_gram / expected - 1)) > 3 * epsilon * condition
    with_zeros = decompositions.condensed(jnp.pad(jnp.asarray(X[0]), ((0, 0), (0, 1))))
    np.testing.assert_array_equal(with_zeros[:, -1], 0)
    assert np.isnan(decompositions.condensed(jnp.full((40, 2), jnp.nan))).any()


def test_an_antidiagonal_pair():
    """Equal diagonal entries, where the rotation is by 45 degrees."""
    np.testing.assert_allclose(decompositions.eigenvalues(jnp.array([[0, 1.0], [1, 0]])), [-1, 1], atol=1e-15)


def test_batches_and_singles_agree():
    X = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4, 4)))
    batch = jax.vmap(lambda x: decompositions.eigenvalues(x @ x.T))(X)
    np.testing.assert_allclose(batch, [decompositions.eigenvalues(x @ x.T) for x in X], rtol=1e-12)


def test_what_is_not_finite_passes_through():
    assert np.all(np.isnan(decompositions.svd(jnp.full((3, 2), jnp.nan))[1]))
    assert np.isnan(decompositions.inverse(-jnp.eye(2))).all()


def test_empty_blocks():
    assert decompositions.triangle(jnp.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize("width", [2, 5, 8, 16, 24])
def test_badly_graded_matrices_converge(width):
    """Columns and rows of norms from 1e-10 to 1: a fixed count of twelve sweeps was too few from width 16 on."""
    rng = np.random.default_rng(width)
    X = rng.normal(size=(40, width, width))
    grades = 10.0 ** rng.uniform(-10, 0, (40, width))
    X[:20] *= grades[:20, None, :]
    X[20:] *= grades[20:, :, None]
    left, values, right = jax.jit(jax.vmap(decompositions.svd))(X)
    expected = np.linalg.svd(X, compute_uv=False)
    assert np.max(np.abs(values - expected) / expected[:, :1]) < 1e-13
    alone = jax.jit(jax.vmap(decompositions.singular_values))(X)
    assert np.max(np.abs(alone - expected) / expected[:, :1]) < 1e-13
    assert np.max(np.abs(right.mT @ right - np.eye(width))) < 1e-12
    assert np.max(np.abs(left.mT @ left - np.eye(width))) < 1e-11


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("width", [1, 3, 40, 100])
def test_the_largest_eigenvalue_is_numpys(width, dtype):
    # Squaring averages what rounding does: the result is good to a few epsilons at every width.
    factor = np.random.default_rng(width).normal(size=(width + 5, width))
    matrix = (factor.T @ factor).astype(dtype)
    found = float(decompositions.largest_eigenvalue(jnp.asarray(matrix)))
    assert found == pytest.approx(np.linalg.eigvalsh(matrix.astype(float))[-1], rel=8 * float(np.finfo(dtype).eps))


def test_the_largest_eigenvalue_of_ties_and_of_nothing():
    assert float(decompositions.largest_eigenvalue(2 * jnp.eye(5))) == pytest.approx(2, rel=1e-14)
    assert float(decompositions.largest_eigenvalue(jnp.zeros((3, 3)))) == 0
    assert np.isnan(decompositions.largest_eigenvalue(jnp.full((2, 2), jnp.nan)))
