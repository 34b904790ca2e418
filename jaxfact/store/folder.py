"""A store in a folder. No link inside it is followed, and files appear whole or not at all."""

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxfact.store.medium import FOREIGN, Damage, StoreError

_INSIDE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe is not waited for
_MADE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
_FOREIGN = (errno.ENOTDIR, errno.ELOOP, errno.EISDIR)
_LINKLESS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_HALF = ".partial"
ASIDE = "tiles/damaged"
"""Where damaged files are moved."""


class Folder:
    """A store in a folder, which need not exist."""

    def __init__(self, path: Path):
        self.folder: Path | None = path
        self.name: str = str(path)
        self._path = path

    def get(self, key: str, begin: int = 0, end: int | None = None) -> bytes | None:
        """Return the content of a file, or the part between two places; None where there is none."""
        try:
            with self._reading(key), self._opened(key) as file:
                length = os.fstat(file).st_size
                start = max(0, length + begin) if begin < 0 else begin
                stop = length if end is None else min(end, length)
                return _read(file, start, max(0, stop - start))
        except FileNotFoundError:
            return None

    def put(self, key: str, content: bytes, *, synced: bool = False) -> None:
        """Put a file in one step, or replace it."""
        with self._written(key, content, synced) as (folder, made, name):
            _in_place(key, folder, made, name)
            if synced:
                os.fsync(folder)

    def put_new(self, key: str, content: bytes) -> bool:
        """Put a file in one step, synced, and tell whether it lies there; not where there is another already."""
        with self._written(key, content, synced=True) as (folder, made, name):
            try:
                os.link(made, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return False
            except OSError as error:  # a file system without hard links
                if error.errno not in _LINKLESS:
                    raise
                with suppress(FileNotFoundError):
                    os.stat(name, dir_fd=folder, follow_symlinks=False)
                    return False
                _in_place(key, folder, made, name)
            os.fsync(folder)
            return True

    def list(self, folder: str) -> list[str]:
        """Return the names of what is in a folder; none where there is no such folder."""
        try:
            with self._reading(folder), self._inside(folder) as inside:
                return [name for name in os.listdir(inside) if not name.endswith(_HALF)]
        except FileNotFoundError:
            return []

    def count(self, folder: str) -> int:
        """Return how many names there are in a folder, half-written files included: the least that can be asked."""
        try:
            with self._reading(folder), self._inside(folder) as inside:
                return len(os.listdir(inside))
        except FileNotFoundError:
            return 0

    def delete(self, key: str) -> None:
        """Remove a file, where it is there."""
        parent, _, name = key.rpartition("/")
        with suppress(FileNotFoundError), self._inside(parent) as inside:
            os.unlink(name, dir_fd=inside)

    def size(self, key: str) -> int | None:
        """Return how many bytes a file has, None where there is none."""
        try:
            with self._reading(key), self._opened(key) as file:
                return os.fstat(file).st_size
        except FileNotFoundError:
            return None

    def seen(self, folder: str, names: Sequence[str]) -> np.ndarray:
        """Return the length and the time of change, in nanoseconds, of files in a folder.

        The length is −1 for what is not there, and −2 for what is a link or of another kind.
        """
        found = np.full((len(names), 2), -1, np.int64)
        try:
            with self._reading(folder), self._inside(folder) as inside:
                for k, name in enumerate(names):
                    with suppress(FileNotFoundError):
                        about = os.stat(name, dir_fd=inside, follow_symlinks=False)
                        found[k] = (about.st_size, about.st_mtime_ns) if stat.S_ISREG(about.st_mode) else (-2, 0)
        except (FileNotFoundError, Damage):  # nothing that was written there is there
            pass
        return found

    def put_aside(self, key: str) -> str:
        """Move what is damaged out of the way, whatever it is, and return where it is now."""
        *parents, name = key.split("/")
        for k in range(len(parents)):
            try:
                with self._inside("/".join(parents[: k + 1])):
                    pass
            except Damage:
                return self.put_aside("/".join(parents[: k + 1]))
        kept = f"{ASIDE}/{'.'.join((*parents, name))}.{time.time_ns()}"
        if kept.startswith(f"{key}/"):  # what lies in the place of the folder it would be moved to
            kept = f"{key.replace('/', '.')}.damaged.{time.time_ns()}"
        into, _, last = kept.rpartition("/")
        with self._inside("/".join(parents)) as old, self._inside(into, made=True) as new:
            os.rename(name, last, src_dir_fd=old, dst_dir_fd=new)
        return kept

    def is_empty(self) -> bool:
        """Tell whether there is nothing, apart from folders and what a killed process has left half written."""
        if not os.path.lexists(self._path):
            return True

        def refuse(error: OSError) -> NoReturn:
            raise error  # what cannot be read may hold anything

        files = (name for _, _, names in os.walk(self._path, onerror=refuse) for name in names)
        return self._path.is_dir() and all(name.endswith(_HALF) for name in files)

    def exists(self) -> bool:
        """Tell whether the folder, or something else of its name, is there."""
        return self._path.exists()

    def tidy(self, key: str) -> None:
        """Remove what processes that died in the middle of a file have left of it."""
        parent, _, begin = key.rpartition("/")
        with suppress(FileNotFoundError, Damage), self._inside(parent) as inside:
            for name in os.listdir(inside):
                if name.startswith(f"{begin}.") and name.endswith(_HALF):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=inside)

    def made(self, folder: str) -> Path:
        """Return the path of a folder inside, which is made where it is missing. Raises Damage where it is a link."""
        with self._inside(folder, made=True):
            return self._path / folder

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        """Say of what cannot be read that it is no damage."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            said = f"{self.name}: {key} cannot be read ({error.strerror}); nothing was changed, try again"
            raise StoreError(error.errno, said) from error

    @contextmanager
    def _inside(self, folder: str, *, made: bool = False) -> Iterator[int]:
        """Yield a descriptor of a folder inside, reached without following a link."""
        if made:
            self._path.mkdir(parents=True, exist_ok=True)
        try:
            at, now = "", os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError:
            raise FileNotFoundError(errno.ENOENT, "is not a folder", self.name) from None
        try:
            for name in filter(None, folder.split("/")):
                at = f"{at}/{name}".lstrip("/")
                if name in (".", ".."):  # no store has such a key
                    raise Damage(at, FOREIGN)
                with _not_foreign(at):
                    inner = _stepped(now, name, made=made)
                os.close(now)
                now = inner
            yield now
        finally:
            os.close(now)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        parent, _, name = key.rpartition("/")
        with self._inside(parent) as inside:
            with _not_foreign(key):
                file = os.open(name, _READ, dir_fd=inside)
            try:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise Damage(key, FOREIGN)
                yield file
            finally:
                os.close(file)

    @contextmanager
    def _written(self, key: str, content: bytes, synced: bool) -> Iterator[tuple[int, str, str]]:
        """Yield a folder, the name of a new file in it that has the content, and the name that it is to have."""
        parent, _, name = key.rpartition("/")
        made = f"{name}.{os.getpid()}-{threading.get_ident()}{_HALF}"
        with self._inside(parent, made=True) as inside:
            with suppress(FileNotFoundError):
                os.unlink(made, dir_fd=inside)
            file = os.open(made, _MADE, 0o666, dir_fd=inside)
            try:
                try:
                    _write(file, content)
                    if synced:
                        os.fsync(file)
                finally:
                    os.close(file)
                yield inside, made, name
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(made, dir_fd=inside)


def _stepped(folder: int, name: str, *, made: bool) -> int:
    """Return the descriptor of a folder in another, which is made where that is wanted."""
    try:
        return os.open(name, _INSIDE, dir_fd=folder)
    except FileNotFoundError:
        if not made:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, _INSIDE, dir_fd=folder)


def _in_place(key: str, folder: int, made: str, name: str) -> None:
    with _not_foreign(key):
        os.replace(made, name, src_dir_fd=folder, dst_dir_fd=folder)


@contextmanager
def _not_foreign(key: str) -> Iterator[None]:
    """Turn what the system says of a link, or of a folder in place of a file, into a Damage."""
    try:
        yield
    except OSError as error:
        if error.errno in _FOREIGN:
            raise Damage(key, FOREIGN) from None
        raise


def _read(file: int, begin: int, length: int) -> bytes:
    parts = []
    while length:
        part = os.pread(file, length, begin)
        if not part:
            break
        parts.append(part)
        begin, length = begin + len(part), length - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
