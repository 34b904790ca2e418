"""Ma & Fattahi (2024), Figure 1: completion with a width at and above the rank, from small starts."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import gradient_descent
from jaxfact.numerics.decompositions import qr
from jaxfact.numerics.draws import fold, normal
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.ma_fattahi_split import C18
from jaxfact.papers.rules import Finding, above, below, bounded, log_slopes
from jaxfact.problems.completion import Completion
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.starts import NormedGaussian

SIZE, RANK, STEP_SIZE, STEPS = 100, 3, 0.25, 600
WIDTHS = (3, 4, 15, 100)
NORMS = (1e-2, 1e-4, 1e-6, 1e-8)
FRACTIONS = (0.2, 0.3, 0.5, 1.0)
_FRACTION, _NORM = 0.5, 1e-6
_ROUNDING = 1e-13  # far above ε/η, where rounding stalls the exact width, and far below the others


def completions(
    sweeps: Sweeps,
    *,
    widths: Sequence[int] = WIDTHS,
    norms: Sequence[float] = NORMS,
    fractions: Sequence[float] = FRACTIONS,
    steps: int = STEPS,
) -> Runs:
    """Complete a 100×100 matrix of rank 3 at several widths, over the start's norm α and over the fraction p seen."""
    runs = {}
    for width in widths:
        for name, axes in {
            "norms": {"norm": norms, "fraction": [_FRACTION]},
            "fractions": {"norm": [_NORM], "fraction": fractions},
        }.items():
            runs[f"width{width}_{name}"] = _completed(sweeps, f"width{width}_{name}", width, steps, axes)
    return runs


def _completed(sweeps: Sweeps, name: str, width: int, steps: int, axes: dict[str, Sequence[float]]) -> xr.Dataset:
    def experiment(norm, fraction, key):
        frame = qr(normal(fold(key, 0), (SIZE, RANK), np.dtype(float)))[0]
        truth = Factorization(np.ones(RANK), shape=(SIZE, SIZE), left=frame, right=frame)
        problem = Tied(Completion.of(truth, fraction, fold(key, 1), dense=True))
        return Run(problem, NormedGaussian(width, norm), gradient_descent(STEP_SIZE))

    return sweeps(name, experiment, max_steps=steps, check_every=50, **axes)


def judged(runs: Runs) -> list[Finding]:
    """Judge every width by its two datasets."""
    names = [name.removesuffix("_norms") for name in runs if name.endswith("_norms")]
    return [
        finding
        for name in names
        for finding in _of_width(int(name.removeprefix("width")), runs[f"{name}_norms"], runs[f"{name}_fractions"])
    ]


def _of_width(width: int, over_norms: xr.Dataset, over_fractions: xr.Dataset) -> list[Finding]:
    """Say what the errors ‖XXᵀ − X⋆‖_F depend on: the distance times ‖X⋆‖_F = √3."""
    by_norm = RANK**0.5 * over_norms.distance.isel(fraction=0, drop=True)
    by_fraction = RANK**0.5 * over_fractions.distance.isel(norm=0, drop=True)
    if width == RANK:
        return [
            bounded(f"r′={width}: largest error over all α", by_norm.values, _ROUNDING),
            bounded(f"r′={width}: largest error over all p", by_fraction.values, _ROUNDING),
        ]
    return [
        above(f"r′={width}: slope of log error in log α", log_slopes(over_norms.norm.values, by_norm, "norm"), 1.0),
        below(
            f"r′={width}: slope of log error in log p",
            log_slopes(over_fractions.fraction.values, by_fraction, "fraction"),
            0.0,
        ),
    ]


def plotted(runs: Runs) -> Plot:
    """Plot the errors against the start's norm α, one series for each width, beside a line of slope 1."""
    some = {name: found for name, found in runs.items() if name.endswith("_norms")}
    measured = []
    for name, found in some.items():
        errors = RANK**0.5 * found.distance.isel(fraction=0, drop=True)
        middle, low, high = errors.median("seed"), errors.min("seed"), errors.max("seed")
        width = name.removeprefix("width").removesuffix("_norms")
        measured.append(Series(f"$r'={width}$", found.norm.values, middle.values, low.values, high.values))
    norms = np.sort(measured[-1].x)
    return Plot(
        x_label=r"norm of the start $\alpha$",
        y_label=r"last error $\|XX^\top - X_\star\|_F$",
        measured=measured,
        promised=[Series("slope 1", norms, norms), Series("rounding", norms, np.full(len(norms), _ROUNDING))],
        x_scale="log",
        y_scale="log",
    )


MAFATTAHI_FIG1 = Preset(
    name="mafattahi_fig1",
    place="Figure 1",
    randomness="A seed draws the truth's singular vectors, the mask and the start.",
    needs_x64=True,
    seeds=4,
    seconds=25,
    job=completions,
    sweeps=2 * len(WIDTHS),
)

C17 = Claim(
    id="C17",
    title="above the rank the error follows the start",
    place="Figure 1",
    statement="At the exact width the error falls to rounding for every start and every fraction seen. Above it the "
    "error grows with the norm α of the start, at least in proportion to it, and more entries seen make it smaller.",
    formula="‖XXᵀ − X⋆‖_F ≲ √(σ₁κ²µr²/p)·α where r′ > r, ≤ ε where r′ = r",
    preset=MAFATTAHI_FIG1,
    judge=judged,
    plot=plotted,
    power=Power(
        "a slope of 0.8 instead of 1 or more, if slopes scatter by 0.03 over seeds",
        4,
        lambda rng: [above("", rng.normal(0.8, 0.03, 4), 1.0)],
    ),
    control=Control(
        "starts that are not small, α up to 8",
        changed={"norms": (0.5, 0.8, 8.0)},
        small={"widths": (4,), "norms": (1e-2, 1e-4, 1e-6), "fractions": (0.3, 0.5, 1.0), "steps": 300},
        seeds=4,
    ),
    departure="The step size, the number of steps and the spectrum of the paper's figure are not stated: η = 0.25, 600 "
    "steps and σ = 1 are ours.",
)

PAPER = Paper(
    __name__,
    title="Convergence of Gradient Descent with Small Initialization for Unregularized Matrix Completion",
    authors=("Jianhao Ma", "Salar Fattahi"),
    year=2024,
    claims=(C17, C18),
)
