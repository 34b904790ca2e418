"""The pair of factors, the one factor of a tied problem, and their small dense algebra."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxfact.data.numbers import as_array
from jaxfact.numerics import decompositions
from jaxfact.numerics.decompositions import condensed
from jaxfact.numerics.products import times


class Factors(NamedTuple):
    """A pair of factors, whose product is U Vᵀ.

    Both are in √unit, the unit being that of the problem (σ₁ of its target).
    """

    U: Float[Array, "*batch m d"]
    V: Float[Array, "*batch n d"]

    @property
    def width(self) -> int:
        """The number of columns d."""
        return self.U.shape[-1]

    @property
    def product(self) -> Float[Array, "*batch m n"]:
        """The matrix U Vᵀ, in the problem's unit."""
        return self.U @ self.V.mT

    @property
    def imbalance(self) -> Float[Array, "*batch d d"]:
        """The matrix D = UᵀU − VᵀV, which gradient flow conserves; in the problem's unit."""
        return self.U.mT @ self.U - self.V.mT @ self.V

    @property
    def energy(self) -> Float[Array, "*batch"]:
        """‖U‖²_F + ‖V‖²_F, in the problem's unit."""
        return jnp.sum(self.U**2, axis=(-2, -1)) + jnp.sum(self.V**2, axis=(-2, -1))


def said_of(factors: "AnyFactors") -> str:
    """Return the names and shapes of factors, and their dtype."""
    leaves = jax.tree_util.tree_leaves_with_path(factors)
    shapes = [f"{jax.tree_util.keystr(path, simple=True)} {jnp.shape(leaf)}" for path, leaf in leaves]
    return f"{', '.join(shapes)}, {jnp.result_type(leaves[0][1])}"


class TiedFactor(NamedTuple):
    """The one factor X of a symmetric product X Xᵀ, in √unit."""

    X: Float[Array, "*batch n d"]

    @property
    def width(self) -> int:
        """The number of columns d."""
        return self.X.shape[-1]

    @property
    def product(self) -> Float[Array, "*batch n n"]:
        """The matrix X Xᵀ, in the problem's unit."""
        return self.X @ self.X.mT

    @property
    def energy(self) -> Float[Array, "*batch"]:
        """‖X‖²_F, in the problem's unit: the trace of the product."""
        return jnp.sum(self.X**2, axis=(-2, -1))


# Any pytree of factors works where a problem and a start agree on it; these two are the usual ones.
AnyFactors = Any


def as_factors(given: Any) -> Any:
    """Return a plain pair of arrays as factors, and anything else as it is."""
    return Factors(*given) if type(given) in (tuple, list) and len(given) == 2 else given


def as_pair(factors: AnyFactors) -> Factors:
    """Return the pair of factors of the product: (X, X) where they are tied."""
    return Factors(factors.X, factors.X) if isinstance(factors, TiedFactor) else factors


def as_arrays(factors: AnyFactors, dtype: Any) -> AnyFactors:
    """Return explicit factors as JAX arrays, whatever holds their numbers."""

    def array(name: str, x: Any) -> Array:
        return jnp.asarray(x if isinstance(x, jax.Array) else as_array(x, name), dtype)

    if isinstance(factors, Factors | TiedFactor):
        return type(factors)(*(array(name, x) for name, x in factors._asdict().items()))
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), factors)


def singular_values(factors: AnyFactors) -> Float[Array, " k"]:
    """Return the singular values of U Vᵀ, largest first, without forming the product.

    They are those of R_U R_Vᵀ, where R_U and R_V have few rows and the Gram matrices of U and V (see `condensed`): the
    relative error of each is about ε·(κ(U) + κ(V)), where roots of the eigenvalues of UᵀU VᵀV would have its square.
    There are min(m, n, d) of them, in the problem's unit, NaN for factors that are not finite.
    """
    U, V = as_pair(factors)
    return decompositions.singular_values(times(condensed(U), condensed(V).T))
