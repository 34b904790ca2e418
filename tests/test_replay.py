"""One run of a store once more: its bits, what is refused, and the script for a referee."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray as xr
from cases import METHODS
from commands import assert_one_line
from packaging.version import Version

import jaxfact as jf
from jaxfact import measures
from jaxfact.engine.program import Program
from jaxfact.jobs.numpy_script import Descent, descent_of
from jaxfact.measures import invariants
from jaxfact.store import experiment_file
from jaxfact.store.marks import HELD
from jaxfact.store.metadata import crc
from jaxfact.store.shards import parts_of, shard_of
from jaxfact.store.tilestore import TileStore
from jaxfact.sweep import Options, Part

PROBLEM = jf.Factorization(np.array([1, 0.6, 0.3]), shape=(8, 6))
SINGLE = jf.Factorization(np.array([1, 0.6, 0.3], np.float32), shape=(8, 6))
CHECK_EVERY, TOLERANCE, SEED = 10, 1e-3, 8123


def plain(step_size):
    return jf.Run(PROBLEM, jf.starts.Gaussian(2, scale=0.01), jf.methods.gradient_descent(step_size))


def noisy(step_size):
    return jf.Run(PROBLEM, jf.starts.Gaussian(2, scale=0.01), jf.methods.perturbed(step_size, 1e-6))


def energy(problem, factors):
    return factors.energy


EXPERIMENTS = {
    "plain": plain,
    "noisy": noisy,
    "balanced": lambda step_size: jf.Run(
        SINGLE, jf.starts.Gaussian(2, scale=0.01), jf.methods.balanced(step_size, 1 / 8)
    ),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Return a store of three methods: plain, noisy, and balanced in single precision, which the dataset widens."""
    path = tmp_path_factory.mktemp("replay") / "runs.zarr"
    jf.sweep(
        EXPERIMENTS, seeds=[3, SEED], max_steps=400, tolerance=TOLERANCE, check_every=CHECK_EVERY, every=50,
        record=[measures.distance, energy], store=path, step_size=[0.3, 0.5],
    )  # fmt: skip
    return path


@pytest.fixture
def altered(store, tmp_path):
    """Return a function that copies the store and changes attributes, or one run's number of a variable."""

    def change(attributes=(), **variables) -> Path:
        path = tmp_path / "altered.zarr"
        shutil.copytree(store, path)
        opened, tile = TileStore(path), (0, 0, 0)
        marks = opened.marks.records.copy()
        for name, new in variables.items():
            shape = opened.root.shard(name)
            values = np.full(shape, 0, opened.root.variables[name].dtype)
            there = opened.read(name, tile)
            values[tuple(map(slice, there.shape))] = there
            at = (0, 0, 1)  # step size 0.3, plain, the second seed
            values[at] = new(values[at])
            content = shard_of(values, parts_of(shape))
            opened.medium.put(opened.root.key(name, tile), content)
            marks["sums"][name][0] = HELD | crc(content)
        marks["seen"] = time.time_ns()
        opened.remember(marks)
        content = opened.root._replace(attributes=opened.root.attributes | dict(attributes)).content()
        for key in ("zarr.json", "tiles/root-0.json"):
            opened.medium.put(key, content)
        return path

    return change


@pytest.mark.parametrize("method", EXPERIMENTS)
def test_every_step_of_a_run(store, method):
    """What the store holds at some steps is met in its bits, and each step follows from the one before."""
    found = jf.replay(store, seed=SEED, variant=method, step_size=0.3)
    run, distance = found.run, found.distance
    last = run.steps.item()
    for part in (f"seed={SEED}", f"variant={method!r}", "step_size=0.3", f": converged after {last} steps at distance"):
        assert part in repr(found)
    assert repr(found).count("\n") < 9
    assert f"distance: ({last + 1},) from {distance[0]:.6g} to {distance[-1]:.6g}" in repr(found)
    np.testing.assert_array_equal(found.steps, np.arange(last + 1))
    assert (found.loss[-1], distance[-1]) == (run.loss.item(), run.distance.item())
    for step, stored in zip(run.step.values, run.distance_path.values, strict=True):
        # A record and a look are two evaluations of one distance: the same to rounding of a number near one.
        assert abs(stored - distance[min(step, last)]) <= 4 * np.finfo(distance.dtype).eps
    for level, hit in zip(run.level.values, run.hit.values.astype(int), strict=True):
        assert distance[hit] <= level < distance[hit - CHECK_EVERY]
    # A look at every step would have ended the run earlier, 50 steps after it arrived.
    assert np.argmax(distance <= TOLERANCE) + 50 < last
    if method != "plain":
        return
    gradient = jax.vmap(found.problem.gradient)(found.factors)
    for now, slope in zip(found.factors, gradient, strict=True):
        np.testing.assert_allclose(now[1:], now[:-1] - 0.3 * np.asarray(slope)[:-1], rtol=0, atol=1e-15)


def test_an_altered_number_is_caught(altered):
    """One last bit of one number, by its name and by no other."""
    path = altered(loss=lambda loss: np.nextafter(loss, 1))
    with pytest.raises(RuntimeError, match=r"'s numbers: loss \(0.*there, 0.*here\); versions, device"):
        jf.replay(path, seed=SEED, variant="plain", step_size=0.3)
    assert jf.replay(path, seed=3, variant="plain", step_size=0.3).run.outcome == "converged"


def test_what_may_have_changed_the_bits_is_said(altered):
    path = altered({"jaxlib": "0.0.1"}, steps=lambda steps: steps - 10)
    with pytest.raises(RuntimeError, match=r"steps \(.*\); the store was made differently: jaxlib was 0.0.1 and is"):
        jf.replay(path, seed=SEED, variant="plain", step_size=0.3)


def test_axes_may_be_named_like_arguments(tmp_path):
    """They are given as a mapping then, to the sweep and to the replay."""

    def named(record):
        return plain(record)

    path = tmp_path / "runs.zarr"
    jf.sweep(named, seeds=[SEED], max_steps=400, tolerance=TOLERANCE, store=path, axes={"record": [0.3]})
    again = jf.replay(path, seed=SEED, axes={"record": 0.3}, experiment=named)
    assert again.run["record"].item() == 0.3


def test_another_precision_is_refused(altered):
    with pytest.raises(ValueError, match="was made differently: x64 was False and is True; set JAX as it was then"):
        jf.replay(altered({"x64": False}), seed=SEED, variant="plain", step_size=0.3)


def test_another_experiment_is_refused(store):
    other = jf.Factorization(np.array([1, 0.6, 0.2999]), shape=(8, 6))

    def changed(step_size):
        return plain(step_size)._replace(problem=other)

    with pytest.raises(ValueError, match="the experiment or the data it uses have changed"):
        jf.replay(store, seed=SEED, variant="plain", step_size=0.3, experiment={"plain": changed})


def test_an_experiment_without_a_file(altered):
    """It must be given, and is as good as the one that is found."""
    path = altered({"experiment_name": ["", "", ""]})
    with pytest.raises(ValueError, match="experiment=None: the store holds no file that has it"):
        jf.replay(path, seed=SEED, variant="plain", step_size=0.3)
    assert jf.replay(path, seed=SEED, variant="plain", step_size=0.3, experiment=plain).run.seed == SEED


def test_a_record_that_is_not_found(altered):
    path = altered({"record_functions": ["jaxfact.measures:distance", "elsewhere:power"]})
    with pytest.raises(
        ValueError,
        match="record=None: energy was a function that cannot be found beside the experiment; write it there",
    ):
        jf.replay(path, seed=SEED, variant="plain", step_size=0.3)
    again = jf.replay(path, seed=SEED, variant="plain", step_size=0.3, record=[measures.distance, energy])
    assert "energy_path" in again.run


def test_a_checked_program_is_known_again(monkeypatch):
    """JAX below 0.11.2 numbers checks within the process: the text is another each time, the fingerprint is not."""
    axes = {"step_size": np.array([0.3])}
    monkeypatch.setattr(invariants, "applying_to", lambda method: (invariants.imbalance_change,))

    def narrow(step_size):
        problem = jf.Factorization(np.array([1.0]), shape=(2, 2))
        return jf.Run(problem, jf.starts.Gaussian(1, scale=0.1), jf.methods.gradient_descent(step_size))

    part = Part(narrow, TOLERANCE, Options(400, None, (), CHECK_EVERY, 0, True, True, False), axes)
    example = part.runs(axes, np.array([SEED]))
    programs = [Program(part.engine, example, part.engine.way.lanes) for _ in range(2)]
    assert programs[0].fingerprint == programs[1].fingerprint
    numbered_within_the_process = Version(jax.__version__) < Version("0.11.2")
    assert (programs[0]._lowered != programs[1]._lowered) == numbered_within_the_process


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 8000}, "seed=8000: is not one of the 2 from 3 to 8123 in the store; the nearest is 8123"),
        ({"step_size": 0.31}, "step_size=0.31: is not one of the 2 from 0.3 to 0.5 in the store; the nearest is 0.3"),
        ({"step_size": "0.3"}, "step_size='0.3': needs a number"),
        ({"variant": "momentum"}, "variant=momentum: the runs are of plain, noisy, balanced; name one of them"),
        ({"variant": None}, "variant=None: the runs are of plain, noisy, balanced; name one of them"),
        ({"scale": 1.0}, "axes=step_size, scale: the runs have step_size; give one value of each"),
        ({"axes": {"step_size": 0.3}}, "axes=step_size: is given by keyword too; give it once"),
        ({"experiment": {"noisy": noisy}}, "lacks plain; name it as the sweep did"),
    ],
)
def test_runs_that_are_not_there(store, changed, message):
    with pytest.raises(ValueError, match=message):
        jf.replay(store, **{"seed": SEED, "variant": "plain", "step_size": 0.3, **changed})


def test_runs_without_axes(store):
    runs = xr.Dataset({"outcome": ("seed", ["converged"])}, {"seed": [0]}, {"axes": "[]", "x64": "true"})
    with pytest.raises(ValueError, match="axes=step_size: the runs have no axis; leave it out"):
        jf.replay(runs, seed=0, step_size=0.3)
    with pytest.raises(ValueError, match="axes=no value: the runs have step_size; give one value of each"):
        jf.replay(store, seed=SEED, variant="plain")


def test_a_run_that_is_pending(altered):
    path = altered(outcome=lambda _: -1)
    with pytest.raises(ValueError, match="this run has not finished yet; repeat the sweep"):
        jf.replay(path, seed=SEED, variant="plain", step_size=0.3)


SCRIPT = """
from __future__ import annotations
weights = {}
RUNS = jf.sweep(None)
weights["a"] = 2
def experiment(x):
    return x * weights["a"]
CASES = {"twice": experiment}
runs = jf.sweep(experiment, seeds=3)
print(runs.outcome)
weights["a"] = 3
"""


def test_a_script_is_executed_up_to_its_sweep(capsys):
    """What sweeps is left out, and so is what needs its results."""
    experiment = experiment_file.from_text(SCRIPT, "CASES:twice", "script")
    assert experiment(4) == 8
    assert "RUNS" not in experiment.__globals__
    assert capsys.readouterr().out == ""
    for name, failure in {"nothing": "NameError", "CASES:thrice": "KeyError"}.items():
        with pytest.raises(ValueError, match=rf"experiment={name}: its file fails \({failure}: .*; give experiment="):
            experiment_file.from_text(SCRIPT, name, "script")


@pytest.mark.parametrize(("method", "rtol"), [("plain", 1e-9), ("balanced", 1e-3)])
def test_a_numpy_script_repeats_the_run(store, tmp_path, method, rtol):
    """Rounding moves factors of size 1 by ε per step and a descent forgets it in 1/η steps: ε/η beside the last level
    of 1e-3 is 2e-4 in float32 and 1e-12 in float64."""
    script = jf.numpy_script(store, tmp_path / "run", seed=SEED, variant=method, step_size=0.3)
    lines = script.read_text().splitlines()
    assert [x for x in lines if "import " in x] == ["from pathlib import Path", "import numpy as np"]
    printed = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True, check=True).stdout
    rows = [line.removeprefix("last loss").split()[-3:] for line in printed.splitlines()[1:]]
    steps, here, there = np.asarray(rows, float).T
    run = jf.open_results(store).sel({"variant": method, "seed": SEED, "step_size": 0.3})
    np.testing.assert_array_equal(steps, [*run.hit.values[np.isfinite(run.hit)], run.steps])
    assert there[-1] == pytest.approx(run.loss.item(), rel=1e-8)
    np.testing.assert_allclose(here, there, rtol=rtol)
    with pytest.raises(ValueError, match=r"run.py: exists already"):
        jf.numpy_script(store, tmp_path / "run.py", seed=SEED, variant=method, step_size=0.3)


def test_a_noisy_run_is_not_written_in_numpy(store, tmp_path):
    with pytest.raises(ValueError, match="method=one that takes another step: only gradient descent.*use replay"):
        jf.numpy_script(store, tmp_path / "run.py", seed=SEED, variant="noisy", step_size=0.3)
    assert not list(tmp_path.iterdir())


WRITTEN = {"gradient descent": 0, "balanced": 1 / 8, "balancing in a chain": 1 / 16}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_known_by_their_steps(name):
    """Momentum, Adam, ScaledGD, schedules, alternation and noise are not among those written in NumPy."""
    method = METHODS[name](0.3)
    if name in WRITTEN:
        assert descent_of(method, PROBLEM, 2) == Descent(0.3, WRITTEN[name])
        return
    with pytest.raises(ValueError, match=r"method=one that (has a state|takes another step): only gradient descent"):
        descent_of(method, PROBLEM, 2)


def test_the_command(call, store, tmp_path):
    out = tmp_path / "path.npz"
    words = [store, "--seed", SEED, "step_size=0.3", "--variant", "plain"]
    code, shown, _ = call("replay", *words, "--out", out, "--numpy", tmp_path / "run.py")
    assert code == 0
    assert f"plain, seed {SEED}, step_size=0.3: converged after " in shown
    assert "number was reproduced bit for bit: best_distance, distance, distance_path, energy_path" in shown
    run = jf.open_results(store).sel({"variant": "plain", "seed": SEED, "step_size": 0.3})
    with np.load(out) as path:
        assert set(path) == {"steps", "loss", "distance", "U", "V"}
        assert path["U"].shape == (run.steps.item() + 1, 5, 2)  # 3 singular values, and 2 rows for all others
        assert path["loss"][-1] == run.loss.item()
    path = list(sys.path)
    code, shown, _ = call("replay", *words, "--json", "--experiment", f"{__file__}:EXPERIMENTS")
    assert code == 0
    assert call("replay", *words, "--json", "--experiment", f"{__file__}:EXPERIMENTS:plain").out == shown
    assert sys.path == path
    told = json.loads(shown, parse_constant=pytest.fail)
    assert (told["loss"], told["outcome"], told["hit"]["0.001"]) == (run.loss.item(), "converged", run.hit.values[-1])
    assert {path.name for path in tmp_path.iterdir()} == {"path.npz", "run.py", "run.npz"}


def test_mistakes_at_the_command_line(call, store, altered, tmp_path):
    """One line each: 2 for the user's, 1 where the numbers are not those in the store."""
    words = ["--seed", SEED, "step_size=0.3", "--variant", "plain"]
    broken = tmp_path / "broken.py"
    broken.write_text("def energy(problem, factors):\n    return 0.0\n\n\ndef plain(step_size):\n    return 1 / 0\n")
    for message, given in {
        "Missing option '--seed'": [store],
        "point=0.3: needs a name and a number; write it like step_size=0.3": [store, "--seed", SEED, "0.3"],
        "point=step_size=1: step_size is given twice; give one value": [store, *words, "step_size=1"],
        f"{broken}: line 6 raised ZeroDivisionError: ": [store, *words, "--experiment", f"{broken}:plain"],
        "is written as .npz; use": [store, *words, "--out", tmp_path / "path.csv"],
        "is not the store of a sweep": [tmp_path, *words],
        "nowhere.py is not a Python file; write it like": [store, *words, "--experiment", "nowhere.py:plain"],
    }.items():
        assert_one_line(call("replay", *given), re.escape(message))
    ended = call("replay", altered(loss=lambda loss: 2 * loss), *words, "--out", tmp_path / "path.npz")
    assert ended.code == 1
    assert "the run does not have the store's numbers: loss" in ended.err
    assert not (tmp_path / "path.npz").exists()
