"""A store of somebody who means harm: nothing of it is executed, obeyed or followed, whatever the command."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import assert_one_line

import jaxfact as jf
from jaxfact.store import root as roots
from jaxfact.store import trust
from jaxfact.store.claims import LOCKS, claimed
from jaxfact.store.folder import Folder
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import extend, mend

SCRIPT, ESCAPE = "<script>alert(1)</script>", "\x1b[2J\x1b]0;owned\x07"
NAMES = [f"{SCRIPT}{ESCAPE}", "[red]b[/red]"]
COMMANDS = {
    "status": ["--check"],
    "report": ["--out", "report"],
    "export": ["--to", "csv", "--out", "runs.csv"],
    "replay": ["--seed", "3", "step_size=0.2", "--variant", NAMES[0]],
}
CASES = [*COMMANDS.items(), ("status", ["--json"])]


@pytest.fixture
def store(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "inside" / "runs.zarr"))


@pytest.fixture
def victim(tmp_path) -> Path:
    """Return a file outside the store, which nothing may touch."""
    file = tmp_path / "victim" / "zarr.json"
    file.parent.mkdir()
    file.write_text("whole")
    return file


@pytest.fixture
def evil(store, tmp_path) -> Path:
    """Return the store with code, markup and escapes in what it says of itself, sealed as its writer can."""
    opened = TileStore(store)
    said = dict(opened.root.attributes)
    code = f"open({str(tmp_path / 'pwned')!r}, 'w').close()\n{said['experiment_file'].replace('methods = ', 'evil = ')}"
    said |= {"variants": NAMES, "device": SCRIPT + ESCAPE, "experiment_file": code, "experiment_name": "plain"}
    said["differing"] = [name for name in said["differing"] if not name.startswith("experiment_")]
    variables = dict(opened.root.variables)
    labels = variables["variant"].attributes | {"flag_names": NAMES, "long_name": SCRIPT + ESCAPE}
    variables["variant"] = variables["variant"]._replace(attributes=labels)
    write(store, opened.root._replace(attributes=said, variables=variables).content())
    marks = opened.marks.records.copy()
    marks["host"], marks["seen"] = ESCAPE.encode(), marks["seen"] + 1
    opened.remember(marks)
    return store


def write(store: Path, content: bytes) -> None:
    for key in ("zarr.json", "tiles/root-0.json"):
        (store / key).write_bytes(content)


@pytest.mark.parametrize(("command", "given"), CASES)
def test_nothing_is_executed_or_obeyed(call, evil, command, given):
    ended = call(command, evil, *given)
    assert ended.code in ((2,) if command == "replay" else (0, 1))
    assert not Path("pwned").exists()
    assert not {"\x1b", "\x07", "\x9b"} & set(ended.out + ended.err)
    assert "Traceback" not in ended.err
    if command == "report":
        page = next(Path("report").glob("*.html")).read_text()
        assert "<script" not in page.replace("&lt;script", "")
        assert "&lt;script&gt;alert(1)" in page
        assert "[red]b[/red]" in ended.out


def test_replay_says_what_it_would_execute_and_asks(call, store, tmp_path):
    """The code of this user's sweep is known by its signature; one letter more, and it is anybody's."""
    words = ["--seed", "3", "step_size=0.2", "--variant", "plain"]
    assert call("replay", store, *words).code == 0
    root = TileStore(store).root
    said = root.attributes
    (text,) = {said["experiment_file"]}
    write(
        store, root._replace(attributes=said | {"experiment_file": f"{text}\nopen('pwned', 'w').close()\n"}).content()
    )
    lines = len(text.splitlines()) + 2
    assert_one_line(
        call("replay", store, *words), rf"no sweep of this user has written the {lines} lines.*methods:plain.*--trust"
    )
    with pytest.raises(ValueError, match="no sweep of this user"):
        jf.draw(jf.open_results(store), seed=3, variant="plain", step_size=0.2)
    assert not Path("pwned").exists()
    assert call("replay", store, *words, "--trust").code == 0
    assert Path("pwned").exists()


def test_the_key_is_of_one_user(monkeypatch, tmp_path):
    """What one key has signed another does not know; the file is for its owner alone, and never replaced."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "a"))
    signed = trust.signature("name", "text")
    assert trust.is_own(signed, "name", "text")
    assert trust.signature("name", "text") == signed
    assert not trust.is_own(signed, "namet", "ext")
    assert not trust.is_own("", "name", "text")
    assert (tmp_path / "a" / "jaxfact" / "key").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "b"))
    assert not trust.is_own(signed, "name", "text")
    (tmp_path / "c").write_text("")  # no place for a key: nothing is signed, and nothing is known
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    assert trust.signature("name", "text") == ""
    assert not trust.is_own("", "name", "text")


@pytest.mark.parametrize("name", ["../victim", "..", "a/b", ".hidden", "tiles", "loss\n", "\x1b[2J", "x" * 300])
def test_names_are_those_a_sweep_makes(call, store, victim, name):
    """A variable, a dimension or an axis of such a name: the root is no root, and nothing outside is touched."""
    document = json.loads((store / "zarr.json").read_bytes())
    arrays = document["consolidated_metadata"]["metadata"]
    arrays[name] = arrays.pop("loss")
    kept = document["attributes"]["store"]
    kept["sha256"] = roots._seal(document)
    write(store, json.dumps(document).encode())
    before = sorted(path.name for path in store.iterdir())
    for command, given in CASES:
        ended = call(command, store, *given)
        assert ended.code == 1
        assert ended.err.count("\n") == 1
        assert "is not what a sweep writes" in ended.err
    assert victim.read_text() == "whole"
    assert sorted(path.name for path in store.iterdir()) == before


FILES = [f"{LOCKS}/1-0-2.owner", f"{LOCKS}/1-0-2.lock", f"{LOCKS}/store.lock"]


@pytest.mark.parametrize(
    ("key", "hard"), [(LOCKS, False), ("tiles", False), *((file, hard) for file in FILES for hard in (False, True))]
)
def test_links_are_not_followed(store, victim, key, hard):
    """Where a process says that it works on a tile, and where the store is changed."""
    place = store / key
    if key in (LOCKS, "tiles"):
        shutil.move(place, store.parent / "moved")
        place.symlink_to(victim.parent)
    else:
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        os.link(victim, place) if hard else place.symlink_to(victim)
    jf.status(store)
    with claimed(Folder(store), (1, 0, 2)) as mine:
        assert mine
    extend(store, {}, np.array([8]))
    mend(TileStore(store))
    assert victim.read_text() == "whole"
    assert list(victim.parent.iterdir()) == [victim]


def test_a_script_quotes_the_name_of_its_folder(stored, tmp_path):
    """A folder may have any name; the script prints the run's numbers, and that is all it does."""
    name = 'a"""\nimport os; os.mkdir("pwned")\n"""\\'
    store = Path(shutil.copytree(stored, tmp_path / name))
    script = jf.numpy_script(store, tmp_path / "run.py", seed=3, variant="plain", step_size=0.2)
    subprocess.run([sys.executable, "-I", script], check=True, capture_output=True, cwd=tmp_path)
    assert not (tmp_path / "pwned").exists()
