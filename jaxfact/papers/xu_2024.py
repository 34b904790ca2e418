"""Xu et al. (2024): from a start large on the left, Nesterov's method takes steps in proportion to κ, not κ²."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, ScalarLike

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import Method
from jaxfact.numerics.decompositions import eigenvalues
from jaxfact.numerics.products import gram
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, log_slopes, near, within
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.starts import ColumnSpace

RANK, WIDTH, LEFT = 5, 20, 50.0
LEVELS = (1e-4, 1e-8)
CONDITIONS = (10.0, 20.0, 40.0)
STEPS = 200_000
_OFF = 0.1
"""How far an exponent in κ may be off."""


class Accelerated(NamedTuple):
    """What Nesterov's method remembers: its step size and momentum, both from the start, and the sum of gradients."""

    step_size: Float[Array, ""]
    momentum: Float[Array, ""]
    trace: Factors


def nesterov(rank: int, share: ScalarLike = 1.0) -> Method:
    """Return Nesterov's method with η = 1/L and momentum (√L − √µ)/(√L + √µ), L = σ₁²(U₀) and µ = σ_r²(U₀).

    `share` multiplies the momentum: with 0 it is plain descent.
    """

    def init(factors: Factors) -> Accelerated:
        squares = eigenvalues(gram(factors.U))
        ratio = jnp.sqrt(squares[-rank] / squares[-1])
        return Accelerated(
            1 / squares[-1], jnp.asarray(share) * (1 - ratio) / (1 + ratio), jax.tree.map(jnp.zeros_like, factors)
        )

    def update(gradient: Factors, state: Accelerated, factors: Factors | None = None, **_):
        step_size, momentum, trace = state
        trace = jax.tree.map(lambda g, v: g + momentum * v, gradient, trace)
        updates = jax.tree.map(lambda g, v: -step_size * (g + momentum * v), gradient, trace)
        return updates, Accelerated(step_size, momentum, trace)

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def races(
    sweeps: Sweeps,
    *,
    conditions: Sequence[float] = CONDITIONS,
    momenta: Sequence[float] = (0.0, 1.0),
    rank: int = RANK,
    width: int = WIDTH,
) -> Runs:
    """Factorise 60×50 matrices without the momentum and with it."""

    def experiment(condition, momentum):
        values = 1 - jnp.linspace(0, 1, rank) * (1 - 1 / condition)
        return Run(Factorization(values, shape=(60, 50)), ColumnSpace(width, left=LEFT), nesterov(rank, momentum))

    return {
        "runs": sweeps(
            "runs",
            experiment,
            max_steps=STEPS,
            tolerance=LEVELS[-1],
            levels=LEVELS,
            record={"spread": spread},
            check_every=5,
            condition=list(conditions),
            momentum=list(momenta),
        )
    }


def spread(problem: Problem, factors: Factors) -> Float[Array, ""]:
    """Return σ₁²(U)/σ_r²(U), which steps scarcely change where U is large."""
    squares = eigenvalues(gram(factors.U))
    return squares[-1] / squares[-truth_of(problem).rank]


def judged(runs: Runs) -> list[Finding]:
    """Judge the exponents of both methods' steps in κ, and that all runs arrive; report the rates beside."""
    found = runs["runs"]
    plain, fast = (found.hit.isel(momentum=place).fillna(np.inf) for place in (0, -1))
    slow, least = LEVELS
    ratio = found.spread.isel(momentum=0)
    return [
        _exponent(f"Nesterov: exponent in κ of the steps from {slow:g} to {least:g}", _exponents(_last(fast)), 1),
        _exponent(f"plain descent: exponent in κ of the steps from {slow:g} to {least:g}", _exponents(_last(plain)), 2),
        always("fraction of runs that arrive", np.isfinite(np.stack([plain.values, fast.values]))),
        near(f"Nesterov: exponent of all steps to {least:g}", _exponents(fast.sel(level=least)), 1.0),
        near(f"plain descent: exponent of all steps to {least:g}", _exponents(plain.sel(level=least)), 2.0),
        _as_predicted("Nesterov: steps from one to the other over √(L/µ)·ln(1e4)", _last(fast) / np.sqrt(ratio)),
        _as_predicted("plain descent: steps from one to the other over (L/µ)·ln(1e4)", _last(plain) / ratio),
    ]


def _last(hit: xr.DataArray) -> xr.DataArray:
    """Return the steps from the first level to the last."""
    return hit.sel(level=LEVELS[-1], drop=True) - hit.sel(level=LEVELS[0], drop=True)


def _exponents(times: xr.DataArray) -> np.ndarray:
    return log_slopes(times.condition.values, times, "condition")


def _exponent(what: str, exponents: np.ndarray, promised: float) -> Finding:
    return within(what, exponents, promised - _OFF, promised + _OFF)


def _as_predicted(what: str, times: xr.DataArray) -> Finding:
    return near(what, (times / np.log(LEVELS[0] / LEVELS[1])).mean("condition").values, 1.0)


def plotted(runs: Runs) -> Plot:
    """Plot the steps of both methods against κ, beside lines in proportion to κ and to κ²."""
    measured, promised = [], []
    for place, said, power in ((0, "descent", 2), (-1, "Nesterov", 1)):
        times = runs["runs"].hit.isel(momentum=place).sel(level=LEVELS[-1]).fillna(np.inf)
        conditions = times.condition.values
        low, middle, high = (times.quantile(q, "seed").values for q in (0, 0.5, 1))
        measured.append(Series(f"{said}: median, range", conditions, middle, low, high))
        line = middle[-1] * (conditions / conditions[-1]) ** power
        promised.append(Series(rf"$\propto\kappa^{power}$" if power > 1 else r"$\propto\kappa$", conditions, line))
    return Plot(r"condition number $\kappa$", "steps to $10^{-8}$", measured, promised, "log", "log")


NAG_SMALL = Preset(
    name="nag_small",
    place="abstract",
    randomness="A seed draws the start, shared by all κ and both methods; the targets are fixed.",
    needs_x64=True,
    seeds=50,
    seconds=25,
    job=races,
)

C26 = Claim(
    id="C26",
    title="Nesterov's method turns κ² into κ",
    place="abstract",
    statement="From a left factor that is large and a right one that is zero, Nesterov's method needs steps in "
    "proportion to the condition number κ, plain descent in proportion to its square.",
    formula="T = O(κ·ln(1/δ)) for Nesterov's method and O(κ²·ln(1/δ)) for plain descent, U₀ = cΣΦ/√d and V₀ = 0",
    preset=NAG_SMALL,
    judge=judged,
    plot=plotted,
    power=Power(
        "an exponent of 1.15, if exponents scatter by 0.05 over seeds",
        8,
        lambda rng: [_exponent("", rng.normal(1.15, 0.05, 8), 1)],
    ),
    control=Control(
        "half of the momentum",
        changed={"momenta": (0.0, 0.5)},
        small={"conditions": (10.0, 20.0), "rank": 2, "width": 8},
        seeds=8,
    ),
    evidence="The abstract was read; the rule for step size and momentum is from memory: η = 1/L and momentum "
    "(√L − √µ)/(√L + √µ), L = σ₁²(U₀) and µ = σ_r²(U₀).",
    departure="The singular values lie evenly from 1 to 1/κ, and κ is 10, 20 and 40. Exponents are those of the steps "
    "from 1e-4 on: the error of the weakest direction begins at about 1/κ of the others, so that the logarithm to be "
    "gone through is shorter where κ is large. Those of all steps to 1e-8 stand beside.",
)

PAPER = Paper(
    __name__,
    title="Provable Acceleration of Nesterov's Accelerated Gradient for Rectangular Matrix Factorization and Linear "
    "Neural Networks",
    authors=("Zhenghao Xu", "Yuqing Wang", "Tuo Zhao", "Rachel Ward", "Molei Tao"),
    year=2024,
    claims=(C26,),
)
