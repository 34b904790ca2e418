"""What an experiment is: a pure function of named numbers that returns a problem, a start and a method."""

import inspect
import random
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfact.engine.axes import as_run
from jaxfact.inputs import nearest, problem_with, shown
from jaxfact.methods.base import as_method, name_of
from jaxfact.numerics.draws import key_of
from jaxfact.problems.base import Problem, described
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor, as_factors, said_of
from jaxfact.showing.markup import card
from jaxfact.starts import Start


class Run(NamedTuple):
    """What an experiment returns: a problem, a start (or explicit factors) and a method."""

    problem: Problem
    start: Start | AnyFactors
    method: optax.GradientTransformation | Callable

    def _repr_html_(self) -> str:
        """Say in a notebook what it consists of."""
        kind = type(self.problem).__name__
        facts = described(self.problem) if isinstance(self.problem, Problem) else {}
        start = said_of(self.start) if isinstance(self.start, Factors | TiedFactor) else shown(self.start)
        return card("Run", {"problem": kind, **facts, "start": start, "method": name_of(self.method)})


Experiment = Callable[..., Run]


def parameters(experiment: Experiment) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an experiment by name."""
    return inspect.signature(experiment).parameters


def takes_key(experiment: Experiment, axes: Mapping[str, object]) -> bool:
    """Tell whether an experiment draws its problem: `key` is a parameter and not an axis."""
    return "key" in parameters(experiment) and "key" not in axes


def check_signature(experiment: Experiment, axes: Mapping[str, object], options: Iterable[str] = ()) -> None:
    """Refuse what is no function of these axes; an axis that is neither may be an option, mistyped."""
    if not callable(experiment):
        raise problem_with("experiment", shown(experiment), "needs a function of the axes", "return a jaxfact.Run")
    known = parameters(experiment)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    unknown = [name for name in axes if name not in known and not open_ended]
    needed = [
        name for name, p in known.items() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    missing = [name for name in needed if name != "key" and name not in axes]
    if not unknown and not missing:
        return
    takes = f"the experiment takes ({', '.join(known)})"
    for name in unknown:
        if meant := nearest(name, {*options, *known} - set(axes)):
            raise problem_with(name, shown(axes[name]), f"is no axis: {takes}", f"{meant} may be meant")
    raise problem_with("axes", sorted(axes), takes, "give one axis per parameter")


def check_experiment(experiment: Experiment, axes: Mapping[str, np.ndarray]) -> list[Run]:
    """Return the runs at the first point and at the ends of each axis.

    Points that are out of range are refused, and random numbers from outside warned of.

    Evaluating it at the least and greatest value of each axis finds hyperparameters out of range, which cannot be
    seen in a traced number.
    """
    extra = {"key": key_of(0)} if takes_key(experiment, axes) else {}
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    run_with = {name: as_run(values, x64) for name, values in axes.items()}
    first = {name: values[0] for name, values in run_with.items()}
    ends = [{**first, name: v} for name, values in run_with.items() for v in (values.min(), values.max())]
    others = [at for place, at in enumerate(ends) if at != first and at not in ends[:place]]
    sources = _random_sources(experiment)
    before = [source() for source in sources]
    with warnings.catch_warnings():
        if extra:  # warnings about a problem drawn from this one key say nothing about the runs
            warnings.simplefilter("ignore", UserWarning)
        runs = [checked_run(experiment(**jax.device_put(at), **extra)) for at in (first, first, *others)]
    drawn = any(not _same(old, source()) for old, source in zip(before, sources, strict=True))
    if drawn or not _same(*(jax.tree.leaves((run.problem, run.start)) for run in runs[:2])):
        warnings.warn(
            "experiment: it is another each time it is called, as with random numbers of NumPy, and all runs share "
            "what one call returns; draw from a parameter `key` with jax.random, which differs between seeds",
            stacklevel=4,
        )
    return runs[1:]


def run_at(experiment: Experiment, point: Mapping[str, Any]) -> Run:
    """Return the run at one point, whose values were in range before."""
    extra = {"key": key_of(0)} if takes_key(experiment, point) else {}
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    values = {name: as_run(np.asarray(value), x64) for name, value in point.items()}
    with warnings.catch_warnings():
        if extra:  # as in `check_experiment`
            warnings.simplefilter("ignore", UserWarning)
        return checked_run(experiment(**jax.device_put(values), **extra))


def checked_run(run: Any) -> Run:
    """Return a `Run` of a problem, a start and a method; refuse anything that cannot be made one.

    A plain pair of arrays becomes factors, a function of gradient and factors a method.
    """
    instead = "return Run(problem, start, method)"
    if not isinstance(run, Run):
        if isinstance(run, dict):
            instead = "give a dict of functions, one for each variant, instead of a function that returns a dict"
        raise problem_with("experiment", f"returned a {type(run).__name__}", "needs a Run", instead)
    run = Run(run.problem, as_factors(run.start), as_method(run.method))
    for name, value, kinds, wanted in (
        ("problem", run.problem, Problem, "a Problem"),
        ("start", run.start, Start | Factors | TiedFactor, "a Start or factors"),
    ):
        if not isinstance(value, kinds):
            raise problem_with(f"Run.{name}", type(value).__name__, f"needs {wanted}", instead)
    dtype = jnp.dtype(run.problem.dtype)
    if dtype != jax.dtypes.canonicalize_dtype(dtype):
        needed = "was made in double precision, and JAX computes in single precision now"
        raise problem_with(
            "Run.problem", dtype, needed, "sweep where jax_enable_x64 is set, or make it where it is not"
        )
    return run


def _random_sources(experiment: Experiment) -> list[Callable[[], Any]]:
    """Return what gives the states of the random generators that an experiment may draw from, outside JAX."""
    code = getattr(experiment, "__code__", None)
    names = {name: getattr(experiment, "__globals__", {}).get(name) for name in getattr(code, "co_names", ())}
    cells = [cell.cell_contents for cell in getattr(experiment, "__closure__", None) or () if _is_filled(cell)]
    generators = [one for one in (*names.values(), *cells) if isinstance(one, np.random.Generator)]
    own = [lambda one=one: str(one.bit_generator.state) for one in generators]
    return [
        lambda: str([np.asarray(part).tobytes() for part in tuple(np.random.get_state())[1:]]),  # noqa: NPY002
        lambda: str(random.getstate()),
        *own,
    ]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _same(old: Any, new: Any) -> bool:
    """Tell whether two states, or the arrays of two runs, are the same."""
    if isinstance(old, str):
        return old == new
    pairs = zip(old, new, strict=False)
    return len(old) == len(new) and all(a is b or _bits(a) == _bits(b) for a, b in pairs)


def _bits(leaf: Any) -> bytes:
    is_key = jnp.issubdtype(getattr(leaf, "dtype", float), jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf).tobytes()
