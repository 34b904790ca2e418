"""Tests the claim that a store may have a hundred thousand tiles: what grows with them, and how fast.

    python benchmarks/growth.py --tiles 10 1000 100000

No tile is run: one is, and all others are links to its files, with marks of their own. Reported are seconds, each in a
process of its own, and of the processor where it says so: `jaxfact status`, opening, and a sweep's look at a store that
needs nothing; and what it costs to add seeds to a million.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import jaxfact as jf
from jaxfact.store.marks import MOST, Writer
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import extend, mend

RUNS = 8
TIMED = """
import sys, time
from pathlib import Path
{prelude}
began, cpu = time.perf_counter(), time.process_time()
{body}
print(time.perf_counter() - began, time.process_time() - cpu)
"""
LOOKS = {
    "status": ("from jaxfact.store.status import status", "status(sys.argv[1])"),
    "opening": ("import jaxfact as jf; jf.open_results; import zarr", "jf.open_results(sys.argv[1])"),
    "a sweep's look": (
        "from jaxfact.store.tilestore import TileStore\nfrom jaxfact.store.upkeep import mend",
        "store = TileStore(sys.argv[1]); assert mend(store) == []; store.left(0, True)",
    ),
}


def experiment(scale):
    """Return a run of a small problem."""
    problem = jf.Factorization(np.array([1.0, 0.5], np.float32), shape=(20, 10))
    return jf.Run(problem, jf.starts.Gaussian(2, scale=scale), jf.methods.gradient_descent(0.3))


def grown(path: Path, tiles: int) -> Path:
    """Make a store of that many tiles, of which one was run."""
    jf.sweep(experiment, seeds=RUNS, max_steps=400, tolerance=1e-4, scale=[0.1], store=path, tile_runs=RUNS)
    extend(path, {}, np.arange(RUNS * tiles))
    store = TileStore(path)
    records = np.repeat(store.marks.records, tiles)
    records["tile"][:, -1] = np.arange(tiles)
    for name in store.names:
        first, *others = (path / store.root.key(name, (0, 0, k)) for k in range(tiles))
        for other in others:
            try:
                os.link(first, other)
            except OSError:  # more links than a file may have
                first = other
                first.write_bytes((path / store.root.key(name, (0, 0, 0))).read_bytes())
    newest = max(file.stat().st_mtime_ns for file in path.glob("*/c.*"))
    records["seen"] = newest
    for begin in range(0, tiles, MOST):
        Writer(store.medium, store.root).put(records[begin : begin + MOST])
    assert mend(TileStore(path)) == []
    return path


def timed(prelude: str, body: str, path: Path, times: int = 3) -> tuple[float, float]:
    """Return the seconds, and those of the processor, that a call takes in a process of its own: the least of some."""
    command = [sys.executable, "-c", TIMED.format(prelude=prelude, body=body), str(path)]
    told = [subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() for _ in range(times)]
    return min(float(wall) for wall, _ in told), min(float(cpu) for _, cpu in told)


def command(path: Path) -> float:
    """Return the seconds of the whole command, Python included: the least of three."""
    code = "from jaxfact.cli.main import main; main()"
    body = f"import subprocess\nsubprocess.run([sys.executable, '-c', {code!r}, 'status', sys.argv[1]], check=True)"
    wrapped = body.replace("check=True", "check=True, stdout=subprocess.DEVNULL")
    return timed("import subprocess", wrapped, path)[0]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, nargs="+", default=[10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report: dict = {"tiles": {}}
    for tiles in options.tiles:
        with tempfile.TemporaryDirectory() as folder:
            path = grown(Path(folder) / "a.zarr", tiles)
            marks = list(path.glob("tiles/marks-*.npy"))
            found = {name: timed(*look, path) for name, look in LOOKS.items()}
            files = [len(marks), sum(file.stat().st_size for file in marks) / 1e6]
            report["tiles"][tiles] = {
                **found,
                "command": command(path),
                "marks": files,
                "variables": len(TileStore(path).names),
            }
        said = ", ".join(f"{name} {wall:.2f} s ({cpu:.2f} s of the processor)" for name, (wall, cpu) in found.items())
        if not options.json:
            print(f"{tiles} tiles: {said}; jaxfact status {report['tiles'][tiles]['command']:.2f} s", flush=True)
    for name, seeds in (("as a count", "np.arange(1_000_000)"), ("by number", "3 * np.arange(1_000_000)[::-1]")):
        with tempfile.TemporaryDirectory() as folder:
            path = grown(Path(folder) / "a.zarr", 1)
            prelude = "import numpy as np\nfrom jaxfact.store.upkeep import extend"
            report[name] = timed(prelude, f"extend(sys.argv[1], {{}}, {seeds})", path, 1)
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name, (wall, cpu) in {k: report[k] for k in ("as a count", "by number")}.items():
        print(f"adding seeds to a million, {name}: {wall:.2f} s, {cpu:.2f} s of the processor")


if __name__ == "__main__":
    main()
