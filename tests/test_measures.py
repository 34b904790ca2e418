"""Each measure against a dense computation in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import PROBLEMS, as_jax, frame, pair

import jaxfact as jf
from jaxfact import measures
from jaxfact.measures import base

SHARPNESS_CASES = ["dense, wide", "rank-deficient", "width above both sides", "badly conditioned", "scalar", "zero"]


@pytest.mark.parametrize("name", PROBLEMS)
def test_plain_measures_are_their_formulas(name):
    case = PROBLEMS[name]
    problem, matrix = case.build(), case.scaled_matrix
    U, V = factors = pair(problem.shape, case.width)
    residual, values = U @ V.T - matrix, np.linalg.svd(matrix, compute_uv=False)
    loss = np.sum(residual**2) / 2
    expected = {
        measures.loss: loss,
        measures.excess: loss - np.sum(values[case.width :] ** 2) / 2,
        measures.energy: np.sum(U**2) + np.sum(V**2),
        measures.imbalance: np.linalg.norm(U.T @ U - V.T @ V),
        measures.gradient_norm: np.hypot(np.linalg.norm(residual @ V), np.linalg.norm(residual.T @ U)),
        measures.singular_values: np.linalg.svd(U @ V.T, compute_uv=False)[: min(*problem.shape, case.width)],
        measures.distance: problem.distance(as_jax(factors)),
    }
    found = jax.jit(lambda f: [measure(problem, f) for measure in expected])(as_jax(factors))
    for value, known in zip(found, expected.values(), strict=True):
        np.testing.assert_allclose(value, known, rtol=1e-12, atol=1e-13)


def top_of_hessian(matrix, factors):
    """Return the largest eigenvalue of the dense loss's Hessian, all entries of U and V in one vector."""
    flat, unravel = jax.flatten_util.ravel_pytree(as_jax(factors))
    hessian = jax.jit(jax.hessian(lambda x: jnp.sum((unravel(x).product - matrix) ** 2) / 2))(flat)
    return np.linalg.eigvalsh(hessian)[-1]


@pytest.mark.parametrize("name", SHARPNESS_CASES)
def test_sharpness_against_the_dense_hessian(name):
    case = PROBLEMS[name]
    problem = case.build()
    sharpness = jax.jit(measures.sharpness)
    for seed, scale in ((1, 0.5), (2, 0.05), (3, 2.0)):
        factors = pair(problem.shape, case.width, seed, scale)
        expected = top_of_hessian(case.scaled_matrix, factors)
        value = float(sharpness(problem, as_jax(factors)))
        # Lanczos approaches from below: to rounding on an isolated eigenvalue, to a per cent in a cluster.
        assert value <= expected * (1 + 1e-10)
        assert value == pytest.approx(expected, rel=0.01)
    small = sum(problem.shape) * case.width <= 20
    assert not small or value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["dense, wide", "rank-deficient", "width above both sides", "singular values"])
def test_sharpness_where_it_is_known(name):
    """±σ₁ = 1 at the origin; σ₁²(U) + σ₁²(V) at an exact fit, above 2 where the fit is unbalanced."""
    case = PROBLEMS[name]
    problem = case.build()
    sharpness = jax.jit(measures.sharpness)
    best = problem.truncation(case.width)
    origin = jax.tree.map(jnp.zeros_like, best)
    assert float(sharpness(problem, origin)) == pytest.approx(1.0, rel=1e-9)
    assert float(sharpness(problem, best)) == pytest.approx(2.0, rel=1e-9)
    mix = frame(case.width, case.width, 1) @ np.diag(np.linspace(0.5, 3.0, case.width))
    fit = jf.Factors(best.U @ mix, best.V @ np.linalg.inv(mix).T)
    assert float(problem.distance(fit)) < 1e-13
    known = sum(np.linalg.norm(x, 2) ** 2 for x in fit)
    assert known > 2.1
    assert float(sharpness(problem, fit)) == pytest.approx(known, rel=1e-6)


def test_sharpness_may_be_negative():
    """On the hill −½‖(U, V)‖² the Hessian is −I, whose Krylov space is a single vector."""

    class Hill(jf.Problem):
        shape: tuple = (3, 2)
        unit: float = 1.0
        truth: None = None

        def loss(self, factors):
            return -factors.energy / 2

        def distance(self, factors):
            return factors.energy

    assert float(measures.sharpness(Hill(), as_jax(pair((3, 2), 2)))) == pytest.approx(-1.0, rel=1e-12)


def test_stability_is_half_the_step_times_the_sharpness():
    problem = PROBLEMS["rank-deficient"].build()
    best = problem.truncation(2)
    # At the balanced optimum the sharpness is 2, so the number is the step itself: 1 is the edge.
    assert float(measures.stability(0.9)(problem, best)) == pytest.approx(0.9, rel=1e-9)
    assert measures.stability(0.9).__name__ == "stability"


def test_singular_values_resolve_a_tiny_one():
    """1e-10 next to 1 keeps five digits; the square root of a Gram eigenvalue keeps none."""
    root = np.diag([1.0, 1e-5])
    factors = jf.Factors(frame(8, 2, 0) @ root, frame(6, 2, 1) @ root)
    found = measures.singular_values(PROBLEMS["rank-deficient"].build(), as_jax(factors))
    np.testing.assert_allclose(found, [1.0, 1e-10], rtol=1e-5)
    product = factors.U @ factors.V.T
    by_gram = np.sqrt(np.abs(np.linalg.eigvalsh(product.T @ product)[-2]))
    assert abs(by_gram / 1e-10 - 1) > 0.1


@pytest.mark.parametrize(
    "name", ["dense, tall", "rank-deficient", "singular values", "width above rank", "width above both sides"]
)
def test_ye_du_magnitudes_against_their_definitions(name):
    case = PROBLEMS[name]
    problem = case.build()
    factors = pair(problem.shape, case.width)
    left, values, right = np.linalg.svd(case.scaled_matrix)
    q = min(int(np.sum(values > 1e-12)), case.width)
    turned_U, turned_V = left.T @ factors.U, right @ factors.V
    U, J, V, K = turned_U[:q], turned_U[q:], turned_V[:q], turned_V[q:]
    A, B, S = (U + V) / 2, (U - V) / 2, np.diag(values[:q])
    P, Q = S - A @ A.T + B @ B.T, A @ B.T - B @ A.T
    size = measures.ye_du(problem, as_jax(factors))
    signal, spectrum = np.linalg.svd(A, compute_uv=False), np.linalg.eigvalsh(P)
    expected = [signal[-1], signal[0], np.linalg.norm(B), spectrum[0], spectrum[-1], np.linalg.norm(Q)]
    expected += [np.linalg.norm(X, 2) if X.size else 0.0 for X in (J, K)]
    np.testing.assert_allclose(size, expected, rtol=1e-10, atol=1e-13)
    assert np.sum(P**2) + float(size.Q) ** 2 == pytest.approx(np.sum((S - U @ V.T) ** 2), rel=1e-12)


# The entries of A, B, J and K, and the largest of the five ratios at ε = 0.1, d = 2, (m, n) = (5, 3), by hand:
# ε/(√2·σ₂(A)), σ₁(A)/(√2·ε), ‖B‖_F/(2ε), ‖J‖/(ε·√max(5−2, 2)), ‖K‖/(ε·√max(3−2, 2)).
BY_HAND = {
    "smallest signal": ((0.1, 0.01), 0.0, 0.0, 0.0, 0.1 / (2**0.5 * 0.01)),
    "largest signal": ((0.9, 0.2), 0.0, 0.0, 0.0, 0.9 / (2**0.5 * 0.1)),
    "asymmetry": ((0.1, 0.1), 0.6, 0.0, 0.0, 0.6 * 2**0.5 / 0.2),
    "J": ((0.1, 0.1), 0.0, 0.5, 0.1, 0.5 / (0.1 * 3**0.5)),
    "K": ((0.1, 0.1), 0.0, 0.1, 0.5, 0.5 / (0.1 * 2**0.5)),
}


@pytest.mark.parametrize(("a", "b", "j", "k", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_ye_du_constant_by_hand(a, b, j, k, expected):
    problem = jf.Factorization(np.array([1.0, 0.5]), shape=(5, 3))
    A, B = np.diag(a), b * np.eye(2)
    J, K = np.zeros((3, 2)), np.zeros((1, 2))
    J[0, 0], K[0, 1] = j, k
    factors = jf.Factors(np.concatenate([A + B, J]), np.concatenate([A - B, K]))
    constant = measures.ye_du_constant(problem, as_jax(factors), 0.1)
    assert float(constant) == pytest.approx(expected, rel=1e-12)


def test_ye_du_measures_of_a_zero_target():
    """Without singular values there is no signal: J and K are all of U and V."""
    problem = PROBLEMS["zero"].build()
    U, V = factors = pair((4, 3), 2)
    size = measures.ye_du(problem, as_jax(factors))
    np.testing.assert_allclose([size.J, size.K], [np.linalg.norm(U, 2), np.linalg.norm(V, 2)], rtol=1e-12)
    assert float(size.B) == 0


@pytest.fixture
def size_of_U():
    """Return a user's own measure, forgotten afterwards."""

    @measures.measure(text="‖U‖_F", unit="√σ₁", latex=r"$\|U\|_F$")
    def size_of_U(problem, factors):
        return jnp.linalg.norm(factors.U)

    yield size_of_U
    del base._registered["size_of_U"]


def test_a_measure_is_recorded_by_name_and_carries_its_label(size_of_U):
    problem, start = jf.Factorization(np.array([1.0, 0.5]), shape=(5, 4)), jf.starts.Gaussian(2, scale=0.3)
    plain = jf.Run(problem, start, jf.methods.gradient_descent(0.5))
    run = partial(jf.sweep, seeds=2, max_steps=20, tolerance=None, every=10)
    record = {"size_of_U": "size_of_U", "off": "distance", "own": lambda problem, factors: factors.energy}
    runs = run(lambda: plain, record=record)
    assert runs.size_of_U_path.attrs == {"long_name": "‖U‖_F", "units": "√σ₁", "latex": r"$\|U\|_F$"}
    # The label is that of the measure, whatever name it is recorded under; a plain function has none.
    assert runs.off_path.attrs == {**runs.distance.attrs, "long_name": "‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F"}
    assert runs.own_path.attrs == {}
    np.testing.assert_allclose(runs.off_path.isel(step=-1), runs.distance, rtol=1e-14)
    both = run({"a": lambda: plain, "b": lambda: plain}, record="energy")
    assert both.energy_path.attrs["units"] == "σ₁"


def test_records_by_name_are_those_of_the_functions(size_of_U):
    problem, start = jf.Factorization(np.array([1.0, 0.5]), shape=(5, 4)), as_jax(pair((5, 4), 2))

    def records(record):
        return jf.descend(problem, jf.methods.gradient_descent(0.5), start, num_steps=2, every=1, record=record).records

    expected = records([measures.distance, size_of_U])
    mapped = {"distance": measures.distance, "size_of_U": "size_of_U"}
    for record in (["distance", "size_of_U"], [measures.distance, "size_of_U"], mapped):
        jax.tree.map(np.testing.assert_array_equal, records(record), expected)
    for lone in ("distance", measures.distance):
        assert list(records(lone)) == ["distance"]
        np.testing.assert_array_equal(records(lone)["distance"], expected["distance"])
    assert list(records(measures.HeldOut([0], [1], [0.5]))) == ["held_out"]
    with pytest.raises(ValueError, match=r"^record=size: no measure has this name; choose among distance, .*ye_du\.$"):
        records(["distance", "size"])
    with pytest.raises(ValueError, match=r"^record=3: needs names of measures, or functions of"):
        records(3)
    with pytest.raises(ValueError, match=r"^record=\['loss'\]: needs distinct names"):
        records(["loss", measures.loss])


def test_a_name_belongs_to_one_measure(size_of_U):
    def distance(problem, factors):
        return 0.0

    with pytest.raises(ValueError, match=r"^measure=distance: jaxfact\.measures\.product has one .+; rename"):
        measures.measure(text="nothing")(distance)
    assert base.named("distance") is measures.distance
    # The same cell of a notebook run again, which is not refused.
    measures.measure(text="other")(size_of_U)
    assert base.label_of(base.named("size_of_U")).text == "other"
