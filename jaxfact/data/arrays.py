"""Matrices as people bring them, read by one rule: labels are kept, what is masked is missing."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from jaxfact.choices import Absent, Labels
from jaxfact.inputs import problem_with

ROW, COLUMN = "row", "column"
LARGEST = 2**28  # entries that are read without being asked for more: two gigabytes in double precision


class ReadOptions(NamedTuple):
    """How a file is to be read, where its contents leave that open.

    Attributes:
        entries: whether a table lists entries, one a line; None where its contents decide.
        absent: what the entries are that a sparse file does not store; None for zeros, which are then spoken of.
        largest: how many entries a matrix may have.
        labels: what a table names; None where its contents decide.
        variable: which of several arrays in a file is the matrix, by its name or path; None for the only one.
    """

    entries: bool | None = None
    absent: Absent | None = None
    largest: int = LARGEST
    labels: Labels | None = None
    variable: str | None = None


def check_size(name: object, shape: Sequence[int], largest: int) -> None:
    """Refuse a declared size before it is allocated."""
    count = math.prod(shape)
    if count > largest:
        given = f"{'×'.join(map(str, shape))} entries, {8 * count / 1e9:.3g} GB in double precision"
        needed = f"at most {largest} are read unless more are asked for"
        raise problem_with(str(name), given, needed, f"pass largest={count} (--largest {count}) if memory allows")


def labelled(
    values: np.ndarray, rows: Sequence | np.ndarray | None = None, columns: Sequence | np.ndarray | None = None
) -> xr.DataArray:
    """Return an m×n matrix with the labels of its rows and columns as coordinates, where it has any."""
    labels = {name: np.asarray(given) for name, given in ((ROW, rows), (COLUMN, columns)) if given is not None}
    return xr.DataArray(values, dims=(ROW, COLUMN), coords=labels)
