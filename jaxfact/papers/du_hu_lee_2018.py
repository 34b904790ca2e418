"""Du, Hu & Lee (2018), Figure 1: descent from a small start balances the factors, and a regulariser gains no time."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.measures import loss
from jaxfact.methods import balanced
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, bounded, unjudged, within
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.starts import Gaussian

SHAPE, VALUES = (50, 40), (1.0, 0.8, 0.6, 0.4, 0.2)
STEP_SIZE, SCALE, WEIGHT, STEPS = 0.05, 1e-2, 1 / 8, 4000
LEVELS = (1e-1, 1e-3, 1e-6)
_MARGIN = 0.05


def descents(sweeps: Sweeps, *, ratio: float = 1.0) -> Runs:
    """Factorise a 50×40 matrix of rank 5 with and without a regulariser, from the same small starts."""
    problem = Factorization(np.asarray(VALUES), shape=SHAPE)
    # Entries of both factors have one scale: norms are then as √m to √n.
    start = Gaussian(len(VALUES), scale=SCALE, ratio=jnp.asarray(ratio * (SHAPE[0] / SHAPE[1]) ** 0.5))
    runs = sweeps(
        "runs",
        lambda weight: Run(problem, start, balanced(STEP_SIZE, weight)),
        max_steps=STEPS,
        tolerance=LEVELS[-1],
        levels=LEVELS,
        record={"loss": loss, "ratio": norm_ratio},
        every=50,
        check_every=2,
        weight=[0.0, WEIGHT],
    )
    return {"runs": runs}


def norm_ratio(_: Problem, factors: Factors) -> jax.Array:
    """Return ‖U‖²_F/‖V‖²_F."""
    squares = [jnp.sum(x**2) for x in factors]
    return squares[0] / squares[1]


def judged(runs: Runs) -> list[Finding]:
    """Judge the times to three distances, seed by seed, and how far the norms are from equal once all is learned."""
    (found,) = runs.values()
    hit = found.hit.fillna(np.inf)
    plain, regularised = (hit.sel(weight=weight) for weight in hit.weight)
    with np.errstate(invalid="ignore"):  # where neither arrives
        ratios = plain / regularised
    apart = np.abs(found.ratio_path - 1).sel(weight=0)
    learned = found.step >= plain.isel(level=0)
    return [
        *(
            within(
                f"time to a distance of {level:g} over that with the regulariser",
                ratios.sel(level=level, method="nearest").values,
                1 - _MARGIN,
                1 + _MARGIN,
            )
            for level in LEVELS
        ),
        always("fraction of runs that arrive", np.isfinite(hit.isel(level=-1).values)),
        bounded(
            f"without it: largest |‖U‖²_F/‖V‖²_F − 1| from a distance of {LEVELS[0]:g} on",
            apart.where(learned).max("step").values,
            _MARGIN,
        ),
        unjudged("without it: the same from the start on", apart.max("step").values),
    ]


def plotted(runs: Runs) -> Plot:
    """Plot medians of both objectives against steps, and how unequal the norms are without the regulariser."""
    (found,) = runs.values()
    apart = np.abs(found.ratio_path.sel(weight=0) - 1)
    end = 0.5 * (LEVELS[-1] * np.linalg.norm(VALUES)) ** 2
    shown = found.isel(step=(found.loss_path.median("seed").max("weight") > end).values)
    measured = [
        _curve("plain", shown.loss_path.sel(weight=0)),
        _curve("regularised", shown.loss_path.isel(weight=-1, step=slice(None, None, 3))),
        _curve("norms apart, plain", apart.sel(step=shown.step)),
    ]
    promised = Series("norms equal to 5 %", shown.step.values[[0, -1]], np.full(2, _MARGIN))
    label = r"objective, and $|\|U\|_F^2/\|V\|_F^2-1|$"
    return Plot("step $t$", label, measured, [promised], y_scale="log")


def _curve(name: str, path: xr.DataArray) -> Series:
    middle, low, high = (path.quantile(q, "seed").values for q in (0.5, 0.05, 0.95))
    return Series(name, path.step.values, middle, low, high)


DU_HU_LEE_FIG1 = Preset(
    name="du_hu_lee_fig1",
    place="Figure 1",
    randomness="A seed draws the start, shared by both methods; the target is fixed.",
    needs_x64=True,
    seeds=100,
    seconds=5,
    job=descents,
)

C13 = Claim(
    id="C13",
    title="the regulariser changes no time",
    place="Figure 1",
    statement="From one small random start descent with and without a balancing regulariser is equally fast to 5 %, "
    "and without it the squared norms of the factors are equal to 5 % once all directions are learned.",
    formula="T(f)/T(f + ‖UᵀU − VᵀV‖²_F/8) = 1 within 5 %, paired by starts; ‖U‖²_F/‖V‖²_F = 1 within 5 %",
    preset=DU_HU_LEE_FIG1,
    judge=judged,
    plot=plotted,
    power=Power(
        "a ratio of times of 1.06, if ratios scatter by 0.05 over seeds",
        100,
        lambda rng: [within("", rng.normal(1.06, 0.05, 100), 1 - _MARGIN, 1 + _MARGIN)],
    ),
    control=Control(
        "a start whose left entries are 25 times as large as the right ones",
        changed={"ratio": 25.0},
        small={},
        seeds=20,
    ),
    evidence="The abstract was read, and the figure's sizes, step and start were not found: what it shows is from "
    "memory, and this one is in its style.",
    departure="50×40, rank 5, η = 0.05, entries of deviation 0.01 and weight 1/8 are ours, and so is the margin of 5 "
    "%. The ratio of norms is judged from a distance of 0.1 on: at the start it is m/n on average.",
)

PAPER = Paper(
    __name__,
    title="Algorithmic Regularization in Learning Deep Homogeneous Models: Layers are Automatically Balanced",
    authors=("Simon S. Du", "Wei Hu", "Jason D. Lee"),
    year=2018,
    claims=(C13,),
)
