"""Files and folders that appear whole under their name, or not at all: nobody sees half of one.

What is made lies beside its place until then, under the same name with process, thread and `.partial` behind it, so
that several processes may make the same thing, and what a killed one has left is recognised by its name.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxfact.inputs import problem_with

_NAMED = 3  # things in a folder that is not empty


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to, beside the file's; at the end the file is put in place, or replaced.

    Nothing is left of it if an exception ends the block. Raises OSError where the file cannot be put there.
    """
    made = _beside(path)
    try:
        yield made
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, *, new: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, beside the path; at the end it is put in place, its parents made.

    A folder that exists and is empty is filled, unless it is to be a `new` one. Nothing is left if an exception ends
    the block. Raises OSError where the folder cannot be put there, also because another process has meanwhile put
    something there.
    """
    # A mount, a link or the current folder cannot be replaced, only filled.
    fills = path.is_dir() and not new
    made = _beside(path.absolute())
    made.mkdir(parents=True)
    try:
        yield made
        if fills:
            for part in sorted(made.iterdir()):
                shutil.move(part, path / part.name)
        else:
            made.rename(path)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_new_file(path: Path) -> None:
    """Refuse the name of a file that exists; called before anything is computed."""
    if path.exists():
        raise problem_with("out", path, "exists already", "choose another file, or remove it")


def check_new_folder(path: Path) -> None:
    """Refuse a folder that cannot be made or that holds something; called before anything is computed."""
    if path.exists() and not path.is_dir():
        raise problem_with("out", path, "is a file", "name a new folder")
    if path.is_dir() and (there := sorted(part.name for part in path.iterdir())):
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        held = f"is a folder that holds {', '.join(there[:_NAMED])}{more}"
        raise problem_with("out", path, held, "name a new folder, or remove this one")
    parent = next(p for p in (path, *path.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryDirectory(dir=parent):
            pass
    except OSError as error:
        raise problem_with("out", path, f"cannot be written ({error.strerror})", "choose another folder") from None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
