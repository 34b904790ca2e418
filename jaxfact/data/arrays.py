"""Matrices as people bring them, read by one rule: labels are kept, what is masked is missing."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

ROW, COLUMN = "row", "column"


def labelled(
    values: np.ndarray, rows: Sequence | np.ndarray | None = None, columns: Sequence | np.ndarray | None = None
) -> xr.DataArray:
    """Return an m×n matrix with the labels of its rows and columns as coordinates, where it has any."""
    labels = {name: np.asarray(given) for name, given in ((ROW, rows), (COLUMN, columns)) if given is not None}
    return xr.DataArray(values, dims=(ROW, COLUMN), coords=labels)
