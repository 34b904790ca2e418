"""A store that is read and written tile by tile, by several threads and processes, and outlives them all.

A tile is a block of seeds at a block of points of one variant. It is written once, one shard per variable, and then
marked, and never changes. What is not marked is not there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from jaxfact.store import claims
from jaxfact.store.folder import Folder
from jaxfact.store.grid import Grid, Tile
from jaxfact.store.look import Look, look
from jaxfact.store.marks import HELD, Mark, Marks, Writer
from jaxfact.store.medium import MISSING, Damage, Medium, Place, medium_of, put_over
from jaxfact.store.metadata import crc, fill_of
from jaxfact.store.root import Root
from jaxfact.store.roots import read_root
from jaxfact.store.shards import parts_of, shard_of, values_in


class Results(NamedTuple):
    """What was found in a tile: the levels of its hits, and the dims and values of every variable."""

    levels: np.ndarray
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]]


class TileStore:
    """A store, opened; `root` says what it is to hold, `grid` what of each variant.

    Opening changes nothing: see `create`, `extend` and `mend`. Raises ValueError where there is no store.
    """

    def __init__(self, place: Place):
        self.medium: Medium = medium_of(place)
        self.root: Root = read_root(self.medium, "give the path that the sweep was given").root
        self.marks: Marks = Marks(self.medium, self.root)
        self._done = self.marks.done()
        self._writer = Writer(self.medium, self.root)

    @property
    def name(self) -> str:
        """What a user calls it."""
        return self.medium.name

    @property
    def grid(self) -> Grid:
        """What it is to hold of each variant, in its order there."""
        return self.root.grid

    @property
    def variants(self) -> list[str]:
        """Their names, an empty one where there is one variant without a name."""
        return self.root.variants

    @property
    def names(self) -> list[str]:
        """The variables of the runs."""
        return list(self.root.of_runs)

    def tiles(self, variant: int) -> list[Tile]:
        """Return every tile of a variant, in the order in which they should be made."""
        return self.grid.tiles(variant)

    def is_done(self, tile: Tile) -> bool:
        """Tell whether the store holds a tile, by anybody's hand."""
        if not self._done[tile] and self.medium.size(self.root.key("outcome", tile)) is not None:
            self.marks.refresh()
            self._done |= self.marks.done()
        return bool(self._done[tile])

    def held(self, variant: int) -> int:
        """Return how many runs of a variant the store holds."""
        return int(np.sum(self.grid.sizes(), where=self._done[variant]))

    def left(self, variant: int, asked: np.ndarray) -> list[Tile]:
        """Return the tiles of a variant that are not done, of those asked for."""
        wanted = asked & ~self._done[variant]
        return [tile for tile in self.tiles(variant) if wanted[tile[1:]]]

    @contextmanager
    def claimed(self, tile: Tile) -> Iterator[bool]:
        """Take a tile for the time of the block; false where another thread or process has it."""
        with claims.claimed(self.medium, tile, (self.root.key(name, tile) for name in self.names)) as mine:
            yield mine

    def write(self, tile: Tile, found: Results, facts: Mapping[str, Any]) -> None:
        """Write a tile, then mark it, with the number of its steps and the seconds it took."""
        sums = {}
        # The outcome last: where it is, everything is.
        for name in sorted(found.variables, key=lambda name: (name == "outcome", name)):
            content = self._shard(name, found)
            put_over(self.medium, self.root.key(name, tile), content)
            sums[name] = crc(content)
        names = self.root.outcomes
        counts = Counter(map(names.__getitem__, found.variables["outcome"][1].ravel().tolist()))
        self._writer.write([Mark(tile, counts, facts["run_steps"], facts["seconds"], sums, self._seen(tile, sums))])
        self._done[tile] = True

    def read(self, name: str, tile: Tile) -> np.ndarray:
        """Return the values of a variable of a tile. Raises Damage where its file is not what was written."""
        key = self.root.key(name, tile)
        content = self.medium.get(key)
        shape, dtype = self.root.shard(name), self.root.variables[name].dtype
        values = None if content is None else values_in(content, shape, dtype)
        if values is None:
            raise Damage(key, MISSING if content is None else "has another checksum than it should")
        along = dict(zip(self.grid.names, map(len, self.grid.box(tile)), strict=True))
        return values[tuple(slice(along.get(dim)) for dim in self.root.variables[name].dims)]

    def look(self, tile: Tile | None = None, *, thorough: bool = False) -> Look:
        """Compare the tiles that are marked with their files; one alone by its last mark."""
        if tile is not None:
            self.refresh()
        return look(self.medium, self.root, self.marks, tile, thorough=thorough)

    def remember(self, seen: np.ndarray) -> None:
        """Keep marks whose files were read and are whole, so that the next process need not read them."""
        if len(seen) and isinstance(self.medium, Folder):
            self._writer.put(seen)

    def drop(self, tile: Tile, damaged: Sequence[str]) -> None:
        """Move damaged files of a tile aside and take back its mark, so that its runs are missing."""
        for key in damaged:
            self.medium.put_aside(key)
        self._writer.write([Mark(tile, {}, 0, 0.0, {}, self._since(tile))])
        self._done[tile] = False

    def adopt(self, tile: Tile) -> bool:
        """Mark a tile that was written and not marked, or whose mark was lost; false where it is not whole."""
        done = self.marks.records[self.marks.records["tile"][:, 0] == tile[0]]
        names = self.names if not len(done) else [n for n in self.names if done[0]["sums"][n] >= HELD]
        try:
            values = {name: self.read(name, tile) for name in names}
        except Damage:
            return False
        sums = {name: crc(self.medium.get(self.root.key(name, tile)) or b"") for name in names}
        counts = Counter(map(self.root.outcomes.__getitem__, values["outcome"].ravel().tolist()))
        steps = int(np.sum(values["steps"], dtype=np.int64))
        self._writer.write([Mark(tile, counts, steps, 0.0, sums, self._seen(tile, sums))])
        self._done[tile] = True
        return True

    def refresh(self) -> None:
        """Take note of what others have marked, or taken back."""
        self.marks.refresh()
        self._done = self.marks.done()

    def _shard(self, name: str, found: Results) -> bytes:
        """Return a variable of a tile as a file; at the end of a segment it is smaller than its shard."""
        variable, shape = self.root.variables[name], self.root.shard(name)
        _, values = found.variables[name]
        if "level" in variable.dims:  # a variant's own levels are some of those of all
            levels = self.root.coordinates["level"]
            own, values = values, np.full((*values.shape[:-1], len(levels)), np.nan)
            values[..., np.searchsorted(-levels, -found.levels)] = own
        if "variant" in variable.dims:
            values = np.expand_dims(values, variable.dims.index("variant"))
        whole = values.astype(variable.dtype, copy=False)
        if whole.shape != shape:
            whole = np.full(shape, fill_of(variable.dtype), variable.dtype)
            whole[tuple(map(slice, values.shape))] = values
        return shard_of(whole, parts_of(shape))

    def _seen(self, tile: Tile, names: Mapping[str, int]) -> int:
        """Return when the files of a tile changed last, later than any mark of it."""
        if not isinstance(self.medium, Folder):
            return self._since(tile)
        keys = [self.root.key(name, tile).split("/") for name in names]
        times = [self.medium.seen(folder, [file])[0, 1] for folder, file in keys]
        return max(int(max(times)), self._since(tile))

    def _since(self, tile: Tile) -> int:
        """Return a time later than that of any mark of a tile."""
        mark = self.marks.latest(tile)
        return 0 if mark is None else int(mark["seen"]) + 1
