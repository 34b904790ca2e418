"""Xu et al. (2025): every step of descent obeys a descent lemma whose constants are those of where it stands."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import gradient_descent
from jaxfact.numerics.decompositions import eigenvalues
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, bounded, unjudged
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.starts import Gaussian

SHAPE, VALUES = (10, 8), (1.0, 0.7, 0.4)
WIDTHS, STEP_SIZES, SCALES = (3, 40), (0.005, 0.05, 0.3, 0.8), (0.1, 1.0)
STEPS = 300
ROUNDING = 1e-12  # of the larger loss where that is above 1
_SHOWN, _UP_TO = 300, 100.0  # steps in the figure, and their largest ηK_t
_TOLD = 1e-10  # the loss above which what bends along a step is more than rounding


class Steps(NamedTuple):
    """Steps one by one: their size η, the losses L and L⁺ before and after, ‖∇L‖², K_t and σ_min²(𝒯)."""

    size: np.ndarray
    loss: np.ndarray
    after: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    flat: np.ndarray

    @property
    def promised(self) -> np.ndarray:
        """The loss that the lemma promises after the step."""
        return self.loss - (self.size - self.bend * self.size**2 / 2) * self.slope

    @property
    def rated(self) -> np.ndarray:
        """The loss that the rate promises where ηK_t < 2, elsewhere inf."""
        factor = 1 - 2 * self.flat * self.size + self.flat * self.bend * self.size**2
        return np.where(self.size * self.bend < 2, factor * self.loss, np.inf)

    @property
    def needed(self) -> np.ndarray:
        """The share of K_t with which the lemma would be an equality, where that can be told."""
        lost = (self.after - self.loss + self.size * self.slope)[self.told]
        return lost / (self.bend * self.size**2 * self.slope / 2)[self.told]

    @property
    def told(self) -> np.ndarray:
        """Whether the curvature along a step can be told from rounding."""
        return self.loss >= _TOLD


def descents(
    sweeps: Sweeps,
    *,
    step_sizes: Sequence[float] = STEP_SIZES,
    steps: int = STEPS,
    share: float = 1.0,
) -> Runs:
    """Factorise a 10×8 matrix of rank 3 at its rank and far above it, beside the bounds with `share` times K_t."""
    problem = Factorization(np.asarray(VALUES), shape=SHAPE)

    def experiment(width, scale, step_size):
        return Run(problem, Gaussian(width, scale=scale, padded_to=WIDTHS[-1]), gradient_descent(step_size))

    runs = sweeps(
        "runs",
        experiment,
        max_steps=steps,
        record={"at": constants},
        every=1,
        check_every=1,
        compress=False,
        width=list(WIDTHS),
        scale=list(SCALES),
        step_size=list(step_sizes),
    )
    bend = curvature(runs.at_steepest_path, runs.at_largest_path, runs.at_loss_path, runs.step_size)
    return {"runs": runs.assign(bend_path=share * bend)}


def constants(problem: Problem, factors: Factors) -> dict[str, Float[Array, ""]]:
    """Return L, ‖∇L‖², σ_max²(𝒯) = σ₁²(U) + σ₁²(V), σ_min²(𝒯) = λ_min(UUᵀ) + λ_min(VVᵀ), and the larger σ₁²."""
    ascending = [eigenvalues(x @ x.T) for x in factors]
    tops = [values[-1] for values in ascending]
    return {
        "loss": problem.loss(factors),
        "slope": problem.gradient(factors).energy,
        "steepest": tops[0] + tops[1],
        "flattest": ascending[0][0] + ascending[1][0],
        "largest": jnp.maximum(*tops),
    }


def curvature(squares: Any, largest: Any, loss: Any, size: Any) -> Any:
    """Return K_t = s² + √(2L) + 6σ²Lη² + 3s²√(2L)η, s² = σ₁²(U) + σ₁²(V) and σ² the larger of the two."""
    root = np.sqrt(2 * loss)
    return squares + root + 6 * largest * loss * size**2 + 3 * squares * root * size


def steps_of(runs: Runs, width: int) -> Steps:
    """Return all steps at a width but those that overflow."""
    found = runs["runs"].sel(width=width)
    after = found.at_loss_path.shift(step=-1)
    paths = (found[f"{name}_path"] for name in ("at_slope", "bend", "at_flattest"))
    each = np.stack([x.values.ravel() for x in xr.broadcast(found.step_size, found.at_loss_path, after, *paths)])
    with np.errstate(over="ignore", invalid="ignore"):
        steps = Steps(*each)
        finite = np.isfinite(steps.after) & np.isfinite(steps.promised)
    return Steps(*each[:, finite])


def judged(runs: Runs) -> list[Finding]:
    """Judge at every step the lemma, how much of K_t it needs, and the rate where µ_t is not 0."""
    each = {f"width {width}": steps_of(runs, width) for width in WIDTHS}
    wide, steps = list(each.items())[-1]
    return [
        *(finding for what, some in each.items() for finding in _lemma(what, some)),
        _never(f"{wide}: steps with ½‖∇L‖² < µ_tL", steps.flat * steps.loss - steps.slope / 2, steps),
        _never(f"{wide}: steps with L⁺ > (1 − 2µ_tη + µ_tK_tη²)L, ηK_t < 2", steps.after - steps.rated, steps),
        *(unjudged(f"{what}: µ_t", some.flat) for what, some in each.items()),
    ]


def _lemma(what: str, steps: Steps) -> list[Finding]:
    return [
        bounded(f"{what}: share of K_t that a step needs", steps.needed, 1.0),
        _never(f"{what}: steps with L⁺ > L − (η − K_tη²/2)‖∇L‖²", steps.after - steps.promised, steps),
    ]


def _never(what: str, excess: np.ndarray, steps: Steps) -> Finding:
    """Expect a difference of losses to be above 0 at none of the steps, by more than rounding."""
    broken = excess > ROUNDING * np.maximum(1, np.maximum(steps.loss, steps.after))
    return bounded(f"{what}, of {len(excess)}", np.array([np.sum(broken)]), 0.0)


def plotted(runs: Runs) -> Plot:
    """Plot the share of K_t that steps need against ηK_t, some of them, beside all of it."""
    measured, ends = [], []
    for width in WIDTHS:
        steps = steps_of(runs, width)
        size, needed = (steps.size * steps.bend)[steps.told], steps.needed
        shown = np.flatnonzero(size <= _UP_TO)
        some = np.random.default_rng(0).choice(shown, min(_SHOWN, len(shown)), replace=False)
        measured.append(Series(f"width {width}", size[some], needed[some]))
        ends += [size[some].min(), size[some].max()]
    line = np.array([min(ends), max(ends)])
    return Plot(
        r"$\eta K_t$", "share of $K_t$ that a step needs", measured, [Series("all of it", line, np.ones(2))], "log"
    )


def _scalar_steps(share: float, rng: np.random.Generator, seeds: int) -> Steps:
    """Return steps towards uv = 1 near which K_t is sharp, beside the bounds with `share` times K_t."""
    u = rng.uniform(0.5, 2, seeds)
    v = (1 + 1e-3 * rng.normal(size=seeds)) / u
    loss, squares, size = (u * v - 1) ** 2 / 2, u**2 + v**2, np.full(seeds, 0.3)
    after = ((u - size * (u * v - 1) * v) * (v - size * (u * v - 1) * u) - 1) ** 2 / 2
    bend = curvature(squares, np.maximum(u, v) ** 2, loss, size)
    return Steps(size, loss, after, 2 * loss * squares, share * bend, 0 * u)


XU_2025 = Preset(
    name="xu_2025",
    place="Theorem 3.1",
    randomness="A seed draws the start, shared by all widths, scales and step sizes; the target is fixed.",
    needs_x64=True,
    seeds=20,
    seconds=25,
    job=descents,
)

C27 = Claim(
    id="C27",
    title="each step descends by its own curvature",
    place="Theorem 3.1",
    statement="A step of descent of any size lowers the loss at least by what a constant K_t promises, which is made "
    "of the loss and the largest singular values of the factors where the step begins.",
    formula="L⁺ ≤ L − (η − K_tη²/2)‖∇L‖², ½‖∇L‖² ≥ µ_tL, and L⁺ ≤ (1 − 2µ_tη + µ_tK_tη²)L if ηK_t < 2",
    preset=XU_2025,
    judge=judged,
    plot=plotted,
    power=Power(
        "a constant K_t that is 2 % too small",
        10,
        lambda rng: _lemma("", _scalar_steps(0.98, rng, 10)),
    ),
    control=Control(
        "half of K_t",
        changed={"share": 0.5},
        small={"step_sizes": (0.05, 0.8), "steps": 60},
        seeds=3,
    ),
    departure="The matrix is 10×8 with singular values 1, 0.7 and 0.4, and starts have entries N(0, 0.1²) and N(0, 1), "
    "where the paper's experiments are at widths of 500 to 4000. Rounding is 1e-12 of the larger loss where that "
    "is above 1, as some runs diverge.",
)

PAPER = Paper(
    __name__,
    title="A Local Polyak-Łojasiewicz and Descent Lemma of Gradient Descent For Overparametrized Linear Models",
    authors=("Ziqing Xu", "Hancheng Min", "Salma Tarmoun", "Enrique Mallada", "René Vidal"),
    year=2025,
    claims=(C27,),
)
