"""Arrays in files of NumPy, SciPy, MATLAB and Matrix Market, and the table of all binary formats.

Whatever a file declares is compared with the limit, and with the file's own size where that bounds it, before
anything of that size is allocated. Nothing is ever unpickled.
"""

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import scipy.sparse
import xarray as xr

from jaxfact.data.arrays import ReadOptions, check_size, chosen, from_file, from_sparse_file
from jaxfact.data.hierarchical import is_hdf5, read_hdf5, read_netcdf, read_parquet, read_zarr
from jaxfact.data.images import IMAGES, read_image
from jaxfact.inputs import problem_with

Reader = Callable[[Path, ReadOptions], xr.DataArray]

_PARTS = {
    "csr": ("data", "indices", "indptr"),
    "csc": ("data", "indices", "indptr"),
    "bsr": ("data", "indices", "indptr"),
    "coo": ("data", "row", "col"),
    "dia": ("data", "offsets"),
}
_NUMERIC = ("double", "single", "logical", "sparse", "int", "uint")
_SLACK = 2**20  # bytes of a file beside the eight of each entry
_COMPRESSED = 15  # the type of a compressed element of a .mat file
_MARKET = re.compile(rb"%%?MatrixMarket\s+matrix\s+(coordinate|array)\s+\w+\s+(\w+)", re.IGNORECASE)


def read_npy(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read an array of NumPy."""
    with path.open("rb") as file:
        shape, dtype = _header(file)
        _check_declared(path, shape, dtype, path.stat().st_size - file.tell(), options.largest)
        file.seek(0)
        return from_file(np.lib.format.read_array(file, allow_pickle=False), path)


def read_npz(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read an archive of NumPy's arrays, or a sparse matrix that SciPy saved."""
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}

        def array(name: str, most: int) -> np.ndarray:
            with archive.open(members[name]) as file:
                shape, dtype = _header(file)
                _check_declared(path, shape, dtype, archive.getinfo(members[name]).file_size, most)
            with archive.open(members[name]) as file:
                return np.lib.format.read_array(file, allow_pickle=False)

        if {"format", "shape", "data"} <= set(members) and options.variable is None:
            return from_sparse_file(_saved_by_scipy(path, array, options.largest), path, options)
        shapes = {}
        for name, member in members.items():
            with archive.open(member) as file:
                shapes[name] = _header(file)[0]
        return from_file(array(chosen(path, shapes, options.variable), options.largest), path)


def read_mat(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read a variable of MATLAB, from version 4 to 7.3."""
    if is_hdf5(path):
        return read_hdf5(path, options)
    from scipy.io import loadmat, whosmat

    with path.open("rb") as file:
        _check_inflated(path, file, 8 * options.largest + _SLACK)
        file.seek(0)
        found = whosmat(file)
        shapes = {name: shape for name, shape, kind in found if kind.startswith(_NUMERIC)}
        others = ", ".join(f"{name} ({kind})" for name, _, kind in found if not kind.startswith(_NUMERIC))
        name = chosen(path, shapes, options.variable, f", beside {others}" if others else "")
        check_size(path.name, shapes[name], options.largest)
        file.seek(0)
        value = loadmat(file, variable_names=[name])[name]
    return from_sparse_file(value, path, options) if scipy.sparse.issparse(value) else from_file(value, path)


def read_market(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read Matrix Market's text, in coordinates or as an array."""
    from scipy.io import mmread

    content = path.read_bytes()
    # SciPy 1.17 crashes the interpreter on a zero byte, and on a last number that ends in its exponent's sign.
    if b"\0" in content:
        raise ValueError("a zero byte")
    header = _MARKET.match(content)
    if header is None:
        raise ValueError("its first line is not %%MatrixMarket matrix …")
    sizes = _market_sizes(content)
    check_size(path.name, sizes[:2], options.largest)
    least = 4 * sizes[2] if len(sizes) > 2 else math.prod(sizes[:2])  # bytes; an array may hold half, in two each
    if least > len(content) + _SLACK:
        raise ValueError(f"declares more entries than {len(content)} bytes can hold")
    matrix = mmread(io.BytesIO(content + b"\n"))
    if isinstance(matrix, np.ndarray):
        return from_file(matrix, path)
    return from_sparse_file(matrix, path, options, first=1)


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and dtype that an array of NumPy declares."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:  # version 3 differs in the names of fields alone
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    return shape, dtype


def _check_declared(path: Path, shape: tuple[int, ...], dtype: np.dtype, size: int, largest: int) -> None:
    """Refuse an array of NumPy that is larger than the limit, or than the bytes that are there."""
    if dtype.hasobject:
        return  # which NumPy refuses, before it allocates
    check_size(path.name, shape, largest)
    if math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"declares {math.prod(shape) * dtype.itemsize} bytes, holds {size}")


def _saved_by_scipy(path: Path, array: Callable[[str, int], np.ndarray], largest: int) -> Any:
    """Return a matrix of `scipy.sparse.save_npz`, its indices checked: SciPy trusts them."""
    kind = array("format", 1).item()
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if kind not in _PARTS:
        raise problem_with("file", path, f"holds a sparse matrix of unknown format {kind}", "save it as csr")
    shape = tuple(int(size) for size in array("shape", 2))
    check_size(path.name, shape, largest)
    parts = {name: array(name, largest + 1) for name in _PARTS[kind]}
    values = parts.pop("data")
    if kind == "coo":
        return scipy.sparse.coo_array((values, (parts["row"], parts["col"])), shape=shape)
    if kind == "dia":
        return scipy.sparse.dia_array((values, parts["offsets"]), shape=shape)
    made = {"csr": scipy.sparse.csr_array, "csc": scipy.sparse.csc_array, "bsr": scipy.sparse.bsr_array}[kind]
    matrix = made((values, parts["indices"], parts["indptr"]), shape=shape)
    matrix.check_format(full_check=True)
    return matrix


def _check_inflated(path: Path, file: IO[bytes], most: int) -> None:
    """Refuse a .mat file of version 5 with an element that decompresses to more than `most` bytes."""
    mark = file.read(128)[126:128]
    if mark not in (b"IM", b"MI"):
        return
    order = "<" if mark == b"IM" else ">"
    while len(tag := file.read(8)) == 8:
        kind, size = struct.unpack(f"{order}II", tag)
        if kind != _COMPRESSED:
            file.seek(size, io.SEEK_CUR)
            continue
        inflate, total, left = zlib.decompressobj(), 0, size
        while left > 0 and (piece := file.read(min(left, _SLACK))):
            left -= len(piece)
            while piece and total <= most:
                total += len(inflate.decompress(piece, _SLACK))
                piece = inflate.unconsumed_tail
            if total > most:
                needed = f"decompresses to more than {most / 1e9:.3g} GB, the limit of what is read"
                raise problem_with("file", path, needed, "pass largest= (--largest), the entries that memory allows")


def _market_sizes(content: bytes) -> list[int]:
    """Return rows, columns and, of coordinates, entries, as the line after the comments declares them."""
    for line in io.BytesIO(content):
        if line.strip() and not line.startswith(b"%"):
            return [int(word) for word in line.split()]
    raise ValueError("it declares no size")


READERS: dict[str, Reader] = (
    {".npy": read_npy, ".npz": read_npz, ".mtx": read_market, ".mat": read_mat, ".parquet": read_parquet}
    | dict.fromkeys((".nc", ".nc4", ".cdf"), read_netcdf)
    | {".zarr": read_zarr}
    | dict.fromkeys((".h5", ".hdf5", ".hdf", ".he5", ".h5ad"), read_hdf5)
    | dict.fromkeys(IMAGES, read_image)
)
