"""The root of a store: everything but results, in one checked document of which all other metadata follow.

It is light, so that the command line can read what a sweep was before JAX is loaded.
"""

import hashlib
import json
import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxfact.store import metadata
from jaxfact.store.grid import Grid, Tile
from jaxfact.store.medium import Damage
from jaxfact.store.metadata import COORDINATES, LARGEST, Variable, array_of, chunk_key
from jaxfact.store.shards import length_of, parts_of

ROOT = "zarr.json"
TILES = "tiles"
BLOCKS = "tile"
"""The attribute that holds the lengths of a tile."""

MOST_TILES = 2**24
"""No store has more, over all variants."""

_OURS, _FORMAT = "store", 1
_GROUP = {"zarr_format": 3, "node_type": "group"}
_TEXTS = ("jaxfact", "jax", "jaxlib", "backend", "device", "matmul_precision", "compression", "date")
_OF_EXPERIMENT = ("experiment_name", "experiment_file", "signature", "program")
_NUMBERS = ("base_seed", "max_steps", "check_every")
_LISTS = {
    "axes": (str,),
    "cpu_features": (str,),
    "xla_flags": (str,),
    "record_names": (str,),
    "record_functions": (str,),
    "record_steps": (int,),
    "levels": (int, float),
}
# What is read of what a store says of its sweep, by its type.
_SAID = {
    **dict.fromkeys((*_TEXTS, *_OF_EXPERIMENT), str),
    **dict.fromkeys(_NUMBERS, int),
    **dict.fromkeys(("x64", "checked", "compensated"), bool),
    **dict.fromkeys(_LISTS, list),
}


class Root(NamedTuple):
    """What a store is to hold, and all that is said about it.

    `variables` are all arrays by name, in order; those of the runs have no values. `sizes` are the lengths of the
    dimensions behind the seeds, and the number of variants.
    """

    attributes: dict[str, Any]
    grid: Grid
    variables: dict[str, Variable]
    sizes: dict[str, int]
    generation: int = 0

    @property
    def variants(self) -> list[str]:
        """The names of the variants, an empty one where there is one without a name."""
        return self.attributes["variants"] or [""]

    @property
    def outcomes(self) -> list[str]:
        """The outcomes that runs have, by number."""
        return str(self.variables["outcome"].attributes["flag_meanings"]).split()[1:]

    @property
    def of_runs(self) -> dict[str, Variable]:
        """The variables of the runs."""
        return {name: of for name, of in self.variables.items() if of.values is None and name not in self.grid.names}

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of variants, and of tiles along each dimension of the grid."""
        return (len(self.variants), *self.grid.counts)

    @property
    def coordinates(self) -> dict[str, np.ndarray]:
        """The values of what runs do not change, without holes."""
        fixed = {name: of.values for name, of in self.variables.items() if of.values is not None}
        return fixed | self.grid.values

    @property
    def places(self) -> int:
        """The number of places on disk of all coordinates together, holes included."""
        fixed = sum(of.values.size for of in self.variables.values() if of.values is not None)
        return fixed + sum(ends[-1] for ends in self.grid.segments)

    def shard(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tile of a variable."""
        blocks = dict(zip(self.grid.names, self.grid.blocks, strict=True)) | {"variant": 1}
        return tuple(blocks.get(dim, self.sizes.get(dim, 0)) for dim in self.variables[name].dims)

    def length(self, name: str) -> int:
        """Return how many bytes a tile of a variable has."""
        return length_of(self.shard(name), self.variables[name].dtype)

    def key(self, name: str, tile: Tile) -> str:
        """Return the key of a variable of a tile."""
        places = dict(zip(("variant", *self.grid.names), tile, strict=True))
        return chunk_key(name, [places.get(dim, 0) for dim in self.variables[name].dims])

    def arrays(self) -> dict[str, dict[str, Any]]:
        """Return the metadata of every array, as Zarr has them."""
        ends = {name: some[-1] for name, some in zip(self.grid.names, self.grid.segments, strict=True)}
        found = {}
        for name, variable in self.variables.items():
            shape = tuple(ends.get(dim, self.sizes.get(dim, 0)) for dim in variable.dims)
            if name in self.grid.names:
                found[name] = array_of(variable, shape, [COORDINATES], None)
            elif variable.values is not None:
                found[name] = array_of(variable, shape, [max(1, length) for length in shape], None)
            else:
                found[name] = array_of(variable, shape, self.shard(name), parts_of(self.shard(name)))
        return found

    def files(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield the key and the values of every file of a coordinate, holes and all."""
        places = self.grid.places()
        for name, values in self.coordinates.items():
            if name in places:
                for k, part in enumerate(metadata.parts_along(_with_holes(values, places[name]), COORDINATES)):
                    yield chunk_key(name, [k]), part
            elif values.size:
                yield chunk_key(name, [0] * values.ndim), values

    def content(self) -> bytes:
        """Return the root as a file."""
        kept = {
            "format": _FORMAT,
            "generation": self.generation,
            "ends": dict(zip(self.grid.names, map(list, self.grid.segments), strict=True)),
            "values": {name: metadata.as_text(values) for name, values in self.coordinates.items()},
        }
        said = {**self.attributes, BLOCKS: list(self.grid.blocks), _OURS: kept}
        inside = {"kind": "inline", "must_understand": False, "metadata": {TILES: _EMPTY, **self.arrays()}}
        document = {**_GROUP, "attributes": said, "consolidated_metadata": inside}
        kept["sha256"] = _seal(document)
        return json.dumps(document).encode()


_EMPTY = {**_GROUP, "attributes": {}}
EMPTY_GROUP = json.dumps(_EMPTY).encode()
"""What says that a folder, such as `tiles`, is a group without arrays."""


def parsed(key: str, content: bytes) -> Root:
    """Return the root in a file. Raises Damage for anything that no sweep has written."""
    try:
        document = json.loads(content)
        kept = document["attributes"][_OURS]
        root = _understood(document, kept)
        # What follows from it is what it says, and all of it is as it was written.
        if {_seal(document), _seal(json.loads(root.content()))} != {kept["sha256"]} or kept["format"] != _FORMAT:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise Damage(key, "is not what a sweep writes") from None
    return root


def root_key(generation: int) -> str:
    """Return the key of a generation of a root."""
    return f"{TILES}/root-{generation}.json"


def generation_of(name: str) -> int | None:
    """Return which generation a file's name in `tiles` means, None for another file."""
    number = name.removeprefix("root-").removesuffix(".json")
    return int(number) if name == f"root-{number}.json" and number.isdecimal() and len(number) < 10 else None


def check_name(name: Any) -> None:
    """Refuse a name that no sweep gives a variable or dimension. Raises ValueError."""
    wrong = not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) < 200
    if wrong or name[0] in "._" or set(name) & set("/\\") or name in (ROOT, TILES):
        raise ValueError(name)


def as_json(attributes: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return attributes as they are once they have been on disk."""
    return json.loads(json.dumps(dict(attributes)))  # pyright: ignore[reportArgumentType]


def _understood(document: Mapping[str, Any], kept: Mapping[str, Any]) -> Root:
    """Return the root in a document that may hold anything."""
    attributes = {name: value for name, value in document["attributes"].items() if name not in (_OURS, BLOCKS)}
    arrays = {name: of for name, of in document["consolidated_metadata"]["metadata"].items() if name != TILES}
    ends = {name: tuple(_whole(end) for end in some) for name, some in kept["ends"].items()}
    lengths = {name: math.prod(metadata.shape_of(text)) for name, text in kept["values"].items()}
    if sum(max(length, *ends.get(name, (0,))) for name, length in lengths.items()) > LARGEST:
        raise ValueError("too many values")  # before any of them is made
    values = {name: metadata.from_text(text) for name, text in kept["values"].items()}
    axes = attributes["axes"]
    for name in (*arrays, *axes, *values):
        check_name(name)
    blocks = tuple(_whole(length) for length in document["attributes"][BLOCKS])
    grid = Grid(
        {name: values[name] for name in axes}, values["seed"], blocks, tuple(ends[name] for name in (*axes, "seed"))
    )
    _check_grid(grid)
    variables, sizes = {}, {}
    for name, of in arrays.items():
        dims = tuple(of["dimension_names"])
        for dim, length in zip(dims, of["shape"], strict=True):
            check_name(dim)
            if dim not in grid.names:
                sizes[dim] = _whole(length, least=0)
        fixed = values[name] if name in values and name not in grid.names else None
        variables[name] = Variable(dims, metadata.dtype_named(of["data_type"]), dict(of["attributes"]), fixed)
    names = attributes["variants"]
    if names is not None and (not names or not all(isinstance(name, str) for name in names)):
        raise ValueError("variants")
    _check_said(attributes)
    root = Root(attributes, grid, variables, sizes, _whole(kept["generation"], least=0))
    meanings = root.outcomes
    if math.prod(root.counts) > MOST_TILES:
        raise ValueError("too many tiles")
    if variables["outcome"].values is not None or not meanings or len(set(meanings)) != len(meanings):
        raise ValueError("outcome")
    return root


def _check_said(attributes: Mapping[str, Any]) -> None:
    """Refuse what no sweep says of itself, or says with other types. Raises ValueError, KeyError or TypeError."""
    variants, differing = attributes["variants"] or [], attributes.get("differing", [])
    for name, kind in _SAID.items():
        value = attributes[name]
        if name in differing:  # text for each variant
            right = kind is str and len(value) == len(variants) and _all(value, (str,))
        else:
            right = type(value) is kind and (kind is not list or _all(value, _LISTS[name]))
        if not right:
            raise ValueError(name)


def _all(values: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(values, list) and all(type(value) in kinds for value in values)


def _check_grid(grid: Grid) -> None:
    """Refuse segments that are not those of its values. Raises ValueError."""
    for values, ends, block in zip(grid.values.values(), grid.segments, grid.blocks, strict=True):
        begins = (0, *(-(-end // block) * block for end in ends[:-1]))
        lengths = [end - begin for begin, end in zip(begins, ends, strict=True)]
        if values.ndim != 1 or min(lengths) < 1 or sum(lengths) != len(values):
            raise ValueError("segments")


def _whole(number: Any, least: int = 1) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= LARGEST:
        raise ValueError(number)
    return number


def _seal(document: Mapping[str, Any]) -> str:
    """Return the checksum of all of a document but its checksum."""
    attributes = document["attributes"]
    bare = {name: value for name, value in attributes[_OURS].items() if name != "sha256"}
    rest = {**document, "attributes": {**attributes, _OURS: bare}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _with_holes(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return a coordinate as it lies on disk."""
    length = int(places[-1]) + 1
    if values.dtype.kind == "f":
        found = np.full(length, np.nan, values.dtype)
    else:
        least = 0 if values.min() >= 0 else np.iinfo(values.dtype).min + length
        found = least - 1 - np.arange(length).astype(values.dtype)
    found[places] = values
    return found
