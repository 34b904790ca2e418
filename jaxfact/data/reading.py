"""Matrices by name and out of files of any kind, with their labels and a line that says what was read."""

import csv
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from jaxfact.choices import Absent, Labels
from jaxfact.data import entries as lists
from jaxfact.data.arrays import COLUMN, LARGEST, ROW, ReadOptions
from jaxfact.data.formats import READERS
from jaxfact.data.packed import WRAPPERS, contents, unpacked
from jaxfact.data.text import SUFFIXES, opened, read_text
from jaxfact.inputs import positive_integer, problem_with

_SLACK = 2**20  # bytes of a file beside the eight of each entry


def load(name: str, *, path: str | Path | None = None) -> xr.DataArray:
    """Return a real m×n matrix by its name, in double precision, with NaN where an entry is missing.

    "elevation" is built in: 344×403 metres of a fault scarp (US Geological Survey, public domain, inside matplotlib),
    its mean removed. The others come out of optional packages, as they are stored there, neither centred nor scaled:
    "movielens" (671×9066, 1.6 % observed, labelled by the published numbers of users and films), "pm10" (70×4383,
    49 %), "indian_pines" (21025×200), "faces" (400×10304), "digits" (1797×64) and "camera" (512×512); docs/data.md has
    units, terms of use and packages. `path` is the air.rda of "pm10" where R does not have it. Raises ValueError for
    other names, a missing package and a wrong path; `read` takes files.
    """
    from jaxfact.data import datasets

    matrix = datasets.load(name, path)
    return matrix.assign_attrs(read=_said(matrix))


def read(
    path: str | Path,
    *,
    entries: bool | None = None,
    absent: Absent | None = None,
    labels: Labels | None = None,
    largest: int = LARGEST,
) -> xr.DataArray:
    """Read a matrix from a file, as it is stored; NaN is missing. Its attribute `read` says in a line what was read.

    A table of text (.csv, .tsv, .txt, .dat, …) may have names of rows and columns, any usual separator, a decimal
    comma, and any usual mark for what is missing; a list has the row, the column and the value of an entry per line.
    docs/data.md says how they are told apart. Files may be compressed (.gz, .bz2, .xz, .zst, .zip). An image becomes
    grey levels from 0 to 1; a floating-point one stays as it is. Pickled objects are never opened.

    Args:
        path: the file, or FILE:VARIABLE where it holds several.
        entries: whether a table lists entries, one per line; None where its contents decide.
        absent: what the entries are that a sparse file or a list does not have. None: zeros of a sparse file, missing
            ones of a list, and the line says so.
        labels: what a table of text names; None where its contents decide.
        largest: how many entries a matrix may have, and an eighth of the bytes of its text.

    Raises ValueError for a file that is missing, of an unknown format, damaged, or not an m×n matrix of reals, for
    contents that allow two readings, for infinite entries, and for an entry that is given twice.
    """
    file, variable = _located(path)
    options = _options(entries, absent, labels, largest, variable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a parser merely warns of shows in the matrix it returns
        matrix = _read(file, options)
    _check_matrix(file, matrix)
    single = matrix.dtype.newbyteorder("=") == np.float32
    matrix = matrix.astype(np.float32 if single else np.float64, copy=False)
    return matrix.assign_attrs(read="; ".join(filter(None, [_said(matrix), matrix.attrs.get("read")])))


def read_entries(path: str | Path, *, largest: int = LARGEST) -> lists.Listed:
    """Read a list of entries without making it a matrix, for one that would be too large.

    The result has `rows`, `columns` and `values` for `Completion`, its `shape`, and the labels in their order. Raises
    ValueError where `read(path, entries=True)` does, but for the size of the matrix; `largest` bounds the text.
    """
    file, variable = _located(path)
    options = _options(True, None, None, largest, variable)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name, raw = _text(file, options)
        if Path(name).suffix.lower() not in SUFFIXES:
            raise _unknown(file)
        lines, sample = opened(file, raw, options._replace(variable=None))
        columns = lists.columns_of(file, lines, sample, True)
        assert columns is not None
        return lists.listed(file, lines, sample, columns)


def _options(
    entries: bool | None, absent: Absent | None, labels: Labels | None, largest: int, variable: str | None
) -> ReadOptions:
    """Return the options, checked; a choice may be given by its value."""
    positive_integer("largest", largest, f"{LARGEST} is the default")
    if entries not in (None, True, False):
        raise problem_with("entries", repr(entries), "needs True, False or None", "leave it out to let the file decide")
    chosen = {}
    for name, given, kind in (("absent", absent, Absent), ("labels", labels, Labels)):
        if given is not None and given not in tuple(kind):
            raise problem_with(name, repr(given), f"needs one of {', '.join(kind)}", "leave it out for the usual")
        chosen[name] = None if given is None else kind(given)
    return ReadOptions(entries, largest=largest, variable=variable, **chosen)


def _located(path: str | Path) -> tuple[Path, str | None]:
    """Return the file, and what stands behind a colon if the whole is not a file."""
    text = str(path)
    if not os.path.exists(text) and ":" in text:
        for place in (place for place, letter in enumerate(text) if letter == ":"):
            if os.path.exists(text[:place]) and text[:place] and text[place + 1 :]:
                return Path(text[:place]), text[place + 1 :]
    if not os.path.exists(text):
        raise problem_with("file", path, "does not exist or is not a file", "check the path")
    return Path(text), None


def _read(file: Path, options: ReadOptions) -> xr.DataArray:
    suffix = file.suffix.lower()
    if not (file.is_file() or (file.is_dir() and suffix == ".zarr")):
        raise problem_with("file", file, "does not exist or is not a file", "check the path")
    if suffix in SUFFIXES or suffix in WRAPPERS:
        name, raw = _text(file, options)
        inner = Path(name).suffix.lower()
        if inner in SUFFIXES:
            return _text_matrix(file, raw, options._replace(variable=None) if suffix == ".zip" else options)
        return _unwrapped(file, Path(name).name, raw, options)
    if suffix not in READERS:
        raise _unknown(file)
    try:
        return READERS[suffix](file, options)
    except Exception as error:  # damage surfaces as nearly anything: NumPy, zipfile, SciPy and Pillow parse these files
        raise _unreadable(file, error) from None


def _text(file: Path, options: ReadOptions) -> tuple[str, bytes]:
    """Return the name and the bytes of a file, out of its wrapper."""
    most = 8 * options.largest + _SLACK
    if file.suffix.lower() not in WRAPPERS:
        return file.name, contents(file, most)
    try:
        return unpacked(file, options.variable, most)
    except Exception as error:  # each of the libraries has its own for damage
        raise _unreadable(file, error) from None


def _text_matrix(file: Path, raw: bytes, options: ReadOptions) -> xr.DataArray:
    try:
        return read_text(file, raw, options)
    except csv.Error as error:
        raise _unreadable(file, error) from None


def _unwrapped(file: Path, name: str, raw: bytes, options: ReadOptions) -> xr.DataArray:
    """Read a binary format out of its wrapper, by way of a file of its own name."""
    reader = READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise _unknown(file)
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, name)
        bare.write_bytes(raw)
        try:
            return reader(bare, options).load()
        except Exception as error:  # damage surfaces as nearly anything
            raise _unreadable(file, error) from None


def _unknown(file: Path) -> ValueError:
    known = f"{', '.join((*SUFFIXES, *READERS))}, perhaps with {', '.join(WRAPPERS)} behind it"
    return problem_with("file", file, f"needs one of {known}", "convert it, for example to .csv, or with numpy.save")


def _unreadable(file: Path, error: Exception) -> ValueError:
    if isinstance(error, ValueError) and file.name in str(error):
        return error
    detail = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")
    if "allow_pickle" in detail:
        return problem_with("file", file, "holds Python objects, which are never unpickled", "save plain numbers")
    needed = f"cannot be read as {file.suffix} ({detail})"
    return problem_with("file", file, needed, "check that it is complete and holds one array")


def _check_matrix(path: Path, matrix: xr.DataArray) -> None:
    given = f"an array of shape {matrix.shape} and dtype {matrix.dtype}"
    if matrix.dtype.kind == "c":
        raise problem_with(path.name, given, "needs real numbers", "save the real part or the modulus")
    if matrix.dtype.kind not in "iubf":
        raise problem_with(path.name, given, "needs numbers", "save the array with a numeric dtype")
    if matrix.ndim != 2 or matrix.size == 0:
        raise problem_with(path.name, given, "needs an m×n matrix with entries", "reshape it to two dimensions")
    infinite = np.isinf(matrix.values)
    if infinite.any():  # to look for their places takes longer than to see that there is none
        infinite = np.argwhere(infinite)
        row, column = infinite[0]
        given = f"{len(infinite)} infinite entries, the first in row {row}, column {column} (from 0)"
        raise problem_with(path.name, given, "needs finite numbers, and NaN where an entry is missing", "replace them")
    if np.isnan(matrix.values).all():
        raise problem_with(
            path.name, f"{matrix.shape[0]}×{matrix.shape[1]} NaN", "needs an observed entry", "fill some in"
        )


def _said(matrix: xr.DataArray) -> str:
    """Return shape, labels and missing entries in words."""
    said = [f"{matrix.shape[0]}×{matrix.shape[1]} matrix"]
    named = [
        f"{name}s {matrix[name].values[0]}" + (f" … {matrix[name].values[-1]}" if len(matrix[name]) > 1 else "")
        for name in (ROW, COLUMN)
        if name in matrix.coords
    ]
    said.append(f"labelled ({', '.join(named)})" if named else "no labels")
    missing = int(np.count_nonzero(np.isnan(matrix.values)))
    said.append(f"{missing} of {matrix.size} entries missing ({missing / matrix.size:.1%})" if missing else "complete")
    return ", ".join(said)
