"""Wind (2023): sensing from a small start, and how fast the error falls with the size of the start."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.measures import rip_lower_bound
from jaxfact.methods import gradient_descent
from jaxfact.numerics.decompositions import largest_eigenvalue
from jaxfact.numerics.draws import key_of
from jaxfact.numerics.products import gram
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, above, below, bounded, log_slopes, near
from jaxfact.problems import operators
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.sensing import Sensing
from jaxfact.results import stats
from jaxfact.starts import NormedGaussian

STEP_SIZE = 0.1
NORMS = (1e-1, 1e-2, 1e-3, 1e-4)
# None is all entries; at (40, 1200) the operator is on the edge of being an isometry.
SIZES: tuple[tuple[int, int | None], ...] = ((20, 200), (20, 300), (20, 390), (40, 1200), (20, 2000), (20, None))
_LOOK = 10
_RATE = 4 / 3
_EDGE = (1.0, 1.2)
"""Isometry constants lie below 1; from a lower bound of 1.2 on the rate is expected to fail."""


def sensings(
    sweeps: Sweeps, *, sizes: Sequence[tuple[int, int | None]] = SIZES, norms: Sequence[float] = NORMS
) -> Runs:
    """Descend at n×n, width n, rank 1, from m measurements (None: all entries) and starts of several norms a₀."""
    return {f"n{n}_m{m or 'all'}": _sensed(sweeps, n, m, norms) for n, m in sizes}


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


def _sensed(sweeps: Sweeps, n: int, m: int | None, norms: Sequence[float]) -> xr.Dataset:
    """Return the runs of one size, with the empirical isometry bound of their operator."""
    truth = Factorization(np.ones(1), shape=(n, n))
    problem, bound = truth, 0.0
    if m is not None:
        operator = operators.gaussian(key_of(m), (n, n), m)
        problem = Sensing.of(truth, operator)
        bound = float(rip_lower_bound(operator, 2, key_of(0)))
    last = max(map(steps_for, norms))
    runs = sweeps(
        f"n{n}_m{m or 'all'}",
        lambda norm: Run(problem, NormedGaussian(n, norm), gradient_descent(STEP_SIZE)),
        max_steps=last,
        record={"spectral_error": spectral_error, "stacked_norm": stacked_norm},
        every=sorted({*range(0, last + 1, 3 * _LOOK), *map(steps_for, norms)}),
        check_every=_LOOK,
        norm=norms,
    )
    return runs.assign_attrs(rip_lower_bound=bound, measurements=m or 0)


def judged(runs: Runs) -> list[Finding]:
    """Judge every operator by its dataset, those that are nearest an isometry first."""
    ordered = sorted(runs.values(), key=lambda found: found.attrs["rip_lower_bound"])
    return [finding for found in ordered for finding in of_operator(found, expected_of(found))]


def expected_of(runs: xr.Dataset) -> Callable[[str, np.ndarray, float], Finding]:
    """Return what is expected of the slope: the rate of the theorem near an isometry, and far from one less."""
    bound, (least, most) = runs.attrs["rip_lower_bound"], _EDGE
    return above if bound < least else near if bound < most else below


def of_operator(runs: xr.Dataset, expect: Callable[[str, np.ndarray, float], Finding]) -> list[Finding]:
    """Return the findings of one operator, the slope compared as `expect` does."""
    n, m, bound = runs.attrs["shape"][0], runs.attrs["measurements"], runs.attrs["rip_lower_bound"]
    name = f"n={n}, m={m or 'all entries'}"
    most = runs.stacked_norm_path.max("step").values
    # What observes everything is an isometry; elsewhere the search has no upper bound to offer.
    most_bound, said = (float("inf"), "a lower bound, by search") if bound else (0.0, "exact")
    return [
        expect(f"{name}: slope of log ‖UVᵀ−Y‖₂ at step K in log a₀", slopes(runs), _RATE),
        Finding(f"{name}: isometry constant δ₂", bound, bound, most_bound, said, "–", None),
        bounded(f"{name}: max ‖[U; V]‖₂/√‖Y‖", most, 1.5),
    ]


def slopes(runs: xr.Dataset) -> np.ndarray:
    """Return the slope of the log error at step K in log a₀ for each seed."""
    norms = runs.norm.values
    at_end = xr.DataArray([steps_for(norm) for norm in norms], {"norm": norms}, "norm")
    return log_slopes(norms, runs.spectral_error_path.sel(step=at_end), "norm")


def isometric(runs: Runs) -> list[Hypothesis]:
    """Return the theorem's hypothesis on the operator, of the one that is nearest an isometry."""
    bound = min(found.attrs["rip_lower_bound"] for found in runs.values())
    return [Hypothesis("isometry constant δ₂, at least", bound, f"below {_EDGE[0]:g}", bound < _EDGE[0])]


def plotted(runs: Runs) -> Plot:
    """Plot the slopes against the isometry bound of their operators, beside the rate of the theorem."""
    ordered = sorted(runs.values(), key=lambda found: found.attrs["rip_lower_bound"])
    bounds = np.array([found.attrs["rip_lower_bound"] for found in ordered])
    means, low, high = zip(*(stats.mean_interval(slopes(found)) for found in ordered), strict=True)
    met, most = np.array([0, _EDGE[0]]), np.full(2, max(high) + 0.05)
    return Plot(
        x_label=r"isometry constant $\delta_2$, at least",
        y_label=r"slope of $\log$ error in $\log a_0$",
        measured=[Series("mean over seeds, 95 %", bounds, *map(np.array, (means, low, high)))],
        promised=[Series("4/3 or more, near an isometry", met, most, np.full(2, _RATE), most)],
    )


WIND_SMALL = Preset(
    name="wind_small",
    place="Theorem 2.8",
    randomness="A seed draws the start; the runs of a size share one operator, as the theorem is about a given one.",
    needs_x64=True,
    seeds=8,
    seconds=56,
    job=sensings,
    sweeps=len(SIZES),
)

C20 = Claim(
    id="C20",
    title="the error falls with the start",
    place="Theorem 2.8",
    statement="With enough measurements the spectral error at step K falls faster than a₀^{4/3}; with fewer the "
    "isometry constant δ₂ is large, the theorem does not apply, and the error falls more slowly. ‖[U; V]‖₂ stays below "
    "1.5·√‖Y‖.",
    formula="‖U_KV_Kᵀ − Y‖₂ ≲ a₀^{4/3}·σ_r^{1/3}, K = (5/(ησ_r))·ln(σ_r/a₀²)",
    preset=WIND_SMALL,
    judge=judged,
    plot=plotted,
    power=Power(
        "a slope that is 0.1 below 4/3, if slopes scatter by 0.05 over seeds",
        8,
        lambda rng: [above("", rng.normal(_RATE - 0.1, 0.05, 8), _RATE)],
    ),
    control=Control(
        "half as many measurements as entries, which are no isometry",
        changed={"sizes": ((10, 50),)},
        small={"sizes": ((10, 600),), "norms": (1e-1, 1e-2, 1e-3)},
        seeds=4,
    ),
    hypotheses=isometric,
    evidence="The theorem is stated as others restate it; the paper's own text was read up to its introduction.",
)

PAPER = Paper(
    __name__,
    title="Asymmetric matrix sensing by gradient descent with small random initialization",
    authors=("Johan S. Wind",),
    year=2023,
    claims=(C20,),
)
