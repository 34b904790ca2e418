"""The methods that jobs compare, one row each: what the method is, and what theory says about where its runs end."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from jaxfact.engine.levels import ladder
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import ComparisonSettings, RecoverySettings
from jaxfact.methods import Method, balanced, gradient_descent, perturbed
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.tied import Tied

MARGIN = 0.05
"""How far a ratio of times or errors may be from 1 for two methods to be called equivalent."""
_TIE = 1e-6


class Prediction(NamedTuple):
    """The median imbalance at the end of the runs: as a bound (≤), a limit (→) or a root mean square (≈)."""

    value: float
    rule: str


def bounded_drift(truth: Factorization, settings: ComparisonSettings, runs: xr.Dataset) -> Prediction:
    """Descent moves D by at most 2η(f₀ − f_T), provided each lowers the loss by half its first-order promise."""
    # From zero to the best approximation the loss falls by half the sum of its squared singular values.
    fall = float(np.sum(np.asarray(truth.singular_values)[: settings.columns] ** 2) / 2)
    return Prediction(_imbalance_at_start(runs) + 2 * float(settings.step_size) * fall, "≤")


def contraction(truth: Factorization, settings: ComparisonSettings, runs: xr.Dataset) -> Prediction:
    """The regulariser contracts D to zero."""
    return Prediction(0.0, "→") if settings.weight else bounded_drift(truth, settings, runs)


def random_walk(truth: Factorization, settings: ComparisonSettings, runs: xr.Dataset) -> Prediction:
    """Noise moves D by noise²(m−n)I per step on average, and by a random walk.

    The walk has variance 2·noise²(d+1)(‖U‖² + ‖V‖²) per step; the small drift of the descent itself is left out.
    """
    if not settings.noise:
        return bounded_drift(truth, settings, runs)
    m, n = truth.shape
    d, noise = settings.columns, settings.noise
    ends = runs.step.values[None, :].clip(max=runs.steps.values[:, None])
    energy = runs.energy_path.transpose("seed", "step").values
    stretch = np.diff(ends, axis=1)
    walked = np.sum(stretch * np.where(stretch > 0, energy[:, 1:] + energy[:, :-1], 0) / 2, axis=1)
    drift = noise**2 * abs(m - n) * runs.steps.values * d**0.5
    moved = drift**2 + 2 * noise**2 * (d + 1) * walked
    return Prediction(float(np.median(np.sqrt(_imbalance_at_start(runs) ** 2 + moved))), "≈")


def predicted_floor(problem: Factorization, settings: ComparisonSettings) -> float:
    """Return the distance at which iterate noise stalls a run: the stationary root mean square of the linear process.

    Around the balanced optimum each mode of the error obeys x⁺ = (1 − ηλ)x + noise, whose variance is
    noise²/(ηλ(2 − ηλ)). Entries of the leading d×d block have λ = σᵢ + σⱼ and enter the product with weight λ; an entry
    of U outside it pairs with that of V, with λ = σⱼ ± σᵢ and weight σⱼ, or stands alone beyond the rank: λ = σⱼ.
    For an exact rank and small η this is the well-known √(noise²·(m+n)d/(2η)). Beyond the stability edge it is inf.
    Nothing restores columns beyond the rank; they add at most noise²·max_steps·√(mn(d−r)). Where σ_d = σ_{d+1}, moving
    between the best approximations costs no distance.
    """
    head = min(settings.columns, problem.rank)
    values = np.asarray(problem.singular_values, float)
    leading, tail = values[:head, None], values[None, head:]
    m, n = problem.shape

    def variance(rate: np.ndarray, weight: np.ndarray) -> float:
        decay = settings.step_size * rate
        held = (rate > _TIE) & (decay < 2)
        spread = weight / np.where(held, decay * (2 - decay), 1)
        return float(np.sum(np.where(held, spread, np.where(rate > _TIE, np.inf, 0))))

    total = variance(leading + leading.T, leading + leading.T)
    for rate in (leading - tail, leading + tail):
        total += variance(rate, np.broadcast_to(leading, rate.shape))
    if alone := m + n - 2 * problem.rank:  # no entries have no variance, even where that of one is inf
        total += alone * variance(leading, leading)
    free = settings.noise**2 * settings.max_steps * (m * n * (settings.columns - head)) ** 0.5
    return float(np.hypot(settings.noise * np.sqrt(total), free) / np.linalg.norm(leading)) if settings.noise else 0.0


def _noise_floor(problem: Problem, truth: Factorization, settings: ComparisonSettings) -> float:
    # What is seen through few numbers is restored less along some directions than the whole matrix is.
    return predicted_floor(truth, settings) * (2 if problem.misfits else 1)


def _no_floor(problem: Problem, truth: Factorization, settings: ComparisonSettings) -> float:
    return 0.0


class Compared(NamedTuple):
    """A method that jobs compare.

    `method` builds it from the settings of a comparison. `weight_and_noise` states it as the two numbers of balanced
    descent with noise, which share one program where a matrix is completed; None where it is not such a method, and
    then takes no part there. A method that `needs_pair` is left out of problems in one factor. `floor` predicts the
    distance at which the method stalls because of the setting `held_up_by`: it is judged at the first level above
    that. `imbalance` predicts the imbalance of its last factors.
    """

    name: str
    method: Callable[[ComparisonSettings], Method]
    weight_and_noise: Callable[[RecoverySettings], tuple[float, float]] | None
    needs_pair: bool = False
    held_up_by: str = ""
    floor: Callable[[Problem, Factorization, ComparisonSettings], float] = _no_floor
    imbalance: Callable[[Factorization, ComparisonSettings, xr.Dataset], Prediction] = bounded_drift


COMPARED = (
    Compared("plain", lambda s: gradient_descent(s.step_size), lambda s: (0.0, 0.0)),
    Compared(
        "balanced",
        lambda s: balanced(s.step_size, s.weight),
        lambda s: (s.weight, 0.0),
        needs_pair=True,
        imbalance=contraction,
    ),
    Compared(
        "noisy",
        lambda s: perturbed(s.step_size, s.noise),
        lambda s: (0.0, s.noise),
        held_up_by="noise",
        floor=_noise_floor,
        imbalance=random_walk,
    ),
)
"""The methods in the order of tables and figures; the others are paired with the first."""


def compared_on(problem: Problem) -> list[Compared]:
    """Return the methods that a problem allows."""
    return [row for row in COMPARED if not (row.needs_pair and isinstance(problem, Tied))]


def completing() -> dict[str, Callable[[RecoverySettings], tuple[float, float]]]:
    """Return the methods that complete a matrix in one program, as their weight and noise, by name."""
    return {row.name: row.weight_and_noise for row in COMPARED if row.weight_and_noise}


def judged_level(row: Compared, tolerance: float, floor: float, chosen: tuple[float, ...] = ()) -> float:
    """Return the least of the levels and the tolerance that lies above a floor; the tolerance if the floor is inf.

    The levels are those that were chosen, 1e-1, 1e-2, … where none were.

    Raises ValueError for a floor above all levels.
    """
    if np.isinf(floor):
        return tolerance
    levels = ladder(tolerance, chosen)
    above = [level for level in levels if level > floor]
    if not above:
        needed = f"the floor of {row.name} lies above the first level, {levels[0]:g}"
        raise problem_with(row.held_up_by, f"floor {floor:.2g}", needed, f"lower the {row.held_up_by}")
    return above[-1]


def floor_notes(row: Compared, tolerance: float, floor: float, chosen: tuple[float, ...] = ()) -> list[str]:
    """Return a line on where a method stalls and is judged; none where nothing stalls it."""
    if np.isinf(floor):
        return [f"with this step size {row.name} has no stationary floor; it is run to the tolerance"]
    level = judged_level(row, tolerance, floor, chosen)
    if floor == 0 or level == tolerance:
        return []
    return [
        f"{row.held_up_by} stalls {row.name} at a distance of about {floor:.2g}; it is run to the first level above, "
        f"{level:g}"
    ]


def _imbalance_at_start(runs: xr.Dataset) -> float:
    return float(runs.imbalance_path.isel(step=0).median())
