"""What Ye & Du's two stages bound along a run: signal, asymmetry, what decays, and the error of the leading block."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact.numerics.decompositions import singular_values
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors


class Stages(NamedTuple):
    """Magnitudes of the blocks of Ye & Du (2021, §2.1) at the exact width, in √σ₁ and σ₁.

    `signal` is σ_d(A), `largest` σ₁(A), `whitened` λ_max(Σ^{-1/2}AAᵀΣ^{-1/2}), `B` a Frobenius norm, `P`, `J` and `K`
    spectral ones, `error` ‖Σ − UVᵀ‖ of the leading block, and `factor` the smaller of σ_d(U) and σ_d(V) there.
    They are numbers where one run is at, and arrays along (seed, step) of what was recorded of many.
    """

    signal: Any
    largest: Any
    whitened: Any
    B: Any
    P: Any
    error: Any
    factor: Any
    J: Any
    K: Any


def stages(problem: Factorization, factors: Factors) -> Stages:
    """Return what the theorems of both stages bound."""
    U, V, J, K, _ = problem.coordinates(factors)
    A, B = (U + V) / 2, (U - V) / 2
    values = problem.singular_values[: len(U)]
    P = jnp.diag(values) - A @ A.T + B @ B.T
    signal, whitened = singular_values(A), singular_values(A / jnp.sqrt(values)[:, None])
    return Stages(
        signal=signal[-1],
        largest=signal[0],
        whitened=whitened[0] ** 2,
        B=jnp.linalg.norm(B),
        P=singular_values(P)[0],
        error=singular_values(jnp.diag(values) - U @ V.T)[0],
        factor=jnp.minimum(singular_values(U)[-1], singular_values(V)[-1]),
        J=singular_values(J)[0],
        K=singular_values(K)[0],
    )


class Path(NamedTuple):
    """The recorded steps of runs, as arrays along (seed, step); `steps` is along step alone.

    `going` tells which steps a run has taken, `late` which of these are in the second stage: not before the first
    recorded step at which σ_d(A) ≥ √(σ_d/2) and ‖P‖ ≤ σ_d/4. `since` counts steps from there. `constant` is the least
    constant with which a run's start meets the initial event, along seed.
    """

    at: Stages
    loss: np.ndarray
    steps: np.ndarray
    going: np.ndarray
    late: np.ndarray
    since: np.ndarray
    constant: np.ndarray


def path_of(runs: xr.Dataset) -> Path:
    """Return what was recorded of runs of one shape, which say in their attributes what they began with."""
    at = Stages(*(_recorded(runs, f"stages_{name}") for name in Stages._fields))
    least, steps = runs.attrs["least"], runs.step.values
    going = steps <= runs.steps.values[:, None]
    warm = going & (at.signal >= (least / 2) ** 0.5) & (least / 4 >= at.P)
    first = np.where(warm.any(axis=1), steps[warm.argmax(axis=1)], np.inf)[:, None]
    known = Path(at, _recorded(runs, "loss"), steps, going, going & (steps >= first), steps - first, first)
    return known._replace(constant=_constant(runs, at))


def _recorded(runs: xr.Dataset, name: str) -> np.ndarray:
    return runs[f"{name}_path"].transpose("seed", "step").values


def _constant(runs: xr.Dataset, at: Stages) -> np.ndarray:
    """Return c_run of the initial event (Ye & Du 2021, §3), by the magnitudes of the start."""
    scale, d = runs.attrs["start_scale"], runs.attrs["rank"]
    m, n = (max(size - d, d) ** 0.5 for size in runs.attrs["shape"])
    begun = Stages(*(values[:, 0] for values in at))
    parts = [scale / (d**0.5 * begun.signal), begun.largest / (scale * d**0.5), begun.B / (d * scale)]
    return np.max([*parts, begun.J / (scale * m), begun.K / (scale * n)], axis=0)


def largest(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return the largest value of each run over the steps that count; 0 where none does."""
    return np.max(np.where(where, values, 0), axis=1)


def growth(values: np.ndarray, going: np.ndarray) -> np.ndarray:
    """Return by how much a magnitude grows, at most, from one recorded step of a run to the next."""
    return largest(values[:, 1:] / values[:, :-1], going[:, 1:])


def drop(values: np.ndarray, going: np.ndarray) -> np.ndarray:
    """Return how far each run falls below the largest value that it had before, as a share of that."""
    return largest(1 - values / np.maximum.accumulate(values, axis=1), going)
