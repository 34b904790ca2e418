"""Everything that is worth measuring on a GPU, in one call of less than eight minutes.

    python benchmarks/gpu.py [--tiny] [--minutes 7] [--only TEXT] [--out FOLDER]

Run-steps per second of the engine's loop over widths, methods and lanes, with their share of what the device can do,
which is measured first, by XLA's kernels and in registers where that can be; full rank, sensing and completion; whole
sweeps; what compiling takes; whether bits depend on the company a run keeps; PyTorch and plain JAX on the same device.
The table is printed as it is made and written to the
folder, as text and as JSON. What the minutes do not suffice for is named. `--tiny` is for a machine without a GPU.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import gpu_ceilings
import gpu_peers
import gpu_sweeps
import jax
import numpy as np
from factorization import device, device_line

import jaxfact as jf


class Sizes(NamedTuple):
    """How much is measured; no number of lanes is the engine's own."""

    widths: tuple[int, ...]
    lanes: tuple[int | None, ...]
    few_widths: tuple[int, ...]
    other_lanes: tuple[int | None, ...]
    seconds: float
    shape: tuple[int, int]
    side: int
    starts: tuple[int, ...]
    steps: int
    sweep: tuple[int, int]
    identical: tuple[int, int]
    company: tuple[int, ...]
    methods: tuple[str, ...]
    compiled: tuple[str, ...]
    wide: tuple[int, int]


FULL = Sizes(
    widths=(1, 2, 3, 5, 8, 16),
    lanes=(2**7, 2**10, None, 2**17, 2**20),
    few_widths=(2, 5),
    other_lanes=(2**10, None),
    seconds=0.05,
    shape=(344, 403),
    side=50,
    starts=(16384,),
    steps=2000,
    sweep=(200_000, 5000),
    identical=(10, 50_000),
    company=(2**7, 2**10, 2**17),
    methods=tuple(gpu_sweeps.METHODS),
    compiled=("plain", "noise"),
    wide=(64, 100),
)
TINY = Sizes(
    widths=(2,),
    lanes=(16,),
    few_widths=(2,),
    other_lanes=(None,),
    seconds=0.01,
    shape=(20, 18),
    side=8,
    starts=(16,),
    steps=30,
    sweep=(40, 10),
    identical=(4, 40),
    company=(16, 32),
    methods=("plain",),
    compiled=("plain",),
    wide=(1, 6),
)
_MOST_NUMBERS = 2**27  # half a gigabyte of factors and state; the loop keeps several copies
Rows = Iterator[dict[str, Any]]


def compressed(sizes: Sizes, limits: dict[str, Any]) -> Rows:
    """Yield plain steps at all widths and lanes, the other methods at a few widths, both ways, where they fit."""
    grid = [("plain", width, sizes.lanes) for width in sizes.widths]
    grid += [(how, width, (None,)) for width in sizes.few_widths for how in list(gpu_sweeps.METHODS)[1:]]
    reads = [gpu_sweeps.Read(gpu_sweeps.factorization(width, how)) for how, width, _ in grid]
    wanted = [
        ((how, width), (read, way, count))
        for (how, width, lanes), read in zip(grid, reads, strict=True)
        for count in read.sizes(lanes)
        for way in read.ways
        if read.numbers * count <= _MOST_NUMBERS
    ]
    loops = gpu_sweeps.compiled([given for _, given in wanted])
    for ((how, width), _), loop in zip(wanted, loops, strict=True):
        count = gpu_sweeps.flops(width, 2 * width, width) if how == "plain" else None
        yield {"what": how, "d": width} | row_of(loop, sizes, limits, count)


def others(sizes: Sizes, limits: dict[str, Any]) -> Rows:
    """Yield full rank, sensing and completion."""
    (m, n), rng = sizes.shape, np.random.default_rng(0)
    full = jf.Factorization(np.geomspace(1, 1e-3, min(m, n), dtype=np.float32), shape=(m, n))
    truth = jf.Factorization(gpu_sweeps.values(2), shape=(sizes.side, sizes.side))
    operator = jf.operators.gaussian(jax.random.key(0), truth.shape, sizes.side**2 // 2, dtype=np.float32)
    rows, columns = np.nonzero(rng.random((m, n)) < 0.2)
    matrix = rng.standard_normal((m, 3)) @ rng.standard_normal((3, n))
    seen = jf.Completion(rows, columns, matrix[rows, columns].astype(np.float32), (m, n))
    problems = {
        f"full rank {m}×{n}": (full, 4, gpu_sweeps.flops(4, (m + n) // 2, min(m, n))),
        f"sensing {sizes.side}²": (jf.Sensing.of(truth, operator), 2, None),
        f"completion {m}×{n}": (seen, 3, None),
    }
    reads = {name: gpu_sweeps.Read(gpu_sweeps.experiment(*given[:2])) for name, given in problems.items()}
    wanted = [
        (name, (read, way, count))
        for name, read in reads.items()
        for count in read.sizes(sizes.other_lanes)
        for way in read.ways
    ]
    loops = gpu_sweeps.compiled([given for _, given in wanted])
    for (name, _), loop in zip(wanted, loops, strict=True):
        _, width, count = problems[name]
        yield {"what": name, "d": width} | row_of(loop, sizes, limits, count)


def row_of(loop: gpu_sweeps.Loop, sizes: Sizes, limits: dict[str, Any], count: int | None) -> dict[str, Any]:
    """Return the speed of a loop and its shares of the ceilings: factors and state moved once each way per step."""
    took = loop.step_seconds(sizes.seconds)
    rate = loop.lanes / took
    return {
        "way": loop.way,
        "lanes": loop.lanes,
        "chosen": loop.read.chosen,
        "rate": rate,
        "step_seconds": took,
        "of_bandwidth": rate * 8 * loop.read.numbers / limits["bytes_per_second"],
        "of_arithmetic": rate * count / limits["product_flops_per_second"] if count else None,
    }


def sweeps(sizes: Sizes, _: dict[str, Any]) -> Rows:
    """Yield whole sweeps: few and many seeds, looks at every 10th, 100th and 1000th step, one device and all."""
    many, steps = sizes.sweep
    strides = [stride for stride in (10, 100, 1000) if steps % stride == 0]
    used = sorted({1, jax.local_device_count()})
    grid = itertools.product(sizes.few_widths, (max(2, many // 200), many), strides, used)
    for width, seeds, stride, devices in grid:
        make = gpu_sweeps.factorization(width)
        runs = gpu_sweeps.swept(make, seeds, steps, check_every=stride, devices=devices)
        took = float(runs.run_seconds)
        said = {"d": width, "way": gpu_sweeps.way_taken(runs), "seeds": seeds, "steps": steps}
        said |= {"check_every": stride, "devices": devices}
        yield said | {"compile_seconds": float(runs.compile_seconds), "seconds": took, "rate": seeds * steps / took}


def compilation(sizes: Sizes, _: dict[str, Any]) -> Rows:
    """Yield what tracing and compiling take, one program after the other; the lanes are those of no other."""
    for how, width in itertools.product(sizes.compiled, sizes.few_widths):
        began = time.perf_counter()
        read = gpu_sweeps.Read(gpu_sweeps.factorization(width, how))
        reading = time.perf_counter() - began
        for way in read.ways:
            said: dict[str, Any] = {"what": how, "d": width, "way": gpu_sweeps.name_of(way), "read": reading}
            yield said | gpu_sweeps.compile_seconds(read, way, 256)


def identity(sizes: Sizes, _: dict[str, Any]) -> Rows:
    """Yield how many of a few runs have other bits in other company; none should."""
    width = sizes.few_widths[0]

    def of(how: str) -> dict[str, Any]:
        return {"what": how, "d": width} | gpu_sweeps.identity(how, width, *sizes.identical)

    with ThreadPoolExecutor(len(sizes.methods)) as threads:
        yield from threads.map(of, sizes.methods)


def by_lanes(sizes: Sizes, __: dict[str, Any]) -> Rows:
    """Yield how many runs have other bits where other lanes advance together, which is why lanes never change."""
    width = sizes.few_widths[0]
    reads = {how: gpu_sweeps.Read(gpu_sweeps.factorization(width, how)) for how in sizes.methods}
    wanted = [(how, way) for how, read in reads.items() for way in read.ways]
    loops = gpu_sweeps.compiled([(reads[how], way, lanes) for how, way in wanted for lanes in sizes.company])
    for how, _ in wanted:
        found = list(itertools.islice(loops, len(sizes.company)))
        yield {"what": how, "d": width, "way": found[0].way} | gpu_sweeps.bits_by_lanes(found)


def precision(sizes: Sizes, _: dict[str, Any]) -> Rows:
    """Yield the relative error of float32 products: by default a GPU rounds their factors to TF32, a sweep must not."""
    yield gpu_ceilings.product_errors() | gpu_sweeps.loss_errors(*sizes.wide)


def against(sizes: Sizes, _: dict[str, Any]) -> Rows:
    """Yield PyTorch and plain JAX beside jaxfact; `off` is how far losses are from those in float64 after 30 steps."""
    shape = (100, 100) if sizes is FULL else sizes.shape
    for starts in sizes.starts:
        size = {"shape": shape, "rank": 5, "width": 5, "starts": starts, "steps": sizes.steps}
        yield from ({"starts": starts} | found for found in gpu_peers.compare(size, sizes.seconds))


SECTIONS: dict[str, Callable[[Sizes, dict[str, Any]], Rows]] = {
    "Runs, of those in the fewest lanes, whose bits differ in more lanes, by lanes and steps": by_lanes,
    "Relative error of float32 products, and of a sweep's losses where they need such products": precision,
    "Seconds to read, to trace and to compile": compilation,
    "Run-steps per second, target of rank d and 100×100, compressed where the method allows it": compressed,
    "Whole sweeps": sweeps,
    "Runs, of a few, whose bits differ in other company": identity,
    "Beside peers: 100×100, rank and width 5": against,
    "Run-steps per second of other problems": others,
}


class Printer:
    """The report as text: printed line by line, and kept."""

    def __init__(self):
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)

    def table(self, rows: Rows, end: float) -> Rows:
        """Say each row as it comes, under the names of the first, and pass it on; until the time ends."""
        columns: dict[str, int] = {}
        for row in rows:
            if not columns:
                least = {"what": 20, "contender": 32}
                columns = {name: max(least.get(name, 10), len(name) + 2) for name in row}
                self("".join(f"{name:<{room}}" for name, room in columns.items()).rstrip())
            self("".join(f"{shown(name, row[name]):<{room}}" for name, room in columns.items()).rstrip())
            yield row
            if time.perf_counter() > end:
                self("no time is left for further rows")
                return


def shown(name: str, value: Any) -> str:
    """Return a value as text."""
    if value is None:
        return "-"
    if name.startswith("of_"):
        return f"{value:.0%}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure what there is time for, and write it down."""
    options, began = parsed(), time.perf_counter()
    jax.config.update("jax_default_matmul_precision", "highest")
    sizes, say = TINY if options.tiny else FULL, Printer()
    limits = gpu_ceilings.ceilings(options.tiny)
    report: dict[str, Any] = {"device": device(), "accelerator": gpu_ceilings.accelerator(), "ceilings": limits}
    say(device_line(report["device"]))
    say(", ".join(f"{name} {value}" for name, value in report["accelerator"].items()))
    say(", ".join(f"{name} {value:.3g}" for name, value in limits.items()))
    end, failed = began + 60 * options.minutes, 0
    for title, section in SECTIONS.items():
        if options.only and not any(word in title for word in options.only):
            continue
        spent = time.perf_counter() - began
        if time.perf_counter() > end:
            say(f"\n{title}: no time is left")
            continue
        say(f"\n{title}  ({spent:.0f} s)")
        report[title] = rows = []
        try:
            rows.extend(say.table(section(sizes, limits), end))
        except Exception as error:  # the other sections are still worth having
            failed += 1
            say(f"failed: {error!r}")
        finally:  # also of a section that is interrupted
            write(report, say.lines, options.out)
    report["peak_bytes"], report["seconds"] = gpu_ceilings.peak_bytes(), time.perf_counter() - began
    say(f"\nPeak memory {report['peak_bytes'] or 0:.3g} bytes, {report['seconds']:.0f} s in all")
    write(report, say.lines, options.out)
    sys.exit(min(failed, 1))


def write(report: dict[str, Any], lines: list[str], folder: Path) -> None:
    """Write the report beside those of other devices."""
    folder.mkdir(parents=True, exist_ok=True)
    name = "gpu-" + "-".join(report["accelerator"]["kind"].lower().split())
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="sizes at which nothing is measured, only run")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--only", action="append", default=[], help="sections whose titles contain this")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
