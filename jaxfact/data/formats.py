"""Binary formats, Matrix Market and images, each read into a labelled matrix."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr

from jaxfact.data.arrays import ReadOptions, labelled

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".gif", ".webp")


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        names = list(archive)
        if len(names) != 1:
            raise ValueError(f"holds {len(names)} arrays: {', '.join(names)}")
        return archive[names[0]]


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


def _whole(reader: Callable[[Path], np.ndarray]) -> Callable[[Path, ReadOptions], xr.DataArray]:
    def read(path: Path, options: ReadOptions) -> xr.DataArray:
        matrix = reader(path)
        return labelled(matrix) if matrix.ndim == 2 else xr.DataArray(matrix)

    return read


READERS: dict[str, Callable[[Path, ReadOptions], xr.DataArray]] = {
    ".npy": _whole(_read_npy),
    ".npz": _whole(_read_npz),
    ".mtx": _whole(_read_market),
} | dict.fromkeys(IMAGES, _whole(_read_image))
