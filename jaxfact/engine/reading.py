"""How an experiment is read: traced once, and split into what all runs share and what each run owns."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray, UInt

from jaxfact.descent import check_factors, initial_state, stepper
from jaxfact.engine.compressibility import Compression
from jaxfact.engine.experiment import Experiment, Run, checked_run, takes_key
from jaxfact.engine.jaxprs import Closures, Function, split
from jaxfact.measures import energy, gradient_norm, imbalance, invariants
from jaxfact.measures.records import Records, as_measure
from jaxfact.methods import Method
from jaxfact.methods.base import as_method
from jaxfact.numerics.draws import fold, key_from, key_of
from jaxfact.numerics.tracing import traceable
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.compression import Compressed, reduced
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors, as_arrays
from jaxfact.starts import Start

_PROBLEM, _START, _NOISE = range(3)


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


class Findings(NamedTuple):
    """What tracing finds: the engine's functions, and what the problem and the factors are like.

    `lanes` is the problem's hint of how many runs should advance together on a CPU (see `Problem.lanes`).
    """

    advance: Function
    glance: Function
    slope: Function
    record: Function
    defects: Function
    misfits: bool
    lanes: int | None
    is_pair: bool


class Reading:
    """An experiment, read: `shared` arrays and pure functions of them and of what a run owns.

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
        self._takes_key = takes_key(experiment, point)
        traced, own, findings = self._traced(point)
        self.findings: Findings = findings
        self._own_tree = jax.tree.structure(own)
        count = self._own_tree.num_leaves
        known, self._unknown, kept = split(traced)
        self.shared: list[Array] = known(traced.consts)
        closed_over = traced.jaxpr.outvars[count:]
        # Each closed-over number is looked up among the shared arrays or among what the run owns.
        self._owned = [i for i, var in enumerate(closed_over) if var not in kept]
        self._places = [kept.index(v) if v in kept else ~self._owned.index(i) for i, v in enumerate(closed_over)]

    @property
    def uses_noise(self) -> bool:
        """Whether a step depends on its random key, so that the run cannot become periodic."""
        return self.findings.advance.uses_last_argument

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
        return (problem if small is None else small), as_method(run.method)

    def advance(self, shared: list[Array], own: Own, step: Array) -> Own:
        """Take step number `step`."""
        factors, state = self._call(self.findings.advance, shared, own, own.factors, own.state, step, own.noise_key)
        return own._replace(factors=factors, state=state)

    def glance(self, shared: list[Array], own: Own) -> Glance:
        """Return loss, distance, energy and imbalance of a run as it stands."""
        return self._call(self.findings.glance, shared, own, own.factors)

    def slope(self, shared: list[Array], own: Own) -> Array:
        """Return the norm of the loss's gradient for a run as it stands."""
        return self._call(self.findings.slope, shared, own, own.factors)

    def record(self, shared: list[Array], own: Own) -> dict[str, PyTree]:
        """Evaluate the records of a run as it stands."""
        return self._call(self.findings.record, shared, own, own.factors)

    def defects(self, shared: list[Array], before: Own, after: Own) -> list[invariants.Defect | None]:
        """Return the defect of every check over one step, in their order; None where one does not apply."""
        return self._call(self.findings.defects, shared, after, before.factors, after.factors)

    @property
    def checks(self) -> list[str]:
        """The names of the invariants that are checked, in the order of `defects`."""
        return [check.__name__ for check in self._checks]

    def _call(self, function: Function, shared: list[Array], own: Own, *arguments):
        numbers = [shared[at] if at >= 0 else own.numbers[~at] for at in self._places]
        return function([numbers[i] for i in function.uses], *arguments)

    def _traced(self, point: Mapping[str, Array]) -> tuple[Any, Own, Findings]:
        """Trace the beginning of a run: its jaxpr, the shapes of what the run owns, and what was found on the way.

        The program's results are what the run owns, then all that its functions close over.
        """
        found: list[Findings] = []

        def begin(key: PRNGKeyArray, point: dict[str, Array]):
            run, start_key, noise_key = self._called(key, point), fold(key, _START), fold(key, _NOISE)
            method = as_method(run.method)
            problem, factors = self._at_start(run.problem, run.start, start_key)
            state = jax.tree.map(jnp.asarray, initial_state(method, factors, self._compensated))
            noise_words, closures = jax.random.key_data(noise_key), Closures()
            found.append(self._findings(problem, method, (factors, state, noise_words), closures))
            return Own(factors, state, noise_words, []), closures.values

        key = key_of(0)
        traced, (own, _) = jax.make_jaxpr(begin, return_shape=True)(key, dict(point))
        return traced, own, found[-1]

    def _findings(self, problem: Problem, method: Method, begun: tuple, closures: Closures) -> Findings:
        """Trace what the engine needs of a run: a step, a glance, the records, the defects of a step."""
        factors, state, noise_words = begun
        measure = as_measure(self._record)

        def advance(factors, state, step, key):
            words = key_from(key)
            with traceable("method", method.update, "gradient or factors"):
                return stepper(problem, method, words, self._compensated)(factors, state, step)

        def defects(before, after):
            step = invariants.Step(problem, before, problem.gradient(before), after)
            return [check(step) for check in self._checks]

        def traced(function: Callable, *arguments) -> Function:
            return Function(function, arguments, closures)

        return Findings(
            advance=traced(advance, factors, state, jnp.zeros((), jnp.int32), noise_words),
            glance=traced(lambda factors: _glance(problem, factors), factors),
            slope=traced(lambda factors: gradient_norm(problem, factors), factors),
            record=traced(lambda factors: measure(problem, factors), factors),
            defects=traced(defects, factors, factors),
            misfits=problem.misfits,
            lanes=problem.lanes,
            is_pair=isinstance(factors, Factors),
        )

    def _called(self, key: PRNGKeyArray, point: Mapping[str, Array]) -> Run:
        """Return what the experiment makes of a run's key and point."""
        extra = {"key": fold(key, _PROBLEM)} if self._takes_key else {}
        with traceable("experiment", self._experiment, "an axis"):
            return checked_run(self._experiment(**point, **extra))

    def _at_start(self, problem: Problem, start: Start | AnyFactors, key: PRNGKeyArray) -> tuple[Problem, AnyFactors]:
        """Return the problem that is run, compressed or not, and the factors a run begins from."""
        problem, small = self._compressed(problem, start, key)
        if isinstance(start, Start):
            drawn_on = small if small is not None and start.compresses else problem
            factors = start.draw(key, drawn_on)
        else:
            drawn_on, factors = problem, start
        factors = as_arrays(factors, problem.dtype)
        check_factors(factors, drawn_on)
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


def _glance(problem: Problem, factors: AnyFactors) -> Glance:
    nothing = jnp.zeros((), problem.dtype)
    return Glance(
        problem.loss(factors),
        problem.distance(factors),
        problem.misfit(factors) if problem.misfits else nothing,
        energy(problem, factors),
        imbalance(problem, factors) if isinstance(factors, Factors) else nothing,
    )


def _columns(start: Start | AnyFactors, key: PRNGKeyArray, problem: Problem) -> int:
    """Return the number of columns of a start's factors."""
    if not isinstance(start, Start) or start.compresses:
        return start.width  # pyright: ignore[reportAttributeAccessIssue]
    return jax.eval_shape(lambda: start.draw(key, problem)).width
