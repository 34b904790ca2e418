"""Lanes in vectors of a CPU: what LLVM makes of each operation, of a step and of a look, beside what JAX makes."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import KINDS, METHODS, OF_THE_TRUTH, PROBLEMS, TRUTH
from jax import lax

import jaxfact as jf
from jaxfact.engine import machine, steps
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.lanes import Engine, Work, _start
from jaxfact.engine.llvm import Text
from jaxfact.engine.outcomes import Plan, Rules
from jaxfact.engine.reading import Reading
from jaxfact.engine.scalarising import scalarised
from jaxfact.engine.scalars import Unscalarisable
from jaxfact.engine.writing import Output, write
from jaxfact.numerics.draws import key_of, normal

LANES = 16


def compiled(function, *arrays):
    """Return what a function of numbers makes of arrays of 16, compiled as lanes are."""
    inputs, outputs = scalarised(jax.make_jaxpr(function)(*(x[0] for x in arrays)), 10_000)
    text, nodes = Text(LANES), [node for array in outputs for node in array.flat]
    given = [machine.buffer(text, "%arguments", k) for k in range(len(inputs))]
    found = [machine.buffer(text, "%results", k) for k in range(len(nodes))]
    leaf = {node: (node.dtype, pointer) for array, pointer in zip(inputs, given, strict=True) for node in array.flat}
    stores = [
        Output(node, lambda value, node=node, pointer=pointer: text.store(node.dtype, value, pointer, 1))
        for node, pointer in zip(nodes, found, strict=True)
    ]
    write(text, stores, lambda node, _: text.load(*leaf[node], 1))
    text.do("br label %leave")
    call = machine.called([jax.ShapeDtypeStruct((LANES,), node.dtype) for node in nodes])
    return jax.jit(call)(machine.code_of(machine.module(text)), *map(jnp.asarray, arrays))


SIZES = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.3, 2.5, -7.25, 1e-8, 3e4, -1e5, 1e-30, np.inf, -np.inf, np.nan, 0.7])
UNIT = np.linspace(-0.999, 0.999, LANES)
WHOLE = np.array([0, 1, -1, 2, 3, 7, -8, 10, 100, -100, 12345, -2, 31, 2**30, -(2**30), 5], np.int32)


def odd_shapes(x, y, n):
    """Products over nothing and of no rows, loops of no pass, and arrays taken apart into numbers."""
    nothing, no_rows = jnp.full((2, 0), x) @ jnp.full((0, 1), y), jnp.full((0, 2), x) @ jnp.full((2, 3), y)
    first, second = jnp.unstack(jnp.stack([x, y]))
    last, passed = lax.scan(lambda c, z: (c * z, z), y, jnp.stack([y, 2 * y]))
    still, _ = lax.scan(lambda c, z: (c * z, c), y, jnp.zeros(0, y.dtype))
    return nothing[1, 0] + x, jnp.sum(no_rows) + y, first, second, last, passed[1], still


FUNCTIONS = {
    "arithmetic": lambda x, y, n: (x + y, x - y, x * y, x / y, -x, x**2, x**5, x**-3, lax.integer_pow(x, 0)),
    "comparisons": lambda x, y, n: (x < y, x <= y, x > y, x >= y, x == y, x != y, n < 3, n >= 3, n == 7, n != 7),
    "choices": lambda x, y, n: (jnp.maximum(x, y), jnp.minimum(x, y), jnp.where(x < y, x, y), jnp.clip(y, -0.5, 0.5)),
    "roots": lambda x, y, n: (jnp.sqrt(jnp.abs(x)), lax.rsqrt(jnp.abs(y)), jnp.square(x), jnp.sign(x)),
    "roundings": lambda x, y, n: (jnp.floor(x), jnp.ceil(x), jnp.isfinite(x), jnp.abs(x)),
    "exponentials": lambda x, y, n: (jnp.exp(x), jnp.expm1(y), jax.nn.sigmoid(x), jnp.tanh(x)),
    "logarithms": lambda x, y, n: (jnp.log(x), jnp.log1p(y), jnp.log(jnp.abs(y)), jnp.log(jnp.abs(x))),
    "waves": lambda x, y, n: (jnp.sin(y), jnp.cos(y)),
    "powers": lambda x, y, n: (jnp.abs(x) ** y, lax.pow(y, n), lax.pow(jnp.asarray(0.9, x.dtype), n % 8)),
    "whole numbers": lambda x, y, n: (n + 3, n - 3, n * 3, n // 3, n % 5, -n, jnp.maximum(n, 2), jnp.sign(n), ~n),
    "bits": lambda x, y, n: (n & 6, n | 6, n ^ 6, n << 3, n >> 2, n.astype(jnp.uint32) >> 3, n.astype(jnp.uint32)),
    "conversions": lambda x, y, n: (x.astype(jnp.int32), n.astype(x.dtype), (n > 2).astype(x.dtype), x.astype(bool)),
    "truth": lambda x, y, n: ((x < 1) & (n > 2), (x < 1) | (n > 2), ~(x < 1), (x < 1) ^ (n > 2)),
    "loops": lambda x, y, n: lax.while_loop(lambda c: c[0] < n % 7, lambda c: (c[0] + 1, c[1] * y), (0 * n, y)),
    "odd shapes": odd_shapes,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_those_of_jax(name, dtype):
    arrays = SIZES.astype(dtype), UNIT.astype(dtype), WHOLE
    for found, expected in zip(compiled(FUNCTIONS[name], *arrays), jax.vmap(FUNCTIONS[name])(*arrays), strict=True):
        assert found.dtype == expected.dtype
        tolerance = 4e-7 if found.dtype == np.float32 else 1e-14
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithms_are_right_to_the_last_digits(dtype):
    x = np.random.default_rng(0).uniform(1e-6, 1, (64, LANES)).astype(dtype)
    found = np.array([compiled(jnp.log, row)[0] for row in x[:8]])
    np.testing.assert_allclose(found, np.log(x[:8].astype(float)), rtol=3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normals_are_those_of_xla(dtype):
    def draw(seed):
        return normal(jax.random.fold_in(key_of(0), seed), (7,), jnp.dtype(dtype))

    def native(first, second):
        return normal(jnp.stack([first, second]), (7,), jnp.dtype(dtype))

    seeds = np.arange(LANES, dtype=np.uint32)
    words = np.asarray(jax.vmap(lambda s: jax.random.key_data(jax.random.fold_in(key_of(0), s)))(seeds))
    found = np.stack(compiled(native, words[:, 0].copy(), words[:, 1].copy()), axis=1)
    np.testing.assert_allclose(found, jax.vmap(draw)(seeds), rtol=100 * np.finfo(dtype).eps)


def test_denormal_numbers_count_as_zero():
    tiny = np.full(LANES, 2e-38, np.float32)
    assert np.all(np.asarray(compiled(lambda x: x * np.float32(0.1), tiny)[0]) == 0)
    assert np.all(np.float32(2e-38) * np.float32(0.1) > 0), "so it is a denormal number"


def test_offsets_in_the_call_frame_are_those_of_the_header():
    header = Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()
    header = re.sub(r"//[^\n]*|/\*.*?\*/", "", header, flags=re.DOTALL)

    def fields(struct):
        body = re.search(rf"struct {struct} \{{(.*?)\n\}}", header, re.DOTALL).group(1)
        return re.findall(r"([\w ]+?[\w*]|[\w ]+\*+)\s*(\w+)(?:\[\w+\])?;", re.sub(r"\s*\*\s*", "* ", body))

    def layout(struct):
        at, offsets, widest = 0, {}, 1
        for kind, name in fields(struct):
            kind = kind.replace("const ", "").replace("struct ", "").strip()
            inner = None if kind.endswith("*") or f"struct {kind} {{" not in header else layout(kind)
            is_enumeration = re.search(rf"enum (\w+ )?\{{[^}}]*\}} {re.escape(kind)};", header)
            is_short = kind in ("int", "int32_t") or is_enumeration
            size = inner[1] if inner else 4 if is_short else 8
            align = inner[2] if inner else size
            at = -(-at // align) * align
            offsets[name], at, widest = at, at + size, max(widest, align)
        return offsets, -(-at // widest) * widest, widest

    frame, arguments, results = layout("XLA_FFI_CallFrame")[0], layout("XLA_FFI_Args")[0], layout("XLA_FFI_Rets")[0]
    assert frame["extension_start"] == machine.EXTENSION
    assert frame["args"] + arguments["args"] == machine.ARGUMENTS
    assert frame["rets"] + results["rets"] == machine.RESULTS
    assert layout("XLA_FFI_Buffer")[0]["data"] == machine.DATA
    assert layout("XLA_FFI_Metadata_Extension")[0]["metadata"] == machine.METADATA
    version, inside = layout("XLA_FFI_Metadata")[0]["api_version"], layout("XLA_FFI_Api_Version")[0]
    assert (version + inside["major_version"], version + inside["minor_version"]) == (machine.MAJOR, machine.MINOR)


COUNT = 200


def engine_and_work(problem, method, width) -> tuple[Engine, Work]:
    compression = compression_of(method, None) if type(problem) is jf.Factorization else None
    start = jf.starts.Gaussian(width, scale=0.3)
    reading = Reading(lambda: jf.Run(problem, start, method), {}, None, (), compression)
    base, seeds = np.asarray(jax.random.key_data(key_of(0))), np.arange(LANES, dtype=np.uint32)
    limits = Plan(COUNT, COUNT, None, ()).limits(problem.dtype)
    work = Work(base, seeds, {}, np.asarray(LANES, np.int32), np.asarray(COUNT, np.int32), limits)
    return Engine(reading, Rules(not reading.uses_noise, problem.misfits, False, False), work), work


def both_ways(problem, method, width, monkeypatch):
    """Return how steps and a look are taken by LLVM, given what runs own, and by XLA, given how a start is nudged."""
    monkeypatch.setattr(steps, "_MOST_NATIVE", LANES)
    engine, work = engine_and_work(problem, method, width)
    assert engine.way.blocks is not None, engine.way.said
    reading, call = engine.reading, jax.jit(engine.way.blocks)
    lanes, _, _, recording = engine.empty(LANES)

    def native(own, count):
        begun = lanes._replace(
            own=own,
            run=np.arange(LANES, dtype=np.int32),
            step=np.zeros(LANES, np.int32),
            outcome=np.full(LANES, -1, np.int32),
            first_energy=np.full_like(lanes.first_energy, np.inf),
        )
        uniform = np.asarray(count, np.int32), work.limits
        ended, _, looks = call(
            engine.code, reading.shared, uniform, begun, recording.last, jnp.int32(1), jnp.int32(LANES)
        )
        assert int(looks) == 1
        return ended.own, ended

    def step(index, own):
        return jax.vmap(reading.advance, (None, -1, 0), -1)(reading.shared, own, jnp.full(LANES, index, jnp.int32))

    @jax.jit
    def by_xla(nudge, count):
        start = jax.vmap(partial(_start, reading), (None, None, 0), -1)
        own = start(reading.shared, jax.tree.map(jnp.asarray, work), jnp.arange(LANES))
        own = own._replace(factors=jax.tree.map(lambda x: x * (1 + nudge), own.factors))
        moved = lax.fori_loop(0, count, step, own)
        return own, moved, jax.vmap(reading.glance, (None, -1), -1)(reading.shared, moved)

    return native, by_xla


def assert_native_is_xla(problem, method, width, monkeypatch, rtol=1e-12):
    """Take steps and a look both ways, from the same starts."""
    native, by_xla = both_ways(problem, method, width, monkeypatch)
    own, expected, looked = by_xla(np.zeros(LANES, problem.dtype), COUNT)
    found, ended = native(own, COUNT)
    size = max(np.abs(np.asarray(x)).max() for x in jax.tree.leaves(expected.factors))
    for new, old in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(new, old, rtol=rtol, atol=rtol * size)
    for name in ("loss", "distance", "misfit", "imbalance"):
        np.testing.assert_allclose(getattr(ended, name), getattr(looked, name), rtol=10 * rtol, atol=rtol * size**2)


# Each method on one problem, each problem with some method; chains of the same rules are the same program.
PAIRS = {
    "gradient descent": "dense, wide",
    "scheduled": "rank-deficient",
    "balanced": "width above both sides",
    "perturbed": "singular values and bases",
    "perturbed on sphere": "rank-deficient",
    "perturbed in ball": "scalar",
    "scaled": "badly conditioned",
    "scaled, damped": "width above rank",
    "scaled by start": "singular values",
    "alternating": "dense, tall",
    "momentum": "repeated singular values",
    "Nesterov": "singular values",
    "Adam": "zero",
    "optax schedule": "scalar",
    "fresh batches": "scalar",
    "by the descent lemma": "scalar",
}
CHAINS = {"start in a chain", "balancing in a chain", "noise in a chain", "Gram in a chain"}


def test_each_method_and_each_problem_is_in_a_pair():
    assert {*PAIRS, *CHAINS} == {*METHODS, *OF_THE_TRUTH}
    assert {*PAIRS.values()} == {*PROBLEMS}


def case_of(name, problem, dtype=float):
    """Return problem, method and width."""
    method = (METHODS | OF_THE_TRUTH)[name](0.01 if name == "Adam" else 0.1)
    return PROBLEMS[problem].build(dtype), method, PROBLEMS[problem].width


@pytest.mark.parametrize(("name", "problem"), PAIRS.items())
def test_steps_and_looks_are_those_of_xla(name, problem, monkeypatch):
    assert_native_is_xla(*case_of(name, problem), monkeypatch)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("balanced", "singular values"),
        ("scaled, damped", "badly conditioned"),
        ("perturbed", "scalar"),
        ("Adam", "singular values"),
    ],
)
def test_single_precision_is_that_of_xla(name, problem, monkeypatch):
    with jax.enable_x64(False):
        assert_native_is_xla(*case_of(name, problem, np.float32), monkeypatch, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "problem"), [(METHODS["scaled"](0.1), "scalar"), (optax.rmsprop(0.0025), "singular values")]
)
def test_what_multiplies_rounding_differs_as_from_a_nudged_start(method, problem, monkeypatch):
    """After 200 steps native lanes are as far from XLA's as XLA's are where starts differ by a unit in the last place.

    ScaledGD divides by what passes through zero, and RMSProp by gradients that go to zero.
    """
    case = PROBLEMS[problem]
    native, by_xla = both_ways(case.build(), method, case.width, monkeypatch)

    def gap(one, other):
        pairs = zip(jax.tree.leaves(one.factors), jax.tree.leaves(other.factors), strict=True)
        return max(np.abs(np.asarray(x) - y).max() for x, y in pairs)

    def gaps(count):
        own, expected, _ = by_xla(np.zeros(LANES), count)
        nudged = [by_xla(np.full(LANES, k * np.finfo(float).eps), count)[1] for k in (-1, 1)]
        return gap(native(own, count)[0], expected), max(gap(x, expected) for x in nudged)

    assert max(gaps(2)) < 1e-12
    found, nudged = gaps(COUNT)
    assert 1e-6 < found < 10 * nudged


def test_one_factor_is_that_of_xla(monkeypatch):
    assert_native_is_xla(KINDS["one factor"](TRUTH.build()), METHODS["momentum"](0.05), 2, monkeypatch)


def sorting(updates, state, params=None):
    return jax.tree.map(lambda x: -0.1 * jnp.sort(x, axis=0), updates), state


def telling(updates, state, params=None):
    jax.debug.callback(lambda x: None, jax.tree.leaves(updates)[0])
    return updates, state


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        # It would go untold.
        (
            optax.GradientTransformation(lambda params: optax.EmptyState(), telling),
            "it has the operation debug_callback",
        ),
        (optax.GradientTransformation(lambda params: optax.EmptyState(), sorting), "it has the operation sort"),
        (optax.chain(optax.add_noise(0.01, 0.5, 3), optax.sgd(0.1)), "its state holds a random key"),
    ],
)
def test_what_cannot_go_this_way_says_why(method, reason):
    assert engine_and_work(TRUTH.build(), method, 2)[0].way.said == f"by XLA's kernels: {reason}"


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        # Nothing to LLVM, and zero to XLA.
        (lambda y, n: lax.shift_left(n, np.int32(33)), "shift_left by 33 bits"),
        # NaN to XLA.
        (lambda y, n: jnp.take(jnp.stack([y, y]), jnp.array([0, 7])), "gather beyond the array"),
        # A sum of truth values would be their parity.
        (lambda y, n: jnp.stack([y > 0, y < 1]) @ jnp.stack([y > 0, y < 1]), "product of bool by bool as bool"),
        (lambda y, n: jnp.ones(2, int) @ jnp.stack([n, n]), "product of int64 by int32 as int64"),
        (lambda y, n: lax.bitcast_convert_type(n, jnp.uint8), "bitcast_convert_type from int32 to uint8"),
        # It holds a program, and is no call of it.
        (lambda y, n: lax.reduce(jnp.stack([y, y]), 0.0, lambda a, b: a + 2 * b, (0,)), "the operation reduce"),
    ],
)
def test_what_would_be_another_number_is_refused(function, reason):
    with pytest.raises(Unscalarisable, match=reason):
        compiled(function, UNIT, WHOLE)


def test_a_processor_of_another_kind_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    with pytest.raises(Unscalarisable, match="the processor is aarch64, not x86-64"):
        machine.check()
