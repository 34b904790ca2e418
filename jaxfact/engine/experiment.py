"""How an experiment is read: traced once, and split into what all runs share and what each run owns."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core
from jaxtyping import Array, PRNGKeyArray, PyTree, UInt

from jaxfact import measures
from jaxfact.descent import Records, as_measure, initial_state, stepper
from jaxfact.engine.compressibility import Compression
from jaxfact.inputs import problem_with
from jaxfact.measures import invariants
from jaxfact.numerics.draws import fold, key_from, key_of
from jaxfact.problems.base import Problem
from jaxfact.problems.compression import Compressed, reduced
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor
from jaxfact.starts import Start

_PROBLEM, _START, _NOISE = range(3)


class Run(NamedTuple):
    """What an experiment returns: a problem, a start (or explicit factors) and a method."""

    problem: Problem
    start: Start | AnyFactors
    method: optax.GradientTransformation


Experiment = Callable[..., Run]


class Glance(NamedTuple):
    """What the engine looks at between blocks of steps; tied factors count as balanced."""

    loss: Array
    distance: Array
    misfit: Array
    energy: Array
    imbalance: Array


class Own(NamedTuple):
    """What one run owns: factors, method state, the words of its noise key, the numbers its functions close over."""

    factors: AnyFactors
    state: PyTree
    noise_key: UInt[Array, "2"]
    numbers: list[Array]


class Program:
    """An experiment, traced: `shared` arrays and pure functions of them and of what a run owns.

    An experiment returns closures (a problem's methods, a method's update), which no loop can carry. So each is traced
    to a jaxpr, whose closed-over arrays become data: those that depend on neither the key nor the point are evaluated
    once and shared by all runs, the others travel with the run. Nothing is baked into the program as a constant.
    """

    def __init__(
        self,
        experiment: Experiment,
        point: Mapping[str, Array],
        record: Records | None,
        checks: Sequence[invariants.Invariant] = (),
        compression: Compression | None = None,
        compensated: bool = False,
    ):
        self._experiment, self._record, self._checks = experiment, record, checks
        self._compression, self._compensated = compression, compensated
        self._takes_key = "key" in _parameters(experiment) and "key" not in point
        self._functions: dict[str, _Function] = {}
        self._quantities: list[str] = []
        key = key_of(0)
        traced, shapes = jax.make_jaxpr(self._begin, return_shape=True)(key, dict(point))
        factors, state, noise_key = shapes[0]
        self._own_tree = jax.tree.structure(Own(factors, state, noise_key, []))
        count = self._own_tree.num_leaves
        known, self._unknown, kept = _split(traced)
        self.shared: list[Array] = known(traced.consts)
        closed_over = traced.jaxpr.outvars[count:]
        # Each closed-over number is looked up among the shared arrays or among what the run owns.
        self._owned = [i for i, var in enumerate(closed_over) if var not in kept]
        self._places = [kept.index(v) if v in kept else ~self._owned.index(i) for i, v in enumerate(closed_over)]

    @property
    def uses_noise(self) -> bool:
        """Whether a step depends on its random key, so that the run cannot become periodic."""
        return self._functions["advance"].uses_last_argument

    @property
    def quantities(self) -> list[str]:
        """The names of the invariants that are checked."""
        return self._quantities

    def start(self, shared: list[Array], key: PRNGKeyArray, point: Mapping[str, Array]) -> Own:
        """Begin the run of one key at one point of the axes."""
        flat = self._unknown(*shared, *jax.tree.leaves((key, dict(point))))
        count = self._own_tree.num_leaves
        own = jax.tree.unflatten(self._own_tree, flat[:count])
        return own._replace(numbers=[flat[count + i] for i in self._owned])

    def ingredients(
        self, key: PRNGKeyArray, point: Mapping[str, Array]
    ) -> tuple[Problem, optax.GradientTransformation]:
        """Return the problem that one run takes place on, compressed or not, and its method."""
        run = self._called(key, point)
        problem, small = self._compressed(run.problem, run.start, fold(key, _START))
        return (problem if small is None else small), run.method

    def advance(self, shared: list[Array], own: Own, step: Array) -> Own:
        """Take step number `step`."""
        factors, state = self._call("advance", shared, own, own.factors, own.state, step, own.noise_key)
        return own._replace(factors=factors, state=state)

    def glance(self, shared: list[Array], own: Own) -> Glance:
        """Return loss, distance, energy and imbalance of a run as it stands."""
        return self._call("glance", shared, own, own.factors)

    def record(self, shared: list[Array], own: Own) -> dict[str, PyTree]:
        """Evaluate the records of a run as it stands."""
        return self._call("record", shared, own, own.factors)

    def defects(self, shared: list[Array], before: Own, after: Own) -> list[invariants.Defect]:
        """Return the defect of every invariant over one step, in the order of `quantities`."""
        return self._call("defects", shared, after, before.factors, after.factors)

    def _call(self, name: str, shared: list[Array], own: Own, *arguments):
        function = self._functions[name]
        numbers = [shared[at] if at >= 0 else own.numbers[~at] for at in self._places]
        return function([numbers[i] for i in function.uses], *arguments)

    def _begin(self, key: PRNGKeyArray, point: dict[str, Array]):
        """Trace the experiment at one point: what the run owns first, then all that its functions close over."""
        run, start_key, noise_key = self._called(key, point), fold(key, _START), fold(key, _NOISE)
        method = optax.with_extra_args_support(run.method)
        problem, factors = self._at_start(run.problem, run.start, start_key)
        state = jax.tree.map(jnp.asarray, initial_state(method, factors, self._compensated))
        self.misfits, self.lanes, self.is_pair = problem.misfits, problem.lanes, isinstance(factors, Factors)
        measure, noise_words = as_measure(self._record), jax.random.key_data(noise_key)

        def advance(factors, state, step, key):
            words = key_from(key)
            return stepper(problem, method, words, self._compensated)(factors, state, step)

        def glance(factors):
            is_pair = isinstance(factors, Factors)
            return Glance(
                problem.loss(factors),
                problem.distance(factors),
                problem.misfit(factors) if problem.misfits else jnp.zeros((), problem.unit.dtype),
                factors.energy,
                measures.imbalance(problem, factors) if is_pair else jnp.zeros((), problem.unit.dtype),
            )

        def record(factors):
            return measure(problem, factors)

        def defects(before, after):
            step = invariants.Step(problem, before, problem.gradient(before), after)
            found = {check.__name__: check(step) for check in self._checks}
            self._quantities = [name for name, defect in found.items() if defect is not None]
            return [defect for defect in found.values() if defect is not None]

        closed_over = _ByIdentity()
        step = jnp.zeros((), jnp.int32)
        for function, arguments in (
            (advance, (factors, state, step, noise_words)),
            (glance, (factors,)),
            (record, (factors,)),
            (defects, (factors, factors)),
        ):
            self._functions[function.__name__] = _Function(function, arguments, closed_over)
        return (factors, state, noise_words), closed_over.values

    def _called(self, key: PRNGKeyArray, point: Mapping[str, Array]) -> Run:
        """Return what the experiment makes of a run's key and point."""
        extra = {"key": fold(key, _PROBLEM)} if self._takes_key else {}
        run = self._experiment(**point, **extra)
        check_run(run)
        return run

    def _at_start(self, problem: Problem, start: Start | AnyFactors, key: PRNGKeyArray) -> tuple[Problem, AnyFactors]:
        """Return the problem that is run, compressed or not, and the factors a run begins from."""
        problem, small = self._compressed(problem, start, key)
        if isinstance(start, Start):
            drawn_on = small if small is not None and start.compresses else problem
            factors = start.draw(key, drawn_on)
        else:
            drawn_on, factors = problem, start
        factors = jax.tree.map(lambda x: jnp.asarray(x, problem.unit.dtype), factors)
        _check_factors(factors, drawn_on)
        if small is not None and drawn_on is problem:
            factors = reduced(small, problem, factors)  # pyright: ignore[reportArgumentType]
        return (problem if small is None else small), factors

    def _compressed(
        self, problem: Problem, start: Start | AnyFactors, key: PRNGKeyArray
    ) -> tuple[Problem, Compressed | None]:
        """Return the problem at the width in use, and its compressed form where that is run."""
        if not isinstance(problem, Factorization):
            return problem, None
        if isinstance(start, Start) and start.used_width is not None:
            problem = problem.at_width(start.used_width)
        if self._compression is None:
            return problem, None
        return problem, Compressed(problem, _columns(start, key, problem), **self._compression._asdict())


class _ByIdentity:
    """Arrays in the order met, each once."""

    def __init__(self):
        self.values: list[Any] = []

    def place(self, value) -> int:
        for index, seen in enumerate(self.values):
            if seen is value:
                return index
        self.values.append(value)
        return len(self.values) - 1


class _Function:
    """A traced function whose closed-over arrays are arguments."""

    def __init__(self, function: Callable, arguments: tuple, closed_over: _ByIdentity):
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
        self.uses = [closed_over.place(value) for value in closed.consts]
        self._jaxpr = closed.jaxpr
        self._tree = jax.tree.structure(shape)

    def __call__(self, numbers: list[Array], *arguments):
        closed = core.ClosedJaxpr(self._jaxpr, numbers)
        return jax.tree.unflatten(self._tree, core.jaxpr_as_fun(closed)(*jax.tree.leaves(arguments)))

    @property
    def uses_last_argument(self) -> bool:
        tainted = _dependents(self._jaxpr, self._jaxpr.invars[-1:])
        return any(isinstance(var, core.Var) and var in tainted for var in self._jaxpr.outvars)


def _dependents(jaxpr: core.Jaxpr, sources: Sequence[core.Var]) -> set[core.Var]:
    """Return the variables that depend on the sources."""
    tainted = set(sources)
    for equation in jaxpr.eqns:
        if any(isinstance(var, core.Var) and var in tainted for var in equation.invars):
            tainted.update(equation.outvars)
    return tainted


def _split(traced: core.ClosedJaxpr) -> tuple[Callable, Callable, list[core.Var]]:
    """Split a program into what depends on its inputs and what does not.

    Returns a function of the closed-over arrays that evaluates the independent part, a function of its results and of
    the inputs that does the rest, and the variables that pass from one to the other.
    """
    jaxpr = traced.jaxpr
    tainted = _dependents(jaxpr, jaxpr.invars)
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
        # Arrays are handed on as they are, and to the computation as arguments: as constants they would be copied.
        found = dict(zip(jaxpr.constvars, consts, strict=True))
        found |= zip(computed, jax.jit(core.jaxpr_as_fun(core.ClosedJaxpr(known, [])))(*consts), strict=True)
        return [jnp.asarray(found[var]) for var in kept]

    unknown = jaxpr.replace(constvars=[], invars=[*kept, *jaxpr.invars], eqns=dependent, debug_info=names)
    return evaluate, core.jaxpr_as_fun(core.ClosedJaxpr(unknown, [])), kept


def check_experiment(experiment: Experiment, axes: Mapping[str, np.ndarray]) -> Run:
    """Return the run at the first point; refuse a signature that does not fit the axes, and points out of range.

    Evaluating it at the least and greatest value of each axis finds hyperparameters out of range, which could not be
    seen in a traced number.
    """
    if not callable(experiment):
        raise problem_with("experiment", repr(experiment), "needs a function of the axes", "return a jaxfact.Run")
    needed = [name for name, p in _parameters(experiment).items() if p.default is p.empty and name != "key"]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in _parameters(experiment).values())
    unknown = [name for name in axes if name not in _parameters(experiment) and not open_ended]
    missing = [name for name in needed if name not in axes and _parameters(experiment)[name].kind.value != 4]
    if unknown or missing:
        raise problem_with(
            "axes",
            sorted(axes),
            f"the experiment takes ({', '.join(_parameters(experiment))})",
            "give one axis for each of its parameters",
        )
    extra = {"key": key_of(0)} if "key" in _parameters(experiment) and "key" not in axes else {}
    first = {name: values[0] for name, values in axes.items()}
    corners = [first] + [{**first, name: v} for name, values in axes.items() for v in (values.min(), values.max())]
    with warnings.catch_warnings():
        if extra:  # what a problem drawn from this one key warns of says nothing about the runs
            warnings.simplefilter("ignore", UserWarning)
        runs = [experiment(**{name: jnp.asarray(value) for name, value in at.items()}, **extra) for at in corners]
    for run in runs:
        check_run(run)
    return runs[0]


def check_run(run: object) -> None:
    """Refuse what is not a `Run` of a problem, a start and a method."""
    if not isinstance(run, Run):
        raise problem_with(
            "experiment",
            f"returned a {type(run).__name__}",
            "needs a Run",
            "return Run(problem, start, method)",
        )
    for name, value, kinds in (
        ("problem", run.problem, Problem),
        ("start", run.start, Start | Factors | TiedFactor),
        ("method", run.method, optax.GradientTransformation),
    ):
        if not isinstance(value, kinds):
            wanted = {
                "problem": "a Problem",
                "start": "a Start or factors",
                "method": "an optax transformation",
            }[name]
            raise problem_with(
                f"Run.{name}", type(value).__name__, f"needs {wanted}", "return Run(problem, start, method)"
            )


def _columns(start: Start | AnyFactors, key: PRNGKeyArray, problem: Problem) -> int:
    """Return the number of columns of a start's factors."""
    if not isinstance(start, Start) or start.compresses:
        return start.width  # pyright: ignore[reportAttributeAccessIssue]
    return jax.eval_shape(lambda: start.draw(key, problem)).width


def _check_factors(factors: AnyFactors, problem: Problem) -> None:
    key = key_of(0)
    wanted = jax.eval_shape(lambda: problem.standard_normal(key, factors.width))
    try:
        chex.assert_trees_all_equal_shapes(factors, wanted)
    except AssertionError:
        sizes = [", ".join(f"{k} {x.shape}" for k, x in tree._asdict().items()) for tree in (factors, wanted)]
        raise problem_with("factors", sizes[0], f"needs {sizes[1]}", "match the problem's shape") from None


def _parameters(experiment: Experiment) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(experiment).parameters
