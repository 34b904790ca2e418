"""Tests the claim that jaxfact runs gradient descent on a factorisation faster than what one would write instead.

All contenders descend from the same starts with the same step in float32, and must agree before anything is reported.
What jaxfact gains is split into mathematics (the exact smaller problem) and implementation (the same mathematics in
NumPy), and compared with a C kernel. Peers are handed their starts; jaxfact's seconds include drawing them.
"""

import argparse
import json
import math
import platform
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import jax
import jax_peers
import numpy as np
import peers

import jaxfact as jf

STEP_SIZE, SCALE, CHECK_STEPS, AGREEMENT = 0.3, 0.01, 30, 1e-4
PRESETS = {
    "small": {"shape": (100, 100), "rank": 5, "width": 5, "starts": 1024, "steps": 2000},
    "large": {"shape": (1000, 1000), "rank": 5, "width": 5, "starts": 1024, "steps": 500},
    "full": {"shape": (344, 403), "rank": 344, "width": 5, "starts": 64, "steps": 200},
    "d2": {"shape": (100, 100), "rank": 2, "width": 2, "starts": 1024, "steps": 2000},
}


def build(name: str, size: dict) -> peers.Case:
    """Return a case with its starts; the values fall evenly from 1 to 1/2, or are those of a real matrix."""
    values = np.linspace(1, 0.5, size["rank"], dtype=np.float32)
    if name == "full":
        elevation = np.linalg.svd(jf.data.load("elevation"), compute_uv=False)
        values = (elevation / elevation[0]).astype(np.float32)[: size["rank"]]
    problem = jf.Factorization(values, shape=size["shape"])
    U, V = jax_peers.drawn(problem, size["width"], SCALE, size["starts"])
    return peers.Case(name, values, U, V, STEP_SIZE, size["steps"])


def contenders_of(case: peers.Case, process: ProcessPoolExecutor) -> tuple[list[peers.Contender], list[str]]:
    """Return all contenders that this machine can run, and a line for each that it cannot."""
    found, skipped = peers.numpy_contenders(case), []
    if find_spec("torch"):
        found += peers.torch_contenders(case)
    else:
        skipped.append("PyTorch: skipped, the package torch is not installed")
    found += jax_peers.jax_contenders(case, process) + jax_peers.jaxfact_contenders(case, SCALE)
    compiler = peers.c_compiler()
    if compiler:
        found += peers.kernel_contenders(case, compiler)
    else:
        skipped.append("C kernel: skipped, none of cc, gcc and clang is installed")
    return found, skipped


def check(case: peers.Case, contenders: list[peers.Contender]) -> float:
    """Return the largest relative deviation of a loss from the float64 reference; exit where it is too large."""
    count = min(peers.CHECKED, case.starts, max(2, 2**22 // math.prod(case.shape)))
    U, V = (X[:count].astype(float) for X in (case.U, case.V))
    expected = peers.losses(case.values, *peers.residual_form(U, V, case.values, case.step_size, CHECK_STEPS))
    worst = 0.0
    # One program may appear in the table twice.
    for contender in {id(contender.run): contender for contender in contenders}.values():
        found = contender.run(min(count, contender.starts), CHECK_STEPS).losses
        deviation = float(np.max(np.abs(found / expected[: len(found)] - 1)))
        if not deviation <= AGREEMENT:
            sys.exit(f"{contender.label}: losses after {CHECK_STEPS} steps are off by {deviation:.1e} > {AGREEMENT:g}")
        worst = max(worst, deviation)
    return worst


def steps_for(contender: peers.Contender, seconds: float) -> int:
    """Return how many steps take about some seconds, within the contender's bounds."""
    least, most = contender.steps
    if least == most:
        return least
    contender.run(contender.starts, least)
    steps, spent = least, 0.0
    # The first few steps tell little where starting threads takes longer than they do.
    while steps < most and spent < seconds / 2:
        spent = contender.run(contender.starts, steps).seconds
        steps = int(np.clip(steps * min(16, seconds / spent), least, most))
    return steps


def measure(case: peers.Case, contenders: list[peers.Contender], repeats: int, seconds: float) -> list[dict]:
    """Time every contender once per round, so that a drift of the machine meets all of them."""
    steps = [steps_for(contender, seconds) for contender in contenders]
    rounds = [[c.run(c.starts, n) for c, n in zip(contenders, steps, strict=True)] for _ in range(repeats)]
    return [summary(c, n, case, runs) for c, n, runs in zip(contenders, steps, zip(*rounds, strict=True), strict=True)]


def summary(contender: peers.Contender, steps: int, case: peers.Case, runs: tuple[peers.Timed, ...]) -> dict:
    """Return the medians of one contender, and what they mean for the whole job."""
    seconds = [run.seconds for run in runs]
    middle = statistics.median(seconds)
    rate = contender.starts * steps / middle
    return {
        "contender": contender.label,
        "form": contender.form,
        "tuned": contender.tuned,
        "starts": contender.starts,
        "steps": steps,
        "scaled": contender.starts * steps != case.starts * case.steps,
        "run_seconds": middle,
        "spread": (max(seconds) - min(seconds)) / middle,
        "run_steps_per_second": rate,
        "whole_job_seconds": case.starts * case.steps / rate,
        "compile_seconds": statistics.median(run.setup for run in runs),
        "wall_seconds": statistics.median(run.wall for run in runs),
        "wall_less_compile_seconds": statistics.median(run.wall - run.setup for run in runs),
    }


def ratios(case: peers.Case, rows: list[dict]) -> dict:
    """Return how many times faster jaxfact is, as mathematics × implementation, and its share of the C kernel."""
    rates = {row["contender"]: row["run_steps_per_second"] for row in rows}
    forms = ("residual", "gram") if case.name == "full" else ("residual",)
    others = [row for row in rows if row["form"] in forms and not row["contender"].startswith("jaxfact")]
    best = max(others, key=lambda row: row["run_steps_per_second"])
    same = rates["NumPy, same mathematics"]
    found = {
        "best_peer": best["contender"],
        "against_best_peer": rates["jaxfact"] / best["run_steps_per_second"],
        "mathematics": same / best["run_steps_per_second"],
        "implementation": rates["jaxfact"] / same,
        "gain_by_compression": rates["jaxfact"] / rates["jaxfact, not compressed"],
        "against_each": {name: rates["jaxfact"] / rate for name, rate in rates.items() if name != "jaxfact"},
    }
    kernels = [row["run_steps_per_second"] for row in rows if row["form"] == "limit"]
    shares = {"share_of_c_kernel": rates["jaxfact"], "share_of_c_kernel_long": rates[jax_peers.LONG]}
    return found | ({name: rate / kernels[-1] for name, rate in shares.items()} if kernels else {})


def device() -> dict:
    """Return what the numbers depend on."""
    packages = {}
    for name in ("jax", "numpy", "optax", "torch"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {"cpu": cpu_model(), "cores": peers.CORES, "dtype": "float32", "backend": jax.default_backend()} | packages


def cpu_model() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def device_line(found: dict) -> str:
    """Return the device as a line of text."""
    packages = ", ".join(f"{name} {found[name]}" for name in ("jax", "numpy", "optax", "torch") if found[name])
    return f"{found['cpu']}, {found['cores']} cores, {found['dtype']}, jax on {found['backend']}; {packages}"


def show(report: dict) -> None:
    """Print the report as text."""
    size, rows, found = report["case"], report["contenders"], report["ratios"]
    print(device_line(report["device"]))
    print(
        f"case {size['name']}: {size['shape'][0]}×{size['shape'][1]}, rank {size['rank']}, width {size['width']}, "
        f"{size['starts']} starts × {size['steps']} steps, step size {STEP_SIZE}/σ₁, entry scale {SCALE}√σ₁"
    )
    print(
        f"losses agree with float64 within {report['deviation']:.1e} (allowed {AGREEMENT:g}) after {CHECK_STEPS} "
        f"steps; medians of {report['repeats']} rounds; * scaled up from fewer runs or steps"
    )
    print(
        f"\n{'':36}{'form':<12}{'timed on':>12}  {'run-steps/s':>11} {'whole job':>10}  {'compile':>7}  {'spread':>6}"
    )
    for row in rows:
        timed_on = f"{row['starts']}×{row['steps']}"
        compiling = f"{row['compile_seconds']:.2f} s" if row["compile_seconds"] else "–"
        print(
            f"{row['contender']:<36}{row['form']:<12}{timed_on:>12}{' *'[row['scaled']]} "
            f"{row['run_steps_per_second']:>11.3g} {row['whole_job_seconds']:>8.3g} s  {compiling:>7}"
            f"  {row['spread']:>6.0%}  {row['tuned']}"
        )
    for row in rows:
        if row["contender"].startswith("jaxfact"):
            print(
                f"{row['contender']}: starts and set-up included {row['wall_less_compile_seconds']:.3g} s; "
                f"with compilation {row['wall_seconds']:.3g} s"
            )
    for line in report["skipped"]:
        print(line)
    print(
        f"\njaxfact against the best peer ({found['best_peer']}): {found['against_best_peer']:.3g} = "
        f"{found['mathematics']:.3g} (mathematics) × {found['implementation']:.3g} (implementation)"
    )
    for name, ratio in found["against_each"].items():
        print(f"  {ratio:>8.3g} × {name}")
    if "share_of_c_kernel" in found:
        print(
            f"share of the C kernel's speed on as many threads: {found['share_of_c_kernel']:.1%}, "
            f"over ten times the steps {found['share_of_c_kernel_long']:.1%}"
        )


def parsed() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=PRESETS, default="small")
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split("x"))), help="such as 100x100")
    for name in ("rank", "width", "starts", "steps"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long a peer is timed in each round")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Build the case, check that all agree, time them and report."""
    options, began = parsed(), time.perf_counter()
    size = {key: getattr(options, key) or value for key, value in PRESETS[options.case].items()}
    case = build(options.case, size)
    with ProcessPoolExecutor(1, get_context("spawn"), jax_peers.hold, (case,)) as process:
        contenders, skipped = contenders_of(case, process)
        deviation = check(case, contenders)
        rows = measure(case, contenders, options.repeats, options.seconds)
    report = {
        "device": device(),
        "case": {"name": case.name, **size},
        "deviation": deviation,
        "repeats": options.repeats,
        "skipped": skipped,
        "contenders": rows,
        "ratios": ratios(case, rows),
        "benchmark_seconds": time.perf_counter() - began,
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
