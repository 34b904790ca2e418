"""Factors seen along the truth's singular vectors: signal and residual, and row by row."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from jaxfact.inputs import positive_integer, problem_with
from jaxfact.measures.base import Label, Measure, labelled, measure
from jaxfact.numerics.decompositions import eigenvalues, svd
from jaxfact.numerics.products import gram
from jaxfact.problems.base import Problem, truth_of
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor
from jaxfact.problems.tied import Tied


class Signal(NamedTuple):
    """A factor along a frame F and off it, in √σ₁: S = FFᵀX, E = (I − FFᵀ)X.

    `least` and `largest` are σ_q(S) and σ₁(S), q = min(r, d) of the frame's r columns; `residual` is ‖E‖, spectral.
    """

    least: Float[Array, ""]
    largest: Float[Array, ""]
    residual: Float[Array, ""]


class PairSignal(NamedTuple):
    """Signal and residual of both factors."""

    U: Signal
    V: Signal


class MovingSignal(NamedTuple):
    """Signal and residual along a path, with frames that move: what Ma & Fattahi's induction bounds.

    `drift` is ‖V_t − V⋆‖ (spectral; at most 1/(2κ) in their theorem) and `row` is ‖V_t‖_{2,∞}, the largest row norm of
    the frame (at most 2√(μr/n) there); both pure numbers.
    """

    signal: Signal
    drift: Float[Array, " time"]
    row: Float[Array, " time"]


class Rows(NamedTuple):
    """Rows of X in singular coordinates, k = 1, 2, …: `signal` ‖u_k‖² and `coupling` ‖u_kK_kᵀ‖, in σ₁.

    K_k holds the rows after the k-th. At the end the signal is λ_k and the coupling 0.
    """

    signal: Float[Array, " k"]
    coupling: Float[Array, " k"]


_SIGNAL = {
    "least": Label("least singular value of the signal", "√σ₁", r"$\sigma_q(S) \,/\, \sqrt{\sigma_1}$"),
    "largest": Label("largest singular value of the signal", "√σ₁", r"$\sigma_1(S) \,/\, \sqrt{\sigma_1}$"),
    "residual": Label("spectral norm of the residual", "√σ₁", r"$\|E\| \,/\, \sqrt{\sigma_1}$"),
}
_ROWS = {
    "signal": Label("squared norms of rows along the truth", "σ₁", r"$\|u_k\|^2 \,/\, \sigma_1$"),
    "coupling": Label("coupling of rows to later ones", "σ₁", r"$\|u_kK_k^\top\| \,/\, \sigma_1$"),
}


@measure(fields=_SIGNAL | {f"{side}_{name}": label for side in "UV" for name, label in _SIGNAL.items()})
def signal(problem: Problem, factors: AnyFactors) -> Signal | PairSignal:
    """Return signal and residual along the truth's singular vectors, of one tied factor or of both of a pair.

    In Ma & Fattahi (2024) the frame V_t begins at these and moves by at most 1/(2κ); here it stays. `moving_signal`
    follows theirs. Raises ValueError where the truth is not known.
    """
    truth = truth_of(problem)
    sides = along_and_off(truth, factors)
    parts = [_split(along, off) for along, off in sides]
    return PairSignal(*parts) if isinstance(factors, Factors) else parts[0]


@measure(text="largest norm of a row", unit="√σ₁", latex=r"$\|\cdot\|_{2,\infty} \,/\, \sqrt{\sigma_1}$")
def largest_row(problem: Problem, factors: AnyFactors) -> Float[Array, ""]:
    """Return ‖·‖_{2,∞}, the largest norm of a row of the factors, in √σ₁; compression does not preserve it."""
    return jnp.sqrt(jnp.max(jnp.stack([jnp.max(jnp.sum(x**2, axis=1)) for x in factors])))


def rows(count: int) -> Measure:
    """Return the measure of the first `count` rows in singular coordinates (Chen et al. 2024, Thm 5).

    Raises ValueError for a count below 1, or above the rank of the truth; for a pair; where the truth is not known.
    """
    count = positive_integer("count", count, "give the number of leading eigenvalues to follow")

    @labelled(fields=_ROWS)
    def rows(problem: Problem, factors: TiedFactor) -> Rows:
        truth = truth_of(problem)
        if not isinstance(factors, TiedFactor):
            raise problem_with("factors", "a pair", "rows are those of one factor", "use Tied, or measures.ye_du")
        if count > truth.rank:
            raise problem_with("count", count, f"the truth has rank {truth.rank}", "give a count up to that")
        along, off = along_and_off(truth, factors)[0]
        everything = jnp.concatenate([along, off])
        products = everything[:count] @ everything.T
        after = jnp.arange(len(everything)) > jnp.arange(count)[:, None]
        coupling = jnp.sqrt(jnp.sum(jnp.where(after, products, 0) ** 2, axis=1))
        return Rows(jnp.sum(along[:count] ** 2, axis=1), coupling)

    return rows


def rise_times(
    steps: Int[Array, " time"], path: Float[Array, "time *k"], level: Float[Array, " *k"] | ScalarLike
) -> Float[Array, " *k"]:
    """Return the first recorded step at which a path is at or above its level; inf where it never is.

    With `rows(...).signal` as the path and λ_k/2 as the levels these are the times at which rows are learned, one after
    the other.
    """
    met = jnp.asarray(path) >= jnp.asarray(level)
    first = jnp.asarray(steps, jnp.asarray(path).dtype)[jnp.argmax(met, axis=0)]
    return jnp.where(jnp.any(met, axis=0), first, jnp.inf)


def moving_signal(problem: Tied, path: TiedFactor, step_size: ScalarLike) -> MovingSignal:
    """Return signal and residual in Ma & Fattahi's moving frames, along factors recorded at every step.

    V_0 = V⋆ and V_{t+1} = Z(ZᵀZ)^{-½} with Z = (I + ηM_t)V_t and M_t = R_Ω(X⋆ − X_tX_tᵀ), minus the symmetric part of
    the loss's gradient in the product (Ma & Fattahi 2024). `path` holds factors of shape (time, n, d), as recorded
    by `descend(..., every=1, record={"factors": lambda problem, factors: factors})`; `step_size` is that of the run.

    Raises ValueError for a pair, and where the truth is not known.
    """
    if not isinstance(problem, Tied):
        raise problem_with("problem", type(problem).__name__, "the frame is that of one factor", "use Tied")
    truth = truth_of(problem)
    first = jnp.eye(*truth.rows, dtype=truth.dtype)[:, : truth.rank] if truth.left is None else truth.left

    def step(frame, X):
        along = frame.T @ X
        seen = _split(along, X - frame @ along)
        drift = jnp.sqrt(jnp.maximum(eigenvalues(gram(frame - first))[-1], 0))
        row = jnp.sqrt(jnp.max(jnp.sum(frame**2, axis=1)))
        left, _, right = svd(frame - step_size * _symmetric_residual_times(problem.problem, X, frame))
        return left @ right.T, MovingSignal(seen, drift, row)

    return jax.lax.scan(step, first, path.X)[1]


def _symmetric_residual_times(
    problem: Problem, X: Float[Array, "n d"], frame: Float[Array, "n r"]
) -> Float[Array, "n r"]:
    """Return ½(G + Gᵀ)F, G the gradient of the loss in the product at XXᵀ: ∇_U in further columns where V holds F."""
    plain, wider = (jnp.concatenate([X, more], axis=1) for more in (jnp.zeros_like(frame), frame))
    forward, backward = problem.gradient(Factors(plain, wider)).U, problem.gradient(Factors(wider, plain)).V
    return (forward + backward)[:, X.shape[1] :] / 2


def _split(along: Float[Array, "r d"], off: Float[Array, "k d"]) -> Signal:
    values = svd(along)[1]
    return Signal(values[-1], values[0], jnp.sqrt(jnp.maximum(eigenvalues(gram(off))[-1], 0)))


def along_and_off(truth: Factorization, factors: AnyFactors) -> list[tuple[Array, Array]]:
    """Return each factor's coordinates along the singular vectors, and what is off them."""
    sides = []
    for factor, basis in zip(factors, (truth.left, truth.right), strict=False):
        if basis is None:
            sides.append((factor[: truth.rank], factor[truth.rank :]))
        else:
            along = basis.T @ factor
            sides.append((along, factor - basis @ along))
    return sides
