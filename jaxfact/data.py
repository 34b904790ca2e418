"""Targets: a built-in real matrix, the user's own file, and made-up spectra."""

import warnings
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxfact.inputs import positive, positive_integer, problem_with
from jaxfact.spectrum import Spectrum

_IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".gif", ".webp")
_READABLE = f".npy, .npz, .csv, .tsv, .mtx and images ({', '.join(_IMAGES)})"

Matrix = Float[np.ndarray, "m n"]


def load(name: str) -> Matrix:
    """Return a built-in real matrix: "elevation", 344×403 metres of a fault scarp, mean removed.

    The elevation model (US Geological Survey, public domain) travels inside matplotlib. Raises ValueError for other
    names; `read` takes files.
    """
    if name != "elevation":
        raise problem_with("name", repr(name), 'the built-in matrix is "elevation"', "read a file with data.read(path)")
    from matplotlib import get_data_path

    with np.load(Path(get_data_path(), "sample_data", "jacksboro_fault_dem.npz"), allow_pickle=False) as file:
        elevation = np.asarray(file["elevation"], float)
    return elevation - elevation.mean()


def read(path: str | Path) -> Matrix:
    """Read a matrix from a .npy, .npz, .csv, .tsv, Matrix Market .mtx or image file, as it is stored.

    An image becomes grey levels from 0 to 1. Pickled objects are never opened. Raises ValueError for a file that is
    missing, of an unknown format, damaged, or no m×n matrix of finite real numbers.
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
        raise problem_with("file", path, "does not exist or is no file", "check the path")
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise problem_with("file", path, f"needs one of {_READABLE}", "convert it, for example with numpy.save")
    matrix = reader(path)
    _check_matrix(path, matrix)
    return matrix if matrix.dtype.kind == "f" else matrix.astype(float)


def singular_values(rank: int, condition: float, spectrum: Spectrum = Spectrum.LINEAR) -> Float[np.ndarray, " r"]:
    """Return `rank` singular values from 1 down to 1/condition.

    LINEAR and GEOMETRIC are evenly spaced in the value and in its logarithm, STEP is 1 but for the last. Raises
    ValueError for a rank below 1 and a condition number below 1.
    """
    positive_integer("rank", rank, "give the number of singular values")
    positive("condition", condition, "1 makes them all equal")
    if condition < 1:
        raise problem_with("condition", condition, "needs σ₁/σ_r, 1 or above", "give its inverse")
    if spectrum is Spectrum.LINEAR:
        return np.linspace(1, 1 / condition, rank)
    if spectrum is Spectrum.GEOMETRIC:
        return np.geomspace(1, 1 / condition, rank)
    return np.append(np.ones(rank - 1), 1 / condition)


def _check_matrix(path: Path, matrix: np.ndarray) -> None:
    given = f"an array of shape {matrix.shape} and dtype {matrix.dtype}"
    if matrix.dtype.kind == "c":
        raise problem_with(path.name, given, "needs real numbers", "save the real part or the modulus")
    if matrix.dtype.kind not in "iubf":
        raise problem_with(path.name, given, "needs numbers", "save the array with a numeric dtype")
    if matrix.ndim != 2 or matrix.size == 0:
        raise problem_with(path.name, given, "needs an m×n matrix with entries", "reshape it to two dimensions")
    missing = int(np.sum(~np.isfinite(matrix)))
    if missing:
        raise problem_with(
            path.name,
            f"{missing} NaN or infinite entries",
            "a factorisation needs every entry",
            "fill or drop them: missing entries are the job of matrix completion",
        )


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        if "pickle" in str(error).lower() and "allow_pickle" in str(error):
            needed, instead = "holds Python objects, which are never unpickled", "save a plain numeric array"
            raise problem_with("file", path, needed, instead) from None
        raise _damaged(path, error) from None


def _read_npz(path: Path) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = list(archive)
            if len(names) != 1:
                raise problem_with(
                    "file", path, f"holds {len(names)} arrays: {', '.join(names)}", "save just the matrix"
                )
            return archive[names[0]]
    except (OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise _damaged(path, error) from None
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        needed, instead = "holds Python objects, which are never unpickled", "save a plain numeric array"
        raise problem_with("file", path, needed, instead) from None


def _read_text(path: Path) -> np.ndarray:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty file is refused below, by its shape
            return np.loadtxt(path, delimiter=delimiter, ndmin=2, dtype=float)
    except (ValueError, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0].rstrip(".;")
        needed = f"needs rows of numbers of one length ({detail})"
        raise problem_with("file", path, needed, "drop headers and text, and fill short rows") from None


def _read_market(path: Path) -> np.ndarray:
    from scipy.io import mmread

    try:
        matrix = mmread(path)
    except (ValueError, OSError, OverflowError) as error:
        raise _damaged(path, error) from None
    return matrix if isinstance(matrix, np.ndarray) else matrix.toarray()


def _read_image(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            deep = image.mode.startswith(("I", "F"))
            grey = np.asarray(image if deep else image.convert("L"), float)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    return grey / (65535 if deep else 255)


def _damaged(path: Path, error: Exception) -> ValueError:
    detail = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")
    return problem_with("file", path, f"cannot be read as {path.suffix} ({detail})", "check that it is complete")
