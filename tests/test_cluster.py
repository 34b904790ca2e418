"""A sweep on the workers of a cluster: the bits of one process, whatever becomes of workers, store and scheduler."""

import concurrent.futures
import os
import threading
from collections import OrderedDict
from pathlib import Path

import dask.config
import distributed
import numpy as np
import pytest
import survival
import xarray as xr
from commands import OPTIONS, SWEPT, assert_one_line
from distributed.utils import get_mp_context

import jaxfact as jf
from jaxfact.store import experiment_file, provenance
from jaxfact.store.medium import StoreError
from jaxfact.store.tilestore import TileStore
from jaxfact.sweep import cluster as clusters
from jaxfact.sweep import declared, parts, tasks

TIMES = ["compile_seconds", "run_seconds"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, processes that a nanny starts again; forked from one that has loaded all they need, so at once."""
    folder = str(tmp_path_factory.mktemp("workers"))
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context().set_forkserver_preload(survival.PRELOADED)  # in place of what dask would have it load
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


def assert_bits(methods, client, stored, path) -> None:
    """Into a store, whose path may be relative, and into memory."""
    told = []
    found = jf.sweep(
        methods, seeds=6, store=path.name, tile_runs=6, cluster=client,
        progress=lambda *counts: told.append(counts), **SWEPT,
    )  # fmt: skip
    assert contents(path) == contents(stored)
    assert told[-1] == (36, 36)
    assert jf.status(path, check=True).finished
    in_memory = jf.sweep(methods, seeds=6, cluster=client, **SWEPT)
    xr.testing.assert_equal(in_memory.drop_vars(TIMES).drop_attrs(), found.drop_vars(TIMES).drop_attrs().load())


@pytest.mark.filterwarnings("ignore::UserWarning:distributed", "ignore::ResourceWarning")
def test_the_bits_of_one_process(client, methods, stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_bits(methods, client, stored, tmp_path / "a.zarr")
    assert len(set(TileStore("a.zarr").marks.records["pid"].tolist()) - {os.getpid()}) in (1, 2)


@pytest.mark.filterwarnings("ignore::UserWarning:distributed", "ignore::ResourceWarning")
def test_workers_are_killed(client, methods, tmp_path):
    """One of the two every half second while they work: nothing is lost, and nothing there twice."""
    path, over = tmp_path / "a.zarr", threading.Event()
    jf.sweep(methods, seeds=2, store=path, tile_runs=6, cluster=client, **SWEPT)
    with concurrent.futures.ThreadPoolExecutor(1) as one:
        killed = one.submit(survival.kill_workers, client, 2, 0.5, over)
        try:
            jf.sweep(methods, seeds=120, store=path, tile_runs=6, cluster=client, **SWEPT)
        finally:
            over.set()
    assert killed.result()
    expected = jf.sweep(methods, seeds=120, **SWEPT)
    found = jf.open_results(path)
    for name in ("outcome", "hit", "loss", "distance_path"):
        np.testing.assert_array_equal(found[name], expected[name])
    marks = TileStore(path).marks.records
    assert sum(int(marks["outcomes"][name].sum()) for name in marks["outcomes"].dtype.names) == found.outcome.size


class Future(concurrent.futures.Future):
    """One that also says what has become of it."""

    @property
    def status(self):
        return "cancelled" if self.cancelled() else "finished" if self._exception is None else "error"


class Short:
    """A client whose scheduler goes away after some tiles; until then it does what it is asked at once."""

    def __init__(self, tiles: int):
        self.status, self._left = "running", tiles

    def nthreads(self):
        return {"here": 1}

    def cancel(self, futures):
        assert self.status == "running"

    def submit(self, function, content, **_):
        return function(content)

    def map(self, function, items, *, token, packed, **_):
        futures = [Future() for _ in items]
        for future, item in zip(futures, items[: self._left], strict=False):
            try:
                future.set_result(function(item, token=token, packed=packed))
            except ValueError as error:
                future.set_exception(error)
        if len(items) > self._left:
            self.status = "closed"
        self._left -= len(items)
        return futures


class Cancelling(Short):
    """One that gives all tasks back then, as dask does, and waits in vain for a connection if it is asked."""

    def nthreads(self):
        if self.status != "running":
            raise OSError("timed out")
        return super().nthreads()

    def map(self, function, items, **options):
        futures = super().map(function, items, **options)
        for future in futures:
            future.cancel()  # those that have not ended
        return futures


@pytest.mark.parametrize("least", [32, 2], ids=["a tile each", "three tiles each"])
def test_the_bits_of_what_workers_do(methods, stored, tmp_path, monkeypatch, least):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clusters, "_TASKS", least)
    assert_bits(methods, Short(100), stored, tmp_path / "a.zarr")


def test_workers_remember_experiments_between_sweeps(methods, tmp_path, monkeypatch):
    """Another store, other seeds and other values of the axes: the experiments are the same, and not read again."""
    read, begun, methods = [], parts.Part.__init__, {"plain": methods["plain"]}
    monkeypatch.setattr(tasks, "_wanted", OrderedDict())
    monkeypatch.setattr(parts, "_remembered", OrderedDict())
    monkeypatch.setattr(parts.Part, "__init__", lambda *given: read.append(given) or begun(*given))
    jf.sweep(methods, seeds=2, store=tmp_path / "a.zarr", cluster=Short(9), **SWEPT)
    first = len(read)
    assert first == 2  # by the client and by the worker
    for number, place in enumerate([tmp_path / "b.zarr", None]):
        jf.sweep(methods, seeds=3 + number, store=place, cluster=Short(9), **SWEPT | {"step_size": [0.2, 0.4, 0.5]})
    assert len(read) == first
    jf.sweep(methods, seeds=2, cluster=Short(9), **SWEPT | {"tolerance": 1e-3})
    assert len(read) == first + 2


def test_what_is_no_cluster_and_what_is_no_worker(methods, tmp_path, monkeypatch):
    """Another machine is refused where it would begin, and what it says is said here."""
    with pytest.raises(ValueError, match="store=memory://a: is in the memory of this process"):
        jf.sweep(methods, seeds=2, store="memory://a", cluster=Short(9), **SWEPT)
    with pytest.raises(ValueError, match=r"cluster='here': needs a dask.distributed.Client"):
        jf.sweep(methods, seeds=2, cluster="here", **SWEPT)
    monkeypatch.setattr(declared, "environment", lambda: {**provenance.environment(), "cpu_features": ["z80"]})
    with pytest.raises(ValueError, match="cluster=a worker: is another machine: cpu_features lost z80 and gained"):
        jf.sweep(methods, seeds=2, cluster=Short(9), **SWEPT)
    assert jf.sweep(methods, seeds=2, cluster=Short(9), accept=["cpu_features"], **SWEPT).sizes["seed"] == 2


@pytest.mark.parametrize("client", [Short, Cancelling])
def test_the_scheduler_is_lost(methods, tmp_path, client):
    """One line, and what is there is there: the same call without it makes the others."""
    path = tmp_path / "a.zarr"
    with pytest.raises(StoreError, match=r"the cluster was lost \(its scheduler is gone\); what a store holds is safe"):
        jf.sweep(methods, seeds=6, store=path, tile_runs=6, cluster=client(4), **SWEPT)
    assert jf.status(path).done == 24
    assert jf.sweep(methods, seeds=6, store=path, tile_runs=6, cluster=Short(6), **SWEPT).sizes["seed"] == 6
    assert jf.status(path).finished


class Empty(Short):
    """One whose workers come after half a second."""

    def nthreads(self):
        return {}

    def map(self, function, items, **options):
        futures = [Future() for _ in items]

        def come():
            for future, made in zip(futures, Short.map(self, function, items, **options), strict=True):
                future.set_result(made.result())

        threading.Timer(0.5, come).start()
        return futures


def test_there_are_no_workers(methods, monkeypatch):
    """That is said once, and waited for."""
    monkeypatch.setattr(clusters, "_SILENT", 0.0)
    with pytest.warns(UserWarning, match="the cluster has no workers: waiting until there are some") as said:
        found = jf.sweep(methods, seeds=2, cluster=Empty(9), **SWEPT)
    assert len(said) == 1
    assert (found.outcome != "pending").all()


@pytest.mark.filterwarnings("ignore::UserWarning:distributed", "ignore::ResourceWarning")
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
