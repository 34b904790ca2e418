"""Numbers of any shape out of what people keep them in, promoted by one rule."""

import math
import warnings
from collections.abc import Callable
from os import PathLike
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import scipy.sparse
import xarray as xr
from jaxtyping import Float

from jaxfact.inputs import problem_with

_UNREAL = {
    "U": ("text", "convert the array to numbers first"),
    "S": ("text", "convert the array to numbers first"),
    "T": ("text", "convert the array to numbers first"),
    "M": ("dates", "give them as numbers, for example of days"),
    "m": ("time spans", "give them as numbers, for example of days"),
}


def as_array(value: Any, name: str) -> Float[np.ndarray, "..."]:
    """Return numbers of any shape in float64 or float32, NaN where one is masked or missing.

    They may be in NumPy arrays, masked ones included, nested lists, pandas, xarray, SciPy's sparse arrays, JAX, PyTorch
    and whatever else NumPy or DLPack can read. float32 and float64 stay as they are; bfloat16, float16 and shorter ones
    become float32; integers, booleans and Python's own numbers become float64, and so does long double where it lies in
    that range. Complex numbers without imaginary part are read as real ones, with a warning. None and pandas' NA are
    missing.

    Raises ValueError for complex numbers, text, dates, structures, numbers beyond float64, and what is no array.
    """
    plain = _plain(framed(value), name)
    mask, numbers = np.ma.getmask(plain), np.ma.getdata(plain)
    if mask is np.ma.nomask or mask.dtype.names or not np.any(mask):
        return np.asarray(_real(numbers, name))
    shown = np.array(numbers)
    shown[mask] = np.zeros((), shown.dtype)  # whatever lies under a mask may be no number at all
    real = np.array(_real(shown, name))
    real[mask] = np.nan
    return real


def framed(value: Any) -> Any:
    """Return tables of other libraries, such as PyArrow and Polars, as those of pandas; all else as it is."""
    own = isinstance(value, xr.DataArray | xr.Dataset)
    return value.to_pandas() if hasattr(value, "to_pandas") and not own else value


def centred_exponent(numbers: Any) -> int:
    """Return the e with 2^(e−1) ≤ max |x| < 2^e: divided by 2^e, which is exact, no square over- or underflows."""
    return int(np.frexp(np.max(np.abs(numbers), initial=0))[1])


def times_power(numbers: Any, exponent: int) -> Float[np.ndarray, "..."]:
    """Return numbers·2^exponent in float64."""
    return np.ldexp(np.asarray(numbers, float), exponent)


def _plain(value: Any, name: str) -> np.ndarray:
    """Return what a container holds as an array of NumPy, masked where it has a mask."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, str | bytes | PathLike):
        raise problem_with(name, repr(value), "needs an array of numbers", "read a file with jaxfact.data.read(path)")
    if value is None or isinstance(value, dict | set | xr.Dataset):
        raise problem_with(name, _kind(value), "needs an array of numbers", "give one matrix, a DataFrame for example")
    if isinstance(value, pd.DataFrame):
        return _of_frame(value, name)
    if isinstance(value, list | tuple) and _holds_containers(value):
        rows = [np.ma.asanyarray(_plain(row, name)) for row in value]
        return _tried(np.ma.stack, rows, name)
    return _tried(_converter(value), value, name)


def _converter(value: Any) -> Callable[[Any], np.ndarray]:
    """Return what turns a container into an array."""
    if scipy.sparse.issparse(value):
        return lambda matrix: matrix.toarray()
    if isinstance(value, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        return _of_series
    if isinstance(value, xr.DataArray | xr.Variable):
        return lambda array: np.asarray(array.values)
    if hasattr(value, "detach"):
        return _of_torch
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack
    return np.asarray


def _tried(convert: Callable[[Any], np.ndarray], value: Any, name: str) -> np.ndarray:
    try:
        return convert(value)
    except Exception as error:  # NumPy calls what others wrote: __array__ may raise anything
        detail = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".;")
        needed = f"cannot be read as an array ({detail})"
        raise problem_with(name, _kind(value), needed, "give rows of equal length, of numbers") from None


def _of_frame(frame: pd.DataFrame, name: str) -> np.ndarray:
    if all(isinstance(dtype, np.dtype) and dtype.kind in "iufbc" for dtype in frame.dtypes):
        return frame.to_numpy()
    columns = [as_array(frame.iloc[:, place], f"{name}[{label!r}]") for place, label in enumerate(frame.columns)]
    return np.column_stack(columns)


def _of_series(values: Any) -> np.ndarray:
    series = pd.Series(values)
    if isinstance(series.dtype, np.dtype) or not pd.api.types.is_numeric_dtype(series.dtype):
        return np.asarray(series)
    return series.to_numpy(dtype=float, na_value=np.nan)


def _of_torch(tensor: Any) -> np.ndarray:
    """Return a tensor's numbers: without its gradient, from whatever device, and of dtypes that NumPy lacks."""
    tensor = tensor.detach()
    tensor = tensor if str(tensor.layout) == "torch.strided" else tensor.to_dense()
    try:
        return tensor.numpy(force=True)
    except TypeError:
        return tensor.float().numpy(force=True)


def _holds_containers(value: Any) -> bool:
    """Tell whether a nested list has parts whose masks NumPy would drop, or that it cannot read."""
    kinds = np.ma.MaskedArray | pd.Series | xr.DataArray
    for part in value:
        if isinstance(part, list | tuple):
            if _holds_containers(part):
                return True
        elif isinstance(part, kinds) or hasattr(part, "detach") or scipy.sparse.issparse(part):
            return True
    return False


def _real(array: np.ndarray, name: str) -> Float[np.ndarray, "..."]:
    """Return real numbers in float64 or float32 and the native byte order, by the one rule of `as_array`."""
    given = f"array of shape {array.shape} and dtype {array.dtype}"
    if array.dtype.kind == "O":
        array = _of_objects(array, name)
    if array.dtype.kind == "c":
        if np.any(np.imag(array) != 0):
            raise problem_with(name, given, "needs real numbers", "take the real part or the modulus first")
        warnings.warn(f"{name}: complex numbers without imaginary part are read as real ones", stacklevel=4)
        array = np.real(array)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and size > 8:
        return _of_long_double(array, name)
    if kind == "f" and size == 8 or kind in "iub":
        return array.astype(np.float64, copy=False)
    if jnp.issubdtype(array.dtype, np.floating):
        return array.astype(np.float32, copy=False)
    if kind != "m" and jnp.issubdtype(array.dtype, np.integer):  # of four bits or two
        return array.astype(np.float64)
    what, instead = _UNREAL.get(kind, ("structures", "give one plain array, a field of it for example"))
    if kind == "V" and array.dtype.names is None:
        what, instead = "raw bytes", "bfloat16 for example has no name in .npy: save array.astype('float32')"
    raise problem_with(name, given, f"needs numbers, not {what}", instead)


def _of_objects(array: np.ndarray, name: str) -> np.ndarray:
    flat = [_number(item, name) for item in array.ravel()]
    return np.array(flat, complex if any(isinstance(x, complex) for x in flat) else float).reshape(array.shape)


def _number(item: Any, name: str) -> float | complex:
    """Return one number of an object array, NaN for a missing one."""
    if item is None or item is pd.NA:
        return math.nan
    try:
        if isinstance(item, str | bytes):
            raise TypeError
        return complex(item) if isinstance(item, complex | np.complexfloating) else float(item)
    except OverflowError:
        given = f"a number of {len(str(item))} digits"
        raise problem_with(name, given, "lies beyond double precision", "divide all by a number of its size") from None
    except (TypeError, ValueError):
        given = f"{_kind(item)} among its entries"
        raise problem_with(name, given, "needs a number in every place, or None", "convert or drop it") from None


def _of_long_double(array: np.ndarray, name: str) -> Float[np.ndarray, "..."]:
    finite = np.abs(array[np.isfinite(array)])
    largest, limits = finite.max(initial=0), np.finfo(np.float64)
    if largest > limits.max or 0 < largest < limits.tiny:
        given = f"long doubles up to {np.format_float_scientific(largest, 3)}"
        needed = f"double precision goes from {limits.tiny:.3g} to {limits.max:.3g}"
        raise problem_with(name, given, needed, "divide them by a number of their size")
    return array.astype(np.float64)


def _kind(value: Any) -> str:
    """Return what a value is, with the package it comes from."""
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.split('.')[0]} {kind.__name__}"
