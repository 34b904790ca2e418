"""Where a run begins: random and spectral starts, and the published scales."""

import abc

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxfact.decompositions import qr, svd
from jaxfact.factors import Factors
from jaxfact.inputs import positive, positive_integer, problem_with
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization


class Start(eqx.Module):
    """A rule that draws the first pair of factors of a run; explicit `Factors` serve as a start too."""

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, problem: Problem) -> Factors:
        """Draw the factors, in √σ₁; the same key and problem give the same factors."""


class Gaussian(Start):
    """Independent normal entries (Ye & Du 2021, Theorem 1.1).

    Give either `scale`, the standard deviation per entry in √σ₁, or `norm`, which sets scale = norm/√(m+n) and so means
    the same at every size. `ratio` unbalances the start: the root mean squares of ‖U‖_F and ‖V‖_F have that ratio while
    the product of the two entry scales stays scale²; without it both factors have the same entry scale.

    Raises ValueError for a width below 1, a scale, norm or ratio that is not above 0, and for both or neither of scale
    and norm.
    """

    width: int = eqx.field(static=True)
    scale: ScalarLike | None = None
    norm: ScalarLike | None = None
    ratio: ScalarLike | None = None

    def __check_init__(self):
        _check_width(self.width)
        if (self.scale is None) == (self.norm is None):
            given = "neither" if self.scale is None else "both"
            raise problem_with("scale, norm", given, "needs one of the two", "say scale= per entry or norm= in all")
        for name, value in (("scale", self.scale), ("norm", self.norm), ("ratio", self.ratio)):
            if value is not None:
                positive(name, value, "try 1e-3 for a small start" if name != "ratio" else "1 is balanced")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> Factors:
        """Draw both factors, each from a key of its own."""
        m, n = problem.shape
        dtype = problem.unit.dtype
        scale = jnp.asarray(self.scale if self.norm is None else self.norm / (m + n) ** 0.5, dtype)
        tilt = jnp.asarray(1.0 if self.ratio is None else (self.ratio * (n / m) ** 0.5) ** 0.5, dtype)
        key_U, key_V = jr.split(key)
        U = jr.normal(key_U, (m, self.width), dtype) * (scale * tilt)
        V = jr.normal(key_V, (n, self.width), dtype) * (scale / tilt)
        return Factors(U, V)


class Orthogonal(Start):
    """Haar-distributed orthonormal columns times `scale` (in √σ₁): UᵀU = VᵀV = scale²·I.

    Where the width exceeds m (or n) the rows are orthonormal instead.
    """

    width: int = eqx.field(static=True)
    scale: ScalarLike

    def __check_init__(self):
        _check_width(self.width)
        positive("scale", self.scale, "try 1e-3 for a small start")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> Factors:
        """Draw both frames, each from a key of its own."""
        scale = jnp.asarray(self.scale, problem.unit.dtype)
        keys = jr.split(key)
        return Factors(
            *(scale * _frame(k, size, self.width, scale.dtype) for k, size in zip(keys, problem.shape, strict=True))
        )


class Balanced(Start):
    """The balanced pair with the same product as the `Gaussian` start of the same key: UᵀU = VᵀV, UVᵀ unchanged.

    U = P√S and V = Q√S from the singular value decomposition of the Gaussian product (Min et al. 2021, §5); `scale` is
    that of the Gaussian entries, in √σ₁.
    """

    width: int = eqx.field(static=True)
    scale: ScalarLike

    def __check_init__(self):
        _check_width(self.width)
        positive("scale", self.scale, "try 1e-3 for a small start")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> Factors:
        """Draw the Gaussian pair and balance it."""
        gaussian = Gaussian(self.width, scale=self.scale).draw(key, problem)
        frame_U, R_U = qr(gaussian.U)
        frame_V, R_V = qr(gaussian.V)
        left, values, right = svd(R_U @ R_V.T)
        root = jnp.sqrt(values)
        unused = ((0, 0), (0, self.width - len(values)))
        return Factors(jnp.pad(frame_U @ (left * root), unused), jnp.pad(frame_V @ (right * root), unused))


class Spectral(Start):
    """`scale` times the balanced factors of the best approximation; on a fully observed target 1 is the optimum."""

    width: int = eqx.field(static=True)
    scale: ScalarLike = 1.0

    def __check_init__(self):
        _check_width(self.width)
        positive("scale", self.scale, "1 starts at the truncated decomposition")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> Factors:
        """Return the scaled truncation; the key is not used."""
        if not isinstance(problem, Factorization):
            raise problem_with(
                "problem",
                type(problem).__name__,
                "Spectral needs a Factorization",
                "start from Gaussian instead",
            )
        U, V = problem.truncation(self.width)
        scale = jnp.asarray(self.scale, U.dtype)
        return Factors(scale * U, scale * V)


def ye_du_scale(problem: Factorization, width: int, exponent: int = 1) -> Float[Array, ""]:
    """Return Ye & Du's entry scale ε = σ_d/(√(d^exponent·σ₁)·(m+n)), in √σ₁, constants and logarithms left out.

    The exponent of d is 1 in the paper's text (Ye & Du 2021, Theorem 1.1) and 3 in a third party's implementation of
    it; σ_d is the last singular value that the width can reach.
    """
    m, n = problem.shape
    return _smallest(problem, width) / (width ** (exponent / 2) * (m + n))


def ye_du_step_size(problem: Factorization, width: int, scale: ScalarLike) -> Float[Array, ""]:
    """Return Ye & Du's step η = σ_d·ε²/(d·σ₁³), in 1/σ₁, constants left out (Ye & Du 2021, Theorem 1.1)."""
    return _smallest(problem, width) * jnp.square(scale) / width


def _smallest(problem: Factorization, width: int) -> Float[Array, ""]:
    _check_width(width)
    if problem.rank == 0:
        raise problem_with("problem", "a zero target", "Ye & Du's rules need σ_d > 0", "give a non-zero target")
    return problem.singular_values[min(width, problem.rank) - 1]


def _check_width(width: int) -> None:
    positive_integer("width", width, "the rank of the target is the usual choice; above min(m, n) is allowed")


def _frame(key: PRNGKeyArray, size: int, width: int, dtype: jnp.dtype) -> Float[Array, "k d"]:
    """Draw a size×width matrix with Haar-distributed orthonormal columns (rows, where width > size)."""
    tall = jr.normal(key, (max(size, width), min(size, width)), dtype)
    frame, triangle = qr(tall)
    frame = frame * jnp.where(jnp.diag(triangle) < 0, -1, 1).astype(dtype)
    return frame if size >= width else frame.T
