"""Results on disk: Zarr 3 stores that anybody's xarray opens, written by a sweep or all at once."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.inputs import problem_with
from jaxfact.results.flags import encoded, named
from jaxfact.results.labels import plain
from jaxfact.store import claims
from jaxfact.store.grid import Tile
from jaxfact.store.look import look
from jaxfact.store.marks import Marks
from jaxfact.store.medium import DamageWarning, Medium, Place, medium_of
from jaxfact.store.root import ROOT, TILES, Root
from jaxfact.store.roots import beside, is_sweep, read_root

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
    damaged, done = damage_of(medium, found.root, found.damaged)
    for key, what in damaged.items():
        warnings.warn(f"{medium.name}: {key} {what}", DamageWarning, stacklevel=2)
    return results_in(medium, found.root, done)


def damage_of(
    medium: Medium, root: Root, damaged: Mapping[str, str], *, thorough: bool = False
) -> tuple[dict[str, str], np.ndarray]:
    """Return what is wrong with a store, by file, beside what is known of its root; and which tiles are whole.

    Elsewhere than in a folder only a `thorough` look is one.
    """
    marks = Marks(medium, root)
    found = look(medium, root, marks, thorough=thorough)
    unlike = beside(medium, root) if medium.folder is not None or thorough else {}
    return {**damaged, **marks.damaged, **unlike, **_without_mark(medium, root, marks), **found.damaged}, found.done


def _without_mark(medium: Medium, root: Root, marks: Marks) -> dict[str, str]:
    """Return the tiles that were written, that are not marked, and that nobody works on: their marks were lost."""
    return {
        f"{TILES}/marks-*.npy": f"lacks tile {'-'.join(map(str, tile))}, which was written"
        for tile in written_only(medium, root, marks)
        if claims.owner(medium, tile) is None
    }


def written_only(medium: Medium, root: Root, marks: Marks) -> list[Tile]:
    """Return the tiles in a folder that were written and are not marked."""
    there = set(medium.list("outcome")) if medium.folder is not None else set()
    if len(there) <= len(marks.numbers) + 1:  # and the metadata
        return []
    left = [tuple(place) for place in np.argwhere(~marks.done()).tolist()]
    return [tile for tile in left if root.key("outcome", tile).rpartition("/")[2] in there]


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
