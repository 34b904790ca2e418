"""Chen et al. (2024), Figures 1 and 2: large starts learn the rows of the signal one after the other."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.engine.tiles import Progress
from jaxfact.measures import rows
from jaxfact.methods import gradient_descent
from jaxfact.papers.base import Finding, Outcome, Paper, Preset, always, within
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.starts import Gaussian
from jaxfact.sweep import sweep

SIZE, RANK, STEP_SIZE, STEPS = 200, 2, 0.1, 500
EIGENVALUES = np.concatenate([[1, 0.5], np.linspace(0.3, 0, SIZE - RANK)]).astype(np.float32)
SCALES = (0.001, 0.5, 2.0)
TOO_LARGE = 10.0


def run(
    seeds: int,
    progress: Progress | None = None,
    *,
    eigenvalues: np.ndarray = EIGENVALUES,
    scales: Sequence[float] = SCALES,
    too_large: float = TOO_LARGE,
) -> Outcome:
    """Factorise a diagonal matrix at width 2 from starts with entries N(0, ϖ²/d), one of them too large."""
    problem = Tied(Factorization(eigenvalues, shape=(len(eigenvalues), len(eigenvalues))))
    runs = sweep(
        # The start's norm is that of two factors stacked: one alone has ϖ = norm/√2.
        lambda scale: Run(problem, Gaussian(RANK, norm=2**0.5 * scale), gradient_descent(STEP_SIZE)),
        seeds=seeds,
        max_steps=STEPS,
        tolerance=None,
        record={"rows": rows(RANK)},
        every=1,
        check_every=1,
        progress=progress,
        scale=[*scales, too_large],
    )
    runs = runs.assign(row_time=row_times(runs, eigenvalues[:RANK] / eigenvalues[0]))
    learning = [finding for scale in scales for finding in _learning(runs.sel(scale=scale))]
    diverged = (runs.outcome.sel(scale=too_large) == "diverged").values
    return Outcome({"runs": runs}, [*learning, always(f"ϖ={too_large:g}: fraction of runs that diverge", diverged)])


def row_times(runs: xr.Dataset, eigenvalues: np.ndarray) -> xr.DataArray:
    """Return the first step at which ‖u_k‖² ≥ λ_k/2 along `row`, from 1; inf if it never is."""
    signal = runs.rows_signal_path.rename(rows_signal_0="row")
    met = signal >= xr.DataArray(eigenvalues / 2, dims="row")
    first = runs.step[met.argmax("step")].drop_vars("step").astype(float)
    return first.where(met.any("step"), np.inf).assign_coords(row=np.arange(1, len(eigenvalues) + 1))


def _learning(runs: xr.Dataset) -> list[Finding]:
    """Judge times by a wide band: each wait is the logarithm of a random start over a rate of the theorem."""
    first, second = (runs.row_time.sel(row=row).values for row in (1, 2))
    what = f"ϖ={float(runs.scale):g}: "
    return [
        always(what + "fraction of runs that learn row 1 before row 2", np.isfinite(second) & (first < second)),
        within(what + "step at which row 1 is learned, ‖u₁‖² ≥ λ₁/2", first, 20, 130),
        within(what + "step at which row 2 is learned, ‖u₂‖² ≥ λ₂/2", second, 60, 260),
    ]


CHEN_FIG1_SMALL = Preset(
    name="chen_fig1_small",
    place="Figures 1 and 2",
    statement="From small and large starts alike the rows of the signal are learned one after the other, the largest "
    "eigenvalue first; only the first stage depends on the size ϖ of the start. ϖ = 10 diverges.",
    randomness="A seed draws the start; the matrix is fixed.",
    needs_x64=False,
    seeds=20,
    seconds=7,
    job=run,
)

PAPER = Paper(
    __name__,
    title="Gradient descent in matrix factorization: Understanding large initialization",
    authors=("Hengchao Chen", "Xin Chen", "Mohamad Elmasri", "Qiang Sun"),
    year=2024,
    presets=(CHEN_FIG1_SMALL,),
)
