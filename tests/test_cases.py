"""Facts that every problem, method, start and measure of the table must satisfy."""

import importlib
import inspect
import pkgutil
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import KINDS, MEASURES, METHODS, OF_THE_TRUTH, PROBLEMS, STARTS, TRUTH, as_jax, draw, pair

import jaxfact as jf
from jaxfact.measures.base import labels_of, named, names
from jaxfact.problems.base import truth_of

KEY = jr.key(3)
NUM_STEPS = 12

LIBRARY = METHODS | OF_THE_TRUTH
OPTIMISERS = {
    "AdamW": lambda step: optax.adamw(step),
    "RMSProp": lambda step: optax.rmsprop(step / 4),
    "Lion": lambda step: optax.lion(step / 4),
    "clipped": lambda step: optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(step)),
}


def evaluate(problem, factors):
    return problem.loss(factors), problem.distance(factors), problem.gradient(factors)


def assert_trees_close(actual, expected, rtol=1e-12, atol=1e-13):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=atol), actual, expected)


def stack(trees):
    """Stack arrays by NumPy: JAX would compile a program for every shape."""
    return jax.tree.map(lambda *xs: np.stack(xs), *trees)


@pytest.fixture(params=PROBLEMS)
def case(request):
    return PROBLEMS[request.param]


def test_gradient_is_that_of_the_dense_loss(case):
    """So is the contract's default, which differentiates the loss where `gradient` is not overridden."""
    problem, matrix = case.build(), case.scaled_matrix

    @jax.jit
    def gradients(factors):
        dense = jax.grad(lambda f: jnp.sum((f.product - matrix) ** 2) / 2)(factors)
        return problem.gradient(factors), jf.Problem.gradient(problem, factors), dense

    override, default, dense = gradients(pair(problem.shape, case.width))
    assert_trees_close(override, dense)
    assert_trees_close(default, dense)


def test_gradient_by_finite_differences(case):
    """Along a line the loss is a quartic, for which the five-point formula is exact."""
    matrix, problem = case.scaled_matrix, case.build()
    factors, direction = pair(problem.shape, case.width), pair(problem.shape, case.width, seed=2)

    def along(t):
        U, V = (x + t * z for x, z in zip(factors, direction, strict=True))
        return np.sum((U @ V.T - matrix) ** 2) / 2

    slope = (along(-2.0) - 8 * along(-1.0) + 8 * along(1.0) - along(2.0)) / 12
    gradient = jax.jit(lambda f: problem.gradient(f))(as_jax(factors))
    inner = sum(np.sum(g * z) for g, z in zip(gradient, direction, strict=True))
    assert inner == pytest.approx(slope, rel=1e-11, abs=1e-11)


def test_a_batch_is_single_runs(case):
    problem = case.build()
    batch = [as_jax(pair(problem.shape, case.width, seed)) for seed in range(3)]
    together = jax.jit(jax.vmap(evaluate, in_axes=(None, 0)))(problem, stack(batch))
    alone = jax.jit(evaluate)
    assert_trees_close(together, stack([alone(problem, factors) for factors in batch]))


@pytest.mark.parametrize("name", ["width above rank", "singular values", "zero"])
def test_what_is_compiled_is_what_is_evaluated_at_once(name):
    """Of a matrix, of values alone and of zero; every kind of problem with bases follows below."""
    case = PROBLEMS[name]
    problem = case.build()
    factors = as_jax(pair(problem.shape, case.width))
    assert_trees_close(jax.jit(evaluate)(problem, factors), evaluate(problem, factors))


def test_dtype_follows_the_data(case):
    for dtype in (jnp.float32, jnp.float64):
        problem = case.build(dtype)
        factors = as_jax(pair(problem.shape, case.width), dtype)
        seen = jax.tree.leaves(jax.eval_shape(evaluate, problem, factors)) + jax.tree.leaves(problem)
        assert {leaf.dtype for leaf in seen} == {jnp.dtype(dtype)}


def test_problem_survives_a_pytree_round_trip(case):
    problem = case.build()
    leaves, treedef = jax.tree.flatten(problem)
    again = jax.tree.unflatten(treedef, leaves)
    assert type(again) is type(problem)
    assert eqx.tree_equal(again, problem)
    assert eqx.tree_equal(jax.jit(lambda p: p)(problem), problem)


@pytest.mark.parametrize("build", (LIBRARY | OPTIMISERS).values(), ids=LIBRARY | OPTIMISERS)
def test_method_compiles_once_batches_and_descends(build):
    """The step size is traced and the method built from it inside jit and vmap: one trace serves every value."""
    problem = PROBLEMS["rank-deficient"].build()
    traces = []

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, None))
    def run(step_size, factors, key):
        traces.append(step_size)
        return jf.descend(problem, build(step_size), factors, num_steps=NUM_STEPS, key=key).factors

    starts = [as_jax(pair(problem.shape, 2, seed)) for seed in (1, 5)]
    for step_size in (0.02, 0.05, 0.1):
        batch = run(step_size, stack(starts), KEY)
    assert len(traces) == 1
    losses = jax.vmap(problem.loss)
    assert np.all(losses(batch) < 0.95 * losses(stack(starts)))

    # The same by hand, one run, nothing compiled as a whole.
    method = optax.with_extra_args_support(build(0.1))
    factors = starts[1]
    state = method.init(factors)
    for t in range(NUM_STEPS):
        gradient = problem.gradient(factors)
        updates, state = method.update(gradient, state, factors, problem=problem, key=jr.fold_in(KEY, t))
        factors = optax.apply_updates(factors, updates)
    assert_trees_close(jax.tree.map(lambda x: x[1], batch), factors, rtol=1e-11)


@pytest.mark.parametrize("build", LIBRARY.values(), ids=LIBRARY)
def test_method_keeps_the_dtype(build):
    """float32 factors stay float32 and the state keeps its dtypes, also where the step size is a float64 array."""
    problem = PROBLEMS["rank-deficient"].build(np.float32)
    factors = as_jax(pair(problem.shape, 2), jnp.float32)

    def run(step_size):
        return jf.descend(problem, build(step_size), factors, num_steps=3, every=1)

    ran = jax.eval_shape(run, jax.ShapeDtypeStruct((), jnp.float64))
    assert {leaf.dtype for leaf in jax.tree.leaves((ran.factors, ran.records))} == {jnp.dtype(jnp.float32)}
    before = jax.eval_shape(lambda step_size: build(step_size).init(factors), jax.ShapeDtypeStruct((), jnp.float64))
    assert jax.tree.map(lambda x: x.dtype, ran.state) == jax.tree.map(lambda x: x.dtype, before)


@pytest.mark.parametrize("begin", STARTS.values(), ids=STARTS)
def test_start_has_shape_and_dtype_of_every_problem(begin):
    for case in PROBLEMS.values():
        for dtype in (jnp.float32, jnp.float64):
            problem = case.build(dtype)
            start = begin(problem, case.width)
            drawn = jax.eval_shape(lambda problem, start=start: draw(start, KEY, problem), problem)
            m, n = problem.shape
            assert [x.shape for x in drawn] == [(m, case.width), (n, case.width)]
            assert {x.dtype for x in drawn} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("begin", STARTS.values(), ids=STARTS)
def test_start_is_the_same_compiled_and_batched(begin):
    problem, keys = PROBLEMS["width above both sides"].build(), jr.split(KEY, 3)
    start = begin(problem, 6)
    batch = jax.jit(jax.vmap(draw, in_axes=(None, 0, None)))(start, keys, problem)
    assert_trees_close(batch, stack([draw(start, key, problem) for key in keys]))
    leaves, treedef = jax.tree.flatten(start)
    assert eqx.tree_equal(jax.tree.unflatten(treedef, leaves), start)


def factors_of(problem, width, dtype=float):
    """Return generic factors, one of them where the problem is tied."""
    drawn = as_jax(pair(problem.shape, width), dtype)
    return jf.TiedFactor(drawn.U) if isinstance(problem, jf.Tied) else drawn


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_problem_satisfies_its_contract(build):
    """Gradient and loss belong together, the truth fits and is known, shapes and dtypes are kept, jit is eager."""
    problem = build(TRUTH.build())
    factors = factors_of(problem, TRUTH.width)
    compiled = jax.jit(evaluate)(problem, factors)
    assert_trees_close(compiled, evaluate(problem, factors))
    assert_trees_close(compiled[2], jax.jit(lambda f: jf.Problem.gradient(problem, f))(factors))
    assert jax.tree.map(jnp.shape, compiled[2]) == jax.tree.map(jnp.shape, factors)
    assert float(compiled[0]) > 0.1
    assert float(compiled[1]) > 0.1

    np.testing.assert_allclose(truth_of(problem).target, TRUTH.scaled_matrix, atol=1e-14)
    best = truth_of(problem).truncation(TRUTH.width)
    best = jf.TiedFactor(best.U) if isinstance(problem, jf.Tied) else best
    for at_best in (problem.loss(best), problem.distance(best), problem.misfit(best)):
        assert float(at_best) < 1e-13
    assert isinstance(problem.lanes, int | None)

    single = build(TRUTH.build(np.float32))
    seen = jax.eval_shape(evaluate, single, factors_of(single, TRUTH.width, np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(seen)} == {jnp.dtype(np.float32)}
    leaves, treedef = jax.tree.flatten(problem)
    assert eqx.tree_equal(jax.tree.unflatten(treedef, leaves), problem)


@pytest.mark.parametrize("case", MEASURES.values(), ids=MEASURES)
def test_measure_is_finite_labelled_and_the_same_compiled_and_batched(case):
    measure, problem = case.measure(), KINDS[case.kind](TRUTH.build())
    factors = factors_of(problem, case.width)
    found = measure(problem, factors)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    batch = jax.jit(jax.vmap(measure, in_axes=(None, 0)))(problem, stack([factors, factors]))
    assert_trees_close(batch, stack([found, found]), rtol=1e-8, atol=1e-9)

    paths = jax.tree_util.tree_leaves_with_path(found)
    labels = labels_of(measure)
    assert {"_".join(part.name for part in path) for path, _ in paths} <= set(labels)
    assert all(label.text and label.unit and label.latex.startswith("$") for label in labels.values())

    single = KINDS[case.kind](TRUTH.build(np.float32))
    seen = jax.eval_shape(measure, single, factors_of(single, case.width, np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(seen)} == {jnp.dtype(np.float32)}


def subclasses(base: type) -> set[str]:
    """Return the names of the package's own public subclasses; papers have some for themselves."""
    ours = {child: child.__module__ for child in base.__subclasses__() if child.__module__.startswith("jaxfact.")}
    below = {child for child, module in ours.items() if not module.startswith("jaxfact.papers.")}
    public = {child.__name__ for child in below if not child.__name__.startswith("_")}
    return public.union(*map(subclasses, below))


def public(namespace, kind) -> dict:
    """Return what a namespace shows of a kind."""
    members = {name: getattr(namespace, name) for name in dir(namespace) if not name.startswith("_")}
    return {name: member for name, member in members.items() if kind(member)}


def is_problem(member) -> bool:
    return inspect.isclass(member) and issubclass(member, jf.Problem) and not inspect.isabstract(member)


def is_measure(member) -> bool:
    """Tell whether something is a function of a problem and factors, returns one, or makes objects that are one."""
    if not callable(member) or isinstance(member, type(jf.measures.Measure)):
        return False
    if inspect.isclass(member) and "__call__" not in vars(member):
        return False
    signature = inspect.signature(member.__call__ if inspect.isclass(member) else member)
    takes = [name for name in signature.parameters if name != "self"] == ["problem", "factors"]
    return takes or signature.return_annotation is jf.measures.Measure


def called_by(rows) -> set[str]:
    return {name for row in rows for name in row.__code__.co_names}


def missing(kinds, methods, starts, measures) -> set[str]:
    """Return the public problems, methods, starts and measures that tables have no row for."""
    problems = set(public(jf, is_problem)) - {type(build(TRUTH.build())).__name__ for build in kinds.values()}
    functions = set(public(jf.methods, inspect.isfunction)) - called_by(methods.values())
    measured = set(public(jf.measures, is_measure)) - called_by(case.measure for case in measures.values())
    return problems | functions | (subclasses(jf.starts.Start) - called_by(starts.values())) | measured


TABLES = {"kinds": KINDS, "methods": LIBRARY, "starts": STARTS, "measures": MEASURES}


def test_table_is_complete():
    """A new problem, start, method or measure fails here until it has a row."""
    assert missing(**TABLES) == set()
    for module in pkgutil.walk_packages(jf.problems.__path__, "jaxfact.problems."):
        importlib.import_module(module.name)
    elsewhere = {"Compressed", "PartiallyObserved", "Split"}
    assert subclasses(jf.Problem) == {*public(jf, is_problem), *elsewhere}, "those have a file of tests each"


@pytest.mark.parametrize(
    ("table", "row", "name"),
    [
        ("kinds", "sensing", "Sensing"),
        ("methods", "alternating", "alternating"),
        ("methods", "fresh batches", "fresh_batch"),
        ("starts", "orthogonal", "Orthogonal"),
        ("measures", "spread", "spread"),
        ("measures", "rows", "rows"),
        ("measures", "held out", "HeldOut"),
    ],
)
def test_completeness_notices_a_missing_row(table, row, name):
    rows = {key: entry for key, entry in TABLES[table].items() if key != row}
    assert missing(**TABLES | {table: rows}) == {name}


def test_every_measure_that_takes_no_parameters_can_be_recorded_by_name():
    direct = public(jf.measures, lambda member: inspect.isfunction(member) and is_measure(member))
    by_name = {name for name, function in direct.items() if "problem" in inspect.signature(function).parameters}
    assert set(names()) == by_name
    assert all(named(name) is direct[name] for name in by_name)
