"""Methods: optax gradient transformations for pairs of factors.

A method is an `optax.GradientTransformationExtraArgs` whose `update(gradient, state, factors, *, problem, key)` returns
what is added to the factors. So every optax optimiser is a method, ours work in any optax chain, and a hyperparameter
may be a traced number. Step sizes are in 1/σ₁, noise in √σ₁, damping in σ₁; weights are pure numbers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from jaxfact.decompositions import eigenvalues, inverse
from jaxfact.draws import fold, normal, uniform
from jaxfact.factors import AnyFactors, Factors, TiedFactor
from jaxfact.inputs import non_negative, positive, positive_integer, problem_with
from jaxfact.problems.base import Problem
from jaxfact.products import gram, keep, times

Method = optax.GradientTransformationExtraArgs


class PerturbationState(NamedTuple):
    """The number of steps since the last perturbation."""

    waited: Int[Array, ""]


class StartScales(NamedTuple):
    """What multiplies the gradient in each factor, in 1/σ₁; tied factors have one."""

    U: Float[Array, ""]
    V: Float[Array, ""] | None = None


def gradient_descent(step_size: optax.ScalarOrSchedule) -> Method:
    """Return simultaneous gradient descent, U⁺ = U − η∇_U f, V⁺ = V − η∇_V f (Ye & Du 2021, eq. 2).

    `step_size` η is in 1/σ₁, a number or an optax schedule. Raises ValueError unless a number is above 0.
    """
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")
    return optax.with_extra_args_support(optax.scale_by_learning_rate(step_size))


def add_balancing(weight: ScalarLike) -> Method:
    """Add to the gradient that of weight·‖UᵀU − VᵀV‖²_F, which is 4·weight·UD and −4·weight·VD.

    Papers use 1/16 (Tu et al. 2016), 1/8 (Park et al. 2017) and 1/64 (Ma, Li & Chi 2021), all relative to ½‖·‖².
    """
    non_negative("weight", weight, "1/8 and 1/16 are the published choices")

    def update(gradient: Factors, state: optax.EmptyState, factors: Factors, **_):
        _need_pair("balancing", factors)
        D = keep(gram(factors.U) - gram(factors.V))
        pull = 4 * jnp.asarray(weight, D.dtype)
        return Factors(gradient.U + pull * times(factors.U, D), gradient.V - pull * times(factors.V, D)), state

    return Method(_stateless, update)  # pyright: ignore[reportArgumentType]


def balanced(step_size: optax.ScalarOrSchedule, weight: ScalarLike) -> Method:
    """Return descent on f + weight·‖UᵀU − VᵀV‖²_F (Tu et al. 2016, eq. 3.2; weight 1/16 there).

    The regulariser has a stability edge of its own, η = 1/(8·weight·σ₁).
    """
    return optax.chain(add_balancing(weight), gradient_descent(step_size))


def add_noise(noise: ScalarLike) -> Method:
    """Add independent normal entries of standard deviation `noise` (in √σ₁) to the update of the factors."""
    non_negative("noise", noise, "the standard deviation per entry and step, for example 1e-5")

    def update(updates: Factors, state, factors: Factors | None = None, *, key: PRNGKeyArray, problem=None, **_):
        return _add(updates, _scale(noise, _normal(key, updates, problem))), state

    return Method(_stateless, update)  # pyright: ignore[reportArgumentType]


def perturbed(step_size: optax.ScalarOrSchedule, noise: ScalarLike) -> Method:
    """Return gradient descent with iterate noise: a step, then normal entries of deviation `noise` (in √σ₁).

    It ends on an error floor of about √(noise²(m+n)d/(2η)) on ‖UVᵀ − Σ‖_F.
    """
    return optax.chain(gradient_descent(step_size), add_noise(noise))


def perturbed_on_sphere(step_size: ScalarLike, radius: ScalarLike) -> Method:
    """Return the noisy descent of Ge et al. (2015): w⁺ = w − η(∇f + radius·n), n uniform on the unit sphere.

    n is one direction in the joint space of U and V, drawn at every step; the paper's radius is 1.
    """
    non_negative("radius", radius, "1 is the published choice, for a problem of unit scale")

    def update(gradient: Factors, state, factors: Factors | None = None, *, key: PRNGKeyArray, problem=None, **_):
        direction = _normal(key, gradient, problem)
        return _add(gradient, _scale(radius / optax.tree.norm(direction), direction)), state

    return optax.chain(Method(_stateless, update), gradient_descent(step_size))  # pyright: ignore[reportArgumentType]


def perturbed_in_ball(step_size: ScalarLike, *, radius: ScalarLike, threshold: ScalarLike, interval: int) -> Method:
    """Return the perturbed descent of Jin et al. (2017, Algorithm 2): a kick where the gradient is small.

    Where ‖∇f‖_F ≤ threshold (in σ₁^{3/2}) and `interval` steps have passed since the last kick, a point uniform
    in the ball of `radius` (in √σ₁) is added to the factors, and the gradient step is taken from there. The paper's
    stopping rule (no decrease after a kick) is left to the caller.
    """
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")
    non_negative("radius", radius, "the radius of the ball in √σ₁, for example 1e-3")
    non_negative("threshold", threshold, "the gradient norm below which a kick is given, for example 1e-3")
    positive_integer("interval", interval, "the least number of steps between two kicks")

    def init(factors: Factors) -> PerturbationState:
        return PerturbationState(jnp.asarray(interval, jnp.int32))

    def update(gradient: Factors, state: PerturbationState, factors: Factors, *, problem, key: PRNGKeyArray, **_):
        kicked = (optax.tree.norm(gradient) <= threshold) & (state.waited >= interval)
        kick = jax.tree.map(lambda x: jnp.where(kicked, x, 0), _scale(radius, _in_unit_ball(key, factors, problem)))
        descent = _descent(step_size, problem.gradient(_add(factors, kick)))
        return _add(kick, descent), PerturbationState(jnp.where(kicked, 1, state.waited + 1))

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def scale_by_gram(damping: ScalarLike = 0.0) -> Method:
    """Precondition the gradient: ∇_U (VᵀV + damping·I)⁻¹ and ∇_V (UᵀU + damping·I)⁻¹, both from the old iterate.

    `damping` is in σ₁. Without it the Gram matrices must be invertible: width at most the rank of the iterates.
    """
    non_negative("damping", damping, "0 is ScaledGD; about σ_r² of the target suits over-parametrised runs")

    def update(gradient: Factors, state: optax.EmptyState, factors: Factors, *, problem=None, **_):
        used = None if problem is None else problem.used_columns(factors.width)
        if isinstance(factors, TiedFactor):
            X, for_X = keep((gradient.X, _regularised(gram(factors.X), damping, used)))  # pyright: ignore[reportAttributeAccessIssue]
            return TiedFactor(times(X, inverse(for_X))), state
        # Every entry of the gradient is used d times.
        gradient, for_U, for_V = keep(
            (gradient, _regularised(gram(factors.V), damping, used), _regularised(gram(factors.U), damping, used))
        )
        return Factors(times(gradient.U, inverse(for_U)), times(gradient.V, inverse(for_V))), state

    return Method(_stateless, update)  # pyright: ignore[reportArgumentType]


def scaled(step_size: optax.ScalarOrSchedule, damping: ScalarLike = 0.0) -> Method:
    """Return ScaledGD, U⁺ = U − η∇_U f (VᵀV)⁻¹ and V⁺ = V − η∇_V f (UᵀU)⁻¹ (Tong, Ma & Chi 2021, eq. 3).

    Here the step size is a pure number (½ is usual); `damping` (in σ₁) gives ScaledGD(λ) of Xu et al. (2023).
    """
    return optax.chain(scale_by_gram(damping), gradient_descent(step_size))


def scale_by_start() -> Method:
    """Divide ∇_U by ‖V₀‖² and ∇_V by ‖U₀‖², spectral norms of the factors a run starts from; ∇ by ‖X₀‖² if tied.

    What follows in the chain then takes a step size that is a pure number. A start with a zero factor has no such
    scale: the first step is not finite (Ma, Li & Chi 2021, Alg. 1; at a balanced start also Tu et al. 2016).
    """

    def init(factors: AnyFactors) -> StartScales:
        squares = [eigenvalues(gram(x))[-1] for x in factors]
        return StartScales(*(1 / square for square in squares[::-1]))

    def update(gradient: AnyFactors, state: StartScales, factors=None, **_):
        scales = (scale for scale in state if scale is not None)
        return type(gradient)(*(x * scale for x, scale in zip(gradient, scales, strict=True))), state

    return Method(init, update)  # pyright: ignore[reportArgumentType]


def scaled_by_start(step_size: optax.ScalarOrSchedule) -> Method:
    """Return U⁺ = U − (η/‖V₀‖²)∇_U f, V⁺ = V − (η/‖U₀‖²)∇_V f, norms spectral (Ma, Li & Chi 2021, Alg. 1).

    The step size η is a pure number.
    """
    return optax.chain(scale_by_start(), gradient_descent(step_size))


def alternating(step_size: ScalarLike) -> Method:
    """Return alternating descent: U⁺ = U − η∇_U f(U, V), then V⁺ = V − η∇_V f(U⁺, V) (Ward & Kolda 2023)."""
    positive("step_size", step_size, "below 1 (in 1/σ₁) minimisers are stable")

    def update(gradient: Factors, state: optax.EmptyState, factors: Factors, *, problem, **_):
        _need_pair("alternation", factors)
        step_U = _descent(step_size, gradient.U)
        moved = Factors(factors.U + step_U, factors.V)
        return Factors(step_U, _descent(step_size, problem.gradient(moved).V)), state

    return Method(_stateless, update)  # pyright: ignore[reportArgumentType]


def _need_pair(what: str, factors: AnyFactors) -> None:
    if not isinstance(factors, Factors):
        raise problem_with(
            what, "one factor", "needs the two factors of a pair", "use gradient_descent, or leave Tied out"
        )


def _stateless(factors: Factors) -> optax.EmptyState:
    return optax.EmptyState()


def _add(left, right):
    return jax.tree.map(jnp.add, left, right)


def _scale(factor: ScalarLike, tree):
    return jax.tree.map(lambda x: jnp.asarray(factor, x.dtype) * x, tree)


def _descent(step_size: ScalarLike, gradient):
    return jax.tree.map(lambda x: -jnp.asarray(step_size, x.dtype) * x, gradient)


def _normal(key: PRNGKeyArray, like: Factors, problem: Problem | None) -> Factors:
    """Draw standard normals for a pair of factors, as the problem represents them."""
    if problem is not None:
        return problem.noise(key, like)
    return type(like)(*(normal(fold(key, side), x.shape, x.dtype) for side, x in enumerate(like)))


def _in_unit_ball(key: PRNGKeyArray, like: Factors, problem: Problem) -> Factors:
    """Draw a point uniform in the unit ball of the joint space: a direction times u^{1/dimension}."""
    direction = _normal(fold(key, 0), like, problem)
    used = problem.used_columns(like.width)
    rows = problem.shape if isinstance(like, Factors) else problem.shape[:1]
    dimension = sum(rows) * (like.width if used is None else jnp.sum(used))
    radius = uniform(fold(key, 1), (), problem.unit.dtype) ** (1 / dimension)
    return _scale(radius / optax.tree.norm(direction), direction)


def _regularised(gram: Array, damping: ScalarLike, used: Array | None) -> Array:
    """Return the Gram matrix with damping on its diagonal, and ones where columns are padding."""
    added = jnp.full(len(gram), damping, gram.dtype)
    return gram + jnp.diag(added if used is None else jnp.where(used, added, 1))
