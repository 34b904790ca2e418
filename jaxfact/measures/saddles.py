"""Which saddle factors are near: saddles are named by the singular triples that they carry."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxfact.measures.base import Label, measure
from jaxfact.measures.subspaces import along_and_off
from jaxfact.numerics.products import gram, times
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factors import AnyFactors


class Saddle(NamedTuple):
    """The nearest critical product Σ_S = Σ_{i∈S} σ_i p_i q_iᵀ, and how near it is.

    `carries` has a 1 for each i in S and a 0 for the others; `distance` is ‖UVᵀ − Σ_S‖_F, in σ₁.
    """

    carries: Float[Array, " r"]
    distance: Float[Array, ""]


_SADDLE = {
    "carries": Label("singular triples carried", "1", r"$i \in S$"),
    "distance": Label("distance from the saddle", "σ₁", r"$\|UV^\top-\Sigma_S\|_F \,/\, \sigma_1$"),
}


@measure(fields=_SADDLE)
def saddle(problem: Problem, factors: AnyFactors) -> Saddle:
    """Return the set S of triples that the factors carry, p_iᵀUVᵀq_i > σ_i/2, and ‖UVᵀ − Σ_S‖_F in σ₁.

    The critical points of ½‖UVᵀ − Σ‖²_F have the products Σ_S with at most d triples: all are saddles but that of the
    d leading ones (Baldi & Hornik 1989). Of all Σ_S this one is nearest. A point is near a saddle only where the
    distance is small beside the singular values. Where these are equal, their vectors and with them S are not
    determined.

    Raises ValueError where the truth is not known.
    """
    truth = truth_of(problem)
    sides = along_and_off(truth, factors)
    (A, off_U), (B, off_V) = sides if len(sides) == 2 else sides * 2
    core, values = times(A, B.T), truth.singular_values
    carries = jnp.diagonal(core) > values / 2
    inside = jnp.sum((core - jnp.diag(jnp.where(carries, values, 0))) ** 2)
    AA, BB, UU, VV = (gram(x) for x in (A, B, off_U, off_V))
    outside = jnp.sum(AA * VV) + jnp.sum(UU * BB) + jnp.sum(UU * VV)
    return Saddle(carries.astype(core.dtype), jnp.sqrt(inside + outside))
