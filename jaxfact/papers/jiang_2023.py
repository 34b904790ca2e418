"""Jiang, Chen & Ding (2023): wide descent from a small start passes by the best approximations of every rank."""

from collections.abc import Sequence

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import gradient_descent
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, always, log_slopes, near, unjudged
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.results import stats
from jaxfact.starts import Gaussian

SHAPE, WIDTH, STEP_SIZE = (50, 40), 20, 0.2
VALUES = np.concatenate([[1, 0.8, 0.6], np.linspace(0.2, 0.01, 37)])
_FEW = np.array([1, 0.8, 0.6, 0.2, 0.1, 0.05])
SCALES = (1e-9, 1e-6, 1e-3)
RANKS = (1, 2, 3)
_LOOK, _NEAR, STEPS = 5, 320, 800
_AGAIN = 2.0
"""A run has passed by where it is this many times as far in the end."""


def descents(
    sweeps: Sweeps,
    *,
    shape: tuple[int, int] = SHAPE,
    values: np.ndarray = VALUES,
    width: int = WIDTH,
    scales: Sequence[float] = SCALES,
) -> Runs:
    """Factorise a matrix of full rank at a large width from several small starts, and find its distance to Σ_j."""
    problem = Factorization(values, shape=shape)
    found = sweeps(
        "runs",
        lambda scale: Run(problem, Gaussian(width, scale=scale), gradient_descent(STEP_SIZE)),
        max_steps=STEPS,
        record={"product": product},
        every=[*range(0, _NEAR + 1, _LOOK), STEPS],
        check_every=_LOOK,
        scale=scales,
    )
    path = found.product_path
    each = [_distances(path, values, rank) for rank in RANKS]
    far = xr.concat(each, "rank").assign_coords(rank=list(RANKS))
    return {"runs": found.drop_vars("product_path").assign(far_path=far).assign_attrs(exponents=exponents_of(values))}


def product(_: Problem, factors: Factors) -> jax.Array:
    """Return UVᵀ, in σ₁."""
    return factors.product


def _distances(path: xr.DataArray, values: np.ndarray, rank: int) -> xr.DataArray:
    """Return ‖UVᵀ − Σ_rank‖₂ along a path, for a diagonal matrix."""
    *dims, _, _ = path.dims
    residual = path.values.copy()
    residual[..., range(rank), range(rank)] -= values[:rank]
    squares = np.linalg.eigvalsh(residual.mT @ residual)[..., -1]
    return xr.DataArray(np.sqrt(squares), {name: path[name] for name in dims}, dims)


def judged(runs: Runs) -> list[Finding]:
    """Judge the order in which approximations are passed, and that smaller starts come nearer; report how near."""
    best = _best(runs)
    nearer, leaves = best.value.diff("scale") > 0, runs["runs"].far_path.isel(step=-1) > _AGAIN * best.value
    order = (best.step.diff("rank") > 0).all("rank").values
    found = [always("fraction of runs that pass by rank 1 before 2 before 3", order)]
    for rank, promised in zip(RANKS, runs["runs"].attrs["exponents"], strict=True):
        of_rank, name = best.value.sel(rank=rank), f"rank {rank}: "
        exponents = log_slopes(best.scale.values, of_rank, "scale")
        found += [
            always(name + "fraction of runs that a smaller start brings nearer", nearer.sel(rank=rank).values),
            always(f"{name}fraction of runs that are {_AGAIN:g} times as far in the end", leaves.sel(rank=rank).values),
            near(name + "exponent of min_t ‖UVᵀ − Σ_j‖₂ in ε, by flow", exponents, promised),
            unjudged(name + "min_t ‖UVᵀ − Σ_j‖₂ from the smallest start, in σ₁", of_rank.isel(scale=0).values),
        ]
    return found


def _best(runs: Runs) -> xr.Dataset:
    """Return the least distance of each run to each truncation and its step, smallest starts first."""
    return stats.best_over_time(runs["runs"], "far").sortby("scale")


def exponents_of(values: np.ndarray) -> list[float]:
    """Return 2(σ_j − σ_{j+1})/(σ_j + σ_{j+1}) for each rank, with which flow comes nearer as the start is smaller.

    When σ_j is learned, the next direction has grown to ε^{2(1 − σ_{j+1}/σ_j)} of the product. From there it grows by
    e^{2σ_{j+1}t}, what is left of σ_j falls by e^{−2σ_jt}, and the error is least where they meet.
    """
    above, below = values[: len(RANKS)], values[1 : len(RANKS) + 1]
    return [float(x) for x in 2 * (above - below) / (above + below)]


def plotted(runs: Runs) -> Plot:
    """Plot the least distances against the start, and lines of flow's exponents from the largest start."""
    best, measured, lines = _best(runs), [], []
    scales = best.scale.values
    for rank, exponent in zip(RANKS, runs["runs"].attrs["exponents"], strict=True):
        low, middle, high = (best.value.sel(rank=rank).quantile(q, "seed").values for q in (0, 0.5, 1))
        measured.append(Series(f"rank {rank}", scales, middle, low, high))
        lines += [(scales, middle[-1] * (scales / scales[-1]) ** exponent), ([np.nan], [np.nan])]
    promised = Series("exponent by flow", *map(np.concatenate, zip(*lines, strict=True)))
    return Plot(
        r"size of the start $\varepsilon$",
        r"$\min_t\,\|UV^\top-\Sigma_j\|_2/\sigma_1$",
        measured,
        [promised],
        "log",
        "log",
    )


JIANG_INCREMENTAL = Preset(
    name="jiang_incremental",
    place="abstract: components are learned in order",
    randomness="A seed draws the start, shared by all sizes of it; the matrix is fixed.",
    needs_x64=True,
    seeds=20,
    seconds=20,
    job=descents,
)

C29 = Claim(
    id="C29",
    title="wide descent passes by every rank",
    place="abstract: components are learned in order",
    statement="From a small start descent of a large width learns one principal component after the other: it passes "
    "by the best approximations of rank 1, 2, 3, where early stopping finds them, the nearer the smaller the start is.",
    formula="min_t ‖U_tV_tᵀ − Σ_j‖₂ → 0 as the start's ε → 0, at times that increase with j",
    preset=JIANG_INCREMENTAL,
    judge=judged,
    plot=plotted,
    power=Power(
        "that one run in seven is not nearer from a smaller start",
        20,
        lambda rng: [always("", rng.random(20) > 1 / 7)],
    ),
    control=Control(
        "a spectrum without gaps, from 1 to 0.9, of which nothing is learned first",
        changed={"values": np.linspace(1, 0.9, len(_FEW))},
        small={"shape": (7, 6), "values": _FEW, "width": 5, "scales": SCALES[:2]},
        seeds=5,
    ),
    evidence="The abstract was read; the theorem's constants were not found, and the exponents are ours.",
    departure="Sizes, spectrum and starts are those of the table of claims: those of the paper's figures were not "
    "found.",
)

PAPER = Paper(
    __name__,
    title="Algorithmic Regularization in Model-Free Overparametrized Asymmetric Matrix Factorization",
    authors=("Liwei Jiang", "Yudong Chen", "Lijun Ding"),
    year=2023,
    claims=(C29,),
)
