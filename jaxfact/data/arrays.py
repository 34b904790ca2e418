"""Matrices as people bring them, read by one rule: labels are kept, what is masked is missing."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from jaxfact.choices import Absent, Labels
from jaxfact.data.numbers import as_array, framed
from jaxfact.inputs import problem_with

ROW, COLUMN = "row", "column"
LARGEST = 2**28  # entries that are read without being asked for more: two gigabytes in double precision
Names = Sequence[Any] | NDArray[Any] | pd.Index
_NAMED = 8  # arrays of a file that an error lists
_LABELS = "iufbOUM"  # kinds of labels that coordinates and the files written from them can hold


class ReadOptions(NamedTuple):
    """How a file is to be read, where its contents leave that open.

    Attributes:
        entries: whether a table lists entries, one a line; None where its contents decide.
        absent: what the entries are that a sparse file does not store; None for zeros, which are then spoken of.
        largest: how many entries a matrix may have.
        labels: what a table names; None where its contents decide.
        variable: which of several arrays in a file is the matrix, by its name or path; None for the only one.
    """

    entries: bool | None = None
    absent: Absent | None = None
    largest: int = LARGEST
    labels: Labels | None = None
    variable: str | None = None


def check_size(name: object, shape: Sequence[int], largest: int, instead: str = "") -> None:
    """Refuse a declared size before it is allocated."""
    count = math.prod(int(size) for size in shape)
    if count > largest:
        given = f"{'×'.join(map(str, shape))} entries, {8 * count / 1e9:.3g} GB in double precision"
        needed = f"at most {largest} are read unless more are asked for"
        asked = f"pass largest={count} (--largest {count}) if memory allows"
        raise problem_with(str(name), given, needed, instead or asked)


def labelled(values: np.ndarray, rows: Names | None = None, columns: Names | None = None) -> xr.DataArray:
    """Return an m×n matrix with the labels of its rows and columns as coordinates, where it has any."""
    labels = {
        name: xr.Variable(name, np.asarray(given), {"long_name": str(said)} if (said := _named(given)) else {})
        for name, given in ((ROW, rows), (COLUMN, columns))
        if given is not None
    }
    return xr.DataArray(values, dims=(ROW, COLUMN), coords=labels)


def as_matrix(
    value: Any, name: str = "matrix", *, absent: Absent = Absent.ZERO, largest: int = LARGEST
) -> xr.DataArray:
    """Return an m×n matrix in float64 or float32 with its labels, NaN where an entry is masked or missing.

    It may be anything that `as_array` takes; entries that a sparse matrix does not store are zeros or missing, and
    labels of pandas and xarray become coordinates. Raises ValueError for anything else, for infinite entries, and for
    sparse matrices of more than `largest` entries or with an entry stored twice.
    """
    if scipy.sparse.issparse(value):
        numbers = dense(value, name, absent, largest, "give its entries to a Completion")
    else:
        value = framed(value)
        numbers = as_array(value, name)
    given = f"array of shape {numbers.shape}"
    if numbers.ndim != 2:
        raise problem_with(name, given, "needs an m×n matrix, two dimensions", "reshape it to m×n")
    if numbers.size == 0:
        raise problem_with(name, given, "needs at least one entry", "give a matrix with rows and columns")
    if np.isinf(numbers).any():
        raise problem_with(name, "infinite entries", "needs finite ones, or NaN for missing", "set them to NaN")
    return labelled(numbers, *labels_of(value))


def labels_of(value: Any) -> tuple[np.ndarray | pd.Index | None, np.ndarray | pd.Index | None]:
    """Return the labels of the rows and of the columns of a matrix, None where they only count."""
    if isinstance(value, pd.DataFrame):
        rows, columns = (_labels(index) for index in value.axes)
        return rows, columns
    if isinstance(value, xr.DataArray) and value.ndim == 2:
        rows, columns = (_labels(value.indexes[dim]) if dim in value.indexes else None for dim in value.dims)
        return rows, columns
    return None, None


def stored(matrix: Any, name: str, first: int = 0) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " k"]]:
    """Return rows, columns and values of the entries that a sparse matrix stores, zeros among them.

    Raises ValueError for anything but two dimensions and for an entry that is stored twice.
    """
    if matrix.ndim != 2:
        raise problem_with(name, f"a sparse array of shape {matrix.shape}", "needs two dimensions", "reshape it to m×n")
    entries = matrix.tocoo()
    again = repeated(entries.row, entries.col, matrix.shape)
    if again is not None:
        given = f"row {first + entries.row[again]}, column {first + entries.col[again]} a second time"
        raise problem_with(name, given, f"needs each entry once (counted from {first})", "sum them, or keep the last")
    return entries.row, entries.col, as_array(entries.data, name)


def dense(
    matrix: Any, name: str, absent: Absent, largest: int, instead: str = "", first: int = 0
) -> Float[np.ndarray, "m n"]:
    """Return a sparse matrix as an array; what it does not store is 0 or, if missing, NaN."""
    check_size(name, matrix.shape, largest, instead)
    rows, columns, values = stored(matrix, name, first)
    full = np.full(matrix.shape, np.nan if absent == Absent.MISSING else 0, values.dtype)
    full[rows, columns] = values
    return full


def from_file(
    values: Any, path: Path, said: str = "", rows: Names | None = None, columns: Names | None = None
) -> xr.DataArray:
    """Return an array out of a file as a labelled matrix, its attribute `read` what is to be said of it."""
    if np.asarray(values).dtype.kind == "c":
        said = "; ".join(filter(None, [said, "complex numbers without imaginary part"]))
    numbers = as_array(values, path.name)
    if numbers.ndim != 2 or numbers.size == 0:
        given = f"an array of shape {numbers.shape}"
        raise problem_with(path.name, given, "needs an m×n matrix with entries", "reshape it to two dimensions")
    return labelled(numbers, rows, columns).assign_attrs(read=said)


def from_sparse_file(
    matrix: Any,
    path: Path,
    options: ReadOptions,
    rows: Names | None = None,
    columns: Names | None = None,
    first: int = 0,
) -> xr.DataArray:
    """Return a sparse matrix out of a file, which counts from `first`, as a labelled matrix."""
    absent = Absent.ZERO if options.absent is None else options.absent
    matrix = matrix.tocoo()
    values = dense(matrix, path.name, absent, options.largest, first=first)
    others = "as zeros" if absent == Absent.ZERO else "missing"
    said = f"sparse, {len(matrix.data)} entries stored, absent ones {others}"
    if options.absent is None:
        said += " (--absent missing reads them as missing)"
    return from_file(values, path, said, rows, columns)


def chosen(path: Path, shapes: Mapping[str, Sequence[int]], variable: str | None, others: str = "") -> str:
    """Return the name of the matrix in a file: the one asked for, or the only one."""
    known = [f"{name} ({'×'.join(map(str, shape)) or 'a number'})" for name, shape in shapes.items()]
    listed = ", ".join(known[:_NAMED]) + (f", … ({len(known) - _NAMED} more)" if len(known) > _NAMED else "")
    if variable is not None and variable not in shapes:
        instead = f"it holds {listed}" if known else "it holds no array of numbers"
        raise problem_with("file", f"{path}:{variable}", "no array of numbers in the file has this name", instead)
    if variable is None and len(shapes) != 1:
        example = f"name one, for example {path.name}:{next(iter(shapes))}" if shapes else "save one matrix in it"
        needed = f"holds {len(shapes)} arrays" + (f": {listed}" if known else "") + others
        raise problem_with("file", path, needed, example)
    return next(iter(shapes)) if variable is None else variable


def repeated(rows: np.ndarray, columns: np.ndarray, shape: Sequence[int]) -> int | None:
    """Return the position of the first entry that was given before, None where all are distinct."""
    if math.prod(int(size) for size in shape) < 2**63:
        flat = rows.astype(np.int64) * int(shape[1]) + columns
        order = np.argsort(flat, kind="stable")
        same = np.diff(flat[order]) == 0
    else:
        order = np.lexsort((columns, rows))
        same = (np.diff(rows[order]) == 0) & (np.diff(columns[order]) == 0)
    again = order[1:][same]
    return int(again.min()) if len(again) else None


def _labels(index: pd.Index) -> pd.Index | None:
    """Return labels as coordinates can hold them, None for those that only count."""
    if isinstance(index, pd.RangeIndex) and (index.start, index.step) == (0, 1):
        return None
    if isinstance(index, pd.MultiIndex):
        return pd.Index([", ".join(map(str, label)) for label in index])
    known = isinstance(index.dtype, np.dtype | pd.StringDtype) and getattr(index.dtype, "kind", "O") in _LABELS
    return index if known else pd.Index(index.astype(str), name=index.name)


def _named(labels: Any) -> str:
    name = getattr(labels, "name", None)
    return "" if name is None else str(name)
