"""Tests the claim that a user waits for descent, and not for Python and XLA: what a job takes beside its run seconds.

    python benchmarks/latency.py                          this tree
    python benchmarks/latency.py --beside TREE --compare  beside an older one, and with the whole of `jaxfact compare`

The job is d = r = 5, 1000 starts × 500 steps. It is run first in a new process with an empty compilation cache, import
included, then in a new one with a filled cache, there again, and there as calls of what `prepare` made, each with a
step size of its own. Trees take turns in every round, so that a drift of the machine meets both.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
BYTECODE = Path(tempfile.gettempdir(), "jaxfact-benchmarks-bytecode")
STARTS, STEPS, WIDTH, CALLS = 1000, 500, 5, 7
PHASES = {
    "import": "import, in a new process",
    "first": "first sweep, in a new process, import included",
    "warm": "the same with a filled cache",
    "repeated": "sweep again",
    "prepared": "call of a Prepared",
    "compare": "jaxfact compare, whole command",
    "compare_warm": "the same with a filled cache",
}
COLUMNS = ("wall", "run", "compile", "beyond")


def environment(tree: Path, cache: str | None = None) -> dict[str, str]:
    """Return the environment of a process that runs a tree of jaxfact, with the compilation cache in a folder.

    Modules are compiled to bytecode once, as pip does when it installs them, in a folder of the benchmark.
    """
    found = {**os.environ, "PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(BYTECODE)}
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    if cache is not None:
        found["XDG_CACHE_HOME"] = cache
    if cache is not None and _needs_cores(tree):  # such a tree fills no cache on its own accord
        found |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    return found


def _needs_cores(tree: Path) -> bool:
    return "use_cores" in (tree / "jaxfact" / "__init__.pyi").read_text()


def name_of(tree: Path) -> str:
    """Return the commit of a tree, and whether something in it differs from that."""
    said = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or str(tree)


def with_all_cores() -> Any:
    """Import jaxfact and let it work on every core: an older one has to be asked."""
    import jaxfact as jf

    if ask := getattr(jf, "use_cores", None):
        ask()
    return jf


def in_this_process(began: float, calls: int) -> dict[str, Any]:
    """Run the job, then again and prepared as often as asked for; `began` is when the process was started."""
    import numpy as np

    jf = with_all_cores()
    problem = jf.Factorization(np.linspace(1, 0.5, WIDTH, dtype=np.float32), shape=(100, 100))
    start, descend, sweep = jf.starts.Gaussian(WIDTH, scale=0.01), jf.methods.gradient_descent, jf.sweep
    imported = time.time() - began
    options = {"max_steps": STEPS, "tolerance": None, "check_every": 100}

    def experiment(step_size):
        return jf.Run(problem, start, descend(step_size))

    def timed(call: Callable, began: float) -> dict[str, float]:
        runs = call()
        wall, run, compile_ = time.time() - began, float(runs.run_seconds), float(runs.compile_seconds)
        return {"wall": wall, "run": run, "compile": compile_, "beyond": wall - run}

    def again() -> Any:
        return sweep(experiment, seeds=STARTS, step_size=[0.3], **options)

    first = timed(again, began)
    found = {"import": [dict.fromkeys(COLUMNS, 0.0) | {"wall": imported, "beyond": imported}], "first": [first]}
    found["repeated"] = [timed(again, time.time()) for _ in range(calls)]
    if calls and hasattr(jf, "prepare"):
        prepared = jf.prepare(experiment, **options, step_size=0.3)
        steps = 0.3 + 0.01 * np.arange(calls + 1)
        prepared(seeds=STARTS, step_size=steps[0])
        found["prepared"] = [
            timed(lambda step=step: prepared(seeds=STARTS, step_size=float(step)), time.time()) for step in steps[1:]
        ]
    return found


def one_round(tree: Path, compares: bool) -> dict[str, list[dict[str, float]]]:
    """Return the timings of every phase of a tree, in processes that share a cache which begins empty."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        found["first"] = _child(tree, cache, 0)["first"]
        warm = _child(tree, cache, CALLS)
        found |= {"import": warm["import"], "warm": warm["first"], "repeated": warm["repeated"]}
        found |= {"prepared": warm["prepared"]} if "prepared" in warm else {}
    if compares:
        with tempfile.TemporaryDirectory() as cache:
            found |= {phase: [_compare(tree, cache)] for phase in ("compare", "compare_warm")}
    return found


def _child(tree: Path, cache: str, calls: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", str(calls), "--began", repr(time.time())]
    return json.loads(_output(command, tree, cache))


def _compare(tree: Path, cache: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as out:
        began = time.time()
        command = [sys.executable, "-P", "-m", "jaxfact", "compare", "--out", str(Path(out, "found")), "--json"]
        methods = json.loads(_output(command, tree, cache))["methods"]
        wall = time.time() - began
    run, compile_ = (sum(method[name] for method in methods) for name in ("run_seconds", "compile_seconds"))
    return {"wall": wall, "run": run, "compile": compile_, "beyond": wall - run}


def _output(command: list[str], tree: Path, cache: str) -> str:
    ended = subprocess.run(command, env=environment(tree, cache), capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{ended.stderr}")
    return ended.stdout


def measure(trees: list[Path], repeats: int, compares: bool) -> dict[str, dict[str, Any]]:
    """Return the medians of every phase, by tree, and the spread of its wall-clock seconds."""
    for tree in trees:  # not timed: it writes the bytecode
        one_round(tree, compares)
    rounds = [[one_round(tree, compares) for tree in trees] for _ in range(repeats)]
    found = {}
    for tree, mine in zip(trees, zip(*rounds, strict=True), strict=True):
        together = {phase: [one for each in mine for one in each[phase]] for phase in PHASES if phase in mine[0]}
        found[str(tree)] = {phase: _summary(all_) for phase, all_ in together.items()}
    return found


def _summary(all_: list[dict[str, float]]) -> dict[str, float]:
    walls = [one["wall"] for one in all_]
    middle = {column: statistics.median(one[column] for one in all_) for column in COLUMNS}
    return middle | {"spread": (max(walls) - min(walls)) / middle["wall"], "count": len(all_)}


def show(report: dict[str, Any]) -> None:
    """Print the report as text."""
    print(f"{report['device']}; load {report['load'][0]:.1f} before and {report['load'][1]:.1f} after")
    print(f"d = r = {WIDTH}, {STARTS} starts × {STEPS} steps; medians, in seconds; beyond = wall − run")
    first, *others = report["trees"].values()
    for (path, phases), commit in zip(report["trees"].items(), report["commits"], strict=True):
        print(f"\n{commit} in {path}\n{'':<48}" + "".join(f"{name:>9}" for name in (*COLUMNS, "spread", "of")))
        for phase, found in phases.items():
            numbers = "".join(f"{found[column]:>9.3f}" for column in COLUMNS)
            print(f"{PHASES[phase]:<48}{numbers}{found['spread']:>9.0%}{found['count']:>9}")
    for other in others:
        ratios = ", ".join(
            f"{phase} {other[phase]['beyond'] / first[phase]['beyond']:.2g}" for phase in first if phase in other
        )
        print(f"\nbeyond the run, the other's seconds over the first's: {ratios}")


def main() -> None:
    """Measure and report; or be one of the processes that are timed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, action="append", default=[], help="another tree of jaxfact")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compare", action="store_true", help="time `jaxfact compare` with its defaults as well")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        print(json.dumps(in_this_process(options.began, options.child)))
        return
    from factorization import device, device_line  # which loads JAX, as the processes that are timed must do themselves

    trees, before = [HERE, *(tree.resolve() for tree in options.beside)], os.getloadavg()[0]
    found = measure(trees, options.repeats, options.compare)
    report = {
        "device": device_line(device()),
        "load": [before, os.getloadavg()[0]],
        "commits": [name_of(tree) for tree in trees],
        "trees": found,
    }
    print(json.dumps(report, indent=2)) if options.json else show(report)


if __name__ == "__main__":
    main()
