"""What the device of `gpu.py` can do at most, measured: bytes moved, arithmetic, and how float32 products round."""

import subprocess
import time
from collections.abc import Callable
from shutil import which
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_CHAIN = 512  # multiplications and additions on each number, so that reading and writing it does not count


def seconds(run: Callable[[], Any], enough: float) -> float:
    """Return how long a call takes: the least of calls that together take about `enough` seconds, warmed up."""
    jax.block_until_ready(run())
    spent, least = 0.0, np.inf
    while spent < enough:
        began = time.perf_counter()
        jax.block_until_ready(run())
        took = time.perf_counter() - began
        spent, least = spent + took, min(least, took)
    return least


def bytes_per_second(numbers: int, enough: float) -> float:
    """Return what a pass over an array moves, counting bytes read and written; ten passes to a call."""

    @jax.jit
    def passes(x):
        return lax.fori_loop(0, 10, lambda _, x: lax.optimization_barrier(x + 1), x)

    x = jnp.ones(numbers, jnp.float32)
    return 10 * 2 * x.nbytes / seconds(lambda: passes(x), enough)


def flops_per_second(numbers: int, enough: float) -> float:
    """Return the rate of float32 multiplications and additions, which XLA does not contract into one instruction."""

    @jax.jit
    def chain(x, a, b):
        for _ in range(_CHAIN):
            x = x * a + b
        return x

    x, a, b = jnp.ones(numbers, jnp.float32), jnp.float32(0.999), jnp.float32(0.001)
    return 2 * _CHAIN * numbers / seconds(lambda: chain(x, a, b), enough)


def product_flops_per_second(size: int, enough: float) -> float:
    """Return the rate of a float32 matrix product, whose library multiplies and adds in one instruction."""
    A, B = _matrices(size)
    product = jax.jit(lambda A, B: jnp.matmul(A, B, precision=lax.Precision.HIGHEST))
    return 2 * size**3 / seconds(lambda: product(A, B), enough)


def launch_seconds(enough: float) -> float:
    """Return what one kernel of a loop costs that does next to nothing."""

    @jax.jit
    def loop(x):
        return lax.fori_loop(0, 1000, lambda _, x: lax.optimization_barrier(x + 1), x)

    x = jnp.ones(1024, jnp.float32)
    return seconds(lambda: loop(x), enough) / 1000


def product_errors(size: int = 512) -> dict[str, float]:
    """Return the relative error of a float32 product at each precision: 1e-7 is float32's, 3e-4 that of TF32."""
    A, B = _matrices(size)
    exact, found = np.asarray(A, float) @ np.asarray(B, float), {}
    for precision in (lax.Precision.DEFAULT, lax.Precision.HIGHEST):
        product = np.asarray(jnp.matmul(A, B, precision=precision), float)
        found[f"product, {precision.name.lower()}"] = float(np.linalg.norm(product - exact) / np.linalg.norm(exact))
    return found


def ceilings(tiny: bool) -> dict[str, Any]:
    """Measure the device."""
    numbers, enough = (2**14, 0.01) if tiny else (2**28, 0.3)
    return {
        "bytes_per_second": bytes_per_second(numbers, enough),
        "cached_bytes_per_second": bytes_per_second(numbers // 64, enough),
        "flops_per_second": flops_per_second(numbers // 16, enough),
        "product_flops_per_second": product_flops_per_second(64 if tiny else 8192, enough),
        "launch_seconds": launch_seconds(enough),
    }


def _matrices(size: int) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal((size, size), np.float32)) for _ in range(2)]


def accelerator() -> dict[str, Any]:
    """Return the device, its driver and its numbers, as far as they are told."""
    first = jax.local_devices()[0]
    told = {name: getattr(first, name, None) for name in ("core_count", "compute_capability")}
    query = "--query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm,power.limit"
    smi = [which("nvidia-smi"), query, "--format=csv,noheader"]
    lines = subprocess.run(smi, capture_output=True, text=True, check=False).stdout.splitlines() if smi[0] else []
    return {"kind": first.device_kind, "count": jax.local_device_count(), **told, "nvidia_smi": lines}


def peak_bytes() -> int | None:
    """Return the most memory that this process has used on the first device."""
    found = jax.local_devices()[0].memory_stats()
    return found["peak_bytes_in_use"] if found else None
