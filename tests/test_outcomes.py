"""How runs end, and when they arrive."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import frame
from compilation import as_for_users
from runs import NARROW, SMALL, descent, outcomes

import jaxfact as jf

STILL = jf.Factors(jnp.zeros((5, 1)), jnp.zeros((4, 1)))


@pytest.fixture(scope="module")
def plain():
    # A cycle is one of last bits.
    with as_for_users():
        return jf.sweep(descent(), seeds=1000, max_steps=400_000, tolerance=1e-10, step_size=[0.55, 0.98, 1.02])


def test_stability_edge_of_plain_descent(plain):
    """No minimiser is stable above η = 1/σ₁ (sharpness ≥ 2σ₁): every start converges at 0.98, none at 1.02."""
    assert outcomes(plain.sel(step_size=0.98)) == {"converged": 1000}
    above = plain.sel(step_size=1.02)
    assert outcomes(above) == {"cycle": 1000}
    # A minimum that has lost its stability flips from side to side.
    assert np.all(above.period == 2)
    assert np.all(np.isnan(above.gradient_norm))
    assert np.all(np.isinf(above.hit.sel(level=1e-10)))


def test_balancing_moves_the_edge(plain):
    """The regulariser with weight w has its own edge 1/(8wσ₁): 0.5 at w = 0.25."""

    def balanced(step_size):
        return jf.Run(SMALL, jf.starts.Gaussian(3, scale=0.01), jf.methods.balanced(step_size, 0.25))

    runs = jf.sweep(balanced, seeds=300, max_steps=200_000, tolerance=1e-10, step_size=[0.48, 0.55])
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
        return jf.Run(SMALL, jf.starts.Gaussian(3, scale=0.3), jf.methods.gradient_descent(step_size))

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


def test_a_fixed_point_is_stationary():
    """Zero is a saddle that descent never leaves: a numerical fixed point, found without looking at the loss."""
    runs = jf.sweep(
        lambda: jf.Run(NARROW, STILL, jf.methods.gradient_descent(0.5)), seeds=3, max_steps=1_000, tolerance=1e-6
    )
    assert outcomes(runs) == {"stationary": 3}
    assert np.all(runs.period == 0)
    assert np.all(runs.gradient_norm == 0)
    assert np.all(np.isinf(runs.hit))


def test_what_merely_comes_close_is_no_end():
    """Within 8 epsilons of an earlier state, entry by entry, hides a small direction: only the same bits repeat."""
    problem = jf.Factorization(np.float32([1, 0.6]), shape=(5, 4))

    def creeping(length):
        def update(gradient, state, factors, **_):
            return jax.tree.map(lambda x: jnp.full_like(x, length), factors), state

        return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)

    start = jf.Factors(jnp.ones((5, 2), jnp.float32), jnp.ones((4, 2), jnp.float32))
    settings = {"seeds": 1, "max_steps": 200, "tolerance": 1e-5, "check_every": 1}
    epsilon = float(np.finfo(np.float32).eps)
    ends = {
        length: outcomes(jf.sweep(lambda length=length: jf.Run(problem, start, creeping(length)), **settings))
        for length in (epsilon, epsilon / 4)
    }
    # A quarter of a last bit changes nothing: that run stands still.
    assert ends == {epsilon: {"budget": 1}, epsilon / 4: {"stationary": 1}}


def test_a_saddle_is_no_cycle():
    """From 1e-5 at κ = 100 runs in ambient coordinates sit on saddles, looked at after every step, and leave them."""
    left, right = frame(20, 4, 1), frame(16, 4, 2)
    problem = jf.Factorization(np.float32(left @ np.diag(np.geomspace(1, 0.01, 4)) @ right.T))
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(4, scale=1e-5), jf.methods.gradient_descent(0.1)),
        seeds=16, max_steps=20_000, tolerance=1e-2, check_every=1, compress=False,
    )  # fmt: skip
    assert outcomes(runs) == {"converged": 16}
    assert runs.hit.sel(level=1e-2).min() > 500


@pytest.mark.parametrize("check_every", [1, 10])
def test_the_period_is_the_smallest_within_rounding(tmp_path, check_every):
    """Followed step by step in the program of the sweep, the last state was nearly met so many steps ago, not later."""
    problem = jf.Factorization(np.float32([1, 0.7, 0.4]), shape=(12, 9))
    experiment, path = descent(problem=problem), tmp_path / "runs.zarr"
    runs = jf.sweep(
        experiment, seeds=12, max_steps=5_000, tolerance=1e-5, check_every=check_every, step_size=[1.05], store=path
    ).isel(step_size=0)
    assert set(outcomes(runs)) <= {"cycle", "budget"}
    returned = runs.seed.values[runs.outcome == "cycle"]
    assert len(returned) >= 6
    found = set()
    for seed in sorted(returned, key=lambda seed: runs.steps.values[seed])[:3]:
        again = jf.replay(path, seed=seed, step_size=1.05, experiment=experiment)
        states = [np.asarray(x).reshape(len(x), -1) for x in again.factors]
        bits = np.concatenate([x.view(np.int32) for x in states], axis=1)
        round_trip = next(lag for lag in range(1, len(bits)) if np.array_equal(bits[-1 - lag], bits[-1]))
        away = [np.linalg.norm(x[-1 - round_trip :] - x[-1], axis=1) / np.linalg.norm(x[-1]) for x in states]
        lag = int(np.flatnonzero(np.max(away, axis=0)[1:] <= 64 * np.finfo(np.float32).eps)[0]) + 1
        assert runs.period.values[seed] == lag
        assert round_trip % lag == 0
        found.add(lag)
    assert min(found) >= 2


@pytest.mark.parametrize("compress", [True, False])
def test_periods_double_where_the_map_of_a_scalar_does(compress):
    """u ↦ u + ηu(1 − u²) has a stable cycle of two for 1 < η < √5 − 1, and then one of four up to η ≈ 1.288.

    Bit for bit, single precision returns after four steps instead of two from η = 1.16 on.
    """

    def experiment(step_size):
        start = jf.starts.Gaussian(1, scale=0.3)
        return jf.Run(jf.Factorization(np.ones((1, 1), np.float32)), start, jf.methods.gradient_descent(step_size))

    step_size = np.linspace(1.01, 1.28, 28)
    runs = jf.sweep(
        experiment, seeds=10, max_steps=4000, tolerance=1e-5, compress=compress, progress=False, step_size=step_size
    )
    assert outcomes(runs) == {"cycle": 280}
    expected = np.where(step_size < np.sqrt(5) - 1, 2, 4)
    assert np.array_equal(runs.period.transpose("step_size", "seed"), np.broadcast_to(expected[:, None], (28, 10)))


def test_periods_of_a_method_with_state():
    """Of momentum μ the first instability of a scalar is at η = 1 + μ, and a cycle of two.

    The velocity is small there, but as inexact as the factors that it is made of: the last bits take 18 steps and more.
    """

    def experiment(step_size):
        method = optax.chain(optax.trace(0.5), jf.methods.gradient_descent(step_size))
        return jf.Run(jf.Factorization(np.ones((1, 1), np.float32)), jf.starts.Gaussian(1, scale=0.5), method)

    runs = jf.sweep(
        experiment, seeds=500, max_steps=20_000, tolerance=1e-5, progress=False, step_size=[1.501, 1.51, 1.6]
    )
    cycles = runs.outcome.values == "cycle"
    assert cycles.sum() > 100
    assert np.all(runs.period.values[cycles] == 2)


def test_a_minimum_whose_truth_nobody_knows_is_stationary():
    """What has settled and cannot converge ends so, with a gradient at rounding level beside a residual of order 1."""
    matrix = np.random.default_rng(0).normal(size=(6, 5))
    matrix[0, 1] = matrix[2, 3] = np.nan
    problem = jf.Completion.from_matrix(matrix)
    runs = jf.sweep(
        lambda: jf.Run(problem, jf.starts.Gaussian(1, scale=0.1), jf.methods.gradient_descent(0.2)),
        seeds=8,
        max_steps=50_000,
        tolerance=1e-6,
    )
    assert set(outcomes(runs)) <= {"stationary", "budget"}
    settled = runs.outcome == "stationary"
    assert settled.mean() > 0.7
    assert np.all(runs.gradient_norm.values[settled] < 1e-13)
    assert np.all(np.isnan(runs.gradient_norm.values[~settled]))
    assert np.all(runs.misfit > 0.1)
    assert np.all(runs.period == 0)


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
    quiet = jf.sweep(
        lambda: jf.Run(NARROW, STILL, jf.methods.perturbed(0.5, 0.0)), seeds=2, max_steps=1_000, tolerance=1e-6
    )
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
        lambda: jf.Run(NARROW, near, jf.methods.gradient_descent(0.5)),
        seeds=1,
        max_steps=2_000,
        tolerance=1e-3,
        check_every=2,
    )
    assert calm.steps.item() == calm.hit.sel(level=1e-3).item() + 50
