"""Observed entries of a matrix in two layouts: as a mask, or sorted into tables that need no scattered update.

Under `vmap` the runs are innermost in memory, so a row of a factor that is looked up by its number is contiguous
across all runs, and gathers are cheap. Scattered updates are not: on a CPU, XLA does them one by one. So the sums over
the entries of a row or column are written as gathers too.
"""

import operator
from collections.abc import Iterator
from functools import reduce
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxfact.data import Observed
from jaxfact.numerics.products import gram, is_long, keep, times
from jaxfact.problems.factors import Factors

# A sum of k terms is padded to the next of these, which wastes little; longer ones are cut into pieces.
_LENGTHS = np.array([1, 2, 3, 4, 6, 8, 12, 16, 24, 32])
_LONGEST = int(_LENGTHS[-1])


class DenseEntries(eqx.Module):
    """A mask and a matrix that is zero off it: three m×n products per step, whatever is observed."""

    mask: Float[Array, "m n"]
    values: Float[Array, "m n"]

    @classmethod
    def of(cls, observed: Observed, shape: tuple[int, int], dtype: Any) -> "DenseEntries":
        """Lay out entries, whose values are in the problem's unit."""
        mask = np.zeros(shape)
        mask[observed.rows, observed.columns] = 1
        if isinstance(observed.values, Tracer):
            return cls(
                jnp.asarray(mask, dtype),
                jnp.zeros(shape, dtype).at[observed.rows, observed.columns].set(observed.values),
            )
        values = np.zeros(shape)
        values[observed.rows, observed.columns] = observed.values
        return cls(jnp.asarray(mask, dtype), jnp.asarray(values, dtype))

    @property
    def entries(self) -> Observed:
        """The entries, row by row, in the problem's unit."""
        rows, columns = np.nonzero(np.asarray(self.mask))
        return Observed(rows, columns, np.asarray(self.values)[rows, columns])

    @property
    def matrix(self) -> Float[Array, "m n"]:
        """P_Ω(Σ)."""
        return self.values

    def residual(self, factors: Factors) -> Float[Array, "m n"]:
        """Return P_Ω(UVᵀ − Σ)."""
        return self.mask * (times(factors.U, factors.V.T) - self.values)

    def pulled(self, residual: Float[Array, "m n"], factors: Factors) -> Factors:
        """Return EV and EᵀU for a residual E."""
        return Factors(times(residual, factors.V), times(residual.T, factors.U))

    def squared(self, residual: Float[Array, "m n"]) -> Float[Array, ""]:
        """Return ‖E‖²_F."""
        return jnp.sum(jnp.sum(residual**2, axis=1))


class SparseEntries(eqx.Module):
    """Entries by number, row by row, and tables of their sums: work in proportion to how many there are.

    One more entry at the end counts for nothing; tables refer to it where they are padded.
    """

    rows: Int[Array, " k"]
    columns: Int[Array, " k"]
    values: Float[Array, " k"]
    counted: Float[Array, " k"]
    by_row: "Sums"
    by_column: "Sums"
    shape: tuple[int, int] = eqx.field(static=True)

    @classmethod
    def of(cls, observed: Observed, shape: tuple[int, int], dtype: Any) -> "SparseEntries":
        """Lay out entries, whose values are in the problem's unit."""
        order = np.lexsort((observed.columns, observed.rows))
        rows, columns = (numbers[order].astype(np.int32) for numbers in observed[:2])
        return cls(
            rows=jnp.asarray(np.append(rows, np.int32(0))),
            columns=jnp.asarray(np.append(columns, np.int32(0))),
            values=_appended(observed.values[order], dtype),
            counted=jnp.asarray(np.arange(len(rows) + 1) < len(rows), dtype),
            by_row=Sums(rows, columns, shape[0]),
            by_column=Sums(columns, rows, shape[1]),
            shape=shape,
        )

    @property
    def entries(self) -> Observed:
        """The entries, row by row, in the problem's unit."""
        kept = np.asarray(self.counted) > 0
        return Observed(*(np.asarray(x)[kept] for x in (self.rows, self.columns, self.values)))

    @property
    def matrix(self) -> Float[Array, "m n"]:
        """P_Ω(Σ)."""
        return jnp.zeros(self.shape, self.values.dtype).at[self.rows, self.columns].add(self.values)

    def residual(self, factors: Factors) -> Float[Array, " k"]:
        """Return ⟨U_i, V_j⟩ − Σ_ij at every entry."""
        U, V = keep(tuple(factors))
        u, v = _taken(U, self.rows), _taken(V, self.columns)
        if is_long(factors.width):
            product = jnp.sum(u * v, axis=1)
        else:
            product = _total(u[:, a] * v[:, a] for a in range(factors.width))
        return self.counted * (product - self.values)

    def pulled(self, residual: Float[Array, " k"], factors: Factors) -> Factors:
        """Return EV and EᵀU for a residual E."""
        U, V = keep(tuple(factors))
        return Factors(self.by_row(residual, V), self.by_column(residual, U))

    def squared(self, residual: Float[Array, " k"]) -> Float[Array, ""]:
        """Return ‖E‖²_F."""
        return gram(residual[:, None])[0, 0]


class Sums(eqx.Module):
    """For each of several groups of entries, Σ e_k X[partner_k] over its entries k, by gathers alone.

    Groups are cut into pieces, and the sums of pieces summed in turn until one per group is left. Pieces of the same
    padded length share a table, one row each; `entries` and `partners` are the tables of the first sums, `levels`
    those of sums of sums. Every sum has a number, from 1 in the order they are made; 0 is the empty one. `place` holds
    the number of each group's sum.
    """

    entries: tuple[Int[Array, "pieces length"], ...]
    partners: tuple[Int[Array, "pieces length"], ...]
    levels: tuple[tuple[Int[Array, "pieces length"], ...], ...]
    place: Int[Array, " group"]

    def __init__(self, groups: Int[np.ndarray, " k"], partners: Int[np.ndarray, " k"], count: int):
        order = np.argsort(groups, kind="stable")
        tables, owners = _pieces(order, groups[order], len(groups))
        self.entries = _on_device(tables)
        self.partners = _on_device([np.append(partners, 0)[table] for table in tables])
        levels, place, first = [], np.zeros(count, np.int32), 1
        while True:
            numbers = first + np.arange(len(owners))
            first += len(owners)
            alone = np.bincount(owners, minlength=count)[owners] == 1
            place[owners[alone]] = numbers[alone]
            if alone.all():
                break
            numbers, owners = numbers[~alone], owners[~alone]
            order = np.argsort(owners, kind="stable")
            tables, owners = _pieces(numbers[order], owners[order], 0)
            levels.append(_on_device(tables))
        self.levels, self.place = tuple(levels), jnp.asarray(place)

    def __call__(self, residual: Float[Array, " k"], factor: Float[Array, "size d"]) -> Float[Array, "group d"]:
        """Return the sum of every group."""
        first = [
            _total(_taken(residual, e)[:, None] * _taken(factor, p) for e, p in zip(entries.T, partners.T, strict=True))
            for entries, partners in zip(self.entries, self.partners, strict=True)
        ]
        sums = keep(jnp.concatenate([jnp.zeros((1, factor.shape[1]), factor.dtype), *first]))
        for tables in self.levels:
            sums = keep(jnp.concatenate([sums, *(_total(_taken(sums, s) for s in table.T) for table in tables)]))
        return _taken(sums, self.place)


def _pieces(items: np.ndarray, groups: np.ndarray, padding: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut sorted groups into pieces; return a table of items for each padded length, and the group of every row."""
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    within = np.arange(len(groups)) - np.repeat(first, np.diff(first, append=len(groups)))
    opens = within % _LONGEST == 0
    piece = np.cumsum(opens) - 1
    lengths = _LENGTHS[np.searchsorted(_LENGTHS, np.bincount(piece))]
    tables = []
    for length in np.unique(lengths):
        here = lengths == length
        table = np.full((here.sum(), length), padding, np.int32)
        mine = here[piece]
        table[(np.cumsum(here) - 1)[piece[mine]], within[mine] % _LONGEST] = items[mine]
        tables.append(table)
    return tables, groups[opens][np.argsort(lengths, kind="stable")]


def _appended(values: np.ndarray | Array, dtype: Any) -> Array:
    """Return the values and one more, a zero; NumPy does what it can, for which JAX would compile a program."""
    if isinstance(values, Tracer):
        return jnp.append(values, 0).astype(dtype)
    return jnp.asarray(np.append(values, 0), dtype)


def _on_device(tables: list[np.ndarray]) -> tuple[Array, ...]:
    return tuple(jnp.asarray(table, jnp.int32) for table in tables)


def _taken(array: Array, numbers: Int[Array, " k"]) -> Array:
    """Return some rows; the numbers are known to be in range."""
    return array.at[numbers].get(mode="promise_in_bounds", wrap_negative_indices=False)


def _total(terms: Iterator[Array]) -> Array:
    return reduce(operator.add, terms)
