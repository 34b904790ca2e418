"""One step of each method against the published formulas in NumPy, and the laws of the noise."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import PROBLEMS, as_jax, frame, pair
from scipy import stats

import jaxfact as jf

ETA = 0.3
# A two-sided normal deviation beyond this has probability 7e-6; the keys are fixed, so a pass stays a pass.
Z = 4.5


def take_step(method, problem, factors, key=None, state=None):
    state = method.init(factors) if state is None else state
    gradient = problem.gradient(factors)
    updates, state = method.update(gradient, state, factors, problem=problem, key=key)
    return updates, state


def descent(U, V, S):
    """Ye & Du (2021), eq. 2."""
    R = S - U @ V.T
    return U + ETA * R @ V, V + ETA * R.T @ U


def balanced(U, V, S, weight=1 / 16):
    """Tu et al. (2016), eq. 3.2: the regulariser's gradients are ¼U(UᵀU − VᵀV) and ¼V(VᵀV − UᵀU) at weight 1/16."""
    D = U.T @ U - V.T @ V
    plain_U, plain_V = descent(U, V, S)
    return plain_U - ETA * 4 * weight * U @ D, plain_V + ETA * 4 * weight * V @ D


def scaled(U, V, S, damping=0.0):
    """Tong, Ma & Chi (2021), eq. 3: both preconditioners from the old iterate."""
    R, identity = S - U @ V.T, np.eye(U.shape[1])
    return (
        U + ETA * R @ V @ np.linalg.inv(V.T @ V + damping * identity),
        V + ETA * R.T @ U @ np.linalg.inv(U.T @ U + damping * identity),
    )


def alternating(U, V, S):
    """Ward & Kolda (2023): V moves along the gradient at the new U."""
    moved = U + ETA * (S - U @ V.T) @ V
    return moved, V + ETA * (S - moved @ V.T).T @ moved


STEPS = {
    "gradient descent": (lambda: jf.methods.gradient_descent(ETA), descent),
    "balanced": (lambda: jf.methods.balanced(ETA, 1 / 16), balanced),
    "balanced, heavier": (lambda: jf.methods.balanced(ETA, 1 / 8), lambda *at: balanced(*at, weight=1 / 8)),
    "scaled, damped": (lambda: jf.methods.scaled_gd(ETA, 0.2), lambda *at: scaled(*at, damping=0.2)),
    "alternating": (lambda: jf.methods.alternating(ETA), alternating),
    "scaled": (lambda: jf.methods.scaled_gd(ETA), scaled),
}


@pytest.mark.parametrize("name", ["dense, tall", "singular values and bases", "width above both sides"])
@pytest.mark.parametrize(("method", "formula"), STEPS.values(), ids=STEPS)
def test_step_is_the_published_formula(name, method, formula):
    case = PROBLEMS[name]
    width = min(case.width, 3) if formula is scaled else case.width  # ScaledGD needs invertible Gram matrices
    problem, factors = case.build(), pair(case.build().shape, width)
    updates, _ = take_step(method(), problem, as_jax(factors))
    for after, before, step in zip(formula(*factors, case.scaled_matrix), factors, updates, strict=True):
        np.testing.assert_allclose(before + step, after, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("share", [1.0, 1.9])
@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0])
def test_a_step_by_the_descent_lemma_solves_its_equation_and_lowers_the_loss(scale, share):
    """η·K_t(η) = share, K_t by NumPy (Xu et al. 2025, Theorem 3.1); η = 0.9 raises the loss from all but small ones."""
    problem, (U, V) = PROBLEMS["dense, tall"].build(), pair((7, 5), 3, scale=scale)
    S = PROBLEMS["dense, tall"].scaled_matrix
    updates, _ = take_step(jf.methods.curvature_descent(share), problem, as_jax(jf.Factors(U, V)))
    descent_U = (S - U @ V.T) @ V
    eta = float(np.sum(updates.U * descent_U) / np.sum(descent_U**2))
    loss, squares = np.sum((U @ V.T - S) ** 2) / 2, [np.linalg.norm(X, 2) ** 2 for X in (U, V)]
    root, both = np.sqrt(2 * loss), sum(squares)
    bend = both + root + 6 * max(squares) * loss * eta**2 + 3 * both * root * eta
    assert eta * bend == pytest.approx(share, rel=1e-9)
    after = np.sum(((U + updates.U) @ (V + updates.V).T - S) ** 2) / 2
    assert after < loss
    raised = np.sum(((U + 0.9 * descent_U) @ (V + 0.9 * (S - U @ V.T).T @ U).T - S) ** 2) / 2
    assert (raised > loss) == (scale > 0.1)


def test_balancing_with_weight_zero_is_plain_descent():
    problem = PROBLEMS["dense, tall"].build()
    factors = as_jax(pair((7, 5), 3))
    plain, _ = take_step(jf.methods.gradient_descent(ETA), problem, factors)
    none, _ = take_step(jf.methods.balanced(ETA, 0.0), problem, factors)
    jax.tree.map(np.testing.assert_array_equal, none, plain)


def test_balancing_is_the_gradient_of_its_regulariser():
    factors, zero = as_jax(pair((7, 5), 3)), PROBLEMS["dense, tall"].build()
    added, _ = jf.methods.add_balancing(0.2).update(jax.tree.map(jnp.zeros_like, factors), (), factors, problem=zero)
    expected = jax.grad(lambda f: 0.2 * jnp.sum(f.imbalance**2))(factors)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-13), added, expected)


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_scaled_descent_contracts_by_one_minus_the_step_at_any_condition_number(condition):
    """Near the optimum the error off the diagonal block shrinks by 1 − η, the block itself by 1 − 2η = 0 at η = ½."""
    values = np.linspace(1.0, 1 / condition, 3)
    problem = jf.Factorization(values, shape=(8, 6))
    start = jax.tree.map(
        lambda x, z: x + 1e-4 / condition * z, problem.truncation(3), as_jax(pair((8, 6), 3, scale=1.0))
    )
    ratios = []
    for method in (jf.methods.scaled_gd(0.5), jf.methods.gradient_descent(0.5)):
        losses = jf.descend(problem, method, start, num_steps=12, every=[2, 12], record=[jf.measures.loss]).records
        ratios.append(float(losses["loss"][1] / losses["loss"][0]))
    assert ratios[0] == pytest.approx(0.5**20, rel=0.02)
    # Negative control: plain descent has no such rate where the target is badly conditioned.
    assert (ratios[1] > 1e3 * ratios[0]) == (condition > 1)


# --- noise -----------------------------------------------------------------------------------------------------------

KEYS = jr.split(jr.key(5), 4000)


def noise_of(method, factors, problem, keys=KEYS):
    """Return what a method adds to the plain step, one row per key: the entries of U, then those of V."""
    plain, _ = take_step(jf.methods.gradient_descent(ETA), problem, factors)

    @jax.jit
    @jax.vmap
    def kick(key):
        updates, _ = take_step(method, problem, factors, key)
        return jnp.concatenate([(x - p).ravel() for x, p in zip(updates, plain, strict=True)])

    return np.asarray(kick(keys))


def z_of_deviation(sample, sigma):
    return (np.std(sample) / sigma - 1) * np.sqrt(2 * sample.size)


def test_noise_is_normal_with_the_stated_deviation():
    problem, factors = PROBLEMS["dense, wide"].build(), as_jax(pair((4, 6), 2))
    noise = noise_of(jf.methods.perturbed(ETA, 0.02), factors, problem)
    assert noise.shape == (4000, 20)
    assert abs(noise.mean() / (0.02 / np.sqrt(noise.size))) < Z
    assert abs(z_of_deviation(noise, 0.02)) < Z
    assert np.abs(noise.mean(axis=0) / (0.02 / np.sqrt(len(noise)))).max() < Z
    assert max(abs(z_of_deviation(column, 0.02)) for column in noise.T) < Z
    assert stats.kstest(noise.ravel() / 0.02, "norm").pvalue > 1e-3
    # Negative control: a deviation 3 % off would have been noticed.
    assert abs(z_of_deviation(noise, 0.02 * 1.03)) > Z
    chained = noise_of(optax.chain(optax.sgd(ETA), jf.methods.add_noise(0.02)), factors, problem, KEYS[:3])
    np.testing.assert_allclose(chained, noise[:3], rtol=1e-12, atol=1e-15)


def test_noise_is_independent_between_keys_and_entries():
    problem, factors = PROBLEMS["dense, wide"].build(), as_jax(pair((4, 6), 2))
    noise = noise_of(jf.methods.perturbed(ETA, 1.0), factors, problem)
    between_keys = np.sum(noise[1:] * noise[:-1]) / np.sqrt(noise[1:].size)
    between_entries = np.corrcoef(noise.T)[np.triu_indices(20, 1)] * np.sqrt(len(noise))
    assert abs(between_keys) < Z
    assert np.abs(between_entries).max() < Z
    np.testing.assert_array_equal(noise_of(jf.methods.perturbed(ETA, 1.0), factors, problem, KEYS[:2]), noise[:2])


def test_sphere_noise_has_its_exact_norm_and_no_direction():
    problem, factors = PROBLEMS["dense, wide"].build(), as_jax(pair((4, 6), 2))
    noise = noise_of(jf.methods.perturbed_on_sphere(ETA, 0.7), factors, problem)
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), ETA * 0.7, rtol=1e-12)
    unit = noise / (ETA * 0.7)
    assert np.abs(unit.mean(axis=0) * np.sqrt(len(unit) * 20)).max() < Z
    # The share of U's 8 of 20 coordinates is Beta(4, 6): one direction in the joint space, not one per factor.
    share = np.sum(unit[:, :8] ** 2, axis=1)
    assert stats.kstest(share, stats.beta(4, 6).cdf).pvalue > 1e-3
    assert stats.kstest(share, stats.beta(3.5, 6).cdf).pvalue < 1e-6


def ball(**changes):
    return jf.methods.perturbed_in_ball(**{"step_size": ETA, "radius": 1e-3, "threshold": 1e9, "interval": 5} | changes)


def test_kicks_are_uniform_in_the_ball():
    """At the saddle 0 of a zero target nothing else moves; uniform means that (‖kick‖/radius)^dimension is uniform."""
    problem = jf.Factorization(np.zeros((2, 1)))
    factors = jax.tree.map(jnp.zeros_like, as_jax(pair((2, 1), 1)))
    kicks = noise_of(ball(step_size=1e-9), factors, problem)
    size = np.linalg.norm(kicks, axis=1) / 1e-3
    assert size.max() <= 1
    assert stats.kstest(size**3, "uniform").pvalue > 1e-3
    assert stats.kstest(size**2, "uniform").pvalue < 1e-6
    assert np.abs((kicks / size[:, None]).mean(axis=0) / (1e-3 / np.sqrt(3 * len(kicks)))).max() < Z


def test_the_gradient_step_is_taken_from_the_kicked_point():
    problem, factors = PROBLEMS["dense, wide"].build(), pair((4, 6), 2)
    zero = jf.Factorization(np.zeros((4, 6)))
    origin = as_jax(jax.tree.map(np.zeros_like, factors))
    # With the same key, the kick alone is seen at the origin of a zero target with a vanishing step.
    kick, _ = take_step(ball(step_size=1e-30, radius=0.5), zero, origin, KEYS[0])
    updates, _ = take_step(ball(radius=0.5), problem, as_jax(factors), KEYS[0])
    kicked = [x + np.asarray(k) for x, k in zip(factors, kick, strict=True)]
    for before, step, after in zip(
        factors, updates, descent(*kicked, PROBLEMS["dense, wide"].scaled_matrix), strict=True
    ):
        np.testing.assert_allclose(before + step, after, rtol=1e-12, atol=1e-13)


def test_no_kick_while_the_gradient_is_large():
    problem, factors = PROBLEMS["dense, wide"].build(), as_jax(pair((4, 6), 2))
    norm = float(jf.measures.gradient_norm(problem, factors))
    quiet = noise_of(ball(threshold=0.99 * norm), factors, problem, KEYS[:20])
    kicked = noise_of(ball(threshold=1.01 * norm), factors, problem, KEYS[:20])
    assert np.abs(quiet).max() < 1e-16
    assert np.linalg.norm(kicked, axis=1).min() > 1e-4


@pytest.mark.parametrize("interval", [1, 3])
def test_kicks_keep_their_interval(interval):
    problem = jf.Factorization(np.zeros((4, 3)))
    factors = jax.tree.map(jnp.zeros_like, as_jax(pair((4, 3), 2)))
    method, moved = ball(interval=interval), []
    state = method.init(factors)
    for key in KEYS[:7]:
        # At the origin of a zero target only a kick moves the factors.
        updates, state = take_step(method, problem, factors, key, state)
        moved.append(bool(updates.U.any()))
    assert moved == [t % interval == 0 for t in range(7)]


REFUSED = {
    "step_size": [
        jf.methods.gradient_descent,
        jf.methods.alternating,
        lambda x: jf.methods.balanced(x, 0.1),
        lambda x: jf.methods.perturbed(x, 0.1),
    ]
    + [
        lambda x: jf.methods.scaled_gd(x),
        lambda x: ball(step_size=x),
        lambda x: jf.methods.perturbed_on_sphere(x, 0.1),
    ],
    "weight": [jf.methods.add_balancing, lambda x: jf.methods.balanced(ETA, x)],
    "noise": [jf.methods.add_noise, lambda x: jf.methods.perturbed(ETA, x)],
    "radius": [lambda x: jf.methods.perturbed_on_sphere(ETA, x), lambda x: ball(radius=x)],
    "threshold": [lambda x: ball(threshold=x)],
    "interval": [lambda x: ball(interval=x)],
    "damping": [jf.methods.scale_by_gram, lambda x: jf.methods.scaled_gd(ETA, x)],
}


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "fast", None, 0.0])
@pytest.mark.parametrize("name", REFUSED)
def test_hyperparameters_that_cannot_work_are_refused(name, value):
    """The message says what was given, what is needed and what to do instead; 0 is a step only for what may be off."""
    for build in REFUSED[name]:
        if value == 0.0 and name not in ("step_size", "interval"):
            build(value)
            continue
        with pytest.raises(ValueError, match=rf"^{name}=.*: needs a (finite|whole) number.*; .+\.$"):
            build(value)


def test_gram_scaling_is_covariant():
    """ScaledGD commutes with (U, V) → (UQ, VQ⁻ᵀ) for every invertible Q; plain descent does not."""
    problem, (U, V) = PROBLEMS["dense, tall"].build(), pair((7, 5), 3)
    Q = frame(3, 3, 0) @ np.diag([0.5, 1.0, 3.0])
    turned = as_jax(jf.Factors(U @ Q, V @ np.linalg.inv(Q).T))
    for method, commutes in ((jf.methods.scaled_gd(ETA), True), (jf.methods.gradient_descent(ETA), False)):
        here, _ = take_step(method, problem, as_jax(jf.Factors(U, V)))
        there, _ = take_step(method, problem, turned)
        assert np.allclose(there.U, here.U @ Q, rtol=1e-11) == commutes
