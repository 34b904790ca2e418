"""Values that are no numbers, such as the names of spectra: drawn as categories at 0, 1, …, in their order."""

from typing import TypeVar

import numpy as np
import xarray as xr

from jaxfact.inputs import problem_with, shown

NAMES = "categories"
"""The attribute that holds the names of what stands at 0, 1, …"""

Labelled = TypeVar("Labelled", xr.Dataset, xr.DataArray)


def is_category(values: xr.DataArray) -> bool:
    """Tell whether values are no numbers: words, or true and false."""
    return values.dtype.kind not in "iuf"


def numbered(labelled: Labelled, *axes: str) -> Labelled:
    """Return results with places instead of the values of those axes that are no numbers; the names go along."""
    for axis in axes:
        values = labelled.coords[axis]
        if is_category(values):
            named = values.attrs | {NAMES: [str(value) for value in np.asarray(values).tolist()]}
            labelled = labelled.assign_coords({axis: (axis, np.arange(values.size), named)})
    return labelled


def places_of(values: xr.DataArray) -> xr.DataArray:
    """Return, of words or truths for each run, their places: in the order of an axis, of other values sorted."""
    known = values[values.name].values if values.name in values.dims else np.unique(values.values)
    order = {value: place for place, value in enumerate(known.tolist())}
    flat = [order[value] for value in values.values.ravel().tolist()]
    return values.copy(data=np.reshape(flat, values.shape)).assign_attrs({NAMES: [str(one) for one in known.tolist()]})


def check_order(name: str, axis: xr.DataArray) -> None:
    """Refuse values that have no order, where a figure needs one."""
    if is_category(axis):
        given = f"{name} of {', '.join(map(str, axis.values[:3].tolist()))}"
        needed = "needs numbers, which have an order"
        raise problem_with("axis", shown(given)[1:-1], needed, "take fractions, or scatter")
