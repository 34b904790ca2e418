"""Targets: real matrices by name, the user's own file, and made-up spectra."""

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxfact.choices import Spectrum
from jaxfact.data.centring import Centred as Centred
from jaxfact.data.centring import remove_biases as remove_biases
from jaxfact.data.centring import remove_mean as remove_mean
from jaxfact.inputs import positive, positive_integer, problem_with

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".gif", ".webp")
_LARGEST = 2**28  # entries of a matrix read from a list, two gigabytes
_READABLE = f".npy, .npz, .csv, .tsv, .mtx and images ({', '.join(_IMAGES)})"

Matrix = Float[np.ndarray, "m n"]


def load(name: str, *, path: str | Path | None = None) -> Matrix:
    """Return a real m×n matrix by its name, in double precision, with NaN where an entry is missing.

    "elevation" is built in: 344×403 metres of a fault scarp (US Geological Survey, public domain, inside matplotlib),
    its mean removed. The others come out of optional packages, as they are stored there, neither centred nor scaled:
    "movielens" (671×9066, 1.6 % observed), "pm10" (70×4383, 49 %), "indian_pines" (21025×200), "faces" (400×10304),
    "digits" (1797×64) and "camera" (512×512); docs/data.md has units, terms of use and packages. `path` is the
    air.rda of "pm10" where R does not have it. Raises ValueError for other names, a missing package and a wrong path;
    `read` takes files.
    """
    from jaxfact.data import datasets

    return datasets.load(name, path)


def read(path: str | Path) -> Matrix:
    """Read a matrix from a .npy, .npz, .csv, .tsv, Matrix Market .mtx or image file, as it is stored; NaN is missing.

    An empty field of a text file is missing too. A text file whose first line is `row,column,value` holds one observed
    entry per line, whose row and column may be any numbers: in order they become 0, 1, 2, …. An image becomes grey
    levels from 0 to 1; a floating-point one stays as it is. Pickled objects are never opened.

    Raises ValueError for a file that is missing, of an unknown format, damaged, or not an m×n matrix of reals, for
    infinite entries, and for an entry that is given twice.
    """
    path = Path(path)
    readers = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".csv": _read_text,
        ".tsv": _read_text,
        ".mtx": _read_market,
    }
    readers |= dict.fromkeys(_IMAGES, _read_image)
    if not path.is_file():
        raise problem_with("file", path, "does not exist or is not a file", "check the path")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise problem_with("file", path, f"needs one of {_READABLE}", "convert it, for example with numpy.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a parser merely warns of shows in the matrix it returns
            matrix = reader(path)
    except Exception as error:  # damage surfaces as nearly anything: NumPy, zipfile, SciPy and Pillow parse these files
        raise _unreadable(path, error) from None
    _check_matrix(path, matrix)
    return matrix.astype(np.float32 if matrix.dtype.newbyteorder("=") == np.float32 else np.float64)


def singular_values(
    rank: Any, condition: Any, spectrum: Spectrum = Spectrum.LINEAR, *, padded_to: int | None = None
) -> Float[np.ndarray, " r"] | Float[Array, " r"]:
    """Return `rank` singular values from 1 down to 1/condition.

    LINEAR and GEOMETRIC are evenly spaced in the value and in its logarithm, STEP is 1 except for the last. Both
    numbers may be axes of a sweep; a rank that is one needs its largest value, `padded_to`, and is followed by zeros.
    Raises ValueError for a rank below 1 or above `padded_to`, and a condition number below 1.
    """
    traced = [isinstance(x, Tracer) for x in (rank, condition)]
    if not traced[0]:
        rank = positive_integer("rank", np.asarray(rank).item(), "give the number of singular values")
    if not traced[1]:
        positive("condition", condition, "1 makes them all equal")
        if condition < 1:
            raise problem_with("condition", condition, "needs σ₁/σ_r, 1 or above", "give its inverse")
    if padded_to is None and traced[0]:
        raise problem_with("rank", "a traced number", "needs a bound", "pass padded_to=, its largest value")
    count = int(rank) if padded_to is None else padded_to
    if not traced[0] and rank > count:
        raise problem_with("rank", int(rank), f"is above padded_to={count}", "raise padded_to")
    library = jnp if any(traced) else np
    place = library.arange(count)
    along = place / library.maximum(rank - 1, 1)
    values = {
        Spectrum.LINEAR: 1 + along * (1 / condition - 1),
        Spectrum.GEOMETRIC: (1 / condition) ** along,
        Spectrum.STEP: library.where(place == rank - 1, 1 / condition, 1.0),
    }[spectrum]
    return library.where(place < rank, values, 0)


def _check_matrix(path: Path, matrix: np.ndarray) -> None:
    given = f"an array of shape {matrix.shape} and dtype {matrix.dtype}"
    if matrix.dtype.kind == "c":
        raise problem_with(path.name, given, "needs real numbers", "save the real part or the modulus")
    if matrix.dtype.kind not in "iubf":
        raise problem_with(path.name, given, "needs numbers", "save the array with a numeric dtype")
    if matrix.ndim != 2 or matrix.size == 0:
        raise problem_with(path.name, given, "needs an m×n matrix with entries", "reshape it to two dimensions")
    infinite = int(np.sum(np.isinf(matrix)))
    if infinite:
        given = f"{infinite} infinite entries"
        raise problem_with(path.name, given, "needs finite numbers, and NaN where an entry is missing", "replace them")
    if np.all(np.isnan(matrix)):
        raise problem_with(
            path.name, f"{matrix.shape[0]}×{matrix.shape[1]} NaN", "needs an observed entry", "fill some in"
        )


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = list(archive)
        if len(names) != 1:
            raise ValueError(f"holds {len(names)} arrays: {', '.join(names)}")
        return archive[names[0]]


def _read_text(path: Path) -> np.ndarray:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig") as file:
        names = [name.strip().strip('"').lower() for name in file.readline().split(delimiter)]
    listed = names == ["row", "column", "value"]
    numbers = np.loadtxt(
        path,
        delimiter=delimiter,
        ndmin=2,
        dtype=float,
        encoding="utf-8-sig",
        skiprows=int(listed),
        converters=lambda field: float(field) if field.strip() else np.nan,
    )
    return _from_entries(path, numbers) if listed else numbers


def _from_entries(path: Path, entries: Float[np.ndarray, "k 3"]) -> np.ndarray:
    """Return the matrix that a list of entries stands for, NaN where there is none."""
    if entries.shape[1] != 3:
        raise ValueError("a line that is not row, column and value")
    if not np.all(np.isfinite(entries)):
        raise ValueError("a line without three finite numbers")
    (rows, row), (columns, column) = (np.unique(entries[:, place], return_inverse=True) for place in range(2))
    if len(rows) * len(columns) > _LARGEST:
        raise ValueError(f"{len(rows)}×{len(columns)} entries are too many for one array; build a Completion from them")
    matrix = np.full((len(rows), len(columns)), np.nan)
    places, counts = np.unique(row * len(columns) + column, return_counts=True)
    if np.any(counts > 1):
        twice = divmod(int(places[np.argmax(counts > 1)]), len(columns))
        raise ValueError(f"row {rows[twice[0]]:g}, column {columns[twice[1]]:g} is given more than once")
    matrix[row, column] = entries[:, 2]
    return matrix


def _read_market(path: Path) -> np.ndarray:
    from scipy.io import mmread

    content = path.read_bytes()
    # SciPy 1.17 crashes the interpreter on a zero byte, and on a last number that ends in its exponent's sign.
    if b"\0" in content:
        raise ValueError("a zero byte")
    matrix = mmread(io.BytesIO(content + b"\n"))
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        if image.mode == "F":
            return np.asarray(image, float)
        deep = image.mode.startswith("I")
        grey = np.asarray(image if deep else image.convert("L"), float)
    return grey / (65535 if deep else 255)


def _unreadable(path: Path, error: Exception) -> ValueError:
    detail = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")
    if "allow_pickle" in detail:
        return problem_with("file", path, "holds Python objects, which are never unpickled", "save plain numbers")
    if path.suffix.lower() in (".csv", ".tsv"):
        needed = "needs rows of numbers of equal length"
        instead = "drop headers and text, fill short rows, and give no entry twice"
    else:
        needed, instead = f"cannot be read as {path.suffix}", "check that it is complete and holds one array"
    return problem_with("file", path, f"{needed} ({detail})", instead)
