"""Whether the tiles of a store are what their marks say: what every reader looks at, and what only a check reads."""

from typing import NamedTuple

import numpy as np

from jaxfact.store.folder import Folder
from jaxfact.store.grid import Tile
from jaxfact.store.marks import HELD, Marks
from jaxfact.store.medium import FOREIGN, MISSING, Damage, Medium
from jaxfact.store.metadata import crc
from jaxfact.store.root import Root

_MANY, _LAST = 100_000, 1_000


class Look(NamedTuple):
    """What was found: `done` says of every tile, in its place, whether it is marked and whole.

    `damaged` maps files of tiles to what is wrong with them; `lost` are the tiles they belong to. `read` are the marks
    of those that were read and are whole, with the times of their files. `is_all` tells that the folder of the outcomes
    was listed, and holds no file of a tile that is not marked.
    """

    done: np.ndarray
    damaged: dict[str, str]
    lost: list[Tile]
    read: np.ndarray
    is_all: bool


def look(medium: Medium, root: Root, marks: Marks, tile: Tile | None = None, *, thorough: bool = False) -> Look:
    """Compare the files of all marked tiles, or of one, with their marks.

    In a folder each is there and has its length; what has changed since it was known to be whole is read, and where
    this is to be `thorough` everything is. Of very many files, only those of the last tiles are compared with their
    lengths, the others with the names in the folder: whatever is read of them is compared with its checksum then.
    Elsewhere nothing is looked at, or everything is read. Raises StoreError for what cannot be read.
    """
    records = marks.records[slice(None) if tile is None else marks.numbers == marks.number(tile)]
    names = list(root.of_runs)
    has = np.stack([records["sums"][name] >= HELD for name in names])
    wrong, doubtful, times = np.zeros(len(records), bool), has & thorough, records["seen"].copy()
    damaged: dict[str, str] = {}
    is_all = False
    if isinstance(medium, Folder):
        near = _compared(records, len(names), thorough)
        for k, name in enumerate(names):
            lengths, changed, counted = _seen(medium, root, name, records["tile"], near, int(has[k].sum()))
            is_all |= counted and name == "outcome"
            bad = has[k] & (lengths != root.length(name))
            for place in np.flatnonzero(bad):
                said = f"has {lengths[place]} bytes instead of {root.length(name)}"
                damaged[root.key(name, tuple(records["tile"][place].tolist()))] = {-1: MISSING, -2: FOREIGN}.get(
                    int(lengths[place]), said
                )
            wrong |= bad
            times = np.maximum(times, np.where(has[k], changed, 0))
            doubtful[k] = has[k] & ~bad & ((changed > records["seen"]) | thorough)
    for k, place in np.argwhere(doubtful):
        key = root.key(names[k], tuple(records["tile"][place].tolist()))
        if what := _said_of(medium, key, int(records["sums"][names[k]][place]) - HELD):
            damaged[key], wrong[place] = what, True
    was_read = ~wrong & doubtful.any(axis=0)
    read = records[was_read].copy()
    read["seen"] = times[was_read]
    done = marks.done()
    lost = [tuple(tile) for tile in records["tile"][wrong].tolist()]
    for tile in lost:
        done[tile] = False
    return Look(done, damaged, lost, read, is_all)


def _compared(records: np.ndarray, variables: int, thorough: bool) -> np.ndarray:
    """Return the places of the marks whose files are compared with their lengths."""
    if thorough or len(records) * variables <= _MANY:
        return np.arange(len(records))
    return np.argsort(records["date"])[-_LAST:]


def _seen(
    medium: Folder, root: Root, name: str, tiles: np.ndarray, near: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return length and time of change of the files of a variable; of those that are not near, as they should be.

    And whether their folder was listed, and has as many files as it should.
    """
    lengths, changed = np.full(len(tiles), root.length(name)), np.zeros(len(tiles), np.int64)
    is_all = len(near) < len(tiles) and medium.count(name) == count + 1  # and the metadata
    if len(near) < len(tiles) and not is_all:
        lost = ~np.isin(np.array(_files(root, name, tiles)), np.array(medium.list(name), dtype=str))
        near = np.union1d(near, np.flatnonzero(lost))
    lengths[near], changed[near] = medium.seen(name, _files(root, name, tiles[near])).T
    return lengths, changed, is_all


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
