"""What is done to a whole store: it is created, a sweep is admitted to it, it is extended, and mended."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.engine.axes import places_of
from jaxfact.inputs import problem_with
from jaxfact.results.files import consolidate, encoded
from jaxfact.results.whole import whole_folder
from jaxfact.store.differences import check_same
from jaxfact.store.grid import Grid
from jaxfact.store.layout import BLOCKS, TILES, Layout, Tile, as_json, dims_of, metadata_in, read_json, write_json
from jaxfact.store.marks import Mark, changing, now
from jaxfact.store.shards import parts_of
from jaxfact.store.tilestore import TileStore

_COORDINATES = 65536
_FILL = {"f": float("nan"), "i": -1, "u": 0, "b": False}


def create(path: Path, grid: Grid, template: xr.Dataset) -> None:
    """Make an empty store for the runs of a grid; it appears whole or not at all.

    `template` is the dataset of all variants at one point and one seed: its variables, its attributes, and the sizes of
    the dimensions after the seeds.

    Raises FileExistsError where something is there, which is left alone, and ValueError for an axis named `tiles`.
    """
    if TILES in grid.axes:
        raise problem_with("axes", TILES, "is what a store calls its tiles", "rename the experiment's parameter")
    try:
        with whole_folder(path, new=True) as made:
            _fill(made, grid, encoded(template))
    except OSError as error:
        if path.exists():
            raise FileExistsError(path) from error
        raise


def _fill(path: Path, grid: Grid, template: xr.Dataset) -> None:
    import zarr  # only now, as in `TileStore`

    attributes = as_json(template.attrs) | {BLOCKS: list(grid.blocks), "created": now()}
    group = zarr.create_group(path, zarr_format=3, attributes=attributes)
    lengths = dict(zip(grid.names, grid.shape, strict=True))
    blocks = dict(zip(grid.names, grid.blocks, strict=True)) | {"variant": 1}
    for name, variable in template.variables.items():
        _create_array(group, str(name), variable, lengths, blocks)
    for name in lengths:
        coordinate: Any = group[name]
        coordinate[:] = grid.axes.get(name, grid.seeds)
    group.create_group(TILES)
    consolidate(path)


def _create_array(group: Any, name: str, variable: Any, lengths: Mapping[str, int], blocks: Mapping[str, int]) -> None:
    """Create one variable or coordinate; what runs do not change is written at once."""
    from zarr.codecs import Crc32cCodec

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
        attributes=as_json(variable.attrs),
        dimension_names=variable.dims,
        **layout,
    )
    if "shards" not in layout and name not in lengths:
        array[...] = variable.values


def admit(path: Path, wanted: Mapping[Any, Any], accept: Iterable[str] = ()) -> None:
    """Refuse a sweep whose attributes are not those of the store, and record the differences that are accepted.

    Raises a ValueError that names each difference, for names that cannot be accepted, and where there is no store.
    """
    layout = Layout.of(path, "choose a path where nothing is yet")
    with changing(layout):
        root = read_json(layout.root)
        if accepted := check_same(path, root["attributes"], as_json(wanted), accept):
            notes = root["attributes"].setdefault("accepted", [])
            notes.append({"date": now(), "differences": accepted})
            write_json(layout.root, root)


def extend(path: Path, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> None:
    """Let a store hold more seeds and axis values, after those that are there.

    Readers see the shapes in the root's metadata, which one atomic replacement switches to larger ones. Raises
    ValueError where there is no store.
    """
    layout = Layout.of(path, "create it first")
    with changing(layout):
        root, grown = read_json(layout.root), {}
        x64 = root["attributes"]["x64"]
        arrays = {name: of for name, of in metadata_in(root).items() if of["node_type"] == "array"}
        for name, wanted in {**axes, "seed": seeds}.items():
            there = arrays[name]["shape"][0]
            if (length := _lengthened(path, name, there, wanted, x64 or name == "seed")) is not None:
                grown[name] = length
        if not grown:
            return
        for metadata in arrays.values():
            sizes = zip(dims_of(metadata), metadata["shape"], strict=True)
            metadata["shape"] = [grown.get(dim, length) for dim, length in sizes]
        write_json(layout.root, root)
        for name, metadata in arrays.items():
            write_json(layout.array(name), metadata)


def _lengthened(path: Path, name: str, length: int, wanted: np.ndarray, x64: bool) -> int | None:
    """Write new values of a coordinate after those it keeps, and return how many there are; None without new ones.

    What runs compute the same with, in 64 bits or in 32, is not new. There may be more than readers see yet, from an
    extension that was cut short.
    """
    import zarr

    array = zarr.open_array(path / name, mode="r+")
    there = np.asarray(array)[:length]
    new = wanted[places_of(wanted, there, x64) < 0]
    if not len(new):
        return None
    both = np.concatenate([there, new])
    array.resize(len(both))
    array[:] = both
    return len(both)


def mend(store: TileStore) -> list[str]:
    """Read every tile that is done, with its checksums, drop those that are damaged, and return what was wrong.

    The runs of a dropped tile are missing, so the sweep makes them again. Tiles that others work on are left to them.
    """
    found = []
    for variant in range(len(store.variants)):
        for tile in store.tiles(variant):
            if store.mark(tile) is None:
                continue
            with store.claimed(tile) as mine:
                mark = store.mark(tile)
                if mine and mark is not None and (damage := _damage(store, tile, mark)):
                    store.drop(tile)
                    found.append(damage)
    return found


def _damage(store: TileStore, tile: Tile, mark: Mark) -> str:
    """Return what is wrong with a tile, or nothing."""
    for name, length in mark.files.items():
        file = store.path / name
        if not file.exists() or file.stat().st_size != length:
            return f"{name} has {file.stat().st_size if file.exists() else 0} bytes instead of {length}"
    for name in store.names:
        try:
            store.read(name, tile, mark.covers)
        except (ValueError, RuntimeError, OSError) as error:
            return f"{name} of tile {'-'.join(map(str, tile))} is damaged ({error})"
    return ""
