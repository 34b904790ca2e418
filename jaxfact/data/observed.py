"""Observed entries of a matrix, as a user gives them: checked, and split at random."""

from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import scipy.sparse
from jax.core import Tracer
from jaxtyping import Float, Int, PRNGKeyArray

from jaxfact.data.arrays import as_matrix, repeated, stored
from jaxfact.data.numbers import as_array
from jaxfact.inputs import problem_with


class Observed(NamedTuple):
    """Entries (i, j, Σ_ij) that are known, in the user's unit."""

    rows: Int[np.ndarray, " k"]
    columns: Int[np.ndarray, " k"]
    values: Float[np.ndarray, " k"]


def entries_of(matrix: Any, name: str = "matrix") -> tuple[Observed, tuple[int, int]]:
    """Return the observed entries of a matrix, row by row, and its shape.

    What is masked, NaN or absent from a sparse matrix is missing; such a matrix is never filled in. Raises ValueError
    where `as_matrix` does.
    """
    if scipy.sparse.issparse(matrix):
        rows, columns, values = stored(matrix, name)
        seen = np.flatnonzero(~np.isnan(values))
        seen = seen[np.lexsort((columns[seen], rows[seen]))]
        found, (m, n) = Observed(rows[seen], columns[seen], values[seen]), matrix.shape
    else:
        numbers = as_matrix(matrix, name).values
        rows, columns = np.nonzero(~np.isnan(numbers))
        found, (m, n) = Observed(rows, columns, numbers[rows, columns]), numbers.shape
    return found, (int(m), int(n))


def checked_entries(rows: Any, columns: Any, values: Any, shape: tuple[int, int]) -> Observed:
    """Return the entries as arrays, the values in float64 or float32, or refuse them."""
    traced = isinstance(values, Tracer)
    given = values if traced else as_array(values, "values")
    observed = Observed(numbered(rows), numbered(columns), given)  # pyright: ignore[reportArgumentType]
    sizes = [x.shape for x in observed]
    if len(set(sizes)) > 1 or observed.rows.ndim != 1:
        instead = "give the row, column and value of each observed entry"
        raise problem_with("rows, columns, values", f"arrays of shapes {sizes}", "needs three of equal length", instead)
    if len(observed.values) == 0:
        raise problem_with(
            "values", "no entries", "needs at least one observed entry", "check how missing ones are marked"
        )
    for name, numbers, size in (("rows", observed.rows, shape[0]), ("columns", observed.columns, shape[1])):
        if numbers.dtype.kind not in "iu":
            raise problem_with(name, f"numbers of dtype {numbers.dtype}", "needs whole numbers", "convert them to int")
        off = np.flatnonzero((numbers < 0) | (numbers >= size))
        if len(off):
            given = f"{numbers[off[0]]} at position {off[0]}"
            raise problem_with(
                name, given, f"needs numbers from 0 to {size - 1}", "count from 0, or give a larger shape"
            )
    broken = np.empty(0, int) if traced else np.flatnonzero(~np.isfinite(observed.values))
    if len(broken):
        given = f"{observed.values[broken[0]]} at position {broken[0]}"
        raise problem_with("values", given, "an observed entry needs a finite number", "leave missing entries out")
    _check_repeats(observed, shape)
    return observed


def split(entries: Observed, key: PRNGKeyArray, **shares: float) -> dict[str, Observed]:
    """Return disjoint parts, drawn uniformly, that together make up all the entries; by name.

    For example split(problem.entries, key, train=0.8, validation=0.1, test=0.1); each part makes a problem,
    Completion(*part, shape), or a record, HeldOut(*part).

    Raises ValueError for shares that are not above 0 or do not sum to 1, and for parts that would be empty.
    """
    given = ", ".join(f"{name}={share:g}" for name, share in shares.items())
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-9:
        raise problem_with("shares", given, "needs numbers above 0 that sum to 1", "pass train=0.8, test=0.2")
    count = len(entries.values)
    ends = np.rint(np.cumsum(list(shares.values())) * count).astype(int)
    if np.diff(ends, prepend=0).min() < 1:
        needed = f"{count} entries leave a part without any"
        raise problem_with("shares", given, needed, "give that part a larger share, or leave it out")
    order = np.asarray(jax.random.permutation(key, count))
    parts = np.split(order, ends[:-1])
    return {
        name: Observed(*(np.asarray(x)[np.sort(part)] for x in entries))
        for name, part in zip(shares, parts, strict=True)
    }


def numbered(numbers: Any) -> np.ndarray:
    """Return row or column numbers as an array; those that are no whole numbers are refused by their dtype."""
    plain = numbers.to_numpy() if isinstance(numbers, pd.Series | pd.Index) else np.ma.asanyarray(numbers)
    return as_array(plain, "rows, columns") if np.ma.is_masked(plain) else np.asarray(plain)


def _check_repeats(observed: Observed, shape: tuple[int, int]) -> None:
    at = repeated(observed.rows, observed.columns, shape)
    if at is not None:
        given = f"({observed.rows[at]}, {observed.columns[at]}) a second time at position {at}"
        raise problem_with("rows, columns", given, "needs each entry once", "average the repeats, or keep the last")
