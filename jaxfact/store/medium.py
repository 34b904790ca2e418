"""Where a store's files lie: in a folder, or as the objects of a service. Nothing else knows which.

All that a store asks of a place is to get, to put whole, to put if absent, to list, to delete and to tell a size.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union
from urllib.parse import unquote

from jaxfact.inputs import problem_with, shown

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

Place: TypeAlias = Union[str, os.PathLike[str], "ZarrStore"]  # noqa: UP007 - a name that is not there yet
"""What a user may give as a store: a path, a URL, or a Zarr store object."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SERVICES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")
_SHORTENED = re.compile(f"({'|'.join(_SERVICES)}|file|memory|https?):/", re.IGNORECASE)


MISSING, FOREIGN = "is missing", "is a link, or of another kind"
"""What a file may be instead of one with wrong bytes in it."""


class Damage(ValueError):
    """What lies at a key of a store is not what was written there; `what` says what it is, after the key."""

    remedy: str = "jaxfact status --check names all that is damaged, and the sweep with --check-store makes it again"

    def __init__(self, key: str, what: str):
        super().__init__(f"{key} {what}")
        self.key: str = key
        self.what: str = what

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.key, self.what)  # from the process of a worker


class DamageWarning(UserWarning):
    """Something of a store is damaged, and was left out."""


class StoreError(OSError):
    """A store could not be read or written; what was written before is safe, and the same call goes on from there."""

    def __str__(self) -> str:
        return str(self.strerror)


class Medium(Protocol):
    """A place of files by key, such as `tiles/root-0.json`.

    What cannot be read, for whatever reason but that it is damaged, raises StoreError; what cannot be written OSError.

    `name` is what a user calls it; `folder` is where it lies, None where locks and times of files do not exist.
    """

    name: str
    folder: Path | None

    def get(self, key: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """Return the content of a file, or the part between two places, the first of which may count from the end.

        None where there is no such file. Raises Damage for what is not a file.
        """
        ...

    def put(self, key: str, content: bytes, *, synced: bool = False) -> None:
        """Put a file in one step, or replace it; `synced` says that it is to outlive a power cut. Raises Damage."""
        ...

    def put_new(self, key: str, content: bytes) -> bool:
        """Put a file in one step, synced, and tell whether it lies there; not where there is another already."""
        ...

    def list(self, folder: str) -> list[str]:
        """Return the names of the files in a folder; none where there is no such folder."""
        ...

    def delete(self, key: str) -> None:
        """Remove a file, where it is there."""
        ...

    def size(self, key: str) -> int | None:
        """Return how many bytes a file has, None where there is none. Raises Damage for what is not a file."""
        ...

    def put_aside(self, key: str) -> str:
        """Move what is damaged out of the way, whatever it is, and return where it is now."""
        ...

    def is_empty(self) -> bool:
        """Tell whether there is nothing, apart from what a killed process has left half written."""
        ...

    def exists(self) -> bool:
        """Tell whether the place itself is there."""
        ...


def put_over(medium: Medium, key: str, content: bytes, *, synced: bool = False) -> None:
    """Put a file, or replace it; a link, or a folder of its name, is moved aside before."""
    try:
        medium.put(key, content, synced=synced)
    except Damage as damage:
        medium.put_aside(damage.key)
        medium.put(key, content, synced=synced)


def medium_of(store: Any) -> Medium:
    """Return the place that a path, a URL or a Zarr store object means; nothing is made.

    Raises ValueError for a URL of another scheme, for a name that is too long, and for anything else.
    """
    from jaxfact.store.folder import Folder

    if isinstance(store, str) and _SCHEME.match(store):
        scheme, _, rest = store.partition("://")
        if scheme.lower() == "file":
            return Folder(_checked(_local(store, rest), store))
        from jaxfact.store.objects import in_memory, in_service

        if scheme.lower() == "memory":
            return in_memory(store)
        if scheme.lower() in _SERVICES:
            return in_service(store)
        needed = "needs a path, or a URL that begins with s3://, gs://, az://, file:// or memory://"
        raise problem_with("store", store, needed, "give one of these")
    if isinstance(store, str | os.PathLike):
        if _SHORTENED.match(str(store)):  # which a Path makes of s3://
            raise problem_with("store", store, "is a URL with one slash only", "write it as text, with two")
        return Folder(_checked(Path(store), store))
    if hasattr(store, "set_if_not_exists"):
        from jaxfact.store.objects import Objects

        return Objects(store, str(store))
    raise problem_with("store", shown(store), "needs a path, a URL or a Zarr store", "give what the sweep was given")


def reachable(store: Place) -> Place:
    """Return a store as other processes find it. Raises ValueError for one in the memory of this process."""
    if isinstance(store, str) and store.lower().startswith("memory://"):
        raise problem_with("store", store, "is in the memory of this process", "give a folder, or another URL")
    folder = medium_of(store).folder
    return store if folder is None else str(folder.absolute())


def _local(url: str, rest: str) -> Path:
    """Return the path in the rest of a file URL; refuse one of another machine, or of no folder."""
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise problem_with("store", url, f"{host or 'nothing'} is no path from the root", "write file:///, or a path")
    return Path(f"/{unquote(path).lstrip('/')}")


def _checked(path: Path, given: Any) -> Path:
    """Return a path with its `~` expanded; refuse one that no file system takes."""
    try:
        path = path.expanduser()
    except RuntimeError:
        raise problem_with("store", given, "there is no such home", "write the path out") from None
    if not str(given) or "\0" in str(path):
        raise problem_with("store", shown(str(given)), "is no path", "give another")
    if len(os.fsencode(path.name)) > 255:
        raise problem_with("store", f"{str(path)[:40]}…", "its name is longer than file systems take", "give a shorter")
    return path
