"""The installed command: what it prints and writes, and that a mistake is one line and leaves nothing behind."""

import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import time
import typing
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import xarray as xr
from commands import Called, assert_one_line
from PIL import Image

import jaxfact as jf
import jaxfact.cli
from jaxfact.cli import waiting
from jaxfact.engine.devices import working_devices
from jaxfact.jobs import comparison
from jaxfact.results import stats

COMMAND = shutil.which("jaxfact", path=str(Path(sys.executable).parent))
SMALL = ["compare", "--shape", "12x9", "--rank", "2", "--condition", "2.5", "--seeds", "40", "--max-steps", "2000"]
QUICK = ["compare", "--shape", "4x1", "--rank", "1", "--seeds", "1", "--max-steps", "200"]
EXTRA = {"table": [], "json": ["--json", "--unbalanced", "25", "--x64"]}
FIGURES = ("distance", "survival", "imbalance", "singular_values", "worst")


COMPILING = "jaxfact: reading and compiling"
COMMANDS = [
    "compare",
    "complete",
    "paper",
    "verify",
    "explore",
    "sweep",
    "status",
    "report",
    "export",
    "figure",
    "replay",
    "info",
]
GREET = """
import typer

from jaxfact.cli.register import command


@command()
def greet(name: str = "world") -> None:
    typer.echo(f"hello {name}")
"""


class Ended(NamedTuple):
    out: str
    err: str
    code: int
    folder: Path

    @property
    def runs(self) -> xr.Dataset:
        return jf.open_results(self.folder / "results.zarr")

    @property
    def summary(self) -> dict:
        return strict_json((self.folder / "summary.json").read_text())


def strict_json(text: str) -> dict:
    """Parse JSON as the standard has it: without NaN and Infinity, which other programs refuse."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, Ended]:
    """Run the command twice at the same time, each on one core, as one more device is one more compilation."""
    pin = getattr(os, "sched_setaffinity", lambda *_: None)
    cores = getattr(os, "sched_getaffinity", lambda _: {0})(0)
    started = {}
    try:
        for core, (name, extra) in zip(cycle(cores), EXTRA.items(), strict=False):
            pin(0, {core})
            started[name] = start(tmp_path_factory.mktemp(name) / "new" / "out", *extra)
    finally:
        pin(0, cores)
    return {name: Ended(*process.communicate(), process.wait(), folder) for name, (folder, process) in started.items()}


def start(folder: Path, *extra: str) -> tuple[Path, subprocess.Popen]:
    environment = {**os.environ, "COLUMNS": "120"}
    return folder, subprocess.Popen(
        [COMMAND, *SMALL, "--out", folder, *extra], stdout=-1, stderr=-1, encoding="utf-8", env=environment
    )


@pytest.mark.parametrize("name", ["table", "json"])
def test_everything_is_written(ended, name):
    out, err, code, folder = ended[name]
    place = f"results: {folder / 'results.zarr'}   page: {folder / 'report.html'}"
    assert code == 0
    # On a slow machine further lines say what is waited for, and how far it has got.
    said = [line for line in err.splitlines() if not re.match(rf"{COMPILING}|jaxfact: \d+ of \d+ runs", line)]
    assert said == {"table": [], "json": [place]}[name]
    assert name == "json" or out.splitlines()[-1] == place
    assert {path.name for path in folder.iterdir()} == {"results.zarr", "report.html", "summary.json", "figures"}
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "svg")
    }
    for figure in FIGURES:
        with Image.open(folder / "figures" / f"{figure}.png") as image:
            assert image.width == 945
    runs = ended[name].runs
    assert dict(runs.sizes) | {"variant": 3, "seed": 40} == dict(runs.sizes)
    assert runs.attrs["dtype"] == {"table": "float32", "json": "float64"}[name]


def test_table_names_methods_levels_and_units(ended):
    shown = words(ended["table"].out)
    for part in (
        "12×9 target of rank 2, σ₁ = 1 (the unit); σ/σ₁: 1, 0.4",
        "40 Gaussian starts of width 2 and entry scale 0.001 √σ₁, ",
        "step size 0.5 /σ₁, balancing weight 0.125, noise 1e-05 √σ₁ per entry and step",
        "distance: ‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F, tolerance 1e-05; float32",
        "method 0.1 0.01 0.001 0.0001 ─",
        "had arrived at distance 0.0001, which every method can reach",
        "had arrived at distance 1e-05, to which only plain and balanced went on",
        "method run to converged",
        "balanced / plain to distance 0.0001: time ratio",
        "noisy / plain to distance 0.0001: time ratio",
        "balanced / plain to distance 1e-05: time ratio",
        "it is run to the first level above, 0.0001",
    ):
        assert part in shown
    lines = ended["table"].out.splitlines()
    assert [sum(line.strip().startswith(f"{name} ") for line in lines) for name in ("plain", "noisy")] == [6, 4]


def test_table_shows_the_stored_numbers(ended):
    """The times to the level that all can reach, and to the tolerance for those that went on."""
    runs, shown = ended["table"].runs, words(ended["table"].out)
    for level, names in stats.judged_levels(runs).items():
        for method in names:
            hit = runs.hit.sel({"variant": method, "level": level}).values
            times = np.quantile(hit, [0.05, 0.5, 0.95], method="inverted_cdf")
            assert (
                f"{method} {' '.join(f'{time:.0f}' for time in times)} " in shown.partition(f"at distance {level:g}")[2]
            )
    for method in runs.variant.values:
        tolerance = float(runs.tolerance.sel({"variant": method}))
        assert re.search(rf"{method} {tolerance:g} 100 \(91\.2–100(\.0)?\)", shown)


def test_json_agrees_with_the_store(ended):
    printed, runs = strict_json(ended["json"].out), ended["json"].runs
    assert printed == ended["json"].summary
    assert printed["settings"]["unbalanced"] == 25
    assert printed["shape"] == [12, 9]
    assert [row["method"] for row in printed["methods"]] == runs.variant.values.tolist()
    for row in printed["methods"]:
        part = runs.sel({"variant": row["method"]})
        for level, value in row["reached"].items():
            if float(level) < row["tolerance"] * (1 - 1e-9):
                assert value is None
            else:
                assert value[0] == np.mean(np.isfinite(part.hit.sel(level=float(level))))
                np.testing.assert_allclose(value[1:], np.ravel(stats.wilson(round(40 * value[0]), 40)))
        assert {name: value[0] for name, value in row["outcomes"].items()} == {
            name: np.mean(part.outcome == name) for name in np.unique(runs.outcome)
        }
        assert row["imbalance"] == np.median(part.imbalance)
        assert row["run_steps"] == part.steps.sum()
    levels = stats.judged_levels(runs)
    for judgement in (printed["judged"], *printed["finer"]):
        assert list(judgement["times"]) == levels[judgement["level"]]
        assert list(judgement["pairs"]) == levels[judgement["level"]][1:]
        assert set(judgement["failed"].values()) == {0}
    assert len(printed["finer"]) == len(levels) - 1


def test_unbalanced_starts_and_their_predicted_ends(ended):
    """With ‖U‖ = 25‖V‖ the imbalance is ‖UᵀU‖ nearly; plain descent keeps it, balancing removes it."""
    plain, balanced, _ = ended["json"].summary["methods"]
    runs = ended["json"].runs.sel({"variant": "plain"})
    assert plain["imbalance_start"] == pytest.approx(float(runs.imbalance_path.sel(step=0).median()))
    assert plain["imbalance_start"] > 0.5 * float(runs.energy_path.sel(step=0).median())
    assert 0.5 * plain["imbalance_start"] < plain["imbalance"] <= plain["predicted_imbalance"]
    assert balanced["imbalance"] < 1e-3 * balanced["imbalance_start"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["compare", "--help"], ["complete", "--help"], ["paper", "--help"], ["--version"], []]
)
def test_help_loads_nothing_heavy(arguments):
    ended = subprocess.run([sys.executable, "-X", "importtime", COMMAND, *arguments], capture_output=True, text=True)
    loaded = {line.rsplit("|", 1)[1].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")}
    assert ended.returncode == 0
    assert "jaxfact.cli.main" in loaded
    assert not loaded & {"jax", "numpy", "xarray", "matplotlib", "scipy", "zarr", "optax", "equinox"}
    expected = {
        "--version": jf.version.__version__,
        "compare": "--step-size",
        "complete": "--splits",
        "paper": "--seeds",
        "--help": "compare",
    }
    assert expected[arguments[0] if arguments else "--help"] in ended.stdout


LATE = """
import sys
from jaxfact.cli import terminal
from jaxfact.jobs import comparison, recovery
told = []
with terminal.drawing_soon(lambda *counts: told.append(counts)) as progress:
    progress(1, 3)
heavy = {"scipy.stats", "matplotlib.figure", "rich.table"} & set(sys.modules)
with terminal.drawing_soon(lambda *counts: told.append(counts)) as progress:
    progress(4, 9)
    progress(5, 9)
ready = {"zarr", "matplotlib.backends.backend_svg", "jaxfact.reports.report"} - set(sys.modules)
print(heavy, ready, "scipy.stats" in sys.modules, told)
"""


def test_what_draws_is_loaded_while_later_runs_go_on():
    """Nothing of it is there before; all of it is after, and SciPy's distributions are never needed."""
    ended = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("set() set() False [(1, 3), (4, 9), (5, 9)]\n", "")


@pytest.mark.parametrize(("seconds", "said"), [(0, COMPILING), (9, "")])
def test_what_is_waited_for_is_said_where_nothing_else_is(seconds, said, capsys, monkeypatch):
    """Once JAX has taken long, and not where a run ends before."""
    monkeypatch.setattr(waiting, "_SILENT_SECONDS", seconds)
    monkeypatch.setattr(waiting, "_CHECKING_SECONDS", 0)
    silence = waiting.Waiting()
    silence.begin()
    silence.say_if_long()
    silence.end() if seconds else time.sleep(0.1)
    assert capsys.readouterr().err.strip() == said


def test_info(call):
    code, out, err = call("info")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    for name in ("jax", "numpy", "zarr"):
        assert lines[name] == importlib.metadata.version(name)
    assert lines["jaxfact"] == jf.version.__version__
    assert lines["devices"].startswith(f"{len(working_devices())} ×")


MATRICES = {
    "nan.npy": np.array([[1.0, np.nan], [2.0, 3.0]]),
    "flat.npy": np.ones(4),
    "deep.npy": np.ones((2, 2, 2)),
    "complex.npy": np.ones((2, 2)) * 1j,
    "object.npy": np.array([[None, 1]], object),
    "zero.npy": np.zeros((3, 2)),
}
TEXTS = {"a.xyz": "1 2", "text.csv": "1,2\n3,wide\n", "ragged.csv": "1,2\n3\n", "short.csv": "1,2\n3,4\n"}
BAD_MATRIX = {
    "missing.npy": "missing.npy: does not exist",
    "a.xyz": "needs one of .csv",
    "text.csv": "'wide' on line 2, field 2, is neither a number nor",
    "ragged.csv": "rows with equally many fields",
    "moon": "matrix=moon: is neither a file nor a data set; give a file, or one of elevation, movielens",
    ".": r"matrix=\.: is a folder; name a file",
    "nan.npy": "nan.npy: has missing entries; run jaxfact complete .*nan.npy",
    "flat.npy": "m×n matrix",
    "deep.npy": "m×n matrix",
    "complex.npy": "needs real numbers",
    "object.npy": "never unpickled",
    "zero.npy": "zero throughout",
}
BAD_OPTIONS = {
    "--width 0": "width=0: needs a whole number, 1 or above",
    "--width -1": "width=-1",
    "--seeds 0": "seeds=0",
    "--seeds many": "--seeds.*integer",
    "--seeds 1.5": "--seeds.*integer",
    "--max-steps 0": "max_steps=0",
    "--max-steps 203": "max_steps=203: needs a multiple of check_every=5",
    "--check-every 0": "check_every=0",
    "--base-seed -1": "base_seed=-1",
    "--step-size 0": "step_size=0",
    "--step-size -0.1": "step_size=-0.1: needs a finite number above 0",
    "--step-size nan": "step_size=nan",
    "--step-size inf": "step_size=inf",
    "--scale 0": "scale=0",
    "--scale big": "--scale.*number",
    "--tolerance 0": "tolerance=0",
    "--tolerance -1": "tolerance=-1",
    "--tolerance 1e-8": "three times the rounding floor of float32 at step size 0.5, 2.4e-07; .*--x64",
    "--weight -1": "weight=-1",
    "--noise -1": "noise=-1",
    "--noise 0.5": "noise=.*lower the noise",
    "--unbalanced 0": "unbalanced=0",
    "--shape abc": "--shape=abc: needs two whole numbers",
    "--shape 3x": "--shape=3x: needs two whole numbers",
    "--shape 5x4x3": "--shape=5x4x3: needs two whole numbers",
    "--shape 0x5": "--shape=0x5: needs at least one row",
    "--rank 10": r"--rank=10: is above min\(m, n\) = 9",
    "--rank 0": "rank=0",
    "--condition 0.5": "condition=0.5",
    "--spectrum nonsense": "--spectrum.*'linear', 'geometric'",
    "--nonsense 1": "No such option: --nonsense",
    "--preset wind_small": "No such option: --preset",
    "--centre mean": "No such option: --centre",
    "--sense gaussian": "--sense=gaussian: needs --measurements too; add --measurements 1500",
    "--measurements 9": "--measurements=9: needs --sense too; add --sense gaussian",
    "--tied --unbalanced 3": "--unbalanced=3.0: one factor cannot be unbalanced",
    "one.npy two.npy": "unexpected extra argument",
    "short.csv": "--shape=12x9: a matrix is given too",
    "--out text.csv/below": "text.csv/below: cannot be written",
    "--out text.csv": "out=text.csv: is a file; name a new folder",
}


@pytest.fixture
def files(tmp_path) -> set[Path]:
    for name, matrix in MATRICES.items():
        np.save(tmp_path / name, matrix)
    for name, text in TEXTS.items():
        (tmp_path / name).write_text(text)
    return set(tmp_path.iterdir())


@pytest.mark.parametrize("name", BAD_MATRIX)
def test_bad_matrix(call, tmp_path, files, name):
    assert_one_line(call("compare", name, "--width", "1", "--out", "new"), BAD_MATRIX[name])
    assert set(tmp_path.iterdir()) == files


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_options(call, tmp_path, files, options):
    """The command's own precision is single, that of the session double."""
    with jax.enable_x64(False):
        ended = call("compare", "--shape", "12x9", "--out", "new", *options.split())
    assert_one_line(ended, BAD_OPTIONS[options])
    assert set(tmp_path.iterdir()) == files


def test_made_up_targets_need_a_shape(call, tmp_path):
    assert_one_line(call("compare", "--rank", "3"), "--rank=3: is for a made-up target.*; .*add --shape 100x80")
    assert_one_line(call("compare", "camera", "--spectrum", "step"), "--spectrum=step: .*camera has its own")
    assert_one_line(call("nonsense"), "No such command 'nonsense'")
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_refused_and_kept(call, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert_one_line(call(*QUICK, "--out", "full"), "out=full: is a folder that holds mine; name a new folder")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]


def test_a_mistake_in_a_real_process(tmp_path):
    arguments = [COMMAND, "compare", "missing.npy"]
    ended = subprocess.run(arguments, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert_one_line(Called(ended.returncode, ended.stdout, ended.stderr), "missing.npy: does not exist")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing(call, monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "compare", interrupted)
    code, out, err = call(*QUICK)
    assert (code, out, err.strip()) == (130, "", "jaxfact: interrupted; nothing was written")
    assert list(tmp_path.iterdir()) == []


def test_commands_are_found_by_being_in_the_folder(call, monkeypatch, tmp_path):
    (tmp_path / "greet.py").write_text(GREET)
    with monkeypatch.context() as patch:
        patch.setattr(jaxfact.cli, "__path__", [*jaxfact.cli.__path__, str(tmp_path)])
        patch.setitem(sys.modules, "jaxfact.cli.greet", None)  # so that it is forgotten afterwards
        del sys.modules["jaxfact.cli.greet"]
        assert call("greet", "--name", "you") == (0, "hello you\n", "")
        listed = call("--help").out
    commands = re.findall(r"^  (\w+)\b", listed.partition("Commands:")[2], re.MULTILINE)
    assert commands == [*COMMANDS[:-1], "greet", COMMANDS[-1]]  # where no place is given, and before info
    assert_one_line(call("greet"), "No such command 'greet'")


@pytest.mark.parametrize(("kind", "name"), [(jf.ComparisonSettings, "compare"), (jf.RecoverySettings, "complete")])
def test_every_setting_is_an_option_with_its_default(kind, name):
    function = importlib.import_module(f"jaxfact.cli.{name}").__dict__[name]
    options = inspect.signature(function).parameters
    for field in dataclasses.fields(kind):
        # Levels are a text on the command line.
        expected = None if (name, field.name) == ("compare", "levels") else field.default
        assert options[field.name].default == expected
        assert typing.get_args(options[field.name].annotation)[1].help


def test_wide_factors_in_a_numbered_folder(call, tmp_path):
    """A width above min(m, n) is allowed and noted; one start has no paired interval; the taken folder stays empty."""
    (tmp_path / "jaxfact-compare").mkdir()
    code, out, err = call(*QUICK, "--width", "2")
    assert (code, err) == (0, "")
    assert "width 2 is above min(m, n) = 1: over-parametrised" in words(out)
    assert "both arrived on 1 start, and times are compared on at least two" in words(out)
    assert not any((tmp_path / "jaxfact-compare").iterdir())
    made = Ended(out, err, code, tmp_path / "jaxfact-compare-2")
    assert made.runs.sizes["seed"] == 1
    assert made.summary["judged"]["pairs"]["balanced"]["ratio"] is None


@pytest.mark.parametrize("noise", ["1e-5", "0"])
def test_a_step_beyond_the_edge_is_a_result(call, tmp_path, noise):
    """All runs diverge: the table says so, the times are infinite, the imbalance has no number, the JSON is valid."""
    code, out, err = call(*QUICK, "--step-size", "2.5", "--noise", noise, "--out", "out")
    assert (code, err) == (0, "")
    assert "diverged" in out
    assert words(out).count("never never never") == 3
    assert "step size 2.5 is above 1/σ₁, where no minimiser is stable" in words(out)
    summary = Ended(out, err, code, tmp_path / "out").summary
    for row in summary["methods"]:
        assert row["outcomes"]["diverged"][0] == 1
        assert summary["judged"]["times"][row["method"]]["0.5"] is None
        assert summary["judged"]["failed"][row["method"]] == 1
        assert row["imbalance"] is None
    assert "nan" not in words(out).split()
