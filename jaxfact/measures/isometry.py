"""How far an operator is from an isometry on matrices of low rank."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxfact.inputs import positive_integer, problem_with
from jaxfact.numerics.decompositions import qr
from jaxfact.numerics.draws import fold, normal
from jaxfact.problems.factors import Factors
from jaxfact.problems.operators import Operator


def rip_lower_bound(
    operator: Operator, rank: int, key: PRNGKeyArray, *, restarts: int = 8, steps: int = 100
) -> Float[Array, ""]:
    """Return an empirical lower bound on the restricted isometry constant δ of a rank, found by search.

    δ = max |‖𝒜(X)‖² − 1| over matrices of rank at most `rank` and ‖X‖_F = 1 (Recht, Fazel & Parrilo 2010).
    It is hard to compute; this is the largest value at the points of a search, never above δ and possibly far below:
    so a large value refutes a theorem's hypothesis, and a small one does not prove it.

    The search is alternating power ascent on X = UVᵀ, V orthonormal, from `restarts` random points: `steps` steps
    towards large ‖𝒜(X)‖², then on c‖X‖² − ‖𝒜(X)‖², c the largest value found, towards small.

    Raises ValueError for a rank, restarts or steps below 1, and a rank above min(m, n).
    """
    rank, restarts, steps = (
        positive_integer(name, value, "give a count")
        for name, value in (("rank", rank), ("restarts", restarts), ("steps", steps))
    )
    if rank > min(operator.shape):
        needed = f"a {operator.shape[0]}×{operator.shape[1]} matrix has none above {min(operator.shape)}"
        raise problem_with("rank", rank, needed, "give a smaller rank")
    return _search(operator, rank, key, restarts, steps)


@eqx.filter_jit
def _search(operator: Operator, rank: int, key: PRNGKeyArray, restarts: int, steps: int) -> Float[Array, ""]:
    dtype = operator.weights.dtype

    def begin(restart):
        drawn = (normal(fold(fold(key, restart), i), (k, rank), dtype) for i, k in enumerate(operator.shape))
        U, V = drawn
        return _normalised(U, qr(V)[0])

    starts = jax.vmap(begin)(jnp.arange(restarts))
    high = jnp.max(jax.vmap(partial(_ascend, operator, 1.0, jnp.zeros((), dtype), steps))(starts))
    low = jnp.min(jax.vmap(partial(_ascend, operator, -1.0, high, steps))(starts))
    return jnp.maximum(jnp.abs(high - 1), jnp.abs(low - 1))


def _ascend(operator: Operator, sign: float, shift: Array, steps: int, start: Factors) -> Float[Array, ""]:
    """Return the extreme ‖𝒜(X)‖² on a path of ascent of sign·‖𝒜(X)‖² + shift·‖X‖²."""

    def step(_, carry):
        (U, V), best = carry
        values = operator.measure(Factors(U, V))
        pulled = sign * operator.pull(values, Factors(U, V)).V + shift * V @ (U.T @ U)
        frame = qr(pulled)[0]
        moved = sign * operator.pull(values, Factors(U, frame)).U + shift * U @ (V.T @ frame)
        return _normalised(moved, frame), _better(sign, best, values)

    point, best = lax.fori_loop(0, steps, step, (start, jnp.asarray(-sign * jnp.inf, shift.dtype)))
    return _better(sign, best, operator.measure(point))


def _better(sign: float, best: Array, values: Array) -> Array:
    # A search that has run into X = 0 has no value to give.
    found = jnp.sum(values**2)
    return jnp.fmax(best, found) if sign > 0 else jnp.fmin(best, found)


def _normalised(U: Float[Array, "m k"], V: Float[Array, "n k"]) -> Factors:
    """Return factors of norm one, V being orthonormal."""
    return Factors(U / jnp.linalg.norm(U), V)
