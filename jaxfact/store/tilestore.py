"""A store that is written tile by tile, by several threads and processes, and outlives them all.

A tile is a block of seeds at a block of points of one variant. It is written whole, one shard a variable, and then
marked: by a Zarr group of its own, whose attributes say what it holds, how long it took and who made it. What is not
marked is not there. A tile is taken by locking a file, and the system releases the locks of a process that dies.
Readers see the shapes in the root's consolidated metadata, which one atomic replacement switches to larger ones.
"""

import itertools
import json
import math
import os
import shutil
import threading
import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import Crc32cCodec

from jaxfact.engine.outcomes import OUTCOMES
from jaxfact.inputs import problem_with
from jaxfact.results.files import consolidate, encoded
from jaxfact.store.differences import check_same
from jaxfact.store.provenance import here, now
from jaxfact.store.shards import parts_of, shard_of, write_whole

_TILES = "tiles"
_COORDINATES = 65536
_FILL = {"f": float("nan"), "i": -1, "u": 0, "b": False}

Box = tuple[range, ...]
"""Positions along the axes and, last, along the seeds."""


class Plan(NamedTuple):
    """What a store is to hold.

    `template` is the dataset of all variants at one point and one seed: its variables, and the sizes of what is behind
    the seeds. `blocks` are the lengths of a tile along the axes and the seeds.
    """

    axes: Mapping[str, np.ndarray]
    seeds: np.ndarray
    template: xr.Dataset
    blocks: tuple[int, ...]


class Results(NamedTuple):
    """What was found in a box: the levels that its hits are of, and the dims and values of every variable."""

    levels: np.ndarray
    variables: Mapping[str, tuple[Sequence[str], np.ndarray]]


class TileStore:
    """A store on disk, opened for writing; `axes` and `seeds` are those on disk, in their order there.

    Making one creates the store, or extends it by new seeds and axis values, drops tiles that are damaged, with a
    warning that names them, and refuses a store that another sweep has made.
    """

    def __init__(self, path: Path, plan: Plan, accept: Iterable[str] = ()):
        self.path = path
        self.notes: list[str] = []
        if not path.exists():
            _create(path, plan)
        _check_is_ours(path)
        with FileLock(path / _TILES / "store.lock"):
            self.notes = check_same(path, _root(path)["attributes"], _plain(plan.template.attrs), accept)
            self._extend(plan)
            self._note_accepted()
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(path, mode="r+")
            # What does not depend on the runs was written when the store was made.
            names = [str(name) for name, variable in plan.template.data_vars.items() if "seed" in variable.dims]
            self._arrays: dict[str, Any] = {name: group[name] for name in names}
        self._names = [*plan.axes, "seed"]
        self.axes: dict[str, np.ndarray] = {name: np.asarray(group[name]) for name in plan.axes}
        self.seeds: np.ndarray = np.asarray(group["seed"])
        self._levels = np.asarray(group["level"])
        attributes = _root(path)["attributes"]
        self.blocks: tuple[int, ...] = tuple(attributes["tile"])
        self.variants: list[str] | None = attributes["variants"]
        self._drop_damaged()

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values of each axis, and of seeds."""
        return (*map(len, self.axes.values()), len(self.seeds))

    @property
    def runs(self) -> int:
        """The number of runs of one variant."""
        return math.prod(self.shape)

    def tiles(self) -> list[tuple[int, ...]]:
        """Return the place of every tile, without the variant; seeds run slowest, so that early results are paired."""
        counts = [-(-length // block) for length, block in zip(self.shape, self.blocks, strict=True)]
        return [(*place[1:], place[0]) for place in itertools.product(*(range(n) for n in (counts[-1], *counts[:-1])))]

    def box(self, tile: Sequence[int]) -> Box:
        """Return the positions of a tile's runs."""
        begins = [place * block for place, block in zip(tile, self.blocks, strict=True)]
        ends = [min(begin + block, n) for begin, block, n in zip(begins, self.blocks, self.shape, strict=True)]
        return tuple(range(begin, end) for begin, end in zip(begins, ends, strict=True))

    def missing(self, tile: Sequence[int], variant: int) -> list[Box]:
        """Return the runs of a tile that the store does not hold, as boxes that do not overlap."""
        whole, mark = self.box(tile), self._mark(tile, variant)
        if mark is None:
            return [whole]
        held = [range(positions.start, end) for positions, end in zip(whole, mark["covers"], strict=True)]
        fresh = [range(old.stop, new.stop) for old, new in zip(held, whole, strict=True)]
        boxes = [(*held[:k], fresh[k], *whole[k + 1 :]) for k in range(len(whole))]
        return [box for box in boxes if all(map(len, box))]

    def held(self, variant: int) -> int:
        """Return how many runs of a variant the store holds."""
        return self.runs - sum(size(box) for tile in self.tiles() for box in self.missing(tile, variant))

    @contextmanager
    def claimed(self, tile: Sequence[int], variant: int) -> Iterator[bool]:
        """Take a tile for the time of the block; false where another thread or process has it."""
        folder = self._folder(tile, variant)
        lock = FileLock(folder.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        owner = folder.with_suffix(".owner")
        try:
            if owner.exists():  # it died, perhaps in the middle of a file
                self._clean(tile, variant)
            owner.write_text(json.dumps(here()))
            yield True
        finally:
            owner.unlink(missing_ok=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()

    def owner(self, tile: Sequence[int], variant: int) -> str:
        """Return who has taken a tile, in words."""
        try:
            who = json.loads(self._folder(tile, variant).with_suffix(".owner").read_text())
        except (OSError, ValueError):
            return "another process"
        return f"process {who['pid']} on {who['host']}"

    def write(
        self, tile: Sequence[int], variant: int, parts: Sequence[tuple[Box, Results]], facts: dict[str, Any]
    ) -> None:
        """Write the missing runs of a tile, then mark it; `facts` are kept with the mark."""
        for box, found in parts:
            # The outcome last: who sees that a run has ended sees its other numbers.
            for name in sorted(found.variables, key=lambda name: (name == "outcome", name)):
                self._put(name, found, box, variant)
        past = self._mark(tile, variant) or {"outcomes": {}, "work": []}
        codes = np.concatenate([found.variables["outcome"][1].ravel() for _, found in parts])
        counts = Counter(past["outcomes"]) + Counter(map(OUTCOMES.__getitem__, codes.tolist()))
        # Not those of all arrays: a variant may lack a variable of the others, as tied factors lack the imbalance.
        files = [self._shard(name, tile, variant) for name in parts[0][1].variables]
        attributes = {
            "covers": [positions.stop for positions in self.box(tile)],
            "outcomes": counts,
            "work": [*past["work"], {**facts, "runs": len(codes), "date": now(), **here()}],
            "files": {str(file.relative_to(self.path)): file.stat().st_size for file in files},
        }
        folder = self._folder(tile, variant)
        folder.mkdir(exist_ok=True)
        _write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})

    def _put(self, name: str, found: Results, box: Box, variant: int) -> None:
        """Write a variable of a box: as one file where it is the whole of a tile, else into the file that is there."""
        array = self._arrays[name]
        dims = array.metadata.dimension_names
        _, values = found.variables[name]
        if "level" in dims:  # a variant's own levels are some of those of all
            own, values = values, np.full((*values.shape[:-1], len(self._levels)), np.nan)
            values[..., np.searchsorted(-self._levels, -found.levels)] = own
        if "variant" in dims:
            values = np.expand_dims(values, dims.index("variant"))
        along = dict(zip(self._names, box, strict=True)) | {"variant": range(variant, variant + 1)}
        tile = tuple(positions.start // block for positions, block in zip(box, self.blocks, strict=True))
        if box == self.box(tile):
            whole = values.astype(array.dtype, copy=False)
            if whole.shape != array.shards:  # at the end of an axis
                whole = np.full(array.shards, array.fill_value, array.dtype)
                whole[tuple(map(slice, values.shape))] = values
            file = self._shard(name, tile, variant)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, shard_of(whole, array.chunks))
        else:
            array[tuple(slice(along[d].start, along[d].stop) if d in along else slice(None) for d in dims)] = values

    def _folder(self, tile: Sequence[int], variant: int) -> Path:
        return self.path / _TILES / "-".join(map(str, (variant, *tile)))

    def _mark(self, tile: Sequence[int], variant: int) -> dict[str, Any] | None:
        return read_mark(self._folder(tile, variant))

    def _shards(self, tile: Sequence[int], variant: int) -> list[Path]:
        """Return the files of a tile."""
        return [self._shard(name, tile, variant) for name in self._arrays]

    def _shard(self, name: str, tile: Sequence[int], variant: int) -> Path:
        places = dict(zip(self._names, tile, strict=True)) | {"variant": variant}
        dims = self._arrays[name].metadata.dimension_names
        return self.path.joinpath(name, "c", *(str(places.get(d, 0)) for d in dims))

    def _clean(self, tile: Sequence[int], variant: int) -> None:
        """Remove what a process that died in the middle of a file has left."""
        for file in (*self._shards(tile, variant), self._folder(tile, variant) / "zarr.json"):
            for partial in file.parent.glob(f"{file.name}.*.partial"):
                partial.unlink(missing_ok=True)

    def _drop_damaged(self) -> None:
        """Read every marked tile; unmark those that are damaged, and say which."""
        for variant, tile in itertools.product(range(len(self.variants or [""])), self.tiles()):
            if self._mark(tile, variant) is None:
                continue
            with self.claimed(tile, variant) as mine:
                mark = self._mark(tile, variant)
                if not mine or mark is None or not (damage := self._damage(tile, variant, mark)):
                    continue
                shutil.rmtree(self._folder(tile, variant))
                for file in self._shards(tile, variant):
                    file.unlink(missing_ok=True)
                warnings.warn(f"{self.path}: {damage}; the runs of this tile are made again", stacklevel=5)

    def _damage(self, tile: Sequence[int], variant: int, mark: Mapping[str, Any]) -> str:
        """Return what is wrong with a tile, or nothing."""
        for name, length in mark["files"].items():
            file = self.path / name
            if not file.exists() or file.stat().st_size != length:
                return f"{name} has {file.stat().st_size if file.exists() else 0} bytes instead of {length}"
        along = {d: slice(r.start, end) for d, r, end in zip(self._names, self.box(tile), mark["covers"], strict=True)}
        for name, array in self._arrays.items():
            dims = array.metadata.dimension_names
            try:
                array[tuple(variant if d == "variant" else along.get(d, slice(None)) for d in dims)]
            except (ValueError, RuntimeError, OSError) as error:
                return f"{name} of tile {'-'.join(map(str, (variant, *tile)))} is damaged ({error})"
        return ""

    def _note_accepted(self) -> None:
        if self.notes:
            root = _root(self.path)
            accepted = root["attributes"].setdefault("accepted", [])
            accepted.append({"date": now(), "differences": self.notes})
            _write_json(self.path / "zarr.json", root)

    def _extend(self, plan: Plan) -> None:
        """Add new seeds and axis values behind those that are there."""
        root, grown = _root(self.path), {}
        for name, wanted in {**plan.axes, "seed": plan.seeds}.items():
            length = root["consolidated_metadata"]["metadata"][name]["shape"][0]
            array = zarr.open_array(self.path / name, mode="r+")
            there = np.asarray(array)[:length]
            new = np.setdiff1d(wanted, there)
            if len(new):
                both = np.concatenate([there, [value for value in wanted if value in new]])
                array.resize(len(both))
                array[:] = both
                grown[name] = len(both)
        if not grown:
            return
        for metadata in root["consolidated_metadata"]["metadata"].values():
            dims = metadata.get("dimension_names") or ()
            if set(dims) & set(grown):
                sizes = zip(dims, metadata["shape"], strict=True)
                metadata["shape"] = [grown.get(dim, length) for dim, length in sizes]
        _write_json(self.path / "zarr.json", root)
        for name, metadata in root["consolidated_metadata"]["metadata"].items():
            if metadata["node_type"] == "array":
                _write_json(self.path / name / "zarr.json", metadata)


def stored_blocks(path: Path) -> tuple[int, ...] | None:
    """Return the lengths of the tiles of a store, None where there is nothing yet."""
    if not path.exists():
        return None
    _check_is_ours(path)
    return tuple(_root(path)["attributes"]["tile"])


def blocks_of(axes: Sequence[int], seeds: int, runs: int) -> tuple[int, ...]:
    """Return the lengths of a tile of about so many runs along the axes and the seeds.

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


def read_mark(folder: Path) -> dict[str, Any] | None:
    """Return what the mark of a tile says, None where the tile is not done."""
    try:
        return json.loads((folder / "zarr.json").read_text())["attributes"]
    except FileNotFoundError:
        return None


def marks(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the marks of a store say, and the number of the `variant` each is of."""
    for folder in sorted((path / _TILES).iterdir()):
        if folder.is_dir() and (mark := read_mark(folder)) is not None:
            yield {**mark, "variant": int(folder.name.partition("-")[0])}


def _create(path: Path, plan: Plan) -> None:
    """Make an empty store beside its place, and move it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        attributes = _plain(plan.template.attrs) | {"tile": list(plan.blocks), "created": now()}
        group = zarr.create_group(made, zarr_format=3, attributes=attributes)
        lengths = {**{name: len(values) for name, values in plan.axes.items()}, "seed": len(plan.seeds)}
        blocks = dict(zip(lengths, plan.blocks, strict=True)) | {"variant": 1}
        form = encoded(plan.template)
        for name, variable in form.variables.items():
            _create_array(group, str(name), variable, lengths, blocks)
        for name in lengths:
            coordinate: Any = group[name]
            coordinate[:] = plan.axes.get(name, plan.seeds)
        group.create_group(_TILES)
        consolidate(made)
        made.rename(path)
    except OSError:
        if not path.exists():  # otherwise another process was faster
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _create_array(group: Any, name: str, variable: Any, lengths: Mapping[str, int], blocks: Mapping[str, int]) -> None:
    """Create one variable or coordinate; what runs do not change is written at once."""
    shape = tuple(lengths.get(d, n) for d, n in variable.sizes.items())
    if "seed" in variable.dims and name != "seed":
        shards = tuple(blocks.get(d, n) for d, n in zip(variable.dims, shape, strict=True))
        layout: dict[str, Any] = {"chunks": parts_of(shards), "shards": shards, "compressors": [Crc32cCodec()]}
    else:
        layout = {"chunks": tuple(_COORDINATES if d in lengths else max(1, n) for d, n in variable.sizes.items())}
    array = group.create_array(
        name,
        shape=shape,
        dtype=variable.dtype,
        fill_value=_FILL[variable.dtype.kind],
        attributes=_plain(variable.attrs),
        dimension_names=variable.dims,
        **layout,
    )
    if "shards" not in layout and name not in lengths:
        array[...] = variable.values


def _check_is_ours(path: Path) -> None:
    if not (path / _TILES / "zarr.json").is_file():
        raise problem_with("store", path, "is no store of a sweep", "choose a path where nothing is yet")


def _root(path: Path) -> dict[str, Any]:
    return json.loads((path / "zarr.json").read_text())


def _plain(attributes: Mapping[Hashable, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(attributes)))  # pyright: ignore[reportArgumentType]


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    write_whole(file, [json.dumps(content).encode()])
