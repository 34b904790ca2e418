"""The contenders of `factorization.py`: what others would write, on the same starts, and the speed limit in C."""

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CHECKED = 16
# From here on decaying rows may become denormal numbers: XLA and the C kernel flush them to zero, NumPy does not, and
# would be slowed down many times. Nobody is timed on those.
MOST_STEPS = 400
ENTRIES = 2**25


class Case(NamedTuple):
    """One benchmark: a diagonal target, starts (seeds first, float32), a step size in 1/σ₁ and the size of the job."""

    name: str
    values: np.ndarray
    U: np.ndarray
    V: np.ndarray
    step_size: float
    steps: int

    @property
    def shape(self) -> tuple[int, int]:
        """The size m×n of the target."""
        return self.U.shape[1], self.V.shape[1]

    @property
    def starts(self) -> int:
        """The number of runs."""
        return len(self.U)


class Timed(NamedTuple):
    """Losses of the first runs, and seconds: of the steps alone, of what came before them, and by the wall clock."""

    losses: np.ndarray
    seconds: float
    setup: float
    wall: float


class Contender(NamedTuple):
    """`run(starts, steps)` descends from the first starts; `form` names its mathematics, `tuned` what was chosen.

    It is timed on `starts` runs and as many steps as take a given time, within the bounds `steps`.
    """

    label: str
    form: str
    run: Callable[[int, int], Timed]
    starts: int
    steps: tuple[int, int] = (4, MOST_STEPS)
    tuned: str = ""


def losses(values: np.ndarray, U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return ½‖UVᵀ − Σ‖² of the first runs in float64; compressed factors have the same."""
    residual = U[:CHECKED].astype(float) @ V[:CHECKED].astype(float).mT
    diagonal = np.arange(len(values))
    residual[:, diagonal, diagonal] -= values
    return np.sum(residual**2, axis=(1, 2)) / 2


def residual_form(U, V, values, step_size, steps):
    """Descend by R = UVᵀ − Σ, a batch at a time."""
    diagonal, step_size = np.arange(len(values)), U.dtype.type(step_size)
    residual, move_U, move_V = U @ V.mT, np.empty_like(U), np.empty_like(V)
    for _ in range(steps):
        np.matmul(U, V.mT, out=residual)
        residual[:, diagonal, diagonal] -= values
        np.matmul(residual, V, out=move_U)
        np.matmul(residual.mT, U, out=move_V)
        move_U *= step_size
        move_V *= step_size
        U -= move_U
        V -= move_V
    return U, V


def seed_by_seed(U, V, values, step_size, steps):
    """Descend by the residual, one run after the other."""
    for u, v in zip(U, V, strict=True):
        residual_form(u[None], v[None], values, step_size, steps)
    return U, V


def gram_form(U, V, values, step_size, steps):
    """Descend by U(VᵀV) − ΣV, a batch at a time; on compressed factors too."""
    step_size, rank = U.dtype.type(step_size), len(values)
    pull = step_size * values[:, None]
    for _ in range(steps):
        move_U = U @ (V.mT @ V * -step_size)
        move_V = V @ (U.mT @ U * -step_size)
        move_U[:, :rank] += pull * V[:, :rank]
        move_V[:, :rank] += pull * U[:, :rank]
        U += move_U
        V += move_V
    return U, V


def seeds_last(U, V, values, step_size, steps):
    """Descend by U(VᵀV) − ΣV with the runs innermost in memory, so that every inner loop runs over runs."""
    U, V = (np.ascontiguousarray(np.moveaxis(X, 0, -1)) for X in (U, V))
    step_size, rank, width = U.dtype.type(step_size), len(values), U.shape[1]
    pull = (step_size * values)[:, None, None]
    grams, moves = [np.empty((width, *U.shape[1:]), U.dtype) for _ in range(2)], [np.empty_like(X) for X in (U, V)]
    for _ in range(steps):
        for X, other, gram, move in zip((U, V), (V, U), grams, moves, strict=True):
            for j in range(width):
                np.einsum("is,iks->ks", other[:, j], other[:, : j + 1], out=gram[j, : j + 1])
                gram[:j, j] = gram[j, :j]
            gram *= -step_size
            np.einsum("ijs,jks->iks", X, gram, out=move)
            move[:rank] += pull * other[:rank]
        U += moves[0]
        V += moves[1]
    return np.moveaxis(U, -1, 0), np.moveaxis(V, -1, 0)


def torch_form(U, V, values, step_size, steps, *, gram: bool, device: str = "cpu"):
    """Descend with batched products of PyTorch, by the residual or by Gram matrices."""
    import torch

    torch.set_num_threads(CORES)
    torch.set_flush_denormal(True)
    U, V = torch.from_numpy(U).to(device), torch.from_numpy(V).to(device)
    step = torch_step(values, U.shape[1], V.shape[1], step_size, gram=gram, device=device)
    for _ in range(steps):
        U, V = step(U, V)
    return U.cpu().numpy(), V.cpu().numpy()


def torch_step(values, m, n, step_size, *, gram: bool, device: str = "cpu") -> Callable:
    """Return a step from and to tensors on a device."""
    import torch

    values = torch.from_numpy(values).to(device)
    rank, pull = len(values), step_size * values[:, None]
    minus_target = torch.zeros(m, n, device=device)
    minus_target[:rank, :rank] = -torch.diag(values)

    def by_gram(U, V):
        moved_U = torch.baddbmm(U, U, V.mT @ V, alpha=-step_size)
        moved_V = torch.baddbmm(V, V, U.mT @ U, alpha=-step_size)
        moved_U[:, :rank] += pull * V[:, :rank]
        moved_V[:, :rank] += pull * U[:, :rank]
        return moved_U, moved_V

    def by_residual(U, V):
        residual = torch.baddbmm(minus_target.expand(len(U), -1, -1), U, V.mT)
        return torch.baddbmm(U, residual, V, alpha=-step_size), torch.baddbmm(V, residual.mT, U, alpha=-step_size)

    return by_gram if gram else by_residual


def compress(case: Case) -> Case:
    """Return the exact smaller problem: rows beyond the rank only act through their triangular factor."""
    rank = len(case.values)
    small = (np.concatenate([X[:, :rank], np.linalg.qr(X[:, rank:], mode="r")], axis=1) for X in (case.U, case.V))
    return case._replace(**dict(zip("UV", small, strict=True)))


def in_blocks(case: Case, descend: Callable, block: int, threads: int, starts: int, steps: int) -> Timed:
    """Descend block by block of starts, on some threads."""
    began = time.perf_counter()

    def one(at):
        part = slice(at, min(at + block, starts))
        return descend(case.U[part].copy(), case.V[part].copy(), case.values, case.step_size, steps)

    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(one, range(0, starts, block)))
    wall = time.perf_counter() - began
    first = [np.concatenate([part[side] for part in parts[:CHECKED]]) for side in (0, 1)]
    return Timed(losses(case.values, *first), wall, 0.0, wall)


def best_of(label: str, form: str, case: Case, kinds: list[Callable], threads: tuple[int, ...]) -> Contender:
    """Try block sizes and thread counts on a few steps, and keep the fastest for the contest."""
    starts = min(case.starts, max(8, ENTRIES // math.prod(case.shape)))
    blocks = sorted({min(starts, block) for block in (16, 64, 256, 1024)})
    trials = [(kind, block, count) for kind in kinds for block in blocks for count in threads]

    def seconds(trial):
        return min(in_blocks(case, *trial, starts, 3).seconds for _ in range(2))

    kind, block, count = min(trials, key=seconds) if len(trials) > 1 else trials[0]
    tuned = f"{getattr(kind, '__name__', 'torch')}, blocks of {block}, {count} threads"
    return Contender(label, form, partial(in_blocks, case, kind, block, count), starts, tuned=tuned)


def numpy_contenders(case: Case) -> list[Contender]:
    """Return the NumPy programs, plain and with the compressed mathematics."""
    small, threads = compress(case), tuple(sorted({1, CORES}))
    loop = partial(in_blocks, case, seed_by_seed, 4, 1)
    return [
        Contender("NumPy, seed by seed", "residual", loop, min(4, case.starts)),
        best_of("NumPy, batched", "residual", case, [residual_form], threads),
        best_of("NumPy, batched, Gram form", "gram", case, [gram_form], threads),
        best_of("NumPy, same mathematics", "compressed", small, [gram_form, seeds_last], threads),
    ]


def torch_contenders(case: Case) -> list[Contender]:
    """Return the PyTorch programs; it has threads of its own."""
    forms = {"residual": "PyTorch, batched", "gram": "PyTorch, batched, Gram form"}
    return [
        best_of(label, form, case, [partial(torch_form, gram=form == "gram")], (1,)) for form, label in forms.items()
    ]


def kernel_contenders(case: Case, compiler: str) -> list[Contender]:
    """Return the C kernel on one thread and on all cores."""
    small = compress(case)
    library, lanes = _compiled(compiler, small)
    return [
        Contender(
            f"C kernel, {count} thread{'s' * (count > 1)}",
            "limit",
            partial(_run_kernel, small, library, lanes, count),
            case.starts,
            (4, 2**31),
            f"{lanes} runs per vector",
        )
        for count in sorted({1, CORES})
    ]


def c_compiler() -> str | None:
    """Return the path of a C compiler, if there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _compiled(compiler: str, small: Case) -> tuple[ctypes.CDLL, int]:
    rows, others = small.shape
    sizes = [f"-DD={small.U.shape[2]}", f"-DR={len(small.values)}", f"-DP={rows}", f"-DQ={others}"]
    # A library that is loaded stays mapped after its file is gone.
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "kernel.so")
        source = Path(__file__).with_name("kernel.c")
        command = [compiler, "-O3", "-march=native", "-shared", "-fPIC", *sizes, str(source), "-o", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        library = ctypes.CDLL(str(out))
    pointer = ctypes.c_void_p
    library.descend.argtypes = [pointer, ctypes.c_long, pointer, ctypes.c_float, ctypes.c_long]
    return library, library.lanes()


def _run_kernel(small: Case, library: ctypes.CDLL, lanes: int, threads: int, starts: int, steps: int) -> Timed:
    """Lay the runs out in tiles, divide the tiles among threads, and time the steps alone."""
    began = time.perf_counter()
    count, rows = -(-starts // lanes), small.shape[0]
    both = np.concatenate([small.U[:starts], small.V[:starts]], axis=1)
    both = np.pad(both, ((0, count * lanes - starts), (0, 0), (0, 0)))
    tiles = _aligned((count, *both.shape[1:], lanes))
    tiles[:] = np.moveaxis(both.reshape(count, lanes, *both.shape[1:]), 1, -1)
    pull = np.ascontiguousarray(small.values * np.float32(small.step_size))
    share = -(-count // threads)

    def work(at):
        part = tiles[at : at + share]
        library.descend(part.ctypes.data, len(part), pull.ctypes.data, small.step_size, steps)

    with ThreadPoolExecutor(threads) as pool:
        started = time.perf_counter()
        list(pool.map(work, range(0, count, share)))
        ended = time.perf_counter()
    both = np.moveaxis(tiles, -1, 1).reshape(-1, *both.shape[1:])
    return Timed(losses(small.values, both[:starts, :rows], both[:starts, rows:]), ended - started, 0.0, ended - began)


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return an array that begins on a cache line, as vectors must."""
    raw = np.empty(math.prod(shape) + 16, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + math.prod(shape)].reshape(shape)
