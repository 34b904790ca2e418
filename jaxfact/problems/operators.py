"""Linear measurements of a matrix, 𝒜: X ↦ y of p numbers, all drawn so that E 𝒜*𝒜 = I."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jaxfact.choices import listed
from jaxfact.data.numbers import as_array
from jaxfact.data.observed import numbered
from jaxfact.inputs import positive_integer, problem_with
from jaxfact.numerics.draws import fold, normal, uniform
from jaxfact.problems.factors import Factors

_MANY = 64  # runs that share a pass over a big array: enough that arithmetic, not memory, is the limit


class Operator(eqx.Module):
    """A linear map from m×n matrices to p numbers; an immutable pytree, whose arrays may be shared by all runs.

    A subclass states `measure` and `adjoint`, and overrides `pull` where structure is cheaper than an m×n matrix.
    `weights` are what each number has been multiplied by to make E 𝒜*𝒜 = I, 0 for a measurement that is not used.
    """

    shape: eqx.AbstractVar[tuple[int, int]]
    weights: eqx.AbstractVar[Float[Array, " p"]]

    @property
    def count(self) -> int:
        """The number p of values, including those that are not used."""
        return len(self.weights)

    @property
    def used(self) -> Int[Array, ""]:
        """How many of the measurements are used."""
        return jnp.sum(self.weights != 0)

    @property
    def lanes(self) -> int | None:
        """The hint that `Problem.lanes` passes on: how many runs should share a pass over what is stored."""
        return None

    @abc.abstractmethod
    def measure(self, factors: Factors) -> Float[Array, " p"]:
        """Return 𝒜(UVᵀ)."""

    @abc.abstractmethod
    def adjoint(self, values: Float[Array, " p"]) -> Float[Array, "m n"]:
        """Return 𝒜*(values), with ⟨𝒜(X), values⟩ = ⟨X, 𝒜*(values)⟩."""

    def pull(self, values: Float[Array, " p"], factors: Factors) -> Factors:
        """Return 𝒜*(values)V and 𝒜*(values)ᵀU: with the residual for values, the gradient of ½‖𝒜(UVᵀ) − y‖²."""
        matrix = self.adjoint(values)
        return Factors(matrix @ factors.V, matrix.T @ factors.U)


class Dense(Operator):
    """Stored matrices: y_i = w_i⟨A_i, X⟩, at 2pmn multiply-adds per step.

    `matrices` is a p×m×n array, used as it is: for E 𝒜*𝒜 = I its entries have variance 1/p. Raises ValueError for an
    array that does not have three dimensions, is empty, or has entries that are not finite.
    """

    matrices: Float[Array, "p mn"]
    weights: Float[Array, " p"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, matrices: ArrayLike, *, weights: Float[Array, " p"] | None = None):
        if np.ndim(matrices) != 3 or 0 in np.shape(matrices):
            given, needed = f"array of shape {np.shape(matrices)}", "needs p matrices of m×n"
            raise problem_with("matrices", given, needed, "stack them along the first axis")
        p, m, n = np.shape(matrices)
        floating = _finite("matrices", matrices)
        self.matrices, self.shape = floating.reshape(p, m * n), (m, n)
        self.weights = jnp.ones(p, floating.dtype) if weights is None else weights

    @property
    def lanes(self) -> int:
        """Enough runs to make the products of a pass over the matrices fast."""
        return _MANY

    def measure(self, factors: Factors) -> Float[Array, " p"]:
        """Return w ∘ A·vec(UVᵀ)."""
        return self.weights * (self.matrices @ factors.product.reshape(-1))

    def adjoint(self, values: Float[Array, " p"]) -> Float[Array, "m n"]:
        """Return the sum of w_i·values_i·A_i."""
        return (self.matrices.T @ (self.weights * values)).reshape(self.shape)


class RankOne(Operator):
    """Rank-one measurements y_i = w_i·a_iᵀXb_i, at 2p(m+n)d multiply-adds per step; no m×n matrix is formed.

    `left` holds the a_i (p×m), `right` the b_i (p×n), and w_i is 1/√p unless `weights` says otherwise: independent
    entries of variance 1 make E 𝒜*𝒜 = I. Raises ValueError for shapes that do not match.
    """

    left: Float[Array, "p m"]
    right: Float[Array, "p n"]
    weights: Float[Array, " p"]

    def __init__(self, left: ArrayLike, right: ArrayLike, *, weights: Float[Array, " p"] | None = None):
        shapes = np.shape(left), np.shape(right)
        if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][0] != shapes[1][0]:
            needed = "needs as many vectors on the left as on the right"
            raise problem_with("left, right", f"shapes {shapes[0]} and {shapes[1]}", needed, "give p×m and p×n")
        left, right = _finite("left", left), _finite("right", right)
        dtype = jnp.result_type(left, right, jnp.float32)
        self.left, self.right = jnp.asarray(left, dtype), jnp.asarray(right, dtype)
        self.weights = _weights(shapes[0][0], None, 1, dtype) if weights is None else weights

    @property
    def shape(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sizes of the matrix."""
        return self.left.shape[1], self.right.shape[1]

    @property
    def lanes(self) -> int:
        """Enough runs to make the products with the stored vectors fast."""
        return _MANY

    def measure(self, factors: Factors) -> Float[Array, " p"]:
        """Return w_i⟨Uᵀa_i, Vᵀb_i⟩."""
        return self.weights * jnp.sum((self.left @ factors.U) * (self.right @ factors.V), axis=1)

    def adjoint(self, values: Float[Array, " p"]) -> Float[Array, "m n"]:
        """Return the sum of w_i·values_i·a_ib_iᵀ."""
        return self.left.T @ ((self.weights * values)[:, None] * self.right)

    def pull(self, values: Float[Array, " p"], factors: Factors) -> Factors:
        """Return the sums of w_i·values_i·a_i(Vᵀb_i)ᵀ and w_i·values_i·b_i(Uᵀa_i)ᵀ."""
        weighted = (self.weights * values)[:, None]
        return Factors(
            self.left.T @ (weighted * (self.right @ factors.V)),
            self.right.T @ (weighted * (self.left @ factors.U)),
        )


class Entries(Operator):
    """Distinct entries y_i = √(mn/p)·X[rows_i, columns_i] of a matrix.

    For places drawn uniformly E 𝒜*𝒜 = I. Raises ValueError for places that lie outside the matrix or are repeated.
    """

    rows: Int[Array, " p"]
    columns: Int[Array, " p"]
    places: "_Places"
    weights: Float[Array, " p"]
    shape: tuple[int, int] = eqx.field(static=True)

    def __init__(self, rows: ArrayLike, columns: ArrayLike, shape: tuple[int, int], *, dtype: Any = None):
        m, n = self.shape = _checked_shape(shape)
        rows, columns = (x if isinstance(x, Tracer) else numbered(x) for x in (rows, columns))
        _check_places(rows, columns, m, n)
        self.rows, self.columns = jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32)
        self.places = _Places(self.rows * n + self.columns, m * n)
        self.weights = _weights(len(self.rows), None, m * n, dtype)

    def measure(self, factors: Factors) -> Float[Array, " p"]:
        """Return the entries from rows of the factors."""
        return self.weights * jnp.sum(factors.U[self.rows] * factors.V[self.columns], axis=1)

    def adjoint(self, values: Float[Array, " p"]) -> Float[Array, "m n"]:
        """Return the matrix of the values at their places, zero elsewhere."""
        return self.places.put(self.weights * values).reshape(self.shape)


class Transform(Operator):
    """Kept entries of an orthogonal transform: y = √(mn/p)·(H_m(D∘X)H_nᵀ)[kept], which stores no measurement matrix.

    H is the orthonormal Walsh-Hadamard matrix where a side is a power of two, elsewhere the orthonormal DCT-II; D are
    independent random signs and `kept` p distinct entries, so E 𝒜*𝒜 = I. The two small products are the Kronecker
    transform of vec(D∘X), a subsampled orthogonal transform with random signs as in Krahmer & Ward (2011). They cost
    2mn(m+n) multiply-adds per step.
    """

    across: Float[Array, "m m"]
    along: Float[Array, "n n"]
    signs: Float[Array, "m n"]
    places: "_Places"
    weights: Float[Array, " p"]

    def __init__(
        self, signs: Float[Array, "m n"], kept: Int[Array, " p"], *, weights: Float[Array, " p"] | None = None
    ):
        m, n = signs.shape
        self.across, self.along = (jnp.asarray(_orthogonal(size), signs.dtype) for size in (m, n))
        self.signs, self.places = signs, _Places(kept, m * n)
        self.weights = _weights(len(kept), None, m * n, signs.dtype) if weights is None else weights

    @property
    def shape(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sizes of the matrix."""
        return self.signs.shape[0], self.signs.shape[1]

    def measure(self, factors: Factors) -> Float[Array, " p"]:
        """Return the kept entries of the transform of UVᵀ, weighted."""
        transformed = self.across @ (self.signs * factors.product) @ self.along.T
        return self.weights * self.places.take(transformed.reshape(-1))

    def adjoint(self, values: Float[Array, " p"]) -> Float[Array, "m n"]:
        """Return the inverse transform of the values at their places."""
        return self.signs * (self.across.T @ self.places.put(self.weights * values).reshape(self.shape) @ self.along)


class _Places(eqx.Module):
    """Distinct places in a flat array; values are put back through the inverse index, because a scatter is slow."""

    index: Int[Array, " p"]
    inverse: Int[Array, " size"]

    def __init__(self, index: Int[Array, " p"], size: int):
        count = len(index)
        self.index = index
        # Where nothing is kept, the inverse points to a zero after the values.
        self.inverse = jnp.full(size, count, jnp.int32).at[index].set(jnp.arange(count, dtype=jnp.int32))

    def take(self, flat: Float[Array, " size"]) -> Float[Array, " p"]:
        return flat[self.index]

    def put(self, values: Float[Array, " p"]) -> Float[Array, " size"]:
        return jnp.pad(values, (0, 1))[self.inverse]


def gaussian(
    key: PRNGKeyArray, shape: tuple[int, int], count: Any, *, padded_to: int | None = None, dtype: Any = None
) -> Dense:
    """Draw `count` = p dense matrices of independent N(0, 1/p) entries.

    `count` may be an axis of a sweep; then `padded_to` is its largest value, and measurements beyond it have weight 0.
    A smaller count has the first of the same matrices. Raises ValueError for sizes or counts below 1.
    """
    return _dense(key, shape, count, padded_to, dtype, normal)


def rademacher(
    key: PRNGKeyArray, shape: tuple[int, int], count: Any, *, padded_to: int | None = None, dtype: Any = None
) -> Dense:
    """Draw `count` = p dense matrices of independent signs ±1/√p; otherwise as `gaussian`."""
    return _dense(key, shape, count, padded_to, dtype, _signs)


def rank_one(
    key: PRNGKeyArray, shape: tuple[int, int], count: Any, *, padded_to: int | None = None, dtype: Any = None
) -> RankOne:
    """Draw `count` = p rank-one measurements a_iᵀXb_i/√p with standard normal a_i and b_i; otherwise as `gaussian`."""
    m, n = _checked_shape(shape)
    stored, dtype = _stored(count, padded_to), _dtype(dtype)
    left, right = (normal(fold(key, side), (stored, size), dtype) for side, size in enumerate((m, n)))
    return RankOne(left, right, weights=_weights(stored, count, 1, dtype))


def entries(key: PRNGKeyArray, shape: tuple[int, int], count: int, *, dtype: Any = None) -> Entries:
    """Draw `count` = p places without replacement. Raises ValueError for a count above mn."""
    m, n = _checked_shape(shape)
    flat = _subset(key, m * n, count)
    return Entries(flat // n, flat % n, (m, n), dtype=dtype)


def transform(
    key: PRNGKeyArray, shape: tuple[int, int], count: Any, *, padded_to: int | None = None, dtype: Any = None
) -> Transform:
    """Draw signs and `count` = p kept entries of a fast transform; otherwise as `gaussian`, and p is at most mn."""
    m, n = _checked_shape(shape)
    stored, dtype = _stored(count, padded_to), _dtype(dtype)
    kept = _subset(fold(key, 0), m * n, stored)
    return Transform(_signs(fold(key, 1), (m, n), dtype), kept, weights=_weights(stored, count, m * n, dtype))


def _dense(key, shape, count, padded_to, dtype, draw) -> Dense:
    m, n = _checked_shape(shape)
    stored, dtype = _stored(count, padded_to), _dtype(dtype)
    return Dense(draw(key, (stored, m, n), dtype), weights=_weights(stored, count, 1, dtype))


def _stored(count: Any, padded_to: int | None) -> int:
    """Return how many measurements are stored for a count that may be traced."""
    if padded_to is None:
        if isinstance(count, Tracer):
            raise problem_with("count", "a traced number", "needs a bound", "pass padded_to=, its largest value")
        return positive_integer("count", count, "give the number of measurements")
    padded_to = positive_integer("padded_to", padded_to, "give the largest count of the axis")
    if not isinstance(count, Tracer) and not 1 <= int(count) <= padded_to:
        raise problem_with("count", int(count), f"needs a number from 1 to padded_to={padded_to}", "raise padded_to")
    return padded_to


def _weights(stored: int, count: Any, entries: int, dtype: Any) -> Float[Array, " p"]:
    """Return √(entries/count) for the measurements that are used, 0 for the others."""
    count = jnp.asarray(stored if count is None else count)
    dtype = _dtype(dtype)
    return jnp.where(jnp.arange(stored) < count, jnp.sqrt(entries / count), 0).astype(dtype)


def _subset(key: PRNGKeyArray, size: int, count: int) -> Int[Array, " p"]:
    count = positive_integer("count", count, "give the number of measurements")
    if count > size:
        raise problem_with("count", count, f"needs at most {size}, the number of entries", "give fewer measurements")
    return jnp.argsort(uniform(key, (size,), jnp.dtype(jnp.float32)))[:count].astype(jnp.int32)


def _signs(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> Float[Array, "..."]:
    return jnp.where(uniform(key, shape, jnp.dtype(jnp.float32)) < 0.5, -1, 1).astype(dtype)


def _orthogonal(size: int) -> np.ndarray:
    """Return the orthonormal Walsh-Hadamard matrix of a power of two, else that of the DCT-II."""
    index = np.arange(size)
    if size & (size - 1) == 0:
        return (-1.0) ** np.bitwise_count(index[:, None] & index) / np.sqrt(size)
    waves = np.cos(np.pi * index[:, None] * (2 * index + 1) / (2 * size)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves


def _dtype(dtype: Any) -> jnp.dtype:
    return jnp.dtype(jax.dtypes.canonicalize_dtype(float if dtype is None else dtype))


def _checked_shape(shape: tuple[int, int]) -> tuple[int, int]:
    m, n = (
        positive_integer(name, size, "give the sizes of the matrix") for name, size in zip("mn", shape, strict=True)
    )
    return m, n


def _finite(name: str, array: Any) -> Array:
    """Return what measures as a JAX array; refuse what is no finite real number of its dtype."""
    if isinstance(array, jax.Array) and array.dtype in (jnp.float32, jnp.float64):
        found = array
    elif isinstance(array, Tracer):
        return array.astype(float)
    else:
        numbers = as_array(array, name)
        with np.errstate(over="ignore"):
            found = jnp.asarray(numbers.astype(jax.dtypes.canonicalize_dtype(numbers.dtype)))
    if isinstance(found, Tracer):
        return found
    missing = int(np.sum(~np.isfinite(np.asarray(found))))
    if missing:
        given = f"array with {missing} entries that are NaN, infinite or beyond {found.dtype}"
        raise problem_with(name, given, "measurements need finite numbers", "drop those measurements")
    return found


def _check_places(rows: ArrayLike, columns: ArrayLike, m: int, n: int) -> None:
    """Refuse places outside the matrix, and repeated ones; traced ones pass."""
    if np.ndim(rows) != 1 or np.shape(rows) != np.shape(columns) or np.size(rows) == 0:
        given = f"shapes {np.shape(rows)} and {np.shape(columns)}"
        raise problem_with("rows, columns", given, "needs one row and column per entry", "give two 1-D arrays")
    if isinstance(rows, Tracer) or isinstance(columns, Tracer):
        return
    rows, columns = np.asarray(rows), np.asarray(columns)
    if rows.dtype.kind not in "iu" or columns.dtype.kind not in "iu":
        given = f"numbers of dtype {rows.dtype} and {columns.dtype}"
        raise problem_with("rows, columns", given, "needs whole numbers", "convert them to int")
    outside = int(np.sum((rows < 0) | (rows >= m) | (columns < 0) | (columns >= n)))
    if outside:
        given = f"{outside} entries outside the {m}×{n} matrix"
        raise problem_with("rows, columns", given, "needs places inside it", "count from 0, or give another shape")
    twice = rows.size - np.unique(rows * n + columns).size
    if twice:
        raise problem_with("rows, columns", f"{twice} repeated places", "needs distinct ones", "drop repeats")


def __dir__() -> list[str]:
    return listed(globals())
