"""Other programs read the same numbers, whole files or none, however many pieces they were written in."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import jaxfact as jf
from jaxfact.store import export

parquet = pytest.importorskip("pyarrow.parquet")
WRITE = {"csv": export.to_csv, "parquet": export.to_parquet, "netcdf": export.to_netcdf}


def rows_of(table: pd.DataFrame, runs: xr.Dataset) -> xr.Dataset:
    """Return a table's rows along the dimensions of the runs."""
    return xr.Dataset.from_dataframe(table.set_index(list(runs.outcome.dims))).reindex_like(runs.outcome)


def test_one_row_a_run(stored, tmp_path):
    runs = jf.open_results(stored)
    assert export.to_csv(stored, tmp_path / "runs.csv") == 36
    # Pandas' own engine reads the last digits of a number only from version 3 on.
    table = pd.read_csv(tmp_path / "runs.csv", engine="pyarrow")
    assert len(table) == 36
    assert {"step_size", "variant", "seed", "outcome", "steps", "hit_0.0001", "loss", "distance", "imbalance"} <= set(
        table
    )
    assert not any("path" in name for name in table)
    found = rows_of(table, runs)
    np.testing.assert_array_equal(found.outcome, runs.outcome)
    for name in ("steps", "loss", "distance", "best_distance", "imbalance", "loss_rose", "period"):
        np.testing.assert_array_equal(found[name], runs[name])
    for level in runs.level.values:
        np.testing.assert_array_equal(found[f"hit_{level:g}"], runs.hit.sel(level=level))
    assert np.isinf(found["hit_0.0001"]).any()


def test_columns_keep_kinds_and_attributes(stored, tmp_path):
    export.to_csv(stored, tmp_path / "runs.csv")
    export.to_parquet(stored, tmp_path / "runs.parquet")
    table = parquet.read_table(tmp_path / "runs.parquet")
    pd.testing.assert_frame_equal(table.to_pandas(), pd.read_csv(tmp_path / "runs.csv"), check_dtype=False)
    assert table.schema.field("steps").type == "int32"
    assert table.schema.field("distance").type == "double"
    attributes = json.loads(table.schema.metadata[b"jaxfact"])
    assert attributes["max_steps"] == 200
    assert "def experiment" in attributes["experiment"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_pieces_make_the_same_table(stored, tmp_path, monkeypatch, kind):
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[kind]
    WRITE[kind](stored, tmp_path / "whole")
    monkeypatch.setattr(export, "_ROWS", 1)
    pieces = list(export.tables(jf.open_results(stored)))
    assert [len(piece) for piece in pieces] == [12, 12, 12]  # two seeds, as in a tile
    WRITE[kind](stored, tmp_path / "pieces")
    order = ["seed", "step_size", "variant"]
    whole, pieced = (read(tmp_path / name).sort_values(order, ignore_index=True) for name in ("whole", "pieces"))
    pd.testing.assert_frame_equal(whole, pieced)


def test_netcdf_holds_the_whole_dataset(stored, tmp_path):
    runs = jf.open_results(stored)
    assert export.to_netcdf(stored, tmp_path / "runs.nc") == 36
    with xr.open_dataset(tmp_path / "runs.nc", engine="h5netcdf") as found:
        assert set(found.variables) == set(runs.variables)
        np.testing.assert_array_equal(found.distance_path, runs.distance_path)
        flags = dict(zip(found.outcome.flag_meanings.split(), found.outcome.flag_values, strict=True))
        np.testing.assert_array_equal(found.outcome == flags["diverged"], runs.outcome == "diverged")
        assert found.variant.flag_meanings.split() == runs.variant.values.tolist()
        assert found.step_size.attrs["latex"] == r"$\eta\,\sigma_1$"
        assert found.attrs["max_steps"] == 200
        assert json.loads(found.attrs["record_names"]) == ["distance", "imbalance"]


def test_attributes_that_netcdf_keeps_for_itself_are_left_out(stored, tmp_path):
    """No sweep writes them; whoever means harm may."""
    runs = jf.open_results(stored).load()
    runs.loss.attrs["REFERENCE_LIST"] = runs.attrs["_NCProperties"] = "anybody's"
    jf.write_results(runs, tmp_path / "runs.zarr")
    assert export.to_netcdf(tmp_path / "runs.zarr", tmp_path / "runs.nc") == 36


@pytest.mark.parametrize("kind", WRITE)
def test_runs_that_are_not_there_are_no_rows(unfinished, tmp_path, kind):
    assert WRITE[kind](unfinished, tmp_path / "file") == 36


@pytest.mark.parametrize("kind", WRITE)
def test_nothing_is_overwritten(stored, tmp_path, kind):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="mine: exists already; choose another file"):
        WRITE[kind](stored, tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_half_a_file_is_none(stored, tmp_path, monkeypatch, kind, error):
    whole = export.tables
    seen = []

    def cut_short(runs):
        yield next(whole(runs))
        seen.extend(path.name for path in tmp_path.iterdir())
        raise error

    monkeypatch.setattr(export, "tables", cut_short)
    with pytest.raises(error):
        WRITE[kind](stored, tmp_path / "file")
    assert len(seen) == 1  # it was begun, under another name
    assert seen != ["file"]
    assert list(tmp_path.iterdir()) == []


def test_half_a_dataset_is_none(stored, tmp_path, monkeypatch):
    def cut_short(self, path, **_):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(xr.Dataset, "to_netcdf", cut_short)
    with pytest.raises(KeyboardInterrupt):
        export.to_netcdf(stored, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("kind", "package"), [("parquet", "pyarrow"), ("netcdf", "h5netcdf"), ("netcdf", "h5py")])
def test_a_missing_package_is_named(call, stored, monkeypatch, tmp_path, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    missing = rf"^to={kind}: the package {package} is missing; pip install 'jaxfact\[export\]'"
    with pytest.raises(ValueError, match=missing):
        WRITE[kind](stored, tmp_path / "file")
    ended = call("export", stored, "--to", kind, "--out", "file")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []


def test_the_command(call, unfinished, tmp_path):
    """Without a name the file gets the store's, and stands beside it."""
    for kind, suffix in (("csv", "csv"), ("parquet", "parquet"), ("netcdf", "nc")):
        file = unfinished.with_suffix(f".{suffix}")
        assert call("export", unfinished, "--to", kind) == (0, f"36 runs: {file}\n", "")
        assert file.stat().st_size > 1000
    ended = call("export", unfinished, "--to", "csv")
    assert (ended.code, ended.err) == (2, f"jaxfact: out={file.with_suffix('.csv')}: exists already; choose another "
                                          "file, or remove it.\n")  # fmt: skip
    assert call("export", unfinished, "--to", "xml").code == 2
