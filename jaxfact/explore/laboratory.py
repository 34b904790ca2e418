"""What the explorer runs: programs of every method, made once, in which whatever can be moved is data."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jaxfact.choices import Spectrum
from jaxfact.data.spectra import singular_values
from jaxfact.engine.devices import cores
from jaxfact.engine.experiment import Run
from jaxfact.explore.controls import (
    BUDGETS,
    GIVEN,
    HIGHEST,
    MADE_UP,
    METHODS,
    SPECTRA,
    WIDEST,
    Choice,
    Control,
    State,
)
from jaxfact.inputs import problem_with
from jaxfact.methods import balanced, gradient_descent, perturbed, scaled_gd
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.results.labels import join
from jaxfact.starts.random import Gaussian
from jaxfact.sweep.prepared import Prepared, prepare

TOLERANCE = 1e-4
"""The distance at which a run has arrived; single precision stays three times below it at every step size here."""

_RECORDS = 40
_LOOKS = 200  # at a run
_RECORDED = ("distance", "imbalance", "singular_values")
_TILE = 1000  # runs, as many as there are at first; another number of them needs no other program
_OF_START = ("scale", "ratio", "width", "rank", "condition", "spectrum", "m", "n")

_BUILT: Mapping[str, Callable[..., Any]] = {
    "plain": lambda step_size, **_: gradient_descent(step_size),
    "balanced": lambda step_size, weight, **_: balanced(step_size, weight),
    "noisy": lambda step_size, noise, **_: perturbed(step_size, noise),
    "momentum": lambda step_size, momentum, **_: optax.chain(optax.trace(momentum), gradient_descent(step_size)),
    "scaled": lambda step_size, damping, **_: scaled_gd(step_size, damping),
}


class Program(NamedTuple):
    """What a program is made for: a method, a budget, whether runs are recorded, and to which sizes it is padded.

    `budget` 0 is that of the starts alone.
    """

    method: str
    budget: int
    recorded: bool
    width: int = WIDEST
    rank: int = HIGHEST


_STARTS = Program("plain", 0, True)


class Laboratory:
    """Programs by what they are made for, and the runs of them; may be shared by several pages.

    `problem` is the factorisation that is explored; without one the target is made up, and its rank, condition number,
    spectrum and sizes can be moved too. Raises ValueError for a problem of another kind and a target of zeros.
    """

    def __init__(self, problem: Problem | None = None):
        if problem is not None and type(problem) is not Factorization:
            given = type(problem).__name__
            instead = "give a jaxfact.Factorization, or sweep the others with jf.prepare"
            raise problem_with("problem", given, "the explorer is for fully observed matrices", instead)
        if problem is not None and problem.rank == 0:
            raise problem_with(
                "problem", "a target of zeros", "has no singular value to be found", "give another matrix"
            )
        self.problem = problem
        self.controls: tuple[Control | Choice, ...] = MADE_UP if problem is None else GIVEN
        self._made: dict[Program, Prepared] = {}
        self._locks: dict[Program, threading.Lock] = {}
        self._guard = threading.Lock()
        self.threads: ThreadPoolExecutor = ThreadPoolExecutor(cores())
        self._signals: tuple[Any, np.ndarray] | None = None

    def run(self, state: State, seeds: int | Sequence[int]) -> xr.Dataset:
        """Return the recorded runs of the shown methods along `variant`, all from the same starts."""
        programs = {name: self.made(Program(name, state.budget, True)) for name in state.methods}
        found = [made(seeds, progress=False, axes=axes_at(state)) for made in programs.values()]
        return join(found, list(programs))

    def arrays(self, state: State) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Yield every shown method and its runs, without labels, for a page that moves; the others run meanwhile."""
        point, count = axes_at(state), len(state.seeds)
        tiles = [state.seeds[begin : begin + _TILE] for begin in range(0, count, _TILE)]
        programs = [self.made(Program(name, state.budget, True)) for name in state.methods]
        asked = [[self.threads.submit(made.arrays, tile, point, _TILE) for tile in tiles] for made in programs]
        for method, of_method in zip(state.methods, asked, strict=True):
            found = [tile.result() for tile in of_method]
            yield method, {name: np.concatenate([tile[name] for tile in found]) for name in found[0]}

    def smallest_signals(self, state: State) -> Float[np.ndarray, " seed"]:
        """Return σ_q(A₀), the least singular value of A₀ = (U₀+V₀)/2 in the target's coordinates, of every start.

        q = min(r, d), the number of singular values that the width can reach (Ye & Du 2021, §2.1). In √σ₁.
        """
        asked = {name: value for name, value in state.values.items() if name in _OF_START}, state.seeds
        known = self._signals  # which another page may replace
        if known is None or known[0] != asked:
            starts = self.made(_STARTS).arrays(state.seeds, axes_at(state), _TILE)
            reached = min(state.values.get("rank", self.rank), state.values["width"])
            blocks = starts["signal_path"][:, 0, :reached].astype(float)
            known = self._signals = asked, np.linalg.svd(blocks, compute_uv=False)[:, reached - 1]
        return known[1]

    def made(self, program: Program) -> Prepared:
        """Return a program; it is made when first asked for, and run once, so that nothing is left to compile."""
        with self._guard:
            lock = self._locks.setdefault(program, threading.Lock())
        with lock:
            if program not in self._made:
                self._made[program] = self._prepared(program)
            return self._made[program]

    def target_values(self, state: State) -> Float[np.ndarray, " r"]:
        """Return the singular values of the target that a width can reach, in σ₁."""
        if self.problem is not None:
            values = np.asarray(self.problem.singular_values)
        else:
            at = state.values
            values = np.asarray(singular_values(at["rank"], at["condition"], Spectrum(at["spectrum"])))
        return values[: state.values["width"]]

    @property
    def rank(self) -> int:
        """The largest rank of the target."""
        return HIGHEST if self.problem is None else self.problem.rank

    def _prepared(self, program: Program) -> Prepared:
        ranges, is_double = self._ranges(program), self.problem is not None and self.problem.dtype == np.float64
        with jax.enable_x64(is_double):  # whatever the session has, so that the same runs are found again
            found = prepare(
                _experiment(program, self.problem),
                max_steps=program.budget or 1,
                tolerance=TOLERANCE,
                check_every=max(program.budget // _LOOKS, 1),
                **_recorded(program),
                axes=ranges,
            )
            found.arrays(range(_TILE), {name: ends[0] for name, ends in ranges.items()}, _TILE)
        return found

    def _ranges(self, program: Program) -> dict[str, list[float]]:
        """Return the ends of every axis, between which no value needs to be checked again."""
        numbers = {one.name: [one.low, one.high] for one in self.controls if isinstance(one, Control)}
        ranges = {name: ends for name, ends in numbers.items() if name not in ("seeds", "first_seed")}
        ranges["width"] = [1, program.width]
        if self.problem is None:
            ranges |= {"rank": [1, program.rank], "spectrum": [0, len(SPECTRA) - 1]}
        return {name: sorted(set(ends)) for name, ends in ranges.items()}


def programs_of(state: State) -> list[Program]:
    """Return the programs that a page needs at a state, and then those that it may need next, the likeliest first."""
    others = [name for name in METHODS if name not in state.methods]
    mapped = [Program(name, BUDGETS[-1], False) for name in state.methods[:1]]
    narrow = [one._replace(width=1, rank=1) for one in mapped]
    recorded = [Program(name, budget, True) for budget in BUDGETS for name in (*state.methods, *others)]
    count = len(state.methods)
    return [_STARTS, *recorded[:count], *mapped, *narrow, *recorded[count:]]


def axes_at(state: State) -> dict[str, Any]:
    """Return the axes of an experiment at a state: a word is its place among the options."""
    return {name: _as_number(name, value) for name, value in state.point.items()}


def _as_number(name: str, value: Any) -> Any:
    return SPECTRA.index(value) if name == "spectrum" else value


def _recorded(program: Program) -> dict[str, Any]:
    """Return what a program records; both budgets have as many records, so that they share what is compiled."""
    if program == _STARTS:
        return {"record": {"signal": _signal}, "every": [0]}
    if not program.recorded:
        return {}
    return {"record": list(_RECORDED), "every": recorded_steps(program.budget).tolist()}


def recorded_steps(budget: int) -> Int[np.ndarray, " step"]:
    """Return the steps at which runs of a budget are recorded."""
    return np.arange(0, budget + 1, budget // _RECORDS)


def _experiment(program: Program, problem: Factorization | None) -> Callable[..., Run]:
    """Return the function of all controls that a program runs."""
    build = _BUILT[program.method]

    def made_up(*, width: Any, scale: Any, ratio: Any, **at: Any) -> Run:
        start = Gaussian(width, scale=scale, ratio=ratio, padded_to=program.width)
        target = _made_up(program.rank, at["rank"], at["condition"], at["spectrum"], (at["m"], at["n"]))
        return Run(target, start, build(**at))

    if problem is None:
        return made_up

    def given(*, width: Any, scale: Any, ratio: Any, **at: Any) -> Run:
        return Run(problem, Gaussian(width, scale=scale, ratio=ratio, padded_to=program.width), build(**at))

    return given


def _made_up(highest: int, rank: Any, condition: Any, spectrum: Any, shape: tuple[Any, Any]) -> Factorization:
    """Return a target of which all numbers may be traced.

    It is made with singular values that are known to be distinct, and then given others: a target of values that are
    traced would be asked at every look whether some of them are equal. Here `controls.check` has refused that.
    """
    known = np.linspace(1, 0.5, highest, dtype=np.float32)
    all_of_them = [singular_values(rank, condition, kind, padded_to=highest) for kind in Spectrum]
    values: Any = all_of_them[-1]
    library = jnp if any(isinstance(one, Tracer) for one in (spectrum, *all_of_them)) else np
    for place, kind in enumerate(all_of_them[:-1]):
        values = library.where(spectrum == place, kind, values)
    problem = Factorization(known, shape=shape)
    return eqx.tree_at(lambda p: p.singular_values, problem, jnp.asarray(values, jnp.float32))


def _signal(problem: Factorization, factors: Factors) -> Float[Array, "q d"]:
    """Return A = (U + V)/2 in the target's coordinates."""
    at = problem.coordinates(factors)
    return (at.U + at.V) / 2
