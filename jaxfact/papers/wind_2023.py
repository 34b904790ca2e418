"""Wind (2023): sensing from a small start, and how fast the error falls with the size of the start."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.engine.tiles import Progress
from jaxfact.measures import rip_lower_bound
from jaxfact.methods import gradient_descent
from jaxfact.numerics.decompositions import largest_eigenvalue
from jaxfact.numerics.draws import key_of
from jaxfact.numerics.products import gram
from jaxfact.papers.base import Finding, Outcome, Paper, Preset, above, below, bounded, log_slopes, near, part
from jaxfact.problems import operators
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.sensing import Sensing
from jaxfact.starts import NormedGaussian
from jaxfact.sweep import sweep

Expectation = Callable[[str, np.ndarray, float], Finding]
STEP_SIZE = 0.1
NORMS = (1e-1, 1e-2, 1e-3, 1e-4)
# What the slope is compared with depends on how near 𝒜 is to an isometry; at (40, 1200) it is on the edge.
SIZES: dict[tuple[int, int | None], Expectation] = {
    (20, 200): below,
    (20, 300): below,
    (20, 390): below,
    (40, 1200): near,
    (20, 2000): above,
    (20, None): above,
}
_LOOK = 10
_RATE = 4 / 3


def run(
    seeds: int,
    progress: Progress | None = None,
    *,
    sizes: Mapping[tuple[int, int | None], Expectation] = SIZES,
    norms: Sequence[float] = NORMS,
) -> Outcome:
    """Descend at n×n, width n, rank 1, from m measurements (None: all entries) and starts of several norms a₀."""
    runs, findings = {}, []
    for place, ((n, m), expect) in enumerate(sizes.items()):
        found, bound = _runs(n, m, seeds, norms, part(progress, place, len(sizes)))
        runs[f"n{n}_m{m or 'all'}"] = found
        findings += judged(f"n={n}, m={m or 'all entries'}", found, expect, bound)
    return Outcome(runs, findings)


def steps_for(norm: float) -> int:
    """Return Wind's K = (5/η)·ln(1/a₀²) of the proof, rounded up to a step that is looked at."""
    return int(np.ceil(5 / STEP_SIZE * np.log(1 / norm**2) / _LOOK) * _LOOK)


def spectral_error(problem: Problem, factors: Factors) -> jax.Array:
    """Return ‖UVᵀ − Σ‖₂."""
    residual = factors.product - truth_of(problem).target
    return jnp.sqrt(largest_eigenvalue(residual.T @ residual))


def stacked_norm(problem: Problem, factors: Factors) -> jax.Array:
    """Return ‖[U; V]‖₂."""
    return jnp.sqrt(largest_eigenvalue(gram(factors.U) + gram(factors.V)))


def _runs(
    n: int, m: int | None, seeds: int, norms: Sequence[float], progress: Progress | None
) -> tuple[xr.Dataset, float]:
    """Return the runs of one size, and the empirical isometry bound of their operator."""
    truth = Factorization(np.ones(1), shape=(n, n))
    problem, bound = truth, 0.0
    if m is not None:
        operator = operators.gaussian(key_of(m), (n, n), m)
        problem = Sensing.of(truth, operator)
        bound = float(rip_lower_bound(operator, 2, key_of(0)))
    last = max(map(steps_for, norms))
    runs = sweep(
        lambda norm: Run(problem, NormedGaussian(n, norm), gradient_descent(STEP_SIZE)),
        seeds=seeds,
        max_steps=last,
        tolerance=None,
        record={"spectral_error": spectral_error, "stacked_norm": stacked_norm},
        every=sorted({*range(0, last + 1, 3 * _LOOK), *map(steps_for, norms)}),
        check_every=_LOOK,
        progress=progress,
        norm=norms,
    )
    return runs.assign_attrs(rip_lower_bound=bound), bound


def judged(name: str, runs: xr.Dataset, expect: Expectation, bound: float) -> list[Finding]:
    """Return the findings of one size, the slope compared as `expect` does."""
    norms = runs.norm.values
    at_end = xr.DataArray([steps_for(norm) for norm in norms], {"norm": norms}, "norm")
    slopes = log_slopes(norms, runs.spectral_error_path.sel(step=at_end), "norm")
    most = runs.stacked_norm_path.max("step").values
    # What observes everything is an isometry; elsewhere the search has no upper bound to offer.
    most_bound, said = (float("inf"), "a lower bound, by search") if bound else (0.0, "exact")
    return [
        expect(f"{name}: slope of log ‖UVᵀ−Y‖₂ at step K in log a₀", slopes, _RATE),
        Finding(f"{name}: isometry constant δ₂", bound, bound, most_bound, said, "–", None),
        bounded(f"{name}: max ‖[U; V]‖₂/√‖Y‖", most, 1.5),
    ]


WIND_SMALL = Preset(
    name="wind_small",
    place="Theorem 2.8",
    statement="With enough measurements the spectral error at step K falls faster than a₀^{4/3}; with fewer the "
    "isometry constant δ₂ is large, the theorem does not apply, and the error falls more slowly. ‖[U; V]‖₂ stays below "
    "1.5·√‖Y‖.",
    randomness="A seed draws the start; the runs of a size share one operator, as the theorem is about a given one.",
    needs_x64=True,
    seeds=8,
    seconds=56,
    job=run,
)

PAPER = Paper(
    __name__,
    title="Asymmetric matrix sensing by gradient descent with small random initialization",
    authors=("Johan S. Wind",),
    year=2023,
    presets=(WIND_SMALL,),
)
