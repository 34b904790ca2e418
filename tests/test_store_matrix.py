"""Damage of every kind of file × every kind of damage × every command: nothing silent, and nothing whole is lost.

Here each command meets each damage, of one kind of file after the other. JAXFACT_WHOLE_MATRIX=1 has it meet all kinds.
"""

import errno
import itertools
import os
import shutil
import warnings
from pathlib import Path

import pytest
from commands import Called
from test_store_faults import DAMAGES, KINDS, file_of, results, swept

import jaxfact as jf
from jaxfact.store.medium import StoreError

COMMANDS = {
    "status": ["status"],
    "check": ["status", "--check"],
    "export": ["export", "--to", "csv", "--out", "runs.csv"],
    "report": ["report"],
    "replay": ["replay", "--variant", "plain", "step_size=0.2", "--seed", "0"],
    "sweep": [],
}
UNREADABLE = "unreadable"
WAYS = {damage.__name__: damage for damage in DAMAGES} | {UNREADABLE: None}
ALL = list(itertools.product(COMMANDS, WAYS, KINDS))
PLACES = {case: 3 * k + w for k, c in enumerate(COMMANDS) for w, way in enumerate(WAYS) for case in [(c, way)]}
SOME = [case for case in ALL if list(KINDS).index(case[2]) == PLACES[case[:2]] % len(KINDS)]


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file, but locks; a link as what it leads to."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture
def store(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "inside" / "runs.zarr"))


@pytest.fixture
def told(call, experiments, store):
    """Return a function that has a command, or a sweep, meet the store."""

    def meet(command: str) -> Called:
        if command != "sweep":
            first, *others = COMMANDS[command]
            return call(first, store, *others)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                swept(experiments, store)
            except StoreError as error:
                return Called(1, "", f"jaxfact: {error}\n")
        return Called(0, "", "".join(f"jaxfact: note: {one.message}\n" for one in said))

    return meet


@pytest.mark.parametrize(("command", "way", "kind"), ALL if os.environ.get("JAXFACT_WHOLE_MATRIX") else SOME)
def test_what_a_command_does_with_damage(told, monkeypatch, store, stored, command, way, kind):
    file = file_of(store, kind)
    if way == UNREADABLE:
        assert_an_error_of_reading_is_not_damage(told, monkeypatch, store, file, command)
        return
    WAYS[way](file)
    where = "tiles/marks-" if kind == "marks" else file.relative_to(store).as_posix()
    folder = store.parents[1]
    before = contents(folder)
    ended = told(command)
    assert all(line.startswith("jaxfact: ") for line in ended.err.splitlines())
    if command == "sweep":
        # Lost marks are made from the tiles, which loses nothing.
        assert where in ended.err or (kind, way) == ("marks", "unlink")
        assert results(store) == results(stored)
        assert jf.status(store, check=True).damaged == {}
        after = contents(folder)
        assert {after.get(name) == before[name] for name in before if name.endswith("outside")} <= {True}
        if way in ("flip", "cut"):  # what was damaged was moved aside
            assert before[file.relative_to(folder).as_posix()] in after.values()
        return
    assert where in (ended.out if command in ("status", "check") else ended.err)
    # Where all marks are lost there is nothing to draw or to replay; nor is there a run in a damaged tile.
    assert ended.code == (2 if command in ("report", "replay") and kind == "marks" else 1)
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    if command == "export":
        lost = {"a tile": 6, "outcomes": 6, "marks": 36}.get(kind, 0)
        assert len(Path("runs.csv").read_text().splitlines()) == 1 + 36 - lost


def assert_an_error_of_reading_is_not_damage(told, monkeypatch, store, file, command) -> None:
    """One line, where it is read at all, and every file stays as it is; when it can be read again all is whole."""
    os.utime(file)  # newer than it was known to be whole, so that it is read
    before, opened, met = contents(store.parent), os.open, []

    def failing(path, *arguments, **options):
        if os.path.basename(str(path)) == file.name:
            met.append(path)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", failing)
        ended = told(command)
    after = contents(store.parent)
    assert {name: after.get(name) for name in before} == before
    if met:
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.count("\n") == 1
        assert f"cannot be read ({os.strerror(errno.EIO)}); nothing was changed" in ended.err
    else:
        assert ended.code == 0
    assert jf.status(store, check=True).damaged == {}
