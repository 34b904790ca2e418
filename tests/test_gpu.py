"""What a GPU would run: lowering for CUDA without its wheels, and with them what the compiler makes for an H100."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfact as jf

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_readiness.py"

# Kernels of one step as measured with jax 0.10.2; another compiler fuses a little differently (0.11.2: 50 with noise).
KERNELS = {"gradient_descent": 4, "balanced": 3, "momentum": 5, "scaled": 15, "perturbed": 44}
MARGIN = 9 / 8, 2

LOOP = """\
%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %sum = f32[8]{0} add(%p, %p)
}

%inner (q: (s32[], f32[8])) -> (s32[], f32[8]) {
  %q = (s32[], f32[8]{0}) parameter(0)
  ROOT %solve = (s32[], f32[8]{0}) custom-call(%q), custom_call_target="solve"
}

%body (t: (s32[], f32[8])) -> (s32[], f32[8]) {
  %t = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%t), index=1
  %fusion.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/while(body)/add"}
  %copy.1 = f32[8]{0} copy(%fusion.1)
  ROOT %nested = (s32[], f32[8]{0}) while(%t), condition=%never, body=%inner, \
backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[], f32[8]{0}) parameter(0)
  %outside = (s32[], f32[8]{0}) custom-call(%a), custom_call_target="once"
  ROOT %loop = (s32[], f32[8]{0}) while(%outside), condition=%never, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
}
"""


@pytest.fixture(scope="module")
def readiness():
    spec = importlib.util.spec_from_file_location("gpu_readiness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # The script sets it for itself; what other tests start must not inherit it.
        patch.setenv("JAX_PLATFORMS", "cpu")
        spec.loader.exec_module(module)
    return module


def lowered(function, *arguments, platform="cuda") -> str:
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def collectives(text: str) -> list[str]:
    return re.findall(r"stablehlo\.(all_\w+|reduce_scatter|collective_\w+)", text)


def library_calls(text: str) -> list[str]:
    """The decompositions that a GPU library would do; two of them have operations of their own."""
    calls = re.findall(r"custom_call @(\w*(?:cusolver|cublas|lapack|magma|cu_lu)\w*)", text)
    return calls + re.findall(r"stablehlo\.(cholesky|triangular_solve)", text)


def callbacks(text: str) -> list[str]:
    return re.findall(r"custom_call @(\w*callback\w*)|stablehlo\.(infeed|outfeed|send|recv)\b", text)


def dots(text: str) -> list[str]:
    return [line for line in text.splitlines() if "stablehlo.dot" in line]


def at_highest(text: str) -> list[str]:
    return [line for line in dots(text) if "precision = [HIGHEST, HIGHEST]" in line]


# The engine is the same around each step: once with a plain step, a solve and noise is enough.
@pytest.mark.parametrize(
    ("build", "method"),
    [("engine", method) for method in ("gradient_descent", "scaled", "perturbed")]
    + [("steps", method) for method in ("balanced", "momentum")],
)
def test_lowering_for_cuda(readiness, build, method):
    """Nothing in it waits for another device, a library or the host, and every product is a float32 one."""
    with jax.default_matmul_precision("highest"):
        program = getattr(readiness, build)
        function, arguments = program(readiness.METHODS[method], readiness.compressed(), lanes=8)
        text = lowered(function, *arguments)
    assert "stablehlo.while" in text
    assert collectives(text) == []
    assert library_calls(text) == []
    assert callbacks(text) == []
    assert at_highest(text) == dots(text)


@pytest.mark.parametrize(("precision", "all_highest"), [("highest", True), (None, False)])
def test_products_take_the_precision_asked_for(readiness, precision, all_highest):
    """Wide factors of a full-rank target have real products: at highest precision all of them, by default none."""
    problem = jf.Factorization(np.random.default_rng(0).normal(size=(40, 36)).astype(np.float32))
    with jax.default_matmul_precision(precision):
        function, arguments = readiness.steps(jf.methods.gradient_descent, problem, lanes=8, width=12)
        text = lowered(function, *arguments)
    assert dots(text)
    assert at_highest(text) == (dots(text) if all_highest else [])


@pytest.mark.parametrize(("precision", "count"), [("highest", 1), (None, 0)])
def test_control_of_precision(precision, count):
    with jax.default_matmul_precision(precision):
        text = lowered(lambda x: jnp.dot(x, x), jnp.ones((4, 4), jnp.float32))
    assert len(dots(text)) == 1
    assert len(at_highest(text)) == count


@pytest.mark.parametrize(
    "function",
    [jnp.linalg.svd, jnp.linalg.qr, jnp.linalg.cholesky, lambda x: jnp.linalg.solve(x, x)],
    ids=["svd", "qr", "cholesky", "solve"],
)
def test_control_of_library_calls(function):
    assert library_calls(lowered(function, jnp.eye(4, dtype=jnp.float32)))


def test_control_of_callbacks_and_collectives():
    """A callback needs a host, so that it is lowered for the one at hand."""
    one = jnp.ones(4, jnp.float32)
    host = jax.default_backend()
    assert callbacks(lowered(lambda x: jax.pure_callback(np.sin, x, x), one, platform=host))
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("lane",))
    total = jax.shard_map(lambda x: jax.lax.psum(x, "lane"), mesh=mesh, in_specs=jax.P("lane"), out_specs=jax.P())
    assert collectives(lowered(total, one)) == ["all_reduce"]


def test_launches_are_counted(readiness):
    """One fusion and three passes of the inner call; the copy apart, and nothing from outside the loop."""
    assert readiness.launches(LOOP, 10) == (4, 1)
    assert readiness.launches(LOOP, 3) == (1, 0)
    with pytest.raises(ValueError, match="0 loops of 7 trips"):
        readiness.launches(LOOP, 7)


def test_collectives_and_tf32_are_counted(readiness):
    start = "  %r = f32[8]{0} all-reduce-start(%x), replica_groups={}\n  %d = f32[8]{0} all-reduce-done(%r)"
    assert readiness.collectives(start) == 1
    assert readiness.collectives(LOOP) == 0
    call = '  %g = (f32[8]{0}, s8[4]) custom-call(%x), custom_call_target="__cublas$lt$matmul", "operand_precision":'
    assert readiness.tf32(call + '["DEFAULT","DEFAULT"]', "") == 1
    assert readiness.tf32(call + '["HIGHEST","HIGHEST"]', "") == 0
    assert readiness.tf32("", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {};\nfma.rn.f32 %f1;") == 1


def test_ready_only_if_clean_and_the_controls_are_seen(readiness):
    clean, seen = {"tf32": 0, "collectives": 0}, {"tf32": 20, "collectives": 1}
    assert readiness.is_ready({"rows": [clean, clean], "controls": seen})
    for name in clean:
        assert not readiness.is_ready({"rows": [clean, clean | {name: 1}], "controls": seen})
        assert not readiness.is_ready({"rows": [clean], "controls": seen | {name: 0}})


def test_script_without_wheels_says_what_to_install(readiness, monkeypatch, capsys):
    monkeypatch.setattr(readiness, "WHEELS", ("a-wheel-that-nobody-has",))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    assert readiness.main() == 2
    assert capsys.readouterr().err == readiness.MISSING + "\n"


@pytest.fixture(scope="module")
def found(readiness):
    """The script's report; in a process of its own, because JAX drops the compiler when it first misses the GPU."""
    pytest.importorskip("jax_cuda13_plugin")
    if not readiness.has_wheels():
        pytest.skip(readiness.MISSING)
    run = subprocess.run([sys.executable, str(SCRIPT), "--json"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def test_compiled_programs_are_plain_float32_and_alone(found):
    assert {(row["program"], row["method"]) for row in found["rows"]} == {
        (program, method) for method in KERNELS for program in ("steps", "engine")
    }
    assert {row["collectives"] for row in found["rows"]} == {0}
    assert {row["tf32"] for row in found["rows"]} == {0}


def test_controls_show_what_is_looked_for(found):
    """Default precision makes tensor-core products of a matrix gradient, and a sum over devices a collective."""
    assert found["controls"]["tf32"] > 0
    assert found["controls"]["collectives"] > 0


def test_a_step_is_a_few_kernels(found):
    for row in found["rows"]:
        if row["program"] == "steps":
            assert 1 <= row["kernels_per_step"] <= KERNELS[row["method"]] * MARGIN[0] + MARGIN[1], row
            assert row["copies_per_step"] <= 4, row


def test_a_run_needs_little_memory(found):
    """A hundred float32 numbers in factors are 400 bytes; an engine keeps several copies and its bookkeeping."""
    for row in found["rows"]:
        assert row["temporary_bytes_per_run"] < {"steps": 1500, "engine": 4000}[row["program"]], row


def test_plain_steps_stay_in_registers(found):
    """Up to d = 5 nothing is spilled; what methods with larger steps spill is some of a hundred and more numbers."""
    if not found["kernels"]:
        pytest.skip("no ptxas on the path")
    rows = {(row["method"], row["d"]): row for row in found["kernels"] if row["kernel"] == "steps"}
    for width in (2, 3, 5):
        row = rows["gradient_descent", width]
        assert row["registers"] <= 255
        assert row["stack_frame"] == row["spill_stores"] == row["spill_loads"] == 0, row
    assert rows["gradient_descent", 2]["registers"] < rows["gradient_descent", 3]["registers"] < 200
    assert max(row["spill_loads"] for row in rows.values()) < 400, rows


def test_looks_stay_in_registers(found):
    """A look is at most two kernels, and nothing is spilled up to d = 5."""
    if not found["kernels"]:
        pytest.skip("no ptxas on the path")
    rows = {(row["kernel"], row["d"]): row for row in found["kernels"]}
    assert rows["turns", 8]["none"] == "its state is 256 numbers, more than 200"
    small = [rows["steps and looks", 2], *(rows[f"turns, {name}", d] for name in ("steps", "looks") for d in (2, 3, 5))]
    assert [row["kernels_per_look"] for row in small] == [1, *[2] * 6]
    for row in small:
        assert row["registers"] <= 255
        assert row["stack_frame"] == row["spill_stores"] == row["spill_loads"] == 0, row
