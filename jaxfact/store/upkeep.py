"""What is done to a whole store: it is created, a sweep is admitted to it, it is extended, and mended."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.engine.axes import places_of
from jaxfact.inputs import problem_with
from jaxfact.results.flags import encoded
from jaxfact.store.claims import changing
from jaxfact.store.damage import written_only
from jaxfact.store.differences import check_same
from jaxfact.store.grid import Grid
from jaxfact.store.marks import Writer, now
from jaxfact.store.medium import MISSING, Place, medium_of
from jaxfact.store.metadata import LARGEST, Variable
from jaxfact.store.root import MOST_TILES, TILES, Root, as_json, check_name, root_key
from jaxfact.store.roots import change, settle
from jaxfact.store.tilestore import TileStore

_MANY = 64  # files of marks that are not full


def create(place: Place, grid: Grid, template: xr.Dataset) -> None:
    """Make an empty store for the runs of a grid; readers see it whole or not at all.

    `template` is the dataset of all variants at one point and one seed: its variables, its attributes, and the sizes of
    the dimensions after the seeds.

    Raises FileExistsError where something is there, which is left alone, and ValueError for names and numbers of values
    that a store cannot have.
    """
    medium = medium_of(place)
    root = _root(grid, encoded(template))
    content = root.content()
    if not medium.is_empty() or not medium.put_new(root_key(0), content):
        raise FileExistsError(medium.name)
    with changing(medium):
        if medium.size(root_key(1)) is None:  # else somebody has settled it, and extended it
            settle(medium, root, content)


def _root(grid: Grid, template: xr.Dataset) -> Root:
    """Return the first root of a store."""
    for name in (*template.variables, *template.dims):
        try:
            check_name(name)
        except ValueError:
            needed = "is what a store calls its tiles" if name == TILES else "is no name of a file"
            raise problem_with("axes", name, needed, "rename the experiment's parameter, or the record") from None
    variables = {
        str(name): Variable(
            tuple(map(str, variable.dims)),
            variable.dtype,
            as_json(variable.attrs),
            None if "seed" in variable.dims or name in grid.axes else variable.values,
        )
        for name, variable in template.variables.items()
    }
    for name in grid.names:
        variables[name] = variables[name]._replace(dtype=grid.values[name].dtype)
    sizes = {str(dim): length for dim, length in template.sizes.items() if dim not in grid.names}
    return _checked(Root(as_json(template.attrs) | {"created": now()}, grid, variables, sizes))


def _checked(root: Root) -> Root:
    """Refuse a root that is larger than readers take."""
    if root.places > LARGEST:
        held, needed = f"{root.places} seeds and values of axes", "a store has at most 2²⁷, with holes"
        raise problem_with("store", held, needed, "use two stores")
    if (tiles := math.prod(root.counts)) > MOST_TILES:
        raise problem_with(
            "store", f"{tiles} tiles", "a store has at most 2²⁴", "give more tile_runs, or use two stores"
        )
    return root


def admit(place: Place, wanted: Mapping[Any, Any], accept: Iterable[str] = ()) -> list[str]:
    """Refuse a sweep whose attributes are not those of the store, and record the differences that are accepted.

    Returns what was damaged of the store's metadata and has been made again. Raises a ValueError that names each
    difference, for names that cannot be accepted, and where there is no store.
    """
    medium = medium_of(place)

    def noted(root: Root) -> Root | None:
        accepted = check_same(medium.name, root.attributes, as_json(wanted), accept)
        notes = root.attributes.get("accepted", [])
        known = [difference for note in notes for difference in note["differences"]]
        if not set(accepted) - set(known):
            return None
        note = {"date": now(), "differences": accepted}
        return root._replace(attributes={**root.attributes, "accepted": [*notes, note]})

    return change(medium, "choose a path where nothing is yet", noted)


def extend(place: Place, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> None:
    """Let a store hold more seeds and axis values, after those that are there, in tiles of their own.

    What runs compute the same with, in 64 bits or in 32, is not new. Raises ValueError where there is no store.
    """

    def longer(root: Root) -> Root | None:
        new = {}
        for name, wanted in {**axes, "seed": seeds}.items():
            there = root.grid.values[name]
            new[name] = wanted[places_of(wanted, there, root.attributes["x64"] or name == "seed") < 0]
        if not any(map(len, new.values())):
            return None
        return _checked(root._replace(grid=root.grid.extended(new)))

    change(medium_of(place), "create it first", longer)


def mend(store: TileStore, *, thorough: bool = False) -> list[str]:
    """Look at every tile that is done, take back those that are damaged, and return what was wrong.

    What was written and is not marked, or whose mark was lost, is marked. The runs of a damaged tile are missing, so
    that the sweep makes them again. With `thorough` every file is read, which finds what has changed without a trace in
    its length or time. Tiles that others work on are left to them. Raises OSError for what cannot be read.
    """
    said = []
    for key, what in store.marks.damaged.items():
        store.medium.put_aside(key)
        said.append(f"{key} {what}")
    found = store.look(thorough=thorough)
    store.remember(found.read)
    for tile in found.lost:
        with store.claimed(tile) as mine:
            # Somebody else may have made it again in the meantime.
            damaged = store.look(tile, thorough=thorough).damaged if mine else {}
            if damaged:
                store.drop(tile, [key for key, what in damaged.items() if what != MISSING])
                said += [f"{key} {what}" for key, what in damaged.items()]
    store.refresh()
    for tile in written_only(store.medium, store.root, store.marks):
        with store.claimed(tile) as mine:
            if mine and not store.is_done(tile):
                store.adopt(tile)
    _put_together(store)
    return said


def _put_together(store: TileStore) -> None:
    """Put many files of few marks together, since every reader reads them all.

    Whoever still writes to one of them writes it again, with the marks that were in it: those are there twice then.
    """
    names, records = store.marks.small()
    if len(names) > _MANY:
        Writer(store.medium, store.root).put(records)
        for name in store.marks.unchanged(names):
            store.medium.delete(f"{TILES}/{name}")
