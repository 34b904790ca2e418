"""Experiment × axes × seeds: how an experiment is read, what comes back, and what is refused."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from runs import SMALL

import jaxfact as jf
from jaxfact import measures
from jaxfact.engine.floors import step_size_of
from jaxfact.engine.reading import Reading
from jaxfact.problems.base import rounding_floor

START = jf.starts.Gaussian(3, scale=0.1)


def plain(step_size):
    """As an array a step size is data, so that all of them share one compiled program."""
    return jf.Run(SMALL, START, jf.methods.gradient_descent(jnp.asarray(step_size)))


def run(experiment=plain, **options):
    return jf.sweep(experiment, **{"seeds": 4, "max_steps": 300, "tolerance": 1e-6, **options})


def test_axes_are_ordered_and_labelled():
    def experiment(scale, step_size):
        return jf.Run(SMALL, jf.starts.Gaussian(3, scale=scale), jf.methods.gradient_descent(step_size))

    runs = run(experiment, step_size=[0.1, 0.2, 0.3], scale=[1e-3, 1e-1], every=100)
    assert runs.outcome.dims == ("step_size", "scale", "seed")
    assert runs.hit.dims == ("step_size", "scale", "seed", "level")
    assert runs.loss_path.dims == ("step_size", "scale", "seed", "step")
    one = run(experiment, step_size=[0.2], scale=[1e-1])
    np.testing.assert_array_equal(runs.loss.sel(step_size=0.2, scale=0.1), one.loss.squeeze())
    assert runs.level.values.tolist() == [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6]
    assert runs.loss.attrs["units"] == "σ₁²"
    for name in ("jax", "device", "dtype", "base_seed", "check_every", "experiment", "matmul_precision", "date"):
        assert name in runs.attrs
    assert "jf.methods.gradient_descent(step_size)" in runs.attrs["experiment"]


def test_axes_may_have_names_of_options():
    """By a mapping an axis may be called like an option; it stands where it is given, and changes no number."""

    def experiment(seeds, devices):
        return jf.Run(SMALL, jf.starts.Gaussian(3, scale=devices), jf.methods.gradient_descent(seeds))

    def same(step_size, scale):
        return experiment(step_size, scale)

    runs = run(experiment, axes={"seeds": [0.1, 0.2], "devices": [1e-1]})
    assert runs.outcome.dims == ("seeds", "devices", "seed")
    assert json.loads(runs.attrs["axes"]) == ["seeds", "devices"]
    usual = run(same, axes={"step_size": [0.1, 0.2]}, scale=[1e-1])
    np.testing.assert_array_equal(runs.loss, usual.loss)
    assert len(np.unique(runs.loss)) > 4, "the axis is used"


def test_methods_are_paired():
    """Methods share their starts: the first records are bit for bit the same, and so are identical methods."""
    runs = run(
        {"one": lambda: plain(0.3), "same": lambda: plain(0.3), "slow": lambda: plain(0.1)}, every=100, max_steps=600
    )
    assert runs.outcome.dims == ("variant", "seed")
    first = runs.distance_path.isel(step=0)
    np.testing.assert_array_equal(first.isel(variant=0), first.isel(variant=2))
    np.testing.assert_array_equal(runs.loss.isel(variant=0), runs.loss.isel(variant=1))
    assert np.all(runs.hit.sel({"variant": "slow"}) > runs.hit.sel({"variant": "one"}))


def test_a_tolerance_for_each_method():
    runs = run({"far": lambda: plain(0.3), "near": lambda: plain(0.3)}, tolerance={"far": 1e-6, "near": 1e-2})
    assert runs.sizes["level"] == 6
    assert np.all(np.isnan(runs.hit.sel({"variant": "near", "level": 1e-3})))
    assert np.all(np.isfinite(runs.hit.sel({"variant": "far", "level": 1e-3})))
    assert runs.tolerance.values.tolist() == [1e-6, 1e-2]


def test_no_tolerance_runs_to_the_end():
    runs = run(tolerance=None, step_size=[0.3])
    assert np.all(runs.steps == 300)
    assert np.all(runs.outcome == "budget")
    assert np.isnan(runs.tolerance)


def test_integer_axes_index():
    """An axis of integers arrives as integers, so that an experiment can look things up with it."""
    steps = jnp.array([0.1, 0.2, 0.4])
    runs = run(lambda which: plain(steps[which]), which=[2, 0])
    direct = run(step_size=[0.4, 0.1])
    np.testing.assert_array_equal(runs.loss.values, direct.loss.values)


def test_random_problem_per_run():
    """An experiment that takes a key draws its problem from it: each seed has its own target, every time the same."""

    def experiment(key, step_size):
        values = jnp.sort(jr.uniform(key, (3,), minval=0.3), descending=True)
        return jf.Run(jf.Factorization(values, shape=(12, 9)), START, jf.methods.gradient_descent(step_size))

    largest = {"largest": lambda problem, factors: problem.unit}
    runs = run(experiment, step_size=[0.3, 0.5], every=300, record=largest)
    units = runs.largest_path.isel(step=0)
    assert len(np.unique(units)) == 4
    np.testing.assert_array_equal(units.sel(step_size=0.3), units.sel(step_size=0.5))
    key = jr.fold_in(jr.fold_in(jr.key(0, impl="threefry2x32"), 2), 0)
    np.testing.assert_allclose(units.sel(step_size=0.3, seed=2), jr.uniform(key, (3,), minval=0.3).max(), rtol=1e-15)


def test_dense_and_singular_coordinates_agree():
    """Explicit factors rotated with the target give the same run: loss and distance to rounding."""
    matrix = np.random.default_rng(1).normal(size=(8, 6))
    dense = jf.Factorization(matrix)
    factors = jf.starts.Gaussian(6, scale=0.1).draw(jr.key(3), dense)
    # The directions that the target does not reach, in any basis.
    left = np.linalg.svd(matrix)[0]
    left[:, :6] = dense.left
    turned = jf.Factors(jnp.asarray(left).T @ factors.U, dense.right.T @ factors.V)
    ambient = run(lambda: jf.Run(dense, factors, jf.methods.gradient_descent(0.3)), seeds=1, tolerance=None)
    rotated = run(
        lambda: jf.Run(dense.in_singular_coordinates(), turned, jf.methods.gradient_descent(0.3)),
        seeds=1,
        tolerance=None,
    )
    np.testing.assert_allclose(ambient.distance, rotated.distance, rtol=1e-9)
    np.testing.assert_allclose(ambient.imbalance, rotated.imbalance, rtol=1e-9)


def test_shared_arrays_are_arguments():
    """What depends on neither key nor point is evaluated once and is not a constant of the program."""
    matrix = np.random.default_rng(0).normal(size=(300, 200))
    problem = jf.Factorization(matrix)
    start = jf.starts.Gaussian(2, scale=1e-2)
    program = Reading(
        lambda step_size: jf.Run(problem, start, jf.methods.gradient_descent(step_size)),
        {"step_size": jnp.asarray(0.1)},
        [measures.loss],
    )
    assert {x.shape for x in program.shared} >= {(300, 200), (200, 200), (200,)}
    own = program.start(program.shared, jr.key(0), {"step_size": jnp.asarray(0.1)})
    assert sum(x.size for x in own.numbers) < 10
    text = jax.jit(program.advance).lower(program.shared, own, jnp.asarray(0)).as_text()
    assert len(text) < 100_000

    # A matrix that is closed over is written out, in more than ten characters per number.
    constant = jax.jit(lambda factors: problem.gradient(factors)).lower(own.factors).as_text()
    assert len(constant) > 10 * matrix.size


def test_hyperparameters_share_one_program():
    """A sweep over step sizes traces the experiment once, whatever the number of values."""
    traced = []

    def experiment(step_size):
        traced.append(isinstance(step_size, jax.core.Tracer))
        return plain(step_size)

    run(experiment, step_size=np.linspace(0.1, 0.9, 17))
    assert sum(traced) == 1


def test_any_optax_optimiser_is_a_method():
    """Momentum and Nesterov at matching steps, Adam and a schedule all reach the target."""
    methods = {
        "momentum": lambda: optax.sgd(0.1, momentum=0.9),
        "nesterov": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
        "adam": lambda: optax.adam(0.02),
        "schedule": lambda: jf.methods.gradient_descent(optax.exponential_decay(0.9, 1000, 0.5)),
        "clipped": lambda: optax.chain(optax.clip_by_global_norm(0.1), jf.methods.gradient_descent(0.5)),
    }
    # Narrow factors, as each method is a program of its own.
    problem, start = jf.Factorization([1, 0.7], shape=(5, 4)), jf.starts.Gaussian(2, scale=0.1)
    experiments = {name: (lambda make=make: jf.Run(problem, start, make())) for name, make in methods.items()}
    runs = run(experiments, max_steps=2000, tolerance=1e-3)
    assert np.all(runs.outcome == "converged")


def test_same_bits_on_any_number_of_devices_and_threads(as_users_compile):
    """Neither is part of a run: one thread of one device gives the same bits as three where a user set two devices."""
    script = """
problem = jf.Factorization([1, 0.7], shape=(12, 9))
experiment = lambda step_size: jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), jf.methods.scaled_gd(step_size, 1e-3))
runs = jf.sweep(experiment, seeds=300, max_steps=200, tolerance=1e-6, step_size=[0.3, 0.5], devices=devices)
bits = "".join(x.hex() for x in runs.loss.values.ravel().tolist() + runs.hit.values.ravel().tolist())
"""
    assert jax.local_device_count() == 1
    here = {"jf": jf, "devices": 1}
    exec(script, here)
    two = """
import jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 2)
import jaxfact as jf
assert jax.local_device_count() == 2
devices = 3
"""
    there = subprocess.run(
        [sys.executable, "-c", f"{two}{script}print(bits, end='')"], capture_output=True, text=True, check=True
    )
    assert len(here["bits"]) > 1000
    assert here["bits"] == there.stdout


REFUSED = {
    "no seeds": ({"seeds": 0}, "seeds=0"),
    "repeated seeds": ({"seeds": [1, 1]}, "each value once"),
    "negative seed": ({"seeds": [-1]}, "0 to 2³²−1"),
    "fractional seeds": ({"seeds": [0.5]}, "whole numbers"),
    "no steps": ({"max_steps": 0}, "max_steps=0"),
    "uneven steps": ({"max_steps": 305}, "use 300"),
    "uneven records": ({"every": [5]}, "multiples of check_every"),
    "zero tolerance": ({"tolerance": 0.0}, "tolerance=0"),
    "tolerance below rounding": ({"tolerance": 1e-17}, "rounding floor"),
    "tolerances for one": ({"tolerance": {"a": 1e-3}}, "give a number"),
    "empty axis": ({"step_size": []}, "at least one value"),
    "repeated axis": ({"step_size": [0.1, 0.1]}, "each value once"),
    "words on an axis": ({"step_size": ["fast"]}, "plain numbers"),
    "nan on an axis": ({"step_size": [np.nan]}, "finite"),
    "two-dimensional axis": ({"step_size": [[0.1]]}, "one dimension"),
    "unknown axis": ({"step_size": [0.1], "speed": [1.0]}, "step_size"),
    "missing axis": ({}, "step_size"),
    "axis given twice": ({"step_size": [0.1], "axes": {"step_size": [0.2]}}, "axes=step_size: is given by keyword too"),
    "axis named like a result": ({"axes": {"step_size": [0.1], "loss": [1.0]}}, "axes=loss: .*rename"),
    "axis without a name": ({"axes": {1: [0.1]}}, "axes=1: needs names"),
    "negative step": ({"step_size": [0.1, -0.1]}, "above 0"),
}


@pytest.mark.parametrize(("options", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_input(options, words):
    if set(options) & {"seeds", "max_steps", "every", "tolerance"}:
        options = {"step_size": [0.1], **options}
    with pytest.raises(ValueError, match=words) as refusal:
        run(**options)
    assert str(refusal.value).count(";") >= 1, "says what to do instead"


WRONG = {
    "no run": (lambda: 3, "returned a int"),
    "no problem": (lambda: jf.Run(np.eye(3), START, jf.methods.gradient_descent(0.1)), "needs a Problem"),
    "no start": (lambda: jf.Run(SMALL, 0.1, jf.methods.gradient_descent(0.1)), "needs a Start or factors"),
    "no method": (lambda: jf.Run(SMALL, START, 0.1), "needs an optax transformation"),
    "wrong rows": (
        lambda: jf.Run(SMALL, jf.Factors(jnp.ones((9, 3)), jnp.ones((9, 3))), jf.methods.gradient_descent(0.1)),
        "12",
    ),
    "wrong widths": (
        lambda: jf.Run(SMALL, jf.Factors(jnp.ones((12, 3)), jnp.ones((9, 2))), jf.methods.gradient_descent(0.1)),
        "match the problem",
    ),
    "no function": (SMALL, "needs a function"),
    "no experiments": ({}, "at least one experiment"),
}


@pytest.mark.parametrize(("experiment", "words"), WRONG.values(), ids=WRONG)
def test_wrong_experiments(experiment, words):
    with pytest.raises(ValueError, match=words):
        run(experiment)


FLOORS = {
    "in the middle": ({}, 0.5, 1e-7, "float32 at step size 0.5, 2.4e-07; raise it"),
    "small step": ({}, 0.01, 1e-5, "float32 at step size 0.01, 1.2e-05"),
    "near the edge": ({}, 0.98, 5e-6, "float32 at step size 0.98, 6.0e-06"),
    "at the end of an axis": ({"step_size": [0.3, 0.99]}, 0.0, 1e-5, "float32 at step size 0.99, 1.2e-05"),
    "of a method that says nothing": ({"method": optax.adam}, 0.01, 1e-7, "float32 at step size 1, 1.2e-07"),
}


@pytest.mark.parametrize(("options", "step", "tolerance", "words"), FLOORS.values(), ids=FLOORS)
def test_a_tolerance_below_the_rounding_floor(options, step, tolerance, words):
    """Rounding stalls descent at about ⅓·ε/min(η, 1 − η); the refusal says at which step."""
    problem = jf.Factorization(np.array([1, 0.5], np.float32), shape=(4, 4))
    method = options.get("method", jf.methods.gradient_descent)
    axes = {name: values for name, values in options.items() if name != "method"}

    def experiment(step_size=step):
        return jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), method(step_size))

    with pytest.raises(ValueError, match=re.escape(f"is below three times the rounding floor of {words}")):
        run(experiment, tolerance=tolerance, **axes)


@pytest.mark.parametrize(
    ("method", "step"),
    [
        (lambda: jf.methods.gradient_descent(0.3), 0.3),
        (lambda: jf.methods.balanced(0.3, 0.2), 0.3),
        (lambda: jf.methods.perturbed(0.3, 1e-6), 0.3),
        (lambda: jf.methods.scaled_gd(0.3), 0.3),
        (lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.3)), 0.3),
        (lambda: optax.sgd(0.3, momentum=0.9), 1.0),
        (lambda: optax.adam(0.3), 1.0),
        (lambda: jf.methods.gradient_descent(lambda count: 0.3 / (1 + count)), 1.0),
        (lambda: jf.methods.alternating(0.3), 1.0),
    ],
)
def test_the_step_size_of_a_method_is_seen_in_what_it_does(method, step):
    assert step_size_of(method()) == pytest.approx(step, rel=1e-3)


def test_runs_stall_below_the_floor_and_above_a_tenth_of_it(as_users_compile):
    """At every step size; the floor of any of them would be wrong by far more at another."""
    problem = jf.Factorization(np.array([1, 0.8, 0.6], np.float32), shape=(8, 7))
    steps = [0.02, 0.1, 0.5, 0.9, 0.98]
    runs = jf.sweep(
        lambda step_size: jf.Run(problem, jf.starts.Gaussian(3, scale=0.01), jf.methods.gradient_descent(step_size)),
        seeds=40,
        max_steps=4000,
        tolerance=None,
        step_size=steps,
    )
    floors = [float(rounding_floor(np.finfo(np.float32).eps, step)) for step in steps]
    medians = runs.distance.median("seed").values
    assert np.all(medians < 1.5 * np.array(floors))
    assert np.all(medians > 0.1 * np.array(floors))


def test_progress_counts_every_run():
    seen = []
    run({"a": lambda: plain(0.3), "b": lambda: plain(0.5)}, seeds=50, progress=lambda *state: seen.append(state))
    assert seen[-1] == (100, 100)
    assert all(a[0] <= b[0] for a, b in zip(seen, seen[1:], strict=False))


def test_compensated_steps_get_below_the_rounding_floor(as_users_compile):
    """At η = 0.05 float32 stops near 4e-8/η = 8e-7; with the rounding errors carried on, near 6e-8 at any step size."""
    problem = jf.Factorization(np.array([1, 0.8, 0.6], np.float32), shape=(20, 15))
    options = {"seeds": 50, "max_steps": 3000, "tolerance": None}
    medians = {}
    for compensated in (False, True):
        runs = jf.sweep(
            lambda: jf.Run(problem, jf.starts.Gaussian(3, scale=0.05), jf.methods.gradient_descent(0.05)),
            compensated=compensated,
            **options,
        )
        medians[compensated] = float(runs.distance.median())
    assert 2e-7 < medians[False] < 2e-6
    assert medians[True] < 1.2e-7


def test_compensation_is_refused_where_noise_is():
    with pytest.raises(ValueError, match="noise hides what rounding does"):
        run(lambda: jf.Run(SMALL, START, jf.methods.perturbed(0.1, 1e-3)), tolerance=None, compensated=True)


@pytest.mark.parametrize("name", ["variant", "singular_values_0", "singular_values_path", "ye_du_A_min_path"])
@pytest.mark.parametrize("lone", [True, False])
def test_axes_leave_the_names_of_results_alone(name, lone):
    """A store's dimension `variant` is that of several experiments; records have dimensions of their own."""

    def experiment(**_):
        pytest.fail("an experiment was read")

    given = experiment if lone else {"one": experiment}
    with pytest.raises(ValueError, match=rf"^axes={name}: is the name of a variable or dimension of every result"):
        jf.sweep(given, seeds=1, max_steps=10, tolerance=None, record=["singular_values", "ye_du"], axes={name: [0, 1]})


def test_axes_are_a_mapping():
    with pytest.raises(ValueError, match=r"^axes=\['step_size'\]: needs a mapping from names to values; write it like"):
        run(plain, axes=["step_size"])
