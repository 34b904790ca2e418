"""The edge of balanced descent: with a large weight the regulariser, and not the target, says how long steps may be."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import ScalarLike

from jaxfact.engine.experiment import Run
from jaxfact.figures.claims import Plot, Series
from jaxfact.methods import balanced
from jaxfact.numerics.decompositions import largest_eigenvalue
from jaxfact.numerics.products import gram
from jaxfact.papers.claims import Claim, Control, Power, Preset, Runs, Sweeps
from jaxfact.papers.rules import Finding, bracketed
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.starts import Gaussian

WEIGHTS = (0.0, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
OFFSETS = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
STEPS, TOLERANCE = 20_000, 1e-6

Balancing = Callable[[optax.ScalarOrSchedule, ScalarLike], optax.GradientTransformation]


def edge_grid(offsets: Sequence[float]) -> np.ndarray:
    """Return step sizes over an edge on both sides of it, the nearer to it the denser."""
    return np.sort(np.concatenate([1 - np.asarray(offsets), 1 + np.asarray(offsets)]))


def edge_of(weight: ScalarLike) -> jax.Array:
    """Return min(1/σ₁, 1/(8·weight·σ₁)), in 1/σ₁."""
    return 1 / jnp.maximum(1.0, 8 * jnp.asarray(weight))


def sum_of_squares(problem: Problem, factors: Factors) -> jax.Array:
    """Return σ₁²(U) + σ₁²(V): where UVᵀ = Σ, the largest eigenvalue of the Hessian."""
    del problem
    return jnp.asarray(largest_eigenvalue(gram(factors.U)) + largest_eigenvalue(gram(factors.V)))


def balanced_descents(
    sweeps: Sweeps,
    *,
    weights: Sequence[float] = WEIGHTS,
    method: Balancing = balanced,
) -> Runs:
    """Factorise a 12×9 matrix with balancing terms of several weights and steps about the edge of each."""
    problem = Factorization(np.array([1.0, 0.7, 0.4]), shape=(12, 9))

    def experiment(weight, share):
        return Run(problem, Gaussian(3, scale=0.01), method(share * edge_of(weight), weight))

    return {"runs": sweeps("runs", experiment, max_steps=STEPS, weight=weights, share=edge_grid(OFFSETS))}


def halved(step_size: optax.ScalarOrSchedule, weight: ScalarLike) -> optax.GradientTransformation:
    """Return balanced descent with half the weight, as if the gradient of weight·‖D‖² were 2·weight·UD."""
    return balanced(step_size, weight / 2)


def _edges(runs: Runs) -> list[Finding]:
    """Judge the edge of every weight by itself."""
    return [
        _edge(f"weight {weight:g}: 50 % point of success over min(1/σ₁, 1/(8·weight·σ₁))", shares, success)
        for weight, shares, success in _successes(runs)
    ]


def _successes(runs: Runs) -> list[tuple[float, np.ndarray, np.ndarray]]:
    """Return each weight with the grid and the successes along (grid, seed)."""
    success = (runs["runs"].distance <= TOLERANCE).transpose("weight", "share", "seed")
    shares = success.share.values
    return [(float(weight), shares, one) for weight, one in zip(success.weight, success.values, strict=True)]


def _edge(what: str, shares: np.ndarray, success: np.ndarray) -> Finding:
    return bracketed(what, shares, success, 0.995, 1.005)


def _plot(runs: Runs) -> Plot:
    """Plot the step up to which half of the runs succeed against the weight, beside the edge."""
    found = [(weight, float(edge_of(weight)), _edge("", *rest)) for weight, *rest in _successes(runs)]
    weights, edges = (np.array(each) for each in list(zip(*found, strict=True))[:2])
    middle, low, high = np.transpose([(edge.measured, edge.low, edge.high) for *_, edge in found]) * edges
    between = np.linspace(0, weights.max(), 200)
    return Plot(
        x_label="weight",
        y_label=r"$\eta\sigma_1$ up to which half succeed",
        measured=[Series("50 % point", weights, middle, low, high)],
        promised=[Series(r"$\min(1, 1/(8w))$", between, np.asarray(edge_of(between)))],
    )


def _edge_off_by(share: float, rng: np.random.Generator, seeds: int) -> Finding:
    """Return what the rule makes of runs whose edge is elsewhere, each with an edge of its own 0.1 % from there."""
    grid = edge_grid(OFFSETS)
    edges = 1 - share + 0.001 * rng.normal(size=seeds)
    return _edge("", grid, grid[:, None] < edges)


BALANCED_EDGE = Preset(
    name="balanced_edge",
    place="identity of the Hessian at a balanced exact fit",
    randomness="A seed draws the start; the target is fixed.",
    needs_x64=True,
    seeds=100,
    seconds=15,
    job=balanced_descents,
)

C33 = Claim(
    id="C33",
    title="balancing has an edge of its own",
    place="derived",
    statement="A balancing term has a stability edge of its own: up to a weight of 1/8 steps may be as long as without "
    "it, and above that only as long as 1/(8·weight·σ₁), below which every run from a small start converges and above "
    "which none does.",
    formula="η ≤ min(1/σ₁, 1/(8wσ₁)) for f + w‖UᵀU − VᵀV‖²_F, whose Hessian at a balanced exact fit has the "
    "eigenvalues 2σ₁ and 16wσ₁",
    preset=BALANCED_EDGE,
    judge=_edges,
    plot=_plot,
    power=Power("an edge that is off by 1.5 %", 100, lambda rng: [_edge_off_by(0.015, rng, 100)]),
    control=Control(
        "half the gradient of the balancing term, which is that of another weight",
        changed={"method": halved},
        small={"weights": (1 / 16, 1 / 2)},
        seeds=20,
    ),
    departure="A run succeeds that is within 1e-6 after 20,000 steps. One that is 3 % beyond the edge of the balancing "
    "term passes through 1e-6 and stays for hundreds of steps, until rounding has grown: it is not enough to arrive.",
)
