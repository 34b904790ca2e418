"""What Ma & Fattahi's proof (2024, Appendix D) bounds along a run: signal, residual, and the frame that moves."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.measures import moving_signal
from jaxfact.methods import gradient_descent
from jaxfact.numerics.decompositions import qr
from jaxfact.numerics.draws import fold, key_of, normal
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, bounded
from jaxfact.problems.completion import Completion
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import TiedFactor
from jaxfact.problems.tied import Tied
from jaxfact.starts import NormedGaussian

SIZE, RANK, STEP_SIZE = 100, 3, 0.25
FRACTIONS = (0.5, 0.75, 1.0)
WIDTH, NORMS = 4, (1e-3, 1e-6)
_BOUNDS = {
    "residual": "max ‖E_t‖/(2α)",
    "signal": "max ‖S_t‖/(2√σ₁)",
    "drift": "max 2κ‖V_t − V⋆‖",
    "row": "max ‖V_t‖_{2,∞}/(2√(µr/d))",
}


def steps_for(norm: float) -> int:
    """Return T = (2/(ησ_r))·ln(1/α), rounded up."""
    return int(np.ceil(2 / STEP_SIZE * np.log(1 / norm)))


def splits(
    sweeps: Sweeps,
    *,
    size: int = SIZE,
    fractions: Sequence[float] = FRACTIONS,
    width: int = WIDTH,
    norms: Sequence[float] = NORMS,
) -> Runs:
    """Complete matrices of rank 3 from small starts, and split every step by the frame of the proof."""
    # The frame needs each run's problem: so they are drawn outside, and the draws are an axis.
    problems = _problems(size, np.arange(sweeps.seeds, dtype=np.uint32), np.asarray(fractions))

    def experiment(draw, place, norm):
        problem = jax.tree.map(lambda x: x[draw, place], problems)
        start = NormedGaussian(width, norm).draw(fold(key_of(1), draw), problem)
        return Run(problem, start, gradient_descent(STEP_SIZE))

    found = sweeps(
        "runs",
        experiment,
        seeds=1,
        max_steps=max(map(steps_for, norms)),
        record={"factor": _factor},
        every=1,
        check_every=1,
        draw=np.arange(sweeps.seeds),
        place=np.arange(len(fractions)),
        norm=norms,
    )
    labelled = (
        found.isel(seed=0, drop=True).rename(draw="seed", place="fraction").assign_coords(fraction=list(fractions))
    )
    path = labelled.factor_path.transpose("seed", "fraction", "norm", "step", ...)
    split = {name: (path.dims[:4], np.asarray(values)) for name, values in _split(problems, path.values).items()}
    return {"runs": labelled.drop_vars("factor_path").assign(split)}


@partial(jax.jit, static_argnums=0)
def _problems(size: int, numbers: Int[Array, " draw"], fractions: Float[Array, " place"]) -> Tied:
    """Draw a truth and its masks of all fractions for each number."""

    def problem(number, fraction):
        key = fold(key_of(0), number)
        frame = qr(normal(fold(key, 0), (size, RANK), np.dtype(float)))[0]
        truth = Factorization(np.ones(RANK), shape=(size, size), left=frame, right=frame)
        return Tied(Completion.of(truth, fraction, fold(key, 1), dense=True))

    return jax.vmap(jax.vmap(problem, (None, 0)), (0, None))(numbers, fractions)


def _factor(_: Tied, factors: TiedFactor) -> Array:
    return factors.X


@jax.jit
def _split(problems: Tied, paths: Float[Array, "draw place norm time n d"]) -> dict[str, Array]:
    """Return the magnitudes that the induction bounds, along (draw, place, norm, time)."""

    def magnitudes(problem, path):
        found = moving_signal(problem, TiedFactor(path), STEP_SIZE)
        signal = found.signal
        return {"residual": signal.residual, "signal": signal.largest, "drift": found.drift, "row": found.row}

    return jax.vmap(jax.vmap(jax.vmap(magnitudes, (None, 0))))(problems, paths)


def judged(runs: Runs) -> list[Finding]:
    """Judge the four bounds of the induction for each fraction, the largest ratio of each draw."""
    ratios = _ratios(runs)
    return [
        bounded(f"p={fraction:g}: {said}", ratios[name].sel(fraction=fraction).max("norm").values, 1.0)
        for fraction in ratios.fraction.values
        for name, said in _BOUNDS.items()
    ]


def _ratios(runs: Runs) -> xr.Dataset:
    """Return the largest ratio to each bound over the steps up to T, along seed, fraction and norm."""
    found = runs["runs"]
    bounds = {"residual": 2 * found.norm, "signal": 2.0, "drift": 0.5, "row": 2 * found.row.isel(step=0)}
    last = xr.DataArray([steps_for(float(norm)) for norm in found.norm], dims="norm")
    ratios = xr.Dataset({name: found[name] / bound for name, bound in bounds.items()})
    return ratios.where(found.step <= last, 0).max("step", skipna=False)


def sampled(runs: Runs) -> list[Hypothesis]:
    """Return how many entries are seen for how many the theorem asks, where some are not; its constant taken as 1."""
    found = runs["runs"]
    size, fraction, norm = found.attrs["shape"][0], float(found.fraction.min()), float(found.norm.min())
    incoherence = float(np.max(found.row.isel(step=0) ** 2)) * size / RANK
    asked = float(incoherence**4 * RANK**9 * np.log(1 / norm) ** 6 * np.log(size) ** 2 / size)
    step = STEP_SIZE * (fraction * size) ** 0.5 / (incoherence * RANK)
    step_size = Hypothesis("η over µr/(√(pd)σ₁), at least", step, "about a constant", None)
    if fraction == 1:
        return [step_size]
    what, bound = "p over κ⁶µ⁴r⁹ln⁶(1/α)ln²(d)/d, at least", "at least 1, by a constant that is not stated"
    return [Hypothesis(what, fraction / asked, bound, bool(fraction >= asked)), step_size]


def plotted(runs: Runs) -> Plot:
    """Plot the ratios to all bounds against the fraction that is seen, beside 1."""
    ratios = _ratios(runs)
    names = {
        "residual": r"$\|E_t\|$",
        "signal": r"$\|S_t\|$",
        "drift": r"$\|V_t-V_\star\|$",
        "row": r"$\|V_t\|_{2,\infty}$",
    }
    fractions = ratios.fraction.values
    measured = [
        Series(name, fractions, *(at.values for at in (some.median("seed"), some.min("seed"), some.max("seed"))))
        for name, some in ((said, ratios[key].max("norm")) for key, said in names.items())
    ]
    promised = [Series("at most 1", fractions, np.ones(len(fractions)))]
    return Plot("fraction $p$ that is seen", "largest ratio to the bound", measured, promised, y_scale="log")


def _residuals(factor: float, rng: np.random.Generator, seeds: int) -> list[Finding]:
    """Return what the rule makes of residuals that outgrow the start by a factor, 10 % more or less."""
    return [bounded("", factor / 2 * rng.normal(1, 0.1, seeds), 1.0)]


MAFATTAHI_SPLIT = Preset(
    name="mafattahi_split",
    place="Appendix D",
    randomness="A seed draws the truth's singular vectors, the mask and the start, shared by all p and α.",
    needs_x64=True,
    seeds=10,
    seconds=15,
    job=splits,
)

C18 = Claim(
    id="C18",
    title="the residual stays small, and the frame spread",
    place="Appendix D",
    statement="While the signal of a completion grows from a small start, the residual stays below twice the start, "
    "and the frame that carries the signal stays near the truth's and as spread over the rows.",
    formula="‖S_t‖ ≤ 2√σ₁, ‖E_t‖ ≤ 2α, ‖V_t − V⋆‖ ≤ 1/(2κ), ‖V_t‖_{2,∞} ≤ 2√(µr/d) for t ≤ T ≲ ln(1/α)/(ησ_r)",
    preset=MAFATTAHI_SPLIT,
    judge=judged,
    plot=plotted,
    power=Power("a residual that grows to 2.1 times the start", 10, lambda rng: _residuals(2.1, rng, 10)),
    control=Control(
        "half of the entries, where the theorem asks for more than there are",
        changed={"fractions": (0.5,)},
        small={"size": 40, "fractions": (1.0,), "width": 3, "norms": (1e-3,)},
        seeds=10,
    ),
    hypotheses=sampled,
    departure="The table of claims has p = 0.5 alone; 0.75 and 1 show where the bounds hold. The width is 4, and T is "
    "taken to be 2·ln(1/α)/(ησ_r). The constant of the bound on p is not stated and taken to be 1: with r⁹ and the "
    "sixth power of a logarithm in it, no constant above 1e-12 would allow p < 1 here.",
)
