"""What a sweep does with a store, one call at a time: create, admit, extend, open, mend, and who may take a tile."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from commands import SWEPT
from zarr.codecs import Crc32cCodec

import jaxfact as jf
from jaxfact.store import shards
from jaxfact.store.grid import Grid, blocks_of
from jaxfact.store.layout import Layout
from jaxfact.store.marks import claimed
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import admit, create, extend, mend

AXES = {"step_size": np.asarray(SWEPT["step_size"])}
TILE = (1, 0, 2)  # of the second variant: all three step sizes, and the last two of six seeds


def files(path: Path) -> dict[Path, bytes]:
    """Return what is on disk, locks apart, which may stay."""
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.suffix != ".lock"}


@pytest.fixture
def store(stored, tmp_path) -> Path:
    """Return a finished store of two variants in tiles of two seeds, to be changed."""
    return Path(shutil.copytree(stored, tmp_path / "store.zarr"))


@pytest.fixture
def damaged(store) -> Path:
    """Return that store with a file of one tile cut short."""
    variant, step_size, seeds = TILE
    file = Layout(store).shard("loss", (step_size, variant, seeds))
    file.write_bytes(file.read_bytes()[:-7])
    return store


def test_opening_changes_nothing(damaged):
    """Not even where something is damaged, and everything is to be read."""
    before = files(damaged)
    opened = TileStore(damaged)
    assert opened.variants == ["plain", "slow"]
    assert opened.grid.shape == (3, 6)
    assert (opened.held(0), opened.held(1)) == (18, 18)
    runs = jf.open_results(damaged)
    np.testing.assert_array_equal(opened.read("steps", TILE, (3, 6)), runs.steps[:, 1, 4:])
    assert files(damaged) == before


def test_mending_drops_what_is_damaged_and_nothing_else(damaged):
    before = files(damaged)
    (said,) = mend(TileStore(damaged))
    assert "loss/c/0/1/2 has" in said
    gone = {file.relative_to(damaged).parts for file in before.keys() - files(damaged).keys()}
    shards = {parts for parts in gone if parts[1:5] == ("c", "0", "1", "2")}
    assert {parts[0] for parts in shards} == set(TileStore(damaged).names)
    assert gone - shards == {Layout(damaged).mark(TILE).relative_to(damaged).parts}
    assert TileStore(damaged).held(0) == 18
    assert TileStore(damaged).held(1) == 12
    assert TileStore(damaged).missing(TILE) == [(range(3), range(4, 6))]
    assert mend(TileStore(damaged)) == []


def test_a_tile_that_somebody_works_on_is_not_mended(damaged):
    with claimed(Layout(damaged), TILE, tidy=lambda: None):
        assert mend(TileStore(damaged)) == []
    assert len(mend(TileStore(damaged))) == 1


def test_a_whole_store_needs_no_mending(store):
    before = files(store)
    assert mend(TileStore(store)) == []
    assert files(store) == before


def test_extending_adds_behind_what_is_there(store):
    """Half-full tiles lack what is new of them alone; values that are there already change no byte."""
    before = files(store)
    extend(store, AXES, np.array([5, 3]))
    assert files(store) == before
    extend(store, {"step_size": np.array([0.1, 0.5])}, np.array([8, 0, 6]))
    opened = TileStore(store)
    assert opened.grid.axes["step_size"].tolist() == [0.2, 0.5, 5.0, 0.1]
    assert opened.grid.seeds.tolist() == [*range(6), 8, 6]
    assert opened.held(0) == 18
    assert sum(len(opened.missing(tile)) > 0 for tile in opened.tiles(0)) == 5  # 2 × 4 tiles, three are whole
    runs = jf.open_results(store)
    np.testing.assert_array_equal((runs.outcome == "pending").sum(), 2 * (4 * 8 - 18))


def test_nothing_but_create_creates(store, tmp_path):
    missing = tmp_path / "missing.zarr"
    attributes = Layout(store).attributes()
    for call in (
        lambda: TileStore(missing),
        lambda: extend(missing, AXES, np.arange(6)),
        lambda: admit(missing, attributes),
    ):
        with pytest.raises(ValueError, match=r"missing.zarr: is not the store of a sweep"):
            call()
    assert not missing.exists()


def test_create_makes_an_empty_store_once(store, tmp_path):
    template = jf.open_results(store).isel(step_size=[0], seed=[0]).load()
    template.attrs = Layout(store).attributes()
    made, grid = tmp_path / "deep" / "made.zarr", Grid(AXES, np.arange(6), (3, 2))
    create(made, grid, template)
    opened = TileStore(made)
    assert (opened.grid.blocks, opened.held(0)) == ((3, 2), 0)
    assert opened.names == TileStore(store).names
    assert (jf.open_results(made).outcome == "pending").all()
    before = files(made)
    with pytest.raises(FileExistsError):
        create(made, grid, template)
    assert files(made) == before
    assert list(made.parent.iterdir()) == [made]
    with pytest.raises(ValueError, match="axes=tiles: is what a store calls its tiles; rename"):
        create(tmp_path / "other.zarr", Grid({"tiles": np.arange(3)}, np.arange(6), (3, 2)), template)


def test_admitting_writes_down_what_is_accepted(store):
    attributes, before = Layout(store).attributes(), files(store)
    admit(store, attributes)
    assert files(store) == before
    with pytest.raises(ValueError, match="max_steps was 200 and is 300"):
        admit(store, attributes | {"max_steps": 300}, accept=["jax"])
    with pytest.raises(ValueError, match="jax was .* and is 0.9.0"):
        admit(store, attributes | {"jax": "0.9.0"})
    assert files(store) == before
    admit(store, attributes | {"jax": "0.9.0"}, accept=["jax"])
    (note,) = Layout(store).attributes()["accepted"]
    assert note["differences"] == [f"jax: {attributes['jax']} → 0.9.0"]


def test_a_tile_has_one_owner_and_is_tidied_after_a_dead_one(store):
    layout, tidied = Layout(store), []
    with claimed(layout, TILE, lambda: tidied.append("first")) as mine:
        with claimed(layout, TILE, lambda: tidied.append("second")) as theirs:
            assert (mine, theirs) == (True, False)
        assert layout.owned() == [TILE]
    assert (layout.owned(), tidied) == ([], [])
    layout.owner(TILE).write_text("")  # what a process leaves that dies
    with claimed(layout, TILE, lambda: tidied.append("after it")) as mine:
        assert mine
    assert (layout.owned(), tidied) == ([], ["after it"])


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
        file.write_bytes(b"".join(shards.shard_of(made, parts)))
        np.testing.assert_array_equal(array[...], made)
        assert file.read_bytes() == theirs
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
