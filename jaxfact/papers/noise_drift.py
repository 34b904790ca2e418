"""Noise and balance: iterate noise unbalances the factors of a matrix that is not square, until its steps are at the
edge of stability."""

from collections.abc import Callable, Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import ScalarLike

from jaxfact.engine.experiment import Experiment, Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import add_balancing, perturbed
from jaxfact.papers.balanced_edge import sum_of_squares
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, within
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.results import stats
from jaxfact.starts import Spectral

VALUES = (1.0, 0.7, 0.4)
SHAPES = ((40, 10), (25, 25))
NOISES = (0.003, 0.02)
STEP_SIZE, STEPS = 0.1, 4000
_SMALL = 0.5  # in σ₁: as long as D is predicted to be at most that, the factors are nearly balanced
_OFF, _NOUGHT = 0.1, 0.05
"""How far a drift may be off the predicted one, and from 0, as a share of the predicted one."""

Stepping = Callable[[optax.ScalarOrSchedule, ScalarLike], optax.GradientTransformation]


def drifts(sweeps: Sweeps, *, noises: Sequence[float] = NOISES, method: Stepping = perturbed) -> Runs:
    """Descend with noise from a balanced exact fit, of a matrix that is not square and of one that is.

    Runs end before the drift unbalances the factors, but for those of the largest noise that are named `late`.
    """

    record = {"trace": trace_of_imbalance, "sum_of_squares": sum_of_squares}

    @cache  # so that what is run for longer too is read once
    def experiment(shape: tuple[int, int], noise: float) -> Experiment:
        run = Run(Factorization(np.asarray(VALUES), shape=shape), Spectral(len(VALUES)), method(STEP_SIZE, noise))
        return lambda: run

    def descended(name: str, shape: tuple[int, int], noise: float, steps: int, **options: int) -> xr.Dataset:
        given = {"record": record, "every": _looks(steps), "check_every": 1, **options}
        return sweeps(name, experiment(shape, noise), max_steps=steps, **given).assign_attrs(noise=noise)

    runs = {
        f"{m}x{n}_noise{noise:g}": descended(f"{m}x{n}_noise{noise:g}", (m, n), noise, int(_SMALL / step_of(noise)))
        for noise in noises
        for m, n in SHAPES
    }
    runs["late"] = descended("late", SHAPES[0], max(noises), STEPS, seeds=min(sweeps.seeds, 100))
    return runs


def _looks(steps: int) -> list[int]:
    """Return eight steps, evenly spaced, that include the first and the last."""
    return [int(step) for step in np.linspace(0, steps, 9)]


def step_of(noise: float) -> float:
    """Return ν²(m−n) of the matrix that is not square: what each step adds to D on average, in σ₁."""
    m, n = SHAPES[0]
    return noise**2 * (m - n)


def trace_of_imbalance(problem: Problem, factors: Factors) -> jax.Array:
    """Return tr(UᵀU − VᵀV), in σ₁."""
    UU, VV = problem.grams(factors)
    return jnp.trace(UU) - jnp.trace(VV)


def _judged(runs: Runs) -> list[Finding]:
    """Judge the drift while the factors are nearly balanced, that of the square matrix, and where it ends."""
    *early, late = runs.values()
    m, _ = SHAPES[0]
    found = []
    for each in early:
        what = "drift of tr D over ν²(m−n)d·t" if each.attrs["shape"][0] == m else "that of the square matrix over it"
        judge = _drift if each.attrs["shape"][0] == m else _none
        found.append(judge(f"noise {each.attrs['noise']:g}: {what}", _drift_over_predicted(each)))
    late = late.sel(step=slice(3 * STEPS // 4, None))
    sharpness = (STEP_SIZE / 2 * late.sum_of_squares_path).mean("step").values
    return [
        *found,
        _none(f"noise {late.attrs['noise']:g}: late drift of tr D over ν²(m−n)d·t", _drift_over_predicted(late)),
        within(f"noise {late.attrs['noise']:g}: late η(σ₁²(U) + σ₁²(V))/2", sharpness, 0.5, 1.0),
    ]


def _drift_over_predicted(runs: xr.Dataset) -> np.ndarray:
    """Return the drift of every run over that predicted for the matrix that is not square."""
    path = runs.trace_path
    steps = float(runs.step[-1] - runs.step[0])
    return ((path.isel(step=-1) - path.isel(step=0)) / (len(VALUES) * step_of(runs.attrs["noise"]) * steps)).values


def _drift(what: str, shares: np.ndarray) -> Finding:
    return within(what, shares, 1 - _OFF, 1 + _OFF)


def _none(what: str, shares: np.ndarray) -> Finding:
    return within(what, shares, -_NOUGHT, _NOUGHT)


def _plot(runs: Runs) -> Plot:
    """Plot mean drifts of all that begin balanced against the predicted one, beside where they are equal."""
    measured = []
    for each in list(runs.values())[:-1]:
        path, noise = each.trace_path.transpose("step", "seed").values / len(VALUES), each.attrs["noise"]
        middle, low, high = np.transpose([stats.mean_interval(row - path[0]) for row in path[1:]])
        m, n = each.attrs["shape"]
        measured.append(Series(rf"{m}×{n}, $\nu={noise:g}$", step_of(noise) * each.step.values[1:], middle, low, high))
    ends = np.array([0, _SMALL])
    promised = [Series(r"$\nu^2(m-n)\,t$", ends, ends), Series("square", ends, 0 * ends)]
    m, n = SHAPES[0]
    return Plot(
        rf"$\nu^2({m}-{n})\,t$, in $\sigma_1$", r"mean of $\mathrm{tr}(D_t - D_0)/d$, in $\sigma_1$", measured, promised
    )


def balanced_with_noise(step_size: optax.ScalarOrSchedule, noise: ScalarLike) -> optax.GradientTransformation:
    """Return noisy descent with a balancing term of weight 1/8, which holds the factors together."""
    return optax.chain(add_balancing(1 / 8), perturbed(step_size, noise))


NOISE_DRIFT = Preset(
    name="noise_drift",
    place="conditional mean of the imbalance under iterate noise",
    randomness="A seed draws the noise, shared by both deviations; targets and starts are fixed.",
    needs_x64=True,
    seeds=1000,
    seconds=15,
    job=drifts,
    sweeps=len(SHAPES) * len(NOISES) + 1,
)

C32 = Claim(
    id="C32",
    title="noise unbalances factors of unequal size",
    place="derived",
    statement="Iterate noise moves the imbalance of an m×n matrix by its variance times m − n a step, as long as the "
    "factors are nearly balanced; the drift ends near the edge of stability. A square matrix does not drift.",
    formula="E[D⁺ − D] = ν²(m−n)I, D = UᵀU − VᵀV, until η(σ₁²(U) + σ₁²(V))/2 is between ½ and 1",
    preset=NOISE_DRIFT,
    judge=_judged,
    plot=_plot,
    power=Power(
        "a drift that is 15 % off, if it scatters by one half over seeds",
        1000,
        lambda rng: [_drift("", rng.normal(0.85, 0.5, 1000))],
    ),
    control=Control(
        "a balancing term of weight 1/8, which holds the factors together",
        changed={"method": balanced_with_noise},
        small={"noises": NOISES[1:]},
        seeds=1000,
    ),
    departure="Holding the factors to the fit adds a share: the exact drift of a nearly balanced direction is "
    "ν²(m−n)/(1 − ησ_j/2), here 2 to 5 % more. Sizes, deviations and step are those of the table; σ = (1, 0.7, 0.4), "
    "starts at the fit, and drifts up to σ₁/2 are ours.",
)
