"""What a user may mistake for a store, and what others may have left in one."""

import copy
import errno
import io
import json
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from commands import OPTIONS, assert_one_line

from jaxfact.store import metadata, root, trust, upkeep
from jaxfact.store.files import open_results
from jaxfact.store.folder import Folder
from jaxfact.store.marks import Writer
from jaxfact.store.medium import Damage, medium_of
from jaxfact.store.status import status
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import mend


@pytest.fixture
def store(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "runs.zarr"))


PLACES = ["", "s3:/bucket/x", Path("s3://bucket/x"), "file:/a", "file://a.zarr", "file://b/a", "a" * 256, "~no-one/a"]


@pytest.mark.parametrize("place", PLACES)
def test_what_only_looks_like_a_folder_is_none(place):
    with pytest.raises(ValueError, match=r"^store="):
        medium_of(place)


def test_a_url_of_a_file_is_what_other_tools_mean_by_it(tmp_path):
    folder = tmp_path / "a b%20ü.zarr"
    assert medium_of(folder.as_uri()).folder == folder
    assert medium_of(folder.as_uri().replace("file://", "FILE://localhost")).folder == folder


def test_a_command_keeps_nothing_in_its_own_memory(call, experiments):
    ended = call("sweep", f"{experiments}:plain", "--store", "memory://a", "--seeds", "1", *OPTIONS)
    assert_one_line(ended, "is in the memory of this process")


def test_a_store_is_exported_from_inside(call, store, tmp_path, monkeypatch):
    monkeypatch.chdir(store)
    assert call("export", ".", "--to", "csv").code == 0
    assert (tmp_path / "runs.csv").exists()


@pytest.mark.parametrize("key", ["../victim", "a/../../victim", "../victim/c.0"])
def test_no_key_leads_out_of_a_folder(tmp_path, key):
    (tmp_path / "victim").mkdir()
    inside = Folder(tmp_path / "runs.zarr")
    inside.put("a/b", b"")
    for ask in (inside.get, inside.size, lambda key: inside.put(key, b"")):
        with pytest.raises(Damage, match=r"\.\. is"):
            ask(key)
    assert list((tmp_path / "victim").iterdir()) == []


def test_marks_that_come_while_others_are_put_together_stay(store, monkeypatch):
    """Whoever puts marks together has read a file before its writer adds another mark to it."""
    opened = TileStore(store)
    records = opened.marks.records
    for file in store.glob("tiles/marks-*.npy"):
        file.unlink()
    live = Writer(opened.medium, opened.root)
    live.put(records[:1])
    for _ in range(70):
        Writer(opened.medium, opened.root).put(records[:5])
    put = Writer.put

    def meanwhile(self, new):
        put(live, records[5:])
        put(self, new)

    monkeypatch.setattr(upkeep.Writer, "put", meanwhile)
    upkeep._put_together(TileStore(store))
    monkeypatch.undo()
    assert len(list(store.glob("tiles/marks-*.npy"))) == 2
    np.testing.assert_array_equal(TileStore(store).marks.numbers, opened.marks.numbers)
    assert mend(TileStore(store)) == []


def test_a_store_among_the_marks_is_no_part_of_it_and_marks_of_other_types_are_damage(store, stored):
    shutil.copytree(stored, store / "tiles" / "inner.zarr")
    assert status(store, check=True).damaged == {}
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    (store / "tiles" / "marks-a-0.npy").write_bytes(metadata.summed(content.getvalue()))
    found = status(store)
    assert (found.damaged, found.done) == ({"tiles/marks-a-0.npy": "is not what a sweep writes"}, 36)
    assert mend(TileStore(store)) == ["tiles/marks-a-0.npy is not what a sweep writes"]
    assert status(store, check=True).damaged == {}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602])
def test_a_key_that_others_can_read_shows_nothing(tmp_path, monkeypatch, mode):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    signed = trust.signature("text")
    assert trust.is_own(signed, "text")
    os.chmod(tmp_path / "jaxfact" / "key", mode)
    assert not trust.is_own(signed, "text")
    assert trust.signature("text") == ""


def test_what_a_root_says_of_its_sweep_has_the_types_of_a_sweep(stored):
    """A seal shows that nothing was changed by accident; who means to can make one."""
    document = json.loads((stored / "zarr.json").read_bytes())

    def read(change):
        changed = copy.deepcopy(document)
        change(changed["attributes"], changed["consolidated_metadata"]["metadata"]["outcome"]["attributes"])
        changed["attributes"]["store"]["sha256"] = root._seal(changed)
        return root.parsed("zarr.json", json.dumps(changed).encode())

    assert read(lambda said, _: said.update(created="today", tolerance=0.5)).attributes["created"] == "today"
    for name in root._SAID:
        for wrong in (None, 5.5, [None], {"a": 1}):
            with pytest.raises(Damage):
                read(lambda said, _: said.update({name: wrong}))  # noqa: B023
        with pytest.raises(Damage):
            read(lambda said, _: said.pop(name))  # noqa: B023
    for wrong in ("pending", "pending converged converged"):
        with pytest.raises(Damage):
            read(lambda _, outcome: outcome.update(flag_meanings=wrong))  # noqa: B023
    for name in ("zarr.json", "ü" * 100):
        with pytest.raises(ValueError, match="^" + name):
            root.check_name(name)


def many_values(opened: TileStore) -> bytes:
    document = json.loads(opened.root.content())
    kept = document["attributes"]["store"]
    many = metadata.LARGEST // 4
    kept["values"] |= {name: {"dtype": "int8", "shape": [many], "ranges": [[0, many]]} for name in "abcd"}
    kept["sha256"] = root._seal(document)
    return json.dumps(document).encode()


def many_holes(opened: TileStore) -> bytes:
    half = metadata.LARGEST // 2
    grid = opened.root.grid._replace(blocks=(half, half), ends=((1, half + 2), (3, half + 3)))
    return opened.root._replace(grid=grid).content()


@pytest.mark.parametrize("declared", [many_values, many_holes])
def test_a_short_root_cannot_ask_for_much_memory(call, store, declared):
    """Its coordinates are added up before any of them is made: here each is below the limit, and all are not."""
    content = declared(TileStore(store))
    for key in ("zarr.json", "tiles/root-0.json"):
        (store / key).write_bytes(content)
    tracemalloc.start()
    ended = call("status", store)
    asked = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert_one_line(ended, r"runs.zarr: tiles/root-0.json is not what a sweep writes", 1)
    assert asked < 4_000_000


def test_what_readers_refuse_is_not_made(store, monkeypatch):
    """A root at either limit is read, extended to it, and no further."""
    opened = TileStore(store)
    content, places = opened.root.content(), opened.root.places
    assert places == sum(values.size for values in opened.root.coordinates.values())
    for name, module, most in (("LARGEST", root, places), ("MOST_TILES", root, 2 * 3)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, most)
            assert root.parsed("zarr.json", content).places == places
            patch.setattr(module, name, most - 1)
            with pytest.raises(Damage):
                root.parsed("zarr.json", content)
    for name, most, said in (
        ("LARGEST", places + 1, rf"store={places + 2} seeds and values of axes: a store has at most"),
        ("MOST_TILES", 2 * 4, "store=10 tiles: a store has at most .* tile_runs, or use two stores"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(upkeep, name, most)
            with pytest.raises(ValueError, match=said):
                upkeep.extend(store, {}, np.arange(6 + (2 if name == "LARGEST" else 3)))
    assert opened.root.content() == TileStore(store).root.content()


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EIO, "no")

    (tmp_path / "runs.zarr").mkdir()
    assert Folder(tmp_path / "runs.zarr").is_empty()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="no"):
        Folder(tmp_path / "runs.zarr").is_empty()


def test_arrays_of_zarr_2_are_not_decoded(tmp_path):
    """Their filters may be pickles, which only new releases of numcodecs refuse to load."""
    ran = tmp_path / "ran"
    array = {"zarr_format": 2, "node_type": "array", "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": ""}
    array |= {"order": "C", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None}
    array |= {"attributes": {"_ARRAY_DIMENSIONS": ["seed"]}, "dimension_separator": "."}
    inside = {"kind": "inline", "must_understand": False, "metadata": {"seed": array}}
    root = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": inside}
    (tmp_path / "evil.zarr" / "seed").mkdir(parents=True)
    (tmp_path / "evil.zarr" / "zarr.json").write_text(json.dumps(root))
    (tmp_path / "evil.zarr" / "seed" / "0").write_bytes(f"cposix\nmkdir\n(V{ran}\ntR.".encode())
    with pytest.raises(ValueError, match=r"path=.*is not that of a Zarr 3 store"):
        open_results(tmp_path / "evil.zarr")
    assert not ran.exists()
