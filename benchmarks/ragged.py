"""Tests the claim that a queue of runs beats lockstep where runs differ in length: many step sizes in one sweep.

The opponents run on the same compressed problem, from the same starts, on all cores, and stop a run at the first check
where it has arrived: one batch of all runs, which lasts as long as its slowest, and one batch per step size. Each
is written twice: as a `while_loop` of one run under `vmap`, as usual, and with jaxfact's own step in small blocks of
lanes, so that only the queue differs. jaxfact also watches each run for some steps after its arrival, and draws its
starts.
"""

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import jax_peers
import numpy as np
import peers
from factorization import device, device_line
from jax import lax

import jaxfact as jf

TOLERANCE, CHECK_EVERY, MAX_STEPS, SCALE, LANES = 1e-3, 50, 10_000, 0.01, 32
# The opponents' loops are one function each too, as jaxfact asks for in its own program.
WHOLE_LOOPS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=10000000"
LOCKSTEP, BATCHES = "lockstep", "one batch per step size"


def lockstep(small: jf.Factorization):
    """Return a compiled program that runs a batch until all have arrived, and tells when each did.

    Factors come as (blocks, rows, columns, lanes): a block of lanes fits the fastest cache for all steps of a check.
    """
    gradient = jax.vmap(small.gradient, -1, -1)
    distance = jax.vmap(jax.vmap(small.distance, -1))

    def block(own):
        factors, step_sizes = own

        def step(_, factors):
            return jax.tree.map(lambda x, g: x - step_sizes * g, factors, gradient(factors))

        return lax.fori_loop(0, CHECK_EVERY, step, factors)

    def going(carry):
        steps, _, hit, _ = carry
        return jnp.any(hit < 0) & (steps < MAX_STEPS)

    def check(carry):
        steps, factors, hit, step_sizes = carry
        moved, steps = lax.map(block, (factors, step_sizes)), steps + CHECK_EVERY
        running = hit < 0
        factors = jax.tree.map(lambda x, y: jnp.where(running[:, None, None], x, y), moved, factors)
        return steps, factors, jnp.where(running & (distance(factors) <= TOLERANCE), steps, hit), step_sizes

    @jax.jit
    def run(factors, step_sizes):
        hit = jnp.full(step_sizes.shape, -1, jnp.int32)
        return lax.while_loop(going, check, (0, factors, hit, step_sizes))[2]

    return run


def vmapped(values: np.ndarray):
    """Return the same program as one would write it: a loop for one run, under vmap."""

    def run(U, V, step_size):
        target = jnp.zeros((len(U), len(V)), U.dtype).at[jnp.arange(len(values)), jnp.arange(len(values))].set(values)
        norm = jnp.linalg.norm(values)

        def going(carry):
            steps, U, V = carry
            return (jnp.linalg.norm(U @ V.T - target) > TOLERANCE * norm) & (steps < MAX_STEPS)

        def check(carry):
            def step(_, factors):
                U, V = factors
                return U - step_size * (U @ (V.T @ V) - target @ V), V - step_size * (V @ (U.T @ U) - target.T @ U)

            steps, *factors = carry
            return steps + CHECK_EVERY, *lax.fori_loop(0, CHECK_EVERY, step, tuple(factors))

        steps, U, V = lax.while_loop(going, check, (0, U, V))
        return jnp.where(jnp.linalg.norm(U @ V.T - target) <= TOLERANCE * norm, steps, -1)

    @jax.jit
    def batch(factors, step_sizes):
        U, V = (jnp.moveaxis(X, -1, 1).reshape(-1, *X.shape[1:-1]) for X in factors)
        return jax.vmap(run)(U, V, step_sizes.ravel())

    return batch


def shards(case: peers.Case, step_sizes: np.ndarray) -> list:
    """Divide all runs of some step sizes among the devices, by seed, and lay them out in blocks of lanes."""
    parts = []
    for place, target in enumerate(jax.local_devices()):
        seeds = np.arange(place, case.starts, len(jax.local_devices()))
        runs = np.tile(seeds, len(step_sizes))
        full = np.minimum(np.arange(-(-len(runs) // LANES) * LANES), len(runs) - 1)
        sizes = np.repeat(step_sizes, len(seeds))[full].reshape(-1, LANES)
        blocks = (np.moveaxis(X[runs[full]].reshape(-1, LANES, *X.shape[1:]), 1, -1) for X in (case.U, case.V))
        parts.append((seeds, jax.device_put((jf.Factors(*blocks), sizes.astype(np.float32)), target)))
    return parts


def timed(run, parts: list, points: int, starts: int) -> tuple[np.ndarray, float]:
    """Run the shards at once, each on its device; return the hits (step size, seed) and the seconds."""
    hits = np.empty((points, starts), np.int32)

    def work(part):
        seeds, arguments = part
        flat = np.asarray(run(*arguments)).ravel()[: points * len(seeds)]
        hits[:, seeds] = flat.reshape(points, len(seeds))

    with ThreadPoolExecutor(len(parts)) as pool:
        began = time.perf_counter()
        list(pool.map(work, parts))
        return hits, time.perf_counter() - began


def queue(problem, width: int, seeds: int, step_sizes: np.ndarray):
    """Return jaxfact's dataset and the wall clock."""

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, scale=SCALE), jf.methods.gradient_descent(step_size))

    began = time.perf_counter()
    runs = jf.sweep(
        experiment,
        seeds=seeds,
        max_steps=MAX_STEPS,
        tolerance=TOLERANCE,
        check_every=CHECK_EVERY,
        compress=True,
        step_size=step_sizes,
    )
    return runs, time.perf_counter() - began


def disagreements(found: np.ndarray, expected: np.ndarray) -> int:
    """Return how many runs arrived at checks more than one apart, or in one program only."""
    arrived = found >= 0
    same = (arrived == (expected >= 0)) & (~arrived | (np.abs(found - expected) <= CHECK_EVERY))
    return int(np.sum(~same))


def measure(options: argparse.Namespace) -> dict:
    """Run the programs in turn, several times, and return what was found."""
    values = np.linspace(1, 1 / options.condition, options.rank, dtype=np.float32)
    step_sizes = np.geomspace(options.smallest, options.largest, options.points).astype(np.float32)
    problem = jf.Factorization(values, shape=options.shape)
    U, V = jax_peers.drawn(problem, options.width, SCALE, options.seeds)
    case = peers.compress(peers.Case("ragged", values, U, V, 0.0, MAX_STEPS))
    together = shards(case, step_sizes)
    each = [shards(case, step_sizes[i : i + 1]) for i in range(len(step_sizes))]
    written = {"": vmapped(values), " (our step)": lockstep(jf.Factorization(values, shape=case.shape))}
    seconds, walls, found = {"queue": []}, [], []
    for kind, run in written.items():
        seconds |= {f"{LOCKSTEP}{kind}": [], f"{BATCHES}{kind}": []}
        timed(run, together, len(step_sizes), case.starts)
        timed(run, each[-1], 1, case.starts)
    for _ in range(options.repeats):
        runs, wall = queue(problem, options.width, options.seeds, step_sizes)
        walls.append(wall - float(runs.compile_seconds))
        seconds["queue"].append(float(runs.run_seconds))
        for kind, run in written.items():
            expected, spent = timed(run, together, len(step_sizes), case.starts)
            seconds[f"{LOCKSTEP}{kind}"].append(spent)
            results = [timed(run, parts, 1, case.starts) for parts in each]
            seconds[f"{BATCHES}{kind}"].append(sum(spent for _, spent in results))
            found += [expected, np.concatenate([hits for hits, _ in results])]

    hit = runs.hit.isel(level=-1).transpose("step_size", "seed").values
    hit = np.where(np.isfinite(hit), hit, -1).astype(int)
    counts, edges = np.histogram(hit[hit >= 0], bins=np.geomspace(CHECK_EVERY, MAX_STEPS, 13))
    return {
        "device": device(),
        "case": vars(options) | {"tolerance": TOLERANCE, "check_every": CHECK_EVERY, "max_steps": MAX_STEPS},
        "seconds": {name: statistics.median(all_) for name, all_ in seconds.items()},
        "queue_starts_and_set_up_included": statistics.median(walls),
        "queue_compile_seconds": float(runs.compile_seconds),
        "arrived": int(np.sum(hit >= 0)),
        "runs": hit.size,
        "run_steps_to_arrival": int(np.sum(hit[hit >= 0])),
        "run_steps_of_queue": int(runs.steps.sum()),
        "run_steps_of_lockstep": int(hit.size * np.where(hit >= 0, hit, MAX_STEPS).max()),
        "run_steps_of_batches": int(case.starts * np.where(hit >= 0, hit, MAX_STEPS).max(axis=1).sum()),
        "disagree": max(disagreements(hit, expected) for expected in found),
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def show(report: dict) -> None:
    """Print the report as text."""
    case, seconds = report["case"], report["seconds"]
    print(device_line(report["device"]))
    print(
        f"{case['shape'][0]}×{case['shape'][1]}, rank {case['rank']}, width {case['width']}, κ {case['condition']:g}: "
        f"{case['points']} step sizes from {case['smallest']:g} to {case['largest']:g}/σ₁ × {case['seeds']} seeds, to "
        f"distance {TOLERANCE:g}, looked at every {CHECK_EVERY} steps"
    )
    print(f"{report['arrived']} of {report['runs']} runs arrived, the programs agree on when within one check")
    print(f"run-steps up to arrival: {report['run_steps_to_arrival']:.3g}; made by the queue (which watches runs ")
    print(
        f"  after arrival) {report['run_steps_of_queue']:.3g}, by lockstep {report['run_steps_of_lockstep']:.3g}, by "
        f"one batch per step size {report['run_steps_of_batches']:.3g}\n"
    )
    for name, value in seconds.items():
        print(f"{name:<34}{value:>9.3g} s   {value / seconds['queue']:>6.2f} × the queue")
    print(
        f"{'queue, set-up included':<34}{report['queue_starts_and_set_up_included']:>9.3g} s   "
        f"(compilation, {report['queue_compile_seconds']:.2g} s, is in none of these)\n"
    )
    edges, counts = report["histogram"]["edges"], report["histogram"]["counts"]
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        print(f"{low:>7.0f} – {high:>6.0f} steps {count:>6} {'█' * round(50 * count / max(1, *counts))}")


def parsed() -> argparse.Namespace:
    """Return the command line; at 1/σ₁ minimisers lose their stability and distances fall like 1/√steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split("x"))), default=(100, 100))
    for name, default in (("rank", 5), ("width", 5), ("seeds", 512), ("points", 16), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, value in (("condition", 2.0), ("smallest", 0.01), ("largest", 0.9)):
        parser.add_argument(f"--{name}", type=float, default=value)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Measure, check and report."""
    options = parsed()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {WHOLE_LOOPS}".strip()
    jax.config.update("jax_num_cpu_devices", peers.CORES)
    report = measure(options)
    if report["disagree"]:
        sys.exit(f"{report['disagree']} of {report['runs']} runs arrived at checks more than one apart")
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
