"""Sweeps from the command line: the same runs as the call's, mistakes in one line, and what people are shown."""

import base64
import importlib
import inspect
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr
from commands import OPTIONS, SWEPT, assert_one_line

import jaxfact as jf
from jaxfact import figures
from jaxfact.engine.program import Program
from jaxfact.figures.labels import axis_label
from jaxfact.reports import sweep as sweep_report
from jaxfact.store import experiment_file, provenance
from jaxfact.store.medium import StoreError

SHORT = ["--seeds", "2", "--store", "new.zarr"]
module = importlib.import_module("jaxfact.sweep")


def test_the_command_makes_the_runs_of_the_call(call, experiments, stored, tmp_path):
    """Also in two parts, of which the second makes what the first did not; no bar where there is no terminal."""
    place = f"{experiments}:methods"
    first = call("sweep", place, "--seeds", "4", "--store", "new.zarr", *OPTIONS)
    assert (first.code, first.err) == (0, "")
    ended = call("sweep", place, "--seeds", "6", "--store", "new.zarr", *OPTIONS)
    found, expected = jf.open_results(tmp_path / "new.zarr"), jf.open_results(stored)
    xr.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())
    assert found.attrs["experiment"] == expected.attrs["experiment"]
    lines = ended.out.splitlines()
    assert lines[0] == "new.zarr: finished, 36 runs"
    assert "outcomes: converged 50 %, diverged 33.3 %, budget 16.7 %" in lines
    assert lines[-1] == "see it with: jaxfact report new.zarr"


def test_what_is_there_is_not_run_again(call, experiments, stored, unfinished, monkeypatch):
    monkeypatch.setattr(Program, "run", lambda *_: pytest.fail("a tile was run"))
    arguments = ["sweep", f"{experiments}:methods", *OPTIONS]
    assert call(*arguments, "--store", stored, "--seeds", "6").code == 0
    with pytest.raises(pytest.fail.Exception):
        call(*arguments, "--store", unfinished, "--seeds", "9")


@pytest.fixture
def asked(call, experiments, monkeypatch):
    """Return a function that runs the command as far as the call of the library, and returns what that is asked for."""
    seen = {}
    real = module.sweep

    def sweep(experiment, **options):
        seen.update(options, experiment=experiment)
        raise KeyboardInterrupt

    sweep.__signature__ = inspect.signature(real)
    monkeypatch.setattr(module, "sweep", sweep)

    def ask(*arguments: str) -> dict:
        call("sweep", f"{experiments}:plain", *SHORT, *arguments)
        return seen

    return ask


def test_axes(asked):
    found = asked("--axis", "a=0.1:10:3:log", "--axis", "b=-1:1:5:lin", "--axis", "c=4,2", "--axis", "d=1,0.5")["axes"]
    np.testing.assert_allclose(found["a"], [0.1, 1, 10], rtol=1e-15)
    assert found["b"].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert found["c"].tolist() == [4, 2]
    assert found["c"].dtype.kind == "i"
    assert found["d"].tolist() == [1, 0.5]
    assert list(found) == ["a", "b", "c", "d"]


def test_options_reach_the_library(asked, tmp_path):
    given = (
        "--max-steps 700 --check-every 7 --tolerance none --base-seed 3 --devices 1 --tile-runs 5 --record loss,ye_du"
    )
    switches = "--every 70 --checked --no-compress --compensated --accept jax --accept device"
    found = asked(*given.split(), *switches.split())
    assert found["tolerance"] is None
    assert found["record"] == ["loss", "ye_du"]
    assert {
        name: found[name] for name in ("max_steps", "check_every", "base_seed", "devices", "tile_runs", "every")
    } == {
        "max_steps": 700,
        "check_every": 7,
        "base_seed": 3,
        "devices": 1,
        "tile_runs": 5,
        "every": 70,
    }
    assert (found["checked"], found["compress"], found["compensated"]) == (True, False, True)
    assert found["accept"] == ["jax", "device"]
    assert asked("--record", "loss")["every"] is None
    found = asked("--record", "loss", "--every", "log")
    assert found["every"] == jf.log_steps(4000, unit=10)
    assert (found["devices"], found["tolerance"], found["compress"]) == (None, 1e-5, True)


MISTAKES = {
    "": "the experiment takes \\(step_size\\); give one axis per parameter",
    "--axis step_size": "--axis=step_size: needs a name and values; write it like",
    "--axis =1,2": "--axis==1,2: needs a name and values",
    "--axis step_size=": "--axis=step_size=: needs a name and values",
    "--axis step_size=a,b": "step_size=a,b: needs numbers between the commas",
    "--axis step_size=1,,2": "needs numbers between the commas",
    "--axis step_size=0.1:1:5": "needs start:stop:count:log or start:stop:count:lin",
    "--axis step_size=0.1:1:5:log:lin": "needs start:stop:count:log",
    "--axis step_size=0.1:1:x:log": "needs start:stop:count:log",
    "--axis step_size=0.1:1:0:log": "needs start:stop:count:log",
    "--axis step_size=0.1:inf:3:lin": "needs start:stop:count:log",
    "--axis step_size=0.1:1:5:geo": "needs start:stop:count:log",
    "--axis step_size=0:1:5:log": "needs ends above 0 for log",
    "--axis step_size=0.1 --axis step_size=0.2": "step_size is given twice",
    "--axis step_size=0.1,0.1": "an axis needs each value once",
    "--axis step_size=0.1 --axis other=1": "the experiment takes \\(step_size\\)",
    "--axis step_size=0.1 --axis seeds=1": "the experiment takes \\(step_size\\)",
    "--axis loss=1": "axes=loss: is the name of a variable or dimension of every result; rename",
    "--axis step_size=-1": "step_size=-1: needs a finite number above 0",
    "--axis step_size=0.1 --record distance,nonsense": "record=nonsense: no measure has this name; choose among",
    "--axis step_size=0.1 --tolerance low": "--tolerance=low: needs a number or none",
    "--axis step_size=0.1 --tolerance -1": "tolerance=-1",
    "--axis step_size=0.1 --devices some": "--devices=some: needs all or a whole number",
    "--axis step_size=0.1 --devices 0": "--devices=0: needs all or a whole number",
    "--axis step_size=0.1 --tile-runs 0": "tile_runs=0",
    "--axis step_size=0.1 --max-steps 15": "max_steps=15: needs a multiple of check_every=10",
}


@pytest.mark.parametrize("options", MISTAKES)
def test_mistakes(call, experiments, tmp_path, options):
    assert_one_line(call("sweep", f"{experiments}:plain", *SHORT, *options.split()), MISTAKES[options])
    assert list(tmp_path.iterdir()) == []


def test_stores_of_other_sweeps(call, experiments, stored):
    arguments = ["sweep", f"{experiments}:methods", "--store", stored, *OPTIONS, "--seeds", "6"]
    assert_one_line(call(*arguments, "--max-steps", "300"), "made by another sweep: max_steps was 200 and is 300")
    assert_one_line(call(*arguments, "--accept", "nothing"), r"accept=\['nothing'\]: needs names among jaxfact, jax")


def test_a_store_is_needed(call, experiments):
    assert_one_line(call("sweep", f"{experiments}:plain"), "Missing option '--store'")
    given = ["sweep", f"{experiments}:plain", *OPTIONS, "--store", "memory://a"]
    assert_one_line(call(*given), "store=memory://a: is in the memory of this process; give a folder")


FILES = {
    "good.py": "def f(): ...\nclass C: ...\nx = 3\nempty = {}\nodd = {'a': 3}\n",
    "raises.py": "import math\n\nx = math.sqrt(-1)\n",
    "deep.py": "def g():\n    return {}['key']\n\nx = g()\n",
    "wrong.py": "def f(:\n    pass\n",
    "leaves.py": "import sys\nsys.exit(3)\n",
    "text.txt": "f = 1\n",
}
PLACES = {
    "missing.py:f": "missing.py:f: missing.py is not a Python file; write it like experiments.py:experiment",
    "text.txt:f": "text.txt:f: needs a Python file and a name in it",
    "good.py": "good.py: needs a Python file and a name in it",
    "good.py:": "needs a Python file and a name in it",
    "good.py:f g": "needs a Python file and a name in it",
    "good.py:g": "good.py has no g; choose among f",
    "good.py:odd:b": "good.py has no odd:b; choose among f",
    "good.py:f:b": "good.py has no f:b; choose among f",
    "good.py:x": "good.py:x: is of type int; name a function",
    "good.py:odd:a": "good.py:odd:a: is of type int; name a function",
    "good.py:C": "good.py:C: is of type type; name a function",
    "good.py:empty": "is a dict of something other than functions by name",
    "good.py:odd": "is a dict of something other than functions by name",
    "good.py:f": "returned a NoneType: needs a Run",
    "raises.py:f": "raises.py: line 3 raised ValueError: .*; correct the file",
    "deep.py:f": "deep.py: line 2 raised KeyError: 'key'; correct the file",
    "wrong.py:f": "wrong.py: line 1 raised SyntaxError: invalid syntax; correct the file",
    "leaves.py:f": "leaves.py: line 2 raised SystemExit: 3; correct the file",
}


@pytest.mark.parametrize("place", PLACES)
def test_files_that_will_not_do(call, tmp_path, place):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    path = list(sys.path)
    assert_one_line(call("sweep", place, *SHORT), PLACES[place])
    assert sys.path == path
    assert not (tmp_path / "new.zarr").exists()


def test_files_find_their_neighbours_and_keep_their_source(tmp_path):
    (tmp_path / "neighbour_of_the_tests.py").write_text("factor = 3\n")
    text = "def experiment():\n    return factor\n"
    (tmp_path / "file.py").write_text("from neighbour_of_the_tests import factor\n\n" + text)
    found = experiment_file.load(f"{tmp_path / 'file.py'}:experiment")
    assert found() == 3
    assert inspect.getsource(found) == text


def test_an_entry_of_a_dict_is_an_experiment(experiments):
    """It is no variant then, and its name is that under which a store would find it again."""
    one = experiment_file.load(f"{experiments}:methods:slow")
    assert one is one.__globals__["methods"]["slow"]
    assert provenance.home(one)["experiment_name"] == "methods:slow"


def test_files_of_one_name_are_two_modules(tmp_path):
    """Each keeps its source and its module, where classes are looked up; nothing is left on the path."""
    path, found = list(sys.path), []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "file.py").write_text(
            f"class C:\n    folder = '{folder}'\n\ndef f():\n    return C, '{folder}'\n"
        )
        found.append(experiment_file.load(f"{tmp_path / folder / 'file.py'}:f"))
    assert [inspect.getsource(f).splitlines()[1] for f in found] == ["    return C, 'a'", "    return C, 'b'"]
    assert [sys.modules[f()[0].__module__].C.folder for f in found] == ["a", "b"]
    assert sys.path == path


@pytest.mark.parametrize("up_to_sweep", [False, True])
def test_a_file_that_fails_leaves_nothing_behind(tmp_path, up_to_sweep):
    (tmp_path / "file.py").write_text(FILES["raises.py"])
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(ValueError, match="line 3 raised ValueError"):
        experiment_file.load(f"{tmp_path / 'file.py'}:f", up_to_sweep=up_to_sweep)
    assert sys.path == path
    assert set(sys.modules) == modules


def test_an_experiment_that_fails_is_named_by_its_line(call, experiments):
    ended = call("sweep", f"{experiments}:fails", *SHORT, "--axis", "step_size=0.1")
    assert_one_line(ended, r"experiments.py: line \d+ raised TypeError: unhashable.*; correct the file")


ENDS = {
    "stopped": (KeyboardInterrupt("stopped; what is in new.zarr is safe: repeat the call"), 130, "repeat the call$"),
    "at once": (KeyboardInterrupt(), 130, "interrupted; what is in new.zarr is safe$"),
    "full": (
        StoreError(28, "new.zarr: the disk is full; 3 of 6 runs are safe there"),
        1,
        "^jaxfact: new.zarr: the disk",
    ),
    "memory": (MemoryError(), 1, "too little memory: lower --tile-runs or record less. What is in new.zarr is safe."),
    "invariant": (RuntimeError("balance is broken at step 3"), 1, "^jaxfact: balance is broken at step 3$"),
    "unwritable": (
        PermissionError(13, "Permission denied"),
        1,
        "cannot be written .*Permission denied.*new.zarr is safe$",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_ends_are_one_line(call, experiments, monkeypatch, end):
    error, code, words = ENDS[end]

    def sweep(experiment, *, seeds, **_):
        raise error

    monkeypatch.setattr(module, "sweep", sweep)
    assert_one_line(call("sweep", f"{experiments}:plain", *SHORT), words, code)


def test_our_own_faults_are_not_hidden(call, experiments, monkeypatch):
    def sweep(experiment, **_):
        raise TypeError("a bug")

    monkeypatch.setattr(module, "sweep", sweep)
    with pytest.raises(TypeError, match="a bug"):
        call("sweep", f"{experiments}:plain", *SHORT)


def test_coordinates_carry_units_and_labels(stored):
    runs = jf.open_results(stored)
    expected = {"long_name": "step size", "units": "1/σ₁", "latex": r"$\eta\,\sigma_1$"}
    assert runs.step_size.attrs == expected
    for name in ("seed", "step", "level", "loss", "distance", "imbalance", "distance_path"):
        assert runs[name].attrs["latex"].startswith("$")
    assert axis_label(runs.step_size) == r"step size $\eta\,\sigma_1$"
    assert axis_label(xr.DataArray([1.0], name="my_axis", dims="x")) == "my axis"


def lone(runs: xr.Dataset) -> xr.Dataset:
    return runs.isel(step_size=1)


def crossed(runs: xr.Dataset) -> xr.Dataset:
    """Return the runs with two more axes; at the second value of the new axis every run has failed."""
    failed = runs.assign(outcome=xr.full_like(runs.outcome, "diverged"))
    return xr.concat([runs, failed], "scale", data_vars="all").assign_coords(scale=[0.1, 0.2]).expand_dims(third=[7.0])


FORMS = {"none": lone, "one": lambda runs: runs, "two": crossed}
RECORDS = {f"{name}_at_{place}" for name in ("survival", "distance", "imbalance") for place in (1, 2, 3)}
DRAWN = {
    "none": {"outcomes", "survival", "distance", "imbalance", "worst"},
    "one": {"outcomes", "times"} | RECORDS,
    "two": {"fractions"}
    | {f"{what}_along_{axis}" for what in ("outcomes", "times") for axis in ("step_size", "scale")}
    | {name for name in RECORDS if not name.endswith("3")},
}


@pytest.mark.parametrize("axes", FORMS)
def test_reports_of_any_store_of_results(call, stored, tmp_path, axes):
    jf.write_results(FORMS[axes](jf.open_results(stored).load()), tmp_path / "a.zarr")
    ended = call("report", "a.zarr", "--out", "out")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "page: out/report.html"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "figures", "summary.json"}
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == DRAWN[axes]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Sweep of a.zarr</h1>" in page
    pictures = re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', page)
    assert len(pictures) == len(DRAWN[axes]) == page.count("<figcaption>")
    assert page.index('<p class="found">') < page.index("<figure>") < page.index("jaxfact report a.zarr\n\n")
    assert all(base64.b64decode(picture).startswith(b"<?xml") for picture in pictures)
    assert ("shown at third = 7" in ended.out) == (axes == "two")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["seeds"] == 6


def test_reports_say_the_stored_numbers(call, stored):
    """Runs of the plain method arrive at both smaller steps; nothing arrives at the largest."""
    text = " ".join(call("report", stored).out.split())
    assert "plain 0.2 0 (0–39) 100 (61–100) 0 (0–39) plain 0.5 0 (0–39) 100 (61–100) 0 (0–39) plain 5" in text
    assert "slow 0.2 100 (61–100) 0 (0–39) 0 (0–39) slow 0.5" in text
    runs = jf.open_results(stored).sel({"variant": "plain", "step_size": 0.2})
    times = np.quantile(runs.hit.sel(level=1e-4), [0.05, 0.5, 0.95], method="inverted_cdf")
    assert f"plain 0.2 100 (61–100) {' '.join(f'{time:.0f}' for time in times)} plain 0.5" in text
    assert "slow 5 0 (0–39) never never never" in text
    # Cut off by the budget is not never.
    assert re.search(rf"slow 0\.2 0 \(0–39\) \d+ \d+ > {SWEPT['max_steps']} slow 0\.5", text)


def test_points_are_not_pooled(stored, tmp_path):
    """Of many points the spread is told, without an interval: none would hold for runs of different points together."""
    runs = jf.open_results(stored).load()
    many = xr.concat(
        [runs.assign_coords(step_size=runs.step_size + 10 * k) for k in range(9)], "step_size", data_vars="minimal"
    )
    jf.write_results(many.assign_attrs(runs.attrs), tmp_path / "many.zarr")
    title, columns, rows = sweep_report.tables(sweep_report.shown(tmp_path / "many.zarr"))[0]
    assert title == "% of runs by outcome: least – median – greatest of 27 points"
    assert columns == ["variant", "budget", "converged", "diverged"]
    assert rows == [
        ["plain", "0 – 0 – 0", "0 – 100 – 100", "0 – 0 – 100"],
        ["slow", "0 – 0 – 100", "0 – 0 – 100", "0 – 0 – 100"],
    ]
    jf.write_results(crossed(runs).isel(third=0, drop=True), tmp_path / "two.zarr")
    title, columns, rows = sweep_report.tables(sweep_report.shown(tmp_path / "two.zarr"))[0]
    assert "at each point (95 % Wilson interval)" in title
    assert columns[1:3] == ["scale", "step size in 1/σ₁"]
    assert len(rows) == 2 * 2 * 3
    assert rows[0] == ["plain", "0.1", "0.2", "0 (0–39)", "100 (61–100)", "0 (0–39)"]
    jf.write_results(runs.isel(variant=0, drop=True), tmp_path / "one.zarr")
    by_point, along = sweep_report.tables(sweep_report.shown(tmp_path / "one.zarr"))
    assert by_point[1] == ["step size in 1/σ₁", "converged", "diverged"]
    assert by_point[2][0] == ["0.2", "100 (61–100)", "0 (0–39)"]
    assert along[1][0] == "step size in 1/σ₁"
    assert along[2][0][:2] == ["0.2", "100 (61–100)"]


def test_unfinished_seeds_are_left_out_and_counted(call, stored, unfinished, tmp_path):
    whole, part = sweep_report.shown(stored), sweep_report.shown(unfinished)
    xr.testing.assert_equal(whole.runs.drop_attrs(), part.runs.drop_attrs())
    ended = call("report", unfinished, "--out", "out")
    assert "6 of 9 seeds are done at every point and with every variant; the others are left out" in ended.out
    assert "seeds are done" not in call("report", stored).out
    jf.write_results(jf.open_results(unfinished).isel(seed=slice(6, 9)).load(), tmp_path / "none.zarr")
    assert_one_line(call("report", "none.zarr"), "none.zarr: has no seed yet that is done at every point")


def test_the_heatmap_shows_fractions(stored):
    success = crossed(jf.open_results(stored).load()).isel(third=0).outcome == "converged"
    figure = figures.heatmap(success.mean("seed"), "step_size", "scale", label="fraction converged")
    for axes, method in zip(figure.axes, ("plain", "slow"), strict=False):
        shown = np.ravel(axes.collections[0].get_array()).reshape(2, 3)
        expected = success.sel({"variant": method}).mean("seed").transpose("scale", "step_size")
        np.testing.assert_array_equal(shown, expected)
        assert shown[1].max() == 0
    assert figure.axes[1].get_xlabel() == r"step size $\eta\,\sigma_1$"
    assert figure.axes[-1].get_ylabel() == "fraction converged"


def test_times_that_never_come_stand_at_the_edge(stored):
    runs = jf.open_results(stored).sel({"variant": "plain"})
    axes = figures.times_along(runs, "step_size").axes[0]
    line, never = axes.lines
    middle = np.quantile(runs.hit.sel(level=1e-4), 0.5, axis=1, method="inverted_cdf")
    np.testing.assert_array_equal(line.get_ydata(), [*middle[:2], np.nan])
    assert (never.get_xdata().tolist(), never.get_ydata().tolist()) == ([5.0], [1.0])


def test_outcomes_along_an_axis(stored):
    figure = figures.fractions(jf.open_results(stored), "step_size")
    shown = {axes.get_ylabel(): [line.get_ydata().tolist() for line in axes.lines] for axes in figure.axes}
    assert shown == {
        "budget": [[0, 0, 0], [1, 0, 0]],
        "converged": [[1, 1, 0], [0, 1, 0]],
        "diverged": [[0, 0, 1], [0, 0, 1]],
    }


def test_without_a_tolerance_the_lowest_level_counts(stored, tmp_path):
    runs = jf.open_results(stored).load()
    free = runs.assign(tolerance=xr.full_like(runs.tolerance, np.nan), outcome=xr.full_like(runs.outcome, "budget"))
    jf.write_results(free.assign_attrs(tolerance=None), tmp_path / "free.zarr")
    found = sweep_report.shown(tmp_path / "free.zarr")
    title, _, rows = sweep_report.tables(found)[1]
    assert "fraction at 0.0001" in title
    assert [row[2].split()[0] for row in rows if row[0] == "plain"] == ["100", "100", "0"]
    assert "runs had no tolerance: they are judged at the lowest level" in sweep_report.report_of(found).lines


def test_an_axis_may_be_called_run(stored, tmp_path):
    runs = jf.open_results(stored).load()
    jf.write_results(runs.rename(step_size="run").assign_attrs(axes=["run"]), tmp_path / "run.zarr")
    usual, renamed = (sweep_report.tables(sweep_report.shown(path)) for path in (stored, tmp_path / "run.zarr"))
    assert [table[2] for table in renamed] == [table[2] for table in usual]


@pytest.mark.parametrize("name", ["nothing", "folder"])
def test_reports_need_results(call, tmp_path, name):
    xr.Dataset({"x": ("seed", [1.0])}).to_zarr(tmp_path / "folder", zarr_format=3, consolidated=False)
    words = {"nothing": "is not a Zarr 3 store", "folder": "holds no outcomes of runs along seed"}
    assert_one_line(call("report", name), words[name])
    assert not (tmp_path / "jaxfact-report").exists()


def test_a_full_folder_is_kept(call, stored, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert_one_line(call("report", stored, "--out", "full"), "out=full: is a folder that holds ")


def test_an_interrupted_process_says_how_to_go_on(experiments, tmp_path):
    """The tiles in flight are finished: what was run is whole tiles, and the store is in order."""
    store = tmp_path / "new.zarr"
    command = [sys.executable, "-c", "from jaxfact.cli.main import main; main()", "sweep", f"{experiments}:plain"]
    options = [*OPTIONS, "--seeds", "1000000", "--tile-runs", "600", "--devices", "1", "--store", store]
    with subprocess.Popen([*command, *options], stdout=-1, stderr=-1, encoding="utf-8") as process:
        while process.poll() is None and not list(store.glob("tiles/marks-*.npy")):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    # On a slow machine further lines say what is waited for, and how far it has got.
    slow = r"jaxfact: (reading and compiling|\d+ of \d+ runs)"
    notes = [line for line in err.splitlines() if not re.match(slow, line)]
    assert notes[0] == "jaxfact: note: finishing the tiles in flight; interrupt again to stop at once"
    assert notes[1:] == [
        f"jaxfact: stopped; what is in {store} is safe: repeat the call, which makes only the other runs"
    ]
    found = jf.status(store)
    assert 0 < found.done < found.runs == 3_000_000
    assert found.done % 600 == 0
    assert found.workers == {}
