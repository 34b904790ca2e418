"""Tests what methods, widths, looks and records cost beside plain descent, an older tree and a C kernel.

    python benchmarks/methods.py                        this tree
    python benchmarks/methods.py --beside TREE --only d=5 --repeats 9

Every case runs in `jaxfact.sweep`, in float32 on all cores, in a process that each tree keeps; times are medians and
leave out compilation. Trees and the C kernel, which makes plain steps of the case's sizes, take turns in every round.
Its own spread tells how noisy the machine was. Iterate noise stands beside a NumPy loop that draws it, in residual
form, a peer's usual way.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peers
from factorization import device, device_line
from latency import HERE, environment, name_of, with_all_cores

STEP_SIZE, SCALE, NOISE = 0.3, 0.01, 1e-5
SHORT, LONG = 2_000, 20_000
NUMPY = "NumPy, noisy"


class Method(NamedTuple):
    """What is run: a name in `METHODS`, the sizes, how often runs are looked at and what is recorded of them."""

    method: str = "plain"
    width: int = 5
    steps: int = LONG
    shape: tuple[int, int] = (100, 100)
    starts: int = 1024
    check_every: int = 100
    records: str = ""

    @property
    def is_full(self) -> bool:
        """Whether the target is a real matrix of full rank, and not of the width."""
        return self.shape == FULL


FULL = (344, 403)
METHODS = {
    "plain": lambda jf: jf.methods.gradient_descent(STEP_SIZE),
    "balanced": lambda jf: jf.methods.balanced(STEP_SIZE, 0.125),
    "momentum": lambda jf: _optax().sgd(STEP_SIZE, momentum=0.5),
    "nesterov": lambda jf: _optax().sgd(STEP_SIZE, momentum=0.5, nesterov=True),
    "alternating": lambda jf: jf.methods.alternating(STEP_SIZE),
    "ScaledGD": lambda jf: jf.methods.scaled_gd(STEP_SIZE),
    "Adam": lambda jf: _optax().adam(0.01),
    "noisy": lambda jf: jf.methods.perturbed(STEP_SIZE, NOISE),
}
RECORDS = {
    "loss, imbalance": ("loss", "imbalance"),
    "compare's": ("distance", "imbalance", "energy", "singular_values"),
}
SMALL = {"shape": (10, 10), "steps": SHORT}
PLAIN = {f"d={d}, {steps:,} steps": Method(width=d, steps=steps) for d in (2, 3, 5, 8, 10) for steps in (SHORT, LONG)}
OTHERS = {f"{name}, d=5": Method(name) for name in METHODS if name not in ("plain", "Adam", "noisy")}
CASES = {
    **PLAIN,
    **OTHERS,
    "Adam, d=5, 10×10": Method("Adam", **SMALL),
    "noisy, d=5": Method("noisy", steps=SHORT),
    "loss, imbalance recorded every 100, d=5": Method(records="loss, imbalance"),
    "compare's records, looks every 5, d=5": Method(records="compare's", check_every=5),
    "344×403, d=4, looks every 100": Method(width=4, shape=FULL, steps=SHORT, starts=256),
    "344×403, d=4, looks every 5": Method(width=4, shape=FULL, steps=SHORT, starts=256, check_every=5),
    "344×403, d=4, looks every 5, compare's records": Method(
        width=4, shape=FULL, steps=SHORT, starts=256, check_every=5, records="compare's"
    ),
}


def _optax() -> Any:
    import optax

    return optax


def singular_values(case: Method) -> np.ndarray:
    """Return values that fall evenly from 1 to 1/2, or those of a real matrix."""
    if not case.is_full:
        return np.linspace(1, 0.5, case.width, dtype=np.float32)
    import jaxfact as jf

    values = np.linalg.svd(jf.data.load("elevation"), compute_uv=False)
    return (values / values[0]).astype(np.float32)


def serve() -> None:
    """Answer each case's name that comes in with the seconds that a sweep of it took, until there are no more."""
    jf = with_all_cores()
    for line in sys.stdin:
        case = CASES[line.strip()]
        print(json.dumps(_swept(jf, case)), flush=True)


def _swept(jf: Any, case: Method) -> dict[str, Any]:
    problem = jf.Factorization(singular_values(case), shape=case.shape)
    start, method = jf.starts.Gaussian(case.width, scale=SCALE), METHODS[case.method](jf)
    recorded = {}
    if case.records:
        every = 100 if case.check_every == 100 else jf.log_steps(case.steps, unit=case.check_every)
        recorded = {"record": [getattr(jf.measures, name) for name in RECORDS[case.records]], "every": every}
    runs = jf.sweep(
        lambda: jf.Run(problem, start, method),
        seeds=case.starts,
        max_steps=case.steps,
        tolerance=None,
        check_every=case.check_every,
        **recorded,
    )
    return {"seconds": float(runs.run_seconds), "lanes": runs.attrs["lanes"]}


class Tree:
    """A process that runs the cases with one tree of jaxfact."""

    def __init__(self, path: Path):
        self.path = path
        command = [sys.executable, __file__, "--serve"]
        self._process = subprocess.Popen(
            command, env=environment(path), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> "Tree":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, name: str) -> dict[str, Any]:
        """Return how long a case took, and which way its steps went."""
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            sys.exit(f"{name} failed in {self.path}")
        return json.loads(line)


@cache
def kernels(width: int, shape: tuple[int, int], starts: int) -> dict[str, peers.Contender]:
    """Return the C kernel of plain steps on one thread and on all cores; none without a compiler."""
    if not (compiler := peers.c_compiler()):
        return {}
    values = singular_values(Method(width=width, shape=shape))
    rng = np.random.default_rng(0)
    U, V = (SCALE * rng.standard_normal((starts, size, width), np.float32) for size in shape)
    case = peers.Case("", values, U, V, STEP_SIZE, 0)
    return {contender.label: contender for contender in peers.kernel_contenders(case, compiler)}


def numpy_seconds(steps: int = 4) -> float:
    """Return how long a noisy NumPy loop takes for some steps of the starts of the noisy case."""
    case = CASES["noisy, d=5"]
    generator, values = np.random.Generator(np.random.SFC64(0)), singular_values(case)
    U, V = (SCALE * generator.standard_normal((case.starts, size, case.width), np.float32) for size in case.shape)
    began = time.perf_counter()
    for _ in range(steps):
        peers.residual_form(U, V, values, STEP_SIZE, 1)
        for X in (U, V):
            X += np.float32(NOISE) * generator.standard_normal(X.shape, np.float32)
    return (time.perf_counter() - began) / steps


def one_round(trees: list[Tree], name: str) -> dict[str, float]:
    """Return run-steps per second of every tree and of the C kernel, one after the other."""
    case = CASES[name]
    work = case.starts * case.steps
    found = {str(tree.path): work / tree.run(name)["seconds"] for tree in trees}
    for label, kernel in kernels(case.width, case.shape, case.starts).items():
        steps = min(case.steps, 400) if case.is_full else case.steps
        found[label] = case.starts * steps / kernel.run(case.starts, steps).seconds
    if case.method == "noisy":
        found[NUMPY] = case.starts / numpy_seconds()
    return found


def measure(trees: list[Path], names: list[str], repeats: int) -> dict[str, Any]:
    """Time every case in rounds, and return medians and spreads."""
    found = {}
    with ExitStack() as stack:
        working = [stack.enter_context(Tree(tree)) for tree in trees]
        ways = {name: [tree.run(name)["lanes"] for tree in working] for name in names}
        rounds = [{name: one_round(working, name) for name in names} for _ in range(repeats)]
    for name in names:
        each = {who: [one[name][who] for one in rounds] for who in rounds[0][name]}
        middle = {who: statistics.median(all_) for who, all_ in each.items()}
        spread = {who: (max(all_) - min(all_)) / middle[who] for who, all_ in each.items()}
        found[name] = {
            "run_steps_per_second": middle,
            "spread": spread,
            "lanes": ways[name],
            "steps": CASES[name].steps,
        }
    return found


def show(report: dict[str, Any]) -> None:
    """Print the report as text."""
    (this, *others), cases = report["trees"], report["cases"]
    print(f"{report['device']}; load {report['load'][0]:.1f} before and {report['load'][1]:.1f} after")
    print(f"run-steps per second, medians of {report['repeats']} rounds (spread); " + ", ".join(report["commits"]))
    print(f"{'':<50}{'this tree':>15}{'C kernel':>15}{'share':>7}{'older tree':>15}{'ratio':>7}")
    for name, case in cases.items():
        rates, spread = case["run_steps_per_second"], case["spread"]

        def cell(who: str | None, rates: dict = rates, spread: dict = spread) -> str:
            return f"{rates[who]:>9.3g} ({spread[who]:>3.0%})" if who in rates else f"{'–':>15}"

        kernel = next((who for who in reversed(rates) if who.startswith("C kernel")), None)
        share = f"{rates[this] / rates[kernel]:>7.0%}" if kernel else f"{'–':>7}"
        line = f"{name:<50}{cell(this)}{cell(kernel)}{share}"
        for other in others:
            line += f"{cell(other)}{rates[this] / rates[other]:>7.3g}"
        print(line)
        if NUMPY in rates:
            print(f"{'':<50}{rates[this] / rates[NUMPY]:.3g} × the noisy NumPy loop")
    for name, case in cases.items():
        print(f"{name}: steps taken {case['lanes'][0]}")


def main() -> None:
    """Measure and report; or be a process that runs what it is told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another tree of jaxfact")
    parser.add_argument("--only", action="append", default=[], help="cases whose names contain this")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    trees, before = [HERE, *(tree.resolve() for tree in options.beside)], os.getloadavg()[0]
    names = [name for name in CASES if not options.only or any(part in name for part in options.only)]
    cases = measure(trees, names, options.repeats)
    report = {
        "device": device_line(device()),
        "load": [before, os.getloadavg()[0]],
        "repeats": options.repeats,
        "trees": [str(tree) for tree in trees],
        "commits": [name_of(tree) for tree in trees],
        "cases": cases,
    }
    print(json.dumps(report, indent=2)) if options.json else show(report)


if __name__ == "__main__":
    main()
