"""How runs end, when they arrive, and that their numbers do not depend on their neighbours."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfact as jf
from jaxfact import measures

SMALL = jf.Factorization([1, 0.7, 0.4], shape=(12, 9))
# Where size and width are not the point: narrow programs compile faster.
NARROW = jf.Factorization([1, 0.6], shape=(5, 4))
STILL = jf.Factors(jnp.zeros((5, 1)), jnp.zeros((4, 1)))


def descent(scale=0.01, width=3, problem=SMALL):
    return lambda step_size: jf.Run(problem, jf.Gaussian(width, scale=scale), jf.gradient_descent(step_size))


def outcomes(runs) -> dict[str, int]:
    names, counts = np.unique(runs.outcome.values, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


@pytest.fixture(scope="module")
def plain():
    return jf.sweep(descent(), seeds=1000, max_steps=400_000, tolerance=1e-10, step_size=[0.55, 0.98, 1.02])


def test_stability_edge_of_plain_descent(plain):
    """No minimiser is stable above η = 1/σ₁ (sharpness ≥ 2σ₁): every start converges at 0.98, none at 1.02."""
    assert outcomes(plain.sel(step_size=0.98)) == {"converged": 1000}
    above = plain.sel(step_size=1.02)
    assert outcomes(above) == {"cycle": 1000}
    assert np.mean(above.period == 2) > 0.9
    assert np.all(above.period > 1)
    assert np.all(np.isinf(above.hit.sel(level=1e-10)))


def test_balancing_moves_the_edge(plain):
    """The regulariser with weight w has its own edge 1/(8wσ₁): 0.5 at w = 0.25."""

    def balanced(step_size):
        return jf.Run(SMALL, jf.Gaussian(3, scale=0.01), jf.balanced(step_size, 0.25))

    runs = jf.sweep(balanced, seeds=300, max_steps=20_000, tolerance=1e-10, step_size=[0.48, 0.55])
    assert outcomes(runs.sel(step_size=0.48)) == {"converged": 300}
    assert outcomes(runs.sel(step_size=0.55)) == {"cycle": 300}
    assert outcomes(plain.sel(step_size=0.55)) == {"converged": 1000}


def test_long_plateaus_all_converge():
    """From scale 1e-9 at κ = 10 every run waits near saddles; no rule may take a plateau for an end."""
    problem = jf.Factorization(np.linspace(1, 0.1, 5), shape=(30, 20))
    runs = jf.sweep(
        descent(1e-9, 5, problem), seeds=300, max_steps=20_000, tolerance=1e-10, step_size=[0.1, 0.5], check_every=5
    )
    assert outcomes(runs) == {"converged": 600}
    # The fastest direction alone needs ln(1/scale)/ln(1 + η) steps to appear.
    assert runs.hit.sel(step_size=0.1, level=0.1).min() > np.log(1e9) / np.log1p(0.1)


def test_diverging_runs_never_arrive():
    """Above 1.25/σ₁ runs leave; their times are infinite, though divergence took few steps."""
    runs = jf.sweep(descent(0.3), seeds=200, max_steps=5_000, tolerance=1e-6, step_size=[0.5, 2.5])
    gone = runs.sel(step_size=2.5)
    assert outcomes(gone) == {"diverged": 200}
    assert outcomes(runs.sel(step_size=0.5)) == {"converged": 200}
    assert gone.steps.max() < 100
    median = jf.stats.time_to(runs, 1e-6).quantile([0.5])
    assert np.isinf(median.sel(step_size=2.5))
    assert np.isfinite(median.sel(step_size=0.5))


def test_most_runs_diverging_means_never():
    """Where 94 % of the runs diverge the median time is infinite, not the few steps that divergence took."""

    def experiment(key):
        step_size = jnp.where(jax.random.uniform(key) < 0.94, 2.5, 0.5)
        return jf.Run(SMALL, jf.Gaussian(3, scale=0.3), jf.gradient_descent(step_size))

    runs = jf.sweep(experiment, seeds=1_000, max_steps=5_000, tolerance=1e-6)
    counts = outcomes(runs)
    assert counts.keys() == {"converged", "diverged"}
    assert counts["diverged"] == pytest.approx(940, abs=4 * np.sqrt(1000 * 0.94 * 0.06))
    times = jf.stats.time_to(runs, 1e-6)
    assert np.isinf(times.quantile([0.5])).all()
    assert np.isfinite(times.quantile([0.02])).all()
    assert np.median(runs.steps) < 100
    assert np.median(runs.hit.values[np.isfinite(runs.hit.values)]) < 500


def test_budget_is_censoring():
    """Runs cut off by the budget have no time, which is neither never nor the budget."""
    runs = jf.sweep(descent(), seeds=20, max_steps=60, tolerance=1e-10, step_size=[0.5])
    assert outcomes(runs) == {"budget": 20}
    assert np.all(np.isnan(runs.hit.sel(level=1e-10)))
    assert np.all(runs.steps == 60)
    assert not runs.loss_rose.any()
    np.testing.assert_array_equal(runs.best_distance, runs.distance)


def test_fixed_point_has_period_one():
    """Zero is a saddle that descent never leaves: a numerical fixed point, found without looking at the loss."""
    runs = jf.sweep(lambda: jf.Run(NARROW, STILL, jf.gradient_descent(0.5)), seeds=3, max_steps=1_000, tolerance=1e-6)
    assert outcomes(runs) == {"cycle": 3}
    assert np.all(runs.period == 1)


def test_odd_periods_are_found():
    """The period is searched step by step, so one that does not divide check_every is still exact."""

    def turn(factors):
        return optax.EmptyState()

    problem = jf.Factorization([1.0, 0.5], shape=(2, 2))
    cyclic = jnp.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])

    def permute(gradient, state, factors, **_):
        return jf.Factors(factors.U @ cyclic - factors.U, factors.V @ cyclic - factors.V), state

    start = jf.Factors(jnp.arange(1.0, 7).reshape(2, 3), jnp.arange(3.0, 9).reshape(2, 3))
    method = optax.GradientTransformationExtraArgs(turn, permute)
    runs = jf.sweep(lambda: jf.Run(problem, start, method), seeds=1, max_steps=1_000, tolerance=1e-6, check_every=10)
    assert outcomes(runs) == {"cycle": 1}
    assert runs.period.item() == 3


def test_method_state_belongs_to_the_cycle():
    """Factors that stand still while the method counts on are no cycle."""
    runs = jf.sweep(lambda: jf.Run(NARROW, STILL, optax.adam(0.1)), seeds=1, max_steps=1_000, tolerance=1e-6)
    assert outcomes(runs) == {"budget": 1}


def test_noisy_methods_do_not_cycle():
    """With noise a state met twice proves nothing: such a run can only converge, diverge or use up its budget."""
    quiet = jf.sweep(lambda: jf.Run(NARROW, STILL, jf.perturbed(0.5, 0.0)), seeds=2, max_steps=1_000, tolerance=1e-6)
    assert outcomes(quiet) == {"budget": 2}


def test_passing_is_not_staying():
    """A run that touches the tolerance and leaves again has not converged; its first passage is kept."""
    kick = 50

    def init(factors):
        return jnp.zeros((), jnp.int32)

    def update(gradient, count, factors, *, problem, **_):
        push = jnp.where(count == kick, 0.05, 0.0)
        step = jf.Factors(-0.5 * gradient.U + push, -0.5 * gradient.V)
        return step, count + 1

    near = jf.Factors(*(x + 1e-3 for x in NARROW.truncation(2)))
    method = optax.GradientTransformationExtraArgs(init, update)
    runs = jf.sweep(lambda: jf.Run(NARROW, near, method), seeds=1, max_steps=2_000, tolerance=1e-3, check_every=2)
    assert outcomes(runs) == {"converged": 1}
    assert runs.hit.sel(level=1e-3).item() < kick
    assert runs.steps.item() > kick + 50
    calm = jf.sweep(
        lambda: jf.Run(NARROW, near, jf.gradient_descent(0.5)), seeds=1, max_steps=2_000, tolerance=1e-3, check_every=2
    )
    assert calm.steps.item() == calm.hit.sel(level=1e-3).item() + 50


def test_hits_are_first_checked_steps():
    """Hit times and records equal those of one run of `descend`, stepped and checked by hand."""
    runs = jf.sweep(
        descent(), seeds=[5], max_steps=400, tolerance=1e-6, step_size=[0.3], check_every=1, every=1,
        record=[measures.distance, measures.singular_values],
    ).isel(step_size=0, seed=0)  # fmt: skip
    key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), 5)
    start = jf.Gaussian(3, scale=0.01).draw(jax.random.fold_in(key, 1), SMALL)
    alone = jf.descend(
        SMALL, jf.gradient_descent(0.3), start, num_steps=400, every=1,
        record=[measures.distance, measures.singular_values],
    )  # fmt: skip
    path = np.asarray(alone.records["distance"])
    for level in runs.level.values:
        assert runs.hit.sel(level=level).item() == np.argmax(path <= level)
    ran = runs.steps.item()
    np.testing.assert_allclose(runs.distance_path[: ran + 1], path[: ran + 1], rtol=1e-6)
    values = np.asarray(alone.records["singular_values"])
    np.testing.assert_allclose(runs.singular_values_path[: ran + 1], values[: ran + 1], rtol=1e-6, atol=1e-14)
    np.testing.assert_array_equal(runs.distance_path[ran + 1 :], runs.distance.item())


@pytest.mark.parametrize(("dtype", "count"), [("float32", 10_000), ("float64", 1_000)])
def test_identity_of_a_run(dtype, count):
    """Run i is the same bits among 10 or 10,000 seeds, in any order, in any tile: after 1 step, and at the end."""
    problem = jf.Factorization(np.linspace(1, 0.2, 3).astype(dtype), shape=(12, 9))

    def experiment(step_size):
        method = optax.chain(jf.add_balancing(0.1), jf.perturbed(step_size, 1e-6))
        return jf.Run(problem, jf.Gaussian(3, scale=1e-1), method)

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
        start = jf.Gaussian(3, scale=0.1).draw(jax.random.fold_in(key, 1), SMALL)
        return SMALL.loss(jf.descend(SMALL, jf.gradient_descent(0.4), start, num_steps=200).factors)

    np.testing.assert_allclose(runs.loss.isel(step_size=0), jax.vmap(one)(keys), rtol=1e-8, atol=1e-28)


def test_checked_sweep_passes_and_catches():
    """A sound method passes every invariant on every step; one broken on purpose is named with run, step, quantity."""
    sound = jf.sweep(descent(0.1, 2, NARROW), seeds=20, max_steps=1_000, tolerance=1e-8, step_size=[0.3], checked=True)
    assert outcomes(sound) == {"converged": 20}

    class Broken(jf.Factorization):
        """Its gradient turns wrong once the loss is small, which no probe at the start can see."""

        def gradient(self, factors):
            U, V = jf.Factorization.gradient(self, factors)
            return jf.Factors(jnp.where(self.loss(factors) < 0.1, -U, U), V)

    broken = Broken([1, 0.6], shape=(5, 4))
    with pytest.raises(RuntimeError, match=r"invariant \w+ is broken in run \d+ of its tile at step [1-9]\d*"):
        jf.sweep(descent(0.1, 2, broken), seeds=20, max_steps=200, tolerance=1e-8, step_size=[0.3], checked=True)


def test_records_are_static_shapes():
    """Chex agrees on the shapes of what a sweep returns, whatever the axes."""
    runs = jf.sweep(descent(), seeds=3, max_steps=100, tolerance=1e-4, step_size=[0.2, 0.3], every=[0, 20, 100])
    chex.assert_shape(runs.loss_path.values, (2, 3, 3))
    assert runs.loss_path.dims == ("step_size", "seed", "step")
    assert runs.step.values.tolist() == [0, 20, 100]
