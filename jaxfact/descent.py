"""One run: a fixed number of steps, recorded where asked, differentiable in both modes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Int, PRNGKeyArray

from jaxfact.data.numbers import as_array
from jaxfact.inputs import explained, positive_integer, problem_with, recorded_steps
from jaxfact.measures.records import Records, as_measure
from jaxfact.methods.base import as_method, naming_the_optimiser, updated
from jaxfact.numerics.draws import fold, key_of
from jaxfact.numerics.products import in_full_precision, is_long, keep
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor, as_arrays, as_factors, said_of


class Trajectory(NamedTuple):
    """What a run leaves: its last factors and method state, and the records at `steps`, along their first axis."""

    factors: AnyFactors
    state: PyTree
    steps: Int[Array, " record"]
    records: dict[str, PyTree]

    def __repr__(self) -> str:
        """Say what there is, and how records begin and end: all its numbers would fill a screen."""
        return in_lines("Trajectory", self.factors, {"state": self.state, "steps": self.steps, **self.records})


_SHOWN = 6  # lines about records


def in_lines(title: str, factors: AnyFactors, records: Mapping[str, PyTree]) -> str:
    """Return what there is of a run, in less than ten lines: the shapes, and where records of numbers begin and end."""
    lines = [f"{name}: {_path(record)}" for name, record in records.items()]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([title, f"factors: {said_of(factors)}", *lines[:_SHOWN], *more])


def _path(record: PyTree) -> str:
    """Return the shapes of a record along its steps and, where it is one number at each, its first and last."""
    leaves = jax.tree.leaves(record)
    shapes = ", ".join(str(jnp.shape(leaf)) for leaf in leaves[:_SHOWN]) or "nothing"
    if len(leaves) != 1 or jnp.ndim(leaves[0]) != 1 or not len(leaves[0]) or isinstance(leaves[0], Tracer):
        return shapes
    return f"{shapes} from {leaves[0][0]:.6g} to {leaves[0][-1]:.6g}"


@explained
@in_full_precision
def descend(
    problem: Problem,
    method: optax.GradientTransformation | Callable,
    factors: AnyFactors,
    *,
    num_steps: int,
    every: int | Sequence[int] | None = None,
    record: Records | None = None,
    key: PRNGKeyArray | None = None,
    compensated: bool = False,
) -> Trajectory:
    """Run `num_steps` steps of a method; works under jit, vmap and grad.

    U_{t+1}, V_{t+1} = (U_t, V_t) + method.update(∇f(U_t, V_t)). `every` is a stride or the list of steps to record (see
    `log_steps`). `record` is a measure or its name, a list of them, or a mapping from names to them; by default loss,
    distance and imbalance. Without `every` what is in `record` is recorded at the last step, and nothing where that is
    left out too. A method that needs random numbers gets fold_in(key, t) at step t. `method` may be a function of
    (gradient, factors) that returns what is added to the factors, and `factors` a plain pair.

    `compensated` carries the rounding error of every update into the next, so that float32 runs get below their
    rounding floor; with noise it is meaningless.

    Reverse mode keeps the factors and the method's state at the records and about every √num_steps steps, and
    recomputes the rest: its memory grows as √num_steps and with the number of records, that of forward mode does not.

    Raises ValueError for a step count below 1, recorded steps outside [0, num_steps], and what is no problem, method,
    factors of the problem's shape, or key.
    """
    num_steps = positive_integer("num_steps", num_steps, "give the number of steps to run")
    method, factors = as_method(method), factors_of(problem, factors)
    measure = as_measure(record)
    every = [num_steps] if every is None and record is not None else every
    steps = recorded_steps(every, num_steps)
    key = key_of(0) if key is None else key
    advance = stepper(problem, method, key, compensated)
    start = (factors, initial_state(method, factors, compensated))

    # A step is recomputed where it is differentiated: to store and read what it is made of takes longer.
    @partial(jax.checkpoint, prevent_cse=False)
    def step(carry, _):
        t, *now = carry
        return (t + 1, *advance(*now, t)), None

    @partial(jax.checkpoint, static_argnums=1)
    def block(carry, length):
        return jax.lax.scan(step, carry, length=length)[0]

    def segment(carry, length):
        size = _block(length, num_steps)
        for count, each in ((length // size, size), (1, length % size)):
            if each:
                carry = jax.lax.scan(lambda x, _, each=each: (block(x, each), None), carry, length=count)[0]
        return carry

    carry: Any = (jnp.zeros((), jnp.int32), *start)
    pieces = [jax.tree.map(lambda x: x[None], measure(problem, factors))] if 0 in steps else []
    marks = [0, *(step for step in steps if step > 0)]
    for gap, group in groupby(np.diff(marks).tolist()):

        def recorded(carry, _, gap=gap):
            carry = segment(carry, gap)
            return carry, measure(problem, carry[1])

        carry, seen = jax.lax.scan(recorded, carry, length=len(list(group)))
        pieces.append(seen)
    if marks[-1] < num_steps:
        carry = segment(carry, num_steps - marks[-1])
    records = jax.tree.map(lambda *xs: jnp.concatenate(xs), *pieces) if every is not None else {}
    return Trajectory(carry[1], carry[2], jnp.asarray(steps, jnp.int32), records)


def log_steps(num_steps: int, per_octave: int = 8, unit: int = 1) -> list[int]:
    """Return 0, unit, 2·unit, … up to num_steps, with `per_octave` evenly spaced steps between powers of two.

    All are multiples of `unit`. Even spacing within an octave keeps the compiled program small.
    """
    for name, value in (("num_steps", num_steps), ("per_octave", per_octave), ("unit", unit)):
        positive_integer(name, value, "give a count")
    last, gap, at, steps = num_steps // unit, 1, 0, [0]
    while at < last:
        at += gap
        if at <= last:
            steps.append(at * unit)
        if at >= 2 * gap * per_octave:
            gap *= 2
    return steps


class Compensated(NamedTuple):
    """A method's state and the low parts of the factors: what rounding has left out of them so far."""

    state: PyTree
    low: AnyFactors


def initial_state(method: optax.GradientTransformation, factors: AnyFactors, compensated: bool = False) -> PyTree:
    """Return the state with which a run begins."""
    with naming_the_optimiser():
        state = optax.with_extra_args_support(method).init(factors)
    return Compensated(state, jax.tree.map(jnp.zeros_like, factors)) if compensated else state


def stepper(
    problem: Problem, method: optax.GradientTransformation, key: PRNGKeyArray, compensated: bool = False
) -> Callable:
    """Return (factors, state, t) ↦ (factors, state) after step t; the noise of step t is fold_in(key, t).

    A compensated step adds update and low part by a two-sum (Knuth 1969), whose rounding error is the next low part.
    """

    def advance(factors, state, t):
        low = None
        if compensated:
            state, low = state
        gradient = problem.gradient(factors)
        if jax.tree.leaves(state) and not is_long(len(jax.tree.leaves(factors)[0])):
            # It goes into the state and into the update, and would be computed for both.
            gradient = keep(gradient)
        updates, changed = updated(problem, method, gradient, state, factors, fold(key, t))
        # A hyperparameter of a wider dtype must not widen what the loop carries.
        changed = jax.tree.map(
            lambda new, old: new if new.dtype == old.dtype else new.astype(old.dtype), changed, state
        )
        if low is None:
            return problem.reframed((optax.apply_updates(factors, updates), changed))
        added = jax.tree.map(lambda u, x: (u + x).astype(x.dtype), updates, low)
        moved = jax.tree.map(jnp.add, factors, added)
        return moved, Compensated(changed, jax.tree.map(_left_out, factors, added, moved))

    return advance


def check_factors(factors: AnyFactors, problem: Problem) -> None:
    """Refuse factors that are not of the problem's shape."""
    key = key_of(0)
    wanted = jax.eval_shape(lambda: problem.standard_normal(key, factors.width))
    if [x.shape for x in jax.tree.leaves(factors)] == [x.shape for x in jax.tree.leaves(wanted)]:
        return
    sizes = [", ".join(f"{k} {x.shape}" for k, x in tree._asdict().items()) for tree in (factors, wanted)]
    is_swapped = isinstance(factors, Factors) and sizes[1] == f"U {factors.V.shape}, V {factors.U.shape}"
    instead = "U and V are swapped" if is_swapped else "match the problem's shape"
    raise problem_with("factors", sizes[0], f"needs {sizes[1]}", instead)


def factors_of(problem: Problem, given: AnyFactors) -> AnyFactors:
    """Return factors as floating arrays of the problem's shape, or refuse them."""
    if not isinstance(problem, Problem):
        raise problem_with("problem", type(problem).__name__, "needs a Problem", "give a jaxfact.Factorization")
    factors = as_factors(given)
    if not isinstance(factors, Factors | TiedFactor):
        if isinstance(factors, tuple | list) or hasattr(factors, "draw") or hasattr(factors, "shape"):
            instead = "give jaxfact.Factors(U, V), or start.draw(key, problem)"
            raise problem_with("factors", type(factors).__name__, "needs the factors of the problem", instead)
        return as_arrays(factors, None)  # the pytree of a problem of one's own
    factors = type(factors)(*(_floating(x, name, problem) for name, x in factors._asdict().items()))
    check_factors(factors, problem)
    return factors


def _floating(given: Any, name: str, problem: Problem) -> Array:
    """Return a factor as it is if it is a floating array, and else in the dtype of the problem."""
    numbers = given if isinstance(given, jax.Array) else as_array(given, name)
    floating = isinstance(given, jax.Array | np.ndarray) and jnp.issubdtype(given.dtype, jnp.floating)
    return jnp.asarray(numbers, None if floating else problem.dtype)


def _left_out(a: Array, b: Array, total: Array) -> Array:
    """Return a + b − total, exactly, for the rounded sum of a and b."""
    kept = total - a
    return (a - (total - kept)) + (b - kept)


def _block(length: int, num_steps: int) -> int:
    """Return how many steps lie between two that reverse mode keeps: about √num_steps, a divisor where one is near."""
    root = max(1, round(num_steps**0.5))
    if length < 2 * root:
        return length
    divisors = [size for size in range((root + 1) // 2, 2 * root + 1) if length % size == 0]
    return min(divisors, key=lambda size: abs(np.log(size / root)), default=root)
