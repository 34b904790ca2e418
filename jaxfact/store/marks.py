"""Marks: what is said of a tile once it is done. What is not marked is not there."""

import datetime
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxfact.store.layout import Layout, Tile, read_json, write_json


def now() -> str:
    """Return the date and time, to the millisecond: rates are read from the dates of short tiles."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Mark(NamedTuple):
    """What a tile holds: up to where along the axes and the seeds, how many runs of each outcome, and in which files.

    `work` says of each time that runs were made how many they were, how many steps, in how many seconds, when, and by
    whom; `files` maps the name of every file to its length.
    """

    covers: list[int]
    outcomes: dict[str, int]
    work: list[dict[str, Any]]
    files: dict[str, int]


def read_mark(layout: Layout, tile: Tile) -> Mark | None:
    """Return the mark of a tile, None where it is not done."""
    try:
        return Mark(**read_json(layout.mark(tile))["attributes"])
    except FileNotFoundError:
        return None


def write_mark(layout: Layout, tile: Tile, mark: Mark) -> None:
    """Mark a tile: by a Zarr group, so that anybody reads it."""
    layout.mark(tile).parent.mkdir(exist_ok=True)
    write_json(layout.mark(tile), {"zarr_format": 3, "node_type": "group", "attributes": mark._asdict()})


def unmark(layout: Layout, tile: Tile) -> None:
    """Remove the mark of a tile."""
    shutil.rmtree(layout.mark(tile).parent)


def marks(path: Path) -> Iterator[tuple[Tile, Mark]]:
    """Yield the tiles of a store that are done, and their marks; none where there is no store yet."""
    layout = Layout(path)
    for tile in layout.marked():
        if (mark := read_mark(layout, tile)) is not None:
            yield tile, mark
