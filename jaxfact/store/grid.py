"""The runs of a store as a grid, cut into tiles that never change."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

Tile = tuple[int, ...]
"""The number of the variant, and the place of a block of runs along the axes and, last, along the seeds."""

Box = tuple[range, ...]
"""Numbers of values of the axes and, last, of seeds."""

Ends = tuple[int, ...]
"""Where the segments of a dimension end on disk; each begins where a tile does, so that those before stay as they are.

Places between are holes: they have no value.
"""


class Grid(NamedTuple):
    """The runs of one variant: the values of each axis, the seeds, the lengths of a tile along them, and the segments.

    Without `ends`, each dimension is one segment.
    """

    axes: Mapping[str, np.ndarray]
    seeds: np.ndarray
    blocks: tuple[int, ...]
    ends: tuple[Ends, ...] = ()

    @property
    def names(self) -> list[str]:
        """The dimensions: the axes and, last, the seeds."""
        return [*self.axes, "seed"]

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The values of every dimension."""
        return {**self.axes, "seed": self.seeds}

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each axis, and of seeds."""
        return (*map(len, self.axes.values()), len(self.seeds))

    @property
    def runs(self) -> int:
        """The number of runs of one variant."""
        return math.prod(self.shape)

    @property
    def segments(self) -> tuple[Ends, ...]:
        """Where the segments of each dimension end on disk."""
        return self.ends or tuple((length,) for length in self.shape)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of tiles along each dimension."""
        return tuple(-(-ends[-1] // block) for ends, block in zip(self.segments, self.blocks, strict=True))

    def places(self) -> dict[str, np.ndarray]:
        """Return where the values of each dimension lie on disk."""
        found = {}
        for name, ends, block in zip(self.names, self.segments, self.blocks, strict=True):
            begins = (0, *(-(-end // block) * block for end in ends[:-1]))
            found[name] = np.concatenate([np.arange(*segment) for segment in zip(begins, ends, strict=True)])
        return found

    def sizes(self) -> np.ndarray:
        """Return the number of runs in every tile of a variant, in its place."""
        found = np.ones((), np.int64)
        for where, count, block in zip(self.places().values(), self.counts, self.blocks, strict=True):
            edges = np.searchsorted(where, np.arange(count + 1) * block)
            found = np.multiply.outer(found, np.diff(edges))
        return found

    def tiles_with(self, chosen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return for every tile of a variant, in its place, whether it has any of the values of these numbers."""
        found = np.ones((), bool)
        for (name, where), count, block in zip(self.places().items(), self.counts, self.blocks, strict=True):
            found = np.logical_and.outer(found, np.isin(np.arange(count), where[chosen[name]] // block))
        return found

    def tiles(self, variant: int) -> list[Tile]:
        """Return every tile of a variant; seeds run slowest, so that early results are paired."""
        counts = self.counts
        places = itertools.product(*(range(n) for n in (counts[-1], *counts[:-1])))
        return [(variant, *place[1:], place[0]) for place in places]

    def box(self, tile: Tile) -> Box:
        """Return the numbers of a tile's values along each dimension."""
        return tuple(
            range(*_cut(ends, block, place))
            for ends, block, place in zip(self.segments, self.blocks, tile[1:], strict=True)
        )

    def at(self, box: Box) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the values of the axes and the seeds in a box."""
        axes = {name: values[p.start : p.stop] for (name, values), p in zip(self.axes.items(), box, strict=False)}
        return axes, self.seeds[box[-1].start : box[-1].stop]

    def extended(self, new: Mapping[str, np.ndarray]) -> "Grid":
        """Return the grid with more values along some dimensions, in segments of their own."""
        axes = {name: _joined(values, new.get(name)) for name, values in self.axes.items()}
        ends = [
            (*old, -(-old[-1] // block) * block + len(new[name])) if len(new.get(name, ())) else old
            for name, old, block in zip(self.names, self.segments, self.blocks, strict=True)
        ]
        ends = [_merged(some, block) for some, block in zip(ends, self.blocks, strict=True)]
        return Grid(axes, _joined(self.seeds, new.get("seed")), self.blocks, tuple(ends))


def blocks_of(axes: Sequence[int], seeds: int, runs: int) -> tuple[int, ...]:
    """Return the lengths, along the axes and the seeds, of a tile of about this many runs.

    All points of some seeds where they fit, so that tiles take equally long however times differ along the axes. Where
    a number of seeds not much smaller divides all of them, it is taken, so that more may follow without a hole.
    """
    left, blocks = max(1, runs), []
    for length in reversed(axes):
        blocks.insert(0, max(1, min(length, left)))
        left //= blocks[0]
    most = max(1, min(seeds, left))
    even = next((length for length in range(most, 3 * most // 4, -1) if seeds % length == 0), most)
    return (*blocks, even)


def size(box: Box) -> int:
    """Return the number of runs in a box."""
    return math.prod(map(len, box))


def _cut(ends: Ends, block: int, place: int) -> tuple[int, int]:
    """Return the numbers of the values between which a tile lies: those of holes before it are not counted."""
    holes = 0
    for end in ends:
        if place * block < end:
            return place * block - holes, min((place + 1) * block, end) - holes
        holes += -end % block
    raise IndexError(place)


def _joined(values: np.ndarray, new: np.ndarray | None) -> np.ndarray:
    return values if new is None or not len(new) else np.concatenate([values, new.astype(values.dtype)])


def _merged(ends: Ends, block: int) -> Ends:
    """Return the ends without those that lie between two whole tiles: they leave no hole."""
    return (*(end for end in ends[:-1] if end % block), ends[-1])
