"""How the entries of a matrix with gaps are split at random, and what centring removes from each part."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxfact.choices import Centring
from jaxfact.data import Centred, remove_biases, remove_mean, split
from jaxfact.data.arrays import LARGEST, check_size
from jaxfact.data.numbers import centred_exponent, times_power
from jaxfact.data.observed import entries_of
from jaxfact.jobs.settings import RecoverySettings
from jaxfact.numerics.draws import key_of
from jaxfact.problems.completion import Completion
from jaxfact.problems.entries import Observed
from jaxfact.problems.splits import TEST, TRAINING, VALIDATION

SHRINKAGE = 2.0  # of biases, a number of entries: the bias of a row with a single entry is divided by three
_SPLITS = {200_000: 5, 2_000_000: 3}
_OF_SPLITS = 2**32 - 1  # a number that no seed has, so that splits and starts share no key


def observed_entries(matrix: Any) -> tuple[Observed, tuple[int, int], int]:
    """Return the observed entries divided by 2^e, row by row, the shape, and e, after the checks of `Completion`.

    The largest lies between ½ and 1, so that no square of theirs over- or underflows; the division is exact.
    """
    found, shape = entries_of(matrix)
    check_size("matrix", shape, LARGEST, "sweep jf.Completion.from_matrix(matrix)")
    Completion(*found, shape)
    exponent = centred_exponent(found.values)
    return found._replace(values=times_power(found.values, -exponent)), shape, exponent


def usual_splits(count: int) -> int:
    """Return how many splits are usual for this many entries: fewer where each takes long."""
    return next((splits for limit, splits in _SPLITS.items() if count <= limit), 2)


def parts_of_split(entries: Observed, settings: RecoverySettings, number: int) -> np.ndarray:
    """Return the part of every entry in one split."""
    base = key_of(settings.base_seed)
    key = jax.random.fold_in(jax.random.fold_in(base, _OF_SPLITS), number)
    places = entries._replace(values=np.arange(len(entries.values)))
    held = {"validation": settings.validation, "test": settings.test}
    found = split(places, key, training=1 - sum(held.values()), **held)
    parts = np.zeros(len(entries.values), np.int8)
    for name, part in (("training", TRAINING), ("validation", VALIDATION), ("test", TEST)):
        parts[found[name].values] = part
    return parts


def removed_level(
    entries: Observed, shape: tuple[int, int], parts: np.ndarray, kind: Centring
) -> Float[np.ndarray, " k"]:
    """Return what centring removes from every entry; the training entries alone decide."""
    remove: dict[Centring, Callable[..., Centred]] = {
        Centring.MEAN: remove_mean,
        Centring.BIASES: partial(remove_biases, shrinkage=SHRINKAGE),
    }
    if kind not in remove:
        return np.zeros(len(entries.values))
    seen = parts == TRAINING
    matrix = np.full(shape, np.nan)
    matrix[entries.rows[seen], entries.columns[seen]] = entries.values[seen]
    found = remove[kind](matrix)
    row_bias, column_bias = np.asarray(found.row_bias), np.asarray(found.column_bias)
    return found.mean + row_bias[entries.rows] + column_bias[entries.columns]
