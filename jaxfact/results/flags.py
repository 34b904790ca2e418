"""Outcomes and variants as numbers, which every format holds, and what CF says they mean."""

from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core.indexing import (
    ExplicitIndexer,
    IndexingSupport,
    LazilyIndexedArray,
    explicit_indexing_adapter,
)

from jaxfact.engine.outcomes import OUTCOMES

PENDING = "pending"
"""The outcome of a run that a store does not hold yet."""

_CODES = {PENDING: -1, **{name: number for number, name in enumerate(OUTCOMES)}}


def encoded(runs: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose outcomes and other words are numbers, with CF attributes that say what they mean."""
    runs = runs.drop_encoding()  # the layout of the store it came from need not fit a part of it
    names = np.array(sorted(_CODES))
    codes = np.array([_CODES[name] for name in names], np.int8)
    numbers = codes[np.searchsorted(names, runs.outcome.values)]
    flags = {"flag_values": list(_CODES.values()), "flag_meanings": " ".join(_CODES)}
    stored = runs.assign(outcome=(runs.outcome.dims, numbers, {**runs.outcome.attrs, **flags}))
    # Zarr 3 has no settled type for strings, so the variants' names, and the words of axes, travel as a CF flag too.
    words = [name for name in stored.coords if name == "variant" or stored[name].dtype.kind not in "iufb"]
    return stored.assign_coords({name: _flagged(stored[name]) for name in words})


def _flagged(words: xr.DataArray) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """Return dimensions, numbers and flags of words; meanings are separated by blanks, so exact names stand beside."""
    names = [str(name) for name in np.ravel(words)]
    meanings = " ".join("_".join(name.split()) for name in names)
    flags = {"flag_values": list(range(len(names))), "flag_meanings": meanings, "flag_names": names}
    kept = {} if words.name == "variant" else words.attrs
    return words.dims, np.arange(len(names), dtype=np.int16).reshape(words.shape), {**kept, **flags}


def named(runs: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose outcomes, variants and other words are names again; outcomes are read when looked at."""
    words = [str(name) for name, values in runs.coords.items() if "flag_names" in values.attrs and name != "variant"]
    for name in ("outcome", "variant", *words):
        if name in runs.variables:
            flags = runs[name]
            attributes = {k: v for k, v in flags.attrs.items() if not k.startswith("flag_")}
            names = _Names(flags)
            # A variant is looked at whenever one is selected.
            values = LazilyIndexedArray(names) if name == "outcome" else np.asarray(LazilyIndexedArray(names))
            runs = runs.assign({name: (flags.dims, values, attributes)})
    return runs


class _Names(BackendArray):
    """The names that numbers stand for."""

    def __init__(self, flags: xr.DataArray):
        meanings = flags.attrs.get("flag_names") or flags.attrs["flag_meanings"].split()
        self._numbers, self._names = flags.variable, np.asarray(meanings)
        self._values = np.asarray(flags.attrs["flag_values"])
        self.shape: tuple[int, ...] = flags.shape
        self.dtype: np.dtype = self._names.dtype

    def __getitem__(self, key: ExplicitIndexer) -> np.ndarray:
        return explicit_indexing_adapter(key, self.shape, IndexingSupport.OUTER, self._at)

    def _at(self, key: tuple) -> np.ndarray:
        return self._names[np.searchsorted(self._values, self._numbers[key].values)]
