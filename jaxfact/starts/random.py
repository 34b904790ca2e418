"""Where a run begins: random and spectral starts, and the published scales."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxfact.inputs import positive, positive_integer, problem_with
from jaxfact.numerics.decompositions import largest_eigenvalue, qr, svd
from jaxfact.numerics.products import gram
from jaxfact.problems.base import Problem
from jaxfact.problems.compression import standard_normal
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor


def whole_width(width: Any) -> int:
    """Return a number of columns. Raises ValueError unless it is a whole number, 1 or above."""
    return positive_integer("width", width, "the rank of the target is the usual choice; above min(m, n) is allowed")


class Start(eqx.Module):
    """A rule that draws the first factors of a run; explicit `Factors` serve as a start too.

    `compresses` says that `draw` may be called with the compressed problem and returns the compressed form of the same
    factors there. Where it is False the full factors are drawn and then compressed.
    """

    compresses: ClassVar[bool] = False

    @property
    def used_width(self) -> ScalarLike | None:
        """How many columns of the factors are used, the others being zero; None where all of them are.

        It may be traced, so that the width can be an axis of a sweep while arrays keep their shape.
        """
        return None

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw the factors, in √σ₁; the same key and problem give the same factors."""


class Gaussian(Start):
    """Independent normal entries (Ye & Du 2021, Theorem 1.1).

    On the compressed problem the compressed form is drawn, at a cost that does not depend on m and n. `width` may be an
    axis of a sweep; then `padded_to` is its largest value, and the columns beyond the width are zero and stay so.

    Give either `scale`, the standard deviation per entry in √σ₁, or `norm`, which sets scale = norm/√(m+n) and so means
    the same at every size. In one factor of n rows, entries of variance ϖ²/n (Chen et al. 2024, where ϖ of about 1 is a
    large start) are norm = √2·ϖ. `ratio` unbalances the start: the root mean squares of ‖U‖_F and ‖V‖_F have that ratio
    while the product of the two entry scales stays scale²; without it both factors have the same entry scale.

    Raises ValueError for a width below 1, a scale, norm or ratio that is not above 0, and for both or neither of scale
    and norm.
    """

    width: int = eqx.field(static=True)
    scale: ScalarLike | None
    norm: ScalarLike | None
    ratio: ScalarLike | None
    used: ScalarLike | None

    compresses: ClassVar[bool] = True

    def __init__(
        self,
        width: Any,
        scale: ScalarLike | None = None,
        norm: ScalarLike | None = None,
        ratio: ScalarLike | None = None,
        *,
        padded_to: int | None = None,
    ):
        width, padded_to = _checked_padding(width, padded_to)
        if (scale is None) == (norm is None):
            given = "neither" if scale is None else "both"
            raise problem_with("scale, norm", given, "needs one of the two", "pass scale= per entry, or norm= overall")
        for name, value in (("scale", scale), ("norm", norm), ("ratio", ratio)):
            if value is not None:
                positive(name, value, "try 1e-3 for a small start" if name != "ratio" else "1 is balanced")
        # An array is data of a compiled program, a number of Python a part of it.
        self.width, self.used = (width, None) if padded_to is None else (padded_to, jnp.asarray(width))
        self.scale, self.norm, self.ratio = scale, norm, ratio

    @property
    def used_width(self) -> ScalarLike | None:
        """The width where it is padded."""
        return self.used

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw both factors, each from its own keys."""
        m, n = problem.shape
        dtype = problem.dtype
        # The sum of two sizes of 32 bits may not fit into as many.
        scale = jnp.asarray(self.scale if self.norm is None else self.norm / (m / 1 + n) ** 0.5, dtype)
        tilt = jnp.asarray(1.0 if self.ratio is None else (self.ratio * (n / m) ** 0.5) ** 0.5, dtype)
        drawn = standard_factors(key, problem, self.width)
        if self.used is not None:
            drawn = jax.tree.map(lambda x: jnp.where(jnp.arange(self.width) < jnp.asarray(self.used), x, 0), drawn)
        if isinstance(drawn, TiedFactor):
            if self.ratio is not None:
                raise problem_with("ratio", self.ratio, "one factor cannot be unbalanced", "leave it out")
            return TiedFactor(drawn.X * scale)
        return Factors(drawn.U * (scale * tilt), drawn.V * (scale / tilt))


class NormedGaussian(Start):
    """Independent normal entries, scaled so that ‖[U; V]‖₂ is exactly `norm` (in √σ₁); ‖X‖₂ of one tied factor.

    The norm is spectral, of both factors stacked: a₀ of Wind (2023, Theorem 2.8), and α of Ma & Fattahi (2024), whose
    start is αZ with ‖Z‖ = 1. Here the norm is the same in every run; with `Gaussian` the deviation of the entries is.

    Raises ValueError for a width below 1 and a norm that is not above 0.
    """

    width: int = eqx.field(static=True, converter=whole_width)
    norm: ScalarLike

    compresses: ClassVar[bool] = True

    def __check_init__(self) -> None:
        positive("norm", self.norm, "try 1e-3 for a small start")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw the factors and divide them by their joint norm, which compression keeps."""
        drawn = standard_factors(key, problem, self.width)
        size = jnp.sqrt(largest_eigenvalue(sum(gram(x) for x in drawn)))
        return jax.tree.map(lambda x: x * (jnp.asarray(self.norm, x.dtype) / size), drawn)


class Sphere(Start):
    """All entries together uniform on a sphere: ‖U‖²_F + ‖V‖²_F is exactly norm² (in σ₁); ‖X‖²_F of one tied factor.

    They are independent normal entries divided by their joint Frobenius norm, so `norm` (in √σ₁) is the same in every
    run where that of `Gaussian(norm=…)` scatters.
    """

    width: int = eqx.field(static=True, converter=whole_width)
    norm: ScalarLike

    compresses: ClassVar[bool] = True

    def __check_init__(self) -> None:
        positive("norm", self.norm, "try 1e-2 for a small start")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw the factors and divide them by their joint norm, which compression keeps."""
        drawn = standard_factors(key, problem, self.width)
        size = jnp.sqrt(drawn.energy)
        return jax.tree.map(lambda x: x * (jnp.asarray(self.norm, x.dtype) / size), drawn)


class Orthogonal(Start):
    """Haar-distributed orthonormal columns times `scale` (in √σ₁): UᵀU = VᵀV = scale²·I.

    Where the width exceeds m (or n) the rows are orthonormal instead.
    """

    width: int = eqx.field(static=True, converter=whole_width)
    scale: ScalarLike

    compresses: ClassVar[bool] = True

    def __check_init__(self) -> None:
        positive("scale", self.scale, "try 1e-3 for a small start")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Orthonormalise the factors of the `Gaussian` start of the same key."""
        return jax.tree.map(lambda x: self.scale * _frame(x), standard_factors(key, problem, self.width))


class Balanced(Start):
    """The balanced pair with the same product as the `Gaussian` start of the same key: UᵀU = VᵀV, UVᵀ unchanged.

    U = P√S and V = Q√S from the singular value decomposition of the Gaussian product (Min et al. 2021, §5); `scale` is
    that of the Gaussian entries, in √σ₁.
    """

    width: int = eqx.field(static=True, converter=whole_width)
    scale: ScalarLike

    compresses: ClassVar[bool] = True

    def __check_init__(self) -> None:
        positive("scale", self.scale, "try 1e-3 for a small start")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Draw the Gaussian pair and balance it."""
        gaussian = Gaussian(self.width, scale=self.scale).draw(key, problem)
        if isinstance(gaussian, TiedFactor):
            return gaussian
        frame_U, R_U = qr(gaussian.U)
        frame_V, R_V = qr(gaussian.V)
        left, values, right = svd(R_U @ R_V.T)
        root = jnp.sqrt(values)
        unused = ((0, 0), (0, self.width - len(values)))
        return Factors(jnp.pad(frame_U @ (left * root), unused), jnp.pad(frame_V @ (right * root), unused))


class Spectral(Start):
    """`scale` times the balanced factors of the best approximation; on a fully observed target, 1 is the optimum."""

    width: int = eqx.field(static=True, converter=whole_width)
    scale: ScalarLike = 1.0

    compresses: ClassVar[bool] = True

    def __check_init__(self) -> None:
        positive("scale", self.scale, "1 starts at the truncated decomposition")

    def draw(self, key: PRNGKeyArray, problem: Problem) -> AnyFactors:
        """Return the scaled truncation; the key is not used."""
        scale = jnp.asarray(self.scale, problem.dtype)
        return jax.tree.map(lambda x: scale * x, problem.truncation(self.width))


def ye_du_scale(problem: Factorization, width: int, exponent: int = 1) -> Float[Array, ""]:
    """Return Ye & Du's entry scale ε = σ_d/(√(d^exponent·σ₁)·(m+n)), in √σ₁, constants and logarithms left out.

    The exponent of d is 1 in the paper's text (Ye & Du 2021, Theorem 1.1) and 3 in a third party's implementation of
    it; σ_d is the last singular value that the width can reach.
    """
    m, n = problem.shape
    return _smallest(problem, width) / (width ** (exponent / 2) * (m / 1 + n))


def ye_du_step_size(problem: Factorization, width: int, scale: ScalarLike) -> Float[Array, ""]:
    """Return Ye & Du's step η = σ_d·ε²/(d·σ₁³), in 1/σ₁, constants left out (Ye & Du 2021, Theorem 1.1)."""
    return _smallest(problem, width) * jnp.square(scale) / width


def _smallest(problem: Factorization, width: int) -> Float[Array, ""]:
    width = whole_width(width)
    if problem.rank == 0:
        raise problem_with("problem", "a zero target", "Ye & Du's rules need σ_d > 0", "give a non-zero target")
    return problem.singular_values[min(width, problem.rank) - 1]


def _checked_padding(width: Any, padded_to: int | None) -> tuple[Any, int | None]:
    if padded_to is None:
        if isinstance(width, Tracer):
            raise problem_with("width", "a traced number", "needs a bound", "pass padded_to=, its largest value")
        return whole_width(width), None
    padded_to = positive_integer("padded_to", padded_to, "give the largest width of the axis")
    if not isinstance(width, Tracer) and not 1 <= int(width) <= padded_to:
        raise problem_with("width", int(width), f"needs a number from 1 to padded_to={padded_to}", "raise padded_to")
    return width, padded_to


def standard_factors(key: PRNGKeyArray, problem: Problem, width: int) -> AnyFactors:
    """Draw standard normals in the shape of the problem's factors, on a factorisation through their compressed form."""
    if isinstance(problem, Factorization):
        return standard_normal(key, problem, width)
    return problem.standard_normal(key, width)


def _frame(matrix: Float[Array, "k d"]) -> Float[Array, "k d"]:
    """Return orthonormal columns (rows, where there are more columns) from normal entries: Haar-distributed."""
    if len(matrix) >= matrix.shape[1]:
        return qr(matrix)[0]
    left, _, right = svd(matrix)
    return left @ right.T
