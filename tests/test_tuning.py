"""Learning through runs: what is learned against known optima, what derivatives that explode do, and worst starts."""

from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import as_jax, pair
from runs import NARROW

import jaxfact as jf
from jaxfact.methods.base import as_method
from jaxfact.starts import Start
from jaxfact.tuning import Exponential, Free, Growth, LogDistance, Number, Peak, Piecewise, Time
from jaxfact.tuning import worst as worst_starts
from jaxfact.tuning.cutting import cut
from jaxfact.tuning.iteration import Setting, State, averaged, first_state, followed, keys_of, learning_step

KEY = jr.key(0)
PLAIN = jf.methods.gradient_descent
SMALL_START = jf.starts.Gaussian(2, scale=0.05)


def setting(start=SMALL_START, method=PLAIN, schedule=None, **more):
    told = {"objective": LogDistance(), "optimiser": optax.adam(0.1), "starts": 8, "num_steps": 40, "window": None}
    return Setting(start, method, schedule or Number(0.3), **told | more)


class Near(Start):
    """The optimum of every problem, moved by little in all directions."""

    width: int
    scale: float = 1e-4

    def draw(self, key, problem):
        moved = problem.standard_normal(key, self.width)
        return jax.tree.map(lambda x, z: x + self.scale * z, problem.truncation(self.width), moved)


class Scaled(Start):
    """Given factors times a scale, which may be learned."""

    factors: jf.Factors
    scale: float

    def draw(self, key, problem):
        return jax.tree.map(lambda x: self.scale * x, self.factors)


# What is learned.


def test_parametrisations_are_the_schedules_that_they_say():
    """At the formula's values; the last value, or block, goes on beyond the window."""
    counts = jnp.arange(12)
    theta = jnp.log(jnp.array([1.0, 2.0, 3.0, 5.0]))
    stretches, repeated = Piecewise(4).value(theta, 9), Free(first=1, block=3).value(theta, 9)
    np.testing.assert_allclose(jax.vmap(stretches)(counts), [1, 1, 1, 2, 2, 2, 3, 3, 3, 5, 5, 5], rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(repeated)(counts), [1, 2, 3, 5, 2, 3, 5, 2, 3, 5, 2, 3], rtol=1e-14)
    geometric = Exponential().value(theta[:2], 4)
    np.testing.assert_allclose(jax.vmap(geometric)(counts[:6]), 2 ** (np.array([0, 1, 2, 3, 4, 4]) / 4), rtol=1e-14)
    assert float(Number(0.25).value(Number(0.25).initial(5, KEY), 5)) == pytest.approx(0.25, rel=1e-15)


@pytest.mark.parametrize("what", [Number(0.2), Piecewise(3, 0.2), Exponential(0.2), Free(2, 3, 0.2, spread=0.1)])
def test_what_is_learned_begins_where_it_says_and_stays_positive(what):
    theta = what.initial(30, KEY)
    first, moved = what.value(theta, 30), what.value(jax.tree.map(lambda x: x - 50, theta), 30)
    values, low = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(value)]) for value in (first, moved))
    np.testing.assert_allclose(np.log(values), np.log(0.2), atol=0.4 if isinstance(what, Free) else 1e-12)
    assert (low > 0).all()
    if isinstance(what, Free):
        assert len(set(values.tolist())) == 5  # equal steps would stay equal


# What runs are judged by.


def test_time_is_the_time_where_the_distance_falls_by_a_constant_factor():
    """d_t = 0.9ᵗ is at 1e-4 after ln(1e-4)/ln(0.9) steps; a run that arrives later has a longer time."""
    steps = jnp.arange(0.0, 201.0, 4.0)
    expected = np.log(1e-4) / np.log(0.9)
    assert float(Time(1e-4, 0.3).of(0.9**steps, steps)) == pytest.approx(expected, rel=2e-3)
    assert float(Time(1e-4, 0.3).of(0.95**steps, steps)) == pytest.approx(np.log(1e-4) / np.log(0.95), rel=2e-3)
    assert float(Time(1e-4).of(jnp.ones_like(steps), steps)) == pytest.approx(200, rel=1e-3)
    assert float(LogDistance(0.5).of(0.9**steps, steps)) == pytest.approx(150 * np.log(0.9), rel=1e-12)
    assert float(LogDistance(0.5).of(7 * 0.9**steps, steps)) == pytest.approx(150 * np.log(0.9), rel=1e-12)


def test_a_run_that_diverges_is_judged_no_better_than_one_that_stays():
    """Whatever it did before; the mean of what is left would reward it, and without a bound it would decide alone."""
    steps = jnp.arange(0.0, 9.0)
    early = jnp.array([1, 1e-3, 1e-5, 1e9, jnp.nan, jnp.nan, jnp.nan, 1e-9, 1e-9])
    huge, still = 10.0 ** (40 * steps), jnp.ones(9)
    for objective in (LogDistance(0.5), Time(1e-4)):
        at = [float(objective.of(path, steps)) for path in (early, huge, still, 0.1**steps)]
        assert at[0] >= 0.6 * at[2] if isinstance(objective, Time) else at[0] == at[2] == 0
        assert at[1] <= at[2] + 1
        assert at[3] < min(at[:3])
    assert np.nanmean(np.log(early[4:])) < -10  # the control: what is not finite left out
    assert np.isnan(Peak(jf.measures.energy).of(early, steps))
    assert float(Growth(jf.measures.energy).of(jnp.array([2.0, 5.0, 4.0]), steps[:3])) == 2.5


# Derivatives.


def test_gradient_through_a_run_is_that_of_finite_differences():
    """Of both objectives, in the numbers of a schedule and in the scale of a start; forward and backward."""
    given = as_jax(pair((5, 4), 2))
    of_scale = setting(lambda scale: Scaled(given, scale), lambda _: PLAIN(0.3), objective=Time(1e-2))
    cases = [
        (setting(schedule=Piecewise(4, 0.2)), jnp.log(jnp.array([0.3, 0.2, 0.4, 0.25])), given),
        (of_scale, jnp.log(0.5), None),
    ]
    for what, theta, begun in cases:
        assert what.moves_start == (begun is None)

        @jax.jit
        def value(theta, what=what, begun=begun):
            return jf.tuning.iteration.judged(what, theta, NARROW, KEY, begun)[0]

        direction = jnp.ones_like(theta) * jnp.arange(1.0, theta.size + 1).reshape(theta.shape)
        slope = jax.jvp(lambda x: value(x), (theta,), (direction,))[1]
        assert float(jnp.vdot(jax.grad(value)(theta), direction)) == pytest.approx(float(slope), rel=1e-10)
        h = 1e-5
        central = (value(theta + h * direction) - value(theta - h * direction)) / (2 * h)
        assert float(slope) == pytest.approx(float(central), rel=1e-6)


def test_a_cut_run_is_the_same_run_and_remembers_one_window():
    """The derivative is that of a run of 20 steps from a start that is a constant, the first 20 steps'."""
    factors = as_jax(pair((5, 4), 2))
    objective = Time(1e-2)

    def judged(theta, method, begun, num_steps):
        return followed(NARROW, as_method(method(jnp.exp(theta))), begun, objective, num_steps, KEY)[0]

    plain = jf.descend(NARROW, PLAIN(0.3), factors, num_steps=40, every=20, record=lambda p, f: f)
    halved = jf.descend(NARROW, cut(PLAIN(0.3), 20), factors, num_steps=40, every=20, record=lambda p, f: f)
    jax.tree.map(np.testing.assert_array_equal, halved.factors, plain.factors)
    theta = jnp.log(0.3)

    @jax.jit
    def slopes(theta, begun, middle):
        last = lambda step: cut(PLAIN(step), 20)  # noqa: E731
        late = LogDistance(1e-9)  # the end alone
        along = lambda method, x, begun, n: followed(NARROW, as_method(method(jnp.exp(x))), begun, late, n, KEY)[0]  # noqa: E731
        return [
            jax.grad(lambda x: along(last, x, begun, 40))(theta),
            jax.grad(lambda x: along(PLAIN, x, middle, 20))(theta),
            jax.grad(lambda x: along(PLAIN, x, begun, 40))(theta),
        ]

    middle = jax.tree.map(lambda x: x[1], list(plain.records.values())[0])
    cut_off, alone, whole = map(float, slopes(theta, factors, middle))
    assert cut_off == pytest.approx(alone, rel=1e-10)
    assert abs(whole / alone) > 1.5  # the control: what the cut leaves out


def test_what_explodes_counts_for_nothing_and_hurts_nobody():
    """Not a number and 1e30 are left out, the rest is averaged with each at most three medians long."""
    gradients = {"a": jnp.array([1.0, 2.0, 3.0, 100.0, jnp.nan, 1e30])}
    norms = jnp.abs(gradients["a"])
    mean, median = averaged(gradients, norms, norms <= 1e3)
    assert float(median) == 2.5
    assert float(mean["a"]) == pytest.approx((1 + 2 + 3 + 7.5) / 4, rel=1e-15)
    none, _ = averaged(gradients, norms, norms < 0)
    assert float(none["a"]) == 0
    assert np.isnan(jnp.mean(gradients["a"]))  # the control


@pytest.fixture(scope="module")
def beyond():
    """Return one learning step of runs of which some diverge: from large starts, close to the edge."""
    what = setting(jf.starts.Gaussian(2, scale=0.9), schedule=Piecewise(2, 0.55), starts=16)
    keys = keys_of(KEY, 16)
    return what, keys, what.draws(NARROW, keys)


def test_a_run_that_diverges_leaves_the_others_of_its_batch_as_they_are(beyond):
    """Each run's derivative among the 16 is the one that it has alone, and those that diverge are counted."""
    what, keys, begun = beyond
    state = first_state(what, KEY)

    @jax.jit
    @jax.vmap
    def each(key, factors):
        judge = jax.value_and_grad(jf.tuning.iteration.judged, argnums=1, has_aux=True)
        return judge(what, state.parameters, NARROW, key, factors)

    (values, diverged), gradients = each(keys, begun)
    (alone, _), single = each(keys[~np.asarray(diverged)], jax.tree.map(lambda x: x[~np.asarray(diverged)], begun))
    assert 2 <= diverged.sum() <= 12
    np.testing.assert_allclose(single, gradients[~diverged], rtol=1e-9)
    np.testing.assert_allclose(alone, values[~diverged], rtol=1e-9)
    assert np.isfinite(values).all()
    assert not np.isfinite(gradients[diverged]).all()
    assert not np.isfinite(jnp.mean(gradients, axis=0)).all()  # the control
    _, seen = jax.jit(lambda s, k, b: learning_step(what, NARROW, s, k, b))(state, keys, begun)
    assert int(seen.diverged) == diverged.sum()
    assert seen.diverged <= seen.dropped < 16
    assert float(seen.objective) == pytest.approx(float(values.mean()), rel=1e-9)


def test_an_iteration_beyond_the_edge_is_taken_back(beyond):
    """θ goes back to the best so far and the rate is halved; the same step from good runs moves on, compiled once."""
    what, keys, begun = beyond
    step = jax.jit(lambda *args: learning_step(what, NARROW, *args))
    first = first_state(what, KEY)
    met, rate = jnp.full((), -1.0, float), jnp.full((), 0.8, float)
    best = State(first.parameters, first.optimiser, first.parameters, first.parameters - 1, met, rate)
    back, seen = step(best, keys, begun)
    np.testing.assert_array_equal(back.parameters, best.best)
    assert float(back.rate) == pytest.approx(0.4)
    assert float(seen.rate) == pytest.approx(0.8)
    assert float(back.objective) == -1
    small = SMALL_START.draw
    calm = jax.vmap(lambda key: small(key, NARROW))(keys)
    on, seen = step(back, keys, calm)
    assert seen.dropped == 0
    assert float(on.rate) == pytest.approx(0.412)
    assert float(on.objective) == pytest.approx(float(seen.objective))
    np.testing.assert_array_equal(on.best, back.parameters)
    assert not np.array_equal(on.parameters, back.parameters)
    # The best is judged again from other starts; where it fails it moves towards the first and must prove itself anew.
    failed, _ = step(best._replace(first=first.parameters - 1, best=first.parameters), keys, begun)
    np.testing.assert_allclose(failed.best, first.parameters - 0.1, rtol=1e-12)
    np.testing.assert_array_equal(failed.parameters, failed.best)
    assert float(failed.objective) == np.inf
    assert step._cache_size() == 1
    again, _ = step(back, keys, calm)
    jax.tree.map(np.testing.assert_array_equal, again, on)


# Learning.


@pytest.fixture(scope="module")
def learned():
    """Return a schedule learned on κ = 5/3 from small starts, beside two baselines."""
    return jf.tuning.learn(
        NARROW,
        SMALL_START,
        num_steps=40,
        schedule=Piecewise(4, 0.4),
        optimiser=optax.adam(0.1),
        starts=16,
        iterations=40,
        tolerance=1e-6,
        held_out=200,
        baselines={"slow": optax.sgd(0.2)},
        progress=False,
    )


def test_a_learned_schedule_is_faster_than_what_it_began_with(learned):
    """On fresh starts, by intervals that do not touch; all arrive and stay."""
    found = learned.arrivals
    assert list(found) == ["learned", "before", "slow"]
    assert found["learned"].median[2] < 0.8 * found["before"].median[1]
    assert found["before"].median[2] < found["slow"].median[1]
    assert found["learned"].arrived[0] == 1
    assert found["learned"].stayed == 1
    curve = learned.history
    assert curve.sizes == {"iteration": 40}
    assert float(curve.objective.min()) < float(curve.objective[0]) - 3


def test_a_learned_schedule_runs_in_any_optax_optimiser(learned):
    """In a chain of optax as in a sweep: the held-out time of a seed comes back."""
    # The sweep drew it in compressed form.
    problem, run, _ = jf.draw(learned.runs, seed=3, variant="learned")
    chain = optax.chain(optax.identity(), optax.sgd(learned.value))
    steps = int(learned.runs.hit.sel(variant="learned", seed=3, level=1e-6))
    path = jf.descend(problem, chain, run, num_steps=steps, every=1, record="distance").records["distance"]
    assert path[-1] <= 1e-6 < path[-2]
    adam = jf.descend(problem, optax.adam(learned.value), run, num_steps=3)
    assert np.isfinite(adam.factors.U).all()


def test_the_edge_is_the_step_times_half_the_sharpness(learned):
    """At the end of a run the sharpness is σ₁²(U) + σ₁²(V), which is 2σ₁ where it is balanced; so the edge is η."""
    last = learned.edge.isel(step=-1)
    assert learned.edge.sizes == {"start": 8, "step": 40}
    np.testing.assert_allclose(last, float(learned.value(39)), rtol=0.02)
    assert learned.beyond == pytest.approx(float((learned.edge > 1).mean("step").median()))


def test_what_was_found_fits_on_a_screen(learned):
    said = repr(learned)
    assert len(said.splitlines()) <= 12
    assert "before: median" in said
    assert "beyond 2/sharpness" in said
    assert "starts" in learned.note
    page = learned._repr_html_()
    assert page.count("<tr") == 1 + 3 + 1
    assert "<script" not in page


def test_the_best_constant_step_near_the_optimum_is_the_one_of_quadratics():
    """η = 2/(λ_max + λ_min): the Hessian's eigenvalues there are σ_i + σ_j and, along J and K, σ_i: from 2 to 0.6.

    The learned number and the best of a grid are both that step.
    """
    best = 2 / (2 + 0.6)
    told = {"tolerance": 1e-10, "progress": False}
    found = jf.tuning.learn(
        NARROW,
        Near(2),
        schedule=Number(0.5),
        num_steps=24,
        optimiser=optax.adam(optax.exponential_decay(0.05, 20, 0.3)),
        starts=8,
        iterations=60,
        held_out=50,
        **told,
    )
    assert float(found.value) == pytest.approx(best, rel=0.02)
    assert found.edge is None
    assert np.isnan(found.beyond)
    grid = jf.tuning.best_constant(NARROW, Near(2), values=np.linspace(0.5, 0.95, 19), max_steps=200, seeds=50, **told)
    assert grid.value == pytest.approx(best, abs=0.026)
    assert found.arrivals["learned"].median[0] <= 1.1 * float(grid.runs.hit.isel(level=-1).median("seed").min())


def test_the_best_restart_is_kept():
    """With this key that is the second of two; its curve comes with it."""
    what = setting(as_jax(pair((5, 4), 2)), schedule=Free(2, 2, 0.3, spread=0.5))
    train = jf.tuning.learning._trained
    (once, curve), (twice, better) = (train(what, NARROW, jr.key(3), 5, count, False) for count in (1, 2))
    assert float(twice.objective) < float(once.objective)
    assert float(better.objective.min()) == pytest.approx(float(twice.objective))
    assert not np.array_equal(curve.objective, better.objective)


def test_nothing_that_arrives_is_no_best():
    with pytest.raises(ValueError, match=r"^values=1.5 to 1.6: half of the starts arrive .* none of them; raise"):
        jf.tuning.best_constant(
            NARROW, SMALL_START, values=[1.5, 1.6], max_steps=50, seeds=5, tolerance=1e-4, progress=False
        )


# Worst starts.


@pytest.fixture(scope="module")
def worst():
    """Return the start of norm 0.1 from which descent takes longest, beside a thousand random ones."""
    return jf.tuning.worst_start(
        NARROW,
        PLAIN(0.3),
        width=2,
        norm=0.1,
        num_steps=200,
        restarts=4,
        iterations=40,
        record={"signal": lambda problem, factors: jf.measures.ye_du(problem, factors).A_min},
        tolerance=1e-5,
        progress=False,
    )


def test_the_worst_start_is_where_the_signal_is_singular(worst):
    """Runs are slow where σ_min(A₀) is small (Ye & Du 2021). It is found with no word of A, and beats them all."""
    signal = worst.runs.signal_path.isel(step=0)
    found, usual = float(signal.sel(variant="worst")[0]), signal.sel(variant="random").values
    assert found < 0.01 * np.median(usual)
    assert worst.time > 1.2 * worst.random_times.max()
    assert len(worst.random_times) == 1000
    assert worst.value == pytest.approx(worst.time, rel=0.02)  # the smooth time is the time
    assert float(worst.factors.energy) == pytest.approx(0.1**2, rel=1e-12)
    assert float(worst.history[0].max()) < worst.random_times.max()  # the control: where the restarts began


def test_a_worst_start_fits_on_a_screen(worst):
    assert len(repr(worst).splitlines()) <= 8
    assert "at most" in repr(worst)
    assert worst.note == "All derivatives counted, of 4 restarts."
    assert worst._repr_html_().count("<tr") >= 3


def test_the_steepest_start_is_known():
    """In one step of η the energy grows most from the leading singular pair, balanced.

    For the norm ρ it is ρ²(1 + η(1 − ρ²/2))², where ‖U‖² = ‖V‖² = ρ²/2.
    """
    rho = 0.5
    judge = partial(worst_starts._judged, PLAIN(0.3), Peak(jf.measures.energy), 1, rho, KEY)
    raising = optax.with_extra_args_support(worst_starts._raising(60))
    # Where the energy falls at first its peak is that of the start, which is the same all over the sphere.
    begun = [worst_starts._unit(jax.tree.map(jnp.abs, as_jax(pair((5, 4), 1, seed)))) for seed in (1, 2)]
    drawn = jax.tree.map(lambda *xs: jnp.stack(xs), *begun)
    factors, value, _ = worst_starts._climbed(judge, raising, NARROW, drawn, 60, False)
    assert value == pytest.approx(rho**2 * (1 + 0.3 * (1 - rho**2 / 2)) ** 2, rel=1e-3)
    leading = np.array([factors.U[0, 0], factors.V[0, 0]]) * float(worst_starts._scale(factors, rho))
    np.testing.assert_allclose(np.abs(leading), rho / 2**0.5, rtol=0.05)


# Errors.

TOLD = {"num_steps": 10, "progress": False}
REFUSED = [
    (
        lambda: jf.tuning.learn(NARROW, SMALL_START, schedule=0.3, **TOLD),
        "schedule=float: needs a Parametrisation; give",
    ),
    (lambda: jf.tuning.learn(NARROW, SMALL_START, objective="loss", **TOLD), "objective=str: needs an Objective; give"),
    (lambda: jf.tuning.learn(NARROW, SMALL_START, window=20, **TOLD), "window=20: is beyond the run's 10 steps; leave"),
    (lambda: jf.tuning.learn(NARROW, SMALL_START, starts=0, **TOLD), "starts=0: needs a whole number"),
    (lambda: jf.tuning.learn(NARROW, 0.1, **TOLD), "start=float: needs a Start or factors; give"),
    (lambda: jf.tuning.learn(NARROW, pair((4, 5), 2), **TOLD), "factors=U .*swapped"),
    (lambda: jf.tuning.learn(np.eye(3), SMALL_START, **TOLD), "problem=ndarray: needs a Problem"),
    (lambda: jf.tuning.learn(NARROW, SMALL_START), "lacks num_steps"),
    (
        lambda: jf.tuning.worst_start(NARROW, PLAIN(0.3), width=2, norm=0, **TOLD),
        "norm=0: needs a finite number above 0",
    ),
    (
        lambda: jf.tuning.worst_start(NARROW, PLAIN(0.3), width=2, norm=1, quantity=jf.measures.loss, **TOLD),
        "quantity=function: needs an Objective; give",
    ),
    (
        lambda: jf.tuning.worst_start(
            NARROW, PLAIN(9.0), width=2, norm=9.0, quantity=Peak(jf.measures.loss), restarts=1, iterations=1, **TOLD
        ),
        "method=a run: the run is not finite, .* from any restart; lower the step size",
    ),
    (lambda: Piecewise(0), "blocks=0: needs a whole number"),
    (lambda: Number(-1), "initial_value=-1: needs a finite number above 0"),
    (lambda: Free(-1), "first=-1: needs a finite number, 0 or above"),
    (lambda: LogDistance(2), "share=2: needs a number above 0, up to 1"),
    (lambda: Time(0), "level=0: needs a finite number above 0"),
    (lambda: jf.methods.curvature_descent(0), "share=0: needs a finite number above 0"),
    (lambda: jf.starts.Sphere(2, 0), "norm=0: needs a finite number above 0"),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_cannot_be_tuned_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
