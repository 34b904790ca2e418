"""A store as Zarr's reader is shown it: the tiles that are marked and whole, and nothing else that may lie there."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import numpy as np
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from jaxfact.store.grid import Tile
from jaxfact.store.medium import MISSING, Damage, Medium
from jaxfact.store.metadata import is_summed
from jaxfact.store.objects import Objects
from jaxfact.store.root import ROOT, Root
from jaxfact.store.shards import values_in


class Shown(Store):
    """The results in a store, read-only; `done` says which tiles are shown, in their places.

    What is not shown reads as not there, so that its runs are pending. A file that has gone since raises Damage.
    """

    def __init__(self, medium: Medium, root: Root, done: np.ndarray):
        super().__init__(read_only=True)
        self._medium, self._root, self._content, self._done = medium, root, root.content(), done

    def __eq__(self, other: object) -> bool:
        """Tell whether it is the same."""
        return self is other

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the root, or what lies in a tile that is shown."""
        if key == ROOT:
            return prototype.buffer.from_bytes(self._content)
        if not self._is_shown(key):
            return None
        begin, end = _part(byte_range)
        if isinstance(self._medium, Objects):
            content = await self._medium.found(key, begin, end)
        else:
            content = self._medium.get(key, begin, end)
        if content is None:
            raise Damage(key, MISSING)
        # All that Zarr asks for alone has its checksum behind it.
        name = key.partition("/")[0]
        if byte_range is None:
            is_right = values_in(content, self._root.shard(name), self._root.variables[name].dtype) is not None
        else:
            is_right = is_summed(content)
        if not is_right:
            raise Damage(key, "has another checksum than it should")
        return prototype.buffer.from_bytes(content)

    def _is_shown(self, key: str) -> bool:
        name, _, file = key.partition("/")
        tile = self._tile(name, file) if name in self._root.of_runs else None
        return tile is not None and bool(self._done[tile])

    def _tile(self, name: str, file: str) -> Tile | None:
        """Return the tile that a file of a variable belongs to."""
        first, *places = file.split(".")
        dims = self._root.variables[name].dims
        if first != "c" or len(places) != len(dims):
            return None
        along = dict(zip(dims, map(int, places), strict=True))
        return tuple(along.get(dim, 0) for dim in ("variant", *self._root.grid.names))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several parts."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether a file is shown."""
        return key == ROOT or self._is_shown(key)

    @property
    def supports_writes(self) -> bool:
        """Nothing is written."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """Nothing is deleted."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Nothing is listed: the root says what there is."""
        return False

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        raise PermissionError(key)

    async def delete(self, key: str) -> None:
        """Refuse."""
        raise PermissionError(key)

    async def list(self) -> AsyncIterator[str]:
        """Yield what is always there."""
        yield ROOT

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is always there."""
        if ROOT.startswith(prefix):
            yield ROOT

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield what is always there."""
        if not prefix:
            yield ROOT


def _part(wanted: Any) -> tuple[int, int | None]:
    """Return the two places that Zarr means."""
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, wanted.end
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, None
    return (-wanted.suffix, None) if isinstance(wanted, SuffixByteRequest) else (0, None)
