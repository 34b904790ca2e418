"""Descent whose gradient is scaled by the Gram matrices of the factors, or by the size of the start."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, ScalarLike

from jaxfact.inputs import non_negative
from jaxfact.methods.base import Method, in_every_pair, need_pairs, stateless
from jaxfact.methods.descent import gradient_descent
from jaxfact.numerics.decompositions import eigenvalues, inverse
from jaxfact.numerics.products import gram, keep, times
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor

_KINDS = (Factors, TiedFactor)


class StartScales(NamedTuple):
    """What multiplies the gradient in each factor, in 1/σ₁; tied factors have one."""

    U: Float[Array, ""]
    V: Float[Array, ""] | None = None


def scale_by_gram(damping: ScalarLike = 0.0) -> Method:
    """Precondition the gradient: ∇_U (VᵀV + damping·I)⁻¹ and ∇_V (UᵀU + damping·I)⁻¹, both from the old iterate.

    In every pair of a pytree that holds `Factors`; its other leaves stay as they are.
    `damping` is in σ₁. Without it the Gram matrices must be invertible: width at most the rank of the iterates.
    """
    non_negative("damping", damping, "0 is ScaledGD; about σ_r² of the target suits over-parametrised runs")

    def update(gradient: PyTree, state: optax.EmptyState, factors: PyTree, *, problem=None, **_):
        change = partial(_preconditioned, damping, problem)
        return in_every_pair("scale_by_gram", _KINDS, change, gradient, factors), state

    return Method(stateless, update)  # pyright: ignore[reportArgumentType]


def scaled_gd(step_size: optax.ScalarOrSchedule, damping: ScalarLike = 0.0) -> Method:
    """Return ScaledGD, U⁺ = U − η∇_U f (VᵀV)⁻¹ and V⁺ = V − η∇_V f (UᵀU)⁻¹ (Tong, Ma & Chi 2021, eq. 3).

    Here the step size is a pure number (½ is usual); `damping` (in σ₁) gives ScaledGD(λ) of Xu et al. (2023).
    """
    return optax.chain(scale_by_gram(damping), gradient_descent(step_size))


def scale_by_start() -> Method:
    """Divide ∇_U by ‖V₀‖² and ∇_V by ‖U₀‖², spectral norms of the factors a run starts from; ∇ by ‖X₀‖² if tied.

    In every pair of a pytree that holds `Factors`; its other leaves stay as they are.
    What follows in the chain then takes a step size that is a pure number. A start with a zero factor has no such
    scale: the first step is not finite (Ma, Li & Chi 2021, Alg. 1; at a balanced start also Tu et al. 2016).
    """

    def init(factors: PyTree) -> PyTree:
        need_pairs("scale_by_start", _KINDS, factors)
        return jax.tree.map(lambda x: _start_scales(x) if _is_scaled(x) else None, factors, is_leaf=_is_scaled)

    def update(gradient: PyTree, state: PyTree, factors=None, **_):
        return jax.tree.map(_by_start, gradient, state, is_leaf=_is_scaled), state

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def scaled_by_start(step_size: optax.ScalarOrSchedule) -> Method:
    """Return U⁺ = U − (η/‖V₀‖²)∇_U f, V⁺ = V − (η/‖U₀‖²)∇_V f, norms spectral (Ma, Li & Chi 2021, Alg. 1).

    The step size η is a pure number.
    """
    return optax.chain(scale_by_start(), gradient_descent(step_size))


def _is_scaled(x: PyTree) -> bool:
    return isinstance(x, _KINDS)


def _start_scales(factors: AnyFactors) -> StartScales:
    squares = [eigenvalues(gram(x))[-1] for x in factors]
    return StartScales(*(1 / square for square in squares[::-1]))


def _by_start(gradient: PyTree, state: StartScales | None) -> PyTree:
    if state is None:  # what is no pair
        return gradient
    scales = (scale for scale in state if scale is not None)
    return type(gradient)(*(x * scale for x, scale in zip(gradient, scales, strict=True)))


def _preconditioned(damping: ScalarLike, problem: Problem | None, gradient: Any, factors: AnyFactors) -> AnyFactors:
    used = None if problem is None else problem.used_columns(factors.width)
    if isinstance(factors, TiedFactor):
        X, for_X = keep((gradient.X, _regularised(gram(factors.X), damping, used)))
        return TiedFactor(times(X, inverse(for_X)))
    # Every entry of the gradient is used d times.
    gradient, for_U, for_V = keep(
        (gradient, _regularised(gram(factors.V), damping, used), _regularised(gram(factors.U), damping, used))
    )
    return Factors(times(gradient.U, inverse(for_U)), times(gradient.V, inverse(for_V)))


def _regularised(gram: Array, damping: ScalarLike, used: Array | None) -> Array:
    """Return the Gram matrix with damping on its diagonal, and ones where columns are padding."""
    added = jnp.full(len(gram), damping, gram.dtype)
    return gram + jnp.diag(added if used is None else jnp.where(used, added, 1))
