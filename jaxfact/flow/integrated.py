"""Gradient flow of any problem, integrated by diffrax; also Wind's flow, whose residual is perturbed on the way."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, ScalarLike

from jaxfact.descent import factors_of
from jaxfact.flow.times import checked_times
from jaxfact.inputs import explained, non_negative, positive, positive_integer, problem_with, shown
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor, as_pair
from jaxfact.problems.partial import PartiallyObserved

if TYPE_CHECKING:
    from diffrax import AbstractSolver

_SHORTEST = 1e-30  # a step that has shrunk to this never succeeds: the velocity is not finite


@explained
def gradient_flow(
    problem: Problem,
    factors: AnyFactors,
    times: ArrayLike,
    *,
    perturbation: Callable[[Float[Array, ""], AnyFactors], Array] | None = None,
    rtol: ScalarLike = 1e-10,
    atol: ScalarLike | None = None,
    max_steps: int = 100_000,
    solver: "AbstractSolver | None" = None,
) -> AnyFactors:
    """Return the factors of U′ = −∇_U f, V′ = −∇_V f at `times`, which the factors' axes begin with.

    `problem` is any problem of this library or one of your own, `factors` are those at time 0. `times` are in 1/σ₁, one
    number or an increasing array: descent with step size η is at time t after t/η steps. All is in float64.

    `perturbation` makes it Wind's perturbed flow (2023): a function of time and factors that returns an m×n matrix E,
    in the problem's unit, which is added to the residual, U′ = −∇_U f + E·V, V′ = −∇_V f + Eᵀ·U. In one factor X it is
    (E + Eᵀ)/2·X. Functions that are given again are not traced again. See `sensing_perturbation`.

    An explicit Runge-Kutta method of order 8 (Dormand & Prince, diffrax's Dopri8) ends steps on each of the times, and
    keeps its error per step and entry below `rtol`·|x| + `atol`, in √σ₁. `atol` is by default `rtol` times the root
    mean square of the start, so that a tiny start leaves the saddle at the right time. `solver` is another solver of
    diffrax, such as `diffrax.Kvaerno5()` for a condition number above some 10⁵; below it, implicit steps cost more.

    Works under jit, vmap and reverse-mode grad. Many starts are one program, `jax.jit(jax.vmap(lambda start:
    gradient_flow(problem, start, times)))(starts)`; its lanes take steps of their own, as many as the longest needs.

    Raises ValueError for what is no problem or no factors of its shape, numbers that are not float64, times that are
    not increasing, a perturbation of another shape, without diffrax (`pip install 'jaxfact[flow]'`), and where the
    solver gives up: after `max_steps` steps, or because the velocity is not finite. Inside jit and vmap nothing can be
    raised then, and the factors at times that were not reached are NaN.
    """
    diffrax = _diffrax()
    factors = factors_of(problem, factors)
    times = _increasing(times)
    positive("rtol", rtol, "1e-10 is the default")
    if atol is None:
        atol = rtol * _root_mean_square(factors)
    else:
        non_negative("atol", atol, "leave it out, or give a small number in √σ₁")
    max_steps = positive_integer("max_steps", max_steps, "give the number of steps after which to give up")
    told = (problem, perturbation)
    _check_velocity(factors, told)
    ends = jnp.atleast_1d(times)
    # As arrays the tolerances are arguments of what diffrax compiles; as numbers they would be compiled in.
    controller = diffrax.PIDController(
        rtol=jnp.asarray(rtol, float), atol=jnp.asarray(atol, float), dtmin=_SHORTEST, force_dtmin=False
    )
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(_velocity),
        diffrax.Dopri8() if solver is None else solver,
        0.0,
        ends[-1],
        None,
        factors,
        told,
        saveat=diffrax.SaveAt(ts=ends),
        stepsize_controller=diffrax.ClipStepSizeController(controller, step_ts=ends),
        max_steps=max_steps,
        throw=False,
    )
    _check_finished(found, ends, max_steps, told)
    return _reached(found, times)


def sensing_perturbation(problem: PartiallyObserved) -> Callable[[Float[Array, ""], AnyFactors], Float[Array, "m n"]]:
    """Return the perturbation with which the flow of `problem.truth`, fully observed, is the flow of `problem`.

    E = (UVᵀ − Σ) − 𝒜*(𝒜(UVᵀ) − y), which is (I − 𝒜*𝒜)(UVᵀ − Σ) plus 𝒜* of the noise in y, in σ₁ (Wind 2023). `problem`
    is a `Sensing` or a `Completion`. The function may be called along a flow to see how large E is; of the factors of
    a `Tied` problem it takes the product X Xᵀ.

    Raises ValueError for a problem that is fully observed, or whose truth is not known.
    """
    if not isinstance(problem, PartiallyObserved):
        instead = "give a jaxfact.Sensing or a jaxfact.Completion, and Tied only to gradient_flow"
        raise problem_with("problem", type(problem).__name__, "needs a problem seen in part", instead)
    truth_of(problem)
    # A pytree: its arrays travel as arguments, and what was compiled for one problem serves the next.
    return jax.tree_util.Partial(_unseen, problem)


def _unseen(problem: PartiallyObserved, time: Float[Array, ""], factors: AnyFactors) -> Float[Array, "m n"]:
    pair = as_pair(factors)
    return pair.product - truth_of(problem).target - problem.residual_matrix(pair)


def _velocity(time: Float[Array, ""], factors: AnyFactors, told: tuple[Problem, Callable | None]) -> AnyFactors:
    """Return what gradient flow adds to the factors per unit of time; a module's own function, compiled only once."""
    problem, perturbation = told
    descent = jax.tree.map(jnp.negative, problem.gradient(factors))
    if perturbation is None:
        return descent
    E, (U, V) = perturbation(time, factors), as_pair(factors)
    pushed = E @ V, E.T @ U
    pushed = TiedFactor((pushed[0] + pushed[1]) / 2) if isinstance(factors, TiedFactor) else Factors(*pushed)
    return jax.tree.map(jnp.add, descent, pushed)


def _diffrax() -> Any:
    try:
        return importlib.import_module("diffrax")
    except ImportError:
        instead = "pip install 'jaxfact[flow]' installs it; balanced_flow needs nothing"
        raise problem_with("gradient_flow", "no closed form", "needs the package diffrax", instead) from None


def _increasing(times: ArrayLike) -> Float[Array, "*time"]:
    """Return a number or an increasing array of times; refuse anything else, unless it is traced."""
    found = checked_times(times)
    if found.ndim > 1 or (not isinstance(found, Tracer) and np.any(np.diff(np.atleast_1d(found)) < 0)):
        raise problem_with("times", shown(times), "needs a number, or numbers in increasing order", "sort them")
    return found.astype(float)


def _root_mean_square(factors: AnyFactors) -> Array:
    numbers = jax.tree.leaves(factors)
    return jnp.sqrt(sum(jnp.sum(x**2) for x in numbers) / sum(x.size for x in numbers))


def _check_velocity(factors: AnyFactors, told: tuple[Problem, Callable | None]) -> None:
    """Refuse numbers that are not float64, and a perturbation of another shape than the matrix."""
    problem, perturbation = told
    if perturbation is not None:
        if not isinstance(factors, Factors | TiedFactor):
            given = type(factors).__name__
            raise problem_with("factors", given, "a perturbation acts on Factors or a TiedFactor", "leave it out")
        U, V = as_pair(factors)
        wanted = len(U), len(V)
        E = jax.eval_shape(perturbation, jnp.zeros(()), factors)
        if getattr(E, "shape", None) != wanted:
            given = f"a function that returns {shown(getattr(E, 'shape', E))}"
            raise problem_with("perturbation", given, f"needs one that returns {wanted}", "return E of U′ = … + E·V")
    velocity = eqx.filter_eval_shape(_velocity, jnp.zeros(()), factors, told)
    dtypes = {x.dtype for x in jax.tree.leaves((factors, velocity))}
    if dtypes != {jnp.dtype("float64")}:
        given = ", ".join(sorted(map(str, dtypes)))
        instead = "build it from float64 after jax.config.update('jax_enable_x64', True)"
        raise problem_with("problem", f"numbers of {given}", "a flow needs float64", instead)


def _check_finished(
    found: Any, times: Float[Array, " time"], max_steps: int, told: tuple[Problem, Callable | None]
) -> None:
    """Say where and why the solver gave up; inside a trace nobody knows yet."""
    if isinstance(found.ts, Tracer) or bool(jnp.all(jnp.isfinite(found.ts))):
        return
    reached = int(jnp.sum(jnp.isfinite(found.ts)))
    where = f"between times {float(times[reached - 1]) if reached else 0:g} and {float(times[reached]):g}"
    if int(found.stats["num_steps"]) < max_steps:
        problem, perturbation = told
        culprit = ("problem", problem) if perturbation is None else ("perturbation", perturbation)
        given, instead = shown(culprit[1]), "see what it returns there"
        raise problem_with(culprit[0], given, f"the velocity is not finite {where}", instead)
    instead = "raise it, ask for earlier times or a larger rtol, or give solver=diffrax.Kvaerno5()"
    raise problem_with("max_steps", max_steps, f"the solver gave up {where}", instead)


def _reached(found: Any, times: Float[Array, "*time"]) -> AnyFactors:
    """Return the factors at the times, NaN where they were not reached."""

    def kept(x: Array) -> Array:
        known = jnp.isfinite(found.ts).reshape(-1, *[1] * (x.ndim - 1))
        return jnp.where(known, x, jnp.nan).reshape(*times.shape, *x.shape[1:])

    return jax.tree.map(kept, found.ys)
