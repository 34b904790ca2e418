"""Matrices in files that hold many arrays under names: HDF5, MATLAB 7.3, AnnData, netCDF, Zarr and Parquet."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
import xarray as xr

from jaxfact.data.arrays import ReadOptions, check_size, chosen, from_file, from_sparse_file, labels_of
from jaxfact.data.text import read_text
from jaxfact.inputs import problem_with

_HDF5 = b"\x89HDF\r\n\x1a\n"
_TEXT_OF_MATLAB = (b"char", b"cell", b"struct", b"function_handle")
_SPARSE = {"csr_matrix": scipy.sparse.csr_array, "csc_matrix": scipy.sparse.csc_array}
_LISTED = 4  # columns of a list of entries: row, column, value and perhaps a time
_METADATA = (".zarray", ".zmetadata", "zarr.json")


def is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, as MATLAB 7.3 and netCDF 4 write it, the former behind 512 bytes of its own."""
    with path.open("rb") as file:
        head = file.read(520)
    return head.startswith(_HDF5) or head[512:] == _HDF5


def read_hdf5(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read a dataset of HDF5, or a group that holds a sparse matrix as AnnData and MATLAB write it."""
    with _package("h5py", path).File(path, "r") as file:
        shapes: dict[str, tuple[int, ...]] = {}
        file.visititems(lambda name, node: shapes.update(_shapes(name, node)))
        variable = None if options.variable is None else options.variable.strip("/")
        if variable is None and "X" in shapes and {"obs", "var"} <= set(file):
            variable = "X"
        name = chosen(path, shapes, variable)
        return _read_node(file[name], path, options, *_annotations(file, name, shapes[name]))


def read_netcdf(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read a variable of netCDF, with the coordinates of its dimensions for labels; GROUP/VARIABLE in a group."""
    group, _, variable = (options.variable or "").strip("/").rpartition("/")
    engine = "h5netcdf" if is_hdf5(path) else "scipy"
    if engine == "h5netcdf":
        _package("h5netcdf", path)
    with xr.open_dataset(path, engine=engine, group=group or None, decode_timedelta=False) as file:
        return _read_variable(file, path, options, variable or None)


def read_zarr(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read an array of Zarr, with the coordinates of its dimensions for labels; GROUP/ARRAY in a group."""
    import zarr

    for file in path.rglob("*"):
        if file.name in _METADATA and b'"pickle"' in file.read_bytes():
            raise problem_with("file", path, "holds Python objects, which are never unpickled", "save plain numbers")
    try:
        node: Any = zarr.open(path, mode="r")
    except Exception as error:  # zarr has many, of its own and of others
        needed = f"cannot be opened as Zarr ({type(error).__name__})"
        raise problem_with("file", path, needed, "check that it is complete") from None
    if isinstance(node, zarr.Array):
        return _read_node(node, path, options)
    name = (options.variable or "").strip("/")
    shapes: dict[str, tuple[int, ...]] = {}
    for inner, member in node.members(max_depth=None):
        shapes.update(_shapes(inner, member))
    name = chosen(path, shapes, name or None)
    group, _, variable = name.rpartition("/")
    if isinstance(node[name], zarr.Array):
        try:
            with xr.open_zarr(path, group=group or None, consolidated=False, decode_timedelta=False) as dataset:
                return _read_variable(dataset, path, options, variable)
        except (KeyError, ValueError, TypeError) as error:
            if path.name in str(error):
                raise  # dimensions without names stop xarray, and nothing else does here
    return _read_node(node[name], path, options)


def read_parquet(path: Path, options: ReadOptions) -> xr.DataArray:
    """Read a table of Parquet: its index and, if that is text, its first column name the rows."""
    _package("pyarrow", path)
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        check_size(path.name, (file.metadata.num_rows, file.metadata.num_columns), options.largest)
        frame = file.read().to_pandas()
    if options.entries is not False and len(frame.columns) <= _LISTED or options.entries:
        # It may be a list of entries, and what is one is decided in one place.
        counts = isinstance(frame.index, pd.RangeIndex)
        return read_text(path, frame.to_csv(index=not counts).encode(), options._replace(variable=None))
    said = ""
    if len(frame.columns) > 1 and _is_text(frame.iloc[:, 0]):
        said = f"rows named by the column {frame.columns[0]}"
        frame = frame.set_index(frame.columns[0])
    text = [str(name) for place, name in enumerate(frame.columns) if _is_text(frame.iloc[:, place])]
    if text:
        instead = "drop the column, or make it the index"
        raise problem_with(path.name, f"text in the column {text[0]}", "needs columns of numbers", instead)
    return from_file(frame, path, said, *labels_of(frame))


def _package(name: str, path: Path) -> Any:
    """Return an optional package, or say how to get it."""
    try:
        return import_module(name)
    except ImportError:
        needed = f"needs the package {name}, which is not installed"
        raise problem_with("file", path, needed, "pip install 'jaxfact[export]', which includes it") from None


def _shapes(name: str, node: Any) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of a dataset or group that is a matrix of numbers, by its name."""
    if name.startswith("#") or node.attrs.get("MATLAB_class") in _TEXT_OF_MATLAB or "MATLAB_empty" in node.attrs:
        return {}
    if (sparse := _sparse_shape(node)) is not None:
        return {name: sparse}
    dtype = getattr(node, "dtype", None)
    is_matrix = dtype is not None and len(node.shape) == 2 and (dtype.kind in "iufbc" or _complex_of_matlab(dtype))
    return {name: node.shape[::-1] if "MATLAB_class" in node.attrs else node.shape} if is_matrix else {}


def _sparse_shape(node: Any) -> tuple[int, int] | None:
    """Return the shape of a sparse matrix whose parts are the members of a group; None of all else."""
    attributes = node.attrs
    if "MATLAB_sparse" in attributes:
        return int(attributes["MATLAB_sparse"]), len(node["jc"]) - 1
    if _sparse_kind(node) in _SPARSE:
        m, n = attributes["shape"] if "shape" in attributes else attributes["h5sparse_shape"]
        return int(m), int(n)
    return None


def _sparse_kind(node: Any) -> str:
    kind = node.attrs.get("encoding-type", node.attrs.get("h5sparse_format", ""))
    return {"csr": "csr_matrix", "csc": "csc_matrix"}.get(str(kind), str(kind))


def _complex_of_matlab(dtype: np.dtype) -> bool:
    return dtype.names == ("real", "imag")


def _read_node(node: Any, path: Path, options: ReadOptions, rows: Any = None, columns: Any = None) -> xr.DataArray:
    """Read a dataset or a sparse group once its declared size is known to be allowed."""
    shape = _sparse_shape(node)
    check_size(path.name, node.shape if shape is None else shape, options.largest)
    if shape is not None:
        return from_sparse_file(_sparse(node, shape, options.largest), path, options, rows, columns)
    values = np.asarray(node[...])
    if _complex_of_matlab(values.dtype):
        values = values["real"] + 1j * values["imag"]
    # MATLAB stores columns one after the other, which other readers see as rows.
    return from_file(values.T if "MATLAB_class" in node.attrs else values, path, "", rows, columns)


def _sparse(node: Any, shape: tuple[int, int], largest: int) -> Any:
    """Return a sparse matrix of a group, its indices checked: SciPy trusts them."""
    is_matlab = "MATLAB_sparse" in node.attrs
    names = ("data", "ir", "jc") if is_matlab else ("data", "indices", "indptr")
    for name in names:
        if name in node:
            check_size(name, node[name].shape, largest + 1)
    # MATLAB leaves out the parts of a matrix that stores nothing.
    parts = [np.asarray(node[name][...]) if name in node else np.zeros(0) for name in names]
    values, indices, pointers = parts[0], *(part.astype(np.int64) for part in parts[1:])
    made = scipy.sparse.csc_array if is_matlab else _SPARSE[_sparse_kind(node)]
    matrix = made((values, indices, pointers), shape=shape)
    matrix.check_format(full_check=True)
    return matrix


def _annotations(file: Any, name: str, shape: tuple[int, ...]) -> list[np.ndarray | None]:
    """Return the names of observations and variables beside a matrix of AnnData."""
    if name != "X" and not name.startswith("layers/"):
        return [None, None]
    return [_index(file.get(part), size) for part, size in zip(("obs", "var"), shape, strict=True)]


def _index(group: Any, size: int) -> np.ndarray | None:
    if group is None:
        return None
    place = group.attrs.get("_index")
    if place is None or place not in group or group[place].shape != (size,):
        return None
    names = group[place]
    return names.asstr()[...] if names.dtype.kind == "O" else names[...]


def _read_variable(file: xr.Dataset, path: Path, options: ReadOptions, variable: str | None) -> xr.DataArray:
    """Read a variable with its coordinates."""
    numeric = {str(name): array.shape for name, array in file.variables.items() if array.dtype.kind in "iufbc"}
    matrices = {name: shape for name, shape in numeric.items() if name in file.data_vars and len(shape) == 2}
    array = file[chosen(path, matrices if variable is None else numeric, variable)]
    if array.ndim != 2:
        given = f"{array.name} with the dimensions {', '.join(map(str, array.dims)) or 'none'}"
        raise problem_with(path.name, given, "needs two dimensions", "save the slice that is meant")
    check_size(path.name, array.shape, options.largest)
    return from_file(array.values, path, "", *labels_of(array))


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.is_string_dtype(column.dtype) and not pd.api.types.is_numeric_dtype(column.dtype)
