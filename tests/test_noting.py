"""Records that native lanes write themselves, beside those that XLA measures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray as xr
from cases import METHODS

import jaxfact as jf
from jaxfact import measures
from jaxfact.engine import machine
from jaxfact.engine.scalars import Unscalarisable

USUAL = [measures.loss, measures.distance, measures.imbalance, measures.energy, measures.singular_values]


def recorded(monkeypatch, seeds, make, **options):
    """Return results by native lanes, and by XLA's."""
    native = jf.prepare(make(), **options)(seeds)

    def refuse():
        raise Unscalarisable("the test says so")

    with monkeypatch.context() as patched:
        patched.setattr(machine, "check", refuse)
        others = jf.prepare(make(), **options)(seeds)
    assert native.attrs["lanes"].startswith("in vectors of 8 runs")
    assert others.attrs["lanes"] == "by XLA's kernels: the test says so"
    return native, others


def experiment(method, shape=(9, 7), width=2):
    problem = jf.Factorization(np.array([1.0, 0.6]), shape=shape)
    start = jf.starts.Gaussian(width, scale=0.1)
    return lambda: jf.Run(problem, start, method)


CASES = {
    "few numbers, converging": {"make": lambda: experiment(METHODS["balanced"](0.3)), "tolerance": 1e-6},
    "long columns": {
        "make": lambda: experiment(METHODS["gradient descent"](0.3), (40, 35)),
        "compress": False,
        "tolerance": 1e-6,
    },
    "a width that is condensed": {
        "make": lambda: experiment(METHODS["gradient descent"](0.3), width=4),
        "tolerance": 1e-3,
    },
    "cycles": {"make": lambda: experiment(METHODS["gradient descent"](1.15)), "tolerance": 1e-6},
}


# At the end is one more write of the same code: once from runs that converge, once from runs that do not.
@pytest.mark.parametrize(
    ("name", "every"),
    [
        *((name, [0, 5, 10, 40, 100, 400, 1000, 1500]) for name in CASES),
        ("few numbers, converging", None),
        ("cycles", None),
    ],
    ids=[*(f"{name}, at steps" for name in CASES), "few numbers, at the end", "cycles, at the end"],
)
def test_records_are_those_of_xla(name, every, monkeypatch):
    options = CASES[name] | {"max_steps": 2000, "check_every": 5, "record": USUAL, "every": every}
    native, others = recorded(monkeypatch, 37, **options)
    assert len(np.unique(native.steps)) > 3, "so that records of a vector are due at different ends"
    names = [str(name) for name in native if str(name).endswith("_path")] if every else ["energy", "singular_values"]
    assert len(names) == (len(USUAL) if every else 2)
    if name == "cycles":  # where runs end their last bits decide
        assert set(np.unique(native.outcome)) >= {"cycle"}
        kept = native.outcome.values == others.outcome.values
        native, others = native.isel(seed=kept), others.isel(seed=kept)
        assert kept.mean() > 0.9
        names = [name for name in names if "distance" not in name]
    for found in names:
        xr.testing.assert_allclose(native[found], others[found], rtol=1e-7, atol=1e-10)


def test_long_records_are_left_to_xla(monkeypatch):
    """A copy of a 20×20 matrix; as good, and the way is said."""

    def product(problem, factors):
        return factors.U @ factors.V.T

    def make():
        return experiment(METHODS["gradient descent"](0.3), (20, 20))

    options = {"tolerance": None, "max_steps": 20, "compress": False, "record": product, "every": 10}
    native, others = recorded(monkeypatch, 9, make, **options)
    reason = "a record of 400 numbers is more than 256"
    assert native.attrs["lanes"] == f"in vectors of 8 runs, records by XLA's kernels: {reason}"
    xr.testing.assert_allclose(native.product_path, others.product_path, rtol=1e-12, atol=1e-14)


def test_records_in_another_precision(monkeypatch):
    """Double precision beside single precision is left to XLA; whole numbers, truth values and nothing are written."""

    def kinds(problem, factors):
        first = factors.U[0, 0]
        return {"double": jnp.asarray(1 / 3), "whole": jnp.sign(first).astype(jnp.int32), "truth": first > 0}

    def only(problem, factors):
        found = kinds(problem, factors)
        return {name: found[name] for name in ("whole", "truth")} | {"nothing": factors.U[:0, 0]}

    problem = jf.Factorization(np.array([1.0, 0.6], np.float32), shape=(9, 7))
    run = jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), METHODS["gradient descent"](0.3))
    options = {"max_steps": 20, "tolerance": None, "compress": False, "every": 10}
    wide, narrow = (jf.sweep(lambda: run, seeds=20, record=record, **options) for record in (kinds, only))
    reason = "a record is in float64, of which no vector holds 16"
    assert wide.attrs["lanes"] == f"in vectors of 16 runs, records by XLA's kernels: {reason}"
    assert narrow.attrs["lanes"] == "in vectors of 16 runs"
    assert narrow.only_nothing_path.shape == (20, 3, 0)
    assert np.all(wide.kinds_double_path == 1 / 3)
    for name in ("whole", "truth"):
        np.testing.assert_array_equal(wide[f"kinds_{name}_path"], narrow[f"only_{name}_path"])
    np.testing.assert_array_equal(narrow.only_truth_path, narrow.only_whole_path == 1)
    assert 0 < narrow.only_truth_path.mean() < 1


def test_methods_of_one_kind_share_a_program():
    """What they do is the address of code, which is data; a method with a state has another program."""

    def lowered(method):
        options = {"max_steps": 100, "tolerance": 1e-3, "record": "loss", "every": 10}
        return jf.prepare(experiment(method), **options)._parts[0].program(16)._lowered

    plain = lowered(METHODS["gradient descent"](0.1))
    assert lowered(METHODS["balanced"](0.2)) == plain
    assert lowered(optax.sgd(0.1, momentum=0.5)) != plain
    with jax.enable_x64(False):
        assert lowered(METHODS["gradient descent"](0.1)) != plain
