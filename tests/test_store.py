"""Results survive the disk: by our own reader, and by a plain xarray that knows nothing of this library."""

import json

import numpy as np
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact import measures
from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.results.flags import PENDING


@pytest.fixture(scope="module")
def runs() -> xr.Dataset:
    """Return a sweep with every kind of value: converged, diverged (inf), below a method's tolerance (NaN)."""
    problem = jf.Factorization([1.0, 0.5], shape=(5, 4))

    def experiment(method):
        return lambda step_size: jf.Run(problem, jf.starts.Gaussian(2, scale=0.1), method(step_size))

    return jf.sweep(
        {
            "plain": experiment(jf.methods.gradient_descent),
            "balanced": experiment(lambda step: jf.methods.balanced(step, 1 / 8)),
        },
        seeds=3,
        max_steps=300,
        tolerance={"plain": 1e-4, "balanced": 1e-2},
        record=[measures.distance, measures.singular_values],
        every=50,
        step_size=[0.5, 2.5],
    )


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    xr.testing.assert_identical(found, expected)
    kinds = [{name: dataset[name].dtype.kind for name in dataset.variables} for dataset in (found, expected)]
    assert kinds[0] == kinds[1]


def test_round_trip(tmp_path, runs):
    assert np.isinf(runs.hit).any()
    assert np.isnan(runs.hit).any()
    assert np.isfinite(runs.hit).any()
    jf.write_results(runs, tmp_path / "a.zarr")
    found = jf.open_results(tmp_path / "a.zarr")
    assert_same(found, runs)
    assert set(np.unique(found.outcome)) == {"converged", "diverged"}
    assert found.variant.values.tolist() == ["plain", "balanced"]
    assert found.attrs["experiment"] == runs.attrs["experiment"]
    jf.write_results(found, tmp_path / "b.zarr")
    assert_same(jf.open_results(tmp_path / "b.zarr"), runs)


@pytest.mark.parametrize("point", [{"variant": "plain"}, {"variant": "plain", "step_size": 0.5}, {"seed": 1}])
def test_a_selection(tmp_path, runs, point):
    """What was selected stays as a scalar coordinate."""
    one = runs.sel(point)
    jf.write_results(one, tmp_path / "a.zarr")
    assert_same(jf.open_results(tmp_path / "a.zarr"), one)


@pytest.mark.parametrize("names", [["plain", "with noise"], ["step 0.1", "step 0.2"]])
def test_methods_keep_their_names(tmp_path, runs, names):
    """Flag meanings are separated by blanks; a name with a blank must not become two."""
    named = runs.assign_coords(variant=names)
    jf.write_results(named, tmp_path / "a.zarr")
    assert jf.open_results(tmp_path / "a.zarr").variant.values.tolist() == names


def test_anybodys_xarray_opens_it(tmp_path, runs):
    """Zarr 3, with units, long names, and the CF flags that say what the numbers of an outcome mean."""
    jf.write_results(runs, tmp_path / "a.zarr")
    assert json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())["zarr_format"] == 3
    with xr.open_zarr(tmp_path / "a.zarr", consolidated=False) as plain:
        flags = dict(zip(plain.outcome.flag_meanings.split(), plain.outcome.flag_values, strict=True))
        assert tuple(flags) == (PENDING, *OUTCOMES)
        np.testing.assert_array_equal(plain.outcome == flags["diverged"], runs.outcome == "diverged")
        assert plain.variant.flag_meanings.split() == ["plain", "balanced"]
        np.testing.assert_array_equal(plain.distance_path, runs.distance_path)
        assert plain.distance_path.dims == ("step_size", "variant", "seed", "step")
        assert plain.imbalance.units == "σ₁"
        assert plain.hit.long_name == runs.hit.long_name
        assert plain.attrs["max_steps"] == 300


def test_nothing_is_overwritten(tmp_path, runs, monkeypatch):
    """Home is meant by its sign, and what is no folder is refused."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="path=memory://a: is no folder"):
        jf.write_results(runs, "memory://a")
    (tmp_path / "home").mkdir()
    with pytest.raises(ValueError, match=r"path=~/home: exists already"):
        jf.write_results(runs, "~/home")
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ValueError, match="taken: exists already"):
        jf.write_results(runs, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize("name", ["missing", "folder", "file"])
def test_only_stores_are_opened(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("{}")
    with pytest.raises(ValueError, match=rf"{name}: is not a Zarr 3 store"):
        jf.open_results(tmp_path / name)
