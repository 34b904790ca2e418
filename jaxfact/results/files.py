"""Results on disk: a Zarr 3 store that anybody's xarray opens."""

import json
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.inputs import problem_with
from jaxfact.results.labels import plain

PENDING = "pending"
"""The outcome of a run that a store does not hold yet."""

_CODES = {PENDING: -1, **{name: number for number, name in enumerate(OUTCOMES)}}


def write_results(runs: xr.Dataset, path: str | Path) -> None:
    """Write the dataset of a sweep as a Zarr 3 store; the outcome becomes a CF flag variable.

    Raises ValueError where something is there already.
    """
    path = Path(path)
    if path.exists():
        raise problem_with("path", path, "exists already", "choose another path, or remove it")
    encoded(runs).to_zarr(path, zarr_format=3, consolidated=False)
    consolidate(path)


def open_results(path: str | Path) -> xr.Dataset:
    """Open a store of `write_results` or of a sweep; flags become their names again.

    What is not looked at is not read. Runs that a sweep has not finished yet are `pending`.

    Raises ValueError where there is no store.
    """
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise problem_with("path", path, "is not a Zarr 3 store", "give the folder of a sweep or of write_results")
    consolidated = "consolidated_metadata" in json.loads((path / "zarr.json").read_text())
    runs = xr.open_dataset(path, engine="zarr", chunks=None, consolidated=consolidated)
    for name in ("outcome", "variant"):
        if name in runs.variables:
            runs = runs.assign({name: _named(runs[name])})
    return runs.assign_attrs(plain(runs.attrs))


def consolidate(path: Path) -> None:
    """Put the metadata of all arrays into the root, so that a store opens with one read and changes at one moment."""
    import zarr  # a tenth of a second that results in memory need not cost

    with warnings.catch_warnings():
        # It says that readers without consolidated metadata ignore it, which is intended.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)


def encoded(runs: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose outcomes and variants are numbers, with CF attributes that say what they mean."""
    runs = runs.drop_encoding()  # the layout of the store it came from need not fit a part of it
    names = np.array(sorted(_CODES))
    codes = np.array([_CODES[name] for name in names], np.int8)
    numbers = codes[np.searchsorted(names, runs.outcome.values)]
    flags = {"flag_values": list(_CODES.values()), "flag_meanings": " ".join(_CODES)}
    stored = runs.assign(outcome=(runs.outcome.dims, numbers, {**runs.outcome.attrs, **flags}))
    if "variant" not in stored.coords:
        return stored
    # Zarr 3 has no settled type for strings, so the variants' names travel as a CF flag too.
    # Meanings are separated by blanks, so exact names stand beside them.
    names = [str(name) for name in np.ravel(stored.variant)]
    meanings = " ".join("_".join(name.split()) for name in names)
    flags = {"flag_values": list(range(len(names))), "flag_meanings": meanings, "flag_names": names}
    numbers = np.arange(len(names), dtype=np.int16).reshape(stored.variant.shape)
    return stored.assign_coords(variant=(stored.variant.dims, numbers, flags))


def _named(flags: xr.DataArray) -> xr.DataArray:
    names = np.asarray(flags.attrs.get("flag_names") or flags.attrs["flag_meanings"].split())
    attributes = {k: v for k, v in flags.attrs.items() if not k.startswith("flag_")}
    place = np.searchsorted(np.asarray(flags.attrs["flag_values"]), flags.values)
    return xr.DataArray(names[place], dims=flags.dims, attrs=attributes)
