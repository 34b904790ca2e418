"""Random targets."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, PRNGKeyArray

from jaxfact.numerics.decompositions import qr
from jaxfact.numerics.draws import fold, normal
from jaxfact.problems.factorization import Factorization


def random_target(key: PRNGKeyArray, shape: tuple[int, int], values: ArrayLike) -> Factorization:
    """Return the matrix P diag(values) Qᵀ with P and Q from the Haar measure, as a fully observed problem.

    `values` are its singular values, largest first, and give the dtype; both they and `key` may be traced. Columns of
    Gaussian matrices are orthonormalised with positive diagonals, which makes them Haar (Stewart 1980). Completion
    needs such a target: a diagonal one hides everything in a few entries.

    Raises ValueError for values that are negative, unsorted or more than min(m, n) in number.
    """
    if not isinstance(values, jax.Array):
        values = np.asarray(values)  # a JAX array made inside a run would count as traced
    floating = values.dtype if jnp.issubdtype(values.dtype, jnp.floating) else float
    dtype = jax.dtypes.canonicalize_dtype(floating)
    left, right = (qr(normal(fold(key, side), (size, len(values)), dtype))[0] for side, size in enumerate(shape))
    return Factorization(values, shape=shape, left=left, right=right)
