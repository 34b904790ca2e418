"""A sweep's store outlives the process: whatever happens in between, the same call makes what is missing, once."""

import errno
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import survival
import xarray as xr

import jaxfact as jf
from jaxfact import measures
from jaxfact.engine import program
from jaxfact.store import differences, provenance, queues, tilestore
from jaxfact.store.folder import Folder
from jaxfact.store.roots import read_root
from jaxfact.store.tilestore import TileStore

TIMES = ["compile_seconds", "run_seconds"]
PROBLEM = jf.Factorization(np.array([1.0, 0.5], np.float32), shape=(20, 10))
STEP_SIZES, SCALES, SEEDS = (0.1, 0.3, 2.5), (0.01, 0.1), 60


def with_weight(weight):
    weight = jnp.asarray(weight, jnp.float32)  # data, so that all these experiments are one program

    def experiment(step_size, scale):
        return jf.Run(PROBLEM, jf.starts.Gaussian(2, scale=scale), jf.methods.balanced(step_size, weight))

    return experiment


TILES = [(0, 0, 0, number) for number in range(5)]  # of the one variant, at all step sizes and scales


def loss_of(store: Path) -> Path:
    """Return the file of the losses of the third tile."""
    return store / TileStore(store).root.key("loss", TILES[2])


experiment, weighted = with_weight(0.0), with_weight(0.125)


def swept(store: Path | None, chosen=experiment, seeds=SEEDS, step_size=STEP_SIZES, scale=SCALES, **options):
    usual = {
        "max_steps": 400,
        "tolerance": 1e-4,
        "record": [measures.distance, measures.singular_values],
        "every": 100,
        "tile_runs": 72 if store else None,
    }
    return jf.sweep(chosen, seeds=seeds, store=store, step_size=step_size, scale=scale, **(usual | options))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Return a store of 360 runs in 5 tiles that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "a.zarr"
    swept(path)
    return path


@pytest.fixture(scope="module")
def expected() -> xr.Dataset:
    """Return more runs than that, made in memory."""
    return swept(None, seeds=75, step_size=(0.1, 0.2, 0.3, 2.5), scale=(0.01, 0.03, 0.1))


@pytest.fixture
def store(tmp_path, whole) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "a.zarr"))


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Compare every number of a dataset with those of one that may hold more."""
    expected = expected.sel({name: found[name].values for name in found.outcome.dims})
    assert set(found.variables) == set(expected.variables)
    for name in set(expected.variables) - set(TIMES):
        assert found[name].dims == expected[name].dims, name
        assert found[name].dtype == expected[name].dtype, name
        assert {**found[name].attrs} == {**expected[name].attrs}, name
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=name)


class Broken(Exception):
    """What ends a sweep in the middle."""


def interrupted(monkeypatch, path: Path, tiles: int, act, **options) -> None:
    """Sweep until some tiles are written, then act instead of writing the next."""
    write, written = tilestore.TileStore.write, itertools.count()

    def writing(self, *arguments):
        if next(written) >= tiles:
            act()
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tilestore.TileStore, "write", writing)
        swept(path, devices=1, **options)


def fail():
    raise Broken


def test_a_store_holds_what_memory_would(tmp_path):
    """Methods may have different tolerances; every dtype, attribute and bit is the same."""
    methods, tolerance = {"plain": experiment, "with weight": weighted}, {"plain": 1e-4, "with weight": 3e-3}
    found = swept(tmp_path / "a.zarr", methods, tolerance=tolerance, seeds=20)
    assert_same(found, swept(None, methods, tolerance=tolerance, seeds=20))
    assert set(np.unique(found.outcome)) == {"converged", "diverged"}
    assert_same(jf.open_results(tmp_path / "a.zarr").assign({n: found[n] for n in TIMES}), found)


def test_anybodys_xarray_opens_it(whole):
    with xr.open_zarr(whole, chunks=None) as plain:
        assert plain.outcome.dims == ("step_size", "scale", "seed")
        assert plain.attrs["axes"] == ["step_size", "scale"]
        assert plain.imbalance.units == "σ₁"
        assert {"jax", "device", "dtype", "matmul_precision", "base_seed", "experiment", "date"} <= set(plain.attrs)
    marks = TileStore(whole).marks.records
    assert marks["run_steps"].sum() == int(jf.open_results(whole).steps.sum())
    assert np.all(marks["seconds"] > 0)


@pytest.mark.parametrize("tiles", [0, 2])
def test_it_goes_on_where_it_stopped(monkeypatch, tmp_path, whole, tiles):
    path = tmp_path / "a.zarr"
    with pytest.raises(Broken):
        interrupted(monkeypatch, path, tiles, fail)
    assert survival.runs_made(path) == 72 * tiles
    half = jf.open_results(path)
    assert int((half.outcome == "pending").sum()) == 6 * SEEDS - 72 * tiles
    assert not list((path / "tiles" / "locks").glob("[0-9]*"))
    swept(path)
    assert survival.runs_made(path) == 6 * SEEDS
    assert survival.contents(path) == survival.contents(whole)


def test_a_finished_store_runs_nothing(monkeypatch, store):
    monkeypatch.setattr(program.Program, "run", lambda *_: fail())
    assert int((swept(store).outcome == "pending").sum()) == 0


def test_new_seeds_and_values_alone_are_run(store, expected):
    swept(store, seeds=64)  # a tile that is not full, and grows
    before = survival.runs_made(store)
    found = swept(store, seeds=75, step_size=(0.1, 0.2, 0.3, 2.5), scale=(0.03, 0.01, 0.1))
    assert found.outcome.shape == (4, 3, 75)
    assert_same(found, expected)
    assert survival.runs_made(store) - before == 4 * 3 * 75 - 3 * 2 * 64
    assert jf.status(store).outcomes == dict(zip(*np.unique(found.outcome, return_counts=True), strict=True))
    part = swept(store, seeds=np.array([74, 3]), step_size=(2.5, 0.2), scale=(0.03,))
    assert part.seed.values.tolist() == [74, 3]
    assert_same(part, expected)
    assert survival.runs_made(store) == 4 * 3 * 75


def test_an_extension_may_die_as_well(monkeypatch, store, expected):
    with pytest.raises(Broken):
        interrupted(monkeypatch, store, 1, fail, seeds=75)
    with xr.open_zarr(store, chunks=None) as plain:
        assert plain.sizes["seed"] == 75
    with monkeypatch.context() as patch:
        patch.setattr(program.Program, "run", lambda *_: fail())
        assert (swept(store, seeds=72).outcome != "pending").all(), "what a sweep of fewer asks for is there"
    assert jf.status(store).done == 6 * 72
    assert_same(swept(store, seeds=75), expected)


@pytest.mark.parametrize("files", [0, 1, 3, -1], ids=["root-1", "a coordinate", "metadata", "zarr.json"])
def test_an_extension_is_seen_at_once(monkeypatch, store, expected, files):
    """Killed between two files of it, the store is readable, and the same call completes it."""
    write, done = Folder.put, itertools.count(1)

    def writing(self, key, content, *, synced=False):
        if next(done) == files or (files == -1 and key == "zarr.json"):
            fail()
        write(self, key, content, synced=synced)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", writing)
        if files == 0:
            patch.setattr(Folder, "put_new", lambda *_: fail())
        with pytest.raises(Broken):
            swept(store, seeds=75)
    with xr.open_zarr(store, chunks=None) as plain:
        assert plain.sizes["seed"] == 60
        plain.load()
    assert jf.status(store).damaged == {}
    assert_same(swept(store, seeds=75), expected)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [flipped, lambda file: file.write_bytes(file.read_bytes()[:-7]), Path.unlink],
    ids=["a flipped bit", "a truncated file", "a lost file"],
)
def test_damage_is_found_and_mended(store, whole, damage):
    damage(loss_of(store))
    with pytest.warns(UserWarning, match=r"loss.*; the runs of this tile are made again"):
        swept(store)
    assert survival.contents(store) == survival.contents(whole)
    assert survival.runs_made(store) == 6 * SEEDS


def test_any_reader_finds_a_flipped_bit(store):
    """Also where the time of the file does not say that it has changed."""
    times = loss_of(store).stat()
    flipped(loss_of(store))
    os.utime(loss_of(store), ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match="loss/c.0.0.2 has another checksum"):
        jf.open_results(store).loss.load()


REFUSED = {
    "tolerance was 0.0001 and is 0.001": {"tolerance": 1e-3},
    "max_steps was 400 and is 500": {"max_steps": 500},
    r"levels was \[\] and is \[0.05\]": {"levels": [5e-2]},
    "record_names was": {"record": [measures.distance]},
    "base_seed was 0 and is 1": {"base_seed": 1},
    "compression was exact and is none": {"compress": False},
    "the experiment or the data it uses have changed": {"chosen": weighted},
    "variants was None and is": {"chosen": {"a": experiment}},
    "tile_runs=10: the tiles of .* have 72 runs": {"tile_runs": 10},
}


@pytest.mark.parametrize("said", REFUSED)
def test_another_sweep_is_refused(store, said):
    before = survival.contents(store)
    with pytest.raises(ValueError, match=said):
        swept(store, **REFUSED[said])
    assert survival.contents(store) == before


def test_another_order_of_the_axes_is_refused(store):
    with pytest.raises(ValueError, match=r"axes was \['step_size', 'scale'\] and is \['scale', 'step_size'\]"):
        jf.sweep(experiment, seeds=60, max_steps=400, tolerance=1e-4, store=store, scale=SCALES, step_size=STEP_SIZES)


ELSEWHERE = {
    "jax": ("0.9.0", "jax was 0.10.2 and is 0.9.0".replace("0.10.2", jax.__version__)),
    "cpu_features": (["x86_64", "sse2"], "cpu_features lost .* and gained"),
    "xla_flags": (["--xla_cpu_enable_fast_math=true"], "xla_flags was"),
    "matmul_precision": ("bfloat16", "matmul_precision was highest and is bfloat16"),
    "backend": ("gpu", "backend was cpu and is gpu"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_another_machine_is_refused_unless_accepted(monkeypatch, store, name):
    value, said = ELSEWHERE[name]
    here = provenance.environment
    monkeypatch.setattr(provenance, "environment", lambda: here() | {name: value})
    with pytest.raises(ValueError, match=said):
        swept(store)
    if name not in differences.HARMLESS:
        with pytest.raises(ValueError, match=rf"accept=\['{name}'\]: needs names among"):
            swept(store, accept=[name])
        return
    swept(store, accept=[name])
    (accepted,) = read_root(Folder(store), "").root.attributes["accepted"]
    assert accepted["differences"][0].startswith(name)


@pytest.mark.parametrize("name", ["results", "file", "folder"])
def test_what_is_no_store_is_left_alone(tmp_path, whole, name):
    jf.write_results(jf.open_results(whole), tmp_path / "results")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(ValueError, match=rf"{name}: is not the store of a sweep; choose a path where nothing is yet"):
        swept(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_loses_nothing(monkeypatch, tmp_path, whole):
    write, calls = Folder.put, itertools.count()

    def writing(self, key, content, *, synced=False):
        if "/c.0" in key and len(content) > 100 and next(calls) == 28:  # in the middle of the third tile
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, key, content, synced=synced)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "put", writing)
        with pytest.raises(
            jf.StoreError, match="the disk is full; 144 of 360 runs are safe there: make room and repeat"
        ):
            swept(tmp_path / "a.zarr", devices=1)
    swept(tmp_path / "a.zarr")
    assert survival.contents(tmp_path / "a.zarr") == survival.contents(whole)


def test_a_really_full_disk(tmp_path, undisturbed):
    """It fills up in the middle of a sweep."""
    hearing, told = survival.FORKED.Pipe(duplex=False)
    process = survival.FORKED.Process(target=survival.on_a_small_disk, args=(tmp_path, undisturbed, told))
    process.start()
    told.close()
    heard = hearing.recv()
    survival.finished(process)
    if isinstance(heard, str):
        pytest.skip(heard)
    said, held = heard
    assert "the disk is full" in said
    safe = int(re.search(r"(\d+) of 9000 runs are safe", said)[1])  # pyright: ignore[reportOptionalSubscript]
    assert 90 <= safe <= held <= safe + 90, "the other thread may write its tile still"


def interrupt() -> None:
    """Interrupt the process from a thread that makes runs, and let the main thread hear of it."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)


def test_an_interrupt_finishes_the_tile(monkeypatch, tmp_path, whole):
    path, handler = tmp_path / "a.zarr", signal.getsignal(signal.SIGINT)
    with (
        pytest.warns(UserWarning, match="finishing the tiles in flight"),
        pytest.raises(KeyboardInterrupt, match="a.zarr is safe: repeat the call"),
    ):
        interrupted(monkeypatch, path, 1, interrupt)
    assert survival.runs_made(path) == 2 * 72
    assert signal.getsignal(signal.SIGINT) is handler
    swept(path)
    assert survival.contents(path) == survival.contents(whole)


def test_two_interrupts_stop_at_once(monkeypatch, tmp_path):
    def twice():
        interrupt()
        interrupt()

    with pytest.warns(UserWarning, match="finishing"), pytest.raises(KeyboardInterrupt, match="stopped at once"):
        interrupted(monkeypatch, tmp_path / "a.zarr", 1, twice)
    assert survival.runs_made(tmp_path / "a.zarr") <= 2 * 72


HOLD = """
import sys, time
from pathlib import Path
from jaxfact.store.claims import claimed
from jaxfact.store.folder import Folder
with claimed(Folder(Path(sys.argv[1])), (0, 0, 0, 2)):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_tile_of_another_is_left_to_it_and_taken_when_it_dies(monkeypatch, tmp_path, whole):
    path = tmp_path / "a.zarr"
    with pytest.raises(Broken):
        interrupted(monkeypatch, path, 1, fail)
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    seen = []

    def pause(seconds):
        seen.append(survival.runs_made(path))
        half = loss_of(path)
        half.with_name(f"{half.name}.4711-1.partial").touch()
        owner.send_signal(signal.SIGKILL)
        owner.communicate()

    monkeypatch.setattr(queues.time, "sleep", pause)
    with pytest.warns(UserWarning, match=f"waiting for 1 tiles, of which process {owner.pid} on .* has one"):
        swept(path, devices=1)
    assert seen[0] == 4 * 72, "all other tiles are done first"
    assert survival.contents(path) == survival.contents(whole)
    assert not list(path.rglob("*.partial")), "what it left is removed"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """Return what eight threads write, with the compiled program beside it."""
    path = tmp_path_factory.mktemp("undisturbed") / "a.zarr"
    survival.finished(survival.worker(path, seeds=1500, devices=8))
    return path


def test_killed_anywhere_it_goes_on(undisturbed):
    """Three times in two threads, then to the end in one; `python tests/survival.py` does it thirty times."""
    path = undisturbed.with_name("killed.zarr")
    assert survival.kill_and_resume(path, kills=3, seed=2, seeds=1500, devices=(2, 1)) > 10
    assert survival.contents(path) == survival.contents(undisturbed)
    assert survival.runs_made(path) == 4500


def test_two_processes_share_a_sweep(undisturbed):
    """Two processes of two threads each make the same arrays, every run once.

    Neither finishes a tile before the other has begun one: one alone could make all runs while the other still reads.
    """
    path, both_run = undisturbed.with_name("shared.zarr"), survival.FORKED.Barrier(2)
    both = [survival.worker(path, seeds=1500, begun=partial(both_run.wait, 120)) for _ in range(2)]
    for process in both:
        survival.finished(process)
    assert survival.runs_made(path) == 4500
    assert len(survival.makers(path)) == 2
    assert survival.contents(path) == survival.contents(undisturbed)


def test_out_of_memory_says_what_fits(monkeypatch, tmp_path):
    """No tile is too large for this machine, so the program is made to say so; the size that is advised fits."""

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4711 bytes.")

    with monkeypatch.context() as patch:
        patch.setattr(program, "_compiled", lambda *_: exhausted)
        patch.setattr(program, "_free_bytes", lambda _: 2_000_000)
        with pytest.raises(MemoryError, match=r"a tile of 360 runs needs .* MB, and about 2 MB is free") as caught:
            swept(tmp_path / "a.zarr", tile_runs=360)
    fits = int(re.search(r"tile_runs=(\d+) fits", str(caught.value))[1])  # pyright: ignore[reportOptionalSubscript]
    assert 72 <= fits <= 180
