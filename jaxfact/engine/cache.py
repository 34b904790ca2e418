"""Compiled code, kept from one process to the next in a folder of the user's cache.

JAX has such a cache too, but it is a setting of the whole process, which is the user's to make. `JAXFACT_CACHE=off`
switches this one off and `JAXFACT_CACHE=/a/folder` moves it; other switches and numbers mean what they mean elsewhere,
and no folder. Nothing here fails or warns: what cannot be read is made again, and what cannot be written is not kept.
Code is of one kind of processor, so each has a folder of its own.
"""

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

_LARGEST = 500_000_000  # bytes in all; a program has a few hundred thousand
_OFF, _ON = ("off", "0", "no", "false"), ("", "on", "yes", "true")
_FOLDERS, _SUFFIX, _UNFINISHED = "code-*", ".bin", ".part"
_ABANDONED = 3600.0  # seconds after which what a killed process was writing is removed
_DIGEST = hashlib.sha256().digest_size


def get(key: str) -> bytes | None:
    """Return what was kept under a key, or None where nothing is, or what is there is damaged or of another user."""
    if (file := _file(key)) is None:
        return None
    try:
        with file.open("rb") as opened:
            if not _is_ours(os.fstat(opened.fileno())):
                return None
            digest, content = opened.read(_DIGEST), opened.read()
        os.utime(file)  # the oldest are removed first
    except OSError:
        return None
    return content if hashlib.sha256(content).digest() == digest else None


def put(key: str, content: bytes) -> None:
    """Keep something under a key, whole or not at all, and remove what was not used for longest to make room."""
    if (file := _file(key)) is None or len(content) > _LARGEST // 4:
        return
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made, name = tempfile.mkstemp(suffix=_UNFINISHED, dir=file.parent)
        try:
            with os.fdopen(made, "wb") as opened:
                opened.write(hashlib.sha256(content).digest() + content)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _make_room(file.parent.parent)


def folder() -> Path | None:
    """Return the folder of this cache, which need not exist; None where it is switched off or there is no place."""
    chosen = os.environ.get("JAXFACT_CACHE", "")
    if chosen.lower() in _OFF:
        return None
    if chosen.lower() not in _ON and not chosen.isdecimal():
        return Path(chosen).absolute()
    try:
        return _of_the_user() / "jaxfact"
    except RuntimeError:  # nobody's home
        return None


def _of_the_user() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() else Path.home() / ".cache"


def _file(key: str) -> Path | None:
    top = folder()
    if top is None:
        return None
    return top / _FOLDERS.replace("*", _processor()) / (hashlib.sha256(key.encode()).hexdigest() + _SUFFIX)


@lru_cache(1)
def _processor() -> str:
    """Return a hash of what code may depend on: the kind of processor and its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        told = {line.partition(":")[0].strip(): line for line in lines}
        known = [told.get(name, "") for name in ("vendor_id", "model name", "flags", "CPU part", "Features")]
    except OSError:
        # No other system tells its instructions in a file, but a home folder is seldom shared between such machines.
        known = [platform.processor(), platform.node()]
    return hashlib.sha256("\n".join([sys.platform, platform.machine(), *known]).encode()).hexdigest()[:16]


def _is_ours(found: os.stat_result) -> bool:
    """Tell whether this user wrote a file: what is loaded from it is run."""
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


def _make_room(top: Path) -> None:
    """Remove the files that were not used for longest until the others are few enough, and what was abandoned."""
    files = sorted(_sizes(top, _SUFFIX), reverse=True)
    kept = 0
    for _, size, file in files:
        kept += size
        if kept > _LARGEST:
            _remove(file)
    for used, _, file in _sizes(top, _UNFINISHED):
        if time.time() - used > _ABANDONED:
            _remove(file)


def _sizes(top: Path, ending: str) -> Iterator[tuple[float, int, Path]]:
    """Yield when each file was last used, its size, and its path."""
    for file in top.glob(f"{_FOLDERS}/*{ending}"):
        with suppress(OSError):  # another process has removed it
            found = file.stat()
            yield found.st_mtime, found.st_size, file


def _remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
