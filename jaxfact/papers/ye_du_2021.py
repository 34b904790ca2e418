"""Ye & Du (2021): plain descent factorises a matrix of exact rank from a random start, without regulariser or noise."""

import numpy as np
import xarray as xr

from jaxfact.figures.claims import Plot, Series
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Runs
from jaxfact.papers.rules import Finding, always
from jaxfact.papers.ye_du_bounds import C3, C4, C5, C6
from jaxfact.papers.ye_du_ensemble import ENSEMBLE, TOLERANCE, YEDU_ENSEMBLE, frozen, said, steps_beyond
from jaxfact.papers.ye_du_extras import C12
from jaxfact.papers.ye_du_step import C7
from jaxfact.papers.ye_du_times import C2
from jaxfact.results import stats


def _converge(runs: Runs) -> list[Finding]:
    return [
        always(f"{said(found)}: fraction of starts that come within {TOLERANCE:g}", _converged(found))
        for found in runs.values()
    ]


def _converged(runs: xr.Dataset) -> np.ndarray:
    return (runs.outcome == "converged").values


def _survivors(runs: Runs) -> Plot:
    """Plot the share of starts that have not arrived against steps, beside the budget by which all shall have."""
    measured = []
    for found in runs.values():
        left = stats.time_to(found, TOLERANCE).survival()
        shown = left.isel(time=slice(None, None, max(1, left.sizes["time"] // 400)))
        shown = shown.where(shown > 0, drop=True)
        measured.append(Series(said(found), shown.time.values, shown.values))
    count = next(iter(runs.values())).sizes["seed"]
    ends = np.array([min(one.x[-1] for one in measured) / 10, max(one.x[-1] for one in measured) * 1.1])
    promised = [Series("fewer than one start", ends, ends, np.full(2, 0.2 / count), np.full(2, 1 / count))]
    return Plot("step $t$", "starts that have not arrived", measured, promised, y_scale="log")


C1 = Claim(
    id="C1",
    title="every random start converges",
    place="Theorem 1.1",
    statement="Descent from a small Gaussian start always comes as near to a target of exact rank as one likes, though "
    "its steps are hundreds of times and more as long as the proof allows.",
    formula="P(‖UVᵀ − Σ‖ ≤ δ) → 1 from entries N(0, ε²), ε = σ_d/(√(dσ₁)(m+n))",
    preset=YEDU_ENSEMBLE,
    judge=_converge,
    plot=_survivors,
    power=Power("that 3 in 10,000 starts fail", 10_000, lambda rng: [always("", rng.random(10_000) > 3e-4)]),
    control=Control(
        "V is never moved, so that its random columns would have to span the target's",
        changed={"method": frozen},
        small={"shapes": ENSEMBLE[:1]},
        seeds=50,
    ),
    hypotheses=steps_beyond,
    departure="The theorem's η = O(σ_dε²/(dσ₁³)) needs some 10⁵ steps; η = 0.05 is in the table of presets.",
)

PAPER = Paper(
    __name__,
    title="Global Convergence of Gradient Descent for Asymmetric Low-Rank Matrix Factorization",
    authors=("Tian Ye", "Simon S. Du"),
    year=2021,
    claims=(C1, C2, C3, C4, C5, C6, C7, C12),
)
