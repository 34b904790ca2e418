"""Results on disk are opened: those of a sweep, of which damaged tiles are left out, or those written all at once."""

import warnings
from typing import Any

import numpy as np
import xarray as xr

import jaxfact.accessor  # noqa: F401, which registers `runs.jaxfact`
from jaxfact.results.flags import named
from jaxfact.results.labels import plain
from jaxfact.store.damage import damage_of
from jaxfact.store.marks import Marks
from jaxfact.store.medium import DamageWarning, Medium, Place, medium_of
from jaxfact.store.root import Root
from jaxfact.store.roots import is_sweep, read_root
from jaxfact.store.written import open_written

_GIVE = "give the folder of a sweep or of write_results"


def open_results(store: Place) -> xr.Dataset:
    """Open a store of `write_results` or of a sweep; flags become their names again.

    What is not looked at is not read. Runs that a sweep has not finished yet are `pending`, and so are those of tiles
    that are damaged, which is said in a warning.

    Raises ValueError where there is no store, and Damage where what was written all at once is damaged.
    """
    medium = medium_of(store)
    if not is_sweep(medium):
        return open_written(medium, _GIVE)
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
