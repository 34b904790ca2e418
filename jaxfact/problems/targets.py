"""What a target may be: checks of matrices and spectra, and their decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from jaxfact.inputs import problem_with
from jaxfact.numerics.decompositions import svd


def check_numbers(target: ArrayLike) -> None:
    """Refuse a target that is empty, not numeric, complex or not finite."""
    array = target if isinstance(target, jax.Array) else np.asarray(target)
    given = f"array of shape {array.shape} and dtype {array.dtype}"
    if array.ndim == 2 and array.size == 0:
        raise problem_with("target", given, "needs at least one entry", "give a matrix with rows and columns")
    if array.dtype.kind == "c":
        raise problem_with("target", given, "needs real numbers", "take the real part or the modulus first")
    if array.dtype.kind not in "iubf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise problem_with("target", given, "needs numbers", "convert the array to a floating dtype first")
    if isinstance(array, Tracer):
        return
    missing = int(np.sum(~np.isfinite(np.asarray(array, float))))
    if missing:
        raise problem_with(
            "target",
            f"array with {missing} NaN or infinite entries",
            "a factorisation needs every entry",
            "fill or drop them: missing entries are the job of matrix completion",
        )


def check_parts(values: np.ndarray | Array, shape: tuple[int, int] | None, left: object, right: object) -> None:
    """Refuse singular values and bases that do not make a matrix of this shape."""
    rank = len(values)
    if shape is None:
        if left is not None or right is not None:
            raise problem_with("left, right", "bases of a traced size", "needs plain sizes", "leave the bases out")
        return
    if min(shape) < max(rank, 1) and not isinstance(values, Tracer):
        raise problem_with("shape", shape, f"needs at least {max(rank, 1)} rows and columns", "give fewer values")
    if (left is None) != (right is None):
        raise problem_with("left, right", "only one of them", "needs both or none", "give the other basis too")
    if isinstance(values, Tracer):
        return
    numbers = np.asarray(values, float)
    if np.any(numbers < 0) or np.any(np.diff(numbers) > 0):
        raise problem_with("target", numbers.tolist(), "needs singular values ≥ 0, largest first", "sort them")
    for name, basis, size in (("left", left, shape[0]), ("right", right, shape[1])):
        if basis is None or isinstance(basis, Tracer):
            continue
        array = np.asarray(basis, float)
        given = f"array of shape {array.shape}"
        if array.shape != (size, rank):
            raise problem_with(name, given, f"needs shape {(size, rank)}", "give one column per singular value")
        if np.abs(array.T @ array - np.eye(rank)).max(initial=0) > 1e-5:
            raise problem_with(
                name, given, "needs orthonormal columns", "take them from a singular value decomposition"
            )


def without_zeros(
    values: np.ndarray, left: ArrayLike | None, right: ArrayLike | None
) -> tuple[np.ndarray, Array | None, Array | None]:
    """Drop the singular values that are zero: the rank decides which form of the distance is exact."""
    rank = int(np.sum(values > 0))
    first, second = (None if basis is None else jnp.asarray(basis)[:, :rank] for basis in (left, right))
    return values[:rank], first, second


def decompose(matrix: np.ndarray | Array) -> tuple[np.ndarray | Array, ...]:
    """Return P, s, Q with P diag(s) Qᵀ = matrix; on the host in float64 unless the matrix is traced."""
    if isinstance(matrix, Tracer):
        return svd(matrix)
    given = np.asarray(matrix)
    precision = np.finfo(given.dtype).eps if given.dtype.kind == "f" else np.finfo(float).eps
    left, values, right = np.linalg.svd(given.astype(float), full_matrices=False)
    rank = int(np.sum(values > max(given.shape) * precision * values[0]))
    return left[:, :rank], values[:rank], right[:rank].T
