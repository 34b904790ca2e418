"""Kills a sweep at random moments, goes on with it each time, and compares it with one that nobody disturbed.

python tests/survival.py --kills 30
python tests/survival.py --kills 20 --workers-of-a-cluster 8    # kills a worker every eight seconds instead
python tests/survival.py --kills 2 --schedulers    # kills the scheduler that a command sweeps on, once for each sweep
"""

import argparse
import contextlib
import ctypes
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import jaxfact as jf
from jaxfact import measures
from jaxfact.store.tilestore import TileStore

SEEDS, STEP_SIZES, TILE = 6000, (0.1, 0.3, 2.5), 90
PRELOADED = ["distributed", "jaxfact.sweep.sweeping", "jaxfact.sweep.tasks", "jaxfact.store.shown"]
FORKED = multiprocessing.get_context("forkserver")
"""Processes come from one that has loaded all they need, and has begun nothing: each is there at once."""
FORKED.set_forkserver_preload(PRELOADED)


def experiment(step_size):
    """Return a run of a small problem."""
    problem = jf.Factorization(np.array([1.0, 0.5], np.float32), shape=(20, 10))
    return jf.Run(problem, jf.starts.Gaussian(2, scale=0.01), jf.methods.gradient_descent(step_size))


def swept(path: Path | None, seeds: int = SEEDS, begun: Callable[[], Any] | None = None, **options) -> xr.Dataset:
    """Run the sweep; call something once when the first runs are made, for which all threads wait."""
    told, one = [], threading.Lock()

    def progress(done, total):
        with one:
            if not told:
                told.append(begun and begun())

    return jf.sweep(
        experiment,
        seeds=seeds,
        max_steps=400,
        tolerance=1e-4,
        record=[measures.distance, measures.singular_values],
        every=100,
        store=path,
        tile_runs=TILE if path else None,
        progress=progress,
        step_size=STEP_SIZES,
        **options,
    )


def worker(path: Path, *, seeds: int = SEEDS, devices: int = 2, begun: Callable[[], Any] | None = None) -> BaseProcess:
    """Start the sweep in a process of its own; its compiled code is kept beside the store."""
    process = FORKED.Process(target=_work, args=(path, seeds, devices, begun))
    process.start()
    return process


def _work(path: Path, seeds: int, devices: int, begun: Callable[[], Any] | None) -> None:
    _compile_beside(path)
    swept(path, seeds, begun, devices=devices)


def _compile_beside(path: Path) -> None:
    """Compile as users do, since bits are compared, and the same program once for all stores in a folder."""
    os.environ |= {"XLA_FLAGS": "", "JAXFACT_CACHE": str(path.parent / "compiled")}


def finished(process: BaseProcess) -> None:
    """Wait for a worker, and fail where it failed, which it has said itself."""
    process.join(timeout=120)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(f"exit code {process.exitcode}")


def on_a_small_disk(folder: Path, beside: Path, told: Connection) -> None:
    """Sweep into a file system of 300 kB, in a name space of its own, and tell what was said and what is held.

    Compiled code is that which lies beside another store.
    """
    _compile_beside(beside)
    libc, (user, group) = ctypes.CDLL(None), (os.getuid(), os.getgid())
    if libc.unshare(0x10020000):  # CLONE_NEWUSER | CLONE_NEWNS
        return told.send("no name spaces here")
    maps = {"setgroups": "deny", "uid_map": f"0 {user} 1", "gid_map": f"0 {group} 1"}
    for name, text in maps.items():
        Path("/proc/self", name).write_text(text)
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=300k"):
        return told.send("no file systems to be mounted here")
    said = ""
    try:
        swept(folder / "a.zarr", 3000)
    except jf.StoreError as error:
        said = str(error)
    return told.send((said, int((jf.open_results(folder / "a.zarr").outcome != "pending").sum())))


class Reader(threading.Thread):
    """Opens a store with plain xarray again and again, and remembers what went wrong."""

    def __init__(self, path: Path):
        super().__init__(daemon=True)
        self._path, self._over, self.opened = path, threading.Event(), 0
        self.failures: list[BaseException] = []

    def run(self) -> None:
        """Open until told to stop."""
        while not self._over.is_set():
            if (self._path / "zarr.json").exists():
                try:
                    with xr.open_zarr(self._path, chunks=None) as runs:
                        runs.outcome.load()
                    self.opened += 1
                except Exception as error:  # whatever it is, it is a failure
                    self.failures.append(error)
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop and wait."""
        self._over.set()
        self.join()


def kill_and_resume(path: Path, kills: int, seed: int, seeds: int = SEEDS, devices: tuple[int, int] = (2, 2)) -> int:
    """Kill the sweep that often, one time in four before it has run anything; finish it; return how often it opened.

    `devices` are those of the killed processes and of the last.
    """
    moments, reader = random.Random(seed), Reader(path)
    reader.start()
    try:
        for _ in range(kills):
            reading, writing = FORKED.Pipe(duplex=False)
            process = worker(path, seeds=seeds, devices=devices[0], begun=partial(writing.send, "running"))
            writing.close()
            if moments.random() < 0.25:
                time.sleep(moments.uniform(0, 2))
            else:
                reading.recv()
                time.sleep(moments.uniform(0, 0.25))
            process.kill()
            process.join()
        finished(worker(path, seeds=seeds, devices=devices[1]))
    finally:
        reader.stop()
    if reader.failures:
        raise reader.failures[0]
    return reader.opened


def contents(path: Path) -> dict[str, str]:
    """Return a hash of every file that holds numbers."""
    files = sorted([*path.glob("*/c"), *path.glob("*/c.*")])
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def runs_made(path: Path) -> int:
    """Return how many runs the marks of a store count."""
    records = TileStore(path).marks.records
    return sum(int(records["outcomes"][name].sum()) for name in records["outcomes"].dtype.names)


def makers(path: Path) -> set[int]:
    """Return the processes that have made the tiles of a store."""
    return set(TileStore(path).marks.records["pid"].tolist())


def kill_workers(client: Any, kills: int, seconds: float, over: threading.Event) -> int:
    """Kill a worker of a cluster that often, each in turn, unless it is over; return how often that was done."""
    killed = 0
    while killed < kills and not over.wait(seconds):
        if pids := list(client.run(os.getpid, on_error="ignore").values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[killed % len(pids)], signal.SIGKILL)
                killed += 1
    return killed


def killed_in_turn(path: Path, kills: int, seconds: float) -> int:
    """Sweep on two workers of which one is killed now and then; return the number of seeds that took."""
    import dask.config  # pyright: ignore[reportMissingImports]
    from distributed import Client, LocalCluster  # pyright: ignore[reportMissingImports]

    over, seeds = threading.Event(), 0
    with (
        # Or a worker that dies twice within a quarter of a minute is given up, and not started again.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        ThreadPoolExecutor(1) as one,
    ):
        killing = one.submit(kill_workers, client, kills, seconds, over)
        try:
            while not killing.done():
                seeds += SEEDS
                swept(path, seeds, cluster=client)
        finally:
            over.set()
    assert killing.result() == kills
    return seeds


def commanded(path: Path, *more: str) -> subprocess.Popen:
    """Start the sweep by the command line."""
    axis = f"step_size={','.join(map(str, STEP_SIZES))}"
    words = [
        *("sweep", f"{__file__}:experiment", "--axis", axis, "--seeds", str(SEEDS), "--max-steps", "400"),
        *("--tolerance", "1e-4", "--record", "distance,singular_values", "--every", "100", "--tile-runs", str(TILE)),
        *("--store", str(path), *more),
    ]
    code = "from jaxfact.cli.main import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True, cwd=path.parent)


def schedulers_killed(path: Path, kills: int) -> None:
    """Sweep on a scheduler and two workers, processes all, and kill the scheduler on the way; finish without one."""
    about = path.parent / "scheduler.json"

    def started(over: contextlib.ExitStack, kind: str, *more: str) -> subprocess.Popen:
        words = [sys.executable, "-m", f"distributed.cli.{kind}", "--scheduler-file", str(about), "--no-dashboard"]
        process = subprocess.Popen([*words, *more], stderr=subprocess.DEVNULL)
        over.callback(process.kill)
        return process

    for _ in range(kills):
        with contextlib.ExitStack() as over:
            about.unlink(missing_ok=True)
            scheduler = started(over, "dask_scheduler", "--port", "0")
            for _ in range(2):
                started(over, "dask_worker", "--nthreads", "1", "--no-nanny", "--local-directory", str(path.parent))
            while not about.exists():
                time.sleep(0.1)
            before = runs_made(path) if path.exists() else 0
            sweeping = commanded(path, "--cluster", json.loads(about.read_text())["address"])
            while sweeping.poll() is None and (not any(path.glob("tiles/marks-*")) or runs_made(path) <= before):
                time.sleep(0.02)
            scheduler.kill()
            began, (_, said) = time.monotonic(), sweeping.communicate(timeout=120)
            print(f"scheduler killed; {time.monotonic() - began:.1f} s later the command ended, exit code", end=" ")
            print(f"{sweeping.returncode}, {runs_made(path)} runs in the store; it said:\n{said}", flush=True)
    _, said = (last := commanded(path)).communicate(timeout=120)
    if last.returncode:
        raise RuntimeError(said)


def main() -> None:
    """Kill, resume and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers-of-a-cluster", type=float, default=None, metavar="SECONDS")
    parser.add_argument("--schedulers", action="store_true")
    options = parser.parse_args()
    seconds, seeds = options.workers_of_a_cluster, SEEDS
    with tempfile.TemporaryDirectory() as folder:
        killed, whole = Path(folder) / "killed.zarr", Path(folder) / "whole.zarr"
        if options.schedulers:
            schedulers_killed(killed, options.kills)
        elif seconds is None:
            opened = kill_and_resume(killed, options.kills, options.seed)
            print(f"{options.kills} kills; opened {opened} times in between, always readable")
        else:
            seeds = killed_in_turn(killed, options.kills, seconds)
            print(f"{options.kills} kills of a worker, one every {seconds:g} s")
        finished(worker(whole, seeds=seeds))
        same, counted = contents(killed) == contents(whole), runs_made(killed)
    wanted = seeds * len(STEP_SIZES)
    print(f"arrays byte for byte as undisturbed: {same}; {counted} of {wanted} runs counted")
    sys.exit(not (same and counted == wanted))


if __name__ == "__main__":
    main()
