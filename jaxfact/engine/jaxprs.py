"""Surgery on jaxprs: functions whose closed-over arrays become arguments, and what does not depend on the inputs."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jaxtyping import Array


class Closures:
    """What traced functions close over, each once, in the order met."""

    def __init__(self):
        self.values: list[Any] = []

    def place(self, value: Any) -> int:
        """Return the place of a value, and remember a new one."""
        for index, seen in enumerate(self.values):
            if seen is value:
                return index
        self.values.append(value)
        return len(self.values) - 1


class Function:
    """A function, traced; what it closes over is an argument of its own: those numbered `uses` among the closures."""

    def __init__(self, function: Callable, arguments: tuple[Any, ...], closures: Closures):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self.uses: list[int] = [closures.place(value) for value in closed.consts]
        self._jaxpr = closed.jaxpr
        self._tree = jax.tree.structure(shape)

    def __call__(self, numbers: list[Array], *arguments: Any) -> Any:
        """Return what the function makes of the arguments, given the numbers it closes over."""
        closed = core.ClosedJaxpr(self._jaxpr, numbers)
        return jax.tree.unflatten(self._tree, core.jaxpr_as_fun(closed)(*jax.tree.leaves(arguments)))

    @property
    def uses_last_argument(self) -> bool:
        """Whether any result depends on the last argument, a single array."""
        tainted = dependents(self._jaxpr, self._jaxpr.invars[-1:])
        return any(isinstance(var, core.Var) and var in tainted for var in self._jaxpr.outvars)

    @property
    def largest(self) -> int:
        """The size of the largest array that it computes from its arguments."""
        computed = dependents(self._jaxpr, self._jaxpr.invars)
        return max(var.aval.size for var in computed)  # pyright: ignore[reportAttributeAccessIssue]


def dependents(jaxpr: core.Jaxpr, sources: Sequence[core.Var]) -> set[core.Var]:
    """Return the variables that depend on the sources."""
    tainted = set(sources)
    for equation in jaxpr.eqns:
        if any(isinstance(var, core.Var) and var in tainted for var in equation.invars):
            tainted.update(equation.outvars)
    return tainted


def split(traced: core.ClosedJaxpr) -> tuple[Callable[..., Any], Callable[..., Any], list[core.Var]]:
    """Split a program into what depends on its inputs and what does not.

    Returns a function of the closed-over arrays that evaluates the independent part, a function of its results and of
    the inputs that does the rest, and the variables that pass from one to the other.
    """
    jaxpr = traced.jaxpr
    tainted = dependents(jaxpr, jaxpr.invars)
    dependent, independent = [], []
    for equation in jaxpr.eqns:
        touched = any(isinstance(var, core.Var) and var in tainted for var in equation.invars)
        (dependent if touched else independent).append(equation)
    wanted = [v for e in dependent for v in e.invars] + list(jaxpr.outvars)
    kept = list(dict.fromkeys(v for v in wanted if isinstance(v, core.Var) and v not in tainted))
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    computed = [var for var in kept if var not in jaxpr.constvars]
    known = jaxpr.replace(
        constvars=[], invars=list(jaxpr.constvars), outvars=computed, eqns=independent, debug_info=names
    )

    def evaluate(consts: Sequence[Array]) -> list[Array]:
        # Arrays are passed on as they are, and to the computation as arguments: as constants they would be copied.
        found = dict(zip(jaxpr.constvars, consts, strict=True))
        found |= zip(computed, jax.jit(core.jaxpr_as_fun(core.ClosedJaxpr(known, [])))(*consts), strict=True)
        return [jnp.asarray(found[var]) for var in kept]

    unknown = jaxpr.replace(constvars=[], invars=[*kept, *jaxpr.invars], eqns=dependent, debug_info=names)
    return evaluate, core.jaxpr_as_fun(core.ClosedJaxpr(unknown, [])), kept
