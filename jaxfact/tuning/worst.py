"""The start of a given size from which a run is worst, found by ascending through the run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from jaxfact.engine.experiment import Run
from jaxfact.engine.jaxprs import executable
from jaxfact.inputs import explained, positive, positive_integer, problem_with
from jaxfact.measures.records import Records
from jaxfact.methods.base import Method, as_method
from jaxfact.numerics.draws import fold, key_of
from jaxfact.numerics.products import in_full_precision
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, said_of
from jaxfact.results.times import time_to
from jaxfact.showing.markup import Table, card
from jaxfact.showing.progress import Progress, shown_progress
from jaxfact.starts import Sphere
from jaxfact.sweep.sweeping import sweep
from jaxfact.tuning.iteration import followed, keys_of
from jaxfact.tuning.learning import ITERATIONS
from jaxfact.tuning.objectives import Objective, Time

_RISE, _LONGEST = 0.05, 0.1  # of the quantity, and at first of the radius, in one move
WORST, RANDOM = "worst", "random"


class Ascent(NamedTuple):
    """Where one restart stands: factors of norm √size, the optimiser's state, the best factors and their number."""

    factors: AnyFactors
    optimiser: PyTree
    best: AnyFactors
    most: Float[Array, ""]


@dataclass(frozen=True)
class WorstStart:
    """What `worst_start` found.

    Attributes:
        factors: the start, of the norm that was asked for.
        quantity: in words, what was raised.
        value: the quantity on the run from there.
        norm: ‖(U, V)‖_F, in √σ₁.
        history: the quantity along `iteration` and `restart`; NaN where the derivative was not finite, and the start
            therefore stayed where it was.
        runs: runs from there and from random starts of the same norm, along `variant` ("worst" and "random") and
            `seed`, as `sweep` returns them; with `record`, what it measures at their starts.
        tolerance: the distance to which these were timed.
    """

    factors: AnyFactors
    quantity: str
    value: float
    norm: float
    history: xr.DataArray
    runs: xr.Dataset
    tolerance: float

    @property
    def time(self) -> float:
        """The steps from the start to the tolerance, the median over seeds where the method draws random numbers."""
        return float(np.median(_hits(self.runs, WORST, self.tolerance)))

    @property
    def random_times(self) -> Float[np.ndarray, " seed"]:
        """The steps from random starts of the same norm to the tolerance; inf where the budget came first."""
        return _hits(self.runs, RANDOM, self.tolerance)

    @property
    def note(self) -> str:
        """How many derivatives were not finite and did not count."""
        dropped = int(self.history.isnull().sum())
        if not dropped:
            return f"All derivatives counted, of {self.history.sizes['restart']} restarts."
        return f"{dropped} of {self.history.size} derivatives were not finite, and moved no start."

    def __repr__(self) -> str:
        """Say on one screen what was found, beside random starts."""
        facts = [f"  {name}: {said}" for name, said in self._facts().items()]
        return "\n".join([f"WorstStart: {said_of(self.factors)}", *facts, f"  {self.note}"])

    def _repr_html_(self) -> str:
        """Say in a notebook what was found, beside random starts."""
        times = self.random_times
        rows = [["worst", f"{self.time:g}", ""], ["random", f"{np.median(times):g}", f"{np.max(times):g}"]]
        table = Table(["start", f"median steps to {self.tolerance:g}", "the most"], rows)
        facts = {name: said for name, said in self._facts().items() if not name.startswith("steps")}
        return card("WorstStart", {"start": said_of(self.factors), **facts}, table=table, note=self.note)

    def _facts(self) -> dict[str, str]:
        times = self.random_times
        first = float(self.history[0].max())
        among = f"median {np.median(times):g}, at most {np.max(times):g} among {len(times)}"
        return {
            "norm": f"{self.norm:g} √σ₁",
            self.quantity: f"{self.value:.6g}, where the best restart began at {first:.6g}",
            f"steps to {self.tolerance:g}": f"{self.time:g}",
            f"steps to {self.tolerance:g} from random starts": among,
        }


@explained
@in_full_precision
def worst_start(
    problem: Problem,
    method: Method | Callable,
    *,
    width: int,
    norm: float,
    num_steps: int,
    quantity: Objective | None = None,
    restarts: int = 8,
    iterations: int = 200,
    optimiser: optax.GradientTransformation | None = None,
    key: PRNGKeyArray | None = None,
    record: Records | None = None,
    random: int = 1000,
    tolerance: float = 1e-5,
    max_steps: int | None = None,
    check_every: int = 1,
    base_seed: int = 0,
    progress: Progress | bool = True,
) -> WorstStart:
    """Return the start of a given norm from which a quantity of the run is largest: a finder of counter-examples.

    max quantity(run from (U₀, V₀)) over ‖U₀‖²_F + ‖V₀‖²_F = norm², by ascent through the run: the derivative's part
    along the sphere goes to the optimiser, and what it returns is followed by a projection back onto the sphere.
    Several restarts climb together from random places; each keeps the best start that it met. Local maxima are what is
    found, so that a quantity which stays below a lemma's bound here is no proof of the lemma, and one above it
    is a counter-example.

    A time is a whole number, which no derivative moves, so `Time` raises a smooth stand-in and the true time
    (`WorstStart.time`) is counted afterwards, beside that of random starts. It sees no time beyond `num_steps`: take
    some three times what random starts need.

    Args:
        problem: The problem.
        method: The method of the run, with its step size.
        width: The width of the factors.
        norm: ‖(U₀, V₀)‖_F, in √σ₁.
        num_steps: The number of steps that are followed.
        quantity: What is raised: `Time(tolerance)` by default, `Peak(measure)` or `Growth(measure)`.
        restarts: How many starts climb.
        iterations: How often they move.
        optimiser: An optax optimiser of factors scaled to entries of about 1; by default steps g·δ/‖g‖², which raise
            the quantity by δ, a twentieth of it, to first order, no longer than a tenth of the radius, falling to
            0 by a cosine. Where it grows like −ln a near a = 0 such steps approach that by a constant factor.
        key: From which the restarts, and the noise of the method, are drawn.
        record: Measures of the starts, found in `runs` under their names with `_path`.
        random: How many random starts are run beside it.
        tolerance: The distance at which runs have arrived, as in `sweep`.
        max_steps: Their budget; by default ten times `num_steps`.
        check_every: The resolution of their times.
        base_seed: The seed of the random starts.
        progress: Whether it is shown how far it has got, or a function of the iterations done and of all of them.

    Raises:
        ValueError: For counts below 1, a norm that is not above 0, a quantity that is no objective, a run that is not
            finite from any restart, and what `sweep` refuses.
    """
    positive("norm", norm, "the Frobenius norm of both factors together, in √σ₁")
    counts = {"num_steps": num_steps, "restarts": restarts, "iterations": iterations, "random": random}
    counts = {name: positive_integer(name, count, "give a count") for name, count in counts.items()}
    quantity = quantity or Time(tolerance)
    if not isinstance(quantity, Objective):
        instead = "give jaxfact.tuning.Time(1e-5), Peak(measure) or Growth(measure)"
        raise problem_with("quantity", type(quantity).__name__, "needs an Objective", instead)
    optimiser = optax.with_extra_args_support(optimiser or _raising(counts["iterations"]))
    key, start = key_of(0) if key is None else key, Sphere(width, norm)
    judge = partial(_judged, as_method(method), quantity, counts["num_steps"], norm, fold(key, 1))
    keys = keys_of(fold(key, 0), counts["restarts"])
    drawn = executable(partial(_drawn, start), problem, keys, quick=True)(problem, keys)
    factors, value, history = _climbed(judge, optimiser, problem, drawn, counts["iterations"], progress)
    found = jax.tree.map(lambda x: x * _scale(factors, norm), factors)
    runs = sweep(
        {WORST: lambda: Run(problem, found, method), RANDOM: lambda: Run(problem, start, method)},
        seeds=counts["random"],
        max_steps=-(-(max_steps or 10 * counts["num_steps"]) // check_every) * check_every,
        tolerance=tolerance,
        check_every=check_every,
        base_seed=base_seed,
        progress=progress if isinstance(progress, bool) else False,
        **({} if record is None else {"record": record, "every": [0]}),
    )
    return WorstStart(found, quantity.text, value, norm, history, runs, tolerance)


def ascend(judge: Callable, optimiser: Method, problem: Problem, state: Ascent) -> tuple[Ascent, Float[Array, ""]]:
    """Return a restart after one move along the sphere, and its number before, NaN where it did not move."""
    (value, diverged), gradient = jax.value_and_grad(judge, has_aux=True)(state.factors, problem)
    counts = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
    size = optax.tree.size(state.factors)
    radial = optax.tree.vdot(gradient, state.factors) / size
    along = jax.tree.map(lambda g, x: jnp.where(counts, radial * x - g, 0), gradient, state.factors)
    updates, changed = optimiser.update(along, state.optimiser, state.factors, value=-value)
    moved = _unit(optax.apply_updates(state.factors, updates))
    factors, changed = _chosen(counts, (moved, changed), (state.factors, state.optimiser))
    best, most = _chosen(counts & (value > state.most), (state.factors, value), (state.best, state.most))
    return Ascent(factors, changed, best, most), jnp.where(counts, value, jnp.nan)


def _judged(
    method: Method,
    quantity: Objective,
    num_steps: int,
    norm: ScalarLike,
    key: PRNGKeyArray,
    factors: AnyFactors,
    problem: Problem,
) -> tuple[Array, Bool[Array, ""]]:
    """Return the quantity of the run from factors of another norm, scaled to the one that is asked for."""
    scale = _scale(factors, norm)
    return followed(problem, method, jax.tree.map(lambda x: scale * x, factors), quantity, num_steps, key)


def _drawn(start: Sphere, problem: Problem, keys: PRNGKeyArray) -> AnyFactors:
    return jax.vmap(lambda key: _unit(start.draw(key, problem)))(keys)


def _climbed(
    judge: Callable,
    optimiser: Method,
    problem: Problem,
    drawn: AnyFactors,
    iterations: int,
    progress: Progress | bool,
) -> tuple[AnyFactors, float, xr.DataArray]:
    """Return the best start of all restarts, its number, and the numbers along the way."""
    climb = jax.vmap(lambda problem, state: ascend(judge, optimiser, problem, state), in_axes=(None, 0))
    dtype = jax.tree.leaves(drawn)[0].dtype
    first = jax.vmap(lambda x: Ascent(x, optimiser.init(x), x, jnp.asarray(-jnp.inf, dtype)))
    state, seen = first(drawn), []
    with shown_progress(progress, ITERATIONS) as tell:
        step = executable(climb, problem, state)
        for index in range(iterations):
            state, values = step(problem, state)
            seen.append(np.asarray(values))
            tell(index + 1, iterations)
    best = int(jnp.argmax(state.most))
    if not np.isfinite(state.most[best]):
        needed = "the run is not finite, or has no finite derivative, from any restart"
        raise problem_with("method", "a run", needed, "lower the step size, or num_steps")
    history = xr.DataArray(np.stack(seen), {"iteration": np.arange(iterations)}, ("iteration", "restart"), "quantity")
    return jax.tree.map(lambda x: x[best], state.best), float(state.most[best]), history


def _raising(iterations: int) -> Method:
    """Return descent of −quantity whose step lowers it by a share of its size, to first order, up to a falling length.

    At a smooth maximum the gradient vanishes and such steps would not: only the longest, which falls to 0, settles.
    """
    longest = optax.cosine_decay_schedule(_LONGEST, iterations)

    def init(factors: AnyFactors) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(gradient: AnyFactors, state: optax.ScaleByScheduleState, factors: AnyFactors, *, value: Array, **_):
        norm = optax.tree.norm(gradient)
        length = jnp.minimum(_RISE * jnp.abs(value), longest(state.count) * optax.tree.size(factors) ** 0.5 * norm)
        share = length / jnp.where(norm > 0, norm, 1) ** 2
        moved = jax.tree.map(lambda g: (-share * g).astype(g.dtype), gradient)
        return moved, optax.ScaleByScheduleState(state.count + 1)

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def _unit(factors: AnyFactors) -> AnyFactors:
    """Return factors scaled to entries of root mean square 1, in which rates mean the same for every norm and size."""
    scale = optax.tree.size(factors) ** 0.5 / optax.tree.norm(factors)
    return jax.tree.map(lambda x: x * scale, factors)


def _scale(factors: AnyFactors, norm: ScalarLike) -> Float[Array, ""]:
    return jnp.asarray(norm) / optax.tree.norm(factors)


def _chosen(condition: Bool[Array, ""], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _hits(runs: xr.Dataset, variant: str, tolerance: float) -> Float[np.ndarray, " seed"]:
    hit = time_to(runs, tolerance).hit.sel(variant=variant).values
    return np.where(np.isnan(hit), np.inf, hit)
