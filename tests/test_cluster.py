"""A sweep on the workers of a cluster: the bits of one process, whatever becomes of workers, store and scheduler."""

import concurrent.futures
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from commands import OPTIONS, SWEPT, assert_one_line

import jaxfact as jf
from jaxfact.store import experiment_file
from jaxfact.store.medium import StoreError
from jaxfact.store.tilestore import TileStore

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:distributed", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, processes that a nanny starts again, and their client."""
    folder = str(tmp_path_factory.mktemp("workers"))
    with distributed.LocalCluster(2, threads_per_worker=1, local_directory=folder, dashboard_address=None) as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def methods(experiments):
    return experiment_file.load(f"{experiments}:methods")


def contents(path: Path) -> dict[str, bytes]:
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.glob("*/c*")}


def test_the_bits_of_one_process(client, methods, stored, tmp_path, monkeypatch):
    """Into a store, whose path may be relative, and into memory."""
    monkeypatch.chdir(tmp_path)
    told = []
    found = jf.sweep(
        methods, seeds=6, store="a.zarr", tile_runs=6, cluster=client,
        progress=lambda *counts: told.append(counts), **SWEPT,
    )  # fmt: skip
    assert contents(tmp_path / "a.zarr") == contents(stored)
    assert len(set(TileStore("a.zarr").marks.records["pid"].tolist()) - {os.getpid()}) in (1, 2)
    assert told[-1] == (36, 36)
    assert jf.status("a.zarr", check=True).finished
    in_memory = jf.sweep(methods, seeds=6, cluster=client, **SWEPT)
    times = ["compile_seconds", "run_seconds"]
    xr.testing.assert_equal(in_memory.drop_vars(times).drop_attrs(), found.drop_vars(times).drop_attrs().load())


def test_workers_are_killed(client, cluster, methods, tmp_path):
    """One of the two every half second while they work: nothing is lost, and nothing there twice."""
    path, over, killed = tmp_path / "a.zarr", threading.Event(), []

    def kill():
        while not over.wait(0.5):
            pids = list(client.run(os.getpid, on_error="ignore").values())
            if pids:
                killed.append(pids[len(killed) % len(pids)])
                os.kill(killed[-1], signal.SIGKILL)
            if len(killed) == 3:
                return

    jf.sweep(methods, seeds=2, store=path, tile_runs=6, cluster=client, **SWEPT)
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        jf.sweep(methods, seeds=200, store=path, tile_runs=6, cluster=client, **SWEPT)
    finally:
        over.set()
        thread.join()
    assert killed
    expected = jf.sweep(methods, seeds=200, **SWEPT)
    found = jf.open_results(path)
    for name in ("outcome", "hit", "loss", "distance_path"):
        np.testing.assert_array_equal(found[name], expected[name])
    marks = TileStore(path).marks.records
    assert sum(int(marks["outcomes"][name].sum()) for name in marks["outcomes"].dtype.names) == found.outcome.size


def test_what_a_worker_raises_is_raised_here(client, tmp_path):
    """Not tried for ever: an experiment that fails fails where it is read, and another machine is refused."""

    def experiment(step_size):
        return jf.Run(jf.Factorization([1.0], shape=(2, 2)), jf.starts.Gaussian(1), jf.methods.gradient_descent(1.0))

    with pytest.raises(ValueError, match="store=memory://a: is in the memory of this process"):
        jf.sweep(experiment, seeds=2, max_steps=10, tolerance=None, store="memory://a", cluster=client, step_size=[1])
    with pytest.raises(ValueError, match=r"cluster='here': needs a dask.distributed.Client"):
        jf.sweep(experiment, seeds=2, max_steps=10, tolerance=None, cluster="here", step_size=[1])


class Short:
    """A client whose scheduler goes away after some tiles; until then it does what it is asked at once."""

    def __init__(self, tiles: int):
        self.status, self._left = "running", tiles

    def scatter(self, data, **_):
        return data

    def nthreads(self):
        return {"here": 1}

    def cancel(self, futures):
        raise AssertionError("there is nobody to tell")

    def submit(self, function, *arguments, **_):
        future = Future()
        if self._left:
            self._left -= 1
            future.set_result(function(*arguments))
        else:
            self.status = "closed"
        return future


class Future(concurrent.futures.Future):
    """One that also says what has become of it."""

    @property
    def status(self):
        return "finished"


def test_the_scheduler_is_lost(methods, tmp_path):
    """One line, and what is there is there: the same call without it makes the others."""
    path = tmp_path / "a.zarr"
    with pytest.raises(StoreError, match=r"the cluster was lost \(its scheduler is gone\); what a store holds is safe"):
        jf.sweep(methods, seeds=6, store=path, tile_runs=6, cluster=Short(4), **SWEPT)
    assert jf.status(path).done == 24
    assert jf.sweep(methods, seeds=6, store=path, tile_runs=6, cluster=Short(6), **SWEPT).sizes["seed"] == 6
    assert jf.status(path).finished


def test_what_a_command_means_by_a_cluster(call, experiments, tmp_path):
    """A file of dask's form, or one line that says what is wrong with what was given."""
    words = ["sweep", f"{experiments}:plain", *OPTIONS, "--seeds", "2", "--store", tmp_path / "a.zarr", "--cluster"]
    (tmp_path / "bad.yaml").write_text("module: distributed\nclass: NoCluster\n")
    assert_one_line(call(*words, "bad.yaml"), "bad.yaml: does not describe a cluster .*NoCluster.*; give local, the")
    assert_one_line(call(*words, "no.yaml"), "no.yaml: does not describe a cluster .FileNotFoundError")
    assert_one_line(call(*words, "nowhere"), "--cluster=nowhere: cannot be reached .*; give local, the address")
    text = (
        "module: distributed\nclass: LocalCluster\nkwargs: {n_workers: 0, processes: false, dashboard_address: null}\n"
    )
    (tmp_path / "good.yaml").write_text(text + "scale: {n: 1}\n")
    ended = call(*words, "good.yaml")
    assert ended.code == 0
    assert "a.zarr: finished, 6 runs" in ended.out
