"""Tests what the variants of gradient descent cost beside the plain one, and noise beside a NumPy loop that adds it.

All methods run in `jaxfact.sweep` from the same starts, in float32 on all cores; times are medians and leave out
compilation. The NumPy loop runs all starts as one batch in the residual form, a peer's usual way, and draws its noise
with NumPy's fastest generator.
"""

import argparse
import json
import statistics
import time

import jax_peers
import numpy as np
import optax
import peers
from factorization import device, device_line

import jaxfact as jf

STEP_SIZE, SCALE, NOISE = 0.3, 0.01, 1e-5
METHODS = {
    "gradient descent": jf.methods.gradient_descent(STEP_SIZE),
    "balanced": jf.methods.balanced(STEP_SIZE, 0.125),
    "momentum (optax.sgd)": optax.sgd(STEP_SIZE, momentum=0.5),
    "ScaledGD": jf.methods.scaled_gd(STEP_SIZE),
    "perturbed": jf.methods.perturbed(STEP_SIZE, NOISE),
}
RECORDED = "gradient descent, recorded"


def seconds(problem, method, options: argparse.Namespace, every: int | None = None) -> float:
    """Return how long jaxfact takes; with `every`, loss and imbalance are recorded."""
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(options.width, scale=SCALE), method),
        seeds=options.starts,
        max_steps=options.steps,
        tolerance=None,
        check_every=100,
        record=[jf.measures.loss, jf.measures.imbalance] if every else None,
        every=every,
    )
    return float(runs.run_seconds)


def numpy_seconds(U: np.ndarray, V: np.ndarray, values: np.ndarray, steps: int) -> float:
    """Return how long a noisy NumPy loop takes for some steps of all starts."""
    generator, U, V = np.random.Generator(np.random.SFC64(0)), U.copy(), V.copy()
    began = time.perf_counter()
    for _ in range(steps):
        peers.residual_form(U, V, values, STEP_SIZE, 1)
        for X in (U, V):
            X += np.float32(NOISE) * generator.standard_normal(X.shape, np.float32)
    return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict:
    """Time every method once per round, and return run-steps per second."""
    values = np.linspace(1, 0.5, options.rank, dtype=np.float32)
    problem = jf.Factorization(values, shape=options.shape)
    U, V = jax_peers.drawn(problem, options.width, SCALE, options.starts)
    work = options.starts * options.steps
    rates = {name: [] for name in [*METHODS, RECORDED, "NumPy, noisy"]}
    for _ in range(options.repeats):
        for name, method in METHODS.items():
            rates[name].append(work / seconds(problem, method, options))
        plain = METHODS["gradient descent"]
        rates[RECORDED].append(work / seconds(problem, plain, options, every=100))
        rates["NumPy, noisy"].append(options.starts * 4 / numpy_seconds(U, V, values, 4))
    return {
        "device": device(),
        "case": vars(options),
        "run_steps_per_second": {name: statistics.median(all_) for name, all_ in rates.items()},
        "spread": {name: (max(all_) - min(all_)) / statistics.median(all_) for name, all_ in rates.items()},
    }


def show(report: dict) -> None:
    """Print the report as text."""
    case, rates = report["case"], report["run_steps_per_second"]
    print(device_line(report["device"]))
    print(
        f"{case['shape'][0]}×{case['shape'][1]}, rank {case['rank']}, width {case['width']}: {case['starts']} starts × "
        f"{case['steps']} steps, medians of {case['repeats']} rounds"
    )
    plain = rates["gradient descent"]
    for name, rate in rates.items():
        print(
            f"{name:<28}{rate:>10.3g} run-steps/s   gradient descent is {plain / rate:>6.3g} × as fast"
            f"   spread {report['spread'][name]:.0%}"
        )
    print(f"perturbed is {rates['perturbed'] / rates['NumPy, noisy']:.3g} × the noisy NumPy loop")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=lambda text: tuple(map(int, text.split("x"))), default=(100, 100))
    sizes = {"rank": 5, "width": 5, "starts": 1024, "steps": 8000, "repeats": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = measure(options)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
