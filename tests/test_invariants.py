"""The invariants hold on every step of descent, and each notices a step that is broken on purpose."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import METHODS, as_jax, frame, pair

import jaxfact as jf
from jaxfact.measures.invariants import (
    OF_DESCENT,
    OF_EVERY_STEP,
    Step,
    applying_to,
    decaying_blocks,
    descent,
    imbalance_change,
    residual_split,
    rotation,
)

# m, n, rank, width
SIZES = [(2, 2, 1, 1), (3, 2, 2, 5), (10, 10, 2, 2), (12, 9, 3, 3), (9, 12, 5, 3), (60, 40, 8, 8)]
POINTS = 200
ALL = OF_EVERY_STEP + OF_DESCENT


def target(m, n, rank, dtype=np.float64):
    left, right = frame(m, rank, 1), frame(n, rank, 2)
    return jf.Factorization((left @ np.diag(np.linspace(1.0, 0.3, rank)) @ right.T).astype(dtype))


def simultaneous(problem, factors, eta_U, eta_V=None):
    gradient = problem.gradient(factors)
    eta_V = eta_U if eta_V is None else eta_V
    return Step(problem, factors, gradient, jf.Factors(factors.U - eta_U * gradient.U, factors.V - eta_V * gradient.V))


def points(m, n, width, dtype):
    """Return factors whose entry scales run from 1e-4 to 3, and step sizes up to 1."""
    rng = np.random.default_rng(0)
    scales = np.geomspace(1e-4, 3.0, POINTS)[:, None, None]
    U, V = (scales * rng.normal(size=(POINTS, size, width)) for size in (m, n))
    return as_jax((jf.Factors(U, V), rng.uniform(0.01, 1.0, POINTS), rng.uniform(0.01, 1.0, POINTS)), dtype)


# A batch of steps shares its problem.
BATCH = Step(None, 0, 0, 0)


@partial(jax.jit, static_argnums=0)
def ratios(invariant, steps):
    """Return value/bound of every step's defect; above 1 is a violation."""
    defect = jax.vmap(invariant, in_axes=(BATCH,))(steps)
    return defect.value / defect.bound


@jax.jit
def all_ratios(steps):
    return {invariant.__name__: ratios(invariant, steps) for invariant in ALL}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("m", "n", "rank", "width"), SIZES)
def test_imbalance_changes_as_predicted_from_anywhere(m, n, rank, width, dtype, as_users_compile):
    """With one step size and with two, where a part of first order appears."""
    problem = target(m, n, rank, dtype)
    factors, eta_U, eta_V = points(m, n, width, dtype)
    step = jax.vmap(lambda f, a, b: simultaneous(problem, f, a, b), out_axes=BATCH)
    make = jax.jit(step, compiler_options=as_users_compile)
    for second in (eta_U, eta_V):
        steps = make(factors, eta_U, second)
        assert steps.after.U.dtype == dtype
        assert ratios(imbalance_change, steps).max() < 1


def trajectory(problem, method, factors, num_steps):
    """Return the steps of a run, stacked."""
    iterates = jf.descend(
        problem, method, factors, num_steps=num_steps, every=1, record={"at": lambda problem, factors: factors}
    ).records["at"]
    before, after = (jax.tree.map(lambda x, part=part: x[part], iterates) for part in (slice(-1), slice(1, None)))
    return Step(problem, before, jax.vmap(problem.gradient)(before), after)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("m", "n", "rank", "width"), [(10, 10, 2, 2), (10, 8, 3, 12)])
def test_every_step_of_descent_keeps_all_invariants(m, n, rank, width, dtype, as_users_compile):
    """Over-parametrised, far above the stability edge and on the way to infinity."""
    problem = target(m, n, rank, dtype)

    def whole(eta, factors):
        return trajectory(problem, jf.methods.gradient_descent(eta), factors, 30)

    run = jax.jit(whole, compiler_options=as_users_compile)
    bounded = []
    for eta, scale in ((0.05, 1e-3), (0.3, 0.3), (0.8, 0.1), (1.5, 0.5), (3.0, 1.0)):
        steps = run(eta, as_jax(pair((m, n), width, seed=6, scale=scale), dtype))
        # Until the numbers overflow: an energy of 10⁸ is 10¹⁶ in the loss, and more in the bounds.
        finite = np.asarray(steps.after.energy) < 1e8
        bounded.append(bool(finite.all()))
        largest = {name: np.max(np.asarray(ratio)[finite]) for name, ratio in all_ratios(steps).items()}
        assert all(ratio < 1 for ratio in largest.values()), (largest, eta)
    assert bounded[:3] == [True] * 3
    assert not bounded[-1]


# --- steps broken on purpose ---------------------------------------------------------------------------------------


def with_new_U(problem, factors, eta):
    """Alternation: V moves along the gradient at the new U."""
    step = simultaneous(problem, factors, eta)
    late = problem.gradient(jf.Factors(step.after.U, factors.V))
    return step._replace(after=jf.Factors(step.after.U, factors.V - eta * late.V))


def with_regulariser(problem, factors, eta):
    """The balancing term of weight 1/8 with the wrong sign."""
    step = simultaneous(problem, factors, eta)
    D, (U, V) = factors.imbalance, step.after
    return step._replace(after=jf.Factors(U + eta / 2 * factors.U @ D, V - eta / 2 * factors.V @ D))


def without_a_term(problem, factors, eta):
    """The gradient of U without its part U VᵀV."""
    step = simultaneous(problem, factors, eta)
    return step._replace(after=jf.Factors(step.after.U + eta * factors.U @ factors.V.T @ factors.V, step.after.V))


def uphill_in_V(problem, factors, eta):
    return simultaneous(problem, factors, eta, -eta)


def with_J_pushed_out(problem, factors, eta):
    """The rows of U off the target's column space grow by a third."""
    step = simultaneous(problem, factors, eta)
    J = factors.U - problem.left @ (problem.left.T @ factors.U)
    return step._replace(after=jf.Factors(step.after.U + 0.3 * J, step.after.V))


def with_entrywise_gradient(problem, factors, eta):
    """A gradient that knows single entries, which no rotation leaves alone."""
    step = simultaneous(problem, factors, eta)
    return step._replace(gradient=jax.tree.map(lambda g: g + 1e-3 * jnp.sign(g), step.gradient))


def in_a_skewed_basis(problem, factors, eta):
    """Singular vectors that are not orthonormal, so that the blocks are not those of the residual UVᵀ − Σ."""
    step = simultaneous(problem, factors, eta)
    return step._replace(problem=eqx.tree_at(lambda p: p.left, problem, 1.1 * problem.left))


BROKEN = {
    "imbalance: V moves with the new U": (imbalance_change, with_new_U),
    "imbalance: regulariser of the wrong sign": (imbalance_change, with_regulariser),
    "imbalance: gradient without a term": (imbalance_change, without_a_term),
    "descent: V goes uphill": (descent, uphill_in_V),
    "decaying blocks: J pushed outwards": (decaying_blocks, with_J_pushed_out),
    "rotation: entrywise gradient": (rotation, with_entrywise_gradient),
    "residual split: skewed basis": (residual_split, in_a_skewed_basis),
}


@pytest.mark.parametrize(("invariant", "broken"), BROKEN.values(), ids=BROKEN)
def test_a_broken_step_is_noticed(invariant, broken):
    """From every one of 50 random starts, and even by the wide bounds of float32."""
    problem = target(12, 9, 3, np.float32)
    rng = np.random.default_rng(8)
    factors = as_jax(jf.Factors(*(0.2 * rng.normal(size=(50, size, 3)) for size in (12, 9))), jnp.float32)
    proper, wrong = (
        jax.jit(jax.vmap(lambda f, step=step: step(problem, f, 0.05), out_axes=BATCH))
        for step in (simultaneous, broken)
    )
    assert ratios(invariant, proper(factors)).max() < 1
    assert ratios(invariant, wrong(factors)).min() > 1


def test_invariants_stay_silent_outside_their_hypotheses():
    """J may grow above η = 1/(3σ₁), and there is no J to watch where the target's rank is above the width."""
    problem = target(12, 9, 3)
    pushed = with_J_pushed_out(problem, as_jax(pair((12, 9), 3, scale=0.1)), 0.34)
    assert float(decaying_blocks(pushed).value) == 0
    assert float(decaying_blocks(with_J_pushed_out(problem, pushed.before, 0.32)).value) > 0
    assert decaying_blocks(simultaneous(problem, as_jax(pair((12, 9), 2)), 0.1)) is None

    class Other(jf.Problem):
        shape: tuple = (12, 9)
        unit: float = 1.0
        truth: None = None

        def loss(self, factors):
            return jnp.sum(factors.product**4)

        def distance(self, factors):
            return self.loss(factors)

    elsewhere = pushed._replace(problem=Other())
    assert [invariant(elsewhere) for invariant in (descent, residual_split, decaying_blocks)] == [None] * 3
    # The other two are claimed for every problem.
    step = simultaneous(Other(), pushed.before, 0.1)
    for invariant in (imbalance_change, rotation):
        defect = invariant(step)
        assert float(defect.value) < float(defect.bound)


DESCENDING = ["gradient descent", "scheduled", "optax schedule", "by the descent lemma"]


@pytest.mark.parametrize("name", METHODS)
def test_only_simultaneous_descent_has_the_invariants_of_descent(name):
    """Momentum, alternation, the regulariser, noise, kicks and preconditioning move the imbalance otherwise."""
    expected = ALL if name in DESCENDING else OF_EVERY_STEP
    assert applying_to(METHODS[name](0.1)) == expected


WEAK = {
    "a small multiple": (optax.sgd(1e-6), ALL),
    "clipped": (optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)), ALL),
    "weak noise": (jf.methods.perturbed(0.5, 1e-6), OF_EVERY_STEP),
    "weak regulariser": (jf.methods.balanced(0.5, 1e-6), OF_EVERY_STEP),
}


@pytest.mark.parametrize(("method", "expected"), WEAK.values(), ids=WEAK)
def test_size_does_not_decide_what_is_descent(method, expected):
    """A step may be small; what is added to it counts as soon as it exceeds rounding."""
    assert applying_to(method) == expected


def drift(problem, factors, eta_U, eta_V, num_steps=300):
    """Return ‖D_T − D_0‖_F, Σ‖∇f_t‖² and the least of (f_t − f_{t+1})/(η/2·‖∇f_t‖²) over a run."""

    def advance(now, _):
        step = simultaneous(problem, now, eta_U, eta_V)
        squared = step.gradient.energy
        return step.after, (squared, (problem.loss(now) - problem.loss(step.after)) / (eta_U / 2 * squared))

    last, (squares, promise) = jax.lax.scan(advance, factors, length=num_steps)
    return jnp.linalg.norm(last.imbalance - factors.imbalance), jnp.sum(squares), jnp.min(promise)


def test_imbalance_drifts_by_at_most_twice_the_step_times_the_loss():
    """‖D_T − D_0‖ ≤ η²Σ‖∇f‖² ≤ 2ηf₀, the latter where each step lowers f by half its first-order promise."""
    problem, factors = target(12, 9, 3), as_jax(pair((12, 9), 3, seed=2, scale=0.1))
    start = float(problem.loss(factors))
    run = jax.jit(lambda eta_U, eta_V: drift(problem, factors, eta_U, eta_V, 60))
    drifts = []
    for eta in (0.1, 0.2, 0.4):
        moved, squares, promise = map(float, run(eta, eta))
        assert promise >= 1
        assert moved <= eta**2 * squares <= 2 * eta * start
        drifts.append(moved)
    # The drift is of first order in η over a run, of second order per step.
    assert np.polyfit(np.log([0.1, 0.2, 0.4]), np.log(drifts), 1)[0] == pytest.approx(1.0, abs=0.15)
    # Negative control: with two step sizes a part of first order per step appears.
    moved, squares, _ = map(float, run(0.1, 0.05))
    assert moved > 0.1**2 * squares
