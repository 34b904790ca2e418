"""Lanes in vectors of a CPU: what LLVM makes of each operation, of a step and of a look, beside what JAX makes."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import KINDS, METHODS, PROBLEMS, TRUTH
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


def read(problem, method, width) -> Reading:
    compression = compression_of(method, None) if type(problem) is jf.Factorization else None
    return Reading(lambda: jf.Run(problem, jf.starts.Gaussian(width, scale=0.1), method), {}, None, (), compression)


# Undamped, these multiply what rounding does wherever a Gram matrix is nearly singular: by 10⁶ in 20 steps.
UNSTABLE = {"scaled", "scaled by start", "start in a chain"}


def assert_native_is_xla(problem, method, width, monkeypatch, count=200, rtol=1e-12):
    """Take steps and a look both ways, from the same starts."""
    monkeypatch.setattr(steps, "_MOST_NATIVE", LANES)
    reading = read(problem, method, width)
    plan = Plan(count, count, None, ())
    base, seeds = np.asarray(jax.random.key_data(key_of(0))), np.arange(LANES, dtype=np.uint32)
    numbers = np.asarray(LANES, np.int32), np.asarray(count, np.int32)
    work = Work(base, seeds, {}, *numbers, plan.limits(problem.dtype))
    engine = Engine(reading, Rules(not reading.uses_noise, problem.misfits, False, False), work)
    assert engine.way.blocks is not None, engine.way.said
    own = jax.jit(jax.vmap(partial(_start, reading), (None, None, 0), -1))(
        reading.shared, jax.tree.map(jnp.asarray, work), jnp.arange(LANES)
    )
    lanes, _, _, recording = engine.empty(LANES)
    begun = lanes._replace(
        own=own,
        run=np.arange(LANES, dtype=np.int32),
        step=np.zeros(LANES, np.int32),
        outcome=np.full(LANES, -1, np.int32),
        first_energy=np.ones_like(lanes.first_energy),
    )
    blocks = jax.jit(engine.way.blocks)
    uniform = work.stride, work.limits
    ended, _, looks = blocks(
        engine.code, reading.shared, uniform, begun, recording.last, jnp.int32(1), jnp.int32(LANES)
    )
    assert int(looks) == 1

    def step(index, own):
        return jax.vmap(reading.advance, (None, -1, 0), -1)(reading.shared, own, jnp.full(LANES, index, jnp.int32))

    expected = jax.jit(lambda own: lax.fori_loop(0, count, step, own))(own)
    looked = jax.jit(jax.vmap(reading.glance, (None, -1), -1))(reading.shared, expected)
    size = max(np.abs(np.asarray(x)).max() for x in jax.tree.leaves(expected.factors))
    for new, old in zip(jax.tree.leaves(ended.own), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(new, old, rtol=rtol, atol=rtol * size)
    for name in ("loss", "distance", "misfit", "imbalance"):
        np.testing.assert_allclose(getattr(ended, name), getattr(looked, name), rtol=10 * rtol, atol=rtol * size**2)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_that_of_xla(name, monkeypatch):
    # Adam's first steps are the signs of gradients, and multiply what rounding does to small ones.
    method = METHODS[name](0.01 if name == "Adam" else 0.1)
    count, rtol = 5 if name in UNSTABLE else 200, 1e-10 if name == "Adam" else 1e-12
    assert_native_is_xla(PROBLEMS["singular values"].build(), method, 3, monkeypatch, count, rtol)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_factorisation_is_that_of_xla(name, monkeypatch):
    case = PROBLEMS[name]
    assert_native_is_xla(case.build(), METHODS["balanced"](0.1), case.width, monkeypatch)


@pytest.mark.parametrize("name", ["balanced", "scaled, damped"])
def test_single_precision_is_that_of_xla(name, monkeypatch):
    problem = PROBLEMS["singular values"].build(np.float32)
    with jax.enable_x64(False):
        assert_native_is_xla(problem, METHODS[name](0.1), 3, monkeypatch, rtol=1e-5)


def test_one_factor_is_that_of_xla(monkeypatch):
    assert_native_is_xla(KINDS["one factor"](TRUTH.build()), METHODS["momentum"](0.05), 2, monkeypatch)


def test_what_cannot_go_this_way_says_which_operation_it_was():
    def sorting(updates, state, params=None):
        return jax.tree.map(lambda x: -0.1 * jnp.sort(x, axis=0), updates), state

    method = optax.GradientTransformation(lambda params: optax.EmptyState(), sorting)
    run = jf.Run(TRUTH.build(), jf.starts.Gaussian(2, scale=0.1), method)
    runs = jf.sweep(lambda: run, seeds=1, max_steps=10, tolerance=None)
    assert runs.attrs["lanes"] == "by XLA's kernels: it has the operation sort"


def test_shifts_beyond_the_width_are_refused():
    """They are nothing to LLVM, and zero to XLA."""
    with pytest.raises(Unscalarisable, match="shift_left by 33 bits"):
        compiled(lambda n: lax.shift_left(n, np.int32(33)), WHOLE)


def test_keys_in_a_state_are_left_to_xla():
    method = optax.chain(optax.add_noise(0.01, 0.5, 3), optax.sgd(0.1))
    run = jf.Run(TRUTH.build(), jf.starts.Gaussian(2, scale=0.1), method)
    runs = jf.sweep(lambda: run, seeds=1, max_steps=10, tolerance=None)
    assert runs.attrs["lanes"] == "by XLA's kernels: its state holds a random key"


def test_a_processor_of_another_kind_is_left_to_xla(monkeypatch):
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    with pytest.raises(Unscalarisable, match="the processor is aarch64, not x86-64"):
        machine.check()
