"""Matrix sensing: a low-rank matrix sought through linear measurements of it."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, ScalarLike

from jaxfact.inputs import non_negative, problem_with
from jaxfact.numerics.draws import normal
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.operators import Operator
from jaxfact.problems.partial import PartiallyObserved, leading


class Sensing(PartiallyObserved):
    """Find a matrix from p linear measurements of it: loss ½‖𝒜(UVᵀ) − y‖² (Tu et al. 2016; Wind 2023).

    `observations` are the p numbers y in the user's unit, with the weights of the operator (see `Operator`). They are
    divided by the unit: σ₁ of `truth` where that is known, else ‖𝒜*y‖₂; so the same data in another unit give the same
    run. `truth` may be diagonal (`left` and `right` None) where the law of the operator does not see rotations.

    Raises ValueError for shapes that do not match and observations that are not finite; warns where p is below the
    r(m+n−r) degrees of freedom of the truth.
    """

    operator: Operator
    observations: Float[Array, " p"]
    truth: Factorization | None
    unit: Float[Array, ""]

    def __init__(self, operator: Operator, observations: ArrayLike, *, truth: Factorization | None = None):
        _check_observations(operator, observations)
        _check_truth(operator, truth)
        _warn_of_too_few(operator, truth)
        dtype = operator.weights.dtype
        given = jnp.asarray(observations, dtype)
        # A truth of another precision would give records of another precision than the factors.
        self.operator, self.truth = operator, jax.tree.map(lambda x: x.astype(dtype), truth)
        self.unit = _spectral_norm(operator.adjoint(given)) if truth is None else truth.unit.astype(dtype)
        self.observations = given / self.unit

    @classmethod
    def of(
        cls, truth: Factorization, operator: Operator, *, noise: ScalarLike = 0.0, key: PRNGKeyArray | None = None
    ) -> "Sensing":
        """Measure a known matrix: y = 𝒜(Σ) + noise·w∘z, with z standard normal from `key` and w the weights.

        `noise` is the standard deviation in σ₁ of each measurement before it is weighted: of ⟨A_i, Σ⟩ for Gaussian
        A_i of variance 1, of an entry for entries. Raises ValueError for a negative noise, and noise without a key.
        """
        non_negative("noise", noise, "the standard deviation of a measurement in σ₁, for example 1e-2")
        _check_truth(operator, truth)
        observations = operator.measure(truth.truncation(truth.rank))
        if key is not None:
            observations = observations + noise * operator.weights * normal(key, observations.shape, observations.dtype)
        elif isinstance(noise, Tracer) or noise != 0:
            raise problem_with("noise", noise, "needs random numbers", "give key=, or leave the noise out")
        return cls(operator, observations * truth.unit, truth=truth)

    @property
    def shape(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The sizes of the matrix."""
        return self.operator.shape

    @property
    def summary(self) -> str:
        """How much of the matrix is seen, in a few words."""
        return f"{self.operator.count} measurements ({type(self.operator).__name__}) of it"

    @property
    def lanes(self) -> int | None:
        """The hint of the operator."""
        return self.operator.lanes

    def residual(self, factors: Factors) -> Float[Array, " p"]:
        """Return 𝒜(UVᵀ) − y, in unit."""
        return self.operator.measure(factors) - self.observations

    def loss(self, factors: Factors) -> Float[Array, ""]:
        """Return ½‖𝒜(UVᵀ) − y‖², in unit²."""
        return jnp.sum(self.residual(factors) ** 2) / 2

    def gradient(self, factors: Factors) -> Factors:
        """Return 𝒜*(r)V and 𝒜*(r)ᵀU for the residual r, in unit^{3/2}."""
        return self.operator.pull(self.residual(factors), factors)

    def misfit(self, factors: Factors) -> Float[Array, ""]:
        """Return ‖𝒜(UVᵀ) − y‖/‖y‖, not squared; absolute where y = 0."""
        norm = jnp.linalg.norm(self.observations)
        return jnp.linalg.norm(self.residual(factors)) / jnp.where(norm > 0, norm, 1)

    def back_projection(self) -> Float[Array, "m n"]:
        """Return 𝒜*(y), in unit."""
        return self.operator.adjoint(self.observations)


def _spectral_norm(matrix: Float[Array, "m n"]) -> Float[Array, ""]:
    largest = leading(matrix, 1)[1][0]
    return jnp.where(largest > 0, largest, 1)


def _check_observations(operator: Operator, observations: ArrayLike) -> None:
    if np.shape(observations) != (operator.count,):
        given = f"array of shape {np.shape(observations)}"
        needed = f"the operator makes {operator.count} measurements"
        raise problem_with("observations", given, needed, "give one number per measurement")
    if isinstance(observations, Tracer):
        return
    missing = int(np.sum(~np.isfinite(np.asarray(observations))))
    if missing:
        given = f"array with {missing} NaN or infinite numbers"
        raise problem_with("observations", given, "sensing needs every number", "drop those measurements")


def _check_truth(operator: Operator, truth: Factorization | None) -> None:
    """Refuse a truth of another shape."""
    if truth is not None and truth.rows != operator.shape:
        given = f"{truth.rows[0]}×{truth.rows[1]}"
        needed = f"the operator measures {operator.shape[0]}×{operator.shape[1]} matrices"
        raise problem_with("truth", given, needed, "draw the operator in the shape of the truth")


def _warn_of_too_few(operator: Operator, truth: Factorization | None) -> None:
    """Warn where the truth has more degrees of freedom than there are measurements, as far as both are known."""
    if truth is None or truth.padded_rank:
        return
    (m, n), r = truth.rows, truth.rank
    freedom, used = r * (m + n - r), operator.used
    if not isinstance(used, Tracer) and int(used) < freedom:
        said = f"{int(used)} measurements of a matrix with r(m+n−r) = {freedom} degrees of freedom do not determine it"
        warnings.warn(said, stacklevel=5)
