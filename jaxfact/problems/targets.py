"""What a target may be: checks of matrices and spectra, and their decomposition."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from jaxfact.choices import Absent
from jaxfact.data.arrays import LARGEST, dense
from jaxfact.data.numbers import as_array, times_power
from jaxfact.inputs import problem_with
from jaxfact.numerics.decompositions import svd


class Unit(eqx.Module):
    """What a problem's numbers are divided by: `fraction`·2^`exponent`, the exponent 0 where the dtype holds the unit.

    Elsewhere, as for entries of 1e39 or 1e-170 in single precision, only numbers in this unit are ever cast.
    """

    fraction: Float[Array, ""]
    exponent: int = eqx.field(static=True, default=0)

    @classmethod
    def of(cls, value: Any, exponent: int, dtype: Any, name: str) -> "Unit":
        """Return value·2^exponent; a traced value has no exponent. Raises ValueError where float64 cannot hold it."""
        if isinstance(value, Tracer):
            return cls(value.astype(dtype), exponent)
        value, limits = float(value), jnp.finfo(dtype)
        with np.errstate(over="ignore"):
            whole = float(np.ldexp(value, exponent))
        if np.isinf(whole):
            decimals, power = math.modf(math.log10(value) + exponent * math.log10(2))
            given = f"entries whose unit ({name}) is {10**decimals:.4g}e+{int(power)}"
            needed = f"lies beyond double precision, which ends at {np.finfo(float).max:.3g}"
            raise problem_with("target", given, needed, "divide them by a number of their size")
        if float(limits.tiny) <= whole <= float(limits.max):
            return cls(cast(whole, dtype))
        fraction, power = np.frexp(value)
        return cls(cast(fraction, dtype), int(power) + exponent)

    def in_dtype(self, dtype: Any, name: str) -> "Unit":
        """Return the unit as another dtype holds it."""
        return Unit.of(self.fraction, self.exponent, dtype, name)

    @property
    def value(self) -> Float[Array, ""] | np.float64:
        """The unit: an array in the problem's dtype, or a double where that cannot hold it."""
        if self.exponent == 0:
            return self.fraction
        if isinstance(self.fraction, Tracer):
            return jnp.ldexp(self.fraction, self.exponent)
        return np.ldexp(np.float64(self.fraction), self.exponent)


def cast(numbers: Any, dtype: Any) -> Array:
    """Return numbers in a dtype; NumPy casts its own, for which JAX would compile a program for every shape."""
    return jnp.asarray(numbers if isinstance(numbers, Array) else np.asarray(numbers, dtype), dtype)


def as_target(target: Any) -> np.ndarray | Array:
    """Return a target in float64 or float32; refuse one that is empty, not numeric, complex or not finite."""
    if isinstance(target, Tracer):
        if not jnp.issubdtype(target.dtype, jnp.number) or jnp.issubdtype(target.dtype, jnp.complexfloating):
            given = f"array of shape {target.shape} and dtype {target.dtype}"
            raise problem_with("target", given, "needs real numbers", "take the real part or the modulus first")
        return target
    if scipy.sparse.issparse(target):
        array = dense(target, "target", Absent.ZERO, LARGEST, "give its entries to a Completion")
    else:
        array = as_array(target, "target")
    if array.ndim == 2 and array.size == 0:
        given = f"array of shape {array.shape}"
        raise problem_with("target", given, "needs at least one entry", "give a matrix with rows and columns")
    missing = int(np.sum(~np.isfinite(array)))
    if missing:
        raise problem_with(
            "target",
            f"array with {missing} masked, NaN or infinite entries",
            "a factorisation needs every entry",
            "fill or drop them: missing entries are the job of matrix completion",
        )
    return array


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
        array = as_array(basis, name)
        given = f"array of shape {array.shape}"
        if array.shape != (size, rank):
            raise problem_with(name, given, f"needs shape {(size, rank)}", "give one column per singular value")
        if np.abs(array.T @ array - np.eye(rank)).max(initial=0) > 1e-5:
            raise problem_with(
                name, given, "needs orthonormal columns", "take them from a singular value decomposition"
            )


def without_zeros(
    values: np.ndarray, left: ArrayLike | None, right: ArrayLike | None, dtype: Any
) -> tuple[np.ndarray, Array | None, Array | None]:
    """Drop the singular values that are zero in this dtype: the rank decides which form of the distance is exact."""
    rank = int(np.sum(values > float(jnp.finfo(dtype).tiny) * values.max(initial=0)))
    first, second = (None if basis is None else jnp.asarray(basis)[:, :rank] for basis in (left, right))
    return values[:rank], first, second


def decompose(matrix: np.ndarray | Array, exponent: int) -> tuple[np.ndarray | Array, ...]:
    """Return P, s, Q with P diag(s) Qᵀ = 2^−exponent·matrix; on the host in float64 unless the matrix is traced."""
    if isinstance(matrix, Tracer):
        return svd(matrix)
    given = np.asarray(matrix)
    left, values, right = np.linalg.svd(times_power(given, -exponent), full_matrices=False)
    rank = int(np.sum(values > max(given.shape) * np.finfo(given.dtype).eps * values[0]))
    return left[:, :rank], values[:rank], right[:rank].T
