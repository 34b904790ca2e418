"""Small dense decompositions as plain JAX loops, without LAPACK.

Inside the engine, LAPACK would be called for thousands of tiny matrices from several threads. On a CPU such calls are
slow, print to the terminal when a number is not finite, and have been seen to wait for each other for ever. Here the
program has a constant size, batches like anything else, and lets NaN through.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxfact.numerics.products import cross, gram, is_long, keep, product, times

_WRITTEN_OUT = 8  # steps; beyond that, a loop keeps the program small
_PAIRS = 10  # of columns, whose rotations are written out one after the other


@jax.jit
def qr(matrix: Float[Array, "k d"]) -> tuple[Float[Array, "k p"], Float[Array, "p d"]]:
    """Return Q with orthonormal columns and R upper trapezoidal, QR = matrix, p = min(k, d); by Householder.

    The diagonal of R is non-negative, which makes both unique where the matrix has full rank.
    """
    reflectors, R = _reflect(matrix)
    Q = jnp.eye(len(matrix), len(R), dtype=matrix.dtype)

    def apply(step, Q):
        v = reflectors[:, len(R) - 1 - step]
        return keep(Q - 2 * v[:, None] * times(v[None, :], Q))

    return _loop(len(R), apply, Q, rows=len(Q)), R


@jax.jit
def triangle(matrix: Float[Array, "k d"]) -> Float[Array, "p d"]:
    """Return only R of QR = matrix: the same Gram matrix in min(k, d) rows, with no digit lost."""
    return _reflect(matrix)[1]


@jax.jit
def condensed(matrix: Float[Array, "k d"]) -> Float[Array, "p d"]:
    """Return min(k, d) rows with the same Gram matrix, and singular values of a relative error of about ε·κ.

    For short or wide matrices it is their triangle. Reflections pass over long columns 2d times; these pass twice, by
    Gram matrices: XᵀX + sI = CᵀC with s = 8dε·‖X‖²_F leaves in Y = XC⁻¹ a condition of max(1, κ·√(8dε)) at most, whose
    Gram matrix is exact to that times its square, and X = QR with R = chol(YᵀY)·C (shifted Cholesky QR, Fukaya et al.
    2020). So the relative error grows to ε·κ²·8dε only where κ is above 1/√(8dε), 500 in single precision.
    """
    rows, width = matrix.shape
    if not is_long(rows) or width > _WRITTEN_OUT:
        return triangle(matrix)
    gramian, identity = gram(matrix), jnp.eye(width, dtype=matrix.dtype)
    shift = 8 * width * jnp.finfo(matrix.dtype).eps * jnp.trace(gramian)
    both = _eliminated(keep(jnp.concatenate([gramian + shift * identity, identity], axis=1)))
    C, inverted = both[:, :width], both[:, width:].T
    return keep(times(_eliminated(keep(gram(keep(times(matrix, inverted))))), C))


def _eliminated(rows: Float[Array, "d e"]) -> Float[Array, "d e"]:
    """Return [C, C⁻ᵀB] from [G, B], C upper triangular with CᵀC = G; zero rows where a pivot is not positive."""
    width = len(rows)
    index = jnp.arange(width)

    def eliminate(step, rows):
        pivot = rows[step, step]
        row = rows[step] * jnp.where(pivot <= 0, 0, 1 / jnp.sqrt(pivot))
        rest = rows - jnp.where(index > step, row[:width], 0)[:, None] * row
        return keep(jnp.where(index[:, None] == step, row, rest))

    rows = lax.fori_loop(0, width, eliminate, rows)
    return jnp.where(index[:, None] > jnp.arange(rows.shape[1]), 0, rows)


@jax.jit
def orthonormal(matrix: Float[Array, "k d"]) -> tuple[Float[Array, "k d"], Bool[Array, " d"]]:
    """Return orthonormal columns with the span of a matrix's, and which of its columns had a part of their own.

    The others, which depend on columns before them to √(100·d·ε) of their norm, become zero. A Cholesky factor of the
    Gram matrix leaves an error of ε·κ², of which a step of Newton and Schulz keeps the square: on long columns this is
    several times as fast as reflections.
    """
    whitening, own = _whitening(keep(gram(matrix)))
    columns = keep(times(matrix, whitening))
    polishing = keep(1.5 * jnp.eye(len(own), dtype=matrix.dtype) - gram(columns) / 2)
    return keep(times(columns, polishing)), own


def _whitening(gramian: Float[Array, "d d"]) -> tuple[Float[Array, "d d"], Bool[Array, " d"]]:
    """Return T with TᵀGT = I, but for zero columns where G is not definite, and which are none; by elimination."""
    width = len(gramian)
    index, diagonal = jnp.arange(width), jnp.diagonal(gramian)
    least = 100 * width * jnp.finfo(gramian.dtype).eps * diagonal

    def eliminate(step, rows):
        pivot = rows[step, step]
        own = pivot > least[step]
        factors = jnp.where((index > step) & own, rows[:, step] / jnp.where(own, pivot, 1), 0)
        return keep(rows - factors[:, None] * rows[step])

    both = jnp.concatenate([gramian, jnp.eye(width, dtype=gramian.dtype)], axis=1)
    rows = _loop(width, eliminate, both, rows=width)
    pivots = jnp.diagonal(rows[:, :width])
    own = pivots > least
    return keep(rows[:, width:].T * jnp.where(own, 1 / jnp.sqrt(jnp.where(own, pivots, 1)), 0)), own


@jax.jit
def beyond(basis: Float[Array, "m r"], matrix: Float[Array, "m d"]) -> Float[Array, "k d"]:
    """Return the m − r coordinates of a matrix off the span of an orthonormal basis, in an orthonormal frame there."""
    reflectors, _ = _reflect(basis)
    rank = basis.shape[1]

    def apply(step, X):
        v = reflectors[:, step]
        return X - 2 * v[:, None] * times(v[None, :], X)

    return _loop(rank, apply, matrix, rows=len(matrix))[rank:]


def _reflect(matrix: Float[Array, "k d"]) -> tuple[Float[Array, "k p"], Float[Array, "p d"]]:
    """Return unit Householder vectors (zero where there is nothing to reflect) and the triangle, its diagonal ≥ 0."""
    rows, columns = matrix.shape
    count = min(rows, columns)
    if count == 0:
        return jnp.zeros((rows, 0), matrix.dtype), matrix[:0]
    index = jnp.arange(rows)

    def reflect(step, carry):
        vectors, X = carry
        below = jnp.where(index > step, X[:, step], 0)
        rest, first = jnp.sum(below**2), X[step, step]
        norm = _root(rest + first**2)
        # first − norm cancels where the column already points along its diagonal entry.
        head = jnp.where(first > 0, -rest / jnp.where(first > 0, first + norm, 1), first - norm)
        length = _root(rest + head**2)
        v = keep(jnp.where(index == step, head, below) / jnp.where(length > 0, length, 1))
        X = keep(X - 2 * v[:, None] * times(v[None, :], X))
        return jnp.where(jnp.arange(count) == step, v[:, None], vectors), X

    vectors, X = _loop(count, reflect, (jnp.zeros((rows, count), matrix.dtype), matrix), rows=rows)
    return vectors, jnp.triu(X[:count])


def _root(square: Array) -> Array:
    """Return the square root, with derivative 0 at 0."""
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), jnp.where(square == 0, 0, jnp.nan))


def _loop(count: int, body: Callable, carry: Any, *, rows: int) -> Any:
    """Run body(step, carry) for every step; unrolled where the arrays are small, so that steps fuse."""
    if count > _WRITTEN_OUT or (count > 0 and is_long(rows)):
        return lax.fori_loop(0, count, body, carry)
    for step in range(count):
        carry = body(step, carry)
    return carry


@jax.jit
def svd(matrix: Float[Array, "m n"]) -> tuple[Float[Array, "m k"], Float[Array, " k"], Float[Array, "n k"]]:
    """Return P, s, Q with P diag(s) Qᵀ = matrix, s largest first; one-sided Jacobi (Hestenes 1958).

    Small singular values keep their relative precision. Columns of P that belong to a zero value are zero.
    """
    if matrix.shape[0] < matrix.shape[1]:
        right, values, left = svd(matrix.T)
        return left, values, right
    width = matrix.shape[1]
    half = (width + 1) // 2
    padded = jnp.pad(matrix, ((0, 0), (0, 2 * half - width)))
    order = _tournament(half)

    def rotate(_, carry):
        X, Z = carry
        a, b = X[:, :half], X[:, half:]
        c, s = _angles(jnp.sum(a * a, axis=0), jnp.sum(b * b, axis=0), jnp.sum(a * b, axis=0))
        turned = (
            jnp.concatenate([c * y[:, :half] - s * y[:, half:], s * y[:, :half] + c * y[:, half:]], axis=1)
            for y in (X, Z)
        )
        return tuple(y[:, order] for y in turned)

    start = (padded, jnp.eye(2 * half, dtype=matrix.dtype))
    X, Z = lax.fori_loop(0, _rounds(width), rotate, start)
    values = _root(jnp.sum(X**2, axis=0))  # a padded column is zero, where a root has no slope
    largest = jnp.argsort(-values)[:width]
    values = values[largest]
    left = X[:, largest] / jnp.where(values > 0, values, 1)
    return left, values, Z[:width, largest]


@jax.jit
def singular_values(matrix: Float[Array, "m n"]) -> Float[Array, " k"]:
    """Return the singular values alone, largest first, as `svd` does and many times as fast for few columns.

    Every rotation leaves the longer column of a pair in front (de Rijk 1989). Then five sweeps are enough, where badly
    graded columns would otherwise take as many as there are columns and two, and nothing is left to sort.
    """
    if matrix.shape[0] < matrix.shape[1]:
        return singular_values(matrix.T)
    width = matrix.shape[1]
    pairs = list(combinations(range(width), 2))
    if len(pairs) > _PAIRS:
        return svd(matrix)[1]

    def sweep(_, columns):
        columns = list(columns)
        for i, j in pairs:
            x, y = columns[i], columns[j]
            alpha, beta, gamma = keep((_product(x, x), _product(y, y), _product(x, y)))
            c, s = _angles(alpha, beta, gamma)
            c, s = jnp.where(alpha < beta, s, c), jnp.where(alpha < beta, -c, s)
            columns[i], columns[j] = keep((c * x - s * y, s * x + c * y))
        return tuple(columns)

    columns = lax.fori_loop(0, min(2 * (width - 1), 5), sweep, tuple(matrix[:, k] for k in range(width)))
    squares = [_product(x, x) for x in columns]
    return jnp.sqrt(jnp.stack(squares)) if squares else jnp.zeros(0, matrix.dtype)


def _product(x: Float[Array, " k"], y: Float[Array, " k"]) -> Float[Array, ""]:
    return cross(x[:, None], y[:, None])[0, 0]


@jax.jit
def eigenvalues(matrix: Float[Array, "d d"]) -> Float[Array, " d"]:
    """Return the eigenvalues of a symmetric matrix, smallest first; two-sided Jacobi."""
    width = len(matrix)
    half = (width + 1) // 2
    # A padded index has no off-diagonal entry, so it is never rotated; inf would spoil products, so its place marks it.
    padded = jnp.pad(matrix, (0, 2 * half - width))
    order = _tournament(half)

    def rotate(_, carry):
        A, place = carry
        diagonal = jnp.diagonal(A)
        c, s = _angles(diagonal[:half], diagonal[half:], jnp.diagonal(A[:half, half:]))
        J = jnp.block([[jnp.diag(c), jnp.diag(s)], [-jnp.diag(s), jnp.diag(c)]])
        return (J.T @ A @ J)[order][:, order], place[order]

    A, place = lax.fori_loop(0, _rounds(width), rotate, (padded, jnp.arange(2 * half)))
    values = jnp.where(place < width, jnp.diagonal(A), jnp.inf)
    return jnp.sort(values)[:width]


@jax.jit
def largest_eigenvalue(gram: Float[Array, "d d"]) -> Float[Array, ""]:
    """Return λ_max of a symmetric positive semidefinite matrix, by repeated squaring; 0 for a zero matrix.

    With G₀ the matrix and G_{k+1} = (G_k/‖G_k‖_F)², log λ_max = Σ_k 2^{-k}·log‖G_k‖_F: after k squarings the error is
    below log(d)/2^k, and the rounding error of each is weighted by 2^{-k}. This takes only matrix products; all the
    eigenvalues of wide factors would take thousands of rotations.
    """
    count = jnp.finfo(gram.dtype).nmant

    def square(k, carry):
        power, logarithm = carry
        norm = jnp.sqrt(jnp.sum(power**2))
        scaled = power / jnp.where(norm == 0, 1, norm)
        return scaled @ scaled, logarithm + jnp.log(norm) * 0.5 ** k.astype(gram.dtype)

    return jnp.exp(lax.fori_loop(0, count, square, (gram, jnp.zeros((), gram.dtype)))[1])


@jax.custom_jvp
def inverse(gram: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Return the inverse of a symmetric positive definite matrix, by Gauss-Jordan; NaN where it is not definite.

    Its derivative is −G⁻¹ dG G⁻¹: that of the elimination would be longer than the elimination, and as exact.
    """
    index = jnp.arange(len(gram))

    def eliminate(step, A):
        row, column = index[:, None] == step, index == step
        pivot = A[step, step]
        scaled = A[step] * jnp.where(pivot > 0, 1 / pivot, jnp.nan)
        crossed = jnp.where(column, jnp.where(pivot > 0, 1 / pivot, jnp.nan), scaled)
        ahead = jnp.where(column, 0, A)
        return keep(jnp.where(row, crossed, ahead - A[:, step][:, None] * crossed))

    return _loop(len(gram), eliminate, gram, rows=len(gram))


@inverse.defjvp
def _(primals, tangents):
    found = keep(inverse(*primals))
    return found, -product(product(found, tangents[0]), found)


def _angles(alpha: Array, beta: Array, gamma: Array) -> tuple[Array, Array]:
    """Return the cosine and sine that make pairs with squares alpha, beta and product gamma orthogonal."""
    turn = jnp.abs(gamma) > jnp.finfo(gamma.dtype).tiny
    zeta = (beta - alpha) / (2 * jnp.where(turn, gamma, 1))
    tangent = jnp.where(zeta < 0, -1, 1) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2))
    tangent = jnp.where(turn, tangent, 0)
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    return cosine, cosine * tangent


def _rounds(width: int) -> int:
    """Return how many rounds of rotations diagonalise: 2 + width sweeps suffice even for badly graded matrices."""
    return (2 + width) * (2 * ((width + 1) // 2) - 1)


def _tournament(half: int) -> np.ndarray:
    """Return the permutation between rounds, in each of which i meets i + half: all pairs meet in 2·half − 1 rounds."""
    top, bottom = list(range(half)), list(range(half, 2 * half))
    if half > 1:
        top, bottom = [top[0], bottom[0], *top[1:-1]], [*bottom[1:], top[-1]]
    return np.asarray(top + bottom)
