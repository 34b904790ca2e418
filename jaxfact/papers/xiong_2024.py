"""Xiong, Ding & Du (2024): above the rank, one factor descends sublinearly and two unbalanced ones linearly."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from jaxfact.descent import log_steps
from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import gradient_descent
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, bounded, log_slopes, within
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.starts import Gaussian

SIZE, RANK, STEP_SIZE = 50, 3, 0.2
WIDTH = 5
SCALES = (0.0125, 0.025, 0.05, 0.1)
SYMMETRIC_STEPS, STEPS = 20_000, 100_000
_LATE = 2000
LEVELS = (1e-4, 1e-6, 1e-8)
_OFF = 0.05
"""How far an exponent, and the ratio of two rates of one run, may be off."""


def descents(sweeps: Sweeps, *, width: int = WIDTH, scales: Sequence[float] = SCALES) -> Runs:
    """Factorise a projection of rank 3 by one factor at width 3 and above it, and by two whose starts are α and α/3."""
    problem = Factorization(np.ones(RANK), shape=(SIZE, SIZE))
    descent = gradient_descent(STEP_SIZE)

    def symmetric(width):
        return Run(Tied(problem), Gaussian(width, scale=scales[-1], padded_to=WIDTH), descent)

    def unbalanced(scale):
        # The entries' deviations are α and α/3: their product is scale², and their ratio 3.
        return Run(problem, Gaussian(width, scale=scale / 3**0.5, ratio=3.0), descent)

    found = sweeps(
        "symmetric",
        symmetric,
        max_steps=SYMMETRIC_STEPS,
        record=["distance"],
        every=log_steps(SYMMETRIC_STEPS, unit=10),
        check_every=10,
        width=sorted({RANK, width}),
    )
    return {
        "exact": found.isel(width=0),
        "symmetric": found.isel(width=-1),
        "asymmetric": sweeps(
            "asymmetric",
            unbalanced,
            max_steps=STEPS,
            tolerance=LEVELS[-1],
            levels=LEVELS,
            record=["distance"],
            every=log_steps(STEPS),
            check_every=1,
            scale=scales,
        ),
    }


def _judged(runs: Runs) -> list[Finding]:
    """Judge both exponents, that the asymmetric decay is linear, and the exact width beside."""
    late, two = runs["symmetric"].distance_path.sel(step=slice(_LATE, None)), runs["asymmetric"]
    early, latest = rates = _rates(two)
    per_scale = np.log(np.sqrt(early * latest))
    exponents = np.polyfit(np.log(two.scale.values**2), per_scale, 1)[0]
    arrived = np.asarray(np.all(rates > 0, axis=0))
    return [
        within(
            "one factor, k > r: exponent of the error in t", log_slopes(late.step.values, late, "step"), *_about(-1)
        ),
        within("two factors, k > r: exponent of the rate in α²", exponents, *_about(1)),
        within("two factors, k > r: rate from 1e-6 to 1e-8 over that from 1e-4", (latest / early).mean(0), *_about(1)),
        always("two factors, k > r: fraction of runs that come within 1e-8", arrived),
        bounded("one factor, k = r: largest error after 2000 steps", _at_exact_width(runs), 1e-8),
    ]


def _about(value: float) -> tuple[float, float]:
    return value - _OFF, value + _OFF


def _rates(runs: xr.Dataset) -> np.ndarray:
    """Return −ln of the factor per step from one level to the next, along (window, scale, seed); 0 if it never is."""
    waits = np.diff(runs.hit.fillna(np.inf).transpose("level", "scale", "seed").values, axis=0)
    return -np.diff(np.log(LEVELS))[:, None, None] / waits


def _at_exact_width(runs: Runs) -> np.ndarray:
    return runs["exact"].distance_path.sel(step=_LATE, method="nearest").values


def _plot(runs: Runs) -> Plot:
    """Plot medians of all errors against α²t, in which asymmetric ones are parallel, beside 1/t and one rate."""
    two, one = runs["asymmetric"], runs["symmetric"].distance_path.median("seed")
    largest = float(two.scale[-1])
    constant = float(np.median(_rates(two)[1, -1])) / largest**2
    measured = [_decay(two.sel(scale=scale)) for scale in two.scale.values]
    end = max(series.x[-1] for series in measured)
    shown = one.sel(step=slice(20, end / largest**2))
    measured.append(Series(rf"one factor, $\alpha={largest:g}$", largest**2 * shown.step.values, shown.values))
    begin, last = (largest**2 * float(two.hit.sel(scale=largest).isel(level=at).median()) for at in (0, -1))
    beside = np.array([begin, last])
    extra = int(one.width) - RANK
    promised = [
        Series(r"$\propto e^{-c\alpha^2t}$", beside, LEVELS[0] * np.exp(-constant * (beside - begin))),
        Series(
            r"$\propto 1/t$",
            largest**2 * shown.step.values,
            (extra / RANK) ** 0.5 / (2 * STEP_SIZE * shown.step.values),
        ),
    ]
    return Plot(r"$\alpha^2 t$", r"$\|FG^\top - M\|_F/\|M\|_F$", measured, promised, y_scale="log")


def _decay(runs: xr.Dataset) -> Series:
    """Return the median error of one α against α²t, down to the last level."""
    error, scale = runs.distance_path.median("seed"), float(runs.scale)
    kept = (error >= LEVELS[-1]).values
    return Series(rf"two, $\alpha={scale:g}$", scale**2 * error.step.values[kept], error.values[kept])


def _exponent_off_by(share: float, rng: np.random.Generator, seeds: int) -> list[Finding]:
    return [within("", rng.normal(1 + share, 0.05, seeds), *_about(1))]


XIONG_SMALL = Preset(
    name="xiong_small",
    place="sublinear and linear rates above the rank",
    randomness="A seed draws the start, shared by all α; the matrix is fixed.",
    needs_x64=True,
    seeds=50,
    seconds=15,
    job=descents,
    sweeps=2,
)

C21 = Claim(
    id="C21",
    title="above the rank 1/t with one factor, linear with two",
    place="abstract: lower bound, and rates by imbalance",
    statement="Above the rank, descent on one factor comes near only as 1/t, while at the rank it is linear; with two "
    "factors whose starts differ in scale it is linear there too, at a rate in proportion to the square of that scale.",
    formula="‖XXᵀ − M‖_F ∝ 1/t; ‖FGᵀ − M‖_F ∝ e^{−cα²t} from entries N(0, α²) of F and N(0, α²/9) of G, k > r",
    preset=XIONG_SMALL,
    judge=_judged,
    plot=_plot,
    power=Power(
        "an exponent that is 10 % off, if exponents scatter by 0.05 over seeds",
        20,
        lambda rng: _exponent_off_by(0.1, rng, 20),
    ),
    control=Control(
        "the exact width, at which both are linear and the start does not set the rate",
        changed={"width": RANK},
        small={"scales": (0.025, 0.05)},
        seeds=20,
    ),
    evidence="The abstract was read, and the set-up as public reviews give it; sizes and steps of the paper's figures "
    "were not found, beyond 50×50, rank 3 and a scale of G that is a third of that of F.",
)

PAPER = Paper(
    __name__,
    title="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and "
    "Initialization",
    authors=("Nuoya Xiong", "Lijun Ding", "Simon S. Du"),
    year=2024,
    claims=(C21,),
)
