"""Small experiments of plain descent, and how their runs ended."""

import numpy as np

import jaxfact as jf

SMALL = jf.Factorization([1, 0.7, 0.4], shape=(12, 9))
# Where size and width are not the point: narrow programs compile faster.
NARROW = jf.Factorization([1, 0.6], shape=(5, 4))


def descent(scale=0.01, width=3, problem=SMALL):
    """Return an experiment of the step size, from Gaussian starts."""
    return lambda step_size: jf.Run(
        problem, jf.starts.Gaussian(width, scale=scale), jf.methods.gradient_descent(step_size)
    )


def outcomes(runs) -> dict[str, int]:
    """Return how many runs had each outcome."""
    names, counts = np.unique(runs.outcome.values, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
