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


@pytest.mark.parametrize("change", [jf.methods.add_balancing(0.1), jf.methods.scale_by_gram(0.2)])
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
    with pytest.raises(ValueError, match=r"=a dict without factors: needs the two factors of a pair; "):
        change.update({"bias": jnp.ones(2)}, change.init(TREE), {"bias": jnp.ones(2)})


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
