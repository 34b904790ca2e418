"""Tests the claims that sensing runs at the speed of its matrix products, and the fast operator at many times that.

All contenders descend on ½‖A·vec(UVᵀ) − y‖² from the same starts in float32, and must agree before anything is shown.
The bare products are the two a step cannot do without, A·X and Aᵀ·r for all starts at once, in JAX and on all cores;
rates are medians of rounds in which everybody takes a turn, and leave out compilation.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import jax_peers
import numpy as np
import peers
from factorization import device, device_line
from jax import lax

import jaxfact as jf

STEP_SIZE, SCALE, AGREEMENT, CHECK_STEPS = 0.1, 0.01, 1e-4, 20
BARE, OURS = "bare products", "jaxfact"
DENSE, FAST = "jaxfact, dense, large", "jaxfact, transform, large"


def numpy_steps(A, y, U, V, steps):
    """Descend with NumPy, all starts as one batch."""
    U, V = U.copy(), V.copy()
    for _ in range(steps):
        residual = (U @ V.mT).reshape(len(U), -1) @ A.T - y
        G = (residual @ A).reshape(len(U), U.shape[1], V.shape[1])
        U, V = U - np.float32(STEP_SIZE) * (G @ V), V - np.float32(STEP_SIZE) * (G.mT @ U)
    return U, V


def torch_steps(A, y, U, V, steps):
    """Descend with PyTorch, all starts as one batch, on all cores."""
    import torch

    torch.set_num_threads(peers.CORES)
    A, y, U, V = (torch.from_numpy(x) for x in (A, y, U, V))
    for _ in range(steps):
        residual = (U @ V.mT).reshape(len(U), -1) @ A.T - y
        G = (residual @ A).reshape(len(U), U.shape[1], V.shape[1])
        U, V = U - STEP_SIZE * (G @ V), V - STEP_SIZE * (G.mT @ U)
    return U.numpy(), V.numpy()


def jax_steps(A, y, U, V, steps):
    """Descend with vmap(grad) in a fori_loop."""

    def loss(factors):
        return jnp.sum((A @ (factors[0] @ factors[1].T).ravel() - y) ** 2) / 2

    def step(_, factors):
        return jax.tree.map(lambda x, g: x - STEP_SIZE * g, factors, jax.vmap(jax.grad(loss))(factors))

    return lax.fori_loop(0, steps, step, (U, V))


def products(A, y, U, V, steps):
    """Take the two products of a step alone; A scaled down so that nothing overflows."""
    X, A = (U @ V.mT).reshape(len(U), -1), A / (1 + (A.shape[1] / len(A)) ** 0.5)
    return lax.fori_loop(0, steps, lambda _, X: (X @ A.T) @ A, X)


def compiled(function: Callable, *arguments) -> Callable:
    """Compile a JAX function of A, y, U, V and the number of steps."""
    program = jax.jit(function).lower(*arguments, 1).compile()
    return lambda *given: jax.block_until_ready(program(*given))


def sweep(problem: jf.Sensing, width: int, starts: int, steps: int):
    """Descend with jaxfact, from the starts of its first seeds."""
    return jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(width, scale=SCALE), jf.methods.gradient_descent(STEP_SIZE)),
        seeds=starts,
        max_steps=steps,
        tolerance=None,
        check_every=steps,
    )


def rate(work: int, run: Callable) -> float:
    """Return run-steps per second of something that returns nothing of interest."""
    began = time.perf_counter()
    run()
    return work / (time.perf_counter() - began)


def sensing(name: str, side: int, count: int, rank: int) -> jf.Sensing:
    """Return a problem of an operator of this name."""
    truth = jf.Factorization(np.linspace(1, 0.5, rank, dtype=np.float32), shape=(side, side))
    return jf.Sensing.of(truth, getattr(jf.operators, name)(jax.random.key(0), (side, side), count, dtype=np.float32))


def plain(problem: jf.Sensing) -> tuple[np.ndarray, np.ndarray]:
    """Return A and y of ½‖A·vec(UVᵀ) − y‖²."""
    operator = problem.operator
    return np.array(operator.weights[:, None] * operator.matrices), np.array(problem.observations)


def contenders(problem: jf.Sensing, width: int, starts: int) -> dict[str, Callable]:
    """Return each peer as a function of the number of steps that returns its factors."""
    arguments = *plain(problem), *jax_peers.drawn(problem, width, SCALE, starts)
    on_device = jax.device_put(arguments)
    found = {
        BARE: partial(compiled(products, *arguments), *on_device),
        "NumPy, batched": partial(numpy_steps, *arguments),
        "JAX, vmap(grad)": partial(compiled(jax_steps, *arguments), *on_device),
    }
    if find_spec("torch"):
        found["PyTorch, batched"] = partial(torch_steps, *arguments)
    return found


def check(problem: jf.Sensing, found: dict[str, Callable], width: int, starts: int) -> float:
    """Return the largest relative deviation of a loss after some steps; exit where it is too large."""
    expected, worst = sweep(problem, width, starts, CHECK_STEPS).loss.values.ravel(), 0.0
    A, y = (x.astype(float) for x in plain(problem))
    for name, run in found.items():
        if name == BARE:
            continue
        U, V = (np.asarray(x, float) for x in run(CHECK_STEPS))
        losses = np.sum(((U @ V.mT).reshape(starts, -1) @ A.T - y) ** 2, axis=1) / 2
        deviation = float(np.max(np.abs(losses / expected - 1)))
        if not deviation <= AGREEMENT:
            sys.exit(f"{name}: losses after {CHECK_STEPS} steps are off by {deviation:.1e} > {AGREEMENT:g}")
        worst = max(worst, deviation)
    return worst


def measure(options: argparse.Namespace) -> dict:
    """Give everybody one turn per round, and return run-steps per second."""
    width, starts, steps = options.width, options.starts, options.steps
    problem = sensing("gaussian", options.side, options.count, options.rank)
    large = {
        DENSE: (sensing("gaussian", options.large_side, options.large_count, options.rank), max(1, steps // 20)),
        FAST: (sensing("transform", options.large_side, options.large_count, options.rank), max(1, steps // 4)),
    }
    found = contenders(problem, width, starts)
    report = {"device": device(), "case": vars(options), "deviation": check(problem, found, width, starts)}
    rates = {name: [] for name in [*found, OURS, *large]}
    for _ in range(options.repeats):
        for name, run in found.items():
            fewer = steps if name == BARE else max(1, steps // 6)
            rates[name].append(rate(starts * fewer, partial(run, fewer)))
        rates[OURS].append(starts * steps / float(sweep(problem, width, starts, steps).run_seconds))
        for name, (bigger, fewer) in large.items():
            rates[name].append(starts * fewer / float(sweep(bigger, width, starts, fewer).run_seconds))
    medians = {name: statistics.median(all_) for name, all_ in rates.items()}
    return report | {
        "run_steps_per_second": medians,
        "spread": {name: (max(all_) - min(all_)) / medians[name] for name, all_ in rates.items()},
        "share_of_bare_products": statistics.median(np.divide(rates[OURS], rates[BARE])),
        "fast_over_dense": statistics.median(np.divide(rates[FAST], rates[DENSE])),
    }


def show(report: dict) -> None:
    """Print the report as text."""
    case, rates = report["case"], report["run_steps_per_second"]
    print(device_line(report["device"]))
    print(
        f"n = {case['side']}, p = {case['count']}, rank {case['rank']}, width {case['width']}: "
        f"{case['starts']} starts × {case['steps']} steps, medians of {case['repeats']} rounds; "
        f"losses agree to {report['deviation']:.1e}"
    )
    for name, value in rates.items():
        beside = "" if name in (DENSE, FAST) else f"   jaxfact is {rates[OURS] / value:>6.3g} × as fast"
        print(f"{name:<28}{value:>10.3g} run-steps/s   spread {report['spread'][name]:.0%}{beside}")
    print(f"jaxfact runs at {report['share_of_bare_products']:.0%} of the speed of the bare products")
    print(
        f"n = {case['large_side']}, p = {case['large_count']}: the fast operator is "
        f"{report['fast_over_dense']:.3g} × the dense one"
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"side": 50, "count": 1500, "rank": 2, "width": 5, "starts": 64, "steps": 600, "repeats": 5}
    for name, default in {**sizes, "large-side": 128, "large-count": 4000}.items():
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
