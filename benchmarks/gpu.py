"""Everything that is worth measuring on a GPU, in one call of less than eight minutes.

    python benchmarks/gpu.py [--tiny] [--minutes 7] [--out FOLDER]

Run-steps per second of the engine's loop over widths, methods and lanes, with their share of what the device can do,
which is measured first; full rank, sensing and completion; whole sweeps; what compiling takes; whether bits depend on
the company a run keeps; PyTorch and plain JAX on the same device. The table is printed as it is made and written to the
folder, as text and as JSON. What the minutes do not suffice for is named. `--tiny` is for a machine without a GPU.
"""

import argparse
import json
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
import peers
from factorization import device, device_line

import jaxfact as jf


class Sizes(NamedTuple):
    """How much is measured."""

    widths: tuple[int, ...]
    lanes: tuple[int, ...]
    few_widths: tuple[int, ...]
    few_lanes: tuple[int, ...]
    seconds: float
    shape: tuple[int, int]
    full_lanes: tuple[int, ...]
    side: int
    starts: tuple[int, ...]
    sweep: tuple[int, int]
    identical: tuple[int, int]


FULL = Sizes(
    widths=(1, 2, 3, 5, 8, 12, 16),
    lanes=(2**7, 2**10, 2**13, 2**15, 2**17, 2**20),
    few_widths=(2, 5, 8),
    few_lanes=(2**10, 2**15, 2**17),
    seconds=0.1,
    shape=(344, 403),
    full_lanes=(2**7, 2**10, 2**13),
    side=50,
    starts=(1024, 16384),
    sweep=(100_000, 5000),
    identical=(10, 200_000),
)
TINY = Sizes(
    widths=(2,),
    lanes=(16, 32),
    few_widths=(2,),
    few_lanes=(16,),
    seconds=0.01,
    shape=(40, 36),
    full_lanes=(16,),
    side=8,
    starts=(16,),
    sweep=(40, 100),
    identical=(4, 40),
)
_MOST_NUMBERS = 2**28  # a gigabyte of factors and state; the loop keeps several copies


def grid(sizes: Sizes) -> Iterator[tuple[str, int, int]]:
    """Yield method, width and lanes: plain steps in full, the other methods at a few."""
    for width in sizes.widths:
        yield from (("plain", width, lanes) for lanes in sizes.lanes)
    for method in list(gpu_sweeps.METHODS)[1:]:
        for width in sizes.few_widths:
            yield from ((method, width, lanes) for lanes in sizes.few_lanes)


def compressed(sizes: Sizes, limits: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the loop of every method, width and number of lanes, whose numbers fit."""
    made = {key: gpu_sweeps.Loop(gpu_sweeps.factorization(key[1], key[0]), key[2]) for key in grid(sizes)}
    fitting = {key: loop for key, loop in made.items() if loop.numbers * loop.lanes <= _MOST_NUMBERS}
    for (method, width, _), loop in zip(fitting, gpu_sweeps.compiled(fitting.values()), strict=True):
        count = gpu_sweeps.flops(width, 2 * width, width) if method == "plain" else None
        yield {"what": method, "d": width} | row_of(loop, sizes, limits, count)


def others(sizes: Sizes, limits: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the loops of full rank, sensing and completion."""
    (m, n), rng = sizes.shape, np.random.default_rng(0)
    rank = min(m, n)
    full = jf.Factorization(np.geomspace(1, 1e-3, rank, dtype=np.float32), shape=(m, n))
    truth = jf.Factorization(gpu_sweeps.values(2), shape=(sizes.side, sizes.side))
    operator = jf.operators.gaussian(jax.random.key(0), truth.shape, sizes.side**2 // 2, dtype=np.float32)
    rows, columns = np.nonzero(rng.random((m, n)) < 0.2)
    matrix = rng.standard_normal((m, 3)) @ rng.standard_normal((3, n))
    seen = matrix[rows, columns].astype(np.float32)
    problems = {
        f"full rank, {m}×{n}": (full, 4, gpu_sweeps.flops(4, (m + n) // 2, rank)),
        f"sensing, {sizes.side}²": (jf.Sensing.of(truth, operator), 2, None),
        f"completion, {m}×{n}": (jf.Completion(rows, columns, seen, (m, n)), 3, None),
    }
    wanted = [(name, lanes) for name in problems for lanes in sizes.full_lanes]
    loops = gpu_sweeps.compiled(
        gpu_sweeps.Loop(gpu_sweeps.experiment(*problems[name][:2]), lanes) for name, lanes in wanted
    )
    for (name, _), loop in zip(wanted, loops, strict=True):
        _, width, count = problems[name]
        yield {"what": name, "d": width} | row_of(loop, sizes, limits, count)


def row_of(loop: gpu_sweeps.Loop, sizes: Sizes, limits: dict[str, Any], count: int | None) -> dict[str, Any]:
    """Return the speed of a loop and its shares of the ceilings: factors and state moved once each way per step."""
    took = loop.step_seconds(sizes.seconds)
    rate = loop.lanes / took
    return {
        "lanes": loop.lanes,
        "chosen": loop.chosen,
        "rate": rate,
        "step_seconds": took,
        "of_bandwidth": rate * 8 * loop.numbers / limits["bytes_per_second"],
        "of_arithmetic": rate * count / limits["flops_per_second"] if count else None,
    }


def sweeps(sizes: Sizes, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield whole sweeps at d = 5: looks at every 10th, 100th and 1000th step, few and many seeds, more devices."""
    many, steps = sizes.sweep
    width = sizes.widths[len(sizes.widths) // 2]
    make = gpu_sweeps.factorization(width)
    used = sorted({1, jax.local_device_count()})
    for seeds in (max(2, many // 100), many):
        for check_every in (10, 100, 1000):
            if steps % check_every == 0:
                for devices in used:
                    runs = gpu_sweeps.swept(make, seeds, steps, check_every=check_every, devices=devices)
                    yield {
                        "seeds": seeds,
                        "steps": steps,
                        "check_every": check_every,
                        "devices": devices,
                        "run_seconds": float(runs.run_seconds),
                        "compile_seconds": float(runs.compile_seconds),
                        "rate": seeds * steps / float(runs.run_seconds),
                    }


def compilation(sizes: Sizes, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what reading, tracing and compiling take, one program after the other; the lanes are those of no other."""
    lanes = sizes.lanes[0] + 16
    for method in ("plain", "ScaledGD", "noise"):
        for width in sorted({sizes.few_widths[0], sizes.few_widths[-1]}):
            found = gpu_sweeps.compile_seconds(gpu_sweeps.factorization(width, method), lanes)
            yield {"method": method, "d": width, "lanes": lanes} | found


def identity(sizes: Sizes, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield how many of a few runs have other bits in other company; none should."""
    width = sizes.few_widths[len(sizes.few_widths) // 2]
    with ThreadPoolExecutor(len(gpu_sweeps.METHODS)) as threads:
        found = threads.map(lambda method: gpu_sweeps.identity(method, width, *sizes.identical), gpu_sweeps.METHODS)
        yield from ({"method": method, "d": width} | row for method, row in zip(gpu_sweeps.METHODS, found, strict=True))


def by_lanes(sizes: Sizes, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield how many runs have other bits where more lanes advance together, which nobody promises."""
    width = sizes.few_widths[len(sizes.few_widths) // 2]
    for method in gpu_sweeps.METHODS:
        yield {"method": method, "d": width} | gpu_sweeps.bits_by_lanes(method, width, sizes.lanes[:5])


def against(sizes: Sizes, _: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield PyTorch and plain JAX beside jaxfact."""
    for starts in sizes.starts:
        shape = (100, 100) if sizes is FULL else sizes.shape
        size = {"shape": shape, "rank": 5, "width": 5, "starts": starts, "steps": 2000 if sizes is FULL else 50}
        for found in gpu_peers.compare(size, sizes.seconds):
            yield {"starts": starts, "shape": f"{shape[0]}×{shape[1]}"} | found


SECTIONS: dict[str, Callable[[Sizes, dict[str, Any]], Iterator[dict[str, Any]]]] = {
    "run-steps per second, target 100×100 of rank d, compressed": compressed,
    "run-steps per second of other problems": others,
    "whole sweeps": sweeps,
    "runs whose bits differ from those of a sweep of a few": identity,
    "runs whose factors differ from those in the fewest lanes": by_lanes,
    "seconds to compile": compilation,
    "beside peers": against,
}


class Printer:
    """The report as text: printed line by line, and kept."""

    def __init__(self):
        self.lines: list[str] = []

    def __call__(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)

    def row(self, row: dict[str, Any]) -> None:
        """Say one row; every value with its name, for the sections differ."""
        self("  " + "   ".join(f"{name} {shown(name, value)}" for name, value in row.items() if value is not None))


def shown(name: str, value: Any) -> str:
    """Return a value as text."""
    if name.startswith("of_"):
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)


def main() -> None:
    """Measure what there is time for, and write it down."""
    options, began = parsed(), time.perf_counter()
    if jax.config.jax_platforms == "cpu" or options.tiny:  # pyright: ignore[reportAttributeAccessIssue]
        jf.use_cores(peers.CORES)
    jax.config.update("jax_default_matmul_precision", "highest")
    sizes, say = TINY if options.tiny else FULL, Printer()
    report: dict[str, Any] = {"device": device(), "accelerator": gpu_ceilings.accelerator()}
    say(device_line(report["device"]))
    say.row(report["accelerator"])
    limits = report["ceilings"] = gpu_ceilings.ceilings(options.tiny)
    say.row({**limits, **limits["product_errors"], "product_errors": None})
    for title, section in SECTIONS.items():
        rows = report[title] = []
        say(f"{title}  [{time.perf_counter() - began:.0f} s]")
        for row in section(sizes, limits):
            rows.append(row)
            say.row(row)
            if time.perf_counter() - began > 60 * options.minutes:
                say("  cut short: no time is left")
                break
    report["peak_bytes"], report["seconds"] = gpu_ceilings.peak_bytes(), time.perf_counter() - began
    say.row({name: report[name] for name in ("peak_bytes", "seconds")})
    write(report, say.lines, options.out)


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
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
