"""Spectra of made-up targets."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from jaxfact.choices import Spectrum
from jaxfact.inputs import positive, positive_integer, problem_with


def singular_values(
    rank: Any, condition: Any, spectrum: Spectrum = Spectrum.LINEAR, *, padded_to: int | None = None
) -> Float[np.ndarray, " r"] | Float[Array, " r"]:
    """Return `rank` singular values from 1 down to 1/condition.

    LINEAR and GEOMETRIC are evenly spaced in the value and in its logarithm, STEP is 1 except for the last. Both
    numbers may be axes of a sweep; a rank that is one needs its largest value, `padded_to`, and is followed by zeros.
    Raises ValueError for a rank below 1 or above `padded_to`, and a condition number below 1.
    """
    traced = [isinstance(x, Tracer) for x in (rank, condition)]
    if not traced[0]:
        positive_integer("rank", np.asarray(rank).item(), "give the number of singular values")
    if not traced[1]:
        positive("condition", condition, "1 makes them all equal")
        if condition < 1:
            raise problem_with("condition", condition, "needs σ₁/σ_r, 1 or above", "give its inverse")
    if padded_to is None and traced[0]:
        raise problem_with("rank", "a traced number", "needs a bound", "pass padded_to=, its largest value")
    count = int(rank) if padded_to is None else padded_to
    if not traced[0] and rank > count:
        raise problem_with("rank", int(rank), f"is above padded_to={count}", "raise padded_to")
    library = jnp if any(traced) else np
    place = library.arange(count)
    along = place / library.maximum(rank - 1, 1)
    values = {
        Spectrum.LINEAR: 1 + along * (1 / condition - 1),
        Spectrum.GEOMETRIC: (1 / condition) ** along,
        Spectrum.STEP: library.where(place == rank - 1, 1 / condition, 1.0),
    }[spectrum]
    return library.where(place < rank, values, 0)
