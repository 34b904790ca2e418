"""Whether descent from a random start needs what older proofs added to it: a balancing regulariser, or noise."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import optax
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import balanced, gradient_descent, perturbed_in_ball, perturbed_on_sphere
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, log_slopes, near, rare, within
from jaxfact.papers.ye_du_ensemble import ENSEMBLE, proven_scale
from jaxfact.problems.factorization import Factorization
from jaxfact.starts import Gaussian

STEP_SIZE, STEPS = 0.05, 4_000
FINE, COARSE = ((2 * loss) ** 0.5 / float(np.linalg.norm(ENSEMBLE[-1][2])) for loss in (1e-10, 1e-3))
"""The distances at which the loss is 1e-10 and 1e-3."""
WEIGHTS = {"weight 1/16": 1 / 16, "weight 1/8": 1 / 8}
NOISES = {f"noise {size:g}": size for size in (1e-3, 1e-2, 1e-1)}
"""Norms of what is added to the factors at each step."""
KICKS = "kicks"
_MARGIN = 0.05

Starts = Mapping[str, tuple[float, float]]
STARTS: Starts = {"theory": (proven_scale(*ENSEMBLE[-1]), 1.0), "moderate": (0.1, 1.0), "unbalanced": (0.1, 25.0)}
"""The scale of a start's entries, and the ratio of those of U to those of V: 0.5 and 0.02 in the last."""


def descents(
    sweeps: Sweeps,
    *,
    starts: Starts = STARTS,
    noises: Mapping[str, float] = NOISES,
    kicked: bool = True,
    steps: int = STEPS,
) -> Runs:
    """Factorise a 30×30 matrix of rank 5 with and without a regulariser, and noise for the theorem's kind of start."""
    m, n, values = ENSEMBLE[-1]
    problem = Factorization(np.asarray(values), shape=(m, n))
    methods: dict[str, optax.GradientTransformation] = {"plain": gradient_descent(STEP_SIZE)}
    methods |= {name: balanced(STEP_SIZE, weight) for name, weight in WEIGHTS.items()}
    if kicked:
        methods[KICKS] = perturbed_in_ball(STEP_SIZE, radius=1e-3, threshold=1e-3, interval=1_000)
    methods |= {name: perturbed_on_sphere(STEP_SIZE, size / STEP_SIZE) for name, size in noises.items()}

    def descended(name: str, scale: float, ratio: float) -> xr.Dataset:
        start = Gaussian(len(values), scale=scale, ratio=ratio)
        used = {key: method for key, method in methods.items() if name == "theory" or key not in (*noises, KICKS)}
        named = {key: lambda method=method: Run(problem, start, method) for key, method in used.items()}
        tolerances = {key: None if key in noises else FINE for key in used}
        return sweeps(name, named, max_steps=steps, tolerance=tolerances, levels=(COARSE, FINE), check_every=2)

    return {name: descended(name, *of) for name, of in starts.items()}


def judged(runs: Runs) -> list[Finding]:
    """Judge the theorem's start, and report how the others compare."""
    theory = runs["theory"]
    names = [str(name) for name in theory.variant.values]
    noisy, judged_by = ([name for name in names if name in some] for some in (NOISES, (*WEIGHTS, KICKS)))
    return [
        *(_ratio(theory, name, f"theory: time over that with {name}", FINE) for name in judged_by),
        always("theory: fraction of plain runs that come to f < 1e-10", np.isfinite(_times(theory, "plain", FINE))),
        *(
            always(
                f"theory: fraction of runs that {name} keeps from f < 1e-10", ~np.isfinite(_times(theory, name, FINE))
            )
            for name in noisy[:1]
        ),
        *(
            _reported(_ratio(theory, name, f"theory: time to f < 1e-3 over that with {name}, 0 if never", COARSE))
            for name in noisy
        ),
        *_floor(theory, noisy),
        *(finding for name, found in runs.items() if name != "theory" for finding in _beside(name, found)),
    ]


def _floor(runs: xr.Dataset, noisy: list[str]) -> list[Finding]:
    """Report how the loss that noise leaves grows with its norm."""
    if len(noisy) < 2:
        return []
    losses = runs.distance.sel(variant=noisy) ** 2
    slopes = log_slopes([NOISES[name] for name in noisy], losses, "variant")
    return [near("theory: log-log slope of the last f in the norm of the noise", slopes, 2.0)]


def _beside(name: str, runs: xr.Dataset) -> list[Finding]:
    """Report what the stronger regulariser gains from another start; a run that is cut off counts with the budget."""
    arrived = {each: np.isfinite(_times(runs, each, FINE)) for each in ("plain", "weight 1/8")}
    said = [
        rare(f"{name}: fraction of runs of {each} that arrive in {runs.attrs['max_steps']} steps", those, 1.0)
        for each, those in arrived.items()
    ]
    ratio = _ratio(runs, "weight 1/8", f"{name}: time, or budget, over that with weight 1/8", FINE, cut=True)
    return [_reported(found) for found in (ratio, *said)]


def _times(runs: xr.Dataset, name: str, level: float) -> np.ndarray:
    return runs.hit.sel(variant=name).sel(level=level, method="nearest").fillna(np.inf).values


def _ratio(runs: xr.Dataset, name: str, what: str, level: float, cut: bool = False) -> Finding:
    """Judge the plain run's time over another's, seed by seed: equivalent if within 5 %."""
    most = float(runs.attrs["max_steps"]) if cut else np.inf
    plain, other = (np.minimum(_times(runs, each, level), most) for each in ("plain", name))
    with np.errstate(invalid="ignore"):  # where neither arrives
        return within(what, plain / other, 1 - _MARGIN, 1 + _MARGIN)


def _reported(found: Finding) -> Finding:
    return replace(found, expected="–", verdict=None, why="", alarm=0.0)


def plotted(runs: Runs) -> Plot:
    """Plot time ratios against the weight, a series for each start, beside the band in which they are equivalent."""
    weights, measured = np.array(list(WEIGHTS.values())), []
    for place, (name, found) in enumerate(runs.items()):
        most = float(found.attrs["max_steps"])
        plain = np.minimum(_times(found, "plain", FINE), most)
        ratios = [plain / np.minimum(_times(found, weight, FINE), most) for weight in WEIGHTS]
        low, middle, high = (np.array([np.quantile(each, q) for each in ratios]) for q in (0.05, 0.5, 0.95))
        measured.append(Series(name, weights + 0.002 * (place - 1), middle, low, high))
    ends = np.array([0.05, 0.14])
    band = Series("equivalent", ends, np.ones(2), np.full(2, 1 - _MARGIN), np.full(2, 1 + _MARGIN))
    return Plot("weight of the regulariser", "plain time over regularised", measured, [band], y_scale="log")


UNNEEDED_EXTRAS = Preset(
    name="unneeded_extras",
    place="introduction",
    randomness="A seed draws the start and the noise; the target is fixed.",
    needs_x64=True,
    seeds=200,
    seconds=20,
    job=descents,
    sweeps=len(STARTS),
)

C12 = Claim(
    id="C12",
    title="no regulariser is needed from a random start",
    place="introduction",
    statement="From the theorem's small random start a balancing regulariser changes the time by less than 5 %, as do "
    "kicks where the gradient is small, and noise at every step only sets a floor to the error. A strongly unbalanced "
    "start is where the regulariser earns its keep.",
    formula="T(f)/T(f + weight·‖UᵀU − VᵀV‖²_F) = 1 within 5 %, paired by starts, for weights 1/16 and 1/8",
    preset=UNNEEDED_EXTRAS,
    judge=judged,
    plot=plotted,
    power=Power(
        "a ratio of 1.06, if ratios scatter by 0.05 over seeds",
        100,
        lambda rng: [within("", rng.normal(1.06, 0.05, 100), 1 - _MARGIN, 1 + _MARGIN)],
    ),
    control=Control(
        "the unbalanced start in place of the theorem's",
        changed={"starts": {"theory": STARTS["unbalanced"]}},
        small={"starts": {"theory": STARTS["theory"]}, "noises": {}, "kicked": False},
        seeds=20,
    ),
    departure="5 % is our margin for what is unnecessary. Kicks are those of Jin et al. (2017), uniform in a ball of "
    "10⁻³√σ₁ where ‖∇f‖ ≤ 10⁻³ and 1000 steps after the last; sizes are ours. Noise is that of Ge et al. (2015), its "
    "norm that of what is added to the factors at a step; as it cannot come to f < 1e-10, no time is judged against "
    "it. What other starts show is reported, and a run that is cut off at the budget counts with it.",
)
