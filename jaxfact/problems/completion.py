"""Matrix completion: the entries of a low-rank matrix from some of them."""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, ScalarLike

from jaxfact.data.numbers import centred_exponent, times_power
from jaxfact.data.observed import checked_entries, entries_of
from jaxfact.inputs import explained, non_negative, problem_with, sizes
from jaxfact.numerics.draws import fold, normal, uniform
from jaxfact.numerics.products import keep
from jaxfact.problems.entries import DenseEntries, Observed, SparseEntries
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.partial import PartiallyObserved
from jaxfact.problems.targets import Unit

# Measured on two CPU cores in float32, with half of the entries observed: the dense form is ahead for wide factors
# (300×300 at width 20: 1.5 times) and large matrices (1000×1000 at width 5: 1 to 1.6 times), the sparse one for narrow
# factors of small matrices (300×300 at width 5: 2 to 3 times), where `dense=False` pays. The sparse form's work grows
# with the number of entries: with few of them it is far ahead.
_DENSE_FROM = 0.4
_NAMED = 5
_CALLER = 6  # a check of the arguments and Equinox put three frames between a constructor and its caller


class Completion(PartiallyObserved):
    """Complete a matrix of which the entries Ω are known: loss 1/(2p)·‖P_Ω(UVᵀ − Σ)‖²_F, p = |Ω|/(mn).

    `from_matrix` takes a matrix with gaps, `of` observes entries of a known one at random.

    `rows`, `columns` and `values` list the observed entries, counted from 0, each once and in any order; `shape` is
    (m, n). `truth` is the whole matrix where it is known: then the unit is its σ₁ and `distance` is to it; else the
    unit is ‖P_Ω(Σ)/p‖₂. Values are given in the user's unit and divided by this one; the loss is in unit². With all
    entries observed it is that of the factorisation. Values may be traced, to be differentiated: the unit is a function
    of them too, and is not differentiable where the largest singular value is not simple.

    `dense` chooses how it is evaluated: by a mask and m×n products, or with work in proportion to the entries. By
    default it is dense where at least 0.4 of the entries are observed.

    Warns of rows and columns without an entry, which cannot be completed, and of fewer entries than the r(m + n − r)
    degrees of freedom of the truth.

    Raises ValueError for entries that are repeated, out of range or not finite, for no entries at all, for arrays of
    different lengths, and for a truth of another shape.

    The factor 1/p makes the expected loss that of the factorisation (Ma & Fattahi 2024).
    """

    truth: Factorization | None
    scale: Unit
    fraction: Float[Array, ""]
    observed: DenseEntries | SparseEntries
    shape: tuple[int, int] = eqx.field(static=True)  # pyright: ignore[reportIncompatibleVariableOverride]

    @explained
    def __init__(
        self,
        rows: ArrayLike,
        columns: ArrayLike,
        values: ArrayLike,
        shape: tuple[int, int],
        *,
        truth: Factorization | None = None,
        dense: bool | None = None,
    ):
        if any(isinstance(x, Tracer) for x in (rows, columns)):
            instead = "only values may be traced; an experiment draws a mask with Completion.of"
            raise problem_with("rows, columns", "traced arrays", "needs plain arrays", instead)
        shape = sizes(shape)
        entries = checked_entries(rows, columns, values, shape)
        _check_truth(truth, shape)
        _warn_of_gaps(entries, shape, truth)
        share = len(entries.values) / (shape[0] * shape[1])
        dtype = jax.dtypes.canonicalize_dtype(entries.values.dtype) if truth is None else truth.dtype
        values, self.scale = _in_unit(entries, shape, dtype, truth)
        layout = DenseEntries if (share >= _DENSE_FROM if dense is None else dense) else SparseEntries
        self.truth, self.shape = truth, shape
        self.fraction = jnp.asarray(share, dtype)
        self.observed = layout.of(entries._replace(values=values), shape, dtype)

    @classmethod
    def from_matrix(cls, matrix: Any, *, truth: Factorization | None = None, dense: bool | None = None) -> "Completion":
        """Return the problem of an m×n matrix whose missing entries are NaN, masked or absent.

        A matrix may be what `Factorization` takes, and None or pandas' NA mark missing entries too. Of SciPy's sparse
        arrays only the stored entries are observed, zeros among them, and no m×n array is made. Raises ValueError for
        anything else, infinite entries, and an entry that is stored twice.
        """
        entries, shape = entries_of(matrix)
        return cls(*entries, shape, truth=truth, dense=dense)

    @classmethod
    @explained
    def of(
        cls,
        truth: Factorization,
        fraction: ScalarLike,
        key: PRNGKeyArray,
        *,
        noise: ScalarLike = 0.0,
        dense: bool | None = None,
    ) -> "Completion":
        """Return the problem in which each entry of `truth` is observed with probability `fraction`, independently.

        `noise` is the standard deviation of what is added to each observed entry, in σ₁. Fraction, key and truth may be
        traced, so that every run has its own mask and the fraction can be an axis of a sweep; the evaluation is then
        dense, and nothing warns.

        Raises ValueError for a fraction outside (0, 1], a negative noise, and whatever the problem itself refuses.
        """
        if not isinstance(fraction, Tracer) and not 0 < np.asarray(fraction) <= 1:
            raise problem_with("fraction", f"{fraction:g}", "needs a number above 0, up to 1", "1 observes all")
        non_negative("noise", noise, "0 observes the entries as they are")
        dtype = truth.dtype
        mask = uniform(fold(key, 0), truth.rows, dtype) < fraction
        matrix = truth.target + jnp.asarray(noise, dtype) * normal(fold(key, 1), truth.rows, dtype)
        if any(isinstance(x, Tracer) for x in (mask, matrix)):
            if dense is False:
                given = "False for a mask that is drawn anew in every run"
                raise problem_with("dense", given, "needs tables made beforehand", "draw it outside the experiment")
            return _Drawn(truth, mask, matrix)
        rows, columns = np.nonzero(np.asarray(mask))
        values = np.asarray(matrix, float)[rows, columns] * float(truth.unit)
        return cls(rows, columns, values, truth.rows, truth=truth, dense=dense)

    @property
    def unit(self) -> Float[Array, ""]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """σ₁ of the truth, or ‖P_Ω(Σ)/p‖₂; a NumPy double where the dtype cannot hold it."""
        return self.scale.value  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> Any:
        """The dtype of the factors."""
        return self.fraction.dtype

    @property
    def entries(self) -> Observed:
        """The observed entries, row by row, in the user's unit."""
        found = self.observed.entries
        return found._replace(values=found.values * np.asarray(self.unit))

    @property
    def summary(self) -> str:
        """How much of the matrix is seen, in a few words."""
        return f"{float(100 * self.fraction):.3g} % of its entries observed"

    @property
    def is_dense(self) -> bool:
        """Whether a mask is used."""
        return isinstance(self.observed, DenseEntries)

    def loss(self, factors: Factors) -> Float[Array, ""]:
        """Return 1/(2p)·‖P_Ω(UVᵀ − Σ)‖²_F, in unit², from the residual."""
        return self.observed.squared(self.observed.residual(factors)) / (2 * self.fraction)

    def gradient(self, factors: Factors) -> Factors:
        """Return (1/p)·P_Ω(UVᵀ − Σ)V and (1/p)·P_Ω(UVᵀ − Σ)ᵀU."""
        residual = keep(self.observed.residual(factors) / self.fraction)
        return self.observed.pulled(residual, factors)

    def misfit(self, factors: Factors) -> Float[Array, ""]:
        """Return ‖P_Ω(UVᵀ − Σ)‖_F/‖P_Ω(Σ)‖_F, not squared; absolute where the data are zero."""
        norm = jnp.sqrt(self.observed.squared(self.observed.values))
        return jnp.sqrt(self.observed.squared(self.observed.residual(factors))) / jnp.where(norm > 0, norm, 1)

    def back_projection(self) -> Float[Array, "m n"]:
        """Return P_Ω(Σ)/p, in unit."""
        return self.observed.matrix / self.fraction


class _Drawn(Completion):
    """A problem whose mask is drawn inside a run."""

    def __init__(self, truth: Factorization, mask: Array, matrix: Array):
        dtype = truth.dtype
        kept = mask.astype(dtype)
        count = jnp.sum(jnp.sum(kept, axis=1))
        self.truth, self.scale, self.shape = truth, truth.scale, truth.rows
        # A run without any observed entry has loss and gradient 0.
        self.fraction = jnp.maximum(count, 1) / kept.size
        self.observed = DenseEntries(kept, kept * matrix)


def _in_unit(
    entries: Observed, shape: tuple[int, int], dtype: Any, truth: Factorization | None
) -> tuple[Float[np.ndarray | Array, " k"], Unit]:
    """Return the values in the problem's unit, and that unit; in float64, so that none is lost before it is divided."""
    if truth is not None:
        unit = truth.unit if isinstance(entries.values, Tracer) else np.float64(truth.unit)
        return entries.values / unit, truth.scale
    if isinstance(entries.values, Tracer):
        seen = jnp.zeros(shape, dtype).at[entries.rows, entries.columns].set(entries.values)
        unit = jnp.linalg.norm(seen, 2) * (seen.size / len(entries.values))
        return entries.values / unit, Unit.of(unit, 0, dtype, "‖P_Ω(Σ)/p‖₂")
    exponent = centred_exponent(entries.values)
    values = times_power(entries.values, -exponent)
    share = len(values) / (shape[0] * shape[1])
    unit = spectral_norm(entries._replace(values=values), shape) / share
    return values / unit, Unit.of(unit, exponent, dtype, "‖P_Ω(Σ)/p‖₂")


def spectral_norm(entries: Observed, shape: tuple[int, int]) -> float:
    """Return ‖P_Ω(Σ)‖₂, 1 where it is zero."""
    values = np.asarray(entries.values, float)
    if not values.any():
        return 1.0
    matrix = scipy.sparse.csr_matrix((values, (entries.rows, entries.columns)), shape)
    if min(shape) < 3:
        return float(np.linalg.norm(matrix.toarray(), 2))
    begin = np.random.default_rng(0).normal(size=min(shape))
    values = scipy.sparse.linalg.svds(matrix, 1, v0=begin, return_singular_vectors=False)
    return float(np.max(np.asarray(values)))


def _check_truth(truth: Factorization | None, shape: tuple[int, int]) -> None:
    if truth is not None and truth.rows != shape:
        given = f"a matrix of shape {truth.rows}"
        raise problem_with("truth", given, f"needs the shape of the problem, {shape}", "give the whole matrix, or none")


def _warn_of_gaps(entries: Observed, shape: tuple[int, int], truth: Factorization | None) -> None:
    """Warn of rows and columns about which nothing is known, and of too few entries for the truth."""
    for name, numbers, size in (("rows", entries.rows, shape[0]), ("columns", entries.columns, shape[1])):
        empty = np.flatnonzero(np.bincount(numbers, minlength=size) == 0)
        if len(empty):
            first = ", ".join(map(str, empty[:_NAMED])) + (", …" if len(empty) > _NAMED else "")
            told = f"{len(empty)} of {size} {name} have no observed entry and cannot be completed: {first}"
            warnings.warn(told, stacklevel=_CALLER)
    if truth is not None:
        freedom, count = truth.rank * (sum(shape) - truth.rank), len(entries.values)
        if count < freedom:
            told = f"{count} observed entries are fewer than the r(m+n−r) = {freedom} numbers that make up the truth"
            warnings.warn(told, stacklevel=_CALLER)
