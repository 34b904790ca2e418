"""How the steps that Tong, Ma & Chi's ScaledGD and plain descent take depend on the condition number."""

from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import PRNGKeyArray, ScalarLike

from jaxfact.engine.experiment import Experiment, Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import gradient_descent, scaled_gd
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, log_slopes, within
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors
from jaxfact.starts import Start
from jaxfact.starts.random import standard_factors

RANK, NEAR = 3, 0.1
"""Theorem 13 is about starts at a distance of 0.1·σ_r."""
CONDITIONS, STEP_SIZE, LEVELS = (1.0, 5.0, 10.0, 20.0), 0.5, (1e-4, 1e-10)
_ILL = 5  # from here on the smallest singular value sets plain descent's rate
_OFF = 0.1
"""How far an exponent in κ may be off."""


class Near(Start):
    """The truth's balanced factors and normal entries beside, so many that they are `distance`·σ_r off.

    The distance is ScaledGD's, √(‖(U − X⋆)S^½‖² + ‖(V − Y⋆)S^½‖²), which the best alignment makes smaller.
    """

    width: int = eqx.field(static=True)
    distance: float

    compresses: ClassVar[bool] = True

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw the entries and scale them."""
        values = truth_of(problem).singular_values[: self.width]
        off = standard_factors(key, problem, self.width)
        size = jnp.sqrt(sum(jnp.sum(x**2 * values) for x in off))
        share = self.distance * values[-1] / size
        return jax.tree.map(lambda best, x: best + share * x, problem.truncation(self.width), off)


def spread_to(condition: ScalarLike) -> jax.Array:
    """Return three singular values evenly from 1 to 1/κ."""
    return 1 - jnp.linspace(0, 1, RANK) * (1 - 1 / jnp.asarray(condition))


def races(sweeps: Sweeps, *, conditions: Sequence[float] = CONDITIONS, damping: float = 0.0) -> Runs:
    """Factorise 60×60 matrices of rank 3 by plain descent and by ScaledGD, from the same starts."""
    methods = {"plain": gradient_descent(STEP_SIZE), "scaled": scaled_gd(STEP_SIZE, damping)}

    def experiment_of(method: optax.GradientTransformation) -> Experiment:
        return lambda condition: Run(Factorization(spread_to(condition), shape=(60, 60)), Near(RANK, NEAR), method)

    return {
        "runs": sweeps(
            "runs",
            {name: experiment_of(method) for name, method in methods.items()},
            max_steps=5000,
            tolerance=LEVELS[-1],
            levels=LEVELS,
            check_every=1,
            condition=conditions,
        )
    }


def _speeds(runs: Runs) -> list[Finding]:
    """Judge the exponents of both times in κ, and that all runs arrive."""
    times = {name: _times(runs, name) for name in ("scaled", "plain")}
    arrived = np.isfinite(np.stack([each.values for each in times.values()]))
    growing = times["plain"].where(times["plain"].condition >= _ILL, drop=True)
    what = f"exponent in κ of the steps from {LEVELS[0]:g} to {LEVELS[-1]:g}"
    return [
        _independent(f"ScaledGD: {what}", _exponents(times["scaled"])),
        within(f"plain descent: {what}, κ ≥ {_ILL:g}", _exponents(growing), 1 - _OFF, 1 + _OFF),
        always("fraction of runs that arrive", arrived),
    ]


def _times(runs: Runs, name: str) -> xr.DataArray:
    """Return the steps that a method takes from the first level to the last."""
    hit = runs["runs"].hit.sel({"variant": name}, drop=True).fillna(np.inf)
    return hit.isel(level=-1) - hit.isel(level=0)


def _exponents(times: xr.DataArray) -> np.ndarray:
    return log_slopes(times.condition.values, times, "condition")


def _independent(what: str, exponents: np.ndarray) -> Finding:
    return within(what, exponents, -_OFF, _OFF)


def _plot_speeds(runs: Runs) -> Plot:
    """Plot the steps of both methods against κ, beside what does not depend on it and what grows in proportion."""
    measured, promised = [], []
    for name, said in {"scaled": "ScaledGD", "plain": "plain descent"}.items():
        times = _times(runs, name)
        low, middle, high = (times.quantile(q, "seed").values for q in (0, 0.5, 1))
        measured.append(Series(f"{said}: median, range", times.condition.values, middle, low, high))
    conditions = measured[0].x
    promised = [
        Series("the same for all κ", conditions, np.full(len(conditions), measured[0].y[0])),
        Series("in proportion to κ", conditions, measured[1].y[-1] * conditions / conditions[-1]),
    ]
    return Plot(
        r"condition number $\kappa$",
        f"steps for {np.log10(LEVELS[0] / LEVELS[-1]):.0f} digits",
        measured,
        promised,
        "log",
        "log",
    )


TONG_FIG2_SMALL = Preset(
    name="tong_fig2_small",
    place="Figure 2, seen in full",
    randomness="A seed draws the start, shared by all κ and both methods; the targets are fixed.",
    needs_x64=True,
    seeds=50,
    seconds=10,
    job=races,
)

C23 = Claim(
    id="C23",
    title="ScaledGD is independent of κ",
    place="Figure 2",
    statement="ScaledGD takes as many steps to a further digit at any condition number κ; plain descent takes the more "
    "the larger it is, in proportion to κ.",
    formula="T = O(ln(1/δ)) for ScaledGD and O(κ·ln(1/δ)) for plain descent, to ‖LRᵀ−X⋆‖_F = δ‖X⋆‖_F",
    preset=TONG_FIG2_SMALL,
    judge=_speeds,
    plot=_plot_speeds,
    power=Power(
        "steps of ScaledGD that grow as κ^0.2, if exponents scatter by 0.05 over seeds",
        8,
        lambda rng: [_independent("", rng.normal(0.2, 0.05, 8))],
    ),
    control=Control(
        "a damping of σ₁ in both Gram matrices, which hides small singular values",
        changed={"damping": 1.0},
        small={"conditions": (1.0, 5.0, 10.0)},
        seeds=8,
    ),
    departure="The matrix is seen in full and n is 60, r is 3, where the paper's figure has 5nr measurements, 200 and "
    "10; a spectral start would be exact, so runs begin at 0.1σ_r from the truth, and steps are counted from a "
    "distance of 1e-4 on, which is below all starts.",
)
