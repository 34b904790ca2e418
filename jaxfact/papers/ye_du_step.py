"""How large a step may be: Ye & Du's remark that their condition on it is loose."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import balanced, gradient_descent
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, above, always, bracketed
from jaxfact.papers.ye_du_ensemble import TINY, Stepping, proven_scale, proven_step
from jaxfact.problems.factorization import Factorization
from jaxfact.results import stats
from jaxfact.starts import Gaussian

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 1.02, 1.05, 1.1, 1.2)
STEPS = 1_000_000
_SAFE, _LOOSE = 0.9, 1000.0


def steps_of_any_size(
    sweeps: Sweeps, *, step_sizes: Sequence[float] = GRID, method: Stepping = gradient_descent, steps: int = STEPS
) -> Runs:
    """Factorise the smallest matrix of the ensemble from the theorem's scale, with steps from the proven one upward."""
    m, n, values = TINY
    problem, start = Factorization(np.asarray(values), shape=(m, n)), Gaussian(len(values), scale=proven_scale(*TINY))
    runs = sweeps(
        "runs",
        lambda step_size: Run(problem, start, method(step_size)),
        max_steps=steps,
        tolerance=1e-6,
        step_size=list(step_sizes),
    )
    return {"runs": runs}


def judged(runs: Runs) -> list[Finding]:
    """Judge where success ends, that it is certain before, and how far that is beyond the proven step."""
    grid, success = _successes(runs["runs"])
    safe = grid <= _SAFE
    return [
        bracketed("50 % point of success, in 1/σ₁", grid, success, 0.95, 1.05),
        always(f"fraction of runs that converge, η ≤ {_SAFE:g}/σ₁", np.all(success[safe], axis=0)),
        above(
            "largest η up to which a seed's runs all converge, over σ_dε²/(dσ₁³)",
            _largest(grid, success) / proven_step(*TINY),
            _LOOSE,
        ),
    ]


def _successes(runs: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return runs.step_size.values, (runs.outcome == "converged").transpose("step_size", "seed").values


def _largest(grid: np.ndarray, success: np.ndarray) -> np.ndarray:
    """Return for each seed the last step size before one fails, 0 where the first does."""
    before = np.cumprod(success, axis=0).sum(axis=0)
    return np.where(before > 0, grid[before - 1], 0.0)


def plotted(runs: Runs) -> Plot:
    """Plot the share of starts that converge against the step, beside the proven one and 1/σ₁."""
    grid, success = _successes(runs["runs"])
    count = success.shape[1]
    low, high = stats.wilson(success.sum(axis=1), count)
    ends = np.array([0.0, 1.0])
    return Plot(
        x_label=r"step size $\eta\sigma_1$",
        y_label="fraction that converges",
        measured=[Series(f"{count} starts", grid, success.mean(axis=1), low, high)],
        promised=[
            Series(r"$\sigma_d\epsilon^2/(d\sigma_1^3)$", np.full(2, proven_step(*TINY)), ends),
            Series(r"$1/\sigma_1$", np.ones(2), ends),
        ],
        x_scale="log",
    )


def _edge_at(edge: float, rng: np.random.Generator, seeds: int) -> Finding:
    """Return what the rule makes of runs that succeed below an edge elsewhere, each with one of its own 1 % from it."""
    grid = np.array(GRID)
    return bracketed("", grid, grid[:, None] < edge * (1 + 0.01 * rng.normal(size=seeds)), 0.95, 1.05)


YEDU_STEPS = Preset(
    name="yedu_steps",
    place="remark after Theorem 1.1",
    randomness="A seed draws the start; the target is fixed.",
    needs_x64=True,
    seeds=64,
    seconds=15,
    job=steps_of_any_size,
)

C7 = Claim(
    id="C7",
    title="the proven step is far too small",
    place="remark after Theorem 1.1",
    statement="The condition on the step is loose: every start converges up to about 1/σ₁, which is some ten thousand "
    "times the step of the theorem.",
    formula="largest η with success on every start ≈ 1/σ₁ ≫ σ_dε²/(dσ₁³)",
    preset=YEDU_STEPS,
    judge=judged,
    plot=plotted,
    power=Power("an edge that is off by 15 %", 20, lambda rng: [_edge_at(0.85, rng, 20)]),
    control=Control(
        "a balancing term of weight 1/4, which has its own edge at 1/2",
        changed={"method": partial(balanced, weight=0.25)},
        small={"step_sizes": GRID[6:], "steps": 20_000},
        seeds=20,
    ),
    departure="The constant of the theorem's O(·) is not stated: it is taken to be 1.",
)
