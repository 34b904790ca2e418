"""What is wrong with a store, as every reader is told; light, so that `jaxfact status` loads neither JAX nor xarray."""

import numpy as np

from jaxfact.store import claims
from jaxfact.store.grid import Tile
from jaxfact.store.look import look
from jaxfact.store.marks import Marks
from jaxfact.store.medium import MISSING, Medium
from jaxfact.store.root import ROOT, TILES, Root
from jaxfact.store.roots import Found, beside


def damage_of(
    medium: Medium, known: Found, marks: Marks, *, thorough: bool = False
) -> tuple[dict[str, str], np.ndarray]:
    """Return what is wrong with a store, by file, beside what is known of its root; and which tiles are whole.

    Elsewhere than in a folder only a `thorough` look is one.
    """
    root = known.root
    if known.damaged == {ROOT: MISSING} and not len(marks.records) and not marks.damaged:
        return {}, marks.done()  # what follows from its first root is being written, or was cut short
    found = look(medium, root, marks, thorough=thorough)
    unlike = beside(medium, known) if medium.folder is not None or thorough else {}
    return {
        **known.damaged,
        **marks.damaged,
        **unlike,
        **({} if found.is_all else _without_mark(medium, root, marks)),
        **found.damaged,
    }, found.done


def _without_mark(medium: Medium, root: Root, marks: Marks) -> dict[str, str]:
    """Return the tiles that were written, that are not marked, and that nobody works on: their marks were lost.

    Who makes a tile marks it before letting go of it, so that marks are read again after that.
    """
    if left := [tile for tile in written_only(medium, root, marks) if claims.owner(medium, tile) is None]:
        marks.refresh()
    return {
        f"{TILES}/marks-*.npy": f"lacks tile {'-'.join(map(str, tile))}, which was written"
        for tile in left
        if marks.find(tile) is None
    }


def written_only(medium: Medium, root: Root, marks: Marks) -> list[Tile]:
    """Return the tiles in a folder that were written and are not marked."""
    there = set(medium.list("outcome")) if medium.folder is not None else set()
    if len(there) <= len(marks.numbers) + 1:  # and the metadata
        return []
    left = [tuple(place) for place in np.argwhere(~marks.done()).tolist()]
    return [tile for tile in left if root.key("outcome", tile).rpartition("/")[2] in there]
