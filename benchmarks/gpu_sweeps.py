"""The experiments of `gpu.py`, and the engine's loop over any number of lanes."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import peers

import jaxfact as jf
from jaxfact.engine.lanes import Engine
from jaxfact.engine.program import Program
from jaxfact.engine.steps import Way, way_by_xla
from jaxfact.sweep import Options, Part

STEP_SIZE, SCALE, NOISE = 0.1, 0.1, 1e-5
METHODS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "plain": jf.methods.gradient_descent,
    "balanced": lambda step_size: jf.methods.balanced(step_size, 1 / 8),
    "ScaledGD": lambda step_size: jf.methods.scaled_gd(step_size, 0.01),
    "Adam": lambda step_size: optax.adam(step_size / 10),
    "noise": lambda step_size: jf.methods.perturbed(step_size, NOISE),
}
_FOREVER = 2**30
_REGISTERS = "in registers"


def values(rank: int) -> np.ndarray:
    """Return singular values that fall evenly from 1 to 1/2."""
    return np.linspace(1, 0.5, rank, dtype=np.float32)


def experiment(problem: jf.Problem, width: int, method: str = "plain") -> Callable[[], jf.Run]:
    """Return the experiment of one method from Gaussian starts."""
    return lambda: jf.Run(problem, jf.starts.Gaussian(width, scale=SCALE), METHODS[method](STEP_SIZE))


def factorization(width: int, method: str = "plain") -> Callable[[], jf.Run]:
    """Return an experiment at rank and width d on a target of 100×100, which runs on 2d rows."""
    return experiment(jf.Factorization(values(width), shape=(100, 100)), width, method)


def flops(width: int, rows: int, rank: int) -> int:
    """Return the operations of a plain step: both Gram matrices by half, two products with them, Σ, the update."""
    return 2 * (rows * width * (width + 1) + 2 * rows * width**2 + 2 * rank * width + 2 * rows * width)


class Read:
    """An experiment, read once for all loops over it, and the ways in which its steps can be taken on this device."""

    def __init__(self, make: Callable[[], jf.Run]):
        options = Options(
            max_steps=_FOREVER,
            record=None,
            record_steps=(),
            check_every=1,
            base_seed=0,
            checked=False,
            compress=True,
            compensated=False,
        )
        self.part = Part(make, None, options, {})
        engine, own = self.part.engine, self.part.engine.own
        by_xla = way_by_xla("it is compared", engine.reading, own)
        self.ways: list[Way] = [by_xla, engine.way] if engine.way.said.startswith(_REGISTERS) else [by_xla]
        self.numbers: int = sum(leaf.size for leaf in jax.tree.leaves((own.factors, own.state)))
        self.chosen: int = engine.way.lanes

    def sizes(self, lanes: Iterable[int | None]) -> list[int]:
        """Return numbers of lanes in order, each once, the engine's own among them for None."""
        return sorted({count or self.chosen for count in lanes})


def name_of(way: Way) -> str:
    """Return a way's name in the tables."""
    return "registers" if way.said.startswith(_REGISTERS) else "XLA"


class Loop:
    """The engine's compiled loop over lanes that all stay busy, whose steps are timed apart from all else."""

    def __init__(self, read: Read, way: Way, lanes: int):
        self.read, self.lanes = read, lanes
        self.way = name_of(way)
        self._runs = read.part.runs({}, np.arange(lanes))
        engine = Engine(read.part.reading, read.part.rules, self._runs, way._replace(lanes=lanes))
        self._program = Program(engine, self._runs, lanes)

    def looks(self, stride: int) -> Iterator[Any]:
        """Yield the lanes after their starts are drawn, and then after every `stride` steps, for ever."""
        work = self._runs._replace(stride=np.asarray(stride, np.int32))
        for tile in self._program.steps(work, jax.local_devices()[0], beyond=True):
            yield jax.block_until_ready(tile)

    def compiled(self) -> "Loop":
        """Compile the loop and draw the starts, so that what follows is not counted."""
        next(self.looks(1))
        return self

    def step_seconds(self, enough: float, least: int = 20) -> float:
        """Return what a step of all lanes costs, from looks that are about `enough` seconds apart."""
        stride = least
        while True:
            looks = self.looks(stride)
            next(looks)
            took = _timed(looks)
            if took > enough / 2:
                return min(took, _timed(looks)) / stride
            # What a look costs besides its steps hides how fast they are, so that the first guesses are too low.
            stride = int(np.clip(stride * enough / took, 2 * stride, 100 * stride))


def _timed(looks: Iterator[Any]) -> float:
    began = time.perf_counter()
    next(looks)
    return time.perf_counter() - began


def compiled(wanted: Iterable[tuple[Read, Way, int]]) -> Iterator[Loop]:
    """Yield loops in their order, compiled many at once; no more than the engine keeps."""
    waiting = list(wanted)
    with ThreadPoolExecutor(min(12, peers.CORES)) as threads:
        while waiting:
            batch, waiting = waiting[:12], waiting[12:]
            yield from list(threads.map(lambda given: Loop(*given).compiled(), batch))


def compile_seconds(read: Read, way: Way, lanes: int) -> dict[str, float]:
    """Return how long it takes to trace an experiment's loop, and to compile it and draw the first starts."""
    began = time.perf_counter()
    loop = Loop(read, way, lanes)
    traced = time.perf_counter()
    loop.compiled()
    return {"traced": traced - began, "compiled": time.perf_counter() - traced}


def swept(make: Callable[[], jf.Run], seeds: Any, steps: int, **options: Any):
    """Sweep to the end of the budget."""
    return jf.sweep(make, seeds=seeds, max_steps=steps, tolerance=None, **options)


def way_taken(runs: Any) -> str:
    """Return the way in which a sweep took its steps."""
    return "registers" if runs.attrs["lanes"].startswith(_REGISTERS) else "XLA"


def identity(method: str, width: int, few: int, many: int) -> dict[str, Any]:
    """Count the runs, of a few, whose bits differ among many seeds, in another order, and in the smallest tiles.

    Losses after 1 step, after 200, and all that is kept at the end count.
    """
    make = factorization(width, method)
    run = partial(swept, make, steps=200, check_every=1, record="loss", every=[1, 200])
    alone, order = run(few), np.random.default_rng(0).permutation(many)
    others = {"many seeds": run(many), "another order": run(order), "small tiles": run(many, tile_runs=1)}
    return {"way": way_taken(alone)} | {name: _differing(alone, other) for name, other in others.items()}


def _differing(few: Any, many: Any) -> int:
    many, found = many.sel(seed=few.seed), np.zeros(few.sizes["seed"], bool)
    for name in ("loss", "distance", "imbalance", "outcome", "steps"):
        found |= few[name].values != many[name].values
    return int((found | np.any(few.loss_path.values != many.loss_path.values, axis=-1)).sum())


def bits_by_lanes(loops: Sequence[Loop]) -> dict[str, int]:
    """Count the runs, of those in the smallest loop, whose factors have other bits in larger ones, by lanes, steps."""
    found, count = {}, loops[0].lanes
    for steps in (1, 200):
        first, *others = (_factors(loop, steps, count) for loop in loops)
        for loop, other in zip(loops[1:], others, strict=True):
            found[f"{loop.lanes}, {steps}"] = int(np.any(first != other, axis=0).sum())
    return found


def _factors(loop: Loop, steps: int, count: int) -> np.ndarray:
    """Return all entries of the first runs after some steps, runs last."""
    looks = loop.looks(steps)
    next(looks)
    return np.concatenate([np.asarray(x)[..., :count].reshape(-1, count) for x in next(looks).lanes.own.factors])


def loss_errors(width: int, side: int) -> dict[str, float]:
    """Return the relative error of a sweep's losses at each precision that is chosen outside, or at none.

    The losses are compared with those of the factors that the sweep ends with, in float64. At
    widths above 32 products are left to the device's library.
    """
    problem, target = jf.Factorization(values(5), shape=(side, side)), np.diag([*values(5), *np.zeros(side - 5)])

    def make():
        return jf.Run(problem, jf.starts.Gaussian(width, scale=SCALE), METHODS["plain"](STEP_SIZE / 100))

    def factors(_, pair):
        return pair.U, pair.V

    found = {}
    for precision in (None, "highest", "default"):
        with jax.default_matmul_precision(precision):  # pyright: ignore[reportArgumentType]
            runs = swept(make, 4, 10, record={"factors": factors}, compress=False)
        U, V = (runs[name].values.astype(float) for name in runs.data_vars if str(name).startswith("factors"))
        residual = U @ np.swapaxes(V, -1, -2) - target
        exact = np.sum(residual**2, axis=(-2, -1)) / 2
        found[f"sweep, {precision or 'unset'}"] = float(np.max(np.abs(runs.loss.values / exact - 1)))
    return found
