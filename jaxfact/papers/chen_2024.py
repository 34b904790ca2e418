"""Chen et al. (2024), Figures 1 and 2: large starts learn the rows of the signal one after the other."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.measures import rows
from jaxfact.methods import gradient_descent
from jaxfact.papers.base import Paper
from jaxfact.papers.chen_bounds import C16
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, within
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.starts import Gaussian

SIZE, RANK, STEP_SIZE, STEPS = 200, 2, 0.1, 500
EIGENVALUES = np.concatenate([[1, 0.5], np.linspace(0.3, 0, SIZE - RANK)]).astype(np.float32)
EQUAL = np.concatenate([[1, 1], EIGENVALUES[2:]])
SCALES = (0.001, 0.5, 2.0)
TOO_LARGE = 10.0


def descents(
    sweeps: Sweeps,
    *,
    eigenvalues: np.ndarray = EIGENVALUES,
    scales: Sequence[float] = SCALES,
    too_large: float = TOO_LARGE,
) -> Runs:
    """Factorise a diagonal matrix at width 2 from starts with entries N(0, ϖ²/d), one of them too large."""
    problem = Tied(Factorization(eigenvalues, shape=(len(eigenvalues), len(eigenvalues))))
    runs = sweeps(
        "runs",
        # The start's norm is that of two factors stacked: one alone has ϖ = norm/√2.
        lambda scale: Run(problem, Gaussian(RANK, norm=2**0.5 * scale), gradient_descent(STEP_SIZE)),
        max_steps=STEPS,
        record={"rows": rows(RANK)},
        every=1,
        check_every=1,
        scale=[*scales, too_large],
    )
    return {"runs": runs.assign(row_time=row_times(runs, eigenvalues[:RANK] / eigenvalues[0]))}


def row_times(runs: xr.Dataset, eigenvalues: np.ndarray) -> xr.DataArray:
    """Return the first step at which ‖u_k‖² ≥ λ_k/2 along `row`, from 1; inf if it never is."""
    signal = runs.rows_signal_path.rename(rows_signal_0="row")
    met = signal >= xr.DataArray(eigenvalues / 2, dims="row")
    first = runs.step[met.argmax("step")].drop_vars("step").astype(float)
    return first.where(met.any("step"), np.inf).assign_coords(row=np.arange(1, len(eigenvalues) + 1))


def judged(runs: Runs) -> list[Finding]:
    """Judge the order of rows and their times, and that the largest start diverges."""
    (found,) = runs.values()
    *scales, too_large = found.scale.values
    diverged = (found.outcome.sel(scale=too_large) == "diverged").values
    learning = [finding for scale in scales for finding in _learning(found.sel(scale=scale))]
    return [*learning, always(f"ϖ={too_large:g}: fraction of runs that diverge", diverged)]


def _learning(runs: xr.Dataset) -> list[Finding]:
    """Judge times by a wide band: each wait is the logarithm of a random start over a rate of the theorem."""
    first, second = (runs.row_time.sel(row=row).values for row in (1, 2))
    what = f"ϖ={float(runs.scale):g}: "
    return [
        always(what + "fraction of runs that learn row 1 before row 2", np.isfinite(second) & (first < second)),
        within(what + "step at which row 1 is learned, ‖u₁‖² ≥ λ₁/2", first, 20, 130),
        within(what + "step at which row 2 is learned, ‖u₂‖² ≥ λ₂/2", second, 60, 260),
    ]


def plotted(runs: Runs) -> Plot:
    """Plot the times of both rows against the size of the start, and the lines between which means are expected."""
    (found,) = runs.values()
    scales = found.scale.values[:-1]
    times = found.row_time.sel(scale=scales)
    low, middle, high = (times.quantile(q, "seed") for q in (0.05, 0.5, 0.95))
    ends = np.array([scales.min() / 2, scales.max() * 2])
    bands = [("row 1: 20 to 130", 20, 130), ("row 2: 60 to 260", 60, 260)]
    across = np.concatenate([ends, [np.nan], ends])  # two lines, with a gap between them
    return Plot(
        x_label=r"size of the start $\varpi$",
        y_label=r"first step with $\|u_k\|^2 \geq \lambda_k/2$",
        measured=[
            Series(f"row {row}: median, 5–95 %", scales, *(x.sel(row=row).values for x in (middle, low, high)))
            for row in (1, 2)
        ],
        promised=[Series(name, across, np.repeat([least, np.nan, most], [2, 1, 2])) for name, least, most in bands],
        x_scale="log",
    )


CHEN_FIG1_SMALL = Preset(
    name="chen_fig1_small",
    place="Figures 1 and 2",
    randomness="A seed draws the start; the matrix is fixed.",
    needs_x64=False,
    seeds=100,
    seconds=10,
    job=descents,
)

C15 = Claim(
    id="C15",
    title="rows are learned one after the other",
    place="Figures 1 and 2",
    statement="From small and large starts alike the rows of the signal are learned one after the other, the largest "
    "eigenvalue first; only the first stage depends on the size ϖ of the start. ϖ = 10 diverges.",
    formula="‖u_k‖² ≥ λ_k/2 for k = 1 before k = 2; σ₁(X₀) > √(2/η + λ₁) diverges",
    preset=CHEN_FIG1_SMALL,
    judge=judged,
    plot=plotted,
    power=Power(
        "that one run in seven learns row 2 first",
        20,
        lambda rng: [always("", rng.random(20) > 1 / 7)],
    ),
    control=Control(
        "two equal eigenvalues, which have no order, and a start that is not too large",
        changed={"eigenvalues": EQUAL, "too_large": 1.5},
        small={"scales": (0.001, 2.0)},
        seeds=6,
    ),
    departure="d is 200, where the paper's figures have 1000 to 4000.",
)

PAPER = Paper(
    __name__,
    title="Gradient descent in matrix factorization: Understanding large initialization",
    authors=("Hengchao Chen", "Xin Chen", "Mohamad Elmasri", "Qiang Sun"),
    year=2024,
    claims=(C15, C16),
)
