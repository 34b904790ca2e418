"""Phase diagrams: how often runs find the truth over two axes, and where that changes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
import xarray as xr
from jaxtyping import Bool, Float

from jaxfact.engine.axes import Values, axis, both_given, check_names
from jaxfact.engine.experiment import Experiment
from jaxfact.inputs import explained, problem_with
from jaxfact.results import stats
from jaxfact.results.deciding import standard_errors
from jaxfact.showing.progress import Progress
from jaxfact.sweep import sweep

_OUTCOMES = ("converged", "fitted", "diverged")
_THRESHOLDS = {"at": "threshold", "low": "threshold_low", "high": "threshold_high"}
_NAMES = {*_THRESHOLDS.values(), *(f"{name}{end}" for name in _OUTCOMES for end in ("", "_low", "_high"))}
_PLACES, _WIDTHS = 1201, 80
_CERTAIN = 1e-3  # a curve as steep as the grid has residuals that are all rounding


class Threshold(NamedTuple):
    """Where a logistic curve passes ½, with its 95 % interval; NaN where it never does."""

    at: float
    low: float
    high: float


@explained
def phase_diagram(
    experiment: Experiment,
    *,
    seeds: int | Sequence[int] | np.ndarray,
    max_steps: int,
    tolerance: float,
    check_every: int = 10,
    base_seed: int = 0,
    progress: Progress | bool = True,
    axes: Mapping[str, Values] | None = None,
    **more_axes: Values,
) -> xr.Dataset:
    """Run an experiment over two axes and return how often its runs converge and fit, and where that changes.

    The experiment and the options named here are as in `sweep`; the axes are given in the order (along, across), for
    example fraction and rank, or step size and scale, by keyword or, for names that collide with options, in `axes`.
    The dataset holds `converged`, `fitted` and `diverged`, fractions of seeds over both axes, each with Wilson's 95 %
    interval as `converged_low`, `converged_high` and so on; and along the second axis `threshold`, where a logistic
    curve in the logarithm of the first axis gives convergence a chance of ½, with its interval `threshold_low`,
    `threshold_high`, which is open, 0 to inf, for a few seeds. Where no run, or every run, converges there is no
    threshold: NaN, with an open interval.

    Raises ValueError unless there are two axes, the first of positive numbers.
    """
    both = both_given(axes, more_axes)
    if len(both) != 2:
        raise problem_with("axes", sorted(both), "a phase diagram has two", "pass fraction=[...], rank=[...]")
    along, across = both
    check_names(both, _NAMES)
    places = axis(along, both[along], x64=True).astype(float)
    if not np.all(places > 0):
        raise problem_with(along, places.tolist(), "the curve is fitted in its logarithm", "give numbers above 0")
    runs = sweep(
        experiment,
        seeds=seeds,
        max_steps=max_steps,
        tolerance=tolerance,
        check_every=check_every,
        base_seed=base_seed,
        progress=progress,
        axes=both,
    )
    return diagram_of(runs, along, across)


def diagram_of(runs: xr.Dataset, along: str, across: str) -> xr.Dataset:
    """Return the phase diagram of runs along two axes and `seed`, as `phase_diagram` does; `along` is above 0.

    Raises ValueError for an axis with values that are not.
    """
    values = runs[along].values
    if values.dtype.kind not in "iuf" or not np.all(values > 0):
        instead = "give numbers above 0, or exchange the axes"
        raise problem_with(along, values.tolist(), "the curve is fitted in its logarithm", instead)
    places, found = np.asarray(values, float), {}
    for outcome in _OUTCOMES:
        number = (runs.outcome == outcome).sum("seed")
        low, high = stats.wilson(number, runs.sizes["seed"])
        found[outcome] = number / runs.sizes["seed"]
        found |= {f"{outcome}_low": (number.dims, low), f"{outcome}_high": (number.dims, high)}
    converged = (runs.outcome == "converged").transpose(across, along, "seed").values
    fits = [threshold(places, succeeded) for succeeded in converged]
    for field, name in _THRESHOLDS.items():
        found[name] = (across, [getattr(fit, field) for fit in fits])
    return xr.Dataset(found, attrs=runs.attrs | {"along": along, "across": across, "seeds": runs.sizes["seed"]})


def threshold(places: Float[np.ndarray, " k"], succeeded: Bool[np.ndarray, "k seed"]) -> Threshold:
    """Fit P(success) = expit(±(ln x − ln x₀)/w) by maximum likelihood and return x₀ with its 95 % interval.

    `succeeded` says which seeds did at each of the positive `places`. The likelihood is profiled over w on a grid. Its
    deviance may be as large as the square of `standard_errors`, which is χ²'s 3.84 for many seeds, times what
    the seeds' sums of residuals vary beyond the binomial: one seed is the same start at every place, so that its
    successes go together. Where all runs at one place fail and all at the next succeed, every x₀ in between is equally
    likely: the middle is returned and the interval spans the gap. Where no run, or every run, succeeds there is no
    crossing: NaN, with an open interval, from 0 to inf.
    """
    logarithms = np.log(np.asarray(places, float))
    order = np.argsort(logarithms)
    x, succeeded = logarithms[order], np.asarray(succeeded, float)[order]
    k, count = succeeded.sum(axis=1), succeeded.shape[1]
    if k.sum() in (0, count * len(k)):
        # The curve may rise or fall: the side is unknown, only that the crossing is at none of these places.
        return Threshold(float("nan"), 0.0, float("inf"))
    span = max(x[-1] - x[0], 1e-9)
    centres = np.linspace(x[0] - span / 2, x[-1] + span / 2, _PLACES)
    widths = span * np.geomspace(1e-3, 3, _WIDTHS)
    rising = np.sum((x - x.mean()) * (k - k.mean())) >= 0
    slope = (x - centres[:, None, None]) / widths[:, None] * (1 if rising else -1)
    # k·log p + (n − k)·log(1 − p), and log(1 − p) = log p − slope.
    likelihood = count * scipy.special.log_expit(slope).sum(axis=-1) - slope @ (count - k)
    profile = likelihood.max(axis=1)
    best = profile.max()
    middle = centres[profile >= best - 1e-6 * max(1.0, abs(best))].mean()
    fitted = np.unravel_index(likelihood.argmax(), likelihood.shape)
    allowed = standard_errors(count) ** 2 * _dispersion(succeeded, scipy.special.expit(slope[fitted]))
    inside = centres[2 * (best - profile) <= allowed]
    low = 0.0 if inside[0] == centres[0] else float(np.exp(inside[0]))
    high = float("inf") if inside[-1] == centres[-1] else float(np.exp(inside[-1]))
    return Threshold(float(np.exp(middle)), low, high)


def _dispersion(succeeded: Float[np.ndarray, "k seed"], chance: Float[np.ndarray, " k"]) -> float:
    """Return the variance over seeds of a seed's sum of residuals, over the binomial one; 1 if it is smaller."""
    binomial = succeeded.shape[1] * np.sum(chance * (1 - chance))
    found = np.sum(np.sum(succeeded - chance[:, None], axis=0) ** 2)
    return max(1.0, float(found / binomial)) if binomial > _CERTAIN else 1.0
