"""Shards as Zarr lays them out, made and read by the thread that has the numbers."""

import math
from collections.abc import Sequence

import numpy as np

from jaxfact.store.metadata import SUM, crc, is_summed

_SMALL = 4096  # numbers in the smallest part of a shard that is read on its own
_PLACE = 16  # bytes that say where a part is


def parts_of(shard: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of what is read at once: one value of the leading dimensions, unless that is too small."""
    parts, numbers = list(shard), math.prod(shard)
    for k, length in enumerate(shard):
        if numbers // length < _SMALL:
            break
        parts[k], numbers = 1, numbers // length
    return tuple(parts)


def shard_of(values: np.ndarray, parts: Sequence[int]) -> bytes:
    """Return an array as a shard of such parts, each with its CRC-32C, and an index of where they are, with its own.

    This is Zarr's codec `sharding_indexed` with the codecs `bytes` and `crc32c` inside and for the index.
    """
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    grid = [length // part for length, part in zip(values.shape, parts, strict=True)]
    split = values.reshape([n for pair in zip(grid, parts, strict=True) for n in pair])
    split = split.transpose(*range(0, split.ndim, 2), *range(1, split.ndim, 2)).reshape(-1, *parts)
    contents = [part.tobytes() for part in split]
    lengths = np.array([len(content) + SUM for content in contents], "<u8")
    contents.append(np.stack([np.cumsum(lengths) - lengths, lengths], axis=1).tobytes())
    return b"".join(piece for content in contents for piece in (content, crc(content).to_bytes(SUM, "little")))


def length_of(shard: Sequence[int], dtype: np.dtype) -> int:
    """Return how many bytes a shard of a shape has."""
    parts = math.prod(shard) // math.prod(parts_of(shard))
    return math.prod(shard) * dtype.itemsize + parts * (SUM + _PLACE) + SUM


def values_in(content: bytes, shard: Sequence[int], dtype: np.dtype) -> np.ndarray | None:
    """Return the array in a shard, None where a length or a checksum is not right."""
    parts = parts_of(shard)
    grid = [length // part for length, part in zip(shard, parts, strict=True)]
    count, each = math.prod(grid), math.prod(parts) * dtype.itemsize
    pieces = [content[k * (each + SUM) : (k + 1) * (each + SUM)] for k in range(count)]
    index = content[count * (each + SUM) :]
    if len(content) != length_of(shard, dtype) or not all(map(is_summed, [*pieces, index])):
        return None
    split = np.frombuffer(b"".join(piece[:-SUM] for piece in pieces), dtype.newbyteorder("<"))
    dims = len(shard)
    order = [k for pair in zip(range(dims), range(dims, 2 * dims), strict=True) for k in pair]
    return split.reshape(*grid, *parts).transpose(order).reshape(shard).astype(dtype)
