"""The contenders of `gpu.py`: PyTorch and plain JAX on the device, from the same starts as jaxfact."""

import math
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax_peers
import numpy as np
import peers
from factorization import CHECK_STEPS, SCALE, build, measure
from peers import Case, Contender, Timed

_REPLAYED = 10  # steps in a captured graph
_LONGEST = 20_000


def contenders(case: Case) -> list[Contender]:
    """Return the peers in float32, JAX at its default precision too, and jaxfact with and without compression."""
    found = [
        _contender(f"JAX, vmap(grad), {precision}", "residual", case, _jax(case, precision))
        for precision in ("highest", "default")
    ]
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    if find_spec("torch"):
        for gram, label in ((False, "PyTorch, batched"), (True, "PyTorch, batched, Gram form")):
            descend = partial(peers.torch_form, gram=gram, device=device)
            found.append(_contender(label, "gram" if gram else "residual", case, _whole(case, descend)))
    if find_spec("torch") and device == "cuda":
        run = _whole(peers.compress(case), _replayed)
        found.append(_contender("PyTorch, same mathematics, graph", "compressed", case, run))
    return found + jax_peers.jaxfact_contenders(case, SCALE)[:2]


def compare(size: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Return each contender's run-steps per second, and how far its losses are from those in float64 at first."""
    case = build("gpu", size)
    count = min(peers.CHECKED, case.starts, max(2, 2**22 // math.prod(case.shape)))
    U, V = (X[:count].astype(float) for X in (case.U, case.V))
    expected = peers.losses(case.values, *peers.residual_form(U, V, case.values, case.step_size, CHECK_STEPS))
    found = contenders(case)
    off = [float(np.max(np.abs(one.run(count, CHECK_STEPS).losses / expected - 1))) for one in found]
    rows = measure(case, found, 2, seconds)
    return [
        {"contender": row["contender"], "rate": row["run_steps_per_second"], "off": deviation}
        for row, deviation in zip(rows, off, strict=True)
    ]


def _contender(label: str, form: str, case: Case, run: Callable[[int, int], Timed]) -> Contender:
    return Contender(label, form, run, case.starts, (_REPLAYED, _LONGEST))


def _whole(case: Case, descend: Callable) -> Callable[[int, int], Timed]:
    """Descend all starts as one batch."""
    return lambda starts, steps: peers.in_blocks(case, descend, starts, 1, starts, steps)


def _replayed(U, V, values, step_size, steps):
    """Descend by a captured graph of some steps, so that no kernel waits for Python."""
    import torch

    U, V = torch.from_numpy(U).cuda(), torch.from_numpy(V).cuda()
    step = peers.torch_step(values, U.shape[1], V.shape[1], step_size, gram=True, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        step(U, V)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # By default what any thread asks of the device meanwhile, as those of JAX do, breaks the capture and the device.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        moved = U, V
        for _ in range(_REPLAYED):
            moved = step(*moved)
        U.copy_(moved[0])
        V.copy_(moved[1])
    for _ in range(steps // _REPLAYED):
        graph.replay()
    for _ in range(steps % _REPLAYED):
        U, V = step(U, V)
    return U.cpu().numpy(), V.cpu().numpy()


def _jax(case: Case, precision: str) -> Callable[[int, int], Timed]:
    program = jax.jit(partial(jax_peers.plain_jax, case))

    def run(starts: int, steps: int) -> Timed:
        began = time.perf_counter()
        with jax.default_matmul_precision(precision):
            U, V = jax.block_until_ready(program(*jax.device_put((case.U[:starts], case.V[:starts])), 0))
            started = time.perf_counter()
            U, V = jax.block_until_ready(program(U, V, steps))
        ended = time.perf_counter()
        return Timed(
            peers.losses(case.values, np.asarray(U), np.asarray(V)), ended - started, started - began, ended - began
        )

    return run
