"""What is drawn of a move: quantiles along the steps, who has not arrived, how runs ended, and times of all starts."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxfact.engine.outcomes import CONVERGED, OUTCOMES
from jaxfact.explore.controls import State
from jaxfact.explore.laboratory import TOLERANCE, Laboratory, recorded_steps

_BAND = (0.05, 0.5, 0.95)


class Curve(NamedTuple):
    """The 5 % quantile, the median and the 95 % quantile along the steps.

    As `jf.figures.curve` has them: of runs of which a diverged one counts as infinite, and NaN from where a quantile
    goes through runs that were stopped because they had arrived.
    """

    low: Float[np.ndarray, " step"]
    median: Float[np.ndarray, " step"]
    high: Float[np.ndarray, " step"]


class Summary(NamedTuple):
    """One method's runs in numbers: `gone` holds when the fraction `waiting` of the runs had not arrived yet."""

    steps: Int[np.ndarray, " step"]
    distance: Curve
    imbalance: Curve
    gone: Float[np.ndarray, " time"]
    waiting: Float[np.ndarray, " time"]
    arrived: Float[np.ndarray, " seed"]
    outcomes: Mapping[str, float]


class Shown(NamedTuple):
    """All that a page shows of a state, and the runs behind it: arrays by method and name, as `Prepared.arrays`."""

    state: State
    runs: Mapping[str, Mapping[str, np.ndarray]]
    signals: Float[np.ndarray, " seed"]
    of: Mapping[str, Summary]

    @property
    def last_step(self) -> int:
        """The last step that is drawn."""
        return max(int(one.steps[-1]) for one in self.of.values())


def look(laboratory: Laboratory, state: State) -> Shown:
    """Run what a state asks for, and say what came of it."""
    signals = laboratory.threads.submit(laboratory.smallest_signals, state)
    runs, of = {}, {}
    for name, found in laboratory.arrays(state):
        runs[name], of[name] = found, summary(found, state)
    return Shown(state, runs, signals.result(), of)


def summary(runs: Mapping[str, np.ndarray], state: State) -> Summary:
    """Return the numbers of one variant."""
    steps, going = _going(runs, state)
    arrived, outcome = runs["hit"][:, -1], runs["outcome"]
    gone, waiting = _survival(arrived, state.budget)
    return Summary(
        steps,
        Curve(*_quantiles(runs["distance_path"], going, _BAND)),
        Curve(*_quantiles(runs["imbalance_path"], going, _BAND)),
        gone,
        waiting,
        arrived,
        {name: float(np.mean(outcome == code)) for code, name in enumerate(OUTCOMES)},
    )


def singular_values(shown: Shown, method: str) -> list[Float[np.ndarray, " step"]]:
    """Return the medians of a method's singular values along the steps, of as many as the width can reach.

    They end with the median of the distance.
    """
    runs, ended = shown.runs[method], np.isnan(shown.of[method].distance.median)
    values, (_, going) = runs["singular_values_path"], _going(runs, shown.state)
    count = min(shown.state.values["width"], values.shape[-1])
    medians = (_quantiles(values[..., each], going, (0.5,))[0] for each in range(count))
    return [np.where(ended, np.nan, median) for median in medians]


def sentence(shown: Shown) -> str:
    """Say in a line what is seen: who arrived, when half of the runs had, and who diverged."""
    parts = []
    for name, one in shown.of.items():
        half = np.sort(np.where(np.isfinite(one.arrived), one.arrived, np.inf))[(len(one.arrived) - 1) // 2]
        median = f", half of all by step {half:.0f}" if np.isfinite(half) else ""
        came = np.mean(np.isfinite(one.arrived))
        others = {"end in a cycle": one.outcomes["cycle"], "diverge": one.outcomes["diverged"]}
        ended = "".join(f", {100 * share:.4g} % {what}" for what, share in others.items() if share)
        parts.append(f"{name}: {100 * came:.4g} % arrive{median}{ended}")
    return f"{len(shown.state.seeds)} starts to distance {TOLERANCE:g}. {'; '.join(parts)}."


def _going(runs: Mapping[str, np.ndarray], state: State) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps up to the last of all runs, and which runs went on there or did not arrive."""
    steps, ended = recorded_steps(state.budget), runs["steps"]
    steps = steps[: np.searchsorted(steps, ended.max()) + 1]
    return steps, (runs["outcome"] != CONVERGED)[:, None] | (ended[:, None] >= steps)


def _quantiles(values: np.ndarray, going: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
    """Return quantiles along the steps; NaN behind the last step at which a quantile is that of a run still going.

    A band is drawn as long as its upper end is known: those that have arrived lie below.
    """
    count, steps = going.shape
    along = np.ascontiguousarray(values[:, :steps].T)
    along = np.where(np.isnan(along), np.inf, along)
    columns = np.arange(steps)
    places = [max(int(np.ceil(share * count)) - 1, 0) for share in shares]
    order = np.argpartition(along, places, axis=1)
    found, last = [], []
    for place in places:
        run = order[:, place]
        found.append(along[columns, run])
        last.append(np.flatnonzero(going[run, columns]).max(initial=0))
    ends = [max(last[1:], default=last[0])] * len(shares)
    ends[len(shares) // 2] = last[len(shares) // 2]
    return np.stack([np.where(columns > end, np.nan, one) for one, end in zip(found, ends, strict=True)])


def _survival(arrived: np.ndarray, budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps at which the fraction of runs that have not arrived falls, and the fraction from there on."""
    times, counts = np.unique(arrived[np.isfinite(arrived)], return_counts=True)
    left = 1 - np.cumsum(counts) / len(arrived)
    last = left[-1] if len(left) else 1.0
    return np.concatenate([[0], times, [budget]]), np.concatenate([[1], left, [last]])
