"""What Zarr writes about arrays and how it writes numbers, as far as a store has need of it.

Zarr's own writer hands every array to another thread, which waits there for cores that runs have taken: 4 ms per
variable, where this takes a fraction of one. Zarr reads it all.
"""

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

COORDINATES = 65536
"""Values in a part of a coordinate along the axes and the seeds."""

LARGEST = 2**27
"""All coordinates of a store together have no more places on disk: a gigabyte of memory, which a short root may ask."""

SUM = 4
"""Bytes of a CRC-32C."""

_FILL: dict[str, Any] = {"f": "NaN", "i": -1, "u": 0, "b": False}
_KINDS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
_BYTES: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC: dict[str, Any] = {"name": "crc32c"}
_GZIP: dict[str, Any] = {"name": "gzip", "configuration": {"level": 1}}
_KEYS = {"name": "default", "configuration": {"separator": "."}}  # all of an array in one folder: one listing


class Variable(NamedTuple):
    """An array: its dimensions, its type and its attributes; `values` of one that runs do not change."""

    dims: tuple[str, ...]
    dtype: np.dtype
    attributes: dict[str, Any]
    values: np.ndarray | None = None


def crc(content: bytes) -> int:
    """Return the CRC-32C of some bytes."""
    return google_crc32c.value(content)


def summed(content: bytes) -> bytes:
    """Return some bytes with their CRC-32C behind them."""
    return content + crc(content).to_bytes(SUM, "little")


def is_summed(content: bytes) -> bool:
    """Tell whether the last bytes are the CRC-32C of those before."""
    return len(content) >= SUM and crc(content[:-SUM]).to_bytes(SUM, "little") == content[-SUM:]


def dtype_named(name: Any) -> np.dtype:
    """Return a type by its name in Zarr. Raises ValueError for types that no sweep has."""
    if name not in _KINDS:
        raise ValueError(name)
    return np.dtype(name)


def array_of(
    variable: Variable, shape: Sequence[int], chunk: Sequence[int], parts: Sequence[int] | None
) -> dict[str, Any]:
    """Return the metadata of an array of a shape in chunks; with `parts`, these are shards of such parts."""
    codecs: list[Any] = [_BYTES, _GZIP, _CRC]
    if parts is not None:
        inner = {"chunk_shape": list(parts), "codecs": [_BYTES, _CRC], "index_codecs": [_BYTES, _CRC]}
        codecs = [{"name": "sharding_indexed", "configuration": {**inner, "index_location": "end"}}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": variable.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": _KEYS,
        "fill_value": _FILL[variable.dtype.kind],
        "codecs": codecs,
        "attributes": variable.attributes,
        "dimension_names": list(variable.dims),
        "storage_transformers": [],
    }


def fill_of(dtype: np.dtype) -> Any:
    """Return the number that stands where nothing was written."""
    return dtype.type(_FILL[dtype.kind])


def chunk_key(name: str, places: Sequence[int]) -> str:
    """Return the key of a part of an array."""
    return f"{name}/{'.'.join(('c', *map(str, places)))}"


def chunk_of(values: np.ndarray) -> bytes:
    """Return a chunk of a coordinate."""
    return summed(gzip.compress(_little(values).tobytes(), 1, mtime=0))


def is_chunk_of(content: bytes, values: np.ndarray) -> bool:
    """Tell whether a chunk of a coordinate holds such values."""
    wanted = _little(values).tobytes()
    unpacked = zlib.decompressobj(wbits=31)
    try:
        found = unpacked.decompress(content[:-SUM], len(wanted) + 1)
    except zlib.error:
        return False
    return is_summed(content) and found == wanted


def parts_along(values: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Yield a coordinate in parts of a length, the last one filled up."""
    for begin in range(0, len(values), length):
        part = np.full(length, fill_of(values.dtype), values.dtype)
        part[: len(values[begin : begin + length])] = values[begin : begin + length]
        yield part


def as_text(values: np.ndarray) -> dict[str, Any]:
    """Return numbers as JSON holds them, with every bit: whole ones as ranges, others one by one."""
    flat = np.ravel(values)
    kept: dict[str, Any] = {"dtype": values.dtype.name, "shape": list(values.shape)}
    if values.dtype.kind == "f":
        return kept | {"numbers": [x if math.isfinite(x) else str(x) for x in flat.tolist()]}
    whole = flat.astype(np.int64, copy=False)
    begins = np.concatenate([np.zeros(min(1, len(whole)), np.int64), np.flatnonzero(np.diff(whole) != 1) + 1])
    lengths = np.diff(begins, append=len(whole))
    return kept | {"ranges": np.stack([whole[begins], lengths], axis=1).tolist()}


def from_text(kept: Mapping[str, Any]) -> np.ndarray:
    """Return the numbers of `as_text`. Raises ValueError, KeyError or TypeError for what it cannot have written."""
    dtype, shape = dtype_named(kept["dtype"]), shape_of(kept)
    if dtype.kind == "f":
        return np.array([float(x) for x in kept["numbers"]], dtype).reshape(shape)
    ranges = [(int(begin), int(length)) for begin, length in kept["ranges"]]
    if any(length < 1 for _, length in ranges) or sum(length for _, length in ranges) != math.prod(shape):
        raise ValueError("another number of values")
    begins, lengths = np.array(ranges, np.int64).reshape(-1, 2).T
    numbers = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    numbers += np.arange(len(numbers))
    return numbers.astype(dtype, copy=False).reshape(shape)


def shape_of(kept: Mapping[str, Any]) -> list[int]:
    """Return the shape of what `as_text` holds, before any of it is made. Raises ValueError, KeyError or TypeError."""
    shape = [int(length) for length in kept["shape"]]
    if any(length < 0 for length in shape):
        raise ValueError("shape")
    return shape


def _little(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)
