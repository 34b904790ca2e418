"""Kim & Chung (2023): rank-one completion from starts of any size."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.engine.tiles import Progress
from jaxfact.measures import spread
from jaxfact.methods import gradient_descent
from jaxfact.numerics.draws import fold, normal
from jaxfact.papers.base import Outcome, Paper, Preset, always, bounded, within
from jaxfact.problems.completion import Completion
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.starts import Gaussian
from jaxfact.sweep import sweep

STEP_SIZE, STEPS = 0.1, 1200
NORMS = (1e-6, 1e-3, 0.05, 0.5, 1.0)
_GROWING = 0.1  # up to here the start is small, so that the time is that of growth alone


def run(
    seeds: int,
    progress: Progress | None = None,
    *,
    size: int = 300,
    fraction: float = 0.3,
    norms: Sequence[float] = NORMS,
) -> Outcome:
    """Complete uuᵀ, u uniform on the sphere, from x₀ ~ N(0, β₀²/n) for several β₀."""

    def experiment(norm, key):
        x = normal(fold(key, 0), (size, 1), jnp.dtype(jnp.float32))
        u = x / jnp.linalg.norm(x)
        truth = Factorization(np.ones(1, np.float32), shape=(size, size), left=u, right=u)
        problem = Tied(Completion.of(truth, fraction, fold(key, 1)))
        # The start's norm is that of two factors stacked: one alone has β₀ = norm/√2.
        return Run(problem, Gaussian(1, norm=2**0.5 * norm), gradient_descent(STEP_SIZE))

    runs = sweep(
        experiment,
        seeds=seeds,
        max_steps=STEPS,
        tolerance=1e-4,
        record={"spread": spread},
        every=10,
        check_every=2,
        progress=progress,
        norm=norms,
    )
    return Outcome({"runs": runs}, _findings(runs, size))


def _findings(runs: xr.Dataset, size: int) -> list:
    """‖xxᵀ − M‖_F is the distance, as ‖M‖_F = 1; a small start grows by 1 + η per step until the level is near."""
    succeeded = [
        always(f"β₀={float(norm):g}: fraction of runs that find M", (runs.outcome.sel(norm=norm) == "converged").values)
        for norm in runs.norm
    ]
    small = runs.hit.sel(level=0.1, norm=runs.norm[runs.norm <= _GROWING])
    slopes = np.polyfit(-np.log(small.norm.values), small.transpose("norm", "seed").values, 1)[0]
    expected = STEP_SIZE / np.log1p(STEP_SIZE)
    what = f"ηλ·slope in ln(1/β₀) of the step at which ‖xxᵀ−M‖_F ≤ 0.1, β₀ ≤ {_GROWING:g}"
    return [
        *succeeded,
        within(what, STEP_SIZE * slopes, 0.9 * expected, 1.1 * expected),
        bounded("max √n‖x‖_∞/‖x‖₂", runs.spread_path.max("step").values, 2 * float(np.sqrt(2 * np.log(size)))),
    ]


KIMCHUNG_SMALL = Preset(
    name="kimchung_small",
    place="small version of the simulation",
    statement="Descent from a random start of any size β₀ finds a rank-one matrix from 30 % of its entries; the time "
    "grows like log(1/β₀)/(ηλ), and no entry becomes much larger than the others: √n‖x‖_∞/‖x‖₂ = O(√log n), here at "
    "most twice √(2 ln n), the largest of n standard normals.",
    randomness="A seed draws the matrix, the mask and the start, shared by all β₀.",
    needs_x64=False,
    seeds=8,
    seconds=48,
    job=run,
)

PAPER = Paper(
    __name__,
    title="Rank-1 Matrix Completion with Gradient Descent and Small Random Initialization",
    authors=("Daesung Kim", "Hye Won Chung"),
    year=2023,
    presets=(KIMCHUNG_SMALL,),
)
