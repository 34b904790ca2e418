"""Exact compression: a run on an m×n matrix is a run of size about (r+d)×(r+d), whatever m and n.

Σ = P S Qᵀ. Split U = P A + P⊥W R with W orthonormal and R of d rows. For a method that commutes with rotations of the
rows of U and of V every iterate keeps this form: A and R move, P and W do not. (The reflection that is +1 on the span
of P and W and −1 off it fixes U and Σ, so it fixes the update.) So loss, Gram matrices and singular values are those of
the small run, to rounding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from jaxfact.numerics.decompositions import beyond, qr, triangle
from jaxfact.numerics.draws import bartlett, fold, normal
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.targets import Unit

_FRAME = 2  # keys 0 and 1 draw the compressed factors, 2 and 3 the frames they stand in


class Compressed(Factorization):
    """A factorisation whose factors hold r rows along the singular vectors and a few that stand for all others.

    `shape` stays m and n. Of each factor's rows the first r are A (B), the next are R in some frame W off the singular
    vectors, and the last `spare` ones, empty between two steps, take the part of a step's noise that leaves the frame.
    """

    spare: tuple[int, int]

    def __init__(self, problem: Factorization, width: int, *, frames: int = 1, noisy: bool = False):
        self.singular_values: Float[Array, " r"] = problem.singular_values
        self.scale: Unit = problem.scale
        self.left: Float[Array, "m r"] | None = None
        self.right: Float[Array, "n r"] | None = None
        self.padded_rank: bool = problem.padded_rank
        self.ties: tuple[tuple[int, int], ...] | None = problem.ties
        self.used: ScalarLike | None = problem.used
        self.sizes: tuple[Any, Any] | None = problem.shape
        off = [_rows_off(size, self.rank, width, frames, noisy) for size in problem.shape]
        self.stored: tuple[int, int] | None = (self.rank + sum(off[0]), self.rank + sum(off[1]))
        self.spare = (off[0][1], off[1][1])

    def standard_normal(self, key: PRNGKeyArray, width: int) -> Factors:
        """Draw the compressed form of an m×d and an n×d matrix of standard normals, at a cost free of m and n."""
        dtype = self.dtype
        entries = normal(fold(key, 0), (2, self.rank, width), dtype)
        freedom = jnp.stack([jnp.asarray(size - self.rank, dtype) for size in self.shape])
        factors = []
        for side, off in enumerate(bartlett(fold(key, 1), freedom, width)):
            along = jnp.where(self._is_row(side, self.rank), entries[side], 0)
            factors.append(_fitted(jnp.concatenate([along, off]), self.rows[side]))
        return self._in_used_columns(Factors(*factors))

    def noise(self, key: PRNGKeyArray, factors: Factors) -> Factors:
        """Draw the compressed form of standard normal entries, exact in law for the Gram matrices of what it joins.

        In the frame the noise is normal; off it only its Gram matrix matters, which is that of a triangle.
        """
        dtype, width = self.dtype, factors.width
        lengths = [rows - spare for rows, spare in zip(self.rows, self.spare, strict=True)]
        entries = normal(fold(key, 0), (sum(lengths), width), dtype)
        blocks = [entries[: lengths[0]], entries[lengths[0] :]]
        inside = [jnp.where(self._is_row(side, len(block)), block, 0) for side, block in enumerate(blocks)]
        if any(self.spare):
            freedom = [jnp.asarray(size - length, dtype) for size, length in zip(self.shape, lengths, strict=True)]
            off = bartlett(fold(key, 1), jnp.stack(freedom), width)
            inside = [jnp.concatenate([x, t[:spare]]) for x, t, spare in zip(inside, off, self.spare, strict=True)]
        return self._in_used_columns(Factors(*inside))

    def reframed(self, tree: PyTree) -> PyTree:
        """Rotate the rows off the singular vectors, of factors and method state together, out of the spare rows."""
        if not any(self.spare):
            return tree
        leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_pair)
        places = [place for place, leaf in enumerate(leaves) if _is_pair(leaf)]
        pairs = [list(leaves[place]) for place in places]
        for side, spare in enumerate(self.spare):
            if spare:
                for pair, rotated in zip(pairs, self._rotated_rows([p[side] for p in pairs], side), strict=True):
                    pair[side] = rotated
        for place, pair in zip(places, pairs, strict=True):
            leaves[place] = Factors(*pair)
        return jax.tree.unflatten(treedef, leaves)

    def _rotated_rows(self, blocks: Sequence[Float[Array, "k d"]], side: int) -> list[Float[Array, "k d"]]:
        together = jnp.concatenate([block[self.rank :] for block in blocks], axis=1)
        turned = jnp.split(triangle(together), len(blocks), axis=1)
        rows = self.rows[side]
        return [
            _fitted(jnp.concatenate([block[: self.rank], off]), rows) for block, off in zip(blocks, turned, strict=True)
        ]

    def _is_row(self, side: int, count: int) -> Bool[Array, "k 1"]:
        """Tell which of the first rows exist: a factor has no more rows than m (or n), which may be traced."""
        return (jnp.arange(count) < self.shape[side])[:, None]

    def _in_used_columns(self, factors: Factors) -> Factors:
        used = self.used_columns(factors.width)
        return factors if used is None else Factors(*(jnp.where(used, x, 0) for x in factors))


def compress(problem: Factorization, factors: Factors) -> tuple[Compressed, Factors]:
    """Return problem and factors in compressed form: the same loss, Gram matrices and singular values.

    For a method that commutes with rotations of the rows, descending from there is descending from `factors`, of shapes
    (m, d) and (n, d) in √σ₁. `expand` is the way back.
    """
    small = Compressed(problem, factors.width)
    return small, reduced(small, problem, factors)


def reduced(small: Compressed, problem: Factorization, factors: Factors) -> Factors:
    """Return factors of a problem as factors of its compressed form."""
    pairs = []
    for side, (factor, basis) in enumerate(zip(factors, (problem.left, problem.right), strict=True)):
        along = factor[: problem.rank] if basis is None else basis.T @ factor
        off = factor[problem.rank :] if basis is None else beyond(basis, factor)
        pairs.append(_fitted(jnp.concatenate([along, triangle(off)]), small.rows[side]))
    return Factors(*pairs)


def expand(problem: Factorization, small: Factors, key: PRNGKeyArray) -> Factors:
    """Return m×d and n×d factors whose compressed form is `small`; the frame off the singular vectors is drawn.

    U = P A + P⊥W R with W from the Haar measure: so a Gaussian draw of (A, R) becomes a Gaussian U. The inverse of
    `compress` except for the frame, on which no invariant of the run depends.
    """
    pairs = []
    for side, (factor, basis, size) in enumerate(zip(small, (problem.left, problem.right), problem.rows, strict=True)):
        along, off = factor[: problem.rank], factor[problem.rank :]
        noise = normal(fold(key, _FRAME + side), (size, len(off)), factor.dtype)
        if basis is None:
            pairs.append(jnp.concatenate([along, qr(noise[problem.rank :])[0] @ off]))
            continue
        for _ in range(2):  # a single pass leaves a part along the basis as large as rounding allows
            noise = noise - basis @ (basis.T @ noise)
        pairs.append(basis @ along + qr(noise)[0] @ off)
    return Factors(*pairs)


def standard_normal(key: PRNGKeyArray, problem: Factorization, width: int) -> Factors:
    """Draw m×d and n×d standard normals; on the compressed problem their compressed form, from the same numbers."""
    if isinstance(problem, Compressed):
        return problem.standard_normal(key, width)
    return expand(problem, Compressed(problem, width).standard_normal(key, width), key)


def _rows_off(size: Any, rank: int, width: int, frames: int, noisy: bool) -> tuple[int, int]:
    """Return how many rows stand for those off the singular vectors, and how many of them are spare."""
    frame, spare = (frames * width, width) if noisy else (width, 0)
    if isinstance(size, Tracer):
        return frame, spare
    # Where all rows fit they are kept as they are, and no noise can leave them.
    return (frame, spare) if size - rank > frame + spare else (max(int(size) - rank, 0), 0)


def _fitted(matrix: Float[Array, "k d"], rows: int) -> Float[Array, "rows d"]:
    """Return the matrix with zero rows added beneath, or empty ones cut off."""
    return jnp.pad(matrix[:rows], ((0, max(rows - len(matrix), 0)), (0, 0)))


def _is_pair(leaf: object) -> bool:
    return isinstance(leaf, Factors)
