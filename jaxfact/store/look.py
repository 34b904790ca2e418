"""Whether the tiles of a store are what their marks say: what every reader looks at, and what only a check reads."""

from typing import NamedTuple

import numpy as np

from jaxfact.store.folder import Folder
from jaxfact.store.grid import Tile
from jaxfact.store.marks import HELD, Marks
from jaxfact.store.medium import FOREIGN, MISSING, Damage, Medium
from jaxfact.store.metadata import crc
from jaxfact.store.root import Root


class Look(NamedTuple):
    """What was found: `done` says of every tile, in its place, whether it is marked and whole.

    `damaged` maps files of tiles to what is wrong with them; `lost` are the tiles they belong to. `read` are the marks
    of those that were read and are whole, with the times of their files.
    """

    done: np.ndarray
    damaged: dict[str, str]
    lost: list[Tile]
    read: np.ndarray


def look(medium: Medium, root: Root, marks: Marks, tile: Tile | None = None, *, thorough: bool = False) -> Look:
    """Compare the files of all marked tiles, or of one, with their marks.

    In a folder each is there and has its length; what has changed since it was known to be whole is read, and where
    this is to be `thorough` everything is. Elsewhere nothing is looked at, or everything is read. Raises OSError for
    what cannot be read, which is not damage.
    """
    chosen = slice(None) if tile is None else marks.numbers == marks.number(tile)
    records, damaged = marks.records[chosen], {}
    wrong = np.zeros(len(records), bool)
    times = records["seen"].copy()
    doubtful: dict[str, np.ndarray] = {}
    keys: dict[tuple[str, ...], list[str]] = {}
    for name, variable in root.of_runs.items():
        has = records["sums"][name] >= HELD
        if isinstance(medium, Folder):
            files = keys.setdefault(variable.dims, _files(root, name, records["tile"]))
            lengths, changed = medium.seen(name, files).T
            bad = has & (lengths != root.length(name))
            for k in np.flatnonzero(bad):
                said = f"has {lengths[k]} bytes instead of {root.length(name)}"
                damaged[f"{name}/{files[k]}"] = {-1: MISSING, -2: FOREIGN}.get(int(lengths[k]), said)
            wrong |= bad
            times = np.maximum(times, np.where(has, changed, 0))
            doubtful[name] = has & ~bad & ((changed > records["seen"]) | thorough)
        else:
            doubtful[name] = has & thorough
    for name, which in doubtful.items():
        for k in np.flatnonzero(which):
            key = root.key(name, tuple(records["tile"][k].tolist()))
            if what := _said_of(medium, key, int(records["sums"][name][k]) - HELD):
                damaged[key], wrong[k] = what, True
    was_read = ~wrong & np.any([np.zeros(len(records), bool), *doubtful.values()], axis=0)
    read = records[was_read].copy()
    read["seen"] = times[was_read]
    done = marks.done()
    lost = [tuple(tile) for tile in records["tile"][wrong].tolist()]
    for tile in lost:
        done[tile] = False
    return Look(done, damaged, lost, read)


def _said_of(medium: Medium, key: str, wanted: int) -> str:
    """Read a file, and return what is wrong with it, or nothing."""
    try:
        content = medium.get(key)
    except Damage as damage:
        return damage.what
    if content is None:
        return MISSING
    return "" if crc(content) == wanted else "has another checksum than it should"


def _files(root: Root, name: str, tiles: np.ndarray) -> list[str]:
    """Return the names of the files of a variable of some tiles."""
    along = {dim: k for k, dim in enumerate(("variant", *root.grid.names))}
    form = ".".join(["c", *("%d" if dim in along else "0" for dim in root.variables[name].dims)])
    chosen = tiles[:, [along[dim] for dim in root.variables[name].dims if dim in along]]
    return [form % tuple(places) for places in chosen.tolist()]
