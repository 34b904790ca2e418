"""The times at which a flow is asked for."""

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from jaxfact.inputs import problem_with, shown


def checked_times(times: ArrayLike) -> Float[Array, "*time"]:
    """Return times as an array; refuse what is no finite number from 0 on, unless it is traced."""
    if isinstance(times, Tracer):
        return times
    try:
        given = np.asarray(times, float)
    except (TypeError, ValueError):
        given = np.asarray(np.nan)
    if given.size == 0 or not np.all(np.isfinite(given) & (given >= 0)):
        raise problem_with("times", shown(times), "needs finite numbers, 0 or above", "give times in 1/σ₁")
    return jnp.asarray(given)
