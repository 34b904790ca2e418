"""Descent with a regulariser that balances the two factors."""

from functools import partial

import jax.numpy as jnp
import optax
from jaxtyping import ScalarLike

from jaxfact.inputs import non_negative
from jaxfact.methods.base import Method, in_every_pair, stateless
from jaxfact.methods.descent import gradient_descent
from jaxfact.numerics.products import gram, keep, times
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.factors import Factors


def add_balancing(weight: ScalarLike) -> Method:
    """Add to the gradient that of weight·‖UᵀU − VᵀV‖²_F, which is 4·weight·UD and −4·weight·VD.

    In every pair of a pytree that holds `Factors`; its other leaves stay as they are.
    Papers use 1/16 (Tu et al. 2016), 1/8 (Park et al. 2017) and 1/64 (Ma, Li & Chi 2021), all relative to ½‖·‖².
    """
    non_negative("weight", weight, "1/8 and 1/16 are the published choices")

    def update(gradient: PyTree, state: optax.EmptyState, factors: PyTree, **_):
        return in_every_pair("balancing", (Factors,), partial(_pulled, weight), gradient, factors), state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]


def balanced(step_size: optax.ScalarOrSchedule, weight: ScalarLike) -> Method:
    """Return descent on f + weight·‖UᵀU − VᵀV‖²_F (Tu et al. 2016, eq. 3.2; weight 1/16 there).

    The regulariser has a stability edge of its own, η = 1/(8·weight·σ₁).
    """
    return optax.chain(add_balancing(weight), gradient_descent(step_size))


def _pulled(weight: ScalarLike, gradient: Factors, factors: Factors) -> Factors:
    D = keep(gram(factors.U) - gram(factors.V))
    pull = 4 * jnp.asarray(weight, D.dtype)
    return Factors(gradient.U + pull * times(factors.U, D), gradient.V - pull * times(factors.V, D))
