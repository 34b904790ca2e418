"""Compile the step and the engine for an H100 without one, and count what would run there.

    python benchmarks/gpu_readiness.py [--json]

The wheels jax-cuda13-plugin and jax-cuda13-pjrt hold the compiler, and `ptxas` on the path says what its kernels in
registers take; no GPU, driver or cuDNN is needed. Without a device
nothing is tuned, so lowering, kernel counts and memory are real, and speeds cannot be read from them.

Exits 0 when no program has a collective or a TF32 product and both controls have theirs, 1 otherwise, 2 without wheels.
"""

import os

# An absent GPU would make JAX drop the plugin, and its compiler with it.
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding, PartitionSpec, use_abstract_mesh

import jaxfact as jf
from jaxfact.engine import pallas
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.lanes import Engine, Work
from jaxfact.engine.outcomes import Plan, Rules
from jaxfact.engine.reading import Reading
from jaxfact.engine.scalars import Unscalarisable
from jaxfact.engine.steps import Way, kernel_of_looks, kernels_in_turn
from jaxfact.engine.turns import TOGETHER
from jaxfact.numerics.draws import key_of

WHEELS = ("jax-cuda13-plugin", "jax-cuda13-pjrt")
MISSING = f"install {' and '.join(WHEELS)} of the same version as jax"

# XLA's GpuTargetConfigProto, from published specifications of the SXM card rather than dumped from one.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: 3352000000000
  device_memory_size: 85899345920
}
"""

LANES = 4096
STEPS = 100
CHECK_EVERY = 10
_ALL = 10_000  # operations, more than the engine would compile

WIDTHS = (2, 3, 5)
AT_ONCE_WIDTH, TOO_WIDE = 2, 8
METHODS: dict[str, Callable] = {
    "gradient_descent": jf.methods.gradient_descent,
    "balanced": lambda step_size: jf.methods.balanced(step_size, 1 / 8),
    "momentum": lambda step_size: optax.sgd(step_size, momentum=0.9),
    "scaled": lambda step_size: jf.methods.scaled_gd(step_size, 0.01),
    "perturbed": lambda step_size: jf.methods.perturbed(step_size, 1e-5),
}

_SILENT = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"}
_COLLECTIVE = r"\s(all-reduce|all-gather|all-to-all|ragged-all-to-all|reduce-scatter|collective-\w+)(?:-start)?\("


class Compiled(NamedTuple):
    """What the compiler made: optimised HLO, the text of all kernels, and temporary bytes."""

    hlo: str
    ptx: str
    temporary_bytes: int


def compressed(rank: int = 5) -> jf.Factorization:
    """Return a target whose runs are compressed to twice as many rows as its rank, or thrice with noise."""
    return jf.Factorization(np.linspace(1, 0.2, rank, dtype=np.float32), shape=(100, 100))


def steps(method: Callable, problem: jf.Factorization, lanes: int, width: int = 5) -> tuple[Callable, tuple]:
    """Return the loop of `STEPS` steps over all lanes, and the shapes of its arguments."""
    program, work = _program(method, problem, width), _work(lanes)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0, impl="threefry2x32"), lanes))
    own = jax.eval_shape(jax.vmap(program.start, (None, 0, 0), -1), program.shared, keys, work.points)

    def loop(shared, own, begin):
        def step(index, own):
            return jax.vmap(program.advance, (None, -1, 0), -1)(shared, own, begin + index)

        return lax.fori_loop(0, STEPS, step, own)

    return loop, _shapes((program.shared, own, jnp.zeros(lanes, jnp.int32)))


def engine(method: Callable, problem: jf.Factorization, lanes: int) -> tuple[Callable, tuple]:
    """Return the whole compiled loop of a sweep, for one tile of as many runs as lanes, and its arguments' shapes."""
    program, work = _program(method, problem), _work(lanes)
    rules = Rules(periodic=not program.uses_noise, misfits=program.findings.misfits, checked=False, stops=True)
    way = Way("by XLA's kernels", lanes)
    made = Engine(program, rules, work, way)
    tile = made.empty(lanes)
    return made.advance, _shapes((made.code, program.shared, work, tile, jnp.ones((), jnp.int32)))


def registers(method: Callable, problem: jf.Factorization, lanes: int, width: int) -> tuple[Callable, tuple]:
    """Return the kernel that takes all steps between two looks in registers, and the shapes of its arguments."""
    _, (shared, own, step) = steps(method, problem, lanes, width)
    program, work = _program(method, problem, width), _work(lanes)
    alone = jax.eval_shape(program.start, program.shared, key_of(0), jax.tree.map(lambda x: x[0], work.points))
    kernel = pallas.kernel_of(program.advance, program.shared, alone)
    return partial(pallas.advanced, kernel, False), (shared, own, step, jax.ShapeDtypeStruct((), jnp.int32))


def looks(method: Callable, problem: jf.Factorization, lanes: int, width: int) -> tuple[Callable, tuple]:
    """Return the kernel that takes steps and looks at runs until some have ended, and the shapes of its arguments."""
    return _of_lanes(method, problem, lanes, width, kernel_of_looks)


def _of_lanes(
    method: Callable, problem: jf.Factorization, lanes: int, width: int, kernel_of: Callable
) -> tuple[Callable, tuple]:
    program, work = _program(method, problem, width), _work(lanes)
    rules = Rules(periodic=not program.uses_noise, misfits=program.findings.misfits, checked=False, stops=True)
    made = Engine(program, rules, work, Way("by XLA's kernels", lanes))
    kernel = kernel_of(program, rules, made.lane, work.limits, _ALL, interpret=False)
    number = jax.ShapeDtypeStruct((), jnp.int32)

    def call(shared, uniform, lanes, blocks, enough):
        return kernel(kernel.code, shared, uniform, lanes, (), blocks, enough)

    lanes_of = _shapes((program.shared, (work.stride, work.limits), made.empty(lanes).lanes))
    return call, (*lanes_of, number, number)


def turns(method: Callable, problem: jf.Factorization, lanes: int, width: int) -> tuple[Callable, tuple]:
    """Return the two kernels that take turns until some runs have ended, and the shapes of their arguments."""
    return _of_lanes(method, problem, lanes, width, kernels_in_turn)


def allocated(ptx: str, name: str = "steps") -> dict[str, int]:
    """Return the registers and the bytes of stack and spills of a thread of a kernel, by the assembler's report."""
    # Each module begins with the same line of comment; the kernel is one of them.
    [module] = [text for text in re.split(r"(?m)^(?=// Generated)", ptx) if f".entry {name}(" in text]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "steps.ptx"
        source.write_text(module)
        command = ["ptxas", "-v", "-arch=sm_90a", str(source), "-o", f"{source}.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", said)
    [count] = re.findall(r"Used (\d+) registers", said)
    return {"registers": int(count)} | {name.replace(" ", "_"): int(size) for size, name in spills}


def compile_for_h100(function: Callable, arguments: tuple, devices: int = 1) -> Compiled:
    """Compile for absent H100s; with several, the first axis of every argument is cut among them."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology=f"1x1x{devices}")
    spec = PartitionSpec("device") if devices > 1 else PartitionSpec()
    sharding = NamedSharding(Mesh(np.array(topology.devices), ("device",)), spec)
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments)
    # Later versions of JAX compile kernels as they lower them, and ask for the device then.
    device = AbstractDevice("NVIDIA H100 80GB HBM3", 132, "gpu")
    with tempfile.TemporaryDirectory() as folder, use_abstract_mesh(AbstractMesh((), (), (), abstract_device=device)):
        options: Any = {"xla_dump_to": folder, "xla_dump_emitter_re": ".*"}
        compiled: Any = jax.jit(function).lower(*placed).compile(compiler_options=options)
        ptx = "\n".join(path.read_text() for path in sorted(Path(folder).glob("*.ptx")))
    if not ptx:
        raise RuntimeError("the compiler wrote no PTX, so TF32 cannot be looked for")
    return Compiled(compiled.as_text(), ptx, compiled.memory_analysis().temp_size_in_bytes)


def collectives(hlo: str) -> int:
    """Count the instructions that talk to other devices."""
    return len(re.findall(_COLLECTIVE, hlo))


def tf32(hlo: str, ptx: str) -> int:
    """Count TF32 products: tensor-core instructions, and library calls allowed to use them, whose code is not here."""
    library = [line for line in hlo.splitlines() if 'custom_call_target="__cublas' in line and " = (f32[" in line]
    allowed = [line for line in library if '"operand_precision":["HIGHEST","HIGHEST"]' not in line]
    return len(re.findall(r"mma\S*tf32", ptx)) + len(allowed)


def launches(hlo: str, trips: int) -> tuple[int, int]:
    """Count kernels and copies that one pass of the only loop with this trip count launches, its counter included."""
    computations = _computations(hlo)
    loops = [line for body in computations.values() for op, line in body if op == "while" and _trips(line) == trips]
    if len(loops) != 1:
        raise ValueError(f"found {len(loops)} loops of {trips} trips, not one")
    found = _launched(computations, _called(loops[0], "body")[0])
    copies = sum(op.startswith("copy") for op in found)
    return len(found) - copies, copies


def per_look(hlo: str) -> float:
    """Count what one pass of the only loop launches for each of its turns, without asking whether any block goes on."""
    computations = _computations(hlo)
    [loop] = [line for body in computations.values() for op, line in body if op == "while"]
    return len(_launched(computations, _called(loop, "body")[0])) / TOGETHER


def report() -> dict:
    """Compile every method's step and engine at highest precision, and the controls."""
    rows = []
    with jax.default_matmul_precision("highest"):
        for name, method in METHODS.items():
            for build, trips in ((steps, STEPS), (engine, None)):
                row = {"program": build.__name__, "method": name}
                rows.append(row | _measured(*build(method, compressed(), LANES), trips))
    kernels = []
    if shutil.which("ptxas"):
        for name, width in [
            *((name, 5) for name in ("balanced", "momentum")),
            *(("gradient_descent", d) for d in WIDTHS),
        ]:
            compiled = compile_for_h100(*registers(METHODS[name], compressed(width), LANES, width))
            kernels.append({"kernel": "steps", "method": name, "d": width} | allocated(compiled.ptx))
        kernels += [_of_looks(AT_ONCE_WIDTH), *(row for width in (*WIDTHS, TOO_WIDE) for row in _of_turns(width))]
    return {"jax": jax.__version__, "lanes": LANES, "rows": rows, "kernels": kernels, "controls": controls()}


def controls() -> dict[str, int]:
    """Count what must be found, in two programs that have it: TF32 by default, and a sum over eight devices."""

    def gradient(U, V):
        residual = U @ V.T - jnp.eye(32, dtype=U.dtype)
        return residual @ V, residual.T @ U

    pair = (jax.ShapeDtypeStruct((1024, 32, 4), jnp.float32),) * 2
    with jax.default_matmul_precision("default"):
        products = compile_for_h100(jax.vmap(gradient), pair)
    total = compile_for_h100(jnp.sum, pair[:1], devices=8)
    return {"tf32": tf32(products.hlo, products.ptx), "collectives": collectives(total.hlo)}


def is_ready(found: dict) -> bool:
    """Tell whether all programs are free of what the controls show can be seen."""
    clean = not any(row["collectives"] or row["tf32"] for row in found["rows"])
    return clean and all(found["controls"].values())


def has_wheels() -> bool:
    """Tell whether the compiler is installed in the version of this JAX."""
    try:
        return all(metadata.version(wheel) == jax.__version__ for wheel in WHEELS)
    except metadata.PackageNotFoundError:
        return False


def _program(method: Callable, problem: jf.Factorization, width: int = 5) -> Reading:
    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, scale=0.01), method(step_size))

    point = {"step_size": jnp.asarray(0.1, problem.unit.dtype)}
    return Reading(experiment, point, None, compression=compression_of(method(0.1), None))


def _work(lanes: int) -> Work:
    points = {"step_size": jnp.full(lanes, 0.1, jnp.float32)}
    numbers = jnp.asarray(lanes, jnp.int32), jnp.asarray(CHECK_EVERY, jnp.int32)
    limits = Plan(max_steps=10_000, check_every=CHECK_EVERY, tolerance=1e-5, record_steps=()).limits(jnp.float32)
    return Work(jnp.zeros(2, jnp.uint32), jnp.arange(lanes, dtype=jnp.uint32), points, *numbers, limits)


def _of_looks(width: int) -> dict[str, Any]:
    """Return what the kernel of whole plain runs takes, of which one launch takes many looks."""
    compiled = compile_for_h100(*looks(METHODS["gradient_descent"], compressed(width), LANES, width))
    launched = compiled.hlo.count("__gpu$xla.gpu.triton")
    said = {"kernel": "steps and looks", "method": "gradient_descent", "d": width, "kernels_per_look": launched}
    return said | allocated(compiled.ptx, "looks")


def _of_turns(width: int) -> list[dict[str, Any]]:
    """Return what the kernels of steps and of looks take that take turns; or why there are none."""
    said = {"kernel": "turns", "method": "gradient_descent", "d": width}
    try:
        compiled = compile_for_h100(*turns(METHODS["gradient_descent"], compressed(width), LANES, width))
    except Unscalarisable as reason:
        return [said | {"none": str(reason)}]
    said["kernels_per_look"] = per_look(compiled.hlo)
    return [said | {"kernel": f"turns, {name}"} | allocated(compiled.ptx, name) for name in ("steps", "looks")]


def _shapes(tree: tuple) -> tuple:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _measured(function: Callable, arguments: tuple, trips: int | None) -> dict:
    compiled = compile_for_h100(function, arguments)
    # The engine chooses how often its loop runs as it goes, so that the loop cannot be recognised by its count.
    kernels, copies = launches(compiled.hlo, trips) if trips else ("-", "-")
    return {
        "kernels_per_step": kernels,
        "copies_per_step": copies,
        "temporary_bytes_per_run": round(compiled.temporary_bytes / LANES),
        "collectives": collectives(compiled.hlo),
        "tf32": tf32(compiled.hlo, compiled.ptx),
    }


def _computations(hlo: str) -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each computation as pairs of opcode and line."""
    found, body = {}, []
    for line in hlo.splitlines():
        if opening := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            body = found[opening[1]] = []
        elif instruction := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = .*?\s([a-z][a-z0-9-]*)\(", line):
            body.append((instruction[1], line))
    return found


def _launched(computations: dict[str, list[tuple[str, str]]], name: str) -> list[str]:
    """Return the opcodes of all that a computation launches; all branches of a conditional count."""
    found = []
    for op, line in computations[name]:
        if op == "while":
            found += _launched(computations, _called(line, "body")[0]) * _trips(line)
        elif op in ("call", "conditional"):
            for called in _called(line, "to_apply|true_computation|false_computation|branch_computations"):
                found += _launched(computations, called)
        elif op not in _SILENT and not op.endswith("-done"):
            found.append(op)
    return found


def _called(line: str, roles: str) -> list[str]:
    groups = re.findall(rf"\b(?:{roles})=(\{{[^}}]*\}}|[%\w.-]+)", line)
    return [name for group in groups for name in re.findall(r"[\w.-]+", group)]


def _trips(line: str) -> int:
    """Return how often a loop runs; 1 where the compiler does not know."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    return int(known[1]) if known else 1


def _print(found: dict) -> None:
    columns = list(found["rows"][0])
    print(f"jax {found['jax']}, {found['lanes']} lanes, compiled for one H100 at highest precision")
    for row in [dict(zip(columns, columns, strict=True)), *found["rows"]]:
        print("  ".join(f"{row[name]!s:<{max(16, len(name))}}" for name in columns).rstrip())
    for row in found["kernels"]:
        print("in registers:", ", ".join(f"{name} {value}" for name, value in row.items()))
    print("controls, which must not be 0:", ", ".join(f"{name} {n}" for name, n in found["controls"].items()))


def main() -> int:
    """Print what was found and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    as_json = parser.parse_args().json
    if not has_wheels():
        print(MISSING, file=sys.stderr)
        return 2
    # A program from the cache would come without its PTX.
    jax.config.update("jax_enable_compilation_cache", False)
    found = report()
    if as_json:
        print(json.dumps(found))
    else:
        _print(found)
    return 0 if is_ready(found) else 1


if __name__ == "__main__":
    sys.exit(main())
