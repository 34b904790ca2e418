"""What a sweep's store looks like on disk; nothing else knows these names.

    zarr.json                  what was run, and the metadata of all arrays: what readers open
    NAME/zarr.json             the metadata of one variable
    NAME/c/0/2/1               a tile of it: one shard
    tiles/zarr.json            that this is a store of a sweep
    tiles/0-2-1/zarr.json      the mark of a tile that is done
    tiles/0-2-1.lock, .owner   of a tile that somebody is working on, and who
    tiles/store.lock           held while attributes or shapes change

It is light, so that the command line can read a store's attributes before JAX is loaded.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxfact.inputs import problem_with
from jaxfact.results.whole import whole_file

TILES = "tiles"
BLOCKS = "tile"
"""The attribute that holds the lengths of a tile."""

_METADATA = "zarr.json"

Tile = tuple[int, ...]
"""The number of the variant, and the place of a block of runs along the axes and, last, along the seeds."""


class Layout(NamedTuple):
    """Where everything in a store lies."""

    path: Path

    @classmethod
    def of(cls, path: Path, instead: str) -> "Layout":
        """Return the layout of a store. Raises ValueError, which ends in what to do instead, where there is none."""
        layout = cls(path)
        if not (path / TILES / _METADATA).is_file():
            raise problem_with("store", path, "is not the store of a sweep", instead)
        return layout

    @property
    def root(self) -> Path:
        """The file that readers open."""
        return self.path / _METADATA

    @property
    def lock(self) -> Path:
        """What is locked while attributes or shapes change."""
        return self.path / TILES / "store.lock"

    def array(self, name: str) -> Path:
        """Return the file with the metadata of a variable."""
        return self.path / name / _METADATA

    def shard(self, name: str, places: Sequence[int]) -> Path:
        """Return the file of a variable at a place along each of its dimensions."""
        return self.path.joinpath(name, "c", *map(str, places))

    def mark(self, tile: Tile) -> Path:
        """Return the file that says what a tile holds, where it is done."""
        return self.path / TILES / "-".join(map(str, tile)) / _METADATA

    def tile_lock(self, tile: Tile) -> Path:
        """Return what is locked by whoever works on a tile."""
        return self.mark(tile).parent.with_suffix(".lock")

    def owner(self, tile: Tile) -> Path:
        """Return the file that says who works on a tile."""
        return self.mark(tile).parent.with_suffix(".owner")

    def marked(self) -> list[Tile]:
        """Return the tiles that may be done: their marks may yet be missing."""
        return sorted(_tile(folder.name) for folder in self.path.glob(f"{TILES}/[0-9]*") if folder.is_dir())

    def owned(self) -> list[Tile]:
        """Return the tiles that a process works on, or worked on when it died."""
        return sorted(_tile(file.stem) for file in self.path.glob(f"{TILES}/[0-9]*.owner"))

    def attributes(self) -> dict[str, Any]:
        """Return what the store says about the sweep."""
        return read_json(self.root)["attributes"]

    def blocks(self) -> tuple[int, ...]:
        """Return the lengths of a tile along the axes and the seeds."""
        return tuple(self.attributes()[BLOCKS])

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of every variable, as the root has them."""
        return {name: of for name, of in metadata_in(read_json(self.root)).items() if of["node_type"] == "array"}


def metadata_in(root: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metadata of all arrays and groups in the content of a root; changing them changes the root."""
    return root["consolidated_metadata"]["metadata"]


def dims_of(array: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the dimensions that the metadata of an array name."""
    return tuple(array.get("dimension_names") or ())


def read_json(file: Path) -> dict[str, Any]:
    """Return the content of a file of metadata."""
    return json.loads(file.read_text(encoding="utf-8"))


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replace a file of metadata, in one step."""
    with whole_file(file) as made:
        made.write_bytes(json.dumps(content).encode())


def as_json(attributes: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return attributes as they are once they have been on disk."""
    return json.loads(json.dumps(dict(attributes)))  # pyright: ignore[reportArgumentType]


def _tile(name: str) -> Tile:
    return tuple(map(int, name.split("-")))
