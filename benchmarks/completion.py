"""Tests that jaxfact completes matrices faster than what one would write instead, on sparse and on dense masks.

All contenders descend by the same steps from the same starts, in float32 on all cores, and must agree before anything
is reported. Times are medians and leave out compilation. The sparse case has the size of a small ratings table and,
like one, few rows and columns that hold most entries.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax_peers
import numpy as np
import peers
import scipy.sparse
from factorization import device, device_line

import jaxfact as jf

WIDTH, SCALE, AGREEMENT = 5, 0.05, 1e-4
RATINGS, HALF = "671×9066, 1.6 %", "300×300, 50 %"
SPARSE, DENSE, SCATTER = "jaxfact, sparse", "jaxfact, dense", "plain JAX"
# Steps at which losses fall and nobody diverges: long rows make the sparse problem steep.
STEP_SIZES = {RATINGS: 0.002, HALF: 0.05}


class Case(NamedTuple):
    """Observed entries in the problem's unit, row by row, starts, seeds first, and the step size over p."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    U: np.ndarray
    V: np.ndarray
    step: np.float32

    @property
    def shape(self) -> tuple[int, int]:
        """The size m×n of the matrix."""
        return self.U.shape[1], self.V.shape[1]


def ratings_mask(m: int, n: int, count: int) -> np.ndarray:
    """Return a mask of about `count` entries whose rows and columns are as uneven like those of ratings."""
    rng = np.random.default_rng(0)
    rows, columns = rng.lognormal(0, 1.3, m), 1 / (10 + rng.permutation(n))
    weights = np.outer(rows / rows.sum(), columns / columns.sum())
    low, high = 1.0, 1e9
    for _ in range(60):  # each entry is seen with probability 1 − exp(−rate·weight)
        rate = (low * high) ** 0.5
        low, high = (rate, high) if -np.expm1(-rate * weights).sum() < count else (low, rate)
    return rng.random((m, n)) < -np.expm1(-rate * weights)


def build(name: str, seeds: int) -> tuple[Case, dict[str, jf.Completion]]:
    """Return a case, and its problem in both evaluations."""
    rng = np.random.default_rng(1)
    mask = ratings_mask(671, 9066, 97_000) if name == RATINGS else rng.random((300, 300)) < 0.5
    factors = [rng.normal(size=(size, WIDTH)) for size in mask.shape]
    rows, columns = np.nonzero(mask)
    values = np.sum(factors[0][rows] * factors[1][columns], axis=1).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some rows and columns are empty, as in ratings
        problems = {
            label: jf.Completion(rows, columns, values, mask.shape, dense=dense)
            for label, dense in ((SPARSE, False), (DENSE, True), ("by itself", None))
        }
    U, V = jax_peers.drawn(problems[SPARSE], WIDTH, SCALE, seeds)
    step = np.float32(STEP_SIZES[name] * mask.size / len(values))
    return Case(rows, columns, values / np.float32(problems[SPARSE].unit), U, V, step), problems


def losses(case: Case, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return 1/(2p)·‖P_Ω(UVᵀ − Σ)‖² of every run in float64."""
    pairs = zip(U.astype(float), V.astype(float), strict=True)
    found = [np.sum((np.sum(u[case.rows] * v[case.columns], axis=1) - case.values) ** 2) for u, v in pairs]
    return np.array(found) * case.shape[0] * case.shape[1] / len(case.values) / 2


def scipy_loop(case: Case, U: np.ndarray, V: np.ndarray, steps: int):
    """Descend seed by seed with a sparse residual."""
    indptr = np.searchsorted(case.rows, np.arange(case.shape[0] + 1))
    for u, v in zip(U, V, strict=True):
        for _ in range(steps):
            residual = np.einsum("kd,kd->k", u[case.rows], v[case.columns]) - case.values
            matrix = scipy.sparse.csr_matrix((residual, case.columns, indptr), case.shape)
            move_u, move_v = matrix @ v, matrix.T @ u
            u -= case.step * move_u
            v -= case.step * move_v
    return U, V


def torch_loop(case: Case, U: np.ndarray, V: np.ndarray, steps: int):
    """Descend a batch in PyTorch, with `index_add_` where few entries are observed and a mask where many are."""
    import torch

    torch.set_num_threads(peers.CORES)
    u, v, values = (torch.from_numpy(x) for x in (U, V, case.values))
    rows, columns = torch.from_numpy(case.rows), torch.from_numpy(case.columns)
    mask, step = torch.zeros(case.shape), float(case.step)
    if dense := 4 * len(values) > mask.numel():
        matrix = mask.clone()
        mask[rows, columns], matrix[rows, columns] = 1.0, values
    for _ in range(steps):
        if dense:
            residual = mask * (u @ v.mT - matrix)
            move_u, move_v = residual @ v, residual.mT @ u
        else:
            left, right = u[:, rows], v[:, columns]
            residual = ((left * right).sum(-1) - values)[..., None]
            move_u = torch.zeros_like(u).index_add_(1, rows, residual * right)
            move_v = torch.zeros_like(v).index_add_(1, columns, residual * left)
        u, v = u - step * move_u, v - step * move_v
    return u.numpy(), v.numpy()


def prepare() -> None:
    """Give plain JAX XLA's own settings: one device, which all cores serve."""
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_num_cpu_devices", 1)


def scatter_loop(case: Case, U: np.ndarray, V: np.ndarray, steps: int):
    """Time plain JAX, vmap(grad) of a loss on gathered rows; return seconds too, without compilation."""

    def loss(factors):
        return jnp.sum((jnp.sum(factors[0][case.rows] * factors[1][case.columns], axis=1) - case.values) ** 2) / 2

    def step(_, factors):
        return jax.tree.map(lambda x, g: x - case.step * g, factors, jax.vmap(jax.grad(loss))(factors))

    program = jax.jit(lambda factors, steps: jax.lax.fori_loop(0, steps, step, factors)).lower((U, V), 1).compile()
    began = time.perf_counter()
    found = jax.block_until_ready(program((U, V), steps))
    return (*map(np.asarray, found), time.perf_counter() - began)


def timed(loop: Callable, case: Case, seeds: int, steps: int) -> tuple[np.ndarray, float]:
    """Return the losses after some steps, and the seconds of the steps alone."""
    U, V = case.U[:seeds].copy(), case.V[:seeds].copy()
    began = time.perf_counter()
    U, V, *own = loop(case, U, V, steps)
    seconds = own[0] if own else time.perf_counter() - began
    return losses(case, U[: peers.CHECKED], V[: peers.CHECKED]), seconds


def swept(problem: jf.Completion, step_size: float, seeds: int, steps: int) -> tuple[np.ndarray, float]:
    """Return the same of `jaxfact.sweep`, whose seconds include the starts and the last look."""

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(WIDTH, scale=SCALE), jf.methods.gradient_descent(step_size))

    options = {"seeds": seeds, "max_steps": steps, "tolerance": None, "check_every": steps, "step_size": [step_size]}
    runs = jf.sweep(experiment, **options)
    return runs.loss.values.ravel()[: peers.CHECKED].astype(float), float(runs.run_seconds)


def measure(name: str, options: argparse.Namespace) -> dict:
    """Check that all agree, time each, and return run-steps per second."""
    case, problems = build(name, options.seeds)
    picked = DENSE if problems.pop("by itself").is_dense else SPARSE
    large, step_size = name == RATINGS, STEP_SIZES[name]
    with ProcessPoolExecutor(1, get_context("spawn"), prepare) as process:

        def scatter(seeds, steps):
            return process.submit(timed, scatter_loop, case, seeds, steps).result()

        # Seeds and steps of each are what it does in about a second.
        contenders = {
            "SciPy, seed by seed": (partial(timed, scipy_loop, case), 1, 20 if large else 100),
            SCATTER: (scatter, 16, 6 if large else 20),
            SPARSE: (partial(swept, problems[SPARSE], step_size), options.seeds, 20 if large else 100),
            DENSE: (partial(swept, problems[DENSE], step_size), 2 if large else options.seeds, 4 if large else 100),
        }
        if find_spec("torch"):
            contenders["PyTorch, batched"] = (partial(timed, torch_loop, case), 16, 4 if large else 20)
        expected = {steps: scatter(1, steps)[0][0] for _, _, steps in contenders.values()}
        rates = {label: [] for label in contenders}
        for label, (run, seeds, steps) in contenders.items():
            loss = run(seeds, steps)[0][0]  # and everything is compiled
            if not abs(loss / expected[steps] - 1) < AGREEMENT:
                raise SystemExit(f"{label} does not agree: loss {loss:.8g}, that of {SCATTER} is {expected[steps]:.8g}")
            for _ in range(options.repeats):
                rates[label].append(seeds * steps / run(seeds, steps)[1])
    return {
        "entries": len(case.values),
        "picked": picked,
        "run_steps_per_second": {label: statistics.median(all_) for label, all_ in rates.items()},
        "spread": {label: (max(all_) - min(all_)) / statistics.median(all_) for label, all_ in rates.items()},
    }


def show(report: dict) -> None:
    """Print the report as text."""
    print(device_line(report["device"]))
    for name, found in report["cases"].items():
        rates = found["run_steps_per_second"]
        print(
            f"\n{name} observed ({found['entries']} entries), width {WIDTH}; by itself jaxfact takes {found['picked']}"
        )
        for label, rate in rates.items():
            ratio = rates[found["picked"]] / rate
            print(
                f"{label:<22}{rate:>10.4g} run-steps/s   that is {ratio:>6.3g} ×   spread {found['spread'][label]:.0%}"
            )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=32, help="starts of jaxfact, 16 of which advance together")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = {"device": device(), "cases": {name: measure(name, options) for name in (RATINGS, HALF)}}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
