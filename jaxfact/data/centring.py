"""Removing means and biases from a matrix with missing entries, and adding them back to a prediction."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from jaxfact.choices import Absent
from jaxfact.data.arrays import COLUMN, ROW, as_matrix, labelled, labels_of
from jaxfact.data.numbers import centred_exponent, framed, times_power
from jaxfact.inputs import non_negative, positive_integer, problem_with

_SAFE = 500  # powers of two up to which squares and sums of doubles neither over- nor underflow

Matrix = np.ndarray | xr.DataArray


class Centred(NamedTuple):
    """A matrix x − μ − bᵢ − cⱼ and what was subtracted, all in the unit of x; NaN where an entry is missing.

    Where x is a table of pandas or xarray, they are labelled like it, along `row` and `column`.
    """

    matrix: Matrix
    mean: float
    row_bias: Matrix
    column_bias: Matrix

    def restored(self, prediction: Any) -> Any:
        """Return prediction + μ + bᵢ + cⱼ: a prediction of the centred matrix in the unit and level of x.

        `prediction` is m×n, and the result labelled like x, or *batch×m×n, and the result an array like it. Raises
        ValueError for one that is not m×n.
        """
        rows, columns = self.matrix.shape
        if prediction.shape[-2:] != (rows, columns):
            given = f"an array of shape {prediction.shape}"
            raise problem_with("prediction", given, f"needs {rows}×{columns}", "give the whole matrix U Vᵀ")
        rows_in, columns_in = np.asarray(self.row_bias), np.asarray(self.column_bias)
        restored = prediction + (self.mean + rows_in[:, None] + columns_in)
        if isinstance(self.matrix, xr.DataArray) and restored.ndim == 2:
            return self.matrix.copy(data=np.asarray(restored))
        return restored


def remove_mean(matrix: Any) -> Centred:
    """Subtract μ, the mean of the observed entries; NaN, masked entries and absent ones of sparse matrices are missing.

    Raises ValueError for anything but an m×n matrix, for infinite entries, and where none is observed.
    """
    numbers, observed, exponent = _checked(matrix)
    mean = numbers[observed].mean()
    rows, columns = numbers.shape
    return _centred(matrix, numbers - mean, mean, np.zeros(rows), np.zeros(columns), exponent)


def remove_biases(matrix: Any, *, sweeps: int = 20, shrinkage: float = 0.0) -> Centred:
    """Subtract μ + bᵢ + cⱼ, a level and biases of rows and columns fitted to the observed entries by least squares.

    Each sweep minimises Σ (x − μ − bᵢ − cⱼ)² + λ(‖b‖² + ‖c‖²) over b, then c, then μ: a bias is the mean of what the
    others leave, times k/(k + λ) where it has k entries. λ, the `shrinkage`, is a number of entries; 0 is ordinary
    least squares, exact after one sweep where nothing is missing. The observed entries end with mean 0 for any λ. A row
    or column without entries has bias 0. Raises ValueError where `remove_mean` does, for a negative shrinkage, and for
    `sweeps` that is not a whole number above 0. Source: Koren, Bell & Volinsky 2009, Matrix factorization techniques
    for recommender systems, who keep μ at the mean; refitted, it needs no shrinkage.
    """
    sweeps = positive_integer("sweeps", sweeps, "20 reach rounding error, or nearly, on this library's data sets")
    non_negative("shrinkage", shrinkage, "0 switches it off")
    numbers, observed, exponent = _checked(matrix)
    (row, column), entries = np.nonzero(observed), numbers[observed]
    row_count, column_count = observed.sum(1), observed.sum(0)
    mean, column_bias = entries.mean(), np.zeros(len(column_count))
    for _ in range(sweeps):
        row_bias = _shrunk_means(entries - mean - column_bias[column], row, row_count, shrinkage)
        column_bias = _shrunk_means(entries - mean - row_bias[row], column, column_count, shrinkage)
        mean = np.mean(entries - row_bias[row] - column_bias[column])
    left = numbers - (mean + row_bias[:, None] + column_bias)
    return _centred(matrix, left, mean, row_bias, column_bias, exponent)


def _shrunk_means(
    residual: Float[np.ndarray, " e"], group: np.ndarray, count: np.ndarray, shrinkage: float
) -> Float[np.ndarray, " g"]:
    sums = np.bincount(group, residual, len(count))
    return sums / np.where(count > 0, count + shrinkage, 1)


def _checked(matrix: Any) -> tuple[Float[np.ndarray, "m n"], np.ndarray, int]:
    """Return the matrix divided by 2^e in double precision, where it is observed, and e: 0 unless its sums overflow."""
    numbers = np.asarray(as_matrix(matrix, absent=Absent.MISSING).values, float)
    observed = ~np.isnan(numbers)
    if not observed.any():
        raise problem_with("matrix", "no observed entry", "needs at least one", "check what was read")
    exponent = centred_exponent(numbers[observed])
    exponent = exponent if abs(exponent) > _SAFE else 0
    return (times_power(numbers, -exponent) if exponent else numbers), observed, exponent


def _centred(
    given: Any, left: np.ndarray, mean: Any, row_bias: np.ndarray, column_bias: np.ndarray, exponent: int
) -> Centred:
    """Return what was found in the unit of the given matrix, labelled like it."""
    if exponent:
        left, row_bias, column_bias = (times_power(x, exponent) for x in (left, row_bias, column_bias))
        mean = times_power(mean, exponent)
    given = framed(given)
    if not isinstance(given, pd.DataFrame | xr.DataArray):
        return Centred(left, float(mean), row_bias, column_bias)
    matrix = labelled(left, *labels_of(given))
    biases = (
        xr.DataArray(bias, dims=dim, coords={name: c for name, c in matrix.coords.items() if name == dim})
        for bias, dim in ((row_bias, ROW), (column_bias, COLUMN))
    )
    return Centred(matrix, float(mean), *biases)
