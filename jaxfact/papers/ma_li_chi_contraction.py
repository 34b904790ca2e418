"""Ma, Li & Chi (2021), Theorem 2: near the truth plain descent contracts, with nothing that balances the factors."""

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
from jaxfact.measures import imbalance, invertible_distance
from jaxfact.methods import gradient_descent
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, bounded, unjudged
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors
from jaxfact.starts import Start
from jaxfact.starts.random import standard_factors

SHAPE, VALUES = (30, 20), (1.0, 2 / 3, 1 / 3)
CONDITION = VALUES[0] / VALUES[-1]
STEP_SIZES, DISTANCES, STEPS = (0.1, 0.5, 0.9), (0.1, 1.0), 200
CONSTANT = 50
"""Theorem 2: the distance falls by 1 − η/(50κ) per step, or more."""
_ROUNDING = 1e-9  # of √σ₁: below it the ratio of two distances is one of rounding errors


class Displaced(Start):
    """The truth's balanced factors, displaced by normal entries whose joint Frobenius norm is `distance` (in √σ₁).

    So they are at most that far from the truth after the best alignment, whichever that is.
    """

    width: int = eqx.field(static=True)
    distance: ScalarLike

    compresses: ClassVar[bool] = True

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw the entries and scale them."""
        off = standard_factors(key, problem, self.width)
        share = self.distance / jnp.sqrt(sum(jnp.sum(x**2) for x in off))
        return jax.tree.map(lambda best, x: best + share * x, truth_of(problem).truncation(self.width), off)


def contractions(
    sweeps: Sweeps,
    *,
    step_sizes: Sequence[float] = STEP_SIZES,
    distances: Sequence[float] = DISTANCES,
    steps: int = STEPS,
) -> Runs:
    """Factorise a 30×20 matrix of rank 3 from distances in σ_r^½/κ^{3/2}, the scale of the theorem."""
    problem = Factorization(np.asarray(VALUES), shape=SHAPE)
    unit = VALUES[-1] ** 0.5 / CONDITION**1.5

    def experiment(step_size, off):
        return Run(problem, Displaced(len(VALUES), off * unit), gradient_descent(step_size))

    runs = sweeps(
        "runs",
        experiment,
        max_steps=steps,
        record={"aligned": invertible_distance, "imbalance": imbalance},
        every=1,
        check_every=1,
        step_size=list(step_sizes),
        off=list(distances),
    )
    return {"runs": runs}


def judged(runs: Runs) -> list[Finding]:
    """Judge every step's ratio of distances, for each step size, and report which constant would do."""
    (found,) = runs.values()
    ratios = _ratios(found)
    constants = found.step_size / (CONDITION * (1 - ratios.max("step")))
    return [
        *(
            bounded(
                f"η={step_size:g}: largest dist(Z_t₊₁, Z⋆)/dist(Z_t, Z⋆)",
                ratios.sel(step_size=step_size).max("step").values,
                1 - step_size / (CONSTANT * CONDITION),
            )
            for step_size in found.step_size.values
        ),
        unjudged(f"constant that would do in place of {CONSTANT}", constants.values),
        unjudged("largest ‖UᵀU−VᵀV‖_F, in σ₁", found.imbalance_path.max("step").values),
    ]


def _ratios(runs: xr.Dataset) -> xr.DataArray:
    """Return by what each step multiplies the distance, where it is above rounding."""
    away = runs.aligned_path
    return (away.shift(step=-1) / away).where(away > _ROUNDING)


def _starts_near(runs: Runs) -> list[Hypothesis]:
    (found,) = runs.values()
    unknown = "by a constant that is not stated"
    return [
        Hypothesis("min_R ‖Z₀R − Z⋆‖_F over σ_r^½/κ^{3/2}, at most", float(found.off.max()), unknown, None),
        Hypothesis("the step size, at most", float(found.step_size.max()), unknown, None),
    ]


def plotted(runs: Runs) -> Plot:
    """Plot by which share of η/κ the distance falls at each step, beside the share that is promised."""
    (found,) = runs.values()
    falls = (1 - _ratios(found)) * CONDITION / found.step_size
    measured = []
    for step_size in found.step_size.values:
        fall = falls.sel(step_size=step_size).stack(run=("off", "seed"))
        fall = fall.isel(step=fall.notnull().all("run").values)
        each = (fall.median("run"), fall.min("run"), fall.max("run"))
        measured.append(Series(rf"$\eta={step_size:g}$", fall.step.values, *(x.values for x in each)))
    ends = found.step.values[[0, -1]]
    promised = Series(rf"promised: $1/{CONSTANT}$", ends, np.full(2, 1 / CONSTANT))
    label = r"fall of the distance per step, in $\eta/\kappa$"
    return Plot("step $t$", label, measured, [promised], y_scale="log")


def _slower(constant: float, rng: np.random.Generator, seeds: int) -> list[Finding]:
    """Return what the rule makes of falls by η/(constant·κ) per step that scatter by 2 % over seeds."""
    step = STEP_SIZES[0] / CONDITION
    return [bounded("", 1 - step / constant * rng.normal(1, 0.02, seeds), 1 - step / CONSTANT)]


MA_LI_CHI_CONTRACTION = Preset(
    name="ma_li_chi_contraction",
    place="Theorem 2",
    randomness="A seed draws the direction in which the start is off, shared by all η and distances; the target is "
    "fixed.",
    needs_x64=True,
    seeds=20,
    seconds=15,
    job=contractions,
)

C10 = Claim(
    id="C10",
    title="each step comes nearer to the truth",
    place="Theorem 2",
    statement="Near a matrix that is seen in full, every step of plain descent brings the factors nearer to those of "
    "the truth, up to an invertible matrix, by a share η/(50κ) or more; nothing has to balance them.",
    formula="dist(Z_t₊₁, Z⋆) ≤ (1 − η/(50κ))·dist(Z_t, Z⋆), dist² = min_P ‖XP − X⋆‖²_F + ‖YP^{-T} − Y⋆‖²_F",
    preset=MA_LI_CHI_CONTRACTION,
    judge=judged,
    plot=plotted,
    power=Power("a fall by η/(55κ) per step, if it scatters by 2 % over seeds", 5, lambda rng: _slower(55, rng, 5)),
    control=Control(
        "a step of 1.1/σ₁, beyond the edge of stability",
        changed={"step_sizes": (1.1,)},
        small={"step_sizes": (0.5,), "distances": (1.0,), "steps": 40},
        seeds=5,
    ),
    hypotheses=_starts_near,
    departure="The constants c₀ of the start's distance and c₁ of the step are not stated: starts are at 0.1 and 1 in "
    "their place, and steps at 0.1, 0.5 and 0.9. The theorem bounds dist(Z_t, Z⋆)/dist(Z₀, Z⋆); here each step is "
    "held to its share of that, as in the proof.",
)
