"""Each operator against its definition in NumPy, its adjoint, and the law E 𝒜*𝒜 = I."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
from cases import as_jax, pair

import jaxfact as jf
from jaxfact.problems import operators

KEY = jr.key(5)
M, N, P = 8, 6, 20

DRAWN = {
    "gaussian": operators.gaussian,
    "rademacher": operators.rademacher,
    "rank one": operators.rank_one,
    "entries": operators.entries,
    "transform": operators.transform,
}
PADDED = ["gaussian", "rademacher", "rank one", "transform"]


def of(matrix) -> jf.Factors:
    """Return factors of a given matrix."""
    return as_jax(jf.Factors(matrix, np.eye(matrix.shape[1])))


measure = jax.jit(lambda operator, factors: operator.measure(factors))
pull = jax.jit(lambda operator, r, factors: operator.pull(r, factors))
measure_each = jax.jit(jax.vmap(measure, in_axes=(None, jf.Factors(0, None))))


def as_matrix(operator: jf.operators.Operator) -> np.ndarray:
    """Return the p×mn matrix of an operator, by measuring the basis; NumPy's order of entries."""
    m, n = operator.shape
    basis = jnp.eye(m * n).reshape(-1, m, n)
    return np.asarray(measure_each(operator, jf.Factors(basis, jnp.eye(n)))).T


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_adjoint_and_pull(draw):
    """⟨𝒜(UVᵀ), r⟩ = ⟨UVᵀ, 𝒜*(r)⟩, and the pull is the adjoint times the factors."""
    operator, factors = draw(KEY, (M, N), P), as_jax(pair((M, N), 3))
    r = jr.normal(jr.key(1), (P,))
    matrix = operator.adjoint(r)
    assert jnp.sum(measure(operator, factors) * r) == pytest.approx(float(jnp.sum(factors.product * matrix)), rel=1e-12)
    pulled = pull(operator, r, factors)
    np.testing.assert_allclose(pulled.U, matrix @ factors.V, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(pulled.V, matrix.T @ factors.U, rtol=1e-11, atol=1e-12)


@lru_cache
def definitions():
    """Return pairs of an operator and the p×mn matrix of its definition."""
    rng = np.random.default_rng(0)
    dense, a, b = rng.normal(size=(P, M, N)), rng.normal(size=(P, M)), rng.normal(size=(P, N))
    rows, columns = np.divmod(rng.permutation(M * N)[:P], N)
    picked = np.eye(M * N).reshape(M, N, -1)[rows, columns] * np.sqrt(M * N / P)
    fast = operators.transform(KEY, (M, N), P)
    mixing = np.kron(scipy.linalg.hadamard(M) / np.sqrt(M), scipy.fft.dct(np.eye(N), axis=0, norm="ortho"))
    transformed = (mixing * np.asarray(fast.signs).ravel())[fast.places.index] * np.sqrt(M * N / P)
    return {
        "dense": (operators.Dense(dense), dense.reshape(P, -1)),
        "rank one": (operators.RankOne(a, b), np.einsum("pi,pj->pij", a, b).reshape(P, -1) / np.sqrt(P)),
        "entries": (operators.Entries(rows, columns, (M, N)), picked),
        "transform": (fast, transformed),
    }


@pytest.mark.parametrize("name", ["dense", "rank one", "entries", "transform"])
def test_definition(name):
    """The transform is the Kronecker product of SciPy's Hadamard matrix (8 rows) and its DCT-II (6 columns)."""
    operator, expected = definitions()[name]
    np.testing.assert_allclose(as_matrix(operator), expected, atol=1e-13)


def test_a_transform_of_all_entries_is_orthogonal():
    for shape in ((8, 6), (5, 7), (1, 4)):
        everything = as_matrix(operators.transform(KEY, shape, shape[0] * shape[1]))
        np.testing.assert_allclose(everything.T @ everything, np.eye(len(everything)), atol=1e-13)


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_mean_of_the_normal_operator_is_the_identity(draw):
    """To 0.1 over 4000 draws of p = 4: 4.5 deviations of the most spread entry, √((E a⁴b⁴ − 1)/p) = √2 of rank one."""

    @jax.jit
    @jax.vmap
    def normal_matrix(key):
        operator = draw(key, (3, 2), 4)
        basis = jnp.eye(6).reshape(6, 3, 2)
        A = jax.vmap(lambda X: operator.measure(jf.Factors(X, jnp.eye(2))))(basis)
        return A @ A.T

    found = np.asarray(jnp.mean(normal_matrix(jr.split(KEY, 4000)), axis=0))
    np.testing.assert_allclose(found, np.eye(6), atol=0.1)
    assert np.abs(1.3 * found - np.eye(6)).max() > 0.1


@pytest.mark.parametrize("name", PADDED)
def test_a_padded_count_measures_with_the_first_ones_rescaled(name):
    """The count is traced; what lies beyond has weight 0, and the rest the scale of their own number."""
    draw, shape = DRAWN[name], (M, N)
    whole = as_matrix(draw(KEY, shape, P))
    some = jax.jit(lambda count: draw(KEY, shape, count, padded_to=P).measure(of(np.arange(M * N).reshape(M, N))))(7)
    expected = whole @ np.arange(M * N) * np.sqrt(P / 7)
    np.testing.assert_allclose(some[:7], expected[:7], rtol=1e-12)
    assert not np.any(some[7:])
    assert int(draw(KEY, shape, 7, padded_to=P).used) == 7


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_dtype_and_batch(draw):
    """Float32 stays float32; a batch of operators and factors measures what single ones do."""
    keys = jr.split(KEY, 3)
    operator = draw(KEY, (M, N), P, dtype=jnp.float32)
    factors = as_jax(pair((M, N), 2), jnp.float32)
    pulled = pull(operator, measure(operator, factors), factors)
    assert {x.dtype for x in jax.tree.leaves(pulled)} == {jnp.dtype(jnp.float32)}
    both = as_jax(pair((M, N), 2))
    batch = jax.jit(jax.vmap(lambda key: draw(key, (M, N), P).measure(both)))(keys)
    single = jnp.stack([measure(draw(key, (M, N), P), both) for key in keys])
    np.testing.assert_allclose(batch, single, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: operators.Dense(np.ones((3, 4))), "needs p matrices"),
        (lambda: operators.Dense(np.full((2, 2, 2), np.nan)), "8 entries that are NaN"),
        (lambda: operators.RankOne(np.ones((3, 4)), np.ones((2, 4))), "as many vectors"),
        (lambda: operators.Entries([0, 2], [0, 0], (2, 2)), "1 entries outside"),
        (lambda: operators.Entries([0, 0], [1, 1], (2, 2)), "1 repeated places"),
        (lambda: operators.Entries([0, 0], [1], (2, 2)), "one row and column"),
        (lambda: operators.entries(KEY, (2, 2), 5), "at most 4"),
        (lambda: operators.gaussian(KEY, (2, 0), 5), "n=0"),
        (lambda: operators.gaussian(KEY, (2, 2), 0), "count=0"),
        (lambda: operators.gaussian(KEY, (2, 2), 9, padded_to=8), "padded_to=8"),
        (lambda: jax.eval_shape(lambda p: operators.gaussian(KEY, (2, 2), p), 3), "pass padded_to="),
    ],
)
def test_bad_input_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_rip_lower_bound_where_the_constant_is_known():
    """An orthogonal transform has δ = 0; c times one has |c² − 1| at every rank."""
    isometry = operators.transform(KEY, (M, N), M * N)
    assert float(jf.measures.rip_lower_bound(isometry, 2, KEY)) == pytest.approx(0, abs=1e-12)
    for c in (1.2, 0.5):
        scaled = operators.Dense(c * as_matrix(isometry).reshape(-1, M, N))
        assert float(jf.measures.rip_lower_bound(scaled, 2, KEY)) == pytest.approx(abs(c**2 - 1), rel=1e-12)


def test_rip_lower_bound_against_singular_values():
    """At full rank δ is that of the eigenvalues of 𝒜*𝒜: the search finds the largest; at rank 1 it stays below it."""
    operator = operators.gaussian(KEY, (M, N), 90)
    values = np.linalg.eigvalsh(as_matrix(operator).T @ as_matrix(operator))
    true = max(values[-1] - 1, 1 - values[0])
    found = [float(jf.measures.rip_lower_bound(operator, rank, KEY, steps=300)) for rank in (1, 2, N)]
    assert found[2] == pytest.approx(true, rel=1e-6)
    assert 0.2 < found[0] < found[1] < found[2] <= true * (1 + 1e-12)


def test_rip_lower_bound_of_a_diagonal_operator():
    """With A_ij = √w_ij·E_ij the rank-1 extreme values of ‖𝒜(X)‖² are the largest and least weight, at E_ij."""
    w = np.random.default_rng(3).uniform(0.3, 1.2, size=12)
    operator = operators.Dense((np.sqrt(w)[:, None] * np.eye(12)).reshape(12, 4, 3))
    found = float(jf.measures.rip_lower_bound(operator, 1, KEY, restarts=32, steps=400))
    true = max(w.max() - 1, 1 - w.min())
    assert true * 0.999 < found <= true * (1 + 1e-12)


@pytest.mark.parametrize("bad", [{"rank": 0}, {"rank": 7}, {"rank": 1, "restarts": 0}])
def test_rip_lower_bound_refuses(bad):
    with pytest.raises(ValueError, match="rank=|restarts="):
        jf.measures.rip_lower_bound(operators.gaussian(KEY, (M, N), P), key=KEY, **bad)
