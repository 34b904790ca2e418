"""Ma & Fattahi (2024), Figure 1: completion with a width at and above the rank, from small starts."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.engine.tiles import Progress
from jaxfact.methods import gradient_descent
from jaxfact.numerics.decompositions import qr
from jaxfact.numerics.draws import fold, normal
from jaxfact.papers.base import Finding, Outcome, Paper, Preset, above, below, bounded, log_slopes, part
from jaxfact.problems.completion import Completion
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied
from jaxfact.starts import NormedGaussian
from jaxfact.sweep import sweep

SIZE, RANK, STEP_SIZE, STEPS = 100, 3, 0.25, 600
WIDTHS = (3, 4, 15, 100)
NORMS = (1e-2, 1e-4, 1e-6, 1e-8)
FRACTIONS = (0.2, 0.3, 0.5, 1.0)
_FRACTION, _NORM = 0.5, 1e-6
_ROUNDING = 1e-13  # far above ε/η, where rounding stalls the exact width, and far below the others


def run(
    seeds: int,
    progress: Progress | None = None,
    *,
    widths: Sequence[int] = WIDTHS,
    norms: Sequence[float] = NORMS,
    fractions: Sequence[float] = FRACTIONS,
    steps: int = STEPS,
) -> Outcome:
    """Complete a 100×100 matrix of rank 3 at several widths, over the start's norm α and over the fraction p seen."""
    runs, findings, count = {}, [], 2 * len(widths)
    for place, width in enumerate(widths):
        over_norms, over_fractions = (
            _runs(width, seeds, steps, axes, part(progress, 2 * place + half, count))
            for half, axes in enumerate(
                ({"norm": norms, "fraction": [_FRACTION]}, {"norm": [_NORM], "fraction": fractions})
            )
        )
        runs |= {f"width{width}_norms": over_norms, f"width{width}_fractions": over_fractions}
        findings += _findings(width, over_norms, over_fractions)
    return Outcome(runs, findings)


def _runs(
    width: int, seeds: int, steps: int, axes: dict[str, Sequence[float]], progress: Progress | None
) -> xr.Dataset:
    def experiment(norm, fraction, key):
        frame = qr(normal(fold(key, 0), (SIZE, RANK), np.dtype(float)))[0]
        truth = Factorization(np.ones(RANK), shape=(SIZE, SIZE), left=frame, right=frame)
        problem = Tied(Completion.of(truth, fraction, fold(key, 1)))
        return Run(problem, NormedGaussian(width, norm), gradient_descent(STEP_SIZE))

    return sweep(
        experiment,
        seeds=seeds,
        max_steps=steps,
        tolerance=None,
        check_every=50,
        progress=progress,
        **axes,  # pyright: ignore[reportArgumentType]
    )


def _findings(width: int, over_norms: xr.Dataset, over_fractions: xr.Dataset) -> list[Finding]:
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


MAFATTAHI_FIG1 = Preset(
    name="mafattahi_fig1",
    place="Figure 1",
    statement="At the exact width the error falls to rounding for every start and every fraction seen. Above it the "
    "error grows with the norm α of the start, at least in proportion to it, and more entries seen make it smaller.",
    randomness="A seed draws the truth's singular vectors, the mask and the start.",
    needs_x64=True,
    seeds=4,
    seconds=53,
    job=run,
)

PAPER = Paper(
    __name__,
    title="Convergence of Gradient Descent with Small Initialization for Unregularized Matrix Completion",
    authors=("Jianhao Ma", "Salar Fattahi"),
    year=2024,
    presets=(MAFATTAHI_FIG1,),
)
