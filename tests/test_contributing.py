"""What CONTRIBUTING.md adds, added as it says to a copy of the package and of the table of cases, and run there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxfact as jf

ROOT = Path(__file__).parents[1]
# The file that a block is for, the line that makes its name public, and its row in a table of cases.
FILE = re.compile(r"^# (jaxfact/\w+/\w+\.py)$", re.MULTILINE)
LINE = re.compile(r"^# (jaxfact/\S+): (.+)$", re.MULTILINE)
ROW = re.compile(r"^# tests/cases\.py, (\w+): (.+)$", re.MULTILINE)

EXPERIMENT = """\
import jaxfact as jf

PROBLEM = jf.Robust(jf.Factorization([1.0, 0.5], shape=(5, 4)))


def experiment(step_size):
    return jf.Run(PROBLEM, jf.starts.Signs(1, 0.3), jf.methods.clipped(step_size))
"""


def blocks() -> list[str]:
    """Return what is shown of each addition."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1].split("\n\n")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """Return a folder with the package, its tests, and the additions."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("jaxfact", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    cases = folder / "tests" / "cases.py"
    for block in blocks():
        [file] = FILE.findall(block)
        assert not (folder / file).exists(), "a new file, and no other is changed but for a line"
        (folder / file).write_text(block + "\n", encoding="utf-8")
        for place, line in LINE.findall(block):
            (folder / place).write_text(f"{(folder / place).read_text('utf-8')}{line}\n", encoding="utf-8")
        for table, row in ROW.findall(block):
            opening = re.compile(rf"^{table}\b.* = {{$", re.MULTILINE)
            text, count = opening.subn(lambda found, row=row: f"{found[0]}\n    {row}", cases.read_text("utf-8"))
            assert count == 1
            cases.write_text(text, encoding="utf-8")
    (folder / "experiment.py").write_text(EXPERIMENT, encoding="utf-8")
    return folder


def run(copy: Path, *arguments: str) -> str:
    """Return what Python writes in the copy, whose package it finds first."""
    ended = subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def command(copy: Path, *arguments: str) -> str:
    return run(copy, "-c", "from jaxfact.cli.main import main; main()", *arguments)


def test_each_kind_is_shown_in_a_few_lines():
    """One of each kind, none in more than fifteen lines of code beside its imports, and the page in less than 120."""
    assert [FILE.findall(block)[0].split("/")[1] for block in blocks()] == [
        "methods",
        "starts",
        "problems",
        "measures",
        "papers",
        "cli",
    ]
    beside = ("#", "import ", "from ")
    assert max(sum(not line.startswith(beside) for line in block.splitlines()) for block in blocks()) <= 15
    assert len((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()) < 120


def test_the_table_of_cases_tests_them(copy):
    """Each row is tested like every other, and the table is complete with them."""
    names = "clipping or signs or robust or peak or table_is_complete"
    told = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cases.py", "-k", names)
    # Two tests of a method, two of a start, one of a problem and of a measure, and the table.
    assert re.search(r"^7 passed", told, re.MULTILINE), told


def test_a_sweep_runs_them(copy):
    """At the command line, where the measure is known by its name; the first product has entries ±0.3²."""
    options = ["--axis", "step_size=0.1,0.2", "--seeds", "3", "--max-steps", "200", "--every", "200", "--x64"]
    command(copy, "sweep", "experiment.py:experiment", *options, "--record", "peak", "--store", "runs.zarr")
    runs = jf.open_results(copy / "runs.zarr")
    path = runs.peak_path
    np.testing.assert_allclose(path.sel(step=0), 0.09, rtol=1e-12)
    assert path.attrs["units"] == "σ₁"
    assert path.attrs["long_name"] == "largest entry of UVᵀ"
    # The best approximation of rank one is σ₁e₁e₁ᵀ, whose largest entry is σ₁.
    np.testing.assert_allclose(path.sel(step=200), 1, rtol=1e-3)


def test_the_paper_is_found(copy):
    assert "Baldi & Hornik (1989)" in command(copy, "paper")
    found = json.loads(command(copy, "verify", "C99", "--json"))["claims"]["C99"]
    assert [finding["verdict"] for finding in found["findings"]] == ["holds"]


def test_the_command_is_found(copy):
    assert command(copy, "spectra") == "linear geometric step\n"
