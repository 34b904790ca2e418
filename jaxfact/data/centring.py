"""Removing means and biases from a matrix with missing entries, and adding them back to a prediction."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jaxfact.inputs import non_negative, positive_integer, problem_with


class Centred(NamedTuple):
    """A matrix x − μ − bᵢ − cⱼ and what was subtracted, all in the unit of x; NaN where an entry is missing."""

    matrix: Float[np.ndarray, "m n"]
    mean: float
    row_bias: Float[np.ndarray, " m"]
    column_bias: Float[np.ndarray, " n"]

    def restored(
        self, prediction: Float[np.ndarray, "*batch m n"] | Float[Array, "*batch m n"]
    ) -> Float[np.ndarray, "*batch m n"] | Float[Array, "*batch m n"]:
        """Return prediction + μ + bᵢ + cⱼ: a prediction of the centred matrix in the unit and level of x.

        Raises ValueError for a prediction that is not m×n.
        """
        rows, columns = self.matrix.shape
        if prediction.shape[-2:] != (rows, columns):
            given = f"an array of shape {prediction.shape}"
            raise problem_with("prediction", given, f"needs {rows}×{columns}", "give the whole matrix U Vᵀ")
        return prediction + (self.mean + self.row_bias[:, None] + self.column_bias)


def remove_mean(matrix: Float[np.ndarray, "m n"]) -> Centred:
    """Subtract μ, the mean of the observed entries; NaN marks a missing one.

    Raises ValueError for anything but an m×n matrix, for infinite entries, and where none is observed.
    """
    matrix, observed = _checked(matrix)
    mean = float(matrix[observed].mean())
    rows, columns = matrix.shape
    return Centred(matrix - mean, mean, np.zeros(rows), np.zeros(columns))


def remove_biases(matrix: Float[np.ndarray, "m n"], *, sweeps: int = 20, shrinkage: float = 0.0) -> Centred:
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
    matrix, observed = _checked(matrix)
    (row, column), entries = np.nonzero(observed), matrix[observed]
    row_count, column_count = observed.sum(1), observed.sum(0)
    mean, column_bias = entries.mean(), np.zeros(len(column_count))
    for _ in range(sweeps):
        row_bias = _shrunk_means(entries - mean - column_bias[column], row, row_count, shrinkage)
        column_bias = _shrunk_means(entries - mean - row_bias[row], column, column_count, shrinkage)
        mean = np.mean(entries - row_bias[row] - column_bias[column])
    return Centred(matrix - (mean + row_bias[:, None] + column_bias), float(mean), row_bias, column_bias)


def _shrunk_means(
    residual: Float[np.ndarray, " e"], group: np.ndarray, count: np.ndarray, shrinkage: float
) -> Float[np.ndarray, " g"]:
    sums = np.bincount(group, residual, len(count))
    return sums / np.where(count > 0, count + shrinkage, 1)


def _checked(matrix: Float[np.ndarray, "m n"]) -> tuple[Float[np.ndarray, "m n"], np.ndarray]:
    """Return the matrix in double precision, so that restoring loses nothing of note, and where it is observed."""
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2:
        raise problem_with("matrix", f"an array of shape {matrix.shape}", "needs two dimensions", "reshape it to m×n")
    if np.isinf(matrix).any():
        raise problem_with("matrix", "infinite entries", "needs finite ones, or NaN for missing", "set them to NaN")
    observed = ~np.isnan(matrix)
    if not observed.any():
        raise problem_with("matrix", "no observed entry", "needs at least one", "check what was read")
    return matrix, observed
