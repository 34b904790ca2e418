"""Surgery on jaxprs: functions whose closed-over arrays become arguments, and what does not depend on the inputs.

And programs that are told apart by what they do: `jax.jit` compiles anew for every new function.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jaxlib.version import __version_info__ as JAXLIB
from jaxtyping import Array

from jaxfact.engine.compiling import compiled
from jaxfact.engine.devices import working_devices
from jaxfact.engine.factoring import factored

_SMALL_PROGRAMS = 64  # that are kept
# What is computed once is not optimised, and goes through XLA's older emitters, five times faster than its newer ones,
# where jaxlib has them still: from 0.11.1 on it refuses the option.
_QUICK: dict[str, Any] = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    **({"xla_cpu_use_fusion_emitters": False} if JAXLIB < (0, 11, 1) else {}),
}


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
        living, consts = _without_dead(closed)
        self._jaxpr = factored(living)
        self.uses: list[int] = [closures.place(value) for value in consts]
        self._tree = jax.tree.structure(shape)

    def __call__(self, numbers: list[Array], *arguments: Any) -> Any:
        """Return what the function makes of the arguments, given the numbers it closes over."""
        evaluate = core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, []))
        return jax.tree.unflatten(self._tree, evaluate(*numbers, *jax.tree.leaves(arguments)))

    @property
    def uses_last_argument(self) -> bool:
        """Whether any result depends on the last argument, a single array."""
        tainted = dependents(self._jaxpr, self._jaxpr.invars[-1:])
        return any(isinstance(var, core.Var) and var in tainted for var in self._jaxpr.outvars)

    @property
    def largest(self) -> int:
        """The size of the largest array that it computes from its arguments."""
        computed = dependents(self._jaxpr, self._jaxpr.invars[len(self.uses) :])
        return max(var.aval.size for var in computed)  # pyright: ignore[reportAttributeAccessIssue]


def _without_dead(closed: core.ClosedJaxpr) -> tuple[core.Jaxpr, list[Array]]:
    """Return a jaxpr, and what it closes over as its first arguments, without what no result depends on.

    As the noise key of a quiet method: all of it would be batched, lowered and compiled, only to be dropped by XLA.
    """
    jaxpr = closed.jaxpr
    wanted, living = {var for var in jaxpr.outvars if isinstance(var, core.Var)}, []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not wanted.isdisjoint(equation.outvars):
            living.append(equation)
            wanted.update(var for var in equation.invars if isinstance(var, core.Var))
    closed_over = {var: value for var, value in zip(jaxpr.constvars, closed.consts, strict=True) if var in wanted}
    names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
    invars = [*closed_over, *jaxpr.invars]
    return jaxpr.replace(constvars=[], invars=invars, eqns=living[::-1], debug_info=names), list(closed_over.values())


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
        found |= zip(computed, _evaluated(core.jaxpr_as_fun(core.ClosedJaxpr(known, [])), *consts), strict=True)
        return jax.device_put([_of_its_own(found[var]) for var in kept])

    unknown = jaxpr.replace(constvars=[], invars=[*kept, *jaxpr.invars], eqns=dependent, debug_info=names)
    return evaluate, core.jaxpr_as_fun(core.ClosedJaxpr(unknown, [])), kept


def _of_its_own(array: Any) -> Any:
    """Return an array whose memory nobody else writes: JAX may work in that of an array of NumPy, which a user may."""
    return array if isinstance(array, jax.Array) else np.array(array)


class Lowered:
    """A program before compilation, equal to every other that does the same to arguments of the same names and types.

    What a program does not use is missing in its text, and still checked when it is called.
    """

    def __init__(self, lowered: jax.stages.Lowered):
        self.lowered: jax.stages.Lowered = lowered
        self.digest: str = _digest(lowered.as_text())
        self.arguments: tuple[Any, str] = lowered.in_tree, str(lowered.in_avals)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lowered) and (self.digest, self.arguments) == (other.digest, other.arguments)


_NAME = re.compile(r"@(?:[\w.$-]+|\"[^\"]*\")")
_FUNCTION = re.compile(rf"^  func\.func (?:public |private )?({_NAME.pattern})", re.MULTILINE)


def _digest(text: str) -> str:
    """Return a hash of what a program does: of its main function, each call told by the hash of what it calls.

    A function that JAX has traced once is written once, however often it is called, and once more for every time that
    JAX has traced it anew, under numbered names: what it still remembers depends on all that the process did before.
    """
    head, *parts = _FUNCTION.split(text.rstrip().removesuffix("}"))
    bodies = dict(zip(parts[::2], parts[1::2], strict=True))
    hashes: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        name = found.group()
        if name in bodies and name not in hashes:
            hashes[name] = hashlib.sha256(_NAME.sub(named, bodies[name]).encode()).hexdigest()
        return hashes.get(name, name)

    return hashlib.sha256(_NAME.sub(named, f"{head}@main").encode()).hexdigest()


def probed(function: Callable, *arguments: Any) -> Any:
    """Return what a function makes of arguments, to a few last bits, compiled as quickly as can be.

    What it closes over is data: the next function that does the same with other numbers is not compiled again.
    """
    closures = Closures()
    traced = Function(function, arguments, closures)
    return _evaluated(traced, closures.values, *arguments, quick=True)


def _evaluated(function: Callable, *arguments: Any, quick: bool = False) -> Any:
    """Return what a function makes of arguments; a program that does the same as one before is not compiled again."""
    return executable(function, *arguments, quick=quick)(*arguments)


def executable(function: Callable, *arguments: Any, quick: bool = False) -> Callable:
    """Return a function compiled for arguments like these, unless an earlier call, or process, has compiled the same.

    `quick` is for what takes longer to compile than to compute.
    """
    lowered = Lowered(jax.jit(function).lower(*arguments))
    places = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(arguments)]
    return _compiled(lowered, working_devices()[0], tuple(places), quick)


@lru_cache(_SMALL_PROGRAMS)
def _compiled(program: Lowered, device: Any, places: tuple[Any, ...], quick: bool) -> Callable:
    options = _QUICK if quick else None
    if any(place is not None and place.device_set != {device} for place in places):
        return program.lowered.compile(options)
    return compiled(program.lowered, program.digest, device, options)
