"""What a sweep does with a store, one call at a time: create, admit, extend, open, mend, and who may take a tile."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from commands import SWEPT
from zarr.codecs import Crc32cCodec

import jaxfact as jf
from jaxfact.store import shards
from jaxfact.store.claims import LOCKS, claimed, owner_key
from jaxfact.store.differences import accepted_names
from jaxfact.store.folder import Folder
from jaxfact.store.grid import Grid, blocks_of
from jaxfact.store.medium import DamageWarning
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import admit, create, extend, mend

AXES = {"step_size": np.asarray(SWEPT["step_size"])}
TILE = (1, 0, 2)  # of the second variant: all three step sizes, and the last two of six seeds


def contents(path: Path) -> dict[Path, bytes]:
    """Return what is on disk, locks apart, which may stay."""
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.suffix != ".lock"}


@pytest.fixture
def store(stored, tmp_path) -> Path:
    """Return a finished store of two variants in tiles of two seeds, to be changed."""
    return Path(shutil.copytree(stored, tmp_path / "store.zarr"))


@pytest.fixture
def damaged(store) -> Path:
    """Return that store with a file of one tile cut short."""
    file = store / "loss" / "c.0.1.2"
    assert TileStore(store).root.key("loss", TILE) == "loss/c.0.1.2"
    file.write_bytes(file.read_bytes()[:-7])
    return store


def test_opening_changes_nothing(damaged, stored):
    """Not even where something is damaged, and everything is to be read."""
    before = contents(damaged)
    opened = TileStore(damaged)
    assert opened.variants == ["plain", "slow"]
    assert opened.grid.shape == (3, 6)
    assert (opened.held(0), opened.held(1)) == (18, 18)
    with pytest.warns(DamageWarning, match=r"loss/c.0.1.2 has .* bytes instead of"):
        runs = jf.open_results(damaged)
    np.testing.assert_array_equal(opened.read("steps", TILE)[:, 0], jf.open_results(stored).steps[:, 1, 4:])
    assert (runs.outcome[:, 1, 4:] == "pending").all()
    assert int((runs.outcome == "pending").sum()) == 6
    assert contents(damaged) == before


def test_mending_moves_what_is_damaged_aside_and_nothing_else(damaged):
    before = contents(damaged)
    (said,) = mend(TileStore(damaged))
    assert "loss/c.0.1.2 has" in said
    gone = {file.relative_to(damaged).as_posix() for file in before.keys() - contents(damaged).keys()}
    assert gone == {"loss/c.0.1.2"}
    (aside,) = (damaged / "tiles" / "damaged").iterdir()
    assert aside.read_bytes() == before[damaged / "loss" / "c.0.1.2"]
    opened = TileStore(damaged)
    assert (opened.held(0), opened.held(1)) == (18, 12)
    assert opened.left(1, np.ones((1, 3), bool)) == [TILE]
    assert mend(TileStore(damaged)) == []


def test_what_changed_without_a_trace_is_mended_where_every_file_is_read(store):
    """Rot leaves length and time alone: a usual look misses it, as a thorough one must not."""
    file = store / "loss" / "c.0.1.2"
    whole, before = file.read_bytes(), file.stat()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert mend(TileStore(store)) == []
    assert mend(TileStore(store), thorough=True) == ["loss/c.0.1.2 has another checksum than it should"]
    assert TileStore(store).left(1, np.ones((1, 3), bool)) == [TILE]


def test_a_tile_that_somebody_works_on_is_not_mended(damaged):
    with claimed(Folder(damaged), TILE):
        assert mend(TileStore(damaged)) == []
    assert len(mend(TileStore(damaged))) == 1


def test_a_whole_store_needs_no_mending(store):
    before = contents(store)
    assert mend(TileStore(store)) == []
    assert contents(store) == before


def test_extending_adds_behind_what_is_there(store, stored):
    """No tile changes that is there: what is new has tiles of its own; nothing new changes no byte."""
    before = contents(store)
    extend(store, AXES, np.array([5, 3]))
    assert contents(store) == before
    extend(store, {"step_size": np.array([0.1, 0.5])}, np.array([8, 0, 6, 9]))
    extend(store, {}, np.arange(12, 15))
    extend(store, {}, np.array([20]))
    opened = TileStore(store)
    assert opened.grid.axes["step_size"].tolist() == [0.2, 0.5, 5.0, 0.1]
    assert opened.grid.seeds.tolist() == [*range(6), 8, 6, 9, 12, 13, 14, 20]
    assert opened.grid.segments == ((4,), (9, 13, 15))
    assert opened.held(0) == 18
    assert len(opened.left(0, np.ones((2, 8), bool))) == 2 * 8 - 3
    runs = jf.open_results(store)
    np.testing.assert_array_equal((runs.outcome == "pending").sum(), 2 * (4 * 13 - 18))
    xr.testing.assert_equal(runs.sel(opened_part(stored)).load(), jf.open_results(stored).load())
    with xr.open_zarr(store, chunks=None) as plain:
        assert plain.sizes["seed"] == 15
        np.testing.assert_array_equal(plain.seed[plain.seed >= 0], opened.grid.seeds)
        assert len(set(plain.seed.values.tolist())) == 15


def test_roots_and_marks_are_on_disk_before_they_count(store, monkeypatch):
    """Power may fail after any call of the system: first the content, then the name, then the folder that has it."""
    opened, done = TileStore(store), []
    for name, real in {"fsync": os.fsync, "replace": os.replace, "link": os.link}.items():

        def noted(*given, name=name, real=real, **options):
            done.append(name)
            return real(*given, **options)

        monkeypatch.setattr(os, name, noted)
    opened.remember(opened.marks.records)
    assert done == ["fsync", "replace", "fsync"]
    done.clear()
    extend(store, {}, np.array([8]))
    assert done[:3] == ["fsync", "link", "fsync"]
    assert done[-3:] == ["fsync", "replace", "fsync"]
    assert set(done[3:-3]) == {"replace"}, "what follows from the root is made again from it"


def opened_part(store: Path) -> dict[str, np.ndarray]:
    """Return the seeds and values of a store."""
    return {name: jf.open_results(store)[name].values for name in ("seed", "step_size")}


def test_nothing_but_create_creates(store, tmp_path):
    missing = tmp_path / "missing.zarr"
    attributes = TileStore(store).root.attributes
    for call in (
        lambda: TileStore(missing),
        lambda: extend(missing, AXES, np.arange(6)),
        lambda: admit(missing, attributes),
    ):
        with pytest.raises(ValueError, match=r"missing.zarr: is not the store of a sweep"):
            call()
    assert not missing.exists()


def cut_short(*_, **__):
    raise KeyboardInterrupt


def test_create_makes_an_empty_store_once(store, tmp_path, monkeypatch):
    template = jf.open_results(store).isel(step_size=[0], seed=[0]).load()
    template.attrs = TileStore(store).root.attributes
    made, grid = tmp_path / "deep" / "made.zarr", Grid(AXES, np.arange(6), (3, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", cut_short)
        with pytest.raises(KeyboardInterrupt):
            create(made, grid, template)
    found = jf.status(made)
    assert (found.done, found.runs, found.damaged) == (0, 36, {}), "others see a store that is being created"
    shutil.rmtree(made)
    create(made, grid, template)
    opened = TileStore(made)
    assert (opened.grid.blocks, opened.held(0)) == ((3, 2), 0)
    assert opened.names == TileStore(store).names
    assert (jf.open_results(made).outcome == "pending").all()
    before = contents(made)
    with pytest.raises(FileExistsError):
        create(made, grid, template)
    assert contents(made) == before
    assert list(made.parent.iterdir()) == [made]
    with pytest.raises(ValueError, match="axes=tiles: is what a store calls its tiles; rename"):
        create(tmp_path / "other.zarr", grid, template.assign(tiles=template.loss))


def test_admitting_writes_down_what_is_accepted(store):
    attributes, before = TileStore(store).root.attributes, contents(store)
    admit(store, attributes)
    assert contents(store) == before
    with pytest.raises(ValueError, match="max_steps was 200 and is 300"):
        admit(store, attributes | {"max_steps": 300}, accept=["jax"])
    with pytest.raises(ValueError, match="jax was .* and is 0.9.0"):
        admit(store, attributes | {"jax": "0.9.0"})
    assert contents(store) == before
    admit(store, attributes | {"jax": "0.9.0"}, accept=["jax"])
    (note,) = TileStore(store).root.attributes["accepted"]
    assert note["differences"] == [f"jax: {attributes['jax']} → 0.9.0"]


def test_a_tile_has_one_owner(store):
    medium = Folder(store)
    with claimed(medium, TILE) as mine:
        with claimed(medium, TILE) as theirs:
            assert (mine, theirs) == (True, False)
        assert medium.size(owner_key(TILE))
    assert not list((store / LOCKS).glob("[0-9]*"))
    (store / owner_key(TILE)).write_text("")  # what a process leaves that dies
    with claimed(medium, TILE) as mine:
        assert mine


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int8, bool])
def test_shards_are_what_zarr_writes(tmp_path, dtype):
    """Zarr writes the same bytes, and reads back what was put in."""
    values = np.random.default_rng(0).integers(0, 2, (3, 1, 80, 60)).astype(dtype)
    for shape in ((3, 1, 80, 60), (1, 1, 10, 60)):
        made, parts = values[: shape[0], :, : shape[2]], shards.parts_of(shape)
        array = zarr.create_array(
            tmp_path / str(shape[0]), shape=shape, dtype=dtype, chunks=parts, shards=shape, compressors=[Crc32cCodec()]
        )
        array[...] = made
        file = tmp_path / str(shape[0]) / "c" / "0" / "0" / "0" / "0"
        theirs = file.read_bytes()
        file.write_bytes(shards.shard_of(made, parts))
        np.testing.assert_array_equal(array[...], made)
        assert file.read_bytes() == theirs
        assert len(theirs) == shards.length_of(shape, made.dtype)
        np.testing.assert_array_equal(shards.values_in(theirs, shape, made.dtype), made)
        assert shards.values_in(theirs[:9] + bytes([theirs[9] ^ 1]) + theirs[10:], shape, made.dtype) is None
    assert shards.parts_of((3, 1, 80, 60)) == (1, 1, 80, 60)


def test_tiles_cover_all_runs_once():
    for axes, seeds, runs in (((), 10, 4), ((3, 2), 60, 72), ((5, 7), 3, 6), ((5000,), 2, 4096)):
        blocks = blocks_of(axes, seeds, runs)
        assert np.prod(blocks) <= runs
        assert all(block >= 1 for block in blocks)
        grid = Grid({str(k): np.arange(length) for k, length in enumerate(axes)}, np.arange(seeds), blocks)
        covered = np.zeros(grid.shape, int)
        for tile in grid.tiles(0):
            covered[np.ix_(*grid.box(tile))] += 1
        assert (covered == 1).all()
    assert blocks_of((3, 2), 60, 72) == (3, 2, 12)
    assert blocks_of((5000,), 2, 4096) == (4096, 1)


@pytest.mark.parametrize("accept", [3, None, [3], [["jax"]], ["jax", "luck"]])
def test_what_can_be_accepted_are_names(accept):
    with pytest.raises(ValueError, match=r"accept=.*: needs names among jaxfact, jax, .*; leave it out"):
        accepted_names(accept)
