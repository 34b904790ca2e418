"""Steps in registers: a step as a graph of scalars, and the kernel made of it, interpreted on the CPU."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import KINDS, METHODS, OF_THE_TRUTH, TRUTH, frame
from jax import lax
from packaging.version import Version
from runs import descent

import jaxfact as jf
from jaxfact import engine
from jaxfact.engine import looks, pallas, steps, turns, vectors
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.lanes import Engine, Work
from jaxfact.engine.outcomes import Plan, Rules
from jaxfact.engine.reading import Reading
from jaxfact.engine.scalarising import scalarised
from jaxfact.engine.scalars import Unscalarisable, ordered

# JAX says so from 0.11.2 on, where a kernel is really made.
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
LANES, STEPS = 2 * vectors.BLOCK, 3
# Draws are most of what these take to compile, in proportion to the entries; noise that is compressed needs a target
# of fewer values than rows.
NOISY = {"perturbed", "noise in a chain"}
DRAWING = {"fresh batches", "perturbed in ball", "perturbed on sphere"}
SMALL = jf.Factorization(np.array([1, 0.6], np.float32), shape=(3, 2))
# Too large to be held by a block, and entries whose places are data.
BY_XLA = {
    "sensing": "it reads 1140 numbers shared by all runs",
    "one factor, sensing": "it reads 1140 numbers shared by all runs",
    "completion by entries": "it has the operation gather at places that are data",
}


@pytest.fixture(autouse=True)
def single_precision():
    """Take numbers as users of a GPU have them, so that a schedule is not in double precision."""
    with jax.enable_x64(False):
        yield


def read(problem, method, width=2) -> Reading:
    """Return an experiment of the step size, compressed where it can be."""
    compression = compression_of(method(0.1), None) if isinstance(problem, jf.Factorization) else None

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, scale=0.3), method(step_size))

    return Reading(experiment, {"step_size": jnp.float32(0.1)}, None, compression=compression)


def begun(reading, lanes):
    """Return what runs own at their start, each of its own key and step size, lanes last."""
    keys = jax.random.split(jax.random.key(1, impl="threefry2x32"), lanes)
    points = {"step_size": jnp.linspace(0.02, 0.1, lanes, dtype=jnp.float32)}
    return jax.jit(jax.vmap(reading.start, (None, 0, 0), -1))(reading.shared, keys, points)


def kernel_of(reading):
    own = jax.eval_shape(lambda: jax.tree.map(lambda x: x[..., 0], begun(reading, 1)))
    return pallas.kernel_of(reading.advance, reading.shared, own)


def both_ways(reading):
    """Return what lanes own after some steps from different ones, in registers and by XLA's kernels."""
    own, begin = begun(reading, LANES), jnp.arange(LANES, dtype=jnp.int32) % 5

    @jax.jit
    def by_xla(own):
        def step(index, own):
            return jax.vmap(reading.advance, (None, -1, 0), -1)(reading.shared, own, begin + index)

        return lax.fori_loop(0, STEPS, step, own)

    interpret = jax.default_backend() == "cpu"
    in_registers = jax.jit(partial(pallas.advanced, kernel_of(reading), interpret, reading.shared))
    return in_registers(own, begin, jnp.int32(STEPS)), by_xla(own), own


def assert_same(actual, expected, tolerance=1e-5):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (e.shape, e.dtype)
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", METHODS | OF_THE_TRUTH)
def test_every_method_is_the_same_in_registers(name):
    """State, counters and keys too; the factors have moved by far more than the tolerance."""
    problem, width = SMALL if name in DRAWING else TRUTH.build(np.float32), 1 if name in DRAWING | NOISY else 2
    actual, expected, before = both_ways(read(problem, (METHODS | OF_THE_TRUTH)[name], width))
    assert_same(actual, expected)
    assert max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(actual.factors, before.factors, strict=True)) > 1e-2


@pytest.mark.parametrize("name", KINDS)
def test_every_problem_is_the_same_in_registers_or_says_why_not(name):
    reading = read(KINDS[name](TRUTH.build(np.float32)), METHODS["gradient descent"])
    if name in BY_XLA:
        with pytest.raises(Unscalarisable, match=BY_XLA[name]):
            kernel_of(reading)
        return
    actual, expected, _ = both_ways(reading)
    assert_same(actual, expected)


def evaluated(function, *arrays):
    """Return a function's results from its graph, on vectors that hold the same number everywhere."""
    inputs, outputs = scalarised(jax.make_jaxpr(function)(*arrays), 10_000)
    given = zip((n for x in inputs for n in x.flat), (v for x in arrays for v in np.asarray(x).flat), strict=True)
    emit = vectors.Emitter(lambda node: pytest.fail("an input without a number"), set(), interpret=True)
    known = {node: jnp.full(vectors.BLOCK, value, node.dtype) for node, value in given}
    nodes = [node for x in outputs for node in x.flat]
    values = emit.values(ordered(nodes, set()), known)
    found = iter([np.asarray(values[node])[0] for node in nodes])
    return [np.array([next(found) for _ in x.flat]).reshape(x.shape) for x in outputs]


X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
N = np.arange(-3, 9, dtype=np.int32).reshape(3, 4)


def _collatz(n):
    """A loop that ends when it ends: how many steps from n to 1."""

    def step(carry):
        n, count = carry
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    return lax.while_loop(lambda carry: carry[0] > 1, step, (n, 0))[1]


FUNCTIONS = {
    "padded": (lambda x: lax.pad(x, jnp.float32(7), ((1, -1, 2), (-1, 2, 0))), X),
    "reversed": (lambda x: x[::-1, ::2], X),
    "gathered": (lambda x: x[np.array([2, 0, 2]), 1:3], X),
    "sliced": (lambda x: lax.dynamic_slice(x, (1, 2), (2, 2)), X),
    "joined": (lambda x: jnp.concatenate([x.T, jnp.stack([x[0, :3], x[1, 1:]])]), X),
    "split": (lambda x: jnp.split(x, [1, 3], axis=1)[::-1], X),
    "batched product": (lambda x: jnp.einsum("bi,bj->bij", x, x[:, ::-1]), X),
    "product": (lambda x: x.T @ x, X),
    "reduced": (lambda x: (x.sum(), x.max(axis=0), x.min(axis=1), jnp.prod(x), jnp.any(x > 2), jnp.all(x > -9)), X),
    "scanned": (lambda x: lax.scan(lambda c, y: (c + y, c * y), jnp.zeros(4), x, reverse=True), X),
    "written out": (lambda x: lax.fori_loop(0, 5, lambda i, y: y / 2 + i, x), X),
    "looped": (lambda n: _collatz(abs(n[2, 3])), N),
    "chosen": (lambda n: lax.switch(n[2, 1], [lambda: 1, lambda: 2, lambda: 3]), N),
    "chosen below": (lambda n: lax.switch(n[0, 0], [lambda: 1, lambda: 2]), N),
    "integers": (lambda n: (n // 2, n % 3, n << 2, n >> 1, n & 5, n | 2, n ^ 3, ~n, -n, abs(n), jnp.sign(n)), N),
    "words": (lambda n: lax.bitcast_convert_type(n, jnp.uint32) >> 3, N),
    "numbers": (lambda x: (jnp.exp(x), jnp.log(x**2), jnp.sqrt(x**2), x**-3, jnp.abs(x) ** 0.3, jnp.clip(x, -1, 1)), X),
    "more numbers": (lambda x: (jnp.sin(x), jnp.tanh(x), lax.rsqrt(x**2), lax.erf_inv(x / 3), jnp.log1p(x**2)), X),
    "compared": (lambda x: (jnp.where(x > 0, x, -1), (x >= X) & ~(x != X), jnp.isfinite(x / 0)), X),
    "constant": (lambda x: x * 0 + np.float32(3) - jnp.arange(4.0), X),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules_are_those_of_jax(name):
    function, argument = FUNCTIONS[name]
    expected = jax.tree.leaves(function(jnp.asarray(argument)))
    for a, e in zip(evaluated(function, argument), expected, strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "argument", "reason"),
    [
        (jnp.sort, X, "it has the operation sort"),
        (lambda x: x[0, jnp.int32(x[1, 1])], X, "at places that are data"),
        (lambda x: lax.fori_loop(0, 100, lambda i, y: y + 1, x), X, "a loop of more than 64 passes"),
        (lambda x: jnp.linalg.qr(x)[0], X, "it has the operation"),
        (lambda key: jax.random.key_data(key), jax.random.key(0), "its state holds a random key"),
        (lambda x: x[:, None] * x, np.zeros(200, np.float32), "more than 10000 numbers and operations"),
    ],
)
def test_what_has_no_rule_is_named(function, argument, reason):
    with pytest.raises(Unscalarisable, match=reason):
        scalarised(jax.make_jaxpr(function)(argument), 10_000)


def operations(function, *arrays) -> dict[str, int]:
    """Return how often each operation is left in a graph."""
    _, outputs = scalarised(jax.make_jaxpr(function)(*arrays), 10_000)
    names = [str(node.operation) for node in ordered([n for x in outputs for n in x.flat], set()) if node.operation]
    return {name: names.count(name) for name in names}


def test_equal_numbers_are_computed_once():
    """The Gram matrix of a 3×4 matrix has 10 different entries, of 3 products each; two of it are one."""
    assert operations(lambda x: x.T @ x, X) == {"mul": 30, "add": 20}
    assert operations(lambda x: (x.T @ x, (x[:, ::-1].T @ x[:, ::-1])[::-1]), X) == {"mul": 30, "add": 20}
    assert operations(lambda x, y: x.T @ y, X, X + 1) == {"mul": 48, "add": 32}


def test_what_is_unused_or_neutral_is_gone():
    assert operations(lambda x: (x + 0.0, x * 1.0, jnp.where(True, x, jnp.sort(x.ravel()[:4])))[:2], X) == {}
    assert operations(lambda x: x - jnp.pad(x[:1], ((0, 2), (0, 0))), X) == {"sub": 4}
    # Zero times infinity is not zero.
    assert operations(lambda x: x * 0.0, X) == {"mul": 12}


def test_a_plain_step_has_no_operation_too_many():
    """At d = r = 2 on 4+4 rows: Gram matrices, products, Σ, update; what the gradient's formula needs and no more."""
    reading = read(jf.Factorization(np.array([1, 0.6], np.float32), shape=(9, 8)), jf.methods.gradient_descent)
    kernel = kernel_of(reading)
    names = [str(node.operation) for node in kernel.order if node.operation]
    grams, products, sigma, update = 2 * 3 * 4, 16 * 2, 2 * 2 * 2, 16
    assert names.count("mul") == grams + products + sigma + update


def test_state_and_precision_that_do_not_fit_are_named():
    with pytest.raises(Unscalarisable, match="its state is 361 numbers, more than 200"):
        kernel_of(read(jf.Factorization(np.ones(4, np.float32), shape=(15, 15)), optax.adam, width=4))
    with pytest.raises(Unscalarisable, match="it changes nothing"):
        kernel_of(read(TRUTH.build(np.float32), lambda _: optax.set_to_zero()))
    with jax.enable_x64(True), pytest.raises(Unscalarisable, match="it computes in float64"):
        kernel_of(read(TRUTH.build(), jf.methods.gradient_descent))


def sweep(seeds, **options):
    given = {"step_size": [0.3, 1.1], "max_steps": 400, "check_every": 10, "tolerance": 1e-5, "record": "loss"}
    narrow = jf.Factorization(np.array([1, 0.6], np.float32), shape=(5, 4))
    return jf.sweep(descent(0.3, 2, narrow), seeds=seeds, every=100, **(given | options))


@pytest.fixture
def interpreted(monkeypatch):
    """Interpret kernels, also those that a GPU would compile for longer than they save."""
    monkeypatch.setattr(steps, "is_interpreted", lambda: True)
    monkeypatch.setattr(steps, "AT_ONCE", 5_000)


def unlooked(*_):
    raise Unscalarisable("as it was")


def test_a_sweep_in_registers_is_that_of_a_cpu(monkeypatch):
    """Looks as kernels and by XLA are those of a CPU: levels, records, and cycles too, of which these have all one."""
    on_the_cpu = sweep(6)
    monkeypatch.setattr(steps, "is_interpreted", lambda: True)
    in_turn = sweep(6)
    monkeypatch.setattr(steps, "IN_TURN", 400)
    by_xla = sweep(6)
    monkeypatch.setattr(steps, "AT_ONCE", 5_000)
    in_registers = sweep(6)
    assert on_the_cpu.attrs["lanes"] == "in vectors of 16 runs"
    said = "in registers, 128 runs to a block"
    assert in_registers.attrs["lanes"] == said
    assert in_turn.attrs["lanes"] == f"{said}, looks in a kernel of their own"
    why = "a step and a look have 490 operations, more than 400"
    assert by_xla.attrs["lanes"] == f"{said}, looks by XLA's kernels: {why}"
    assert {*on_the_cpu.outcome.values.flat} == {"converged", "cycle"}
    for found in (in_registers, in_turn, by_xla):
        # Above the edge of stability last bits decide when a run comes back and to what, but not that it does.
        np.testing.assert_array_equal(found.outcome, on_the_cpu.outcome)
        assert np.all(found.period.sel(step_size=1.1) >= 2)
        below, expected = found.sel(step_size=0.3), on_the_cpu.sel(step_size=0.3)
        for name in ("steps", "hit"):
            np.testing.assert_array_equal(below[name], expected[name])
        for name in ("loss", "distance", "imbalance", "loss_path"):
            np.testing.assert_allclose(below[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "problem"), [("momentum", "completion by a mask"), ("scaled", "one factor")])
def test_whole_runs_in_registers_are_those_of_xla(name, problem, interpreted, monkeypatch):
    """To the end of a budget, and to convergence, with none to be recorded: all that a look remembers."""

    basis = frame(4, 2, 11).astype(np.float32)
    looked_for = KINDS[problem](jf.Factorization(np.array([1, 0.5], np.float32), shape=(4, 4), left=basis, right=basis))

    def found():
        run = jf.Run(looked_for, jf.starts.Gaussian(2, scale=0.3), METHODS[name](0.05))
        return jf.sweep(lambda: run, seeds=5, max_steps=99, check_every=9, tolerance=1e-3, record=None)

    in_registers = found()
    monkeypatch.setattr(looks, "Looks", unlooked)
    in_turn = found()
    monkeypatch.setattr(turns, "Turns", unlooked)
    by_xla = found()
    assert in_registers.attrs["lanes"] == "in registers, 128 runs to a block"
    assert in_turn.attrs["lanes"].endswith("looks in a kernel of their own")
    assert by_xla.attrs["lanes"].endswith("as it was")
    for one in (in_registers, in_turn):
        for name in ("outcome", "steps", "hit"):
            np.testing.assert_array_equal(one[name], by_xla[name])
        for name in ("loss", "distance", "misfit", "imbalance", "best_distance"):
            if name in by_xla:
                np.testing.assert_allclose(one[name], by_xla[name], rtol=1e-5, atol=1e-5)


def test_bits_in_registers_do_not_depend_on_company(interpreted):
    few, many = sweep(3), sweep([7, 2, 0, 1, 5, 9, 8], tile_runs=1)
    for name in ("loss", "distance", "steps", "loss_path"):
        np.testing.assert_array_equal(few[name], many[name].sel(seed=few.seed))


def test_a_store_made_one_way_is_not_gone_on_with_the_other(monkeypatch, tmp_path):
    store = tmp_path / "runs.zarr"
    sweep(1, store=store)
    monkeypatch.setattr(steps, "is_interpreted", lambda: True)
    with pytest.raises(ValueError, match="lanes was in vectors.* and is in registers"):
        sweep(2, store=store)


def way_on_a_gpu(checked=False):
    reading = read(SMALL, jf.methods.gradient_descent)
    rules, keys = Rules(True, False, checked, True), np.zeros(2, np.uint32)
    limits = Plan(100, 10, 1e-3, ()).limits(np.float32)
    work = Work(keys, np.zeros(1, np.uint32), {"step_size": np.ones(1, np.float32)}, np.int32(1), np.int32(10), limits)
    return Engine(reading, rules, work).way


def test_checked_steps_are_left_to_xla(interpreted):
    assert way_on_a_gpu().said == "in registers, 128 runs to a block"
    assert way_on_a_gpu(checked=True).said == "by XLA's kernels: every step is checked"


def test_without_triton_steps_are_left_to_xla(interpreted, monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxfact.engine.pallas", None)
    monkeypatch.delattr(engine, "pallas")
    assert way_on_a_gpu().said == "by XLA's kernels: this JAX makes no kernels by Triton"


@pytest.mark.skipif(Version(jax.__version__) >= Version("0.11"), reason="later versions compile while they lower")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_rules_lower_for_cuda(name):
    """Triton knows every operation that is let through, on every type; what it is made into is for `test_gpu.py`."""
    function, argument = FUNCTIONS[name]

    def advance(shared, own, number):
        return own[0], jax.tree.leaves(function(own[0]))

    x = jnp.asarray(argument)
    own = (x, [jnp.zeros_like(leaf) for leaf in jax.tree.leaves(function(x))])
    kernel = pallas.kernel_of(advance, [], own)
    many = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*leaf.shape, LANES), leaf.dtype), own)
    arguments = [], many, jax.ShapeDtypeStruct((LANES,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    traced = jax.jit(partial(pallas.advanced, kernel, False)).trace(*arguments)
    assert "__gpu$xla.gpu.triton" in traced.lower(lowering_platforms=("cuda",)).as_text()
