"""Small dense decompositions as plain JAX loops, without LAPACK.

Inside the engine LAPACK would be called for thousands of tiny matrices from several threads. On a CPU those calls are
slow, print to the terminal where a number is not finite, and have been seen to wait for each other for ever. Here the
program is of constant size, batches like anything else, and lets NaN through.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_SWEEPS = 12  # Jacobi converges quadratically; rotations of a matrix that is already diagonal change nothing


def qr(matrix: Float[Array, "k d"]) -> tuple[Float[Array, "k p"], Float[Array, "p d"]]:
    """Return Q with orthonormal columns and R upper trapezoidal, QR = matrix, p = min(k, d); by Householder."""
    reflectors, R = _reflect(matrix)
    Q = jnp.eye(len(matrix), len(R), dtype=matrix.dtype)

    def apply(step, Q):
        v = reflectors[:, len(R) - 1 - step]
        return Q - 2 * jnp.outer(v, v @ Q)

    return lax.fori_loop(0, len(R), apply, Q), R


def triangle(matrix: Float[Array, "k d"]) -> Float[Array, "p d"]:
    """Return R of QR = matrix alone: the same Gram matrix in min(k, d) rows, with no digit lost."""
    return _reflect(matrix)[1]


def _reflect(matrix: Float[Array, "k d"]) -> tuple[Float[Array, "k p"], Float[Array, "p d"]]:
    """Return unit Householder vectors (zero where there is nothing to reflect) and the triangle."""
    rows, columns = matrix.shape
    count = min(rows, columns)
    if count == 0:
        return jnp.zeros((rows, 0), matrix.dtype), matrix[:0]
    index = jnp.arange(rows)

    def reflect(step, carry):
        vectors, X = carry
        x = jnp.where(index >= step, X[:, step], 0)
        norm = jnp.sqrt(jnp.sum(x**2))
        v = x + jnp.where(index == step, jnp.where(x[step] < 0, -norm, norm), 0)
        length = jnp.sqrt(jnp.sum(v**2))
        v = v / jnp.where(length > 0, length, 1)
        return vectors.at[:, step].set(v), X - 2 * jnp.outer(v, v @ X)

    vectors, X = lax.fori_loop(0, count, reflect, (jnp.zeros((rows, count), matrix.dtype), matrix))
    return vectors, jnp.triu(X[:count])


def svd(matrix: Float[Array, "m n"]) -> tuple[Float[Array, "m k"], Float[Array, " k"], Float[Array, "n k"]]:
    """Return P, s, Q with P diag(s) Qᵀ = matrix, s from the largest; one-sided Jacobi (Hestenes 1958).

    Small singular values keep their relative precision. Columns of P that belong to a zero are zero.
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
    X, Z = lax.fori_loop(0, _SWEEPS * (2 * half - 1), rotate, start)
    values = jnp.sqrt(jnp.sum(X**2, axis=0))
    largest = jnp.argsort(-values)[:width]
    values = values[largest]
    left = X[:, largest] / jnp.where(values > 0, values, 1)
    return left, values, Z[:width, largest]


def eigenvalues(matrix: Float[Array, "d d"]) -> Float[Array, " d"]:
    """Return the eigenvalues of a symmetric matrix, from the smallest; two-sided Jacobi."""
    width = len(matrix)
    half = (width + 1) // 2
    # A padded index has no off-diagonal entry, so it is never turned; inf would spoil products, so it is told by place.
    padded = jnp.pad(matrix, (0, 2 * half - width))
    order = _tournament(half)

    def rotate(_, carry):
        A, place = carry
        diagonal = jnp.diagonal(A)
        c, s = _angles(diagonal[:half], diagonal[half:], jnp.diagonal(A[:half, half:]))
        J = jnp.block([[jnp.diag(c), jnp.diag(s)], [-jnp.diag(s), jnp.diag(c)]])
        return (J.T @ A @ J)[order][:, order], place[order]

    rounds = _SWEEPS * (2 * half - 1)
    A, place = lax.fori_loop(0, rounds, rotate, (padded, jnp.arange(2 * half)))
    values = jnp.where(place < width, jnp.diagonal(A), jnp.inf)
    return jnp.sort(values)[:width]


def solve_right(matrix: Float[Array, "k d"], gram: Float[Array, "d d"]) -> Float[Array, "k d"]:
    """Return matrix·gram⁻¹ for a symmetric positive definite matrix, by Cholesky; NaN where it is not definite."""
    index = jnp.arange(len(gram))

    def eliminate(step, carry):
        L, rest = carry
        column = jnp.where(index >= step, rest[:, step], 0) / jnp.sqrt(rest[step, step])
        return L.at[:, step].set(column), rest - jnp.outer(column, column)

    L, _ = lax.fori_loop(0, len(gram), eliminate, (jnp.zeros_like(gram), gram))

    def forward(step, Y):
        return Y.at[:, step].set((Y[:, step] - Y @ jnp.where(index < step, L[step], 0)) / L[step, step])

    def backward(step, Y):
        at = len(gram) - 1 - step
        return Y.at[:, at].set((Y[:, at] - Y @ jnp.where(index > at, L[:, at], 0)) / L[at, at])

    return lax.fori_loop(0, len(gram), backward, lax.fori_loop(0, len(gram), forward, matrix))


def _angles(alpha: Array, beta: Array, gamma: Array) -> tuple[Array, Array]:
    """Return cosine and sine that make pairs with squares alpha, beta and product gamma orthogonal."""
    turn = jnp.abs(gamma) > jnp.finfo(gamma.dtype).tiny
    zeta = (beta - alpha) / (2 * jnp.where(turn, gamma, 1))
    tangent = jnp.where(zeta < 0, -1, 1) / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2))
    tangent = jnp.where(turn, tangent, 0)
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    return cosine, cosine * tangent


def _tournament(half: int) -> np.ndarray:
    """Return the permutation after which i again meets i + half: all pairs have met after 2·half − 1 rounds."""
    top, bottom = list(range(half)), list(range(half, 2 * half))
    if half > 1:
        top, bottom = [top[0], bottom[0], *top[1:-1]], [*bottom[1:], top[-1]]
    return np.asarray(top + bottom)
