"""Damage of a store: nothing silent, no traceback, nothing whole is deleted. See also `test_store_matrix`."""

import errno
import functools
import gc
import io
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import SWEPT

import jaxfact as jf
from jaxfact.store import experiment_file
from jaxfact.store import look as looks
from jaxfact.store.claims import owner_key
from jaxfact.store.folder import Folder
from jaxfact.store.medium import StoreError
from jaxfact.store.metadata import summed
from jaxfact.store.root import parsed
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import extend, mend

KINDS = {
    "the root": "zarr.json",
    "a generation": "tiles/root-0.json",
    "metadata": "loss/zarr.json",
    "seeds": "seed/c.0",
    "an axis": "step_size/c.0",
    "a constant": "tolerance/c.0",
    "a tile": "loss/c.0.1.2",
    "outcomes": "outcome/c.0.1.2",
    "marks": "tiles/marks-*.npy",
    "the group": "tiles/zarr.json",
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def of_another_type(file: Path) -> None:
    file.unlink()
    file.mkdir()


def linked(file: Path) -> None:
    """Link to a copy outside, which is whole."""
    file.rename(file.parents[2] / "outside")
    file.symlink_to(file.parents[2] / "outside")


DAMAGES: list[Callable[[Path], None]] = [flip, emptied, cut, Path.unlink, of_another_type, linked]


def results(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.glob("*/c*")}


@pytest.fixture
def store(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "inside" / "runs.zarr"))


@functools.cache
def methods(file: Path):
    return experiment_file.load(f"{file}:methods")


def swept(file: Path, store: str | Path) -> None:
    jf.sweep(methods(file), seeds=6, store=store, tile_runs=6, **SWEPT)


def file_of(store: Path, kind: str) -> Path:
    (file,) = store.glob(KINDS[kind])
    return file


def test_a_run_in_a_damaged_tile_is_not_replayed(call, store):
    flip(file_of(store, "a tile"))
    found = call("replay", store, "--variant", "slow", "step_size=0.2", "--seed", "4")
    assert (found.code, "loss/c.0.1.2" in found.err) == (2, True)
    assert "this run has not finished yet" in found.err


def test_many_rotten_tiles_are_one_line(call, store, caplog):
    """They are read side by side; what has failed beside the first would be logged with its traceback."""
    for file in store.glob("outcome/c.*"):
        whole, before = file.read_bytes(), file.stat()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = call("export", store, "--to", "netcdf")
    gc.collect()
    assert (found.code, found.err.count("\n"), caplog.records) == (1, 1, [])
    assert re.search("outcome/c.* has another checksum than it should; jaxfact status --check names all", found.err)


def test_an_error_of_reading_is_not_damage(call, experiments, monkeypatch, store):
    """Whatever is read when: each command ends in one line, and every file stays as it is."""
    number = errno.ESTALE
    before = {file: file.read_bytes() for file in store.rglob("*") if file.is_file()}
    opened = os.open
    # Newer than it was known to be whole, so that it is read.
    os.utime(store / "loss" / "c.0.1.2")
    for part in ("zarr.json", "c.0.1.2", "marks-", "root-0"):

        def failing(path, *arguments, part=part, **options):
            if part in str(path) and "partial" not in str(path):
                raise OSError(number, os.strerror(number))
            return opened(path, *arguments, **options)

        monkeypatch.setattr(os, "open", failing)
        found = call("status", store)
        assert (found.code, found.out) == (1, "")
        assert len(found.err.splitlines()) == 1
        assert f"cannot be read ({os.strerror(number)}); nothing was changed" in found.err
        with pytest.raises(StoreError, match="cannot be read"):
            swept(experiments, store)
        monkeypatch.setattr(os, "open", opened)
        assert before == {file: file.read_bytes() for file in before}
    assert jf.status(store, check=True).damaged == {}


def test_no_flipped_bit_reads_as_another_number(store):
    """120 bits of what holds coordinates and of the root, which is where they are read."""
    rng, whole = np.random.default_rng(0), jf.open_results(store).load()
    content = (store / "zarr.json").read_bytes()
    for bit in rng.integers(0, 8 * len(content), 120):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="is not what a sweep writes"):
            parsed("zarr.json", bytes(changed))
    for name in ("seed", "step_size", "level", "step", "variant"):
        flip(next((store / name).glob("c.0")))
    with pytest.warns(UserWarning, match=r"(seed|step_size|level|step|variant)/c.0 is not what a sweep writes"):
        found = jf.open_results(store)
    for name in whole.coords:
        np.testing.assert_array_equal(found[name], whole[name])


def test_a_tile_that_is_whole_again_is_not_taken_back(monkeypatch, store):
    """Two mend the same damage: the slower one finds what the faster one has made, and leaves it."""
    kept = (store / "loss" / "c.0.1.2").read_bytes()
    cut(store / "loss" / "c.0.1.2")
    opened, look = TileStore(store), TileStore.look

    def overtaken(self, tile=None, *, thorough=False):
        found = look(self, tile, thorough=thorough)
        if tile is None:
            self.medium.put("loss/c.0.1.2", kept)
        return found

    monkeypatch.setattr(TileStore, "look", overtaken)
    assert mend(opened) == []
    assert (store / "loss" / "c.0.1.2").read_bytes() == kept
    assert jf.status(store, check=True).damaged == {}


def test_what_was_written_is_marked_and_marks_are_put_together(store):
    """A mark that was lost is made from the tile; many files of few marks become one."""
    before = TileStore(store).marks
    for file in store.glob("tiles/marks-*.npy"):
        file.unlink()
    assert len(jf.status(store).damaged) == 1
    opened = TileStore(store)
    assert mend(opened) == []
    after = TileStore(store).marks
    for name in ("tile", "outcomes", "run_steps", "sums"):
        np.testing.assert_array_equal(after.records[name], before.records[name])
    for k in range(66):
        opened = TileStore(store)
        opened.remember(opened.marks.records[k % 6 :][:1])
    mend(TileStore(store))
    assert len(list(store.glob("tiles/marks-*.npy"))) <= 2
    np.testing.assert_array_equal(TileStore(store).marks.records["sums"], before.records["sums"])


def test_marks_below_another_header(store):
    """As NumPy of another version may write it: they are what they were."""
    before = TileStore(store).marks.records
    (file,) = store.glob("tiles/marks-*.npy")
    content = io.BytesIO()
    np.lib.format.write_array(content, before, version=(2, 0))
    file.write_bytes(summed(content.getvalue()))
    np.testing.assert_array_equal(TileStore(store).marks.records, before)


def test_of_very_many_tiles_the_names_are_compared(store, monkeypatch):
    """And the lengths of the last alone; what is missing, or not marked, is named as of few."""
    monkeypatch.setattr(looks, "_MANY", 0)
    monkeypatch.setattr(looks, "_LAST", 1)
    assert jf.status(store).damaged == {}
    file = file_of(store, "a tile")
    file.rename(store.parent / "c")
    assert jf.status(store).damaged == {"loss/c.0.1.2": "is missing"}
    (store.parent / "c").rename(file)
    (marks,) = store.glob("tiles/marks-*.npy")
    records = TileStore(store).marks.records[1:]
    marks.unlink()
    TileStore(store).remember(records)
    assert jf.status(store).damaged == {"tiles/marks-*.npy": "lacks tile 0-0-0, which was written"}


@pytest.mark.parametrize("place", ["memory://a/runs.zarr", "file://{}/runs.zarr", "~/runs.zarr"])
def test_urls_and_homes(call, experiments, stored, tmp_path, monkeypatch, place):
    """The same runs, one extension later; nothing is made beside the place that was meant."""
    monkeypatch.setenv("HOME", str(tmp_path))
    place = place.format(tmp_path)
    jf.sweep(methods(experiments), seeds=5, store=place, tile_runs=6, **SWEPT)
    swept(experiments, place)
    found, expected = jf.open_results(place), jf.open_results(stored)
    xr.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())
    assert call("status", place, "--check").out.splitlines()[0].endswith(": finished, 36 runs")
    assert call("export", place, "--to", "csv").out.endswith("runs.csv\n")
    assert (tmp_path / "runs.zarr").exists() == (not place.startswith("memory"))
    assert not {"memory:", "file:", "~"} & {file.name for file in tmp_path.iterdir()}


def test_other_schemes_are_refused():
    with pytest.raises(ValueError, match=r"store=ftp://a: needs a path, or a URL that begins with s3://"):
        jf.status("ftp://a")


def test_what_is_left_of_dead_owners_is_nobodys(store):
    extend(store, {}, np.arange(8))
    (store / owner_key((0, 0, 3))).write_text('["a"]')
    assert jf.status(store).workers == {}


def test_a_store_keeps_its_times_when_it_has_moved(tmp_path, store, monkeypatch):
    """A copy has newer files: they are read once, which is remembered, and not again."""
    copy, read = tmp_path / "copy.zarr", []
    shutil.copytree(store, copy, copy_function=shutil.copyfile)
    get = Folder.get
    monkeypatch.setattr(Folder, "get", lambda self, key, *part: read.append(key) or get(self, key, *part))
    mend(TileStore(copy))
    tiles = sum("/c.0." in key for key in read)
    assert tiles > 6
    read.clear()
    mend(TileStore(copy))
    assert sum("/c.0." in key for key in read) == 0


WRITTEN = {
    "the root": "zarr.json",
    "the seal": "seal/files.json",
    "metadata": "loss/zarr.json",
    "seeds": "seed/c/0",
    "outcomes": "outcome/c/0/0/0",
    "numbers": "loss/c/0/0/0",
}


@pytest.fixture(scope="module")
def written(stored, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("written") / "results.zarr"
    jf.write_results(jf.open_results(stored).load(), path)
    return path


@pytest.mark.parametrize("kind", WRITTEN)
def test_damage_of_results_written_at_once(call, written, tmp_path, kind):
    """Nothing can make them again: each command names what is damaged, and reads nothing of it."""
    for damage in DAMAGES:
        path = Path(shutil.copytree(written, tmp_path / damage.__name__ / "results.zarr"))
        damage(path / WRITTEN[kind])
        for command in (["export", path, "--to", "csv"], ["report", path]):
            found = call(*command)
            assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
            assert f"results.zarr: {WRITTEN[kind]} " in found.err
        assert len(list(path.parent.iterdir())) == 1 + (damage is linked) * (path.parent / "outside").exists()


def test_whole_results_have_no_trace_of_their_seal(written, stored):
    found, expected = jf.open_results(written), jf.open_results(stored)
    assert "seal/files.json" not in found.attrs
    xr.testing.assert_equal(found, expected)
