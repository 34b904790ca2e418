"""The runs of a store as a grid, cut into tiles."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxfact.store.layout import Tile

Box = tuple[range, ...]
"""Positions along the axes and, last, along the seeds."""


class Grid(NamedTuple):
    """The runs of one variant: the values of each axis, the seeds, and the lengths of a tile along them."""

    axes: Mapping[str, np.ndarray]
    seeds: np.ndarray
    blocks: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """The dimensions: the axes and, last, the seeds."""
        return [*self.axes, "seed"]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each axis, and of seeds."""
        return (*map(len, self.axes.values()), len(self.seeds))

    @property
    def runs(self) -> int:
        """The number of runs of one variant."""
        return math.prod(self.shape)

    def tiles(self, variant: int) -> list[Tile]:
        """Return every tile of a variant; seeds run slowest, so that early results are paired."""
        counts = [-(-length // block) for length, block in zip(self.shape, self.blocks, strict=True)]
        places = itertools.product(*(range(n) for n in (counts[-1], *counts[:-1])))
        return [(variant, *place[1:], place[0]) for place in places]

    def box(self, tile: Tile) -> Box:
        """Return the positions of a tile's runs."""
        begins = [place * block for place, block in zip(tile[1:], self.blocks, strict=True)]
        ends = [min(begin + block, n) for begin, block, n in zip(begins, self.blocks, self.shape, strict=True)]
        return tuple(range(begin, end) for begin, end in zip(begins, ends, strict=True))

    def beyond(self, tile: Tile, ends: Sequence[int]) -> list[Box]:
        """Return the runs of a tile that lie beyond some ends along the dimensions, as boxes that do not overlap."""
        whole = self.box(tile)
        held = [range(positions.start, end) for positions, end in zip(whole, ends, strict=True)]
        fresh = [range(old.stop, new.stop) for old, new in zip(held, whole, strict=True)]
        boxes = [(*held[:k], fresh[k], *whole[k + 1 :]) for k in range(len(whole))]
        return [box for box in boxes if all(map(len, box))]

    def at(self, box: Box) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the values of the axes and the seeds in a box."""
        axes = {name: values[p.start : p.stop] for (name, values), p in zip(self.axes.items(), box, strict=False)}
        return axes, self.seeds[box[-1].start : box[-1].stop]


def blocks_of(axes: Sequence[int], seeds: int, runs: int) -> tuple[int, ...]:
    """Return the lengths, along the axes and the seeds, of a tile of about this many runs.

    All points of some seeds where they fit, so that tiles take equally long however times differ along the axes.
    """
    left, blocks = max(1, runs), []
    for length in reversed(axes):
        blocks.insert(0, max(1, min(length, left)))
        left //= blocks[0]
    return (*blocks, max(1, min(seeds, left)))


def size(box: Box) -> int:
    """Return the number of runs in a box."""
    return math.prod(map(len, box))
