"""Ward & Kolda (2023): alternating descent from an unbalanced start needs κ² steps at most, whatever the rank."""

from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import PRNGKeyArray, ScalarLike

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import alternating
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, above, always, below, bounded, log_slopes, near
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors
from jaxfact.starts import Gaussian, Start, ward_kolda

SIZE, STEP_SIZE, LEVEL, STEPS = 100, 9 / 16, 1e-6, 10_000
CASES = {"rank5width5": (5, 5), "rank5width10": (5, 10), "rank5width20": (5, 20), "rank2width4": (2, 4)}
"""Ranks and widths by the name of their runs."""
CONDITIONS = (2.0, 5.0, 10.0, 20.0, 40.0)
AT = 10.0
"""The κ up to which growth is judged, and at which widths, ranks and starts are compared."""
_TYPICAL, _GAUSSIAN = "rank5width10", "gaussian"


class Unbalanced(Start):
    """Ward & Kolda's start times `share`, and independent normal entries of deviation 0.01 times 1 − share."""

    width: int = eqx.field(static=True)
    share: ScalarLike = 1.0

    compresses: ClassVar[bool] = True

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw both, from the same key."""
        theirs = ward_kolda(self.width, STEP_SIZE).draw(key, problem)
        small = Gaussian(self.width, scale=0.01).draw(key, problem)
        return jax.tree.map(lambda x, y: self.share * x + (1 - self.share) * y, theirs, small)


def descents(
    sweeps: Sweeps,
    *,
    cases: Sequence[str] = tuple(CASES),
    conditions: Sequence[float] = CONDITIONS,
    share: float = 1.0,
    steps: int = STEPS,
) -> Runs:
    """Factorise 100×100 matrices by alternating descent at several ranks and widths, and once from a Gaussian start."""

    def runs(name: str, case: str, share: float, conditions: Sequence[float]) -> xr.Dataset:
        rank, width = CASES[case]

        def experiment(condition, share):
            values = 1 - jnp.linspace(0, 1, rank) * (1 - 1 / condition)
            return Run(Factorization(values, shape=(SIZE, SIZE)), Unbalanced(width, share), alternating(STEP_SIZE))

        return sweeps(
            name,
            experiment,
            max_steps=steps,
            tolerance=LEVEL,
            check_every=1,
            condition=list(conditions),
            share=share,
        )

    found = {case: runs(case, case, share, conditions) for case in cases}
    return found | {_GAUSSIAN: runs(_GAUSSIAN, _TYPICAL, 0.0, [AT])}


def judged(runs: Runs) -> list[Finding]:
    """Judge the bound and the growth in κ, and the steps of other widths, ranks and starts at one κ."""
    times = {case: _times(runs[case]) for case in CASES if case in runs}
    shares = np.concatenate([_counted(each).values.ravel() / _allowed(case) for case, each in times.items()])
    beyond = {case: each.sel(condition=slice(2 * AT, None)) for case, each in times.items()}
    return [
        bounded("steps over w(d)κ²ln(1/ε)", shares, 1.0),
        *(_below_square(case, each.sel(condition=slice(None, AT))) for case, each in times.items()),
        always("fraction of runs that arrive", np.isfinite(shares)),
        *_compared({case: each.sel(condition=AT).values for case, each in times.items()}, _gaussian(runs)),
        *(near(_growth(case, "from 20 on"), _exponents(each), 2.0) for case, each in beyond.items() if each.size),
    ]


def _times(runs: xr.Dataset) -> xr.DataArray:
    """Return the steps to the level along (condition, seed), inf where it is not reached."""
    return runs.hit.sel(level=LEVEL).fillna(np.inf).transpose("condition", "seed")


def _gaussian(runs: Runs) -> np.ndarray:
    """Return the steps from a Gaussian start, or how many were allowed."""
    found = runs[_GAUSSIAN]
    return np.minimum(_times(found).values[0], found.attrs["max_steps"])


def _allowed(case: str) -> float:
    """Return w(d) = d/(√d − √(r−1))²."""
    rank, width = CASES[case]
    return width / (width**0.5 - (rank - 1) ** 0.5) ** 2


def _counted(times: xr.DataArray) -> xr.DataArray:
    """Return steps in κ²ln(1/ε), where ε is of squared errors."""
    return times / (times.condition**2 * np.log(1 / LEVEL**2))


def _below_square(case: str, times: xr.DataArray) -> Finding:
    return _at_most_square(_growth(case, f"up to {AT:g}"), _exponents(times))


def _at_most_square(what: str, exponents: np.ndarray) -> Finding:
    return below(what, exponents, 2.0)


def _exponents(times: xr.DataArray) -> np.ndarray:
    return log_slopes(times.condition.values, times, "condition")


def _growth(case: str, where: str) -> str:
    return "rank {}, width {}: exponent in κ, {}".format(*CASES[case], where)


def _compared(times: dict[str, np.ndarray], gaussian: np.ndarray) -> list[Finding]:
    """Judge the ratios of times at one κ, of those that there are."""
    wide, small = f"steps at width 20 over those at 5, rank 5, κ={AT:g}", f"steps at rank 5 over those at 2, κ={AT:g}"
    pairs = [(wide, "rank5width20", "rank5width5", 1.0), (f"{small}, width 2r", _TYPICAL, "rank2width4", 1.05)]
    return [
        above(f"steps from a Gaussian start over theirs, κ={AT:g}, at least", gaussian / times[_TYPICAL], 1.0),
        *(below(what, times[one] / times[two], most) for what, one, two, most in pairs if {one, two} <= set(times)),
    ]


def plotted(runs: Runs) -> Plot:
    """Plot the medians of steps over κ²ln(1/ε) against κ, beside the bounds at two widths."""
    measured = []
    for case in CASES:
        if case in runs:
            rank, width = CASES[case]
            measured.append(_drawn(f"$r={rank}$, $d={width}$", _counted(_times(runs[case]))))
    gaussian = xr.DataArray(_gaussian(runs)[None], {"condition": [AT]}, ("condition", "seed"))
    measured.append(_drawn(f"Gaussian, $d={CASES[_TYPICAL][1]}$", _counted(gaussian)))
    ends, rank = np.array([1.0, 100.0]), CASES[_TYPICAL][0]
    bounds = [
        Series(f"$w({width})$, $r={rank}$", ends, np.full(2, _allowed(case)))
        for case, (other, width) in CASES.items()
        if case in runs and other == rank
    ]
    return Plot(r"condition number $\kappa$", r"steps over $\kappa^2\,\ln(1/\epsilon)$", measured, bounds, "log", "log")


def _drawn(name: str, values: xr.DataArray) -> Series:
    low, middle, high = (values.quantile(q, "seed").values for q in (0.05, 0.5, 0.95))
    return Series(name, values.condition.values, middle, low, high)


WARDKOLDA_SMALL = Preset(
    name="wardkolda_small",
    place="Theorem of the introduction",
    randomness="A seed draws the start, shared by all κ; the targets are fixed.",
    needs_x64=True,
    seeds=50,
    seconds=20,
    job=descents,
    sweeps=len(CASES) + 1,
)

C25 = Claim(
    id="C25",
    title="alternating descent takes at most κ² log(1/ε)",
    place="introduction",
    statement="From an unbalanced start in the column space of the matrix, alternating descent arrives in steps that "
    "grow no faster than κ², with a little width to spare not with the rank either, and sooner than from a Gaussian "
    "start.",
    formula="T ≤ C·w(d)·κ²·ln(1/ε), w(d) = d/(√d − √(r−1))², to ‖UVᵀ − Σ‖_F² ≤ ε‖Σ‖_F², and w(2r) < 12 for any r",
    preset=WARDKOLDA_SMALL,
    judge=judged,
    plot=plotted,
    power=Power(
        "steps that grow as κ^2.1, if exponents scatter by 0.1 over seeds",
        20,
        lambda rng: [_at_most_square("", rng.normal(2.1, 0.1, 20))],
    ),
    control=Control(
        "small Gaussian starts",
        changed={"share": 0.0},
        small={"cases": (_TYPICAL,), "conditions": (2.0, AT), "steps": 2000},
        seeds=8,
    ),
    evidence="The introduction was read, the start in a third party's restatement and from memory; sizes of the "
    "paper's figures were not found.",
    departure="The constant C is not known: it is taken to be 1. The start's own C and ν are 8 and ½. "
    "The growth is judged at κ of 2, 5 and 10, and stands beside at 20 and 40.",
)

PAPER = Paper(
    __name__,
    title="Convergence of Alternating Gradient Descent for Matrix Factorization",
    authors=("Rachel Ward", "Tamara G. Kolda"),
    year=2023,
    claims=(C25,),
)
