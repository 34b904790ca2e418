"""Going on with a store: with the same sweep alone, and behind what is there."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from jaxfact.store.claims import changing
from jaxfact.store.differences import check_same
from jaxfact.store.layout import Layout, as_json, dims_of, metadata_in, read_json, write_json
from jaxfact.store.marks import now


def admit(path: Path, wanted: Mapping[Any, Any], accept: Iterable[str] = ()) -> None:
    """Refuse a sweep whose attributes are not those of the store, and write down the differences that are accepted.

    Raises ValueError that names each difference, for names that cannot be accepted, and where there is no store.
    """
    layout = Layout.of(path, "choose a path where nothing is yet")
    with changing(layout):
        root = read_json(layout.root)
        if accepted := check_same(path, root["attributes"], as_json(wanted), accept):
            notes = root["attributes"].setdefault("accepted", [])
            notes.append({"date": now(), "differences": accepted})
            write_json(layout.root, root)


def extend(path: Path, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> None:
    """Let a store hold more seeds and axis values, behind those that are there.

    Readers see the shapes in the root's metadata, which one atomic replacement switches to larger ones. Raises
    ValueError where there is no store.
    """
    layout = Layout.of(path, "create it first")
    with changing(layout):
        root, grown = read_json(layout.root), {}
        arrays = {name: of for name, of in metadata_in(root).items() if of["node_type"] == "array"}
        for name, wanted in {**axes, "seed": seeds}.items():
            if (length := _lengthened(path, name, arrays[name]["shape"][0], wanted)) is not None:
                grown[name] = length
        if not grown:
            return
        for metadata in arrays.values():
            sizes = zip(dims_of(metadata), metadata["shape"], strict=True)
            metadata["shape"] = [grown.get(dim, length) for dim, length in sizes]
        write_json(layout.root, root)
        for name, metadata in arrays.items():
            write_json(layout.array(name), metadata)


def _lengthened(path: Path, name: str, length: int, wanted: np.ndarray) -> int | None:
    """Write new values behind the first so many of a coordinate, and return how many there are, None without new ones.

    There may be more than readers see yet, of an extension that was cut short.
    """
    array = zarr.open_array(path / name, mode="r+")
    there = np.asarray(array)[:length]
    new = np.setdiff1d(wanted, there)
    if not len(new):
        return None
    both = np.concatenate([there, [value for value in wanted if value in new]])
    array.resize(len(both))
    array[:] = both
    return len(both)
