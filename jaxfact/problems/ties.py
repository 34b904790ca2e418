"""Where σ_d = σ_{d+1}: the best approximations of rank d are a set, and the distance is that to one of its members.

In singular coordinates let the first c values be larger than s = σ_d, the next p equal to it, and Σ = diag(σ). The best
approximations are QQᵀΣ, Q an orthonormal basis of the first c axes and of any d − c directions among the next p. A run
ends at one of them, and nothing draws it to a certain one.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxfact.numerics.decompositions import orthonormal, qr
from jaxfact.numerics.products import cross, gram, inner, keep, times

_RELATIVE = 1e-6
_ROUNDING = 8
"""In machine epsilons of σ₁: what a matrix loses when it is stored moves its singular values by that much."""


class Block(NamedTuple):
    """Values that are equal: those from `first` to before `end`, of which the ones before `kept` belong to Σ_d."""

    first: int | Int[Array, ""]
    kept: int | Int[Array, ""]
    end: int | Int[Array, ""]


def equal_values(values: np.ndarray, epsilon: float) -> tuple[tuple[int, int], ...]:
    """Return where the runs of equal singular values begin and end; none for a spectrum of distinct values."""
    edges = np.flatnonzero(~_same(values, epsilon)) + 1
    ends = [*edges.tolist(), len(values)]
    return tuple((first, end) for first, end in zip([0, *ends], ends, strict=False) if end - first > 1)


def tied_block(ties: tuple[tuple[int, int], ...] | None, values: Float[Array, " r"], kept: int | Array) -> Block | None:
    """Return the equal values of which Σ_d keeps some, None where it is known beforehand that it keeps all or none.

    `ties` are those of `equal_values`, None where the spectrum is computed along the way; `kept` is d, which may be.
    """
    known = isinstance(kept, int)
    if ties == () or (known and kept >= len(values)):
        return None
    if ties is None or not known:
        return _block_around(values, jnp.minimum(kept, len(values)))
    return next((Block(first, kept, end) for first, end in ties if first < kept < end), None)


def _block_around(values: Float[Array, " r"], kept: int | Int[Array, ""]) -> Block:
    """Return the values equal to the last one that is kept, of a spectrum that is computed along the way."""
    pair, count = jnp.arange(len(values) - 1), len(values)
    edge = ~_same(values, float(jnp.finfo(values.dtype).eps))
    first = jnp.max(jnp.where(edge & (pair < kept - 1), pair + 1, 0), initial=0)
    end = jnp.min(jnp.where(edge & (pair >= kept - 1), pair + 1, count), initial=count)
    exhausted = jnp.pad(values, (0, 1))[jnp.minimum(kept, count)] == 0
    return Block(first, kept, jnp.where(exhausted, kept, end))


def squared_distance(U: Array, V: Array, values: Float[Array, " r"], block: Block) -> Float[Array, ""]:
    """Return ‖UVᵀ − QQᵀΣ‖²_F for factors in singular coordinates, with Q from the columns of U.

    Q spans the first c axes and the equal rows of those combinations of U's columns that vanish on these axes. With
    W = QᵀU it is ‖V Wᵀ − ΣQ‖² + ⟨RᵀR, VᵀV⟩, R = U − QW: both small at the optimum, so that nothing cancels. For c = 0
    it is twice the excess loss, and near the set the distance lies between that to the nearest member and √2 of it.
    """
    width = U.shape[1]
    size = block.end if isinstance(block.end, int) else len(values)
    index, column = np.arange(size), np.arange(width)
    inside = (index >= block.first) & (index < block.end)
    head = turned = U[:size]
    if not isinstance(block.first, int) or block.first > 0:
        above = jnp.where((index < block.first)[:, None], head, 0)[:width]
        turned = times(head, qr(jnp.pad(above, ((0, width - len(above)), (0, 0))).T)[0])
    free = (column >= block.first) & (column < block.kept)
    spanned, own = orthonormal(jnp.where(inside[:, None] & free, turned, 0))
    Q = jnp.where((index[:, None] == column) & (column < block.first), 1, spanned)
    # A direction that U lacks stands at a right angle to UVᵀ, wherever it is.
    lacking = jnp.sum(free & ~own) * values[block.kept - 1] ** 2
    W = keep(cross(Q, head))
    rest = keep(jnp.concatenate([head - times(Q, W), U[size:]]))
    best = jnp.pad(values[:size, None] * Q, ((0, len(V) - size), (0, 0)))
    RR, VV = keep((gram(rest), gram(V)))
    off = times(V, W.T) - best
    return inner(off, off) + jnp.sum(RR * VV) + lacking


def spread_of(values: Float[Array, " r"], block: Block) -> float:
    """Return how far apart the values of a block lie, relative to ‖Σ_d‖_F; 0 for one that is found along the way.

    Until they are told apart, which takes 1/(η·spread) steps, runs move among the approximations that count as best:
    the directions of larger values grow at the expense of the others, and keep a run at about that distance from every
    QQᵀΣ. A tolerance has to be above it.
    """
    if not isinstance(block.end, int):
        return 0.0
    numbers = np.asarray(values, float)
    return float((numbers[block.first] - numbers[block.end - 1]) / np.linalg.norm(numbers[: block.kept]))


def _same(values: np.ndarray | Array, epsilon: float) -> np.ndarray | Array:
    """Tell which values equal the next one: to 1e-6 of themselves, or to rounding of the largest."""
    library = np if isinstance(values, np.ndarray) else jnp
    near = library.maximum(_RELATIVE * values[:-1], _ROUNDING * epsilon * values[:1])
    return values[:-1] - values[1:] <= near
