"""Results on disk: a Zarr 3 store that anybody's xarray opens."""

from pathlib import Path

import numpy as np
import xarray as xr

from jaxfact.inputs import problem_with
from jaxfact.outcomes import OUTCOMES


def write_results(runs: xr.Dataset, path: str | Path) -> None:
    """Write the dataset of a sweep as a Zarr 3 store; the outcome becomes a CF flag variable.

    Raises ValueError where something is there already.
    """
    path = Path(path)
    if path.exists():
        raise problem_with("path", path, "exists already", "choose another path, or remove it")
    code = {name: number for number, name in enumerate(OUTCOMES)}
    numbers = np.vectorize(code.__getitem__, otypes=[np.int8])(runs.outcome.values)
    flags = {"flag_values": list(range(len(OUTCOMES))), "flag_meanings": " ".join(OUTCOMES)}
    stored = runs.assign(outcome=(runs.outcome.dims, numbers, {**runs.outcome.attrs, **flags}))
    if "method" in stored.coords:
        # Zarr 3 has no settled type for strings, so the methods' names travel as a CF flag too.
        # Meanings are parted by blanks, so exact names stand beside them.
        names = [str(name) for name in np.ravel(stored.method)]
        meanings = " ".join("_".join(name.split()) for name in names)
        flags = {"flag_values": list(range(len(names))), "flag_meanings": meanings, "flag_names": names}
        numbers = np.arange(len(names), dtype=np.int16).reshape(stored.method.shape)
        stored = stored.assign_coords(method=(stored.method.dims, numbers, flags))
    stored.to_zarr(path, zarr_format=3, consolidated=False)


def open_results(path: str | Path) -> xr.Dataset:
    """Open a store written by `write_results`; flags become their names again."""
    path = Path(path)
    if not (path / "zarr.json").is_file():
        raise problem_with("path", path, "is no Zarr 3 store", "give the folder that write_results made")
    runs = xr.open_zarr(path, consolidated=False).load()
    for name in ("outcome", "method"):
        if name in runs.variables:
            runs = runs.assign({name: _named(runs[name])})
    return runs


def _named(flags: xr.DataArray) -> xr.DataArray:
    names = np.asarray(flags.attrs.get("flag_names") or flags.attrs["flag_meanings"].split())
    attributes = {k: v for k, v in flags.attrs.items() if not k.startswith("flag_")}
    return xr.DataArray(names[flags.values], dims=flags.dims, attrs=attributes)
