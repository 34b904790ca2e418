"""Shards as Zarr lays them out, made by the thread that has the numbers.

Zarr's own writer hands every array to another thread, which waits there for cores that runs have taken: 4 ms per
variable, where this takes a fraction of one. Zarr reads them.
"""

import math
from collections.abc import Sequence

import google_crc32c
import numpy as np

_SMALL = 4096  # numbers in the smallest part of a shard that is read on its own
_CHECKSUM = 4  # bytes


def parts_of(shard: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of what is read at once: one value of the leading dimensions, unless that is too small."""
    parts, numbers = list(shard), math.prod(shard)
    for k, length in enumerate(shard):
        if numbers // length < _SMALL:
            break
        parts[k], numbers = 1, numbers // length
    return tuple(parts)


def shard_of(values: np.ndarray, parts: Sequence[int]) -> list[bytes]:
    """Return an array as a shard of such parts, each with its CRC-32C, and an index of where they are, with its own.

    This is Zarr's codec `sharding_indexed` with the codecs `bytes` and `crc32c` inside and for the index.
    """
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    grid = [length // part for length, part in zip(values.shape, parts, strict=True)]
    split = values.reshape([n for pair in zip(grid, parts, strict=True) for n in pair])
    split = split.transpose(*range(0, split.ndim, 2), *range(1, split.ndim, 2)).reshape(-1, *parts)
    contents = [part.tobytes() for part in split]
    lengths = np.array([len(content) + _CHECKSUM for content in contents], "<u8")
    contents.append(np.stack([np.cumsum(lengths) - lengths, lengths], axis=1).tobytes())
    return [piece for content in contents for piece in (content, _checksum(content))]


def _checksum(content: bytes) -> bytes:
    return google_crc32c.value(content).to_bytes(_CHECKSUM, "little")
