"""The methods in anybody's chain: pairs of factors within a pytree, and optimisers that look at the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import KEY, as_jax, pair

import jaxfact as jf

TREE = {"first": as_jax(pair((5, 4), 2)), "bias": jnp.arange(3.0), "more": [as_jax(pair((3, 3), 3, seed=2))]}
GRADIENT = jax.tree.map(jnp.cos, TREE)


def is_pair(x):
    return isinstance(x, jf.Factors)


CHANGES = [jf.methods.add_balancing(0.1), jf.methods.scale_by_gram(0.2), jf.methods.scale_by_start()]


@pytest.mark.parametrize("change", CHANGES)
def test_pairs_within_a_pytree_are_changed_one_by_one(change):
    """Each as if it were alone, and what is no pair not at all."""
    found, _ = jax.jit(change.update)(GRADIENT, change.init(TREE), TREE)
    assert jax.tree.structure(found) == jax.tree.structure(TREE)
    np.testing.assert_array_equal(found["bias"], GRADIENT["bias"])
    for place in (lambda tree: tree["first"], lambda tree: tree["more"][0]):
        alone, _ = change.update(place(GRADIENT), change.init(place(TREE)), place(TREE))
        for mine, known, plain in zip(place(found), alone, place(GRADIENT), strict=True):
            np.testing.assert_allclose(mine, known, rtol=1e-12)
            assert np.abs(mine - plain).max() > 1e-3
    bare = {"bias": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"=a dict without factors: needs the two factors of a pair; "):
        change.update(bare, change.init(bare), bare)


def test_noise_goes_into_all_leaves():
    method = jf.methods.perturbed(0.1, 0.5)
    updates, _ = method.update(GRADIENT, method.init(TREE), TREE, key=KEY)
    kicks = jax.tree.map(lambda u, g: (u + 0.1 * g) / 0.5, updates, GRADIENT)
    drawn = np.concatenate([np.ravel(x) for x in jax.tree.leaves(kicks)])
    assert len(set(drawn.round(9).tolist())) == drawn.size == 39
    assert 0.6 < drawn.std() < 1.4
    # A pair alone has the noise that it always had.
    first, _ = method.update(GRADIENT["first"], method.init(TREE["first"]), TREE["first"], key=KEY)
    keys = jax.random.split(KEY)
    np.testing.assert_allclose(first.U + 0.1 * GRADIENT["first"].U, 0.5 * jax.random.normal(keys[0], (5, 2)), rtol=1e-9)


def test_a_direction_on_the_sphere_is_one_for_all_leaves():
    """Of norm radius in the joint space; a pair alone has the direction that it always had."""
    method = jf.methods.perturbed_on_sphere(0.1, 0.5)
    updates, _ = method.update(GRADIENT, method.init(TREE), TREE, key=KEY)
    kicks = jax.tree.map(lambda u, g: -u / 0.1 - g, updates, GRADIENT)
    np.testing.assert_allclose(optax.tree.norm(kicks), 0.5, rtol=1e-9)
    assert 0.01 < optax.tree.norm(kicks["first"]) < 0.49  # no pair has a sphere of its own
    first, _ = method.update(GRADIENT["first"], method.init(TREE["first"]), TREE["first"], key=KEY)
    drawn = jf.Factorization(np.ones((5, 4))).noise(KEY, TREE["first"])
    known = jax.tree.map(lambda g, n: -0.1 * (g + 0.5 * n / optax.tree.norm(drawn)), GRADIENT["first"], drawn)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), first, known)


def coupled(tree):
    """Return a loss in which every pair and the bias meet."""
    first, second = tree["first"].product, tree["more"][0].product
    return jnp.sum((first[:3, :3] @ second + tree["bias"] - jnp.eye(3)) ** 2) / 2 + jnp.sum(first**2) / 4


def test_kicks_within_a_ball_are_of_all_leaves():
    """Where the gradient is small, of a norm below the radius, and then descent from there; elsewhere none."""
    size = float(optax.tree.norm(GRADIENT))
    found = {}
    for kicked, threshold in ((True, 1.01 * size), (False, 0.99 * size)):
        method = jf.methods.perturbed_in_ball(0.1, radius=0.5, threshold=threshold, interval=3)
        found[kicked], state = method.update(GRADIENT, method.init(TREE), TREE, key=KEY, value_fn=coupled)
        assert int(state.waited) == (1 if kicked else 4)
    plain = jax.tree.map(lambda g: -0.1 * g, jax.grad(coupled)(TREE))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found[False], plain)
    # The kick solves k − η∇f(x + k) = update.
    kick = found[True]
    for _ in range(100):
        there = jax.tree.map(jnp.add, TREE, kick)
        kick = jax.tree.map(lambda u, g: u + 0.1 * g, found[True], jax.grad(coupled)(there))
    assert 0.4 < optax.tree.norm(kick) <= 0.5  # of 39 dimensions nearly all of a ball is near its surface
    assert all(np.all(np.abs(x) > 0) for x in jax.tree.leaves(kick))
    with pytest.raises(
        ValueError, match=r"^perturbed_in_ball=a gradient alone: needs the gradient at a second point; "
    ):
        method.update(GRADIENT, method.init(TREE), TREE, key=KEY)


def test_alternation_within_a_pytree():
    """Every U and what is no pair first, then every V from there."""
    method = jf.methods.alternating(0.1)
    gradient = jax.grad(coupled)(TREE)
    updates, _ = jax.jit(lambda: method.update(gradient, method.init(TREE), TREE, value_fn=coupled))()
    first = jax.tree.map(lambda g: -0.1 * g, gradient)
    pairs = [jax.tree.map(lambda x: x, one) for one in (TREE["first"], TREE["more"][0])]
    steps = (first["first"], first["more"][0])
    moved = [jf.Factors(x.U + s.U, x.V) for x, s in zip(pairs, steps, strict=True)]
    later = jax.grad(coupled)({"first": moved[0], "bias": TREE["bias"] + first["bias"], "more": [moved[1]]})
    found = jax.tree.leaves(updates)
    known = [first["bias"], first["first"].U, -0.1 * later["first"].V, first["more"][0].U, -0.1 * later["more"][0].V]
    for mine, one in zip(found, known, strict=True):
        np.testing.assert_allclose(mine, one, rtol=1e-12)
    # Negative control: a simultaneous step is another.
    assert np.abs(updates["first"].V - first["first"].V).max() > 1e-3
    with pytest.raises(ValueError, match=r"^alternation=a gradient alone: .*; give update\(…, value_fn=loss\)"):
        method.update(gradient, method.init(TREE), TREE)
    with pytest.raises(ValueError, match=r"^alternation=a dict without factors: needs the two factors of a pair; "):
        method.update({"bias": jnp.ones(2)}, method.init(TREE), {"bias": jnp.ones(2)}, value_fn=coupled)


def test_methods_of_one_problem_say_so():
    with pytest.raises(
        ValueError, match=r"^curvature_descent=a gradient alone: its bound is .*; use it in jf\.descend"
    ):
        jf.methods.curvature_descent().update(GRADIENT, optax.EmptyState(), TREE)
    with pytest.raises(
        ValueError, match=r"^problem=none: fresh measurements need a known matrix; give the Factorization"
    ):
        jf.methods.fresh_batch(5).update(GRADIENT, optax.EmptyState(), TREE, key=KEY)


OPTIMISERS = {
    "L-BFGS": optax.lbfgs(),
    "Polyak": optax.polyak_sgd(),
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_that_look_at_the_loss_are_those_of_optax(name):
    """Driven by hand as optax's documentation has it, from the same start; 1e-12."""
    method, problem, start = OPTIMISERS[name], jf.Factorization([1.0, 0.6], shape=(5, 4)), TREE["first"]

    def step(carry, _):
        x, state = carry
        value, gradient = jax.value_and_grad(problem.loss)(x)
        updates, state = method.update(gradient, state, x, value=value, grad=gradient, value_fn=problem.loss)
        return (optax.apply_updates(x, updates), state), None

    known = jax.jit(lambda x: jax.lax.scan(step, (x, method.init(x)), length=8)[0][0])(start)
    found = jax.jit(lambda x: jf.descend(problem, method, x, num_steps=8).factors)(start)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, known)
    assert problem.loss(found) < 0.1 * problem.loss(start)
