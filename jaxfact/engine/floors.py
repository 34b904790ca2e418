"""Below which distance rounding stalls runs: what a tolerance must stay above."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from jaxfact.engine.experiment import Run
from jaxfact.engine.jaxprs import probed
from jaxfact.inputs import positive, problem_with
from jaxfact.methods.base import as_method
from jaxfact.numerics.draws import key_of
from jaxfact.problems.base import Problem, rounding_floor
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors

_MARGIN = 3
_LINEAR = 1e-2
_UNKNOWN = 1.0


def checked_tolerance(tolerance: Any) -> float | None:
    """Return a tolerance as Python's number, or None; refuse what is no number above 0."""
    if tolerance is None:
        return None
    instead = "1e-5 is usual in float32; None runs to max_steps"
    if isinstance(tolerance, str | bool):
        raise problem_with("tolerance", repr(tolerance), "needs a finite number above 0", instead)
    positive("tolerance", tolerance, instead)
    return float(tolerance)


def check_tolerance(tolerance: float | None, runs: Iterable[Run], compensated: bool = False) -> None:
    """Refuse a tolerance below three times the rounding floor of one of these runs.

    A method whose step size cannot be told has the floor of step size 1, and so have compensated steps.
    """
    if tolerance is None:
        return
    for run in runs:
        step_size = _UNKNOWN if compensated else step_size_of(run.method)
        check_above_floor(tolerance, run.problem, step_size, getattr(run.start, "width", None))


def check_above_floor(tolerance: float, problem: Problem, step_size: float, width: int | None) -> None:
    """Refuse a tolerance below three times the distance at which descent with this step size and width stalls.

    Rounding stalls it, and singular values that count as equal and are not: see `Factorization.spread`.
    """
    dtype, truth = problem.dtype, problem.truth
    floor = _MARGIN * rounding_floor(float(np.finfo(dtype).eps), step_size)
    if tolerance < floor:
        raise problem_with(
            "tolerance",
            f"{tolerance:g}",
            f"is below three times the rounding floor of {dtype} at step size {step_size:g}, {floor:.1e}",
            "raise it, take a step further from 0 and from the edge 1, or compute in float64 (--x64, or "
            "jax.config.update('jax_enable_x64', True) before the target is made)",
        )
    spread = 0.0 if truth is None or width is None else _MARGIN * truth.spread(width)
    if tolerance < spread:
        raise problem_with(
            "tolerance",
            f"{tolerance:g}",
            f"is below three times the spread of the singular values around σ_{width}, which count as equal, "
            f"{spread:.1e}",
            "raise it, or choose another width",
        )


def step_size_of(given: Any) -> float:
    """Return η where a method's updates are −η times whatever gradient it is given, and 1 for every other method.

    Two steps are tried at a balanced optimum, where neither a regulariser nor a preconditioner changes the gradient.
    """
    method, rng = as_method(given), np.random.default_rng(0)
    problem = Factorization(np.ones(2, np.float32), shape=(3, 3))

    def ratios(slopes: list[Factors]) -> list[Array]:
        factors, found = problem.truncation(2), []
        state = method.init(factors)
        for slope in slopes:
            updates, state = method.update(slope, state, factors, problem=problem, key=key_of(0))  # pyright: ignore[reportArgumentType]
            found += [-new / old for new, old in zip(jax.tree.leaves(updates), slope, strict=True)]
        return found

    slopes = [Factors(*(1e-2 * rng.uniform(0.5, 1, (2, 3, 2))).astype(np.float32)) for _ in range(2)]
    try:
        found = np.ravel(probed(ratios, slopes))
    except (TypeError, ValueError, IndexError, AttributeError, AssertionError):
        # What is made for one shape, or asks for more than a gradient, says nothing here.
        return _UNKNOWN
    linear = np.all(np.abs(found - found[0]) <= _LINEAR * abs(found[0])) and found[0] > 0
    return float(np.median(found)) if linear else _UNKNOWN
