"""Claim: a step-size schedule learned by gradient through runs is faster than the best constant step on fresh starts.

`python benchmarks/learning.py [CONDITION …]` learns three kinds of schedule on a 20×15 target of rank 3 with singular
values from 1 to 1/κ, for κ = 10 and 100, from Gaussian starts of entry scale 0.01. It runs a thousand others to
distance 1e-6, beside the best constant step of a grid in steps of 0.01, chosen on other starts, and beside Xu et
al.'s (2025) η_t = 1/K_t. All runs of a κ have the same starts. It prints the median number of steps with its interval,
the share that arrived, and how much of a run lies beyond 2/sharpness.
"""

import argparse
import time
from typing import NamedTuple

import jax
import numpy as np
import optax

import jaxfact as jf
from jaxfact.tuning import Exponential, Free, Learned, Piecewise

SHAPE, WIDTH, SCALE, TOLERANCE = (20, 15), 3, 1e-2, 1e-6


class Size(NamedTuple):
    """How long the window is, and how much is spent on learning."""

    num_steps: int
    first: int
    block: int
    starts: int
    iterations: int
    restarts: int


SIZES = {10: Size(160, 10, 8, 128, 120, 3), 100: Size(1400, 32, 16, 64, 100, 3)}


def problem_of(condition: float) -> jf.Factorization:
    return jf.Factorization(np.geomspace(1, 1 / condition, 3), shape=SHAPE)


def row(name: str, found: Learned, variant: str, seconds: float | None = None) -> str:
    at = found.arrivals[variant]
    median, low, high = at.median
    share, least, most = (100 * x for x in at.arrived)
    edge, spent = "", ""
    if seconds is not None and found.edge is not None:
        edge = f"{100 * found.beyond:.1f} %, up to {float(found.edge.max('step').median()):.2f}"
        spent = f"{seconds:.0f} s"
    arrived = f"{share:.1f} ({least:.1f}–{most:.1f})"
    return f"| {name} | {median:.0f} [{low:.0f}, {high:.0f}] | {arrived} | {edge} | {spent} |"


def learned(condition: int) -> None:
    size, problem, start = SIZES[condition], problem_of(condition), jf.starts.Gaussian(WIDTH, scale=SCALE)
    longest = 10 * size.num_steps
    grid = np.round(np.arange(0.7, 1.005, 0.01), 2)
    best = jf.tuning.best_constant(problem, start, values=grid, tolerance=TOLERANCE, max_steps=longest)
    print(
        f"\nκ = {condition}: {size.starts} starts, {size.iterations} iterations, window {size.num_steps}\n", flush=True
    )
    print("| step | median steps to 1e-6 | arrived, % | beyond 2/sharpness | time |")
    print("| --- | --- | --- | --- | --- |")
    baselines = {"constant": best.value, "1/K_t": jf.methods.curvature_descent()}
    for kind in (Piecewise(10, 0.7), Exponential(0.7), Free(size.first, size.block, 0.7)):
        began = time.perf_counter()
        found = jf.tuning.learn(
            problem,
            start,
            num_steps=size.num_steps,
            schedule=kind,
            optimiser=optax.adam(0.05),
            starts=size.starts,
            iterations=size.iterations,
            restarts=size.restarts if isinstance(kind, Free) else 1,
            tolerance=TOLERANCE,
            baselines=baselines,
        )
        seconds = time.perf_counter() - began
        if baselines:
            print(row(f"best constant, {best.value:g}", found, "constant"))
            print(row("1/K_t (Xu et al. 2025)", found, "1/K_t"))
        baselines = {}
        print(row(f"learned, {type(kind).__name__}", found, "learned", seconds), flush=True)
        print(f"<!-- {found.note} -->")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("condition", nargs="*", type=int, default=list(SIZES), choices=list(SIZES))
    jax.config.update("jax_enable_x64", True)
    for condition in parser.parse_args().condition:
        learned(condition)


if __name__ == "__main__":
    main()
