"""Matrix sensing: a low-rank matrix sought through linear measurements of it."""

import warnings
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from jaxfact.data.numbers import as_array, centred_exponent, times_power
from jaxfact.inputs import explained, non_negative, problem_with
from jaxfact.numerics.draws import normal
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.problems.operators import Operator
from jaxfact.problems.partial import PartiallyObserved, leading
from jaxfact.problems.targets import Unit


class Sensing(PartiallyObserved):
    """Find a matrix from p linear measurements of it: loss ½‖𝒜(UVᵀ) − y‖² (Tu et al. 2016; Wind 2023).

    `of` measures a known matrix.

    `observations` are the p numbers y in the user's unit, with the weights of the operator (see `Operator`). They are
    divided by the unit: σ₁ of `truth` where that is known, else ‖𝒜*y‖₂; so the same data in another unit give the same
    run. `truth` may be diagonal (`left` and `right` None) where the law of the operator does not see rotations.

    Raises ValueError for shapes that do not match and observations that are not finite; warns where p is below the
    r(m+n−r) degrees of freedom of the truth.
    """

    operator: Operator
    observations: Float[Array, " p"]
    truth: Factorization | None
    scale: Unit

    @explained
    def __init__(self, operator: Operator, observations: Any, *, truth: Factorization | None = None):
        observations = _checked_observations(operator, observations)
        _check_truth(operator, truth)
        _warn_of_too_few(operator, truth)
        dtype = operator.weights.dtype
        # A truth of another precision would give records of another precision than the factors.
        self.operator, self.truth = operator, None if truth is None else truth.in_dtype(dtype)
        is_traced = isinstance(observations, Tracer) or (truth is not None and isinstance(truth.unit, Tracer))
        exponent = 0 if is_traced else centred_exponent(np.asarray(observations))
        given = jnp.asarray(observations if is_traced else times_power(observations, -exponent), dtype)
        if self.truth is None:
            unit = _spectral_norm(operator.adjoint(given))
            self.scale = Unit.of(unit, exponent, dtype, self.unit_name)
        else:
            unit, self.scale = self.truth.unit, self.truth.scale
            unit = unit if is_traced else jnp.asarray(times_power(unit, -exponent), dtype)
        self.observations = given / unit

    @classmethod
    @explained
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
        if truth.scale.exponent:  # no number of this dtype is in the user's unit
            seen = cls(operator, observations, truth=truth.in_unit(Unit(jnp.ones((), truth.dtype))))
            return eqx.tree_at(lambda s: (s.scale, s.truth), seen, (truth.scale, truth))
        return cls(operator, observations * truth.unit, truth=truth)

    @property
    def unit(self) -> Float[Array, ""]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """σ₁ of the truth, or ‖𝒜*y‖₂; a NumPy double where the dtype cannot hold it."""
        return self.scale.value  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> Any:
        """The dtype of the factors."""
        return self.observations.dtype

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


def _checked_observations(operator: Operator, observations: Any) -> Array | np.ndarray:
    """Return the measurements in float64 or float32, traced ones as they are; refuse what the operator cannot make."""
    if not isinstance(observations, Tracer):
        observations = as_array(observations, "observations")
    if np.shape(observations) != (operator.count,):
        given = f"array of shape {np.shape(observations)}"
        needed = f"the operator makes {operator.count} measurements"
        raise problem_with("observations", given, needed, "give one number per measurement")
    missing = 0 if isinstance(observations, Tracer) else int(np.sum(~np.isfinite(observations)))
    if missing:
        given = f"array with {missing} NaN or infinite numbers"
        raise problem_with("observations", given, "sensing needs every number", "drop those measurements")
    return observations


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
