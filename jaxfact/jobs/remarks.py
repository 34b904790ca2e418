"""What a reader of a comparison should know before the numbers: budgets, edges, and hypotheses that do not hold."""

import json
import math

import jax
import numpy as np
import xarray as xr

from jaxfact import measures
from jaxfact.jobs.settings import ComparisonSettings
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import TiedFactor
from jaxfact.problems.tied import Tied
from jaxfact.results.deciding import rounded_up

_ROOM = 2  # how many times the steps that linear rates predict are advised


def budget_lines(runs: xr.Dataset, truth: Factorization, settings: ComparisonSettings) -> list[str]:
    """Return a line where runs were cut off by their budget: how many, and what would let them arrive."""
    shares = (runs.outcome == "budget").mean("seed").values
    cut = [f"{100 * share:.3g} % of {name}" for name, share in zip(runs.variant.values, shares, strict=True) if share]
    if not cut:
        return []
    who = "every run" if shares.min() == 1 else ", ".join(cut)
    line = f"the budget of {settings.max_steps} steps cut off {who}, which have not failed: "
    if settings.step_size > 1:
        return [line + "with a step size above 1/σ₁ they need not settle; lower step_size"]
    if settings.columns > truth.rank:
        # What a start puts into spare columns meets no linear rate: u' = −u³ brings it down like 1/√t.
        return [line + "start smaller (scale), as columns beyond the rank shrink slowly, or raise max_steps"]
    return [f"{line}raise max_steps to about {rounded_up(advised_steps(truth, settings))}"]


def advised_steps(truth: Factorization, settings: ComparisonSettings) -> float:
    """Return a budget with which runs should arrive: twice what linear rates predict, or twice the one they had.

    From a small start the last singular value to be learned grows by 1 + ησ_d per step up to √σ_d; then the distance
    shrinks by 1 − η(σ_d − σ_{d+1}) per step. Where the gap is zero only the growth is counted.
    """
    values = np.append(np.asarray(truth.singular_values, float), 0.0)
    last = min(settings.columns, truth.rank) - 1
    weakest, gap = values[last], values[last] - values[last + 1]
    growth = max(0.0, math.log(weakest**0.5 / (settings.scale or 1.0))) / math.log1p(settings.step_size * weakest)
    rate = min(settings.step_size * gap, 0.99)
    settling = math.log(1 / settings.tolerance) / -math.log1p(-rate) if rate > 0 else 0.0
    return _ROOM * max(growth + settling, settings.max_steps)


def notes(truth: Factorization, settings: ComparisonSettings) -> list[str]:
    """Return what a reader should know before the numbers: edges, and hypotheses that do not hold."""
    m, n = truth.shape
    edge = 1 / (8 * settings.weight) if settings.weight else np.inf
    said = {
        f"width {settings.columns} is above min(m, n) = {min(m, n)}: over-parametrised": settings.columns > min(m, n),
        f"width {settings.columns} is above the rank {truth.rank}: over-parametrised": (
            truth.rank < settings.columns <= min(m, n)
        ),
        f"step size {settings.step_size:g} is above 1/σ₁, where no minimiser is stable": settings.step_size > 1,
        f"step size {settings.step_size:g} is above the regulariser's own edge 1/(8·weight·σ₁) = {edge:.3g}": (
            settings.step_size > edge
        ),
        f"σ_{settings.columns} and σ_{settings.columns + 1} agree: the best approximation is not unique, and the "
        "distance is to one nearby": not bool(truth.is_truncation_unique(settings.columns)),
    }
    return [text for text, holds in said.items() if holds]


def sharpness_lines(problem: Problem, truth: Factorization, settings: ComparisonSettings) -> list[str]:
    """Return a line on how far the unit convention holds at the truth of a problem that is not fully observed."""
    if not problem.misfits:
        return []
    optimum = truth.truncation(settings.columns)
    factors = TiedFactor(optimum.U) if isinstance(problem, Tied) else optimum
    ratio = float(jax.jit(measures.relative_sharpness)(problem, factors))
    line = f"sharpness at the truth: {ratio:.3g} times that of full observation (1: the units of the step hold)"
    unstable = f"; step size {settings.step_size:g} is above its edge, {1 / ratio:.3g}"
    return [line + unstable * (settings.step_size * ratio > 1)]


def compression_lines(runs: xr.Dataset) -> list[str]:
    """Return a line that says how the runs were compressed, one for all methods."""
    names, kinds = json.loads(runs.attrs["variants"]), runs.attrs["compression"]
    each: list[str] = json.loads(kinds) if kinds.startswith("[") else [kinds] * len(names)
    kinds = {name: each[names.index(name)] for name in runs.variant.values.tolist()}
    said = {"exact": "exactly", "in law": "exactly in law", "none": "not at all"}
    text = ", ".join(f"{name} {said[kind]}" for name, kind in kinds.items())
    return [f"runs compressed to the rows that move: {text}"] if set(kinds.values()) != {"none"} else []
