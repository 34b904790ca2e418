"""The largest curvatures against the dense Hessian and their closed form, and saddles by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import KEY, as_jax, frame, pair

import jaxfact as jf
from jaxfact import measures
from jaxfact.numerics.draws import key_of

VALUES = np.array([1.0, 0.6, 0.3])
PROBLEM = jf.Factorization(VALUES, shape=(5, 4))


def test_curvatures_are_those_of_the_dense_hessian():
    """Exact with as many steps as there are entries; with fewer from below, within the bound of Kaniel and Paige."""
    factors = as_jax(pair((5, 4), 2))
    flat, unravel = jax.flatten_util.ravel_pytree(factors)
    hessian = jax.jit(jax.hessian(lambda x: jnp.sum((unravel(x).product - PROBLEM.target) ** 2) / 2))(flat)
    ascending, vectors = np.linalg.eigh(hessian)
    known = ascending[::-1]
    found = jax.jit(lambda: [measures.curvatures(3, steps=steps)(PROBLEM, factors) for steps in (4, 8, 12, 18)])()
    np.testing.assert_allclose(found[-1], known[:3], rtol=1e-9)
    first = np.asarray(jax.random.normal(key_of(0), flat.shape, flat.dtype))
    tangent = np.tan(np.arccos(abs(vectors[:, -1] @ first) / np.linalg.norm(first)))
    gap = (known[0] - known[1]) / (known[1] - known[-1])
    errors = [known[0] - values[0] for values in found[:3]]
    for error, steps in zip(errors, (4, 8, 12), strict=True):
        assert -1e-12 < error < (known[0] - known[-1]) * (tangent / np.cosh((steps - 1) * np.arccosh(1 + 2 * gap))) ** 2
    assert 0.5 > errors[0] > errors[1] > errors[2] > 1e-9
    assert all(np.all(values <= known[:3] + 1e-12) for values in found)
    np.testing.assert_allclose(measures.sharpness(PROBLEM, factors), known[0], rtol=1e-9)


def test_curvatures_of_the_balanced_optimum():
    """The Hessian there has σ_i + σ_j for i, j ≤ d, once each here, σ_i for what is off the signal, and zeros."""
    problem = jf.Factorization(VALUES[:2], shape=(5, 4))
    found = jax.jit(measures.curvatures(8, steps=18))(problem, problem.truncation(2))
    np.testing.assert_allclose(found[:3], [2.0, 1.6, 1.2], rtol=1e-9)
    np.testing.assert_allclose(found[3:5], [1.0, 0.6], rtol=1e-9)
    # A Krylov space ends at the number of distinct ones: six with the zero.
    assert found[5] == pytest.approx(0, abs=1e-9)
    assert np.isnan(found[6:]).all()


def test_curvatures_that_cannot_be_had_are_refused():
    with pytest.raises(ValueError, match=r"^count=5: 4 steps find 4 eigenvalues at most; give more steps\.$"):
        measures.curvatures(5, steps=4)
    with pytest.raises(ValueError, match=r"^count=0: needs a whole number"):
        measures.curvatures(0)


@pytest.mark.parametrize("kept", [[], [0], [1], [0, 2]])
def test_a_saddle_is_named_by_what_it_carries(kept):
    left, right = frame(5, 3, 1), frame(4, 3, 2)
    problem = jf.Factorization(VALUES, shape=(5, 4), left=left, right=right)
    mask, mix = np.isin(np.arange(3), kept), frame(3, 3, 3)
    root = np.sqrt(VALUES * mask)
    at = as_jax(jf.Factors(left * root @ mix, right * root @ mix))
    found = jax.jit(measures.saddle)(problem, at)
    assert found.carries.tolist() == mask.tolist()
    assert float(found.distance) < 1e-14
    assert float(jnp.linalg.norm(problem.gradient(at).U)) < 1e-14  # it is a critical point
    moved = jax.tree.map(lambda x, y: x + 0.01 * y, at, as_jax(pair((5, 4), 3)))
    near = measures.saddle(problem, moved)
    expected = np.linalg.norm(moved.product - (left * VALUES * mask) @ right.T)
    np.testing.assert_allclose(near.distance, expected, rtol=1e-9)
    assert expected > 1e-4


def test_descent_passes_saddles_in_their_order():
    """From a tiny start the triples are learned one after the other, near {}, {1}, {1, 2} in turn, to {1, 2, 3}."""
    starts = jax.vmap(lambda key: jf.starts.Gaussian(3, scale=1e-6).draw(key, PROBLEM))(jax.random.split(KEY, 4))

    @jax.jit
    @jax.vmap
    def records(start):
        method, record = jf.methods.gradient_descent(0.2), ["saddle", "sharpness"]
        return jf.descend(PROBLEM, method, start, num_steps=600, every=10, record=record).records

    found = records(starts)
    for carries, distance in zip(*found["saddle"], strict=True):
        names = carries[distance < 0.02].astype(int).tolist()
        seen = [name for k, name in enumerate(names) if k == 0 or name != names[k - 1]]
        assert seen == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    # ±σ₁ at the origin, and 2σ₁ as soon as the first triple is learned, which is the sharpness of the optimum.
    np.testing.assert_allclose(found["sharpness"][:, [0, -1]], [[1.0, 2.0]] * 4, rtol=1e-3)


def test_records_of_a_sweep_are_those_of_dense_matrices():
    """Of the factors that were recorded beside them: a whole Hessian, and triples by NumPy's SVD."""
    matrix = np.random.default_rng(5).normal(size=(4, 3))
    problem, count = jf.Factorization(matrix), 14  # as many Lanczos steps as there are entries

    def entries(problem, factors):
        return jnp.concatenate([jnp.ravel(x) for x in factors])

    def experiment(scale):
        return jf.Run(problem, jf.starts.Gaussian(2, scale=scale), jf.methods.gradient_descent(0.3))

    record = [measures.curvatures(3, steps=count), "saddle", entries]
    runs = jf.sweep(experiment, seeds=3, max_steps=40, tolerance=1e-9, every=20, record=record, scale=0.2)
    assert runs.sizes["step"] == 3
    target = matrix / np.linalg.norm(matrix, 2)
    left, values, right = np.linalg.svd(target, full_matrices=False)

    def loss(x):
        return jnp.sum((x[:8].reshape(4, 2) @ x[8:].reshape(3, 2).T - target) ** 2) / 2

    paths = [f"{name}_path" for name in ("entries", "curvatures", "saddle_carries", "saddle_distance")]
    by_run = [runs[name].transpose("seed", "step", ...).values.reshape(9, -1) for name in paths]
    hessians = np.asarray(jax.jit(jax.vmap(jax.hessian(loss)))(by_run[0]))
    assert len({tuple(carries) for carries in by_run[2].tolist()}) > 1  # at several saddles
    for x, curvatures, carries, distance, hessian in zip(*by_run, hessians, strict=True):
        np.testing.assert_allclose(curvatures, np.linalg.eigvalsh(hessian)[:-4:-1], rtol=1e-7)
        product = x[:8].reshape(4, 2) @ x[8:].reshape(3, 2).T
        kept = np.einsum("ki,kl,il->i", left, product, right) > values / 2
        np.testing.assert_array_equal(carries, kept)
        known = np.linalg.norm(product - (left * values * kept) @ right)
        np.testing.assert_allclose(distance, known, rtol=1e-9)
        # Negative control: with one triple more or less it is another saddle, further away.
        assert all(
            np.linalg.norm(product - (left * values * (kept ^ (np.arange(3) == k))) @ right) > known for k in range(3)
        )
    # The figure of the edge takes the largest.
    figure = jf.figures.edge_of_stability(runs, 0.3)
    drawn = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, np.sort(by_run[1].reshape(3, 3, 3)[:, :, 0], axis=0)[1])
    assert figure.axes[0].get_ylabel() == r"$\lambda_{\max}(\nabla^2f) \,/\, \sigma_1$"
