"""A store as the objects of a service, or of any Zarr store: nothing is renamed, linked or locked."""

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jaxfact.inputs import problem_with
from jaxfact.store.medium import StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

T = TypeVar("T")

_PAUSES = (0.1, 1.0, 3.0)
"""Seconds before what a service could not do is tried again; all that a store asks may be done twice."""

_LONG = 10.0  # seconds after which it need not: the service's own client has tried it many times by then
_SURE = (FileNotFoundError, PermissionError, MemoryError, ValueError, TypeError, NotImplementedError)

_LAST_RESORTS = ("/latest/api/token", "computeMetadata", "169.254.")
"""Where clients ask for credentials when the environment has none: what answers on machines of a cloud."""

_MEMORIES: dict[str, "ZarrStore"] = {}


class Objects:
    """A store behind a Zarr store object; `name` is what a user calls it."""

    def __init__(self, store: "ZarrStore", name: str):
        self.folder: Path | None = None
        self.name: str = name
        self._store = store

    def get(self, key: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """Return the content of an object, or the part between two places; None where there is none."""
        return self._waited(self.found(key, begin, end))

    async def found(self, key: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """Return what `get` does, to who waits with others."""
        from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
        from zarr.core.buffer import default_buffer_prototype

        if end is not None:
            part = RangeByteRequest(begin, end)
        elif begin:
            part = SuffixByteRequest(-begin) if begin < 0 else OffsetByteRequest(begin)
        else:
            part = None
        found = await self._tried(key, lambda: self._store.get(key, default_buffer_prototype(), part))
        return None if found is None else found.to_bytes()

    def put(self, key: str, content: bytes, *, synced: bool = False) -> None:
        """Put an object, or replace it."""
        self._done(key, lambda: self._store.set(key, _buffer(content)))

    def put_new(self, key: str, content: bytes) -> bool:
        """Put an object if there is none, and tell whether it is the one that is there."""
        self._done(key, lambda: self._store.set_if_not_exists(key, _buffer(content)))
        return self.get(key) == content

    def list(self, folder: str) -> list[str]:
        """Return the names of the objects in a folder."""
        found = self._done(folder, lambda: _collected(self._store.list_prefix(f"{folder}/")))
        return [key.removeprefix(f"{folder}/") for key in found]

    def delete(self, key: str) -> None:
        """Remove an object, where it is there."""
        self._done(key, lambda: self._store.delete(key))

    def size(self, key: str) -> int | None:
        """Return how many bytes an object has, None where there is none."""
        try:
            return self._done(key, lambda: self._store.getsize(key))
        except FileNotFoundError:
            return None

    def put_aside(self, key: str) -> str:
        """Copy a damaged object to where it is not in the way, remove it, and return where it is now."""
        kept = f"tiles/damaged/{key.replace('/', '.')}.{time.time_ns()}"
        if (content := self.get(key)) is not None:
            self.put(kept, content)
            self.delete(key)
        return kept

    def is_empty(self) -> bool:
        """Tell whether there is no object."""
        return self._done("", lambda: self._store.is_empty(""))

    def exists(self) -> bool:
        """Tell whether there is an object."""
        return not self.is_empty()

    def _done(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask a service for something and wait for it."""
        return self._waited(self._tried(key, ask))

    def _waited(self, work: Any) -> Any:
        from zarr.core.sync import sync

        return sync(work)

    async def _tried(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask a service for something, and again where it fails. Raises StoreError, which says what failed last."""
        for pause in (*_PAUSES, None):
            began = time.monotonic()
            try:
                await self._store._ensure_open()  # an archive, for example: nobody else opens it
                return await ask()
            except FileNotFoundError:
                raise
            except Exception as error:
                if pause is None or isinstance(error, _SURE) or time.monotonic() - began > _LONG:
                    raise StoreError(errno.EIO, self._unreached(key, error)) from error
                await asyncio.sleep(pause)
        raise AssertionError("the last try ends in one way or the other")

    def _unreached(self, key: str, error: Exception) -> str:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        instead = "look whether there is such a place, or try again"
        if any(place in said for place in _LAST_RESORTS):
            instead = "no credentials were found, which the environment has to hold as for the service's own tools"
        said = f"{self.name}: {key or 'the store'} cannot be reached ({said})"
        return f"{said}; what is there is unchanged: {instead}"


def in_memory(url: str) -> Objects:
    """Return the store in this process's memory that has this URL."""
    from zarr.storage import MemoryStore

    return Objects(_MEMORIES.setdefault(url.rstrip("/"), MemoryStore()), url)


def in_service(url: str) -> Objects:
    """Return the store of a service; how it is reached says the environment, as its own tools read it.

    Raises ValueError where obstore is not installed, and for a URL that it does not take.
    """
    from zarr.storage import ObjectStore

    try:
        from obstore.store import from_url  # pyright: ignore[reportMissingImports]
    except ImportError:
        instead = "pip install 'jaxfact[cloud]' installs it"
        raise problem_with("store", url, "the package obstore is missing", instead) from None
    try:
        return Objects(ObjectStore(from_url(url)), url)
    except Exception as error:
        raise problem_with("store", url, f"cannot be used ({error})", "correct the URL or the settings") from None


def _buffer(content: bytes) -> Any:
    from zarr.core.buffer import default_buffer_prototype

    return default_buffer_prototype().buffer.from_bytes(content)


async def _collected(keys: Any) -> list[str]:
    return [key async for key in keys]
