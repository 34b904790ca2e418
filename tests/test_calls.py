"""What people write in calls: answered in the library's own words, or done; and labels that are what is computed."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact.engine.axes import axis, places_of, seed_numbers
from jaxfact.methods import base
from jaxfact.results.labels import taken_names
from jaxfact.store.differences import check_same

TARGET = jf.Factorization([1.0, 0.5], shape=(5, 4))
START = jf.starts.Gaussian(2, scale=0.1)
FACTORS = jf.Factors(0.1 * jnp.ones((5, 2)), 0.1 * jnp.ones((4, 2)))


def plain(step_size):
    """As an array a step size is data, so that runs share a program."""
    return jf.Run(TARGET, START, jf.methods.gradient_descent(jnp.asarray(step_size)))


def run(given=plain, **options):
    return jf.sweep(given, **{"seeds": 3, "max_steps": 40, "tolerance": 1e-3, "step_size": [0.3, 0.5], **options})


CALLS = {
    "seeds 5.5": ({"seeds": 5.5}, "seeds=5.5: needs a whole number, 1 or above"),
    "seeds in words": ({"seeds": "4"}, "seeds='4': needs a whole number"),
    "seeds true": ({"seeds": True}, "seeds=True: needs a whole number"),
    "seeds infinite": ({"seeds": np.inf}, "seeds=inf: needs a whole number"),
    "seeds of halves": ({"seeds": [0.5, 1]}, "needs whole numbers from 0 to 2³²−1"),
    "seeds too large": ({"seeds": [2**32]}, "needs whole numbers from 0 to 2³²−1"),
    "seeds beyond all": ({"seeds": 10**12}, "seeds=1000000000000: there are 2³² seeds"),
    "tolerance in words": ({"tolerance": "1e-3"}, "tolerance='1e-3': needs a finite number above 0"),
    "tolerance true": ({"tolerance": True}, "tolerance=True: needs a finite number above 0"),
    "base seed 2³²": ({"base_seed": 2**32}, "base_seed=4294967296: needs a whole number from 0 to 2³²−1; 0 is one"),
    "base seed negative": ({"base_seed": -1}, "base_seed=-1: needs a whole number from 0"),
    "base seed fraction": ({"base_seed": 0.5}, "base_seed=0.5: needs a whole number from 0"),
    "base seed huge": ({"base_seed": 10**30}, "needs a whole number from 0 to 2³²−1"),
    "base seed word": ({"base_seed": "1"}, "base_seed='1': needs a whole number"),
    "steps beyond": ({"max_steps": 10 * 2**31}, "steps are counted up to 2³¹−1"),
    "stride of a half": ({"every": 2.5}, "every=2.5: needs a whole number"),
    "stride in words": ({"every": "10"}, "every='10': needs a whole number or a list of steps"),
    "stride log": ({"every": "log"}, r"every='log': .*; give every=jf.log_steps\(40, unit=10\)"),
    "stride between looks": ({"every": 15}, "every=15: needs multiples of check_every=10; give every=20, or .*=5"),
    "short stride": ({"every": 3}, "every=3: needs multiples of check_every=10; give every=10, or check_every=1"),
    "steps between looks": ({"every": [0, 5, 20]}, r"every=\[5\]: .*; give every=jf.log_steps.40, unit=10., or .*=5"),
    "stride beyond": ({"every": 50}, "every=50: is beyond the last step, 40, .*; lower it, or leave it out"),
    "progress": ({"progress": "no"}, "progress='no': needs a function of two counts, True or False"),
    "no measure": ({"record": ""}, "record='': no measure has this name"),
    "record of nothing": ({"record": {"x": lambda *_: None}}, "record x=nothing: needs a number, an array, or a dict"),
    "record of words": ({"record": {"x": lambda *_: "high"}}, "record x=str: needs a number, an array, or a dict"),
    "record of one": ({"record": {"x": lambda f: f.energy}}, r"record x=a function of \(f\): needs a function of .p"),
    "record of a key": ({"record": {"x": lambda *_: jax.random.key(0)}}, "record x=a random key: needs a number"),
    "no record": ({"record": 3}, "record=3: needs names of measures"),
    "record like a result": ({"record": {"steps": jf.measures.energy}}, "record=steps: results have something else"),
    "option mistyped": ({"max_stesp": 3}, "max_stesp=3: is no axis: .*takes .step_size.; max_steps may be meant"),
    "another": ({"tolerence": 1e-3}, "tolerence=0.001: is no axis: .*; tolerance may be meant"),
    "axis mistyped": ({"stepsize": [1.0]}, r"axes=.*stepsize.*the experiment takes \(step_size\)"),
    "accept": ({"accept": "nope"}, "accept=.'nope'.: needs names among jaxfact, jax"),
    "devices": ({"devices": 0.5}, "devices=0.5: needs a whole number"),
    "tile_runs": ({"tile_runs": "9"}, "tile_runs='9': needs a whole number"),
    "masked": ({"step_size": np.ma.masked_values([0.1, 9.0], 9.0)}, "an axis has no missing values"),
    "beyond int64": ({"step_size": [2**70]}, "whole numbers need to lie below 2⁶³"),
    "unsigned": ({"step_size": np.array([2**63], np.uint64)}, "whole numbers need to lie below 2⁶³"),
    "beyond float64": ({"step_size": np.array(["1e4000"], np.longdouble)}, "is beyond the range of float64"),
    "equal in another dtype": ({"step_size": np.array([0.1, 0.1 + 1e-19], np.longdouble)}, "each value once"),
    "thirty-three dimensions": (
        {"axes": {f"a{i}": [1.0] for i in range(30)}, "given": lambda **_: pytest.fail("an experiment was read")},
        "results would have 33 dimensions; 32 in all",
    ),
    "too many runs": (
        {"axes": {f"a{i}": [1.0, 2.0] for i in range(29)}, "given": lambda **_: pytest.fail("an experiment was read")},
        "runs are more than memory may hold",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_calls_are_answered_in_own_words(case):
    options, message = CALLS[case]
    with pytest.raises(ValueError, match=message) as refusal:
        run(**options)
    assert "\n" not in str(refusal.value)


LACKING = {
    "sweep": (
        lambda: jf.sweep(plain, seeds=3, max_stesp=3, tolerance=1),
        "lacks max_steps; max_stesp may be meant to be",
    ),
    "nothing": (lambda: jf.sweep(), "lacks experiment, seeds, max_steps, tolerance"),
    "compare": (lambda: jf.compare(TARGET, seeds=5), "no argument seeds; give settings=ComparisonSettings.seeds=5."),
    "complete": (lambda: jf.complete(np.eye(3), width=2), "no argument width; give settings=RecoverySettings.width=2."),
    "descend": (lambda: jf.descend(TARGET, jf.methods.gradient_descent(0.1), FACTORS), "lacks num_steps"),
    "by place": (lambda: jf.descend(TARGET, jf.methods.gradient_descent(0.1), FACTORS, 5), "lacks num_steps"),
    "replay": (lambda: jf.replay("a.zarr"), "lacks seed"),
    "sensing": (
        lambda: jf.Sensing.of(TARGET, 9, 3),
        r"Sensing.of\(…\): takes truth, operator by place; give the others by name",
    ),
    "completion": (lambda: jf.Completion(np.eye(3)), r"Completion\(…\): lacks columns, values, shape; see help"),
    "phase": (
        lambda: jf.phase_diagram(plain, seed=3, max_steps=3, tolerance=1),
        "lacks seeds; seed may be meant to be",
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_calls_that_lack_something_say_what(case):
    call, message = LACKING[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_whole_numbers_may_be_written_as_floats():
    """One rule everywhere: 1e1 is ten."""
    assert seed_numbers(1e1).tolist() == list(range(10))
    assert seed_numbers(np.array([2.0, 7.0])).tolist() == [2, 7]
    usual = run(seeds=3, every=20)
    floats = run(seeds=3.0, every=20.0, max_steps=40.0, check_every=10.0, base_seed=0.0, devices=1.0, tile_runs=1e3)
    times = ["compile_seconds", "run_seconds"]
    xr.testing.assert_equal(usual.drop_vars(times), floats.drop_vars(times))
    assert jf.starts.Gaussian(2.0, scale=0.1).width == 2
    assert type(jf.ComparisonSettings(seeds=1e3).seeds) is int
    assert jf.log_steps(64.0) == jf.log_steps(64)


@pytest.mark.parametrize("base", [1, 2**31, 2**32 - 1])
def test_base_seeds_differ(base):
    assert not np.any(run(base_seed=base).distance.values == run().distance.values)


SINGLE = {
    "beyond": ([1e39], "step_size=1e.39: is out of the range of float32"),
    "vanishing": ([1e-50, 0.1], "step_size=1e-50: is out of the range of float32"),
    "subnormal": ([1e-40], "out of the range of float32"),
    "twins": ([0.1, 0.1 + 1e-10], "are the same number in float32"),
    "whole twins": ([2.0**24, 2.0**24 + 1], "are the same number in float32"),
    "wrapping": ([2**31], "step_size=2147483648: is out of the range of int32"),
    "wrapping far": ([5 * 10**9], "out of the range of int32"),
    "wrapping below": ([-(2**31) - 1], "out of the range of int32"),
}


@pytest.mark.parametrize("case", SINGLE)
def test_labels_are_what_single_precision_can_tell_apart(case):
    values, message = SINGLE[case]
    with pytest.raises(ValueError, match=message):
        axis("step_size", values, x64=False)
    assert axis("step_size", values, x64=True).tolist() == values


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u4", "f2", "f4"])
def test_short_numbers_do_not_wrap_in_an_experiment(kind):
    """100·100 is 10000, whatever the array held the 100 in; 64 bits here."""
    seen = []

    def squared(m):
        seen.append((m * m).item() if not isinstance(m, jax.core.Tracer) else None)
        return plain(0.3)

    jf.sweep(squared, seeds=1, max_steps=10, tolerance=1e-3, m=np.array([100], kind))
    assert seen[0] == 10000


WRONG_SHAPES = [4, (3.5, 3), (-3, 3), "33", (3, 3, 3), (2**63, 2)]


@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_a_shape_is_two_whole_numbers(shape):
    """Where it was read as one, 3.5 became 3, and a size beyond 2³¹ ended in an overflow when the start was drawn."""
    for make in (lambda: jf.Factorization([1.0], shape=shape), lambda: jf.Completion([0], [0], [1.0], shape)):
        with pytest.raises(ValueError, match="shape=.*: needs two whole numbers above 0"):
            make()


def test_static_sizes_beyond_32_bits_need_double_precision():
    with jax.enable_x64(False), pytest.raises(ValueError, match="sizes are counted below 2³¹ in single precision"):
        jf.Factorization([1.0], shape=(2**31, 5))
    with jax.enable_x64(True):
        assert jf.Factorization([1.0], shape=(2**31, 5)).rows == (2**31, 5)


def test_a_problem_of_double_precision_is_not_swept_in_single():
    with jax.enable_x64(True):
        problem = jf.Factorization(np.eye(3))
    with jax.enable_x64(False), pytest.raises(ValueError, match="Run.problem=float64: was made in double precision"):
        jf.sweep(
            lambda step_size: jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(step_size)),
            seeds=2, max_steps=10, tolerance=1e-3, step_size=[0.1],
        )  # fmt: skip


@pytest.mark.parametrize("kind", [np.float32, np.array, jnp.asarray])
def test_a_tolerance_may_be_a_number_of_any_library(kind):
    """It goes into the attributes, which are JSON: NumPy's single precision once ended a sweep after its last run."""
    runs = jf.sweep(plain, seeds=1, max_steps=10, tolerance=kind(0.25), step_size=[0.1])
    assert runs.attrs["tolerance"] == 0.25


def test_an_update_is_not_broadcast():
    with pytest.raises(
        ValueError, match=r"Run.method=.*: returns \(1, 2\), \(4, 2\); return arrays of the shapes \(5, 2"
    ):
        jf.descend(TARGET, lambda gradient, factors: (gradient.U[:1], gradient.V), FACTORS, num_steps=1)


def test_sizes_are_added_beyond_32_bits():
    """A start of norm 1 has that norm also where the sum of two sizes of 32 bits does not fit into as many."""

    def sizes(m):
        problem = jf.Factorization(np.array([1.0], np.float32), shape=(m, m))
        return jf.Run(problem, jf.starts.Gaussian(1, norm=1.0), jf.methods.gradient_descent(0.1))

    with jax.enable_x64(False):
        runs = jf.sweep(sizes, seeds=2, max_steps=10, tolerance=None, record="energy", every=10, m=[1000, 2 * 10**9])
    # ‖U‖² + ‖V‖² has mean 1 and relative deviation 1/√m.
    np.testing.assert_allclose(runs.energy_path.isel(step=0), 1, atol=0.15)
    np.testing.assert_allclose(runs.energy_path.sel(step=0, m=2 * 10**9), 1, atol=1e-3)


NAMES = sorted(taken_names() - {"variant"}) + ["tiles", "variant"]


@pytest.mark.parametrize("name", NAMES)
def test_axes_leave_the_names_of_results_alone(name):
    with pytest.raises(ValueError, match=f"^axes={name}: is the name of a variable or dimension"):
        jf.sweep(
            lambda **_: pytest.fail("an experiment was read"), seeds=1, max_steps=10, tolerance=1, axes={name: [1.0]}
        )


def test_names_that_are_taken_are_those_that_results_have(tmp_path):
    """Whatever a result holds besides axes and records is taken."""
    tall = jf.Sensing.of(TARGET, jf.operators.gaussian(jax.random.key(0, impl="threefry2x32"), (5, 4), 30))
    sensed = jf.sweep(
        lambda: jf.Run(tall, START, jf.methods.gradient_descent(0.1)), seeds=1, max_steps=10, tolerance=1e-3
    )
    stored = jf.sweep(
        {"a": plain}, seeds=1, max_steps=10, tolerance=1e-3, every=10, step_size=[0.3], store=tmp_path / "a"
    )
    for runs in (sensed, stored):
        records = {name for name in runs.variables if str(name).endswith("_path")}
        assert {*runs.variables, *runs.dims} - records - {"step_size"} <= taken_names()
    assert {"misfit", "imbalance", "step", "variant"} <= taken_names()


@pytest.mark.parametrize("name", ["converged", "threshold", "fitted_low", "level"])
def test_a_phase_diagram_keeps_its_names(name):
    with pytest.raises(ValueError, match=f"^axes={name}: is the name of a variable"):
        jf.phase_diagram(plain, seeds=1, max_steps=10, tolerance=1e-3, axes={"step_size": [0.1], name: [1.0]})


def test_a_parameter_may_be_renamed_and_axes_swapped():
    """The program of an earlier call has the same text and other names."""

    def one(step_size, scale):
        return jf.Run(TARGET, jf.starts.Gaussian(2, scale=scale), jf.methods.gradient_descent(step_size))

    options = {"seeds": 2, "max_steps": 40, "tolerance": 1e-3}
    first = jf.sweep(one, **options, step_size=[0.3], scale=[0.1])
    for names in (("eta", "scale"), ("scale", "step_size")):

        def renamed(names=names, **given):
            return one(given[names[0]], given[names[1]])

        swapped = jf.sweep(renamed, **options, axes={names[1]: [0.1], names[0]: [0.3]})
        np.testing.assert_array_equal(swapped.loss.values, first.loss.values)
    for record in ({"p": "energy"}, {"q": "energy"}):
        assert f"{next(iter(record))}_path" in run(record=record, every=20)


def test_contexts_of_jax_reach_the_threads():
    """x64, matmul precision and the default device are settings of the thread that calls."""
    matrix = np.diag([2.0, 1.0, 0.5])

    def single(step_size):
        return jf.Run(jf.Factorization(matrix), START, jf.methods.gradient_descent(step_size))

    with jax.enable_x64(False):
        assert run(single, step_size=[0.3]).loss.dtype == np.float32
        with jax.enable_x64(True):
            assert run(single, step_size=[0.3]).loss.dtype == np.float64
        with jax.default_matmul_precision("high"):
            assert run(single, step_size=[0.3]).attrs["matmul_precision"] == "high"
        # Where nothing is chosen, float32 products are not rounded to TF32 on a GPU.
        assert run(single, step_size=[0.3]).attrs["matmul_precision"] == "highest"
    last = jax.local_devices()[-1]
    with jax.default_device(last):
        runs = run(single, step_size=[0.3])
    np.testing.assert_array_equal(runs.loss, run(single, step_size=[0.3]).loss)


def test_equal_values_are_the_same_runs_in_a_store(tmp_path):
    """In single precision 0.30000000000000004, and 0.3 of 32 bits, are what 0.3 is; labels are those asked for."""
    path = tmp_path / "grid.zarr"
    problem = jf.Factorization(np.array([1, 0.5], np.float32), shape=(5, 4))

    def single(step_size):
        return jf.Run(problem, START, jf.methods.gradient_descent(step_size))

    def stored(values):
        return jf.sweep(single, seeds=2, max_steps=40, tolerance=1e-3, store=path, step_size=values)

    with jax.enable_x64(False):
        first = stored([0.1, 0.2, 0.3]).load()
        for values in (np.arange(0.1, 0.35, 0.1), np.array([0.3, 0.1], "f4"), np.array([0.2], np.longdouble)):
            again = stored(values)
            assert jf.status(path).runs == 6
            assert again.step_size.values.tolist() == values.astype(float).tolist()
            places = places_of(values.astype(float), first.step_size.values, x64=False)
            np.testing.assert_array_equal(again.loss, first.loss[places])
        assert stored([0.1, 1]).sizes["step_size"] == 2  # whole numbers beside fractions are fractions
        assert jf.status(path).runs == 8
        assert stored([1]).loss.shape == (1, 2)
        assert jf.replay(path, seed=1, step_size=np.float32(0.3), experiment=single).run.step_size == 0.3
        with pytest.raises(ValueError, match="is not one of the 4"):
            jf.replay(path, seed=1, step_size=0.31, experiment=single)


def test_a_fraction_is_refused_where_a_store_has_whole_numbers(tmp_path):
    steps = jnp.array([0.1, 0.3, 0.5])
    options = {"seeds": 1, "max_steps": 10, "tolerance": 1e-3, "store": tmp_path / "a.zarr"}
    jf.sweep(lambda which: plain(steps[which]), **options, which=[0, 1])
    with pytest.raises(ValueError, match="which=.*: the axis has whole numbers"):
        jf.sweep(lambda which: plain(steps[which]), **options, which=[0.5])


def test_nothing_is_made_before_a_mistake_is_found(tmp_path):
    for wrong in ({"accept": ["nope"]}, {"progress": 1}, {"base_seed": -1}, {"step_size": [np.nan]}):
        with pytest.raises(ValueError, match="; "):
            run(**{"store": tmp_path / "a.zarr", **wrong})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "after"), [("device", "last bits that may"), ("program", "new runs of the experiment")]
)
def test_what_may_be_accepted_is_told_with_what_it_changes(name, after):
    with pytest.raises(ValueError, match=rf"accept=\['{name}'\] goes on, with {after}"):
        check_same(Path("a.zarr"), {name: "old"}, {name: "new"}, ())


def test_records_without_steps_are_those_of_the_end():
    """Under the measure's own name, with no dimension of steps; the number that a path would end in."""
    ends = run(record=["energy", "ye_du", "loss"])
    paths = run(record=["energy", "ye_du", "loss"], every=40)
    assert ends.energy.dims == ("step_size", "seed")
    assert "step" not in ends.dims
    np.testing.assert_allclose(ends.energy, paths.energy_path.isel(step=-1), rtol=1e-12)
    np.testing.assert_allclose(ends.ye_du_B, paths.ye_du_B_path.isel(step=-1), rtol=1e-12)
    assert ends.energy.attrs["units"] == paths.energy_path.attrs["units"] == "σ₁"
    np.testing.assert_array_equal(ends.loss, run().loss)
    assert {str(name).partition("_")[0] for name in set(ends.data_vars) - set(run().data_vars)} == {"energy", "ye"}
    wild = run(record=["energy", "ye_du", "loss"], step_size=[0.3, 9.0])
    np.testing.assert_array_equal(np.isinf(wild.energy), wild.outcome == "diverged")
    assert np.any(np.isinf(wild.energy))
    last = jf.descend(TARGET, jf.methods.gradient_descent(0.1), FACTORS, num_steps=7, record=jf.measures.energy)
    assert last.steps.tolist() == [7]
    np.testing.assert_allclose(last.records["energy"], [last.factors.energy], rtol=1e-15)


def branches(step_size):
    if step_size < 1:
        return plain(step_size)
    return plain(0.5)


UNTRACEABLE = {
    "if": (branches, r"experiment=branches, line \d+: decides by the value of an axis.*; use jax.numpy.where"),
    "min": (lambda step_size: plain(min(step_size, 1)), "decides by the value of an axis"),
    "numpy": (lambda step_size: plain(np.sqrt(step_size)), "hands an axis to NumPy.*; use the function of jax.numpy"),
    "float": (lambda step_size: plain(float(step_size)), "makes a Python number of an axis"),
    "range": (lambda step_size: plain(sum(0.1 for _ in range(step_size))), "counts or looks up with an axis"),
    "size": (lambda step_size: plain(jnp.sum(jnp.ones(step_size)) / 9), "makes an array whose size is an axis"),
    "list": (lambda step_size: plain([0.1, 0.2, 0.3][step_size]), "counts or looks up with an axis"),
}


UNTRACEABLE_MEASURES = {
    "numpy": (lambda _, factors: np.linalg.norm(factors.U), "hands the factors to NumPy"),
    "numpy's decompositions": (lambda _, factors: np.linalg.svd(factors.U)[1], "hands the factors to NumPy"),
    "if": (lambda _, factors: 1.0 if factors.U[0, 0] > 0 else 0.0, "decides by the value of the factors"),
}


@pytest.mark.parametrize("case", UNTRACEABLE_MEASURES)
def test_a_measure_that_cannot_be_traced_is_named(case):
    """In a sweep and in one run; what JAX has to say of it is the cause."""
    measure, message = UNTRACEABLE_MEASURES[case]
    method = jf.methods.gradient_descent(0.1)
    for call in (
        lambda: run(record={"mine": measure}),
        lambda: jf.descend(TARGET, method, FACTORS, num_steps=1, record={"mine": measure}),
    ):
        with pytest.raises(ValueError, match=rf"^record mine=<lambda>, line \d+: {message}.*; use ") as refusal:
            call()
        assert isinstance(refusal.value.__cause__, TypeError)


def test_a_method_that_cannot_be_traced_is_named():
    """By the name and the line of the user's function, and not of what makes a method of it."""

    def mine(gradient, _):
        return jax.tree.map(np.sqrt, gradient)

    line = mine.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match=rf"^method=mine, line {line}: hands gradient or factors to NumPy"):
        run(lambda step_size: plain(step_size)._replace(method=mine))


@pytest.mark.parametrize("case", UNTRACEABLE)
def test_what_cannot_be_traced_is_said_with_its_line(case):
    given, message = UNTRACEABLE[case]
    with pytest.raises(ValueError, match=message) as refusal:
        run(given, step_size=[1, 2])
    assert "\n" not in str(refusal.value)
    assert "line " in str(refusal.value)


GENERATOR = np.random.default_rng(0)
OUTSIDE = {
    "legacy": lambda: jf.Run(
        TARGET,
        tuple(np.random.normal(size=(k, 2)) for k in (5, 4)),  # noqa: NPY002
        jf.methods.gradient_descent(0.1),
    ),
    "generator": lambda: plain(0.1 * GENERATOR.uniform(0.9, 1)),
    "fresh": lambda: plain(0.3)._replace(
        start=jf.Factors(*(np.random.default_rng().normal(size=(k, 2)) for k in (5, 4)))
    ),
    "random": lambda: plain(0.1 * random.random()),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_random_numbers_from_outside_are_warned_of(case):
    with pytest.warns(UserWarning, match="another each time it is called.*draw from a parameter `key`"):
        jf.sweep(OUTSIDE[case], seeds=1, max_steps=10, tolerance=1e-3)


def test_seeded_numbers_are_not_warned_of():
    """Nor is a problem with NaN, which is not equal to itself; warnings are errors here."""
    matrix = np.random.default_rng(0).normal(size=(5, 4))
    jf.sweep(
        lambda: jf.Run(jf.Factorization(matrix), START, jf.methods.gradient_descent(0.1)),
        seeds=1,
        max_steps=10,
        tolerance=1e-3,
    )


def test_a_bare_function_is_a_method():
    """It returns what is added: with −η∇ it is gradient descent, in a sweep and in one run; a plain pair is factors."""

    def bare(step_size):
        return plain(step_size)._replace(
            method=lambda gradient, factors: (-step_size * gradient.U, -step_size * gradient.V)
        )

    np.testing.assert_allclose(run(bare).loss, run().loss, rtol=1e-12)
    pair = (np.asarray(FACTORS.U), np.asarray(FACTORS.V))
    one = jf.descend(TARGET, lambda gradient, _: jax.tree.map(lambda x: -0.3 * x, gradient), pair, num_steps=5)
    two = jf.descend(TARGET, jf.methods.gradient_descent(0.3), FACTORS, num_steps=5)
    np.testing.assert_allclose(one.factors.U, two.factors.U, rtol=1e-15)
    swept = jf.sweep(lambda: plain(0.3)._replace(start=pair), seeds=1, max_steps=10, tolerance=None)
    ten = jf.descend(TARGET, jf.methods.gradient_descent(0.3), FACTORS, num_steps=10)
    np.testing.assert_allclose(swept.loss, TARGET.loss(ten.factors), rtol=1e-12)


NO_METHODS = {
    "not called": (jf.methods.gradient_descent, "method=gradient_descent: is no transformation yet"),
    "optax not called": (optax.adam, "method=adam: returns a GradientTransformation.* call adam first"),
    "number": (0.1, "method=0.1: needs an optax transformation"),
    "nothing": (lambda gradient, factors: None, "returns a NoneType where what is added"),
    "half": (lambda gradient, factors: gradient.U, "returns one array, of shape .5, 2., where what is added"),
    "three arguments": (lambda a, b, c: a, "nor a function of .gradient, factors."),
}


def test_an_installed_copy_is_told_from_jax_beside_it():
    """In site-packages the folder of jax begins as that of jaxfact does, and a frame of ours is none of JAX's."""
    beside = Path(str(jax.__file__)).parent.with_name("jaxfact") / "methods" / "base.py"
    assert not str(beside).startswith(base._JAX)
    assert str(jax.__file__).startswith(base._JAX)


@pytest.mark.parametrize("case", NO_METHODS)
def test_what_is_no_method(case):
    method, message = NO_METHODS[case]
    with pytest.raises(ValueError, match=message):
        jf.descend(TARGET, method, FACTORS, num_steps=2)


NO_FACTORS = {
    "swapped": (
        jf.Factors(FACTORS.V, FACTORS.U),
        r"U \(4, 2\), V \(5, 2\): needs U \(5, 2\), V \(4, 2\); U and V are swapped",
    ),
    "widths": (jf.Factors(FACTORS.U, FACTORS.V[:, :1]), "match the problem's shape"),
    "rows": ((np.ones((6, 2)), np.ones((4, 2))), r"needs U \(5, 2\), V \(4, 2\)"),
    "start": (START, "factors=Gaussian: needs the factors of the problem; give jaxfact.Factors.U, V., or start.draw"),
    "array": (np.ones((5, 2)), "factors=ndarray: needs the factors"),
    "three": ((FACTORS.U, FACTORS.V, FACTORS.U), "factors=tuple: needs the factors"),
}


@pytest.mark.parametrize("case", NO_FACTORS)
def test_what_are_no_factors(case):
    factors, message = NO_FACTORS[case]
    with pytest.raises(ValueError, match=message):
        jf.descend(TARGET, jf.methods.gradient_descent(0.1), factors, num_steps=2)


OPTIMISERS = {
    "lbfgs": lambda: optax.lbfgs(),
    "polyak": lambda: optax.polyak_sgd(),
    "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    "backtracking that keeps": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15, store_grad=True)
    ),
    "zoom": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_zoom_linesearch(15)),
    "plateau": lambda: optax.chain(optax.sgd(0.3), optax.contrib.reduce_on_plateau()),
    "momo": lambda: optax.contrib.momo(0.3),
    "sam": lambda: optax.contrib.sam(optax.sgd(0.3), optax.sgd(0.01), opaque_mode=True),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_that_look_at_the_loss(name):
    """All of them end far below where they began, in one run and in the sweep, which agree."""
    made = OPTIMISERS[name]
    end = jf.descend(TARGET, made(), FACTORS, num_steps=60)
    assert TARGET.loss(end.factors) < 0.25 * TARGET.loss(FACTORS)
    if name in ("lbfgs", "polyak"):
        runs = jf.sweep(lambda: jf.Run(TARGET, FACTORS, made()), seeds=1, max_steps=60, tolerance=None)
        np.testing.assert_allclose(runs.loss[0], TARGET.loss(end.factors), rtol=1e-3, atol=1e-12)


ALIASES = [
    "adabelief", "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamaxw", "adamw", "adan", "amsgrad", "fromage",
    "lamb", "lars", "lion", "nadam", "nadamw", "novograd", "optimistic_gradient_descent", "radam", "rmsprop", "rprop",
    "sgd", "sign_sgd", "sm3", "yogi",
]  # fmt: skip


@pytest.mark.parametrize("name", ALIASES)
def test_every_optimiser_takes_a_step(name):
    """The same that optax takes by itself."""
    method = getattr(optax, name)(0.01)
    gradient = TARGET.gradient(FACTORS)
    wanted = optax.apply_updates(FACTORS, method.update(gradient, method.init(FACTORS), FACTORS)[0])
    found = jf.descend(TARGET, method, FACTORS, num_steps=1).factors
    np.testing.assert_allclose(found.U, wanted.U, rtol=1e-12)


def test_an_optimiser_that_cannot_be_run_is_named():
    for method, name in (
        (optax.contrib.differentially_private_aggregate(1.0, 1.0, key=0), "per_example_global_norm_clip"),
        (optax.chain(optax.clip(1.0), optax.contrib.sam(optax.sgd(0.3), optax.sgd(0.01))), "chain"),
    ):
        with pytest.raises(ValueError, match=rf"method=optax's {name}: cannot be run here"):
            jf.descend(TARGET, method, FACTORS, num_steps=1)


@pytest.mark.parametrize("variants", [False, True])
def test_results_in_memory_can_be_written_by_others(tmp_path, variants):
    runs = run({"a": plain, "b": plain} if variants else plain, record="energy", every=20)
    for engine in ("h5netcdf", "scipy"):
        runs.to_netcdf(tmp_path / f"{engine}.nc", engine=engine)
        with xr.open_dataset(tmp_path / f"{engine}.nc", engine=engine) as found:
            np.testing.assert_array_equal(found.loss, runs.loss)
            assert json.loads(found.attrs["axes"]) == ["step_size"]
            assert found.attrs["base_seed"] == 0
    assert json.loads(json.dumps(runs.attrs)) == runs.attrs
    jf.write_results(runs, tmp_path / "a.zarr")
    opened = jf.open_results(tmp_path / "a.zarr")
    opened.drop_encoding().to_netcdf(tmp_path / "again.nc", engine="h5netcdf")


def test_a_dataset_in_memory_is_replayed():
    """Also a part of it; its start is one call, with the bits of the replay, and goes on in `descend`."""
    runs = run({"a": plain, "slow": lambda step_size: plain(0.5 * step_size)}, seeds=[5, 17])
    found = jf.replay(runs, seed=17, variant="slow", step_size=0.5)
    part = runs.sel(variant="slow", step_size=0.5)
    np.testing.assert_array_equal(jf.replay(part, seed=17, variant="slow").loss, found.loss)
    np.testing.assert_array_equal(jf.replay(part, seed=17).loss, found.loss)  # the only variant needs no name
    problem, factors, method = jf.draw(part.copy(deep=True), seed=17, variant="slow")
    np.testing.assert_array_equal(factors.U, found.factors.U[0])
    last = jf.descend(problem, method, factors, num_steps=int(found.steps[-1])).factors
    np.testing.assert_allclose(last.U, found.factors.U[-1], rtol=1e-10)
    with pytest.raises(ValueError, match="axes=no value: the runs have step_size; give one value of each"):
        jf.replay(runs, seed=17, variant="slow")
    with pytest.raises(ValueError, match="is not the dataset of a sweep"):
        jf.replay(xr.Dataset(), seed=17)


FILE = """import sys
import numpy as np
import jaxfact as jf
TARGET = jf.Factorization([1.0, 0.5], shape=(5, 4))
def leaves(step_size):
    sys.exit(3)
def deep(step_size):
    return deep(step_size)
def misspelt(step_size):
    return jf.Rum(TARGET, step_size)
def unnamed(step_size):
    return nothing_of_this_name
def refuses(step_size):
    raise ValueError("not today")
def wrong(step_size):
    return jf.Run(TARGET, jf.starts.Gaussian(0, scale=1.0), jf.methods.gradient_descent(step_size))
def asserts(step_size):
    assert False, "on purpose"
def shapes(step_size):
    return np.ones((2, 3)) @ np.ones((2, 3))
"""
LINES = {
    "leaves": "line 6 raised SystemExit: 3",
    "deep": "line 8 raised RecursionError",
    "misspelt": "line 10 raised AttributeError: .*Rum",
    "unnamed": "line 12 raised NameError: .*nothing_of_this_name",
    "refuses": "line 14 raised ValueError: not today",
    "wrong": "line 16: width=0: needs a whole number, 1 or above",
    "asserts": "line 18 raised AssertionError: on purpose",
    "shapes": "line 20 raised ValueError: matmul",
}


@pytest.mark.parametrize("name", LINES)
def test_a_file_of_experiments_is_blamed_by_its_line(call, tmp_path, name):
    (tmp_path / "file.py").write_text(FILE)
    code, out, err = call("sweep", f"file.py:{name}", "--store", "a.zarr", "--axis", "step_size=0.1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("jaxfact: ")
    assert re.search(f"file.py.*{LINES[name]}", err)
    assert not (tmp_path / "a.zarr").exists()


BEFORE = {
    "--seeds 0": "seeds=0: needs a whole number",
    "--base-seed -1": "base_seed=-1: needs a whole number from 0",
    "--base-seed 4294967296": "base_seed=4294967296: needs a whole number from 0",
    "--max-steps 15": "max_steps=15: needs a multiple",
    "--every 3": "needs multiples of check_every",
    "--every often": "--every=often: needs a whole number or log",
    "--accept nope": "accept=['nope']: needs names among",
    "--tolerance -1": "tolerance=-1: needs a finite number above 0",
    "--axis step_size=1e39": "out of the range of float32",
    "--axis step_size=0.1,0.1": "an axis needs each value once",
}


def test_what_needs_no_jax_is_answered_before_it_loads(tmp_path):
    """All in one process, whose modules are looked at in the end."""
    (tmp_path / "file.py").write_text("def f(step_size): ...\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    script = """
import json, sys, contextlib, io
from jaxfact.cli.main import main
said = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["jaxfact", *words.split()]
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.suppress(SystemExit):
        main()
    said[words] = error.getvalue()
print(json.dumps([said, "jax" in sys.modules]))
"""
    asked = {f"sweep file.py:f --store a.zarr {options}": words for options, words in BEFORE.items()}
    asked |= {
        "sweep no.py:f --store a.zarr": "no.py is not a Python file",
        "sweep broken.py:f --store a.zarr": "SyntaxError",
    }
    asked |= {
        "replay nowhere --seed 1": "is not the store of a sweep",
        "replay file.py --seed 1 a=1 a=2": "a is given twice",
    }
    ended = subprocess.run(
        [sys.executable, "-c", script, json.dumps(list(asked))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    said, loaded = json.loads(ended.stdout)
    for words, wanted in asked.items():
        assert wanted in said[words]
        assert said[words].count("\n") == 1
    assert not loaded
    assert not (tmp_path / "a.zarr").exists()


def test_the_package_is_a_command():
    ended = subprocess.run([sys.executable, "-m", "jaxfact", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == jf.version.__version__


def test_a_command_that_fails_is_left_out(monkeypatch, call, tmp_path):
    """The others are there, and its file is named in one line."""
    from jaxfact import cli

    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "unlucky.py").write_text("raise KeyError('why')\n")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path / "more")])
    code, out, err = call("--version")
    assert (code, out.strip()) == (0, jf.version.__version__)
    assert "jaxfact.cli.unlucky is left out, which fails (KeyError: 'why')" in err


def test_nan_is_a_result_whatever_jax_is_told_to_debug():
    with jax.debug_nans(True), jax.debug_infs(True):
        runs = run(step_size=[0.3, 3.0])
    assert (runs.outcome.sel(step_size=3.0) == "diverged").all()
    assert (runs.outcome.sel(step_size=0.3) != "diverged").all()
