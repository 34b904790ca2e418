"""Records of runs that are due at different times, evaluated many at once.

A record may cost more than a hundred steps, and lanes that share a block of steps are seldom due together. So what is
due is set aside, as many runs as there are lanes, and measured when there is no room left.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxfact.engine.outcomes import Lane, choose
from jaxfact.numerics.draws import key_from
from jaxfact.numerics.trees import PyTree


class Finished(NamedTuple):
    """What is kept of every run of a tile; times are −1 where the level was not met.

    The period is that of a cycle, the gradient norm that of a stationary run; 0 and NaN elsewhere.
    """

    outcome: Int[Array, " run"]
    steps: Int[Array, " run"]
    period: Int[Array, " run"]
    hit: Int[Array, "run level"]
    loss: Float[Array, " run"]
    distance: Float[Array, " run"]
    misfit: Float[Array, " run"]
    imbalance: Float[Array, " run"]
    best: Float[Array, " run"]
    rose: Bool[Array, " run"]
    gradient: Float[Array, " run"]


class Found(NamedTuple):
    """The results of some runs, on the host: what is kept of each, its records at their steps, and those at its end.

    All arrays have the runs along their first axis; the records at steps have the steps along their second.
    """

    finished: Finished
    at_steps: dict[str, PyTree]
    last: dict[str, PyTree]

    def rows(self, rows: slice) -> "Found":
        """Return the results of some of the runs."""
        return jax.tree.map(lambda x: x[rows], self)

    @property
    def run_steps(self) -> int:
        """How many steps all the runs took together."""
        return int(np.sum(self.finished.steps, dtype=np.int64))

    @classmethod
    def joined(cls, parts: "Sequence[Found]") -> "Found":
        """Return the results of several blocks of runs, one after the other."""
        return jax.tree.map(lambda *each: np.concatenate(each), *parts)


class Waiting(NamedTuple):
    """Runs set aside, along the last axis, and where their records go: the last row means nowhere."""

    own: PyTree
    row: Int[Array, " lane"]
    slot: Int[Array, " lane"]
    last_row: Int[Array, " lane"]
    count: Int[Array, ""]


class Recording(NamedTuple):
    """Records of a tile's runs at their steps (run, slot, …) and at their end (run, …), and what is yet to measure."""

    at_steps: PyTree
    last: PyTree
    waiting: Waiting | None


def nothing_recorded(own: PyTree, record: PyTree, runs: int, slots: int, lanes: int) -> Recording:
    """Return zeros on the host, a row more than runs, from the shapes of what one run owns and of its record.

    With no lanes, nothing waits.
    """
    at_steps = jax.tree.map(lambda x: np.zeros((runs + 1, slots, *x.shape), x.dtype), record)
    last = jax.tree.map(lambda x: np.zeros((runs + 1, *x.shape), x.dtype), record)
    if not record or not lanes:
        return Recording(at_steps, last, None)
    empty = jax.tree.map(lambda x: blank((*x.shape, lanes), x.dtype), own)
    nowhere = np.full(lanes, runs, np.int32)
    return Recording(at_steps, last, Waiting(empty, nowhere, nowhere, nowhere, np.zeros((), np.int32)))  # pyright: ignore[reportArgumentType]


def set_aside(
    measure: Callable[[PyTree], PyTree],
    recording: Recording,
    own: PyTree,
    due: Bool[Array, " lane"],
    ended: Bool[Array, " lane"],
    run: Int[Array, " lane"],
    slot: Int[Array, " lane"],
) -> Recording:
    """Set aside the runs that are due at a slot or have ended.

    All that wait are measured first where room is needed, or where there is nobody left to wait for.
    """
    if recording.waiting is None:
        return recording
    wanted = due | ended
    more = jnp.sum(wanted, dtype=jnp.int32)

    def insert(recording: Recording) -> Recording:
        waiting: Waiting = recording.waiting  # pyright: ignore[reportAssignmentType]
        nowhere = len(jax.tree.leaves(recording.last)[0]) - 1
        rows = jnp.where(due, run, nowhere), jnp.where(due, slot, 0), jnp.where(ended, run, nowhere)
        # Each place says from which lane it is filled, so that none is written beyond the end.
        after = jnp.arange(len(run)) - waiting.count
        lane = jnp.argsort(~wanted, stable=True)[jnp.clip(after, 0)]
        new = jax.tree.map(lambda x: x[..., lane], Waiting(own, *rows, count=()))  # pyright: ignore[reportArgumentType]
        inserted = choose((after >= 0) & (after < more), new, waiting._replace(count=()))  # pyright: ignore[reportArgumentType]
        return recording._replace(waiting=inserted._replace(count=waiting.count + more))

    full = (recording.waiting.count + more > len(recording.waiting.row)) | ~jnp.any(run >= 0)
    recording = lax.cond(full, lambda recording: _measured(measure, recording), lambda recording: recording, recording)
    return lax.cond(more > 0, insert, lambda recording: recording, recording)


def _measured(measure: Callable[[PyTree], PyTree], recording: Recording) -> Recording:
    """Measure all that waits, and write it where it belongs."""
    waiting = recording.waiting
    if waiting is None:
        return recording
    found = measure(waiting.own)
    nowhere = jnp.full_like(waiting.row, len(jax.tree.leaves(recording.last)[0]) - 1)
    return Recording(
        scattered(recording.at_steps, found, waiting.row, waiting.slot),
        scattered(recording.last, found, waiting.last_row),
        waiting._replace(row=nowhere, last_row=nowhere, count=jnp.zeros_like(waiting.count)),
    )


def scattered(into: PyTree, values: PyTree, *at: Array) -> PyTree:
    """Write values, whose last axis is that of the lanes, at rows of the results."""
    return jax.tree.map(lambda all_, new: all_.at[at].set(jnp.moveaxis(new, -1, 0), mode="drop"), into, values)


def blank(shape: Sequence[int], dtype: jnp.dtype) -> Array | np.ndarray:
    """Return zeros on the host; random keys of zeros where the dtype is that of keys."""
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return key_from(jnp.zeros((*shape, 2), jnp.uint32))
    return np.zeros(shape, dtype)


def result_of(lanes: Lane, period: Array, gradient: Array) -> Finished:
    """Return what is kept of runs."""
    return Finished(
        outcome=lanes.outcome,
        steps=lanes.step,
        period=period,
        hit=lanes.hit,
        loss=lanes.loss,
        distance=lanes.distance,
        misfit=lanes.misfit,
        imbalance=lanes.imbalance,
        best=lanes.best,
        rose=lanes.rose,
        gradient=gradient,
    )
