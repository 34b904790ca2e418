"""What single entries say: held-out errors, and how evenly a product is spread over rows and columns."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxfact.data.observed import checked_entries, numbered
from jaxfact.inputs import problem_with
from jaxfact.measures.base import Label, measure
from jaxfact.numerics.decompositions import qr
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, as_pair


class HeldOut(eqx.Module):
    """A record: the root mean square error on entries that a run does not see, in the user's unit.

    ‖P_Λ(UVᵀ·unit) − y‖₂/√|Λ|; `rows`, `columns` and `values` list Λ, counted from 0, the values in the user's unit. In
    a list of records it is called "held_out"; give a mapping where there are several. Divided by `scale`, the root
    mean square of the values, it is the relative error.

    Raises ValueError for what `Completion` refuses too, and, when called, for places outside the matrix.
    """

    rows: Int[Array, " k"]
    columns: Int[Array, " k"]
    values: Float[Array, " k"]
    least_shape: tuple[int, int] = eqx.field(static=True)
    exponent: int = eqx.field(static=True)

    __name__ = "held_out"
    labels: ClassVar[dict[str, Label]] = {
        "": Label(
            "root mean square error on held-out entries",
            "unit of the matrix",
            r"$\|P_\Lambda(UV^\top)-y\|_2 \,/\, \sqrt{|\Lambda|}$",
        )
    }

    def __init__(self, rows: ArrayLike, columns: ArrayLike, values: ArrayLike):
        sizes = [int(np.max(numbers, initial=0)) + 1 for numbers in (numbered(rows), numbered(columns))]
        self.least_shape = (sizes[0], sizes[1])
        entries = checked_entries(rows, columns, values, self.least_shape)
        self.rows, self.columns = (jnp.asarray(numbers, jnp.int32) for numbers in entries[:2])
        dtype = jax.dtypes.canonicalize_dtype(entries.values.dtype)
        self.exponent = _exponent(entries.values, dtype)
        self.values = jnp.asarray(np.ldexp(entries.values, -self.exponent), dtype)

    @property
    def scale(self) -> Float[Array, ""]:
        """The root mean square of the values."""
        return self.size * jnp.sqrt(jnp.mean(self.values**2))

    @property
    def size(self) -> Float[Array, ""]:
        """The power of two by which the values are divided, so that no square over- or underflows."""
        return jnp.asarray(2.0**self.exponent, self.values.dtype)

    def __call__(self, problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
        """Return the error of a product."""
        U, V = as_pair(factors)
        if len(U) < self.least_shape[0] or len(V) < self.least_shape[1]:
            given = f"entries of a matrix of at least {self.least_shape}"
            raise problem_with("held out", given, f"the factors make {(len(U), len(V))}", "use entries of this problem")
        size = self.size.astype(U.dtype)
        predicted = problem.unit / size * jnp.sum(U[self.rows] * V[self.columns], axis=1)
        return size * jnp.sqrt(jnp.mean((predicted - self.values.astype(predicted.dtype)) ** 2))


@measure(text="incoherence", unit="1", latex=r"$\mu$")
def incoherence(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return µ = max(m·max_i ‖P_U e_i‖², n·max_j ‖P_V e_j‖²)/d, from 1 (all rows alike) to max(m, n)/d.

    P_U and P_V project onto the columns of the factors (Candès & Recht 2009), which are those of the
    product where both have full rank d ≤ min(m, n). That of the truth is incoherence(problem, truth.truncation(r)).
    """
    return jnp.max(jnp.stack([_leverage(factor) for factor in as_pair(factors)]))


@measure(text="√n·‖x‖_∞/‖x‖₂", unit="1", latex=r"$\sqrt{n}\,\|x\|_\infty \,/\, \|x\|_2$")
def spread(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return √n·‖x‖_∞/‖x‖₂ of factors of one column, the larger of the two: from 1 (all entries alike) to √n.

    It stays O(√log n) along descent from a small start (Kim & Chung 2023). Raises ValueError for other widths.
    """
    if factors.width != 1:
        raise problem_with("factors", f"of width {factors.width}", "needs one column", "record incoherence instead")
    ratios = [len(x) ** 0.5 * jnp.max(jnp.abs(x)) / jnp.linalg.norm(x) for x in as_pair(factors)]
    return jnp.max(jnp.stack(ratios))


def _exponent(values: Float[np.ndarray, " k"], dtype: Any) -> int:
    """Return the e with 2^e ≤ max |y| < 2^(e+1); refuse values that records of this dtype cannot be in."""
    largest, limits = float(np.max(np.abs(values))), np.finfo(dtype)
    if largest > float(limits.max) or 0 < largest < float(limits.tiny):
        given, needed = f"numbers up to {largest:.3g}", f"{dtype} records go from {limits.tiny:.1e} to {limits.max:.1e}"
        raise problem_with(
            "values", given, needed, "divide the matrix by a number of their size, or compute in float64"
        )
    return int(np.frexp(largest)[1]) - 1


def _leverage(factor: Float[Array, "k d"]) -> Float[Array, ""]:
    basis = qr(factor)[0]
    return len(factor) / basis.shape[1] * jnp.max(jnp.sum(basis**2, axis=1))
