"""Tests the claims that a store costs little, that memory stays flat, and that a big store opens at once.

The same sweep is run with and without a store, in turns, and twice without, which shows what chance does. Then a store
of a million runs is written in a process of its own, whose memory is watched, and is opened, cut and plotted.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from factorization import device, device_line

import jaxfact as jf
from jaxfact import measures

WIDTH, STEP_SIZE, EVERY = 5, 0.1, 20
RECORDS = [measures.loss, measures.distance, measures.imbalance, measures.energy]


def swept(runs: int, steps: int, records: int, **options):
    """Run a sweep of 100×100 targets for all steps, with that many records of four scalars."""
    problem = jf.Factorization(np.linspace(1, 0.5, WIDTH, dtype=np.float32), shape=(100, 100))
    return jf.sweep(
        lambda scale: jf.Run(problem, jf.starts.Gaussian(WIDTH, scale=scale), jf.methods.gradient_descent(STEP_SIZE)),
        seeds=runs // 2,
        max_steps=steps,
        tolerance=None,
        record=RECORDS if records else None,
        every=steps // records if records else None,
        check_every=EVERY,
        scale=[1e-2, 1e-1],
        **options,
    )


def overhead(runs: int, steps: int, rounds: int) -> dict:
    """Return seconds of whole calls, compiled before, and ratios of each round: with to without, and without to itself.

    The calls of a round run in every order in turn, since a machine may slow down while it works.
    """
    names = ("memory", "store", "again")
    orders = list(itertools.permutations(names))
    swept(runs, steps, 50)  # compiles
    found = []
    for k in range(rounds):
        seconds = {}
        for name in orders[k % len(orders)]:
            with tempfile.TemporaryDirectory() as folder:
                place = {"store": Path(folder) / "runs.zarr"} if name == "store" else {}
                began = time.perf_counter()
                swept(runs, steps, 50, **place)
                seconds[name] = time.perf_counter() - began
        found.append(seconds)
    return {
        "rounds": found,
        "store": _percent([2 * s["store"] / (s["memory"] + s["again"]) for s in found]),
        "control": _percent([s["again"] / s["memory"] for s in found]),
        "seconds": {name: statistics.median(s[name] for s in found) for name in names},
    }


def _percent(ratios: list[float]) -> dict[str, float]:
    """Return by how much ratios exceed 1: their median, mean, and its standard error."""
    over = [100 * (ratio - 1) for ratio in ratios]
    error = statistics.stdev(over) / len(over) ** 0.5
    return {"median": statistics.median(over), "mean": statistics.mean(over), "standard_error": error}


def peak_megabytes(runs: int, folder: Path) -> float:
    """Write a store in a process of its own and return the most memory it held."""
    command = [sys.executable, __file__, "--write", str(folder), "--runs", str(runs)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def opened(path: Path) -> float:
    """Return the seconds it takes to open a store, select a slice and plot it."""
    code = (
        "import sys, time; from jaxfact.figures import distance; from jaxfact.store.files import open_results; "
        "began = time.perf_counter(); runs = open_results(sys.argv[1]).sel(scale=0.1); "
        "distance(runs).savefig(sys.argv[1] + '.png'); "
        "print(time.perf_counter() - began)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True).stdout
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.write:
        swept(options.runs, 200, 10, store=options.write)
        # Not what getrusage says: that begins with the memory of the process that started this one.
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(int(peak.split()[1]) / 1024)
        return
    report = {"device": device(), "overhead": overhead(100_000, 1000, options.rounds), "peak": {}}
    with tempfile.TemporaryDirectory() as folder:
        for runs in (options.runs // 10, options.runs):
            report["peak"][runs] = peak_megabytes(runs, Path(folder) / f"{runs}.zarr")
        path = Path(folder) / f"{options.runs}.zarr"
        report["files"] = sum(1 for file in path.rglob("*") if file.is_file())
        report["megabytes"] = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        report["open_seconds"] = opened(path)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(device_line(report["device"]))
    cost = report["overhead"]
    print(
        f"100,000 runs of 1000 steps, d = {WIDTH}, 50 records of 4 scalars: {cost['seconds']['memory']:.2f} s in "
        f"memory, {cost['seconds']['store']:.2f} s to a store"
    )
    for name, said in (("store", "a store costs"), ("control", "memory against itself")):
        over = cost[name]
        print(
            f"{said}: {over['mean']:+.1f} ± {over['standard_error']:.1f} %, median {over['median']:+.1f} % "
            f"({options.rounds} rounds)"
        )
    for runs, peak in report["peak"].items():
        print(f"peak memory with a store of {runs} runs: {peak:.0f} MB")
    held = f"{report['files']} files, {report['megabytes']:.0f} MB"
    print(f"{held}; opened, cut and plotted in {report['open_seconds']:.2f} s")


if __name__ == "__main__":
    main()
