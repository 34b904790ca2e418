"""What was found with jaxfact itself: no paper states it, each claim says what it is derived from."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import xarray as xr
from optax import GradientTransformation

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import balanced, gradient_descent
from jaxfact.papers.balanced_edge import C33, edge_grid, sum_of_squares
from jaxfact.papers.base import Paper
from jaxfact.papers.claims import Claim, Control, Hypothesis, Power, Preset, Runs, Sweeps
from jaxfact.papers.imbalance_drift import C14
from jaxfact.papers.noise_drift import C32
from jaxfact.papers.rules import Finding, always, bounded, bracketed, measured
from jaxfact.problems.factorization import Factorization
from jaxfact.results import stats
from jaxfact.starts import Gaussian

OFFSETS = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)
BUDGETS = (2_000, 20_000, 200_000)
_EDGE = 1.0


def steps_at_the_edge(
    sweeps: Sweeps,
    *,
    method: Callable[[float], GradientTransformation] = gradient_descent,
    step_sizes: np.ndarray | None = None,
    budgets: Sequence[int] = BUDGETS,
) -> Runs:
    """Factorise a 12×9 matrix with steps about 1/σ₁, at several budgets."""
    problem = Factorization(np.array([1.0, 0.7, 0.4]), shape=(12, 9))
    grid = edge_grid(OFFSETS) if step_sizes is None else step_sizes
    return {
        f"budget{budget}": sweeps(
            f"budget{budget}",
            lambda step_size: Run(problem, Gaussian(3, scale=0.01), method(step_size)),
            max_steps=budget,
            tolerance=1e-6,
            record={"sum_of_squares": sum_of_squares},
            step_size=grid,
        )
        for budget in budgets
    }


def _edges(runs: Runs) -> list[Finding]:
    """Judge the edge at the middle budget, that it moves to 1, and the sharpness where runs end."""
    found = {int(each.attrs["max_steps"]): each for each in runs.values()}
    edges = {budget: _edge(f"50 % point of success at {budget} steps, in 1/σ₁", each) for budget, each in found.items()}
    asked = BUDGETS[1] if BUDGETS[1] in edges else max(edges)
    off = [abs(1 - edges[budget].measured) for budget in sorted(edges)]
    nearer = np.array([later / sooner for sooner, later in pairwise(off)])
    sharp, flat = (np.concatenate([each[place] for each in map(_sharpness, found.values())]) for place in (0, 1))
    bounds = {"η(σ₁²(U) + σ₁²(V))/2 where runs converge": (sharp, 1.0)}
    bounds["2σ₁ over σ₁²(U) + σ₁²(V) there"] = flat, 1 + 1e-5  # at the tolerance of 1e-6
    bounds["distance of the 50 % point from 1 over that at a tenth of the budget"] = nearer, 1.0
    return [edges[asked], *(bounded(what, *known) for what, known in bounds.items() if len(known[0]))]


def _edge(what: str, runs: xr.Dataset) -> Finding:
    success = (runs.outcome == "converged").transpose("step_size", "seed").values
    return _bracketed(what, runs.step_size.values, success)


def _bracketed(what: str, grid: np.ndarray, success: np.ndarray) -> Finding:
    return bracketed(what, grid, success, 0.995, 1.005)


def _sharpness(runs: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the sharpness over its bounds, 2/η from above and 2σ₁ from below, of all runs that converge."""
    sharpness, converged = xr.broadcast(runs.sum_of_squares, runs.outcome == "converged")
    of_step = (runs.step_size * sharpness / 2).transpose(*sharpness.dims)
    return of_step.values[converged.values], (2 / sharpness).values[converged.values]


def _plot_edge(runs: Runs) -> Plot:
    """Plot the share of runs that converge against the step, one series per budget, beside the edge."""
    measured = []
    for found in runs.values():
        success = found.outcome == "converged"
        low, high = stats.wilson(success.sum("seed"), found.sizes["seed"])
        offset = 1000 * (found.step_size.values - 1)
        measured.append(Series(f"{found.attrs['max_steps']} steps", offset, success.mean("seed").values, low, high))
    ends = np.array([-100.0, 0, 0, 100])
    return Plot(
        x_label=r"$1000\,(\eta\sigma_1 - 1)$",
        y_label="fraction that converges",
        measured=measured,
        promised=[Series(r"edge at $\eta = 1/\sigma_1$", ends, np.array([1.0, 1, 0, 0]))],
        x_scale="symlog",
    )


def _edge_off_by(share: float, rng: np.random.Generator, seeds: int) -> Finding:
    """Return what the rule makes of runs whose edge is elsewhere, each with an edge of its own 0.1 % from there."""
    grid = edge_grid(OFFSETS)
    edges = 1 - share + 0.001 * rng.normal(size=seeds)
    return _bracketed("", grid, grid[:, None] < edges)


EDGE = Preset(
    name="stability_edge",
    place="identity of the Hessian at an exact fit",
    randomness="A seed draws the start; the target is fixed.",
    needs_x64=True,
    seeds=100,
    seconds=20,
    job=steps_at_the_edge,
    sweeps=len(BUDGETS),
)

C8 = Claim(
    id="C8",
    title="steps are stable up to 1/σ₁",
    place="derived",
    statement="No minimiser is stable for steps above 1/σ₁: from small starts every run converges below it, none "
    "above, and the point at which half of them do moves to 1/σ₁ as the budget grows.",
    formula="λ_max(∇²f) = σ₁²(U) + σ₁²(V) ≥ 2σ₁ where UVᵀ = Σ, so that η ≤ 2/(σ₁²(U) + σ₁²(V)) ≤ 1/σ₁",
    preset=EDGE,
    judge=_edges,
    plot=_plot_edge,
    power=Power("an edge that is off by 1 %", 100, lambda rng: [_edge_off_by(0.01, rng, 100)]),
    control=Control(
        "a balancing term of weight 1/4, which has its own edge at 1/(8·weight·σ₁) = 1/2",
        changed={"method": partial(balanced, weight=0.25)},
        small={"budgets": (20_000,)},
        seeds=20,
    ),
)

TAIL_STEP, TAIL_SHARE = 0.1, 0.05
TAIL_VALUES = (1.0, 0.5)


def tail(sweeps: Sweeps, *, width: int = 2, step_size: float = TAIL_STEP) -> Runs:
    """Factorise a 30×30 matrix of rank 2 and time each run to the step."""
    problem = Factorization(np.asarray(TAIL_VALUES, np.float32), shape=(30, 30))
    run = Run(problem, Gaussian(width, scale=0.01), gradient_descent(step_size))
    runs = sweeps("runs", lambda: run, max_steps=3000, tolerance=1e-3, check_every=1)
    return {"runs": runs.assign_attrs(width=width, growth=float(np.log1p(step_size * TAIL_VALUES[-1])))}


def tail_rate(times: np.ndarray) -> tuple[float, float]:
    """Return the rate at which the slowest 5 % of whole times fall off, by maximum likelihood, and its standard error.

    P(T > t) ∝ e^{−λt} beyond a threshold u makes T − u geometric, with λ = ln(1 + 1/mean(T − u − 1)); its error is
    λ/√k with k times beyond u, as λ is small.
    """
    threshold = np.quantile(times, 1 - TAIL_SHARE, method="lower")
    beyond = times[times > threshold] - threshold - 1
    rate = float(np.log1p(1 / beyond.mean()))
    return rate, rate / len(beyond) ** 0.5


def _tail(runs: Runs) -> list[Finding]:
    """Judge the rate of the tail over ln(1 + ησ_r)."""
    times = _times(runs["runs"])
    arrived = np.isfinite(times)
    return [
        _tail_of(times[arrived], runs["runs"].attrs["growth"]),
        always("fraction of runs that arrive within the budget", arrived),
    ]


def _tail_of(times: np.ndarray, promised: float) -> Finding:
    rate, error = tail_rate(times)
    return measured("tail rate of the time over ln(1+ησ_r)", rate / promised, error / promised, 0.95, 1.05)


def _times(runs: xr.Dataset) -> np.ndarray:
    return runs.hit.isel(level=-1).values


def _exact_width(runs: Runs) -> list[Hypothesis]:
    beyond = runs["runs"].attrs["width"] - len(TAIL_VALUES)
    return [Hypothesis("width beyond the rank, d − r", beyond, "0", beyond == 0)]


def _plot_tail(runs: Runs) -> Plot:
    """Plot the share of runs that have not arrived against the steps, beside the promised exponential."""
    times = _times(runs["runs"])
    threshold = float(np.quantile(times, 1 - TAIL_SHARE, method="lower"))
    steps = np.unique(np.sort(times))
    left = 1 - np.searchsorted(np.sort(times), steps, side="right") / len(times)
    kept = left > 0
    beyond = np.array([threshold, steps[kept][-1]])
    promised = TAIL_SHARE * np.exp(-runs["runs"].attrs["growth"] * (beyond - threshold))
    low, high = stats.wilson(np.round(left[kept] * len(times)).astype(int), len(times))
    return Plot(
        x_label="step $t$",
        y_label="$P(T > t)$",
        measured=[Series(f"{len(times):,} starts, 95 %", steps[kept], left[kept], low, high)],
        promised=[Series(r"$(1+\eta\sigma_r)^{-t}$", beyond, promised)],
        y_scale="log",
    )


def _tail_off_by(factor: float, rng: np.random.Generator, seeds: int) -> Finding:
    growth = float(np.log1p(TAIL_STEP * TAIL_VALUES[-1]))
    return _tail_of(np.ceil(rng.exponential(1 / (factor * growth), seeds)), growth)


TAIL = Preset(
    name="tail_of_times",
    place="derived",
    randomness="A seed draws the start; the target is fixed.",
    needs_x64=False,
    seeds=400_000,
    seconds=10,
    job=tail,
)

C31 = Claim(
    id="C31",
    title="unlucky starts have an exponential tail",
    place="derived",
    statement="At the exact width the slowest starts are exponentially rare: the chance that a run takes longer than t "
    "falls by 1 + ησ_r per step, as a start is as unlucky as its signal is near singular.",
    formula="P(T > t) ∝ (1 + ησ_r)^{−t}, since P(σ_min(A₀) < x) ∝ x and A grows by 1 + ησ_r per step",
    preset=TAIL,
    judge=_tail,
    plot=_plot_tail,
    power=Power("a rate that is 10 % off", 200_000, lambda rng: [_tail_off_by(1.1, rng, 200_000)]),
    control=Control(
        "a width above the rank, where a start is unlucky only if two directions are",
        changed={"width": 3},
        small={"step_size": 0.5},
        seeds=100_000,
    ),
    hypotheses=_exact_width,
)

PAPER = Paper(
    __name__,
    title="What was found with jaxfact itself",
    authors=(),
    year=2026,
    claims=(C8, C14, C31, C32, C33),
)
