"""The engine against single runs, and that a run's numbers do not depend on its neighbours."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import SMALL, descent, outcomes

import jaxfact as jf
from jaxfact import measures


def test_hits_are_first_checked_steps():
    """Hit times and records equal those of one run of `descend`, stepped and checked by hand."""
    runs = jf.sweep(
        descent(), seeds=[5], max_steps=400, tolerance=1e-6, step_size=[0.3], check_every=1, every=1,
        record=[measures.distance, measures.singular_values],
    ).isel(step_size=0, seed=0)  # fmt: skip
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 5)
    start = jf.starts.Gaussian(3, scale=0.01).draw(jax.random.fold_in(key, 1), SMALL)
    alone = jf.descend(
        SMALL, jf.methods.gradient_descent(0.3), start, num_steps=400, every=1,
        record=[measures.distance, measures.singular_values],
    )  # fmt: skip
    path = np.asarray(alone.records["distance"])
    for level in runs.level.values:
        assert runs.hit.sel(level=level).item() == np.argmax(path <= level)
    ran = runs.steps.item()
    np.testing.assert_allclose(runs.distance_path[: ran + 1], path[: ran + 1], rtol=1e-6)
    values = np.asarray(alone.records["singular_values"])
    np.testing.assert_allclose(runs.singular_values_path[: ran + 1], values[: ran + 1], rtol=1e-6, atol=1e-14)
    np.testing.assert_allclose(runs.distance_path[ran + 1 :], runs.distance.item(), rtol=1e-14)


@pytest.mark.parametrize(("dtype", "count"), [("float32", 10_000), ("float64", 1_000)])
def test_identity_of_a_run(dtype, count, as_users_compile):
    """Run i is the same bits among 10 or 10,000 seeds, in any order, in any tile: after 1 step, and at the end."""
    problem = jf.Factorization(np.linspace(1, 0.2, 3).astype(dtype), shape=(12, 9))

    def experiment(step_size):
        method = optax.chain(jf.methods.add_balancing(0.1), jf.methods.perturbed(step_size, 1e-6))
        return jf.Run(problem, jf.starts.Gaussian(3, scale=1e-1), method)

    settings = {"max_steps": 90, "tolerance": 1e-1, "check_every": 1, "every": [1, 60], "step_size": [0.4]}
    few = jf.sweep(experiment, seeds=10, **settings)
    many = jf.sweep(experiment, seeds=count, **settings)
    # More than one tile in float32, all runs in float64: tiles of the size before, so no further program is compiled.
    order = np.random.default_rng(0).permutation(count)[:5_000]
    shuffled = jf.sweep(experiment, seeds=order, **settings)
    for name in ("loss_path", "distance_path", "loss", "distance", "imbalance", "hit", "steps", "outcome"):
        np.testing.assert_array_equal(many[name][:, :10], few[name], err_msg=name)
        np.testing.assert_array_equal(many[name].sel(seed=order), shuffled[name], err_msg=name)
    assert len(np.unique(many.distance)) > 0.99 * many.loss.size
    assert len(np.unique(many.outcome)) == 2


def test_engine_agrees_with_one_run():
    """Batched and single products differ in the last bits only: 100 runs against `descend` in float64."""
    runs = jf.sweep(descent(0.1), seeds=100, max_steps=200, tolerance=None, step_size=[0.4])
    keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), s))(jnp.arange(100))

    def one(key):
        start = jf.starts.Gaussian(3, scale=0.1).draw(jax.random.fold_in(key, 1), SMALL)
        return SMALL.loss(jf.descend(SMALL, jf.methods.gradient_descent(0.4), start, num_steps=200).factors)

    np.testing.assert_allclose(runs.loss.isel(step_size=0), jax.vmap(one)(keys), rtol=1e-8, atol=1e-28)


def test_checked_sweep_passes_and_catches():
    """A sound method passes every invariant on every step; one broken on purpose is named with run, step, quantity.

    Both are one program, in which the loss at which the gradient turns wrong is data: below it no probe at the start
    looks. That a compressed run passes is for the notebook to show.
    """

    def experiment(step_size, wrong_below):
        class Flawed(jf.Factorization):
            def gradient(self, factors):
                U, V = jf.Factorization.gradient(self, factors)
                return jf.Factors(jnp.where(self.loss(factors) < wrong_below, -U, U), V)

        return descent(0.1, 2, Flawed([1, 0.6], shape=(5, 4)))(step_size)

    options = {"max_steps": 1_000, "tolerance": 1e-8, "checked": True, "step_size": 0.3}
    checked = jf.prepare(experiment, wrong_below=[0.0, 0.1], **options)
    assert outcomes(checked(20, wrong_below=0.0)) == {"converged": 20}
    with pytest.raises(RuntimeError, match=r"invariant \w+ is broken in run \d+ of its tile at step [1-9]\d*"):
        checked(20, wrong_below=0.1)


def test_records_are_static_shapes():
    """Chex agrees on the shapes of what a sweep returns, whatever the axes."""
    runs = jf.sweep(descent(), seeds=3, max_steps=100, tolerance=1e-4, step_size=[0.2, 0.3], every=[0, 20, 100])
    chex.assert_shape(runs.loss_path.values, (2, 3, 3))
    assert runs.loss_path.dims == ("step_size", "seed", "step")
    assert runs.step.values.tolist() == [0, 20, 100]
