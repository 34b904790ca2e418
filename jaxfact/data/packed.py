"""What a file holds, out of its compressed wrapper where it has one, and never more of it than is allowed."""

import bz2
import gzip
import importlib
import lzma
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from jaxfact.inputs import problem_with

_CHUNK = 2**20


def unpacked(path: Path, member: str | None, most: int) -> tuple[str, bytes]:
    """Return the name and the bytes of what a wrapper holds; of a .zip, of its only file or the one named.

    Raises ValueError for more than `most` bytes, for a .zip of several files of which none is named, and for a wrapper
    that this Python cannot open; for damage, what the standard library raises.
    """
    with ExitStack() as opened:
        if path.suffix.lower() == ".zip":
            archive = opened.enter_context(zipfile.ZipFile(path))
            name = _member(path, archive, member)
            file = opened.enter_context(archive.open(name))
        else:
            name = path.stem
            file = opened.enter_context(_OPENERS[path.suffix.lower()](path))
        return name, _bounded(path, file, most)


def contents(path: Path, most: int) -> bytes:
    """Return the bytes of a file without a wrapper, or refuse more than `most`."""
    with path.open("rb") as file:
        return _bounded(path, file, most)


def _bounded(path: Path, file: IO[bytes], most: int) -> bytes:
    chunks, size = [], 0
    while chunk := file.read(_CHUNK):
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            needed = f"holds more than {most / 1e9:.3g} GB, of which no more is read unless asked for"
            raise problem_with("file", path, needed, "pass a larger largest= (--largest) if memory allows")
    return b"".join(chunks)


def _member(path: Path, archive: zipfile.ZipFile, wanted: str | None) -> str:
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        listed = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
        missing = "" if wanted is None else f" and no {wanted}"
        raise problem_with("file", path, f"holds {len(names)} files{missing}: {listed}", f"name one, as {path}:NAME")
    return wanted


def _zstandard(path: Path) -> Any:
    """Open .zst, which Python's own library reads from 3.14 on."""
    for module in ("compression.zstd", "zstandard"):
        try:
            return importlib.import_module(module).open(path, "rb")
        except ImportError:
            continue
    needed = "is compressed by zstandard, which needs Python 3.14 or the package zstandard"
    raise problem_with("file", path, needed, "pip install zstandard, or compress it with gzip")


_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
    ".zst": _zstandard,
}
WRAPPERS = (*_OPENERS, ".zip")
