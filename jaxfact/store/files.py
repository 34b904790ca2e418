"""Results on disk: Zarr 3 stores that anybody's xarray opens, written by a sweep or all at once."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.inputs import problem_with
from jaxfact.results.flags import encoded, named
from jaxfact.results.labels import plain
from jaxfact.store.damage import damage_of
from jaxfact.store.marks import Marks
from jaxfact.store.medium import DamageWarning, Medium, Place, medium_of
from jaxfact.store.root import ROOT, Root
from jaxfact.store.roots import is_sweep, read_root

_GIVE = "give the folder of a sweep or of write_results"


def write_results(runs: xr.Dataset, path: str | Path) -> None:
    """Write the dataset of a sweep as a Zarr 3 store; the outcome becomes a CF flag variable.

    Raises ValueError where something is there already.
    """
    path = Path(path)
    if path.exists():
        raise problem_with("path", path, "exists already", "choose another path, or remove it")
    encoded(runs).to_zarr(path, zarr_format=3, consolidated=False)
    _consolidate(path)


def open_results(store: Place) -> xr.Dataset:
    """Open a store of `write_results` or of a sweep; flags become their names again.

    What is not looked at is not read. Runs that a sweep has not finished yet are `pending`, and so are those of tiles
    that are damaged, which is said in a warning.

    Raises ValueError where there is no store.
    """
    medium = medium_of(store)
    if not is_sweep(medium):
        return _written(medium)
    found = read_root(medium, _GIVE)
    damaged, done = damage_of(medium, found, Marks(medium, found.root))
    for key, what in damaged.items():
        warnings.warn(f"{medium.name}: {key} {what}", DamageWarning, stacklevel=2)
    return results_in(medium, found.root, done)


def results_in(medium: Medium, root: Root, done: np.ndarray) -> xr.Dataset:
    """Return the dataset of a sweep's store, of the tiles that are done; what is not looked at is not read."""
    from jaxfact.store.shown import Shown  # with Zarr, which sweeps in memory need not load

    fixed = root.coordinates
    shown: Any = Shown(medium, root, done)
    lazy = xr.open_dataset(shown, engine="zarr", chunks=None, consolidated=True, drop_variables=list(fixed))
    places = root.grid.places()
    if holes := {name: where for name, where in places.items() if len(where) <= where[-1]}:
        lazy = lazy.isel(holes)
    variables = {
        name: lazy.variables[name] if name in lazy.variables else (of.dims, fixed[name], of.attributes)
        for name, of in root.variables.items()
    }
    return named(xr.Dataset(variables, attrs=plain(root.attributes | {"tile": list(root.grid.blocks)})))


def _written(medium: Medium) -> xr.Dataset:
    """Open a store of `write_results`."""
    content = medium.get(ROOT) if medium.exists() else None
    if content is None or medium.folder is None:
        raise problem_with("path", medium.name, "is not a Zarr 3 store", _GIVE)
    consolidated = "consolidated_metadata" in json.loads(content)
    runs = named(xr.open_dataset(medium.folder, engine="zarr", chunks=None, consolidated=consolidated))
    return runs.assign_attrs(plain(runs.attrs))


def _consolidate(path: Path) -> None:
    """Put the metadata of all arrays into the root, so that a store opens with one read."""
    import zarr  # a tenth of a second that results in memory need not cost

    with warnings.catch_warnings():
        # It says that readers without consolidated metadata ignore it, which is intended.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
