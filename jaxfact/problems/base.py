"""The contract of a problem."""

import abc
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxfact.inputs import problem_with
from jaxfact.numerics.draws import fold, normal
from jaxfact.numerics.products import gram, keep
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.factors import AnyFactors, Factors
from jaxfact.showing.markup import card

if TYPE_CHECKING:
    from jaxfact.problems.factorization import Factorization


_SHOWN = 6  # singular values


class Problem(eqx.Module):
    """A loss on pairs of factors, stated in the unit of its target (σ₁ where the target is known).

    A subclass states `loss`, `distance` and `truth`: the matrix sought, as a fully observed problem, or None where
    nobody knows it (see `truth_of`). It overrides `gradient` where structure makes it cheaper than differentiating
    the loss. It is an immutable pytree: its arrays are data, its shape is static.
    """

    shape: eqx.AbstractVar[tuple[Any, Any]]
    unit: eqx.AbstractVar[Float[Array, ""]]
    truth: eqx.AbstractVar["Factorization | None"]

    unit_name: ClassVar[str] = "σ₁"
    """What the unit is, for the axes of figures."""

    @property
    def dtype(self) -> Any:
        """The dtype of the factors, and of all that is computed of them."""
        return self.unit.dtype if self.truth is None else self.truth.dtype

    @property
    def summary(self) -> str:
        """How much of the matrix is seen, in a few words."""
        return "every entry observed"

    def _repr_html_(self) -> str:
        """Say in a notebook what it is."""
        return card(type(self).__name__, described(self))

    @property
    def rows(self) -> tuple[int, int]:
        """The numbers of rows that factors have: m and n, unless the problem represents them by fewer."""
        return self.shape

    @abc.abstractmethod
    def loss(self, factors: AnyFactors) -> Float[Array, ""]:
        """Return the loss, in unit²; accurate near zero."""

    @abc.abstractmethod
    def distance(self, factors: AnyFactors) -> Float[Array, ""]:
        """Return ‖UVᵀ − Σ_d‖_F / ‖Σ_d‖_F, Σ_d the best approximation of the factors' width; never squared."""

    def gradient(self, factors: AnyFactors) -> AnyFactors:
        """Return ∂loss/∂U and ∂loss/∂V, both from the given factors, in unit^{3/2}."""
        return jax.grad(self.loss)(factors)

    def grams(self, factors: Factors) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
        """Return UᵀU and VᵀV, of which imbalance and energy are made."""
        return keep((gram(factors.U), gram(factors.V)))

    @property
    def misfits(self) -> bool:
        """Whether the data can be fitted without the truth being found; `misfit` then tells how well they are."""
        return False

    def misfit(self, factors: AnyFactors) -> Float[Array, ""]:
        """Return the norm of the residual on the observed data relative to that of the data, not squared."""
        return self.distance(factors)

    @property
    def lanes(self) -> int | None:
        """A hint: how many runs should advance together on a CPU, or None to let the sizes of the factors decide.

        Each step passes over what all runs share, such as a stored operator, once for that many runs. The hint changes
        the speed, and the results only by rounding.
        """
        return None

    def standard_normal(self, key: PRNGKeyArray, width: int) -> AnyFactors:
        """Draw factors of independent standard normal entries."""
        m, n = self.rows
        return Factors(*(normal(fold(key, i), (k, width), self.dtype) for i, k in enumerate((m, n))))

    def truncation(self, width: int) -> AnyFactors:
        """Return balanced factors of the best approximation of rank `width` that the data give: where spectral
        starts begin."""
        raise problem_with("problem", type(self).__name__, "has no spectral start", "start from Gaussian instead")

    def noise(self, key: PRNGKeyArray, factors: AnyFactors) -> AnyFactors:
        """Draw independent standard normal entries in the shape of the factors."""
        return type(factors)(*(normal(fold(key, i), x.shape, x.dtype) for i, x in enumerate(factors)))

    def reframed(self, tree: PyTree) -> PyTree:
        """Return factors and method state after a step in the coordinates in which the next one begins."""
        return tree

    def used_columns(self, width: int) -> Bool[Array, " d"] | None:
        """Tell which columns of factors of this width are not padding; None where all of them are used."""
        return None


def described(problem: Problem) -> dict[str, str]:
    """Return what a problem is, by name, as far as it is known and not traced."""
    m, n = problem.shape
    facts = {"target": f"{m}×{n}", "seen": problem.summary, "dtype": str(problem.dtype)}
    if not isinstance(problem.unit, Tracer):
        facts["unit"] = f"{problem.unit_name} = {float(problem.unit):.5g}"
    truth = problem.truth
    if truth is not None and not isinstance(truth.singular_values, Tracer):
        values = [f"{value:.3g}" for value in np.asarray(truth.singular_values)[:_SHOWN]]
        more = ", …" * (len(truth.singular_values) > _SHOWN)
        facts |= {"rank": str(truth.rank), "σ/σ₁": f"{', '.join(values)}{more}"}
    return facts


def truth_of(problem: Problem) -> "Factorization":
    """Return the matrix that a problem seeks.

    Raises ValueError where it is not known.
    """
    if problem.truth is None:
        raise problem_with("problem", type(problem).__name__, "its truth is not known", "record the misfit instead")
    return problem.truth


def rounding_floor(epsilon: float, step_size: float) -> float:
    """Return the distance below which rounding stalls a run: about ⅓·ε/min(η, 1 − η), 4e-8/η in float32.

    `epsilon` is the machine epsilon of the factors' dtype, `step_size` is relative to 1/unit. Each step adds a
    rounding error of about ε to the factors. The descent multiplies the error of the leading direction by 1 − 2η: of
    its size it removes a fraction 2η, and near the edge it turns it over and leaves all but 2(1 − η). The constant is
    measured, at κ from 1 to 100 and widths from 1 to 8. From the edge on no minimiser is stable, which is not a matter
    of rounding, and the first branch is returned.
    """
    return epsilon / 3 / (min(step_size, 1 - step_size) if step_size < 1 else step_size)
