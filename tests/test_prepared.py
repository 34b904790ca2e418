"""Experiments that are read and compiled once: the same results as a sweep's, and read again where anything changed."""

import gc
import pickle
import weakref

import jax
import numpy as np
import pytest
import xarray as xr
from compilation import as_for_users
from runs import NARROW, descent

import jaxfact as jf
from jaxfact.engine import program
from jaxfact.sweep import parts

SETTINGS = {"max_steps": 200, "tolerance": 1e-3, "every": 50}
TIMES = ["compile_seconds", "run_seconds"]
SCALE = 0.1


def experiment(step_size, scale):
    return jf.Run(NARROW, jf.starts.Gaussian(2, scale=scale), jf.methods.gradient_descent(step_size))


@pytest.fixture(scope="module")
def prepared() -> jf.Prepared:
    return jf.prepare(experiment, **SETTINGS, step_size=[0.1, 1.0], scale=0.1)


@pytest.fixture(autouse=True)
def forgotten():
    """Let no test profit from what another has read."""
    parts._remembered.clear()


@pytest.fixture
def readings(monkeypatch) -> list:
    """Return a list to which every reading of an experiment is added."""
    found, begin = [], parts.Part.__init__

    def counted(self, *arguments):
        found.append(arguments)
        begin(self, *arguments)

    monkeypatch.setattr(parts.Part, "__init__", counted)
    return found


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Bit for bit, with all attributes but the date."""
    xr.testing.assert_identical(
        found.drop_vars(TIMES).drop_attrs(deep=False), expected.drop_vars(TIMES).drop_attrs(deep=False)
    )
    assert found.attrs.keys() == expected.attrs.keys()
    assert [name for name in found.attrs if found.attrs[name] != expected.attrs[name]] in ([], ["date"])


def swept(**options):
    return jf.sweep(experiment, **{**SETTINGS, "seeds": 5, "step_size": [0.2, 0.6], "scale": [0.1, 0.3], **options})


def test_a_call_is_a_sweep(prepared):
    """The same dataset, nothing compiled: other seeds, other values, as many of them as are wanted."""
    before = program._compiled.cache_info().misses
    assert_same(prepared(5, step_size=[0.2, 0.6], scale=[0.1, 0.3]), swept())
    assert_same(prepared([7, 3], step_size=[0.9], scale=[0.2]), swept(seeds=[7, 3], step_size=[0.9], scale=[0.2]))
    assert program._compiled.cache_info().misses == before
    found = prepared(300, step_size=np.linspace(0.1, 1, 10), scale=[0.1])
    assert found.sizes["step_size"] == 10
    assert program._compiled.cache_info().misses == before
    assert repr(prepared) == "Prepared(seeds, step_size=[0.1, 1.0], scale=0.1)"
    assert ">step_size=[0.1, 1.0], scale=0.1</td>" in prepared._repr_html_()


def test_one_number_is_a_coordinate(prepared):
    """As xarray's `sel` does: no dimension, from a sweep too, and its runs can be replayed."""
    found = prepared(5, step_size=0.6)
    assert found.distance.dims == ("seed",)
    assert found.step_size.item() == 0.6
    assert found.scale.item() == prepared.axes["scale"] == 0.1
    expected = swept(step_size=[0.6], scale=[0.1]).isel(step_size=0, scale=0)
    assert_same(found, expected)
    assert_same(swept(step_size=0.6, scale=np.float64(0.1)), expected)
    again = jf.replay(found, seed=3)
    assert again.loss[-1] == found.loss.sel(seed=3)


def test_values_have_defaults_and_names(prepared):
    found = prepared(5, axes={"scale": [0.2]})
    assert found.step_size.values.tolist() == [0.1, 1.0]
    assert found.scale.values.tolist() == [0.2]


def test_a_store_holds_the_same_runs(prepared, tmp_path):
    """What a call begins a sweep continues, and the other way round."""
    first = prepared(3, step_size=[0.2, 0.6], scale=[0.1, 0.3], store=tmp_path / "a.zarr")
    whole = swept(store=tmp_path / "a.zarr")
    again = prepared(5, step_size=0.6, scale=[0.1, 0.3], store=tmp_path / "a.zarr")
    names = [name for name in swept().data_vars if name not in TIMES]
    for name in names:
        np.testing.assert_array_equal(whole[name], swept()[name], err_msg=name)
        np.testing.assert_array_equal(first[name], whole[name].isel(seed=slice(3)) if name != "tolerance" else 1e-3)
    np.testing.assert_array_equal(again.loss, whole.loss.sel(step_size=0.6))


def test_variants_are_prepared_together():
    both = {"plain": descent(0.1, 2, NARROW), "other": descent(0.3, 2, NARROW)}
    tolerance = {"plain": 1e-3, "other": 1e-2}
    reported = []
    prepared = jf.prepare(both, max_steps=200, tolerance=tolerance, step_size=[0.3])
    found = prepared(4, step_size=[0.4, 0.5], progress=lambda done, total: reported.append((done, total)))
    assert_same(found, jf.sweep(both, seeds=4, max_steps=200, tolerance=tolerance, step_size=[0.4, 0.5]))
    assert reported[-1] == (16, 16)


def test_values_out_of_range_are_refused(prepared):
    """Between values that were in range the experiment is not called; beyond them it is, as a sweep calls it."""
    called = []

    def counted(step_size):
        called.append(1)
        return jf.Run(NARROW, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(step_size))

    ready = jf.prepare(counted, max_steps=20, tolerance=None, step_size=[0.1, 0.9])
    once = ready(2, step_size=0.3)  # the first other point tells that the problem is the same there
    before = len(called)
    assert_same(ready(2, step_size=0.3), once)
    ready(2, step_size=[0.5, 0.2])
    assert len(called) == before
    with pytest.raises(ValueError, match="step_size=-1: needs a finite number above 0"):
        ready(2, step_size=[0.3, -1.0])
    with pytest.raises(ValueError, match="step_size=-1: needs a finite number above 0"):
        ready(2, step_size=[0.3, -1.0])
    assert len(called) > before
    ready(2, step_size=[0.3, 1.1])
    with pytest.raises(ValueError, match="rounding floor"):
        jf.prepare(counted, max_steps=20, tolerance=1e-12, step_size=[0.5])(2, step_size=1e-6)


def test_an_array_that_is_changed_afterwards_has_no_effect():
    """Also where JAX would work in its memory, as it does at multiples of 64 bytes on a CPU."""
    memory = np.zeros(128, np.uint8)
    at = -memory.ctypes.data % 64
    scales = memory[at : at + 24].view(np.float64)
    scales[:] = 0.1, 0.2, 0.3

    def looked_up(which):
        scale = jax.numpy.asarray(scales)[which]
        return jf.Run(NARROW, jf.starts.Gaussian(1, scale=scale), jf.methods.gradient_descent(0.3))

    prepared = jf.prepare(looked_up, max_steps=20, tolerance=None, which=[0, 2])
    before = prepared(3, which=1)
    scales[:] = 0.9
    np.testing.assert_array_equal(prepared(3, which=1).loss, before.loss)


def test_another_process_prepares_for_itself(prepared):
    with pytest.raises(ValueError, match="it holds compiled code, .*; hand on the experiment, and call jf.prepare"):
        pickle.dumps(prepared)


REFUSED = {
    "no axis": ({"width": 3}, "width=3: is no axis: it was prepared with step_size, scale; prepare it with this axis"),
    "mistyped": ({"stepsize": 0.3}, "stepsize=0.3: is no axis: .*; step_size may be meant"),
    "twice": ({"axes": {"scale": 1}, "scale": 1}, "axes=scale: is given by keyword too"),
    "words": ({"scale": "0.1"}, "an axis needs plain numbers"),
    "lists of different lengths": ({"scale": [[0.1], [0.2, 0.3]]}, "an axis needs plain numbers"),
    "seeds twice": ({"seeds": [1, 1]}, "an axis needs each value once; give a count, or an array of distinct seed"),
    "no seeds": ({"seeds": 0}, "seeds=0: needs a whole number, 1 or above"),
    "no argument": ({"seeds": None, "max_steps": 3}, "max_steps=3: was settled by jf.prepare; prepare again"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_calls_that_do_not_fit(prepared, case):
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        prepared(**{"seeds": 3, **options})


def test_whole_numbers_stay_whole():
    """They are other numbers to a program, which an experiment may look up with."""
    scales = np.array([0.1, 0.2, 0.3])

    def looked_up(which):
        scale = jax.numpy.asarray(scales)[which]
        return jf.Run(NARROW, jf.starts.Gaussian(1, scale=scale), jf.methods.gradient_descent(0.3))

    prepared = jf.prepare(looked_up, max_steps=20, tolerance=None, which=[0, 2])
    assert prepared(3, which=2.0).which.dtype == np.int64
    with pytest.raises(ValueError, match=r"which=.*: it was prepared with whole numbers.*; give whole numbers"):
        prepared(3, which=0.5)


def test_the_problem_of_the_first_point_is_told():
    """Where each point has its own problem, attributes are those of the first, as a sweep's are."""

    def sized(m):
        problem = jf.Factorization(np.array([1, 0.6]), shape=(m, 4))
        return jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), jf.methods.gradient_descent(0.3))

    prepared = jf.prepare(sized, max_steps=100, tolerance=1e-3, m=[5, 50])
    for m in (50, 7, 5):
        found = prepared(3, m=[m])
        assert_same(found, jf.sweep(sized, seeds=3, max_steps=100, tolerance=1e-3, m=[m]))
        assert found.attrs["shape"] == [m, 4]


def test_settings_of_jax_are_those_of_when_it_was_made():
    single = jf.Factorization(np.float32([1, 0.5]), shape=(4, 3))
    with jax.enable_x64(False):
        prepared = jf.prepare(descent(0.1, 1, single), max_steps=50, tolerance=1e-3, step_size=[0.3])
        expected = jf.sweep(descent(0.1, 1, single), seeds=3, max_steps=50, tolerance=1e-3, step_size=[0.3])
    found = prepared(3)
    assert found.attrs["x64"] == expected.attrs["x64"] == "false"
    np.testing.assert_array_equal(found.loss, expected.loss)


def test_the_same_bits_as_users_have():
    """With XLA's own optimisation: prepared, swept, stored and replayed."""
    with as_for_users():
        parts._remembered.clear()
        problem = jf.Factorization(np.float32([1, 0.6]), shape=(5, 4))
        one = descent(0.1, 2, problem)
        settings = {"max_steps": 300, "tolerance": 1e-4}
        found = jf.prepare(one, **settings, step_size=[0.3, 1.2])(50)
        expected = jf.sweep(one, seeds=50, **settings, step_size=[0.3, 1.2])
        assert_same(found, expected)
        again = jf.replay(found, seed=7, step_size=1.2)
    last = found.sel(seed=7, step_size=1.2)
    assert again.distance[-1] == last.distance
    assert again.distance.min() <= last.best_distance


def test_a_second_sweep_reads_nothing(readings):
    """With other seeds and other values of the axes too; other options are read again, and so are other functions."""
    first = swept()
    assert_same(swept(), first)
    swept(seeds=9, step_size=[0.3])
    assert len(readings) == 1
    swept(max_steps=300)
    swept(base_seed=1)
    swept(step_size=[1])  # a whole number
    assert len(readings) == 4
    jf.sweep(lambda step_size, scale: experiment(step_size, scale), seeds=5, step_size=0.2, scale=0.1, **SETTINGS)
    assert len(readings) == 5
    swept()
    assert len(readings) == 5


def test_a_changed_experiment_is_read_again(readings, monkeypatch):
    """A closure, a global, an array in place, a default: each gives other numbers than before."""
    norm, spectrum = 1.0, np.array([1, 0.6])

    def changing(step_size, tilt=1.0):
        problem = jf.Factorization(spectrum, shape=(5, 4))
        start = jf.starts.Gaussian(2, norm=norm * SCALE, ratio=tilt)
        return jf.Run(problem, start, jf.methods.gradient_descent(step_size))

    def runs():
        return jf.sweep(changing, seeds=3, max_steps=100, tolerance=1e-3, step_size=[0.3]).loss.values

    found = [runs(), runs()]
    np.testing.assert_array_equal(*found)
    assert len(readings) == 1
    norm = 2.0
    found.append(runs())
    monkeypatch.setitem(globals(), "SCALE", 0.15)
    found.append(runs())
    spectrum[1] = 0.5
    found.append(runs())
    changing.__defaults__ = (2.0,)
    found.append(runs())
    assert len(readings) == 5
    assert len({one.tobytes() for one in found}) == 5


def test_experiments_that_draw_are_read_each_time(readings):
    """They are warned of each time, too."""
    rng = np.random.default_rng(0)

    def drawing(step_size, scale):
        return experiment(step_size, scale * rng.uniform(1, 2))

    for _ in range(2):
        with pytest.warns(UserWarning, match="it is another each time it is called"):
            jf.sweep(drawing, seeds=2, step_size=0.3, scale=0.1, **SETTINGS)
    assert len(readings) == 2


def test_few_experiments_are_remembered_and_no_big_arrays(monkeypatch):
    """The oldest is forgotten; what is larger than allowed is not kept at all."""

    def held(problem):
        one = descent(0.1, 1, problem)
        jf.sweep(one, seeds=1, max_steps=10, tolerance=None, step_size=[0.3])
        return weakref.ref(one)

    assert parts._PARTS == 8
    monkeypatch.setattr(parts, "_PARTS", 2)
    kept = [held(NARROW) for _ in range(3)]
    gc.collect()
    assert [one() is not None for one in kept] == [False, True, True]
    assert parts._BYTES == 64 * 2**20
    monkeypatch.setattr(parts, "_BYTES", 10)
    forgotten = held(NARROW)
    gc.collect()
    assert forgotten() is None


def test_a_renamed_axis_and_another_record_have_their_own_programs(prepared):
    """Of the same text: arguments have names, and records too."""
    expected = prepared(5, scale=[0.1])
    renamed = jf.sweep(lambda eta, scale: experiment(eta, scale), seeds=5, eta=[0.1, 1.0], scale=[0.1], **SETTINGS)
    np.testing.assert_array_equal(renamed.loss, expected.loss)
    assert set(renamed.coords) - set(expected.coords) == {"eta"}
    record = {"first": jf.measures.loss, "distance": jf.measures.distance, "imbalance": jf.measures.imbalance}
    other = swept(record=record, step_size=[0.1, 1.0], scale=[0.1])
    np.testing.assert_array_equal(other.first_path, expected.loss_path)


def test_sizes_below_one_padding_share_a_program():
    """A width that is closed over is a number there, and so is a rank that is an axis; the padding shapes arrays."""

    def of(width=2, rank=2, padded_to=3):
        start = jf.starts.Gaussian(width, scale=0.1, padded_to=padded_to)

        def padded(rank):
            values = jf.data.singular_values(rank, 2.0, padded_to=3)
            return jf.Run(jf.Factorization(values, shape=(6, 5)), start, jf.methods.gradient_descent(0.3))

        return jf.sweep(padded, seeds=3, max_steps=100, tolerance=None, rank=rank)

    first = of()
    before = program._compiled.cache_info().misses
    assert not np.array_equal(of(width=3).loss, first.loss)
    assert not np.array_equal(of(rank=3).loss, first.loss)
    assert program._compiled.cache_info().misses == before
    of(padded_to=4)
    assert program._compiled.cache_info().misses == before + 1
