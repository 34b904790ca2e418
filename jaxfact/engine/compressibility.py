"""Whether a method and its records can run on the compressed problem: measured, not declared.

Compression is exact for what commutes with rotations of the rows of U and of V and does not use m and n. Gradient
descent, momentum, balancing and ScaledGD do; Adam and sign descent do not. Some are in between: clipping by block RMS
commutes with rotations, but divides by the number of entries. So the engine tries it.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxfact import measures
from jaxfact.descent import stepper
from jaxfact.engine.jaxprs import probed
from jaxfact.measures.records import Records, as_measure, named_measures
from jaxfact.methods.base import updated
from jaxfact.numerics.draws import fold, key_of
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.compression import Compressed
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors

_WIDTH, _VALUES, _STEPS = 2, (1.0, 0.6), 3
_EXACT = 1e-9


KNOWN = (
    measures.loss,
    measures.distance,
    measures.excess,
    measures.energy,
    measures.imbalance,
    measures.singular_values,
    measures.gradient_norm,
    measures.ye_du,
)
"""Records that compress; `test_compression.py` probes each."""


class Compression(NamedTuple):
    """How a run is compressed: how many pairs share its frame (iterate and buffers), and whether noise leaves it."""

    frames: int
    noisy: bool


class _Small(Compressed):
    """The compressed problem, with given noise, counting how often it is drawn."""

    drawn: Factors
    draws: Iterator[int] = eqx.field(static=True)

    def __init__(self, problem: Factorization, frames: int, drawn: Factors, draws: Iterator[int]):
        super().__init__(problem, _WIDTH, frames=frames, noisy=True)
        self.drawn, self.draws = drawn, draws

    def noise(self, key: PRNGKeyArray, factors: Factors) -> Factors:
        next(self.draws)
        return self.drawn


class _Full(Factorization):
    """The full problem that the compressed one stands for, with the same noise in its own frame."""

    drawn: Factors

    def __init__(self, target: np.ndarray, drawn: Factors):
        super().__init__(target)
        self.drawn = drawn

    def noise(self, key: PRNGKeyArray, factors: Factors) -> Factors:
        return self.drawn


def compression_of(method: optax.GradientTransformation, record: Records | None) -> Compression | None:
    """Return how runs of a method with these records are compressed, or None where that would not be exact.

    Three steps, each from generic factors and buffers in a frame of its own, on a small problem of rank 2 in full and
    in compressed form, in float64: factors, state and records must agree. Noise must be drawn at most once per step.
    """
    method, draws, unknown = optax.with_extra_args_support(method), itertools.count(), _unknown(record)
    with jax.enable_x64(True):
        try:
            pairs = 1 + _count_pairs(jax.eval_shape(method.init, Factors(np.ones((3, 1)), np.ones((2, 1)))))  # pyright: ignore[reportArgumentType]
            gap = float(probed(lambda steps: _gap(method, unknown, pairs, steps, draws), _generic_steps(pairs)))
        except (TypeError, ValueError, IndexError):
            # What is made for one shape only cannot be evaluated on another, compressed or not.
            return None
    drawn = next(draws)
    # A second draw in one step would need spare rows of its own.
    if not gap <= _EXACT or drawn > 1:
        return None
    return Compression(pairs, noisy=True) if drawn else Compression(1, noisy=False)


def _unknown(record: Records | None) -> Callable:
    """Return the records that are not known to be functions of what compression keeps."""
    return as_measure({name: f for name, f in named_measures(record).items() if f not in KNOWN})


def _axes(problem: Factorization) -> list[np.ndarray]:
    """Return orthonormal coordinates of either side, the target's singular vectors first.

    They are generic: where singular vectors are rows, what picks a row (U[0]) would be the same in both forms.
    """
    rng = np.random.default_rng(1)
    return [np.linalg.qr(rng.normal(size=(size, size)))[0] for size in problem.rows]


class _Setting(NamedTuple):
    """One step's setting: orthonormal frames, the pairs that stand in them (iterate, then buffers), and noise."""

    frames: Factors
    pairs: list[Factors]
    noise: Factors


def _problem(pairs: int) -> Factorization:
    """Return the full problem, large enough that noise leaves the frame of its compressed form."""
    beyond = (pairs + 1) * _WIDTH
    return Factorization(np.array(_VALUES), shape=(len(_VALUES) + beyond + 3, len(_VALUES) + beyond + 2))


def _generic_steps(pairs: int) -> _Setting:
    """Return the settings of all steps, stacked."""
    rng = np.random.default_rng(0)
    problem = _problem(pairs)
    small = Compressed(problem, _WIDTH, frames=pairs, noisy=True)

    def frame(axes, rows):
        size = len(axes)
        off = np.linalg.qr(rng.normal(size=(size - problem.rank, rows - problem.rank)))[0]
        stood = np.zeros((size, rows))
        stood[: problem.rank, : problem.rank], stood[problem.rank :, problem.rank :] = np.eye(problem.rank), off
        return axes @ stood

    def pair(full):
        drawn = [0.4 * rng.normal(size=(rows, _WIDTH)) for rows in small.rows]
        for x, spare in zip(drawn, small.spare, strict=True):
            x[len(x) - (0 if full else spare) :] = 0
        return Factors(*drawn)  # pyright: ignore[reportArgumentType]

    settings = [
        _Setting(Factors(*map(frame, _axes(problem), small.rows)), [pair(False) for _ in range(pairs)], pair(full=True))  # pyright: ignore[reportArgumentType]
        for _ in range(_STEPS)
    ]
    return jax.tree.map(lambda *xs: np.stack(xs), *settings)


def _gap(method: optax.GradientTransformationExtraArgs, measure: Callable, pairs: int, steps: _Setting, draws) -> Array:
    """Return the largest difference, in factors, state and records, between compressed and full steps."""
    problem, key = _problem(pairs), key_of(0)
    left, right = (axes[:, : problem.rank] for axes in _axes(problem))
    target = (left * np.array(_VALUES)) @ right.T

    def step(carry, setting: _Setting):
        t, state, worst = carry
        small = _Small(problem, pairs, setting.noise, draws)
        full = _Full(target, _stood(setting.frames, setting.noise))
        fresh = method.init(setting.pairs[0])
        began = _difference(_stood_tree(setting.frames, fresh), method.init(_stood(setting.frames, setting.pairs[0])))
        state = _with_pairs(state, setting.pairs[1:])
        moved = _step(small, method, key, setting.pairs[0], state, t)
        standing = _stood_tree(setting.frames, (setting.pairs[0], state))
        there = stepper(full, method, key)(*standing, t)
        gaps = (
            began,
            _difference(_stood_tree(setting.frames, moved), there),
            _difference(measure(small, moved[0]), measure(full, there[0])),
        )
        state = jax.tree.map(lambda new, old: new.astype(old.dtype), moved[1], state)
        return (t + 1, state, jnp.maximum(worst, jnp.max(jnp.stack(gaps)))), None

    first = jax.tree.map(jnp.asarray, method.init(jax.tree.map(lambda x: x[0], steps.pairs[0])))
    return jax.lax.scan(step, (jnp.zeros((), jnp.int32), first, jnp.zeros(())), steps)[0][2]


def _step(small: Compressed, method, key: PRNGKeyArray, factors: Factors, state: PyTree, t: Array):
    """Take a step on the compressed problem and stay in its frame."""
    gradient = small.gradient(factors)
    updates, state = updated(small, method, gradient, state, factors, fold(key, t))
    return optax.apply_updates(factors, updates), state


def _stood(frames: Factors, pair: Factors) -> Factors:
    """Return compressed factors as full ones, in given frames."""
    return Factors(*(frame @ x for frame, x in zip(frames, pair, strict=True)))


def _stood_tree(frames: Factors, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: _stood(frames, leaf) if _is_pair(leaf) else leaf, tree, is_leaf=_is_pair)


def _with_pairs(state: PyTree, pairs: list[Factors]) -> PyTree:
    """Return a method's state with other buffers."""
    fresh = iter(pairs)
    return jax.tree.map(lambda leaf: next(fresh) if _is_pair(leaf) else leaf, state, is_leaf=_is_pair)


def _difference(left: PyTree, right: PyTree) -> Float[Array, ""]:
    """Return the largest difference between two trees, relative to the larger entries."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    gaps = []
    for a, b in pairs:
        if jnp.issubdtype(jnp.asarray(a).dtype, jax.dtypes.prng_key):
            continue
        a, b = jnp.asarray(a, float), jnp.asarray(b, float)
        gaps.append(jnp.max(jnp.abs(a - b), initial=0) / (1 + jnp.max(jnp.abs(b), initial=0)))
    return jnp.max(jnp.stack(gaps)) if gaps else jnp.zeros(())


def _count_pairs(state: PyTree) -> int:
    return sum(map(_is_pair, jax.tree.leaves(state, is_leaf=_is_pair)))


def _is_pair(leaf: object) -> bool:
    return isinstance(leaf, Factors)
