"""Tests the claim that workers of a cluster cost little beside threads of one process.

    python benchmarks/cluster.py --workers 2

The same sweep is run by threads and by a local cluster with as many workers, in turns, into memory and into stores; all
have compiled before. Then very many tiles of a few runs are made, which shows what a tile costs once it goes.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster  # pyright: ignore[reportMissingImports]
from factorization import device, device_line

import jaxfact as jf

WIDTH, RUNS, STEPS, TILES, SMALL = 5, 100_000, 1000, 1000, 64
PROBLEM = jf.Factorization(np.linspace(1, 0.5, WIDTH, dtype=np.float32), shape=(100, 100))


def experiment(scale):
    """Return a run of plain descent."""
    return jf.Run(PROBLEM, jf.starts.Gaussian(WIDTH, scale=scale), jf.methods.gradient_descent(0.1))


def seconds(**options) -> float:
    """Return how long a sweep takes that is run to its last step."""
    began = time.perf_counter()
    jf.sweep(experiment, tolerance=None, scale=[0.01], **options)
    return time.perf_counter() - began


def pace(tiles: int, **options) -> float:
    """Return how many tiles a second are made from the first fifth to the last: workers have read the sweep then."""
    told: list[tuple[float, int]] = []
    seconds(seeds=tiles * SMALL, progress=lambda done, _: told.append((time.perf_counter(), done)), **options)
    began, done = next(one for one in told if one[1] * 5 >= tiles * SMALL)
    return (told[-1][1] - done) / SMALL / (told[-1][0] - began)


def measured(client: Client, folder: Path, turns: int) -> dict[str, float]:
    """Return the least seconds of each way, and tiles per second."""
    took: dict[str, list[float]] = {}
    size = {"seeds": RUNS, "max_steps": STEPS}
    for turn in range(turns + 1):  # the first compiles
        for way, more in (("threads", {}), ("cluster", {"cluster": client})):
            took.setdefault(way, []).append(seconds(**size, **more))
            took.setdefault(f"{way}, store", []).append(seconds(**size, store=folder / f"{way}-{turn}", **more))
    found = {name: min(times[1:]) for name, times in took.items()}
    for way, more in (("threads", {}), ("cluster", {"cluster": client})):
        for place in ("memory", "store"):
            small = {"max_steps": 10, "tile_runs": SMALL, **more}
            if place == "store":
                small["store"] = folder / f"{way}-small"
            found[f"{way}, {place}, tiles per second"] = pace(TILES, **small)
    return found


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with (
        LocalCluster(options.workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        found = measured(client, Path(folder), options.turns)
    report = {"device": device(), "workers": options.workers, "found": found}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(device_line(report["device"]))
    print(f"{RUNS} runs of {STEPS} steps, d = {WIDTH}, {options.workers} workers:")
    for kind in ("", ", store"):
        threads, cluster = found[f"threads{kind}"], found[f"cluster{kind}"]
        print(f"  threads{kind} {threads:.2f} s, cluster{kind} {cluster:.2f} s, {100 * (cluster / threads - 1):+.1f} %")
    for name in (name for name in found if name.endswith("per second")):
        print(f"  {name}, of {SMALL} runs each: {found[name]:.0f}")


if __name__ == "__main__":
    main()
