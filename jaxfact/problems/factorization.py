"""The fully observed problem of Ye & Du (2021): ½‖U Vᵀ − Σ‖²_F."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, ScalarLike

from jaxfact.data.numbers import centred_exponent, times_power
from jaxfact.inputs import problem_with, sizes
from jaxfact.numerics.decompositions import condensed
from jaxfact.numerics.products import gram, inner, is_long, keep, times
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import Factors
from jaxfact.problems.targets import Unit, as_target, cast, check_parts, decompose, without_zeros
from jaxfact.problems.ties import Block, equal_values, spread_of, squared_distance, tied_block


class SingularCoordinates(NamedTuple):
    """Factors in the target's singular coordinates, split after the first q = min(r, d) rows.

    `U` and `V` are the first q rows (A₁ and B₁ in the formulas below), `J` and `K` the others (A₂, B₂), up to a
    rotation of their rows; `tail` is tr(A₂ᵀ S_tail B₂).
    """

    U: Float[Array, "q d"]
    V: Float[Array, "q d"]
    J: Float[Array, "j d"]
    K: Float[Array, "k d"]
    tail: Float[Array, ""]


class Factorization(Problem):
    """Factorise a fully observed matrix: loss ½‖U Vᵀ − Σ‖²_F with Σ = target/σ₁.

    `target` is an m×n matrix, or the 1-D array of its singular values, largest first; then `shape` gives m and n, and
    `left` (m×r), `right` (n×r) the orthonormal singular vectors. Without them the target is diagonal and its
    coordinates are the singular ones. The target is divided by its unit σ₁, so that steps are in 1/σ₁, factors in √σ₁,
    the loss in σ₁²; a zero target keeps the unit 1. Its dtype is that of the data:
    float32 and float64 stay, shorter floats become float32, all else the default float.

    The matrix may be a NumPy, JAX or PyTorch array, nested lists, a table of pandas or xarray, or one of SciPy's sparse
    arrays, whose absent entries are zeros. σ₁ may lie beyond the dtype, but not beyond float64.

    The sizes in `shape` may be traced numbers, and singular values may be padded with zeros: then m, n and the rank are
    axes of a sweep, and the problem exists in compressed form only (see `compress`).

    A matrix is decomposed in float64 on the host, whatever the dtype, and singular values at rounding level are
    dropped; a traced matrix is decomposed by JAX in its own dtype and keeps min(m, n) of them.

    Raises ValueError for a target with the wrong number of dimensions, no entries, complex, masked or non-finite
    entries, a unit beyond float64, unsorted or negative singular values, and bases of the wrong shape or not
    orthonormal.

    The gradient is in Gram form, ∇_U = U(VᵀV) − ΣV (Ye & Du 2021, §2); the loss and the distance come from the blocks
    of the residual, all of them non-negative, so that neither cancels near zero.
    """

    singular_values: Float[Array, " r"]
    left: Float[Array, "m r"] | None
    right: Float[Array, "n r"] | None
    scale: Unit
    stored: tuple[int, int] | None = eqx.field(static=True)
    sizes: tuple[Any, Any] | None
    padded_rank: bool = eqx.field(static=True)
    ties: tuple[tuple[int, int], ...] | None = eqx.field(static=True)
    used: ScalarLike | None

    def __init__(
        self,
        target: Any,
        *,
        shape: tuple[int, int] | None = None,
        left: Any = None,
        right: Any = None,
    ):
        target = as_target(target)
        floating = float if target.dtype.kind in "iub" else jnp.promote_types(target.dtype, "f4")
        dtype = jax.dtypes.canonicalize_dtype(floating)
        is_traced = isinstance(target, Tracer)
        exponent = 0 if is_traced else centred_exponent(target)
        if np.ndim(target) == 1 and shape is not None:
            self.stored, self.sizes = _sizes(shape)
            check_parts(target, self.stored, left, right)
            values = target
            if not is_traced:
                values, left, right = without_zeros(times_power(target, -exponent), left, right, dtype)
        elif np.ndim(target) == 2 and shape is None and left is None and right is None:
            left, values, right = decompose(target, exponent)
            self.stored, self.sizes = (target.shape[0], target.shape[1]), None
        else:
            raise problem_with(
                "target",
                f"array of shape {np.shape(target)}",
                "needs an m×n matrix, or 1-D singular values together with shape=(m, n)",
                "reshape the data to two dimensions",
            )
        library = jnp if is_traced else np
        largest = library.max(values, initial=0)
        unit = library.where(largest > 0, largest, 1)
        self.singular_values = cast(values / unit, dtype)
        self.scale = Unit.of(unit, exponent, dtype, self.unit_name)
        # Singular values that are computed along the way may be zero from some index on.
        self.padded_rank = np.ndim(target) == 1 and is_traced
        # Known before tracing, so that a spectrum of distinct values costs what its own formula does.
        self.ties = None if is_traced else equal_values(np.asarray(values, float), float(jnp.finfo(dtype).eps))
        self.used = None
        self.left = None if left is None else cast(left, dtype)
        self.right = None if right is None else cast(right, dtype)

    @property
    def unit(self) -> Float[Array, ""]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """σ₁ of the target, 1 for a zero one; a NumPy double where the dtype cannot hold it."""
        return self.scale.value  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> Any:
        """The dtype of the factors."""
        return self.singular_values.dtype

    @property
    def shape(self) -> tuple[Any, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sizes m and n of the matrix: traced numbers where they are axes of a sweep."""
        return self.rows if self.sizes is None else self.sizes

    @property
    def rows(self) -> tuple[int, int]:
        """The numbers of rows that factors have."""
        if self.stored is None:
            raise problem_with(
                "shape",
                "traced sizes",
                "factors of unknown size cannot be formed",
                "use a method, start and records that can be compressed, and do not switch compression off",
            )
        return self.stored

    @property
    def truth(self) -> "Factorization":  # pyright: ignore[reportIncompatibleVariableOverride]
        """The problem itself: its matrix is known."""
        return self

    @property
    def rank(self) -> int:
        """The number r of singular values that are kept."""
        return len(self.singular_values)

    @property
    def target(self) -> Float[Array, "m n"]:
        """The matrix Σ, in its unit: its largest singular value is 1."""
        m, n = self.rows
        left = jnp.eye(m, self.rank, dtype=self.dtype) if self.left is None else self.left
        right = jnp.eye(n, self.rank, dtype=self.dtype) if self.right is None else self.right
        return left @ (self.singular_values[:, None] * right.T)

    def in_singular_coordinates(self) -> "Factorization":
        """Return the same problem rotated so that its target is diagonal, at O((m+n)d²) per step.

        Σ = P S Qᵀ and (U, V) → (PᵀU, QᵀV): loss, distance, imbalance and every method that commutes with rotations of
        the rows are unchanged, and so is the law of a Gaussian start (Ye & Du 2021, §2).
        """
        return eqx.tree_at(lambda p: (p.left, p.right), self, (None, None), is_leaf=lambda x: x is None)

    def in_unit(self, scale: Unit) -> "Factorization":
        """Return the problem of the same matrix in another unit."""
        return eqx.tree_at(lambda p: p.scale, self, scale)

    def in_dtype(self, dtype: Any) -> "Factorization":
        """Return the problem computed in another dtype."""
        return jax.tree.map(lambda x: x.astype(dtype), self).in_unit(self.scale.in_dtype(dtype, self.unit_name))

    def at_width(self, width: ScalarLike) -> "Factorization":
        """Return the problem for factors of which only the first `width` columns are used and the others are zero."""
        return eqx.tree_at(lambda p: p.used, self, jnp.asarray(width), is_leaf=lambda x: x is None)

    def used_columns(self, width: int) -> Bool[Array, " d"] | None:
        """Tell which columns of factors of this width are not padding; None where all of them are used."""
        return None if self.used is None else jnp.arange(width) < self.used

    def truncation(self, width: int) -> Factors:
        """Return the balanced factors of Σ_d, the best approximation of rank `width` (Eckart & Young 1936).

        U = P_d √S_d and V = Q_d √S_d, padded by zero columns where width exceeds the rank.
        """
        kept = min(width, self.rank)
        root = jnp.sqrt(self.singular_values[:kept])
        sides = []
        for size, basis in zip(self.rows, (self.left, self.right), strict=True):
            vectors = jnp.eye(size, kept, dtype=self.dtype) if basis is None else basis[:, :kept]
            sides.append(jnp.pad(vectors * root, ((0, 0), (0, width - kept))))
        return Factors(*sides)

    def coordinates(self, factors: Factors) -> SingularCoordinates:
        """Return the factors in singular coordinates (Ye & Du 2021, §2), split after min(r, d) rows."""
        head = min(self.rank, factors.width)
        U, V = self._rotated(factors.U, self.left), self._rotated(factors.V, self.right)
        # The values that Σ_d keeps are known to be the first ones, unless the width is an axis.
        first = head if self.used is None else 0
        weighted = self._beyond(factors.width)[first:, None] * U[first : self.rank]
        tail = inner(weighted, V[first : self.rank])
        return SingularCoordinates(U[:head], V[:head], U[head:], V[head:], tail)

    def distance(self, factors: Factors) -> Float[Array, ""]:
        """Return ‖UVᵀ − Σ_d‖_F / ‖Σ_d‖_F, never squared; absolute where Σ = 0.

        dist² = ‖A₁B₁ᵀ−S_d‖² + ⟨A₁ᵀA₁, B₂ᵀB₂⟩ + ⟨A₂ᵀA₂, B₁ᵀB₁⟩ + ⟨A₂ᵀA₂, B₂ᵀB₂⟩, which never cancels. Where σ_d and
        σ_{d+1} agree to 1e-6 the best approximations are a set, and the distance is that to a member of it: see `ties`.
        """
        norm = jnp.linalg.norm(self._best(factors.width))
        return jnp.sqrt(self._squared_distance(factors)) / jnp.where(norm > 0, norm, 1)

    def excess(self, factors: Factors) -> Float[Array, ""]:
        """Return f − f⋆ = ½dist² − tr(A₂ᵀ S_tail B₂), the loss above the best of this width; in σ₁²."""
        squared, tail = self._residual(factors)
        return squared / 2 - tail

    def loss(self, factors: Factors) -> Float[Array, ""]:
        """Return ½‖UVᵀ − Σ‖²_F in σ₁², from the blocks of the residual."""
        return self.excess(factors) + jnp.sum(self._beyond(factors.width) ** 2) / 2

    def gradient(self, factors: Factors) -> Factors:
        """Return U(VᵀV) − ΣV and V(UᵀU) − ΣᵀU, without forming the m×n residual."""
        U, V = factors
        VV, UU = keep((gram(V), gram(U)))
        return Factors(
            times(U, VV) - self._scaled(V, self.right, self.left, self.rows[0]),
            times(V, UU) - self._scaled(U, self.left, self.right, self.rows[1]),
        )

    def grams(self, factors: Factors) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
        """Return UᵀU and VᵀV; in singular coordinates from the blocks whose Gram matrices the distance needs too."""
        if self.left is not None or self.right is not None:
            return super().grams(factors)
        U, V, J, K, _ = self.coordinates(factors)
        UU, VV, JJ, KK = _grams(U, V, J, K)
        return UU + JJ, VV + KK

    def is_truncation_unique(self, width: int) -> Array:
        """Tell whether σ_d − σ_{d+1} > 1e-6·σ_d, so that one best approximation of rank `width` exists."""
        block = self._tie(width)
        return jnp.asarray(True if block is None else block.end == block.kept)

    def spread(self, width: int) -> float:
        """Return how far apart the singular values lie that count as equal to σ_d, relative to ‖Σ_d‖_F.

        It is 0 for distinct values, and where they are not known beforehand.
        """
        block = self._tie(width)
        return 0.0 if block is None else spread_of(self.singular_values, block)

    def _tie(self, width: int) -> Block | None:
        """Return the equal values of which Σ_d keeps some, None where it is known beforehand that it keeps all."""
        return tied_block(self.ties, self.singular_values, width if self.used is None else jnp.asarray(self.used))

    def _is_kept(self, width: int) -> np.ndarray | Array:
        """Tell which singular values belong to Σ_d."""
        return np.arange(self.rank) < (width if self.used is None else self.used)

    def _best(self, width: int) -> Float[Array, " r"]:
        """Return the singular values of Σ_d, followed by zeros."""
        return jnp.where(self._is_kept(width), self.singular_values, 0)

    def _beyond(self, width: int) -> Float[Array, " r"]:
        """Return the singular values that Σ_d leaves out, after zeros."""
        return jnp.where(self._is_kept(width), 0, self.singular_values)

    def _squared_distance(self, factors: Factors) -> Float[Array, ""]:
        """Return the squared distance to Σ_d, or to the set of best approximations where they are one."""
        block = self._tie(factors.width)

        def to_the_set(block: Block) -> Float[Array, ""]:
            U, V = self._rotated(factors.U, self.left), self._rotated(factors.V, self.right)
            return squared_distance(U, V, self.singular_values, block)

        if block is None:
            return self._residual(factors)[0]
        if isinstance(block.end, int):
            return to_the_set(block)
        unique = block.end == block.kept
        return jax.lax.cond(unique, lambda _: self._residual(factors)[0], to_the_set, block)

    def _residual(self, factors: Factors) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return ‖UVᵀ − Σ_d‖² and the tail term that turns it into twice the excess."""
        U, V, J, K, tail = self.coordinates(factors)
        core = jnp.sum((times(U, V.T) - jnp.diag(self._best(factors.width)[: len(U)])) ** 2)
        if factors.width <= self.rank and self.used is None and not self.padded_rank:
            # At the optimum U and V have full rank, so J and K are small themselves: Gram products lose nothing.
            UU, VV, JJ, KK = _grams(U, V, J, K)
            return core + jnp.sum(UU * KK) + jnp.sum(JJ * VV) + jnp.sum(JJ * KK), tail
        # Beyond the rank large J and K may be orthogonal to V, U and each other; there Gram products cancel.
        short_J, short_K = (condensed(X) if is_long(len(X)) else X for X in (J, K))
        outer = times(short_J, short_K.T)
        crossed = times(K, U.T), times(J, V.T), outer
        return core + sum(inner(X, X) for X in crossed), tail

    def _rotated(self, factor: Float[Array, "k d"], basis: Float[Array, "k r"] | None) -> Float[Array, "_ d"]:
        """Return the coordinates along the basis, and beneath them what is orthogonal to it."""
        if basis is None:
            return factor
        along = basis.T @ factor
        return jnp.concatenate([along, factor - basis @ along])

    def _scaled(self, factor: Array, basis: Array | None, into: Array | None, rows: int) -> Array:
        """Return Σ (or Σᵀ) applied to a factor."""
        if basis is None or into is None:
            scaled = self.singular_values[:, None] * factor[: self.rank]
            return jnp.pad(scaled, ((0, rows - self.rank), (0, 0)))
        return into @ (self.singular_values[:, None] * (basis.T @ factor))


def _grams(*blocks: Array) -> tuple[Array, ...]:
    return keep(tuple(gram(X) for X in blocks))


def _sizes(shape: tuple[Any, Any]) -> tuple[tuple[int, int] | None, tuple[Any, Any] | None]:
    """Return the sizes as static rows, or as numbers where they are traced."""
    if isinstance(shape, tuple | list) and any(isinstance(size, Tracer) for size in shape):
        return None, (shape[0], shape[1])
    static = sizes(shape)
    if max(static) >= 2**31 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        needed = "sizes are counted below 2³¹ in single precision"
        instead = "compute in float64 (--x64, or jax.config.update('jax_enable_x64', True) first)"
        raise problem_with("shape", static, needed, instead)
    return static, None
