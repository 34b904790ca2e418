"""Whether a change has left every number as it was: the table of cases, run before and after, compared bit by bit.

    python benchmarks/bits.py COMMIT            compare the working tree with a commit
    python benchmarks/bits.py COMMIT --quick    the same, compiled as quickly as the tests' programs
    python benchmarks/bits.py --write FILE.npz  only run this tree, as the other does in a tree of the commit

Every problem × method of `tests/cases.py`, 8 seeds, 200 steps, in single precision, with five records. Names may have
changed in between, numbers may not. The modes differ in how XLA turns the same operations into machine code: as users
compile it takes half an hour on two cores, quickly a third of that.
"""

import argparse
import contextlib
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
STEP_SIZE, SCALE = 0.1, 0.1
RECORDS = ("loss", "distance", "energy", "imbalance", "singular_values")


def arrays(problem_name: str, method_name: str) -> dict[str, np.ndarray]:
    """Return every variable of one sweep, or the error that it raises."""
    import cases

    import jaxfact as jf
    from jaxfact import measures, starts

    _forget_programs()
    case, method = cases.PROBLEMS[problem_name], cases.METHODS[method_name]
    problem, start = case.build(np.float32), starts.Gaussian(case.width, scale=SCALE)
    try:
        runs = jf.sweep(
            lambda: jf.Run(problem, start, method(STEP_SIZE)),
            seeds=8,
            max_steps=200,
            tolerance=1e-5,
            check_every=5,
            record=[getattr(measures, name) for name in RECORDS],
            every=20,
        )
    except ValueError as error:
        return {"error": np.asarray(str(error))}
    timings = ("compile_seconds", "run_seconds")
    return {str(name): runs[name].values for name in runs.variables if name not in timings}


def _forget_programs() -> None:
    """Empty the cache of compiled programs: it once took one for another with a different kind of state."""
    for name in ("jaxfact.tiles", "jaxfact.engine.program"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)._compiled.cache_clear()


def _quick_flags() -> str:
    sys.path.append(str(ROOT / "tests"))
    from compilation import QUICK

    return QUICK


def write(file: Path) -> None:
    """Run the table in this process and keep its arrays."""
    import cases

    found = {}
    for problem in cases.PROBLEMS:
        for method in cases.METHODS:
            found |= {f"{problem} | {method} | {name}": x for name, x in arrays(problem, method).items()}
        print(problem, file=sys.stderr, flush=True)
    np.savez(file, **found)


def start(tree: Path, file: Path, flags: str) -> subprocess.Popen:
    """Begin to run the table of a tree in a process of its own."""
    path = os.pathsep.join(map(str, (tree, tree / "tests")))
    own = {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", **({"XLA_FLAGS": flags} if flags else {})}
    return subprocess.Popen([sys.executable, __file__, "--write", str(file)], env=os.environ | own)


def differing(before: Path, after: Path) -> tuple[int, list[str]]:
    """Return how many arrays there are, and the names of those that differ in a bit, a dtype or a shape."""
    old, new = np.load(before), np.load(after)
    names = sorted(set(old) | set(new))
    same = {
        name
        for name in set(old) & set(new)
        if old[name].dtype == new[name].dtype
        and old[name].shape == new[name].shape
        and old[name].tobytes() == new[name].tobytes()
    }
    return len(names), [name for name in names if name not in same]


def compare(commit: str, flags: str) -> list[str]:
    """Run both trees at once, with XLA's flags, and return what differs."""
    with tempfile.TemporaryDirectory() as folder:
        tree, files = Path(folder) / "before", [Path(folder) / f"{side}.npz" for side in ("before", "after")]
        subprocess.run(["git", "worktree", "add", "--detach", tree, commit], cwd=ROOT, check=True, capture_output=True)
        try:
            running = [start(*pair, flags) for pair in zip((tree, ROOT), files, strict=True)]
            if any([process.wait() for process in running]):
                sys.exit("a tree could not be run")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)
        count, found = differing(*files)
    print(f"{count} arrays, {len(found)} differ from {commit}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", nargs="?", help="the commit to compare with")
    parser.add_argument("--quick", action="store_true", help="compile as the tests do")
    parser.add_argument("--write", type=Path, help="only run this tree")
    options = parser.parse_args()
    if options.write is not None:
        write(options.write)
    elif options.commit is None:
        parser.error("name a commit, or --write FILE")
    elif found := compare(options.commit, _quick_flags() if options.quick else ""):
        print(*found, sep="\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
