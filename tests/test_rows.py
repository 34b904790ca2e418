"""Long arrays: a program whose rows are loops, compiled, beside what JAX makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import METHODS
from jax import lax

import jaxfact as jf
from jaxfact.engine import machine
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.llvm import Text
from jaxfact.engine.reading import Reading
from jaxfact.engine.rows import stored
from jaxfact.engine.scalarising import scalarised_in_rows
from jaxfact.engine.scalars import Fold, Input, Loop, Unscalarisable, ordered
from jaxfact.engine.writing import Output, RowOutputs, write
from jaxfact.numerics.products import cross, gram, inner, times

LANES, LONGEST, MOST = 8, 32, 20_000


def compiled(closed, arguments, shared=0, longest=LONGEST):
    """Return a program's results from its loops, compiled, on arguments whose last axis is the lanes."""
    _, outputs = scalarised_in_rows(closed, MOST, shared, longest)
    text, avals = Text(LANES), [var.aval for var in closed.jaxpr.outvars]
    given = [machine.buffer(text, "%arguments", k) for k in range(len(arguments))]
    found = [machine.buffer(text, "%results", k) for k in range(len(avals))]

    def place(base, entry, beyond, dtype):
        size = np.dtype(dtype).itemsize * LANES
        base = base if beyond is None else text.address(base, text.set(f"mul i64 {beyond}, {size}"))
        return text.address(base, entry * size)

    def leaf(node, beyond):
        at = node.detail
        argument, entry = (at.argument, at.entry) if isinstance(at, Input) else (at.source, at.start)
        return text.load(node.dtype, place(given[argument], entry, beyond, node.dtype), 1)

    def storing(output, start, stride, node):
        def store(value, row=None):
            beyond = None if row is None else text.set(f"mul i64 {row}, {stride}")
            text.store(node.dtype, value, place(found[output], start, beyond, node.dtype), 1)

        return store

    single, loops = stored(outputs)
    singles = [Output(node, storing(output, entry, 0, node)) for output, entry, node in single]
    rows = [RowOutputs(x.begin, x.end, [(store[-1], storing(*store)) for store in x.stores]) for x in loops]
    write(text, singles, leaf, rows)
    text.do("br label %leave")
    shapes = [jax.ShapeDtypeStruct((*aval.shape, LANES), aval.dtype) for aval in avals]
    return jax.jit(machine.called(shapes))(machine.code_of(machine.module(text)), *arguments)


def read(problem, method, width=2, compressed=True) -> Reading:
    compression = compression_of(method(0.1), None) if compressed else None

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, scale=0.3), method(step_size))

    return Reading(experiment, {"step_size": jnp.asarray(0.1)}, None, compression=compression)


KEYS = jax.random.split(jax.random.key(1, impl="threefry2x32"), LANES)
POINTS = {"step_size": jnp.linspace(0.02, 0.1, LANES)}


def begun(reading):
    return jax.vmap(reading.start, (None, 0, 0), -1)(reading.shared, KEYS, POINTS)


def assert_same(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-12)


def assert_step_is_that_of_jax(reading, longest=LONGEST):
    number = jnp.int32(3)

    @jax.jit
    def stepped():
        own = begun(reading)
        return own, jax.vmap(reading.advance, (None, -1, None), -1)(reading.shared, own, number)

    own, expected = stepped()
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[:-1], x.dtype), own)
    closed = jax.make_jaxpr(reading.advance)(reading.shared, one, number)
    count = len(reading.shared)
    lanes = [np.broadcast_to(np.asarray(x)[..., None], (*x.shape, LANES)) for x in (*reading.shared, number)]
    given = [*lanes[:count], *map(np.asarray, jax.tree.leaves(own)), lanes[-1]]
    assert_same(compiled(closed, given, count, longest), jax.tree.leaves(expected))


FULL = jf.Factorization(np.linspace(1, 0.1, 40), shape=(40, 47))
KINDS = {
    "low rank": jf.Factorization(np.array([1, 0.6, 0.3]), shape=(35, 50)),
    "one factor": jf.Tied(jf.Factorization(np.linspace(1, 0.1, 36), shape=(40, 40))),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_that_of_jax_row_by_row(name):
    assert_step_is_that_of_jax(read(FULL, METHODS[name], compressed=False))


@pytest.mark.parametrize("problem", KINDS)
@pytest.mark.parametrize("name", ["momentum", "perturbed"])
def test_every_problem_is_that_of_jax_row_by_row(name, problem):
    assert_step_is_that_of_jax(read(KINDS[problem], METHODS[name], compressed=False))


def test_a_few_rows_may_be_long_too():
    """At full rank a run of width 9 has 20 rows, compressed; a loop over 12 or more of them is asked for."""
    problem = jf.Factorization(np.linspace(1, 0.1, 20), shape=(20, 30))
    assert_step_is_that_of_jax(read(problem, METHODS["balanced"], 9), longest=12)


def assert_program_is_that_of_jax(function, *arrays):
    """Compare on lanes that hold different multiples of the arrays, integers the same."""
    lanes = [np.stack([x * (k + 1 if x.dtype.kind == "f" else 1) for k in range(LANES)], axis=-1) for x in arrays]
    closed = jax.make_jaxpr(function)(*arrays)
    expected = jax.tree.leaves(jax.vmap(function, -1, -1)(*map(jnp.asarray, lanes)))
    assert_same(compiled(closed, lanes), expected)


@pytest.mark.parametrize("problem", [FULL, *KINDS.values()])
def test_a_glance_is_that_of_jax_row_by_row(problem):
    reading = read(problem, METHODS["gradient descent"], compressed=False)
    factors = jax.tree.map(lambda x: np.asarray(x[..., 0]), jax.jit(lambda: begun(reading).factors)())
    assert_program_is_that_of_jax(
        lambda *leaves: [
            problem.loss(type(factors)(*leaves)),
            problem.distance(type(factors)(*leaves)),
            type(factors)(*leaves).energy,
        ],
        *factors,
    )


X = np.random.default_rng(0).normal(size=(40, 3))
Y = np.random.default_rng(1).normal(size=(40, 2))
N = np.arange(80, dtype=np.int32).reshape(2, 40)

FUNCTIONS = {
    "joined": (lambda x, y: jnp.concatenate([x, y[:5] @ jnp.ones((2, 3)), x[:40, ::-1], x[5:]]), X, Y),
    "sliced": (lambda x: (x[3:], x[1::2][:9], x[4:9, 1:], x[:, 2], x[-1], x[1:39, ::2]), np.concatenate([X, X])),
    "padded": (lambda x: (jnp.pad(x, ((2, 3), (1, 0))), lax.pad(x, 7.0, ((-2, 9, 0), (0, -1, 0)))), X),
    "cut short": (lambda x: lax.pad(x, 7.0, ((-20, -3, 0), (1, 0, 1))), X),
    "padded from few": (lambda x: jnp.pad(x[:4], ((2, 40), (0, 1))), X),
    "transposed": (lambda x, y: (x.T[1:] * 2, jnp.einsum("ki,kj->jki", x, y)), X, Y),
    "reduced": (lambda x: (x.sum(), x.max(0), x.min(1), jnp.prod(x), jnp.any(x > 2), jnp.all(x > -9, axis=0)), X),
    "products": (lambda x, y: (x.T @ y, x @ (x.T @ y), jnp.einsum("ki,kj->kij", x, y), x[:, 0] @ y), X, Y),
    "grams": (
        lambda x, y: (gram(x), cross(x, y), gram(x[3:]), times(x, cross(x, y)), gram(x.T[:, :4]), inner(x, x[::1] * 2)),
        X,
        Y,
    ),
    "flattened": (lambda x: (x.ravel()[5:] * 2, jnp.sum(x.ravel() * jnp.arange(120)), x.reshape(60, 2) + 1), X),
    "folded": (lambda x: (jnp.concatenate([x.ravel(), x.ravel()[:7]])[7:].reshape(40, 3), x.reshape(20, 6)), X),
    "counted": (lambda n: (n + lax.iota(np.int32, 40), n * (np.arange(40, dtype=np.int32) < 7), n // 2), N),
    "looked up": (lambda x: (x * X, x + np.arange(40.0)[:, None], jnp.where((np.arange(40) < 9)[:, None], x, 0)), X),
    "compared": (lambda x: jnp.where(jnp.arange(40)[:, None] < x, x, -1), X),
    "chosen": (lambda x: lax.cond(x[0, 0] > 0.1, lambda x: x + 1, lambda x: 2 * x, x), X),
    "scanned": (lambda x: lax.fori_loop(0, 3, lambda i, y: y / 2 + i, x), X),
    "looped": (lambda x: lax.while_loop(lambda c: c < 50, lambda c: c + jnp.sum(x**2), 0.0), X),
    "means": (lambda x: (x - x.mean(0)) / jnp.linalg.norm(x - x.mean(0)), X),
    "split": (lambda x: jnp.split(x, [2, 37]) + jnp.split(x, [1], axis=1), X),
    "stacked": (lambda x: jnp.stack([x, 2 * x], axis=1), X),
    "gathered": (lambda x: (x[np.array([2, 39, 2]), 1:], lax.dynamic_slice(x, (7, 1), (2, 2))), X),
    "repeated": (lambda x: jnp.broadcast_to(x[0], (50, 3)) * x[3], X),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules_for_rows_are_those_of_jax(name):
    function, *arrays = FUNCTIONS[name]
    assert_program_is_that_of_jax(function, *arrays)


@pytest.mark.parametrize(
    ("function", "arrays", "reason"),
    [
        (lambda x: x @ x.T, (X,), "a matrix product of 40×3 by 3×40"),
        (lambda a, x: x.at[0].set(1) + a @ x, (np.ones((40, 40)), X), "the operation scatter"),
        (lambda a, x: a @ x, (np.ones((50, 40)), X), "a matrix product of 50×40 by 40×3"),
        (lambda x: x[:, :1] * jnp.ones(40), (X,), "on an array of 40×40"),
        (jnp.sort, (X[:, 0],), "it has the operation sort"),
        (lambda x: x[::-1], (X,), "the operation rev of 40 rows"),
        (lambda x: lax.scan(lambda c, y: (c + y, c), jnp.zeros(3), x), (X,), "a loop"),
        (lambda x: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y + 1, x), (X,), "carries a long array"),
    ],
)
def test_what_does_not_go_by_rows_is_named(function, arrays, reason):
    with pytest.raises(Unscalarisable, match=reason):
        scalarised_in_rows(jax.make_jaxpr(function)(*arrays), MOST, 0, LONGEST)


def graph_of(function, *arrays):
    """Return a graph's nodes and the loops in which it stores."""
    _, outputs = scalarised_in_rows(jax.make_jaxpr(function)(*arrays), MOST, 0, LONGEST)
    single, loops = stored(outputs)
    return ordered([n for *_, n in single] + [n for loop in loops for *_, n in loop.stores], set()), loops


def test_the_number_of_rows_makes_no_difference():
    """A Gram matrix and what is multiplied by it: six sums for width 3, and one loop that stores both factors."""

    def step(x, y):
        return jnp.concatenate([times(x, gram(y)), x[:40]]), times(y, gram(x))[3:]

    sizes = [len(graph_of(step, np.ones((k, 3)), np.ones((k + 13, 3)))[0]) for k in (64, 6400)]
    assert sizes[0] == sizes[1]
    nodes, loops = graph_of(step, np.ones((64, 3)), np.ones((67, 3)))
    assert sum(isinstance(node.detail, Fold) for node in nodes) == 12
    assert [(loop.begin, loop.end, len(loop.stores)) for loop in loops] == [(0, 64, 6), (64, 104, 3)]


def test_another_function_called_cross_is_not_taken_for_ours():
    @jax.jit
    def cross(x, y):
        return 3 * x.T @ y

    assert_program_is_that_of_jax(cross, X, Y)


def test_a_program_is_written_the_same_way_every_time():
    """What a loop reads from outside comes in the order in which it was made, not in that of a set."""

    def function(x):
        return lax.while_loop(lambda c: c < 9, lambda c: c + jnp.sum(jnp.cos(c * x[:30])), 0.0)

    nodes, _ = graph_of(function, X)
    [loop] = [node for node in nodes if isinstance(node.detail, Loop)]
    serials = [node.serial for node in loop.arguments[1:]]
    assert len(serials) > 80
    assert serials == sorted(serials)
