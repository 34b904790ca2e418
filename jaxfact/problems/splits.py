"""Completion with some known entries held out: many splits of one matrix, in one layout and one compiled program."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, ScalarLike

from jaxfact.problems.completion import Completion, spectral_norm
from jaxfact.problems.entries import DenseEntries, Observed, SparseEntries
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.targets import Unit

TRAINING, VALIDATION, TEST = range(3)
_PADDING = -1  # of the layout's last entry, which counts for nothing


class Part(NamedTuple):
    """One split: the values of all entries, in the user's unit and centred by its training entries, and their parts."""

    values: Float[np.ndarray, " k"]
    parts: Int[np.ndarray, " k"]


class Split(Completion):
    """A completion problem that sees the training entries and can tell its error on the others.

    The training entries are those of the layout that count; the unit is theirs. Fields may be traced.
    """

    values: Float[Array, " k"]
    part: Int[Array, " k"]

    def __init__(self, layout: SparseEntries, unit: Array, values: Array, part: Array):
        counted = (part == TRAINING).astype(values.dtype)
        self.truth: Factorization | None = None
        self.shape: tuple[int, int] = layout.shape
        self.scale: Unit = Unit(unit)
        # Every split has the same number of training entries, but beyond 2²⁴ the sum is exact only in integers.
        count = jnp.sum(part == TRAINING).astype(values.dtype)
        self.fraction: Float[Array, ""] = count / (layout.shape[0] * layout.shape[1])
        self.observed: DenseEntries | SparseEntries = _with(layout, counted * values, counted)
        self.values, self.part = values, part

    @property
    def summary(self) -> str:
        """How much of the matrix is seen, in a few words."""
        return "the training entries of a split"

    def error(self, part: int, factors: Factors) -> Float[Array, ""]:
        """Return the root mean square error on the entries of a part, in the user's unit."""
        counted = (self.part == part).astype(self.values.dtype)
        entries = _with(self.observed, self.values, counted)  # pyright: ignore[reportArgumentType]
        count = jnp.sum(self.part == part).astype(self.values.dtype)
        return self.unit * jnp.sqrt(entries.squared(entries.residual(factors)) / count)


class Splits(eqx.Module):
    """Several splits of the same entries. The tables of their sums are those of all entries, and shared.

    A split with its own tables would need its own program, which takes longer to compile than to run.
    """

    layout: SparseEntries
    units: Float[Array, " split"]
    values: Float[Array, "split k"]
    parts: Int[Array, "split k"]

    def __init__(self, entries: Observed, shape: tuple[int, int], splits: Sequence[Part], dtype: Any):
        order = np.lexsort((entries.columns, entries.rows))
        self.layout = SparseEntries.of(entries, shape, dtype)
        units = [_unit(entries, shape, split) for split in splits]
        scaled = [np.append(split.values[order] / unit, 0) for split, unit in zip(splits, units, strict=True)]
        parts = [np.append(split.parts[order], _PADDING) for split in splits]
        self.units, self.values = jnp.asarray(units, dtype), jnp.asarray(np.stack(scaled), dtype)
        self.parts = jnp.asarray(np.stack(parts), jnp.int8)

    def at(self, number: ScalarLike) -> Split:
        """Return a split by its number, from 0; it may be an axis of a sweep."""
        number = jnp.asarray(number, jnp.int32)
        return Split(self.layout, self.units[number], self.values[number], self.parts[number])


def _unit(entries: Observed, shape: tuple[int, int], split: Part) -> float:
    """Return ‖P_Ω(Σ)/p‖₂ of the training entries Ω."""
    seen = split.parts == TRAINING
    kept = Observed(entries.rows[seen], entries.columns[seen], split.values[seen])
    return spectral_norm(kept, shape) * shape[0] * shape[1] / np.sum(seen)


def _with(entries: SparseEntries, values: Array, counted: Array) -> SparseEntries:
    return eqx.tree_at(lambda found: (found.values, found.counted), entries, (values, counted))
