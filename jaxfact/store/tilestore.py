"""A store that is read and written tile by tile, by several threads and processes, and outlives them all.

A tile is a block of seeds at a block of points of one variant. It is written whole, one shard per variable, and then
marked: by a Zarr group of its own, whose attributes say what it holds, how long it took and who made it. What is not
marked is not there. A tile is taken by locking a file, and the system releases the locks of a process that dies.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.results.whole import remains, whole_file
from jaxfact.store import marks
from jaxfact.store.grid import Box, Grid, size
from jaxfact.store.layout import Layout, Tile, dims_of
from jaxfact.store.marks import Mark, now, read_mark, unmark, write_mark
from jaxfact.store.shards import shard_of


class Results(NamedTuple):
    """What was found in a box: the levels of its hits, and the dims and values of every variable."""

    levels: np.ndarray
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]]


class TileStore:
    """A store on disk, opened; `grid` is what it is to hold of each variant, in its order there.

    `variants` are their names, an empty one where there is one variant without a name. Opening changes nothing:
    see `create`, `extend` and `mend`. Raises ValueError where there is no store.
    """

    def __init__(self, path: Path):
        import zarr  # a tenth of a second that sweeps without a store need not spend

        self.layout: Layout = Layout.of(path, "give the path that the sweep was given")
        attributes = self.layout.attributes()
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(path, mode="r+")
            # What does not depend on the runs was written when the store was made.
            self._arrays: dict[str, Any] = {
                name: group[name]
                for name, metadata in self.layout.arrays().items()
                if "seed" in dims_of(metadata) and name != "seed"
            }
        axes = {name: np.asarray(group[name]) for name in attributes["axes"]}
        self.grid: Grid = Grid(axes, np.asarray(group["seed"]), self.layout.blocks())
        self.variants: list[str] = attributes["variants"] or [""]
        self._levels = np.asarray(group["level"])

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.layout.path

    @property
    def names(self) -> list[str]:
        """The variables of the runs."""
        return list(self._arrays)

    def tiles(self, variant: int) -> list[Tile]:
        """Return every tile of a variant, in the order in which they should be made."""
        return self.grid.tiles(variant)

    def mark(self, tile: Tile) -> Mark | None:
        """Return the mark of a tile, None where it is not done."""
        return read_mark(self.layout, tile)

    def missing(self, tile: Tile) -> list[Box]:
        """Return the runs of a tile that the store does not hold, as boxes that do not overlap."""
        mark = self.mark(tile)
        return [self.grid.box(tile)] if mark is None else self.grid.beyond(tile, mark.covers)

    def held(self, variant: int) -> int:
        """Return how many runs of a variant the store holds."""
        return self.grid.runs - sum(size(box) for tile in self.tiles(variant) for box in self.missing(tile))

    @contextmanager
    def claimed(self, tile: Tile) -> Iterator[bool]:
        """Take a tile for the time of the block; false where another thread or process has it."""
        with marks.claimed(self.layout, tile, partial(self._tidy, tile)) as mine:
            yield mine

    def write(self, tile: Tile, parts: Sequence[tuple[Box, Results]], facts: Mapping[str, Any]) -> None:
        """Write the missing runs of a tile, then mark it; `facts` are kept with the mark."""
        for box, found in parts:
            # The outcome last: whoever sees that a run has ended sees its other numbers.
            for name in sorted(found.variables, key=lambda name: (name == "outcome", name)):
                self._put(name, found, tile, box)
        past = self.mark(tile)
        codes = np.concatenate([found.variables["outcome"][1].ravel() for _, found in parts])
        counts = Counter(past.outcomes if past else {}) + Counter(map(OUTCOMES.__getitem__, codes.tolist()))
        # Not those of all arrays: a variant may lack a variable that others have, as tied factors lack the imbalance.
        files = [self._shard(name, tile) for name in parts[0][1].variables]
        mark = Mark(
            covers=[positions.stop for positions in self.grid.box(tile)],
            outcomes=counts,
            work=[*(past.work if past else ()), {**facts, "runs": len(codes), "date": now(), **marks.here()}],
            files={str(file.relative_to(self.path)): file.stat().st_size for file in files},
        )
        write_mark(self.layout, tile, mark)

    def read(self, name: str, tile: Tile, ends: Sequence[int]) -> np.ndarray:
        """Return the values of a variable of a tile, up to some ends along the axes and the seeds.

        Raises ValueError, RuntimeError or OSError where its file is damaged.
        """
        box = self.grid.box(tile)
        along: dict[str, Any] = {
            dim: slice(positions.start, end) for dim, positions, end in zip(self.grid.names, box, ends, strict=True)
        }
        along["variant"] = tile[0]
        array = self._arrays[name]
        return array[tuple(along.get(dim, slice(None)) for dim in array.metadata.dimension_names)]

    def drop(self, tile: Tile) -> None:
        """Unmark a tile and remove its files, so that its runs are missing."""
        unmark(self.layout, tile)
        for name in self._arrays:
            self._shard(name, tile).unlink(missing_ok=True)

    def _put(self, name: str, found: Results, tile: Tile, box: Box) -> None:
        """Write a variable of a box: as one file where it is the whole of a tile, else into the file that is there."""
        array = self._arrays[name]
        dims = array.metadata.dimension_names
        _, values = found.variables[name]
        if "level" in dims:  # a variant's own levels are some of those of all
            own, values = values, np.full((*values.shape[:-1], len(self._levels)), np.nan)
            values[..., np.searchsorted(-self._levels, -found.levels)] = own
        if "variant" in dims:
            values = np.expand_dims(values, dims.index("variant"))
        if box == self.grid.box(tile):
            self._put_whole(array, self._shard(name, tile), values)
            return
        along = {dim: slice(p.start, p.stop) for dim, p in zip(self.grid.names, box, strict=True)}
        along["variant"] = slice(tile[0], tile[0] + 1)
        array[tuple(along.get(dim, slice(None)) for dim in dims)] = values

    def _put_whole(self, array: Any, file: Path, values: np.ndarray) -> None:
        """Write a whole tile of a variable, which at the end of an axis is smaller than its shard."""
        whole = values.astype(array.dtype, copy=False)
        if whole.shape != array.shards:
            whole = np.full(array.shards, array.fill_value, array.dtype)
            whole[tuple(map(slice, values.shape))] = values
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as made:
            made.write_bytes(b"".join(shard_of(whole, array.chunks)))

    def _shard(self, name: str, tile: Tile) -> Path:
        """Return the file of a variable of a tile."""
        places = dict(zip(("variant", *self.grid.names), tile, strict=True))
        dims = self._arrays[name].metadata.dimension_names
        return self.layout.shard(name, [places.get(dim, 0) for dim in dims])

    def _tidy(self, tile: Tile) -> None:
        """Remove what was left by a process that died in the middle of a file."""
        for file in (*(self._shard(name, tile) for name in self._arrays), self.layout.mark(tile)):
            for half in remains(file):
                half.unlink(missing_ok=True)
