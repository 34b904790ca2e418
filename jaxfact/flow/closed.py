"""Gradient flow where it has a closed form: from balanced starts, at any time, without an integrator."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from jaxfact.flow.times import checked_times
from jaxfact.inputs import explained, problem_with
from jaxfact.numerics.products import in_full_precision
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors, as_arrays, as_factors

_BALANCED = 100  # machine epsilons of the energy by which rounding moves the imbalance of hundreds of rows


def logistic_mode(value: ArrayLike, start: ArrayLike, time: ArrayLike) -> Array:
    """Return s(t) = s⋆/(1 + (s⋆/s₀ − 1)e^{−2s⋆t}), a singular value of UVᵀ that starts aligned and balanced.

    `value` s⋆ is the target's singular value, `start` s₀ that of U₀V₀ᵀ, `time` is in 1/σ₁; arrays are broadcast. For
    s⋆ = 0 this is s₀/(1 + 2s₀t), and s₀ = 0 stays there (Saxe et al. 2014).
    """
    value, start, time = jnp.asarray(value, float), jnp.asarray(start, float), jnp.asarray(time, float)
    grown = 2 * value * time
    # ∫₀ᵗ 2e^{−2s⋆s} ds, of which a division by s⋆ = 0 would make NaN.
    passed = jnp.where(value == 0, 2 * time, -jnp.expm1(-grown) / jnp.where(value == 0, 1, value))
    remaining = jnp.exp(-grown) + start * passed
    return jnp.where(start == 0, 0, start / jnp.where(start == 0, 1, remaining))


@explained
@in_full_precision
def balanced_flow(problem: Factorization, factors: Factors, times: ArrayLike) -> Factors:
    """Return the factors of gradient flow from a λ-balanced start, U₀ᵀU₀ − V₀ᵀV₀ = λI, in closed form.

    With Q = [U; V] and F = [[λ/2·I, Σ], [Σᵀ, −λ/2·I]], QQᵀ(t) = e^{Ft}Q₀(I + Q₀ᵀ(∫₀ᵗ e^{2Fs} ds)Q₀)⁻¹Q₀ᵀe^{Ft}, for any
    m, n, d and λ (Fukumizu 1998; Braun et al. 2022). This determines the factors up to a rotation of their columns,
    (UO, VO), of which no product, loss or distance depends; the rotation returned is not that of the flow, and may
    differ from time to time.

    `times` are in 1/σ₁, a number or an array, whose axes the factors begin with. They may be as late as one likes:
    nothing overflows, and a time costs O((m + n + d)d²) whatever it is. Works under jit, vmap and grad, in any dtype.

    Raises ValueError for times below 0, and where the start is not λ-balanced, by more than rounding.
    """
    factors = Factors(*as_arrays(as_factors(factors), problem.dtype))
    times = checked_times(times).astype(problem.dtype)
    return _flowed(problem, factors, _balance_of(factors), times)


@eqx.filter_jit
def _flowed(
    problem: Factorization, factors: Factors, balance: Float[Array, ""], times: Float[Array, "*time"]
) -> Factors:
    modes = _modes(problem, factors, balance)

    def at(time: Float[Array, ""]) -> Factors:
        return _assembled(problem, modes, balance, _moved(modes, time))

    for _ in range(times.ndim):
        at = jax.vmap(at)
    return at(times)


def _balance_of(factors: Factors) -> Float[Array, ""]:
    """Return λ; refuse factors whose imbalance is not λI, unless they are traced."""
    D = factors.imbalance
    balance = jnp.trace(D) / len(D)
    if not isinstance(D, Tracer):
        defect = float(jnp.abs(D - balance * jnp.eye(len(D))).max())
        if not defect <= _BALANCED * float(jnp.finfo(D.dtype).eps * factors.energy):
            given = f"imbalance off λI by {defect:.2g}"
            instead = "start from Balanced, or integrate with gradient_flow"
            raise problem_with("factors", given, "needs UᵀU − VᵀV = λI", instead)
    return balance


class Modes(NamedTuple):
    """A start in the eigenvectors of F: `along` are EᵀQ₀, `values` the eigenvalues.

    First come the pairs +√(σ² + λ²/4) and −√(σ² + λ²/4) of each singular value, then λ/2 for what U has off the left
    singular vectors, and −λ/2 for V: there every vector is one, so the rows are those of U and V themselves.
    """

    values: Float[Array, " N"]
    along: Float[Array, "N d"]


def _modes(problem: Factorization, factors: Factors, balance: Float[Array, ""]) -> Modes:
    half = balance / 2
    size = jnp.hypot(problem.singular_values, half)
    cosine, sine = _angles(problem, balance)
    (A, J), (B, K) = (_split(problem, x, basis) for x, basis in zip(factors, _bases(problem), strict=True))
    values = jnp.concatenate([size, -size, jnp.full(len(J), half), jnp.full(len(K), -half)])
    return Modes(values, jnp.concatenate([cosine * A + sine * B, cosine * B - sine * A, J, K]))


def _assembled(problem: Factorization, modes: Modes, balance: Float[Array, ""], along: Float[Array, "N d"]) -> Factors:
    """Return the factors whose rows in the eigenvectors of F are these."""
    r, m = problem.rank, problem.rows[0]
    off = m if problem.left is not None else m - r
    cosine, sine = _angles(problem, balance)
    plus, minus, J, K = jnp.split(along, [r, 2 * r, 2 * r + off])
    sides = (cosine * plus - sine * minus, J), (sine * plus + cosine * minus, K)
    return Factors(
        *(
            jnp.concatenate(side) if basis is None else basis @ side[0] + side[1]
            for side, basis in zip(sides, _bases(problem), strict=True)
        )
    )


def _angles(problem: Factorization, balance: Float[Array, ""]) -> tuple[Float[Array, "r 1"], Float[Array, "r 1"]]:
    """Return (c, s) of the eigenvectors (c·p, s·q) and (−s·p, c·q) of F for the singular vectors p and q."""
    angle = jnp.arctan2(problem.singular_values, balance / 2)[:, None] / 2
    return jnp.cos(angle), jnp.sin(angle)


def _bases(problem: Factorization) -> tuple[Array | None, Array | None]:
    return problem.left, problem.right


def _split(problem: Factorization, factor: Float[Array, "k d"], basis: Array | None) -> tuple[Array, Array]:
    """Return a factor's coordinates along the singular vectors, and what is orthogonal to them."""
    if basis is None:
        return factor[: problem.rank], factor[problem.rank :]
    along = basis.T @ factor
    return along, factor - basis @ along


def _moved(modes: Modes, time: Float[Array, ""]) -> Float[Array, "N d"]:
    """Return e^{φt}a·C with CCᵀ = (I + aᵀδa)⁻¹, a the start along the eigenvectors and δ = ∫₀ᵗ e^{2φs} ds.

    I + aᵀδa = KᵀK for K = [I; √δ·a], whose rows differ by e^{φt}: no solver survives that, and soon no number holds it.
    But only the span of K's columns matters, so they are changed to a basis in which each has a row of its own, its
    largest, by elimination with complete pivoting, on logarithms. That keeps the relative precision of every row,
    however small (Cox & Higham 1998). Divided by their largest entries the columns are well conditioned, whatever the
    time, and are made orthonormal. √δ stays apart, as weights δ, for it has no derivative at time 0.
    """
    values, start = modes
    width = start.shape[1]
    size = jnp.abs(values)
    passed = jnp.where(size == 0, time, -jnp.expm1(-2 * size * time) / jnp.where(size == 0, 1, 2 * size))
    weights = jnp.concatenate([jnp.ones(width, start.dtype), passed])
    growth = jnp.concatenate([jnp.zeros(width, start.dtype), jnp.maximum(values, 0)])
    identity = jnp.eye(width, dtype=start.dtype)
    rows, pivots = _echelon(jnp.concatenate([identity, start]), growth * time + jnp.log(weights) / 2)
    scaled = rows / jnp.take_along_axis(rows, pivots[None, :], axis=0)
    bound = jnp.log(jnp.finfo(start.dtype).max) - 1  # reached only where the entry itself is zero
    K, Y = (
        columns * jnp.exp(jnp.minimum((rates[:, None] - growth[pivots]) * time, bound))
        for columns, rates in ((scaled, growth), (scaled[width:], values))
    )
    return _with_orthonormal(K, weights, Y)


def _echelon(rows: Float[Array, "k d"], sizes: Float[Array, " k"]) -> tuple[Float[Array, "k d"], Int[Array, " d"]]:
    """Return the columns after elimination by pivots, and each column's pivot row, zero in all columns chosen later.

    The next pivot is the largest entry of all that are left, where row i counts e^{sizes_i} times.
    """
    width = rows.shape[1]
    index = jnp.arange(width)

    def eliminate(_, carry):
        rows, pivots = carry
        is_left = pivots < 0
        weighted = lax.stop_gradient(jnp.log(jnp.abs(rows)) + sizes[:, None])
        place = jnp.argmax(jnp.where(is_left, weighted, -jnp.inf))
        p, q = place // width, place % width
        others = is_left & (index != q)
        pivot = rows[p]
        rest = rows - rows[:, q][:, None] * jnp.where(others, pivot / pivot[q], 0)
        return rest.at[p].set(jnp.where(others, 0, pivot)), pivots.at[q].set(p)

    return lax.fori_loop(0, width, eliminate, (rows, jnp.full(width, -1)))


def _with_orthonormal(K: Float[Array, "k d"], weights: Float[Array, " k"], Y: Float[Array, "N d"]) -> Array:
    """Return YR⁻¹ for the KR⁻¹ that is orthonormal where row i counts `weights`_i times; Gram-Schmidt, modified."""
    index = jnp.arange(K.shape[1])

    def project(step, both):
        column = weights * both[0][:, step]
        norm = jnp.sqrt(column @ both[0][:, step])
        coefficients = jnp.where(index > step, column @ both[0] / norm**2, 0)
        return tuple(jnp.where(index == step, X / norm, X - X[:, step][:, None] * coefficients) for X in both)

    return lax.fori_loop(0, K.shape[1], project, (K, Y))[1]
