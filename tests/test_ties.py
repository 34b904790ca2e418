"""Equal singular values: the distance to the set of best approximations, without the floor of a difference."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from cases import as_jax, frame
from runs import outcomes

import jaxfact as jf

EPSILON = float(np.finfo(np.float32).eps)
CLUSTERS = np.repeat(np.arange(5), 2)
# Name: matrix, and a width that divides equal values.
TIED = {
    "identity": (np.eye(50), 5),
    "permutation": (np.eye(12)[np.random.default_rng(0).permutation(12)], 3),
    "Hadamard": (scipy.linalg.hadamard(16).astype(float), 2),
    "same cluster": ((CLUSTERS[:, None] == CLUSTERS).astype(float), 3),
    "below distinct values": (np.diag([3.0, 2, 1, 1, 1, 1, 0.5, 0.2]), 4),
    "pairs of a circulant": (scipy.linalg.circulant(np.exp(-np.arange(12) / 3)), 4),
    "orthogonal, in single precision": (frame(12, 12, 1).astype(np.float32), 3),
    "equal but for 1e-7": (np.diag(1 + 1e-7 * np.random.default_rng(1).normal(size=12)), 4),
}


def nearest(matrix: np.ndarray, values: np.ndarray, width: int) -> float:
    """Return the distance of a matrix, in singular coordinates, to the set; by eigenvalues of the block of equal ones.

    The best projector onto k directions there belongs to the largest eigenvalues of the block's symmetric part.
    """
    s = values[width - 1]
    block = np.abs(values - s) < 1e-6
    first, kept = int(block.argmax()), width - int(block.argmax())
    inside = slice(first, first + block.sum())
    centre = matrix[inside, inside]
    eigenvalues = np.linalg.eigvalsh((centre + centre.T) / 2)
    skew = np.sum((centre - centre.T) ** 2) / 4
    outside = matrix.copy()
    outside[inside, inside] = 0
    outside[:first, :first] -= np.diag(values[:first])
    target = np.sum(eigenvalues[:-kept] ** 2) + np.sum((eigenvalues[-kept:] - s) ** 2)
    return np.sqrt((np.sum(outside**2) + skew + target) / np.sum(values[:width] ** 2))


IN_DOUBLE = ("permutation", "below distinct values")


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, np.float32) for name in TIED), *((name, np.float64) for name in IN_DOUBLE)]
)
def test_every_run_converges(name, dtype):
    """In single as in double precision, 40 of 40: a distance of √(2·excess) stalled a third of them at √ε."""
    matrix, width = TIED[name]
    problem = jf.Factorization(np.asarray(matrix, dtype))
    start = jf.starts.Gaussian(width, scale=1e-3)
    runs = jf.sweep(
        lambda: jf.Run(problem, start, jf.methods.gradient_descent(0.3)), seeds=40, max_steps=4000, tolerance=1e-5
    )
    assert outcomes(runs) == {"converged": 40}
    assert not problem.is_truncation_unique(width)


@pytest.mark.parametrize("name", ["identity", "below distinct values", "pairs of a circulant"])
@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
def test_near_the_set_it_is_the_distance_to_a_member(name, size):
    """Between that to the nearest member and √2 of it, up to the size of the step away from the set."""
    matrix, width = TIED[name]
    problem = jf.Factorization(matrix).in_singular_coordinates()
    values, rows = np.asarray(problem.singular_values), problem.rows[0]
    first = int(np.argmax(np.abs(values - values[width - 1]) < 1e-6))
    end = first + int(np.sum(np.abs(values - values[width - 1]) < 1e-6))
    basis = np.zeros((rows, width))
    basis[:first, :first] = np.eye(first)
    basis[first:end, first:] = frame(end - first, width - first, 3)
    member = basis * np.sqrt(np.append(values[:first], [values[width - 1]] * (width - first)))
    rng = np.random.default_rng(5)
    turn = frame(width, width, 8)
    U, V = ((member + size * rng.normal(size=member.shape)) @ turn for _ in range(2))
    found = float(problem.distance(as_jax(jf.Factors(U, V))))
    expected = nearest(U @ V.T, values, width)
    assert (1 - 1e-9) * expected <= found <= (np.sqrt(2) + 3 * size) * expected
    # Negative control: one of the approximations that are just as good lies far away.
    unique = np.linalg.norm(U @ V.T - np.diag(np.append(values[:width], np.zeros(rows - width))))
    assert unique / np.linalg.norm(values[:width]) > 0.1


def test_members_are_at_no_distance_in_single_precision():
    """At one of them the excess cancels to ε, whose root is 3e-4; the distance is a few ε, at any imbalance."""
    problem = jf.Factorization(np.eye(30, dtype=np.float32))
    Q = frame(30, 4, 2)
    for ratio in (1.0, 25.0):
        factors = jf.Factors(jnp.asarray(Q * ratio, jnp.float32), jnp.asarray(Q / ratio, jnp.float32))
        assert float(problem.distance(factors)) < 8 * EPSILON


def test_the_other_side_may_lead():
    """Transposing target and factors changes the distance by no more than which side's columns are taken."""
    matrix, width = TIED["below distinct values"]
    U, V = (0.3 * np.random.default_rng(k).normal(size=(8, width)) for k in range(2))
    problem = jf.Factorization(matrix)
    one, other = (float(problem.distance(as_jax(jf.Factors(*pair)))) for pair in ((U, V), (V, U)))
    assert one == pytest.approx(other, rel=0.5)


def test_one_factor():
    problem = jf.Tied(jf.Factorization(np.eye(12, dtype=np.float32)))
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(3, scale=1e-2), jf.methods.gradient_descent(0.3)),
        seeds=20,
        max_steps=2000,
        tolerance=1e-5,
    )
    assert outcomes(runs) == {"converged": 20}


def test_spectrum_and_width_as_axes():
    """What is equal is found along the way where it depends on the point: the same distances as point by point."""

    def experiment(condition, width):
        values = jnp.stack([jnp.float32(1), *[1 / condition] * 3])
        start = jf.starts.Gaussian(width, scale=1e-2, padded_to=4)
        return jf.Run(jf.Factorization(values, shape=(9, 8)), start, jf.methods.gradient_descent(0.3))

    axes = {"condition": np.float32([1, 2]), "width": [1, 3, 4]}
    runs = jf.sweep(experiment, seeds=8, max_steps=4000, tolerance=1e-5, **axes)
    assert outcomes(runs) == {"converged": 48}
    traced = jax.jit(lambda values, width, x: jf.Factorization(values, shape=(9, 8)).at_width(width).distance(x))
    for condition, width in itertools.product([1.0, 2.0], [1, 3, 4]):
        problem = jf.Factorization(np.float32([1, *[1 / condition] * 3]), shape=(9, 8))
        factors = jax.tree.map(lambda x: jnp.float32(x), jf.Factors(frame(9, 4, 1), frame(8, 4, 2)))
        used = jax.tree.map(lambda x, width=width: x * (jnp.arange(4) < width), factors)
        narrow = jax.tree.map(lambda x, width=width: x[:, :width], factors)
        found = traced(problem.singular_values, width, used)
        assert float(found) == pytest.approx(float(problem.distance(narrow)), rel=1e-5)


def test_a_tolerance_below_the_spread_of_nearly_equal_values():
    """Until they are told apart runs are at about their spread from every approximation that counts as best."""
    values = 1 - 9e-7 * np.arange(8)
    start = jf.starts.Gaussian(4, scale=1e-2)
    settings = {"seeds": 8, "max_steps": 4000}

    def experiment():
        return jf.Run(jf.Factorization(values, shape=(9, 9)), start, jf.methods.gradient_descent(0.3))

    with pytest.raises(ValueError, match="three times the spread of the singular values around σ_4"):
        jf.sweep(experiment, tolerance=1e-6, **settings)
    assert outcomes(jf.sweep(experiment, tolerance=1.2e-5, **settings)) == {"converged": 8}


def test_distinct_values_have_a_program_without_it():
    """A spectrum that is known beforehand pays nothing for a case that it does not have."""
    factors = as_jax(jf.Factors(frame(8, 3, 1), frame(8, 3, 2)))
    distinct, tied = (jf.Factorization(values, shape=(8, 8)) for values in (np.linspace(1, 0.1, 6), np.ones(6)))
    lengths = [len(str(jax.make_jaxpr(problem.distance)(factors))) for problem in (distinct, tied)]
    assert 2 * lengths[0] < lengths[1]
