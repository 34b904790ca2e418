"""What `learn` returns: what was learned, how, and what it is worth on fresh starts."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.numerics.trees import PyTree
from jaxfact.results.wording import counted
from jaxfact.showing.markup import Table, card
from jaxfact.tuning.judging import Arrival, arrivals
from jaxfact.tuning.parametrisations import numbers_of

LEARNED, BEFORE = "learned", "before"
_SHOWN = 12  # numbers of a schedule


@dataclass(frozen=True)
class Learned:
    """What `learn` found.

    Attributes:
        value: what was learned: an optax schedule, which any optax optimiser takes, or a number.
        parameters: the free numbers θ that it stands for.
        objective: in words, what was lowered.
        history: the curve of training along `iteration`: `objective`, the mean over all starts, `gradient`, the median
            norm of single runs' gradients, `diverged` and `dropped`, the numbers of starts whose run diverged and
            whose gradient did not count, and `rate`, by which updates were multiplied.
        starts: how many starts an iteration had.
        runs: the held-out runs, as `sweep` returns them: along `variant` ("learned", "before" and the baselines) and
            `seed`, from the same fresh starts.
        tolerance: the distance to which these were timed.
        edge: η_t·sharpness/2 along `start` and `step`, on fresh starts, over one window; None where a
            number was learned. Above 1 a step is beyond 2/sharpness.
    """

    value: Any
    parameters: PyTree
    objective: str
    history: xr.Dataset
    starts: int
    runs: xr.Dataset
    tolerance: float
    edge: xr.DataArray | None

    @property
    def arrivals(self) -> dict[str, Arrival]:
        """When the held-out runs of each variant arrived, and how many."""
        return arrivals(self.runs, self.tolerance)

    @property
    def beyond(self) -> float:
        """The share of a run's steps that lie beyond 2/sharpness, in the median of starts; NaN for a learned number."""
        return math.nan if self.edge is None else float((self.edge > 1).mean("step").median())

    @property
    def note(self) -> str:
        """How many starts diverged, and how many gradients did not count, while it was learned."""
        count, number = self.history.sizes["iteration"], self.starts
        diverged, dropped = (self.history[name].values for name in ("diverged", "dropped"))
        if not diverged.any() and not dropped.any():
            return f"No start diverged, and all gradients counted, in {counted(count, 'iteration')} of {number} starts."
        worst = int(np.argmax(dropped))
        said = f"In {int((dropped > 0).sum())} of {counted(count, 'iteration')} gradients were dropped"
        most = f"at most {int(dropped[worst])} of {number} (iteration {worst})"
        return f"{said}, {most}; in {int((diverged > 0).sum())} starts diverged, at most {int(diverged.max())}."

    def __repr__(self) -> str:
        """Say on one screen what was learned, what it is worth, and whether it stays within the edge."""
        rows = [f"  {name}: {said}" for name, said in zip(self.arrivals, self._said(), strict=True)]
        return "\n".join([f"Learned: {self._value()}", *self._sentences(), f"to distance {self.tolerance:g}:", *rows])

    def _repr_html_(self) -> str:
        """Say in a notebook what was learned, with a row for each variant."""
        rows = [
            [name, _time(one), f"{_number(one.median[1])} to {_number(one.median[2])}", _share(one)]
            for name, one in self.arrivals.items()
        ]
        columns = ["variant", f"median steps to {self.tolerance:g}", "95 % interval", "arrived, %"]
        return card("Learned", {"value": self._value()}, said=" ".join(self._sentences()), table=Table(columns, rows))

    def _value(self) -> str:
        numbers = np.asarray(numbers_of(self.value))
        shown = ", ".join(f"{x:.4g}" for x in numbers[:_SHOWN]) + ", …" * (len(numbers) > _SHOWN)
        return shown if not callable(self.value) else f"{type(self.value).__name__}({shown})"

    def _sentences(self) -> list[str]:
        curve = self.history.objective.where((self.history.dropped == 0) & (self.history.diverged == 0))
        first, best = float(self.history.objective[0]), float(curve.min())
        said = [f"{self.objective}: from {first:.4g} to {best:.4g}.", self.note]
        if self.edge is not None:
            largest = float(self.edge.max("step").median())
            share = f"{100 * self.beyond:.3g} %"
            said.append(f"{share} of its steps lie beyond 2/sharpness; the largest η·sharpness/2 is {largest:.3g}.")
        return said

    def _said(self) -> list[str]:
        return [
            f"median {_time(one)} [{_number(one.median[1])}, {_number(one.median[2])}], {_share(one)} % arrived"
            for one in self.arrivals.values()
        ]


def _time(one: Arrival) -> str:
    return _number(one.median[0])


def _number(steps: float) -> str:
    return "never" if math.isinf(steps) else f"{steps:g}"


def _share(one: Arrival) -> str:
    middle, low, high = (100 * x for x in one.arrived)
    return f"{middle:.4g} ({low:.3g}–{high:.4g})"
