"""Making an empty store, whose form is that of a dataset of one run of each variant."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
import zarr
from zarr.codecs import Crc32cCodec

from jaxfact.inputs import problem_with
from jaxfact.results.files import consolidate, encoded
from jaxfact.results.whole import whole_folder
from jaxfact.store.grid import Grid
from jaxfact.store.layout import TILES, as_json
from jaxfact.store.marks import now
from jaxfact.store.shards import parts_of

_COORDINATES = 65536
_FILL = {"f": float("nan"), "i": -1, "u": 0, "b": False}


def create(path: Path, grid: Grid, template: xr.Dataset) -> None:
    """Make an empty store for the runs of a grid; it appears whole or not at all.

    `template` is the dataset of all variants at one point and one seed: its variables, its attributes, and the sizes of
    what is behind the seeds.

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
    attributes = as_json(template.attrs) | {"tile": list(grid.blocks), "created": now()}
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
