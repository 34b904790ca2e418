"""Results for other programs: a table with one row per run, or the whole dataset in one file.

Tables are written a few seeds at a time, so that more runs can be exported than fit into memory. A file appears whole
under its name, or not at all; nothing is overwritten.
"""

import importlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import xarray as xr

from jaxfact.choices import listed
from jaxfact.inputs import problem_with
from jaxfact.results.flags import PENDING, encoded
from jaxfact.results.labels import plain
from jaxfact.results.whole import check_new_file, whole_file
from jaxfact.store.files import open_results

_ROWS = 65536  # about this many at a time
_RESERVED = {"REFERENCE_LIST", "CLASS", "NAME", "DIMENSION_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"}
_RESERVED |= {"_nc3_strict", "_NCProperties"}  # attributes that netCDF keeps for itself; no sweep writes one


def to_csv(store: str | Path, out: str | Path) -> int:
    """Write one line per finished run and return how many: axes, variant, seed, outcome, steps and the other numbers.

    Hit times have one column per level, such as `hit_1e-05`: `inf` where it was never reached, empty where unknown.
    Records along the steps are left out.

    Raises ValueError where there is no store, or where the file exists already.
    """
    rows = 0
    with _new_file(Path(out)) as made, made.open("w", encoding="utf-8", newline="") as file:
        for table in tables(open_results(store)):
            table.to_csv(file, index=False, header=not rows, lineterminator="\n")
            rows += len(table)
    return rows


def to_parquet(store: str | Path, out: str | Path) -> int:
    """Write one row per finished run, with the columns of `to_csv`, and return how many; attributes become metadata.

    Raises ValueError where there is no store, or where the file exists already, and without pyarrow.
    """
    arrow, parquet = _needed("parquet", "pyarrow"), _needed("parquet", "pyarrow.parquet")
    runs, rows = open_results(store), 0
    with _new_file(Path(out)) as made:
        writer = None
        try:
            for table in tables(runs):
                piece = arrow.Table.from_pandas(table, preserve_index=False)
                if writer is None:
                    schema = piece.schema.with_metadata({"jaxfact": json.dumps(runs.attrs)})
                    writer = parquet.ParquetWriter(made, schema)
                writer.write_table(piece.cast(writer.schema))
                rows += len(table)
        finally:
            if writer is not None:
                writer.close()
    return rows


def to_netcdf(store: str | Path, out: str | Path) -> int:
    """Write the whole dataset as netCDF 4 and return the number of finished runs.

    Outcomes and variants are CF flags; attributes that netCDF has no type for are written as JSON.

    Raises ValueError where there is no store, or where the file exists already, and without h5netcdf and h5py.
    """
    for name in ("h5py", "h5netcdf"):
        _needed("netcdf", name)
    runs = open_results(store)
    finished = int((runs.outcome != PENDING).sum())
    whole = encoded(runs)
    for variable in (whole, *whole.variables.values()):
        variable.attrs = plain({name: of for name, of in variable.attrs.items() if name not in _RESERVED})
    with _new_file(Path(out)) as made:
        whole.to_netcdf(made, engine="h5netcdf")
    return finished


def tables(runs: xr.Dataset) -> Iterator[pd.DataFrame]:
    """Yield the finished runs as tables, some seeds at a time; at least one, which may be empty."""
    points = math.prod(length for dim, length in runs.outcome.sizes.items() if dim != "seed")
    # A store is read fastest by whole tiles, whose last length is that of the seeds.
    block = list(runs.attrs.get("tile", [1]))[-1]
    count = block * max(1, _ROWS // (points * block))
    for begin in range(0, runs.sizes["seed"], count):
        yield _table(runs.isel(seed=slice(begin, begin + count)))


def _table(runs: xr.Dataset) -> pd.DataFrame:
    dims = runs.outcome.dims
    axes = np.meshgrid(*(runs[dim].values for dim in dims), indexing="ij")
    columns = {str(dim): values.ravel() for dim, values in zip(dims, axes, strict=True)}
    for name, variable in runs.data_vars.items():
        if set(variable.dims) == set(dims):
            columns[str(name)] = variable.transpose(*dims).values.ravel()
        elif name == "hit":
            for level in runs.level.values:
                columns[f"hit_{level:g}"] = variable.sel(level=level).transpose(*dims).values.ravel()
    table = pd.DataFrame(columns)
    return table.loc[table.outcome != PENDING]


@contextmanager
def _new_file(out: Path) -> Iterator[Path]:
    """Yield a name to write to; an existing file is refused, parent folders are made."""
    check_new_file(out)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as made:
        yield made


def _needed(kind: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        instead = "pip install 'jaxfact[export]' installs it; csv needs nothing"
        raise problem_with("to", kind, f"the package {package} is missing", instead) from None


def __dir__() -> list[str]:
    return listed(globals())
