"""What a run is judged by: a number made of a measure along it. `learn` lowers it, `worst_start` raises it."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxfact.inputs import positive, problem_with
from jaxfact.measures.base import Measure, label_of, labels_of
from jaxfact.measures.product import distance
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors


class Objective(eqx.Module):
    """What a run is judged by: a number made of a measure at steps along the run."""

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """What the number is, in a few words."""

    @abc.abstractmethod
    def measure(self, problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
        """Return what is measured along a run."""

    @abc.abstractmethod
    def of(self, path: Float[Array, " record"], steps: Int[Array, " record"]) -> Float[Array, ""]:
        """Return the number of one run: what was measured, and at which steps, the first of which is 0."""


class LogDistance(Objective):
    """The mean of ln(d_t/d_0) over the last `share` of the run, d the distance.

    It is bounded above, so that no run counts for more than those that stay where they began: x ↦ tanh x above 0, and
    a run that is not finite counts as 0 from there on. It must not be left out instead, as a step with which all but
    the luckiest starts diverge would then look best. Below ten machine epsilons distances count as equal.

    Raises ValueError for a share that is not in (0, 1].
    """

    share: float = eqx.field(static=True, default=0.25)

    def __check_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise problem_with("share", self.share, "needs a number above 0, up to 1", "0.25 is the last quarter")

    @property
    def text(self) -> str:
        """What is averaged."""
        return f"mean of ln(distance/start's) over the last {100 * self.share:g} % of the run"

    def measure(self, problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
        """Return the distance."""
        return distance(problem, factors)

    def of(self, path: Float[Array, " record"], steps: Int[Array, " record"]) -> Float[Array, ""]:
        """Return the mean."""
        late = steps >= (1 - self.share) * steps[-1]
        return jnp.sum(jnp.where(late, _fallen(path), 0)) / jnp.sum(late)


class Time(Objective):
    """A smooth stand-in for the number of steps until the distance is at most `level` for good.

    ∫ sigmoid((ln d_t − ln level)/softness) dt over the run, by the trapezoidal rule. The time itself is a whole number,
    whose derivative is 0: here a step counts for nearly one while the distance is above the level by more than a factor
    e^softness, and for nearly nothing below. Where the distance falls by a constant factor it is the time itself. It
    is bounded by the length of the run; one that is not finite counts as above the level from there on. A run that
    stays above the level throughout has nearly no derivative: take a window in which most arrive.

    Raises ValueError for a level or softness that is not above 0.
    """

    level: float = eqx.field(static=True, default=1e-5)
    softness: float = eqx.field(static=True, default=1.0)

    def __check_init__(self) -> None:
        positive("level", self.level, "1e-5 is the usual tolerance")
        positive("softness", self.softness, "1 spreads the count over a factor e of the distance")

    @property
    def text(self) -> str:
        """Which time."""
        return f"steps to distance {self.level:g} (smoothed)"

    def measure(self, problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
        """Return the distance."""
        return distance(problem, factors)

    def of(self, path: Float[Array, " record"], steps: Int[Array, " record"]) -> Float[Array, ""]:
        """Return the smooth time, in steps."""
        above = _fallen(path) + jnp.log(path[0]) - jnp.log(self.level)
        counted = jax.nn.sigmoid(above / self.softness)
        return jnp.sum((counted[1:] + counted[:-1]) / 2 * jnp.diff(steps))


class _OfMeasure(Objective):
    """What a measure does along the run."""

    measured: Measure = eqx.field(static=True)

    def measure(self, problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
        """Return the measure."""
        return self.measured(problem, factors)


class Peak(_OfMeasure):
    """The largest value of a measure along the run; not a number for a run that is not finite."""

    @property
    def text(self) -> str:
        """What the largest is of."""
        return f"largest {_name(self.measured)} along the run"

    def of(self, path: Float[Array, " record"], steps: Int[Array, " record"]) -> Float[Array, ""]:
        """Return the largest."""
        return jnp.max(path)


class Growth(_OfMeasure):
    """The largest value of a measure along the run, relative to the first: above 1 where a lemma says it only falls.

    Not a number for a run that is not finite. `Growth(lambda problem, factors: ye_du(problem, factors).B)` asks how far
    ‖B‖_F rises, which Ye & Du (2021, Theorem 3.1) bound through stage 1.
    """

    @property
    def text(self) -> str:
        """What grows."""
        return f"largest {_name(self.measured)} along the run, relative to the start's"

    def of(self, path: Float[Array, " record"], steps: Int[Array, " record"]) -> Float[Array, ""]:
        """Return the ratio."""
        return jnp.max(path) / path[0]


def _fallen(path: Float[Array, " record"]) -> Float[Array, " record"]:
    """Return ln(d_t/d_0), at most 1, and 0 from where a run is not finite."""
    good = _is_finite_so_far(path)
    floor = 10 * jnp.finfo(path.dtype).eps
    ratio = jnp.log(jnp.maximum(jnp.where(good, path, path[0]), floor)) - jnp.log(path[0])
    return jnp.where(ratio > 0, jnp.tanh(ratio), ratio)


def _is_finite_so_far(path: Float[Array, " record"]) -> Bool[Array, " record"]:
    return jnp.cumsum(~jnp.isfinite(path)) == 0


def _name(measured: Measure) -> str:
    labels = labels_of(measured)
    return label_of(measured).text if "" in labels else getattr(measured, "__name__", "value")
