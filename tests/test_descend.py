"""One run: what it does, what it records, and its derivatives."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from cases import PROBLEMS, as_jax, pair

import jaxfact as jf

PROBLEM = PROBLEMS["dense, wide"]
KEY = jr.key(2)
ETA = 0.2


@pytest.fixture(scope="module")
def problem():
    return PROBLEM.build()


@pytest.fixture(scope="module")
def start():
    return as_jax(pair((4, 6), 2))


def path(problem, factors, num_steps, noise=0.0, key=KEY):
    """Return all iterates of descent in NumPy; the noise of step t comes from fold_in(key, t), a key per factor."""
    U, V = map(np.asarray, factors)
    matrix, iterates = PROBLEM.scaled_matrix, [(U, V)]
    for t in range(num_steps):
        R = matrix - U @ V.T
        kicks = [jr.normal(k, x.shape) for k, x in zip(jr.split(jr.fold_in(key, t)), (U, V), strict=True)]
        U, V = U + ETA * R @ V + noise * kicks[0], V + ETA * R.T @ U + noise * kicks[1]
        iterates.append((np.asarray(U), np.asarray(V)))
    return iterates


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_descend_is_the_loop(problem, start, noise):
    method = jf.methods.perturbed(ETA, noise) if noise else jf.methods.gradient_descent(ETA)
    run = jf.descend(problem, method, start, num_steps=9, key=KEY)
    for actual, expected in zip(run.factors, path(problem, start, 9, noise)[-1], strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    assert run.records == {}
    assert run.steps.size == 0


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, range(11)), (4, [0, 4, 8]), ([0], [0]), ([7, 3, 3], [3, 7]), ([10], [10]), (jf.log_steps(10, 2), None)],
)
def test_records_are_taken_at_their_steps(problem, start, every, steps):
    run = jf.descend(problem, jf.methods.gradient_descent(ETA), start, num_steps=10, every=every)
    iterates = path(problem, start, 10)
    steps = list(every if steps is None else steps)
    assert run.steps.tolist() == steps
    at = [as_jax(jf.Factors(*iterates[t])) for t in steps]
    expected = {
        "loss": [problem.loss(f) for f in at],
        "distance": [problem.distance(f) for f in at],
        "imbalance": [jnp.linalg.norm(f.imbalance) for f in at],
    }
    assert set(run.records) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(run.records[name], values, rtol=1e-12)
    np.testing.assert_allclose(run.factors.U, iterates[10][0], rtol=1e-12)


def test_records_may_be_named_and_structured(problem, start):
    record = {"where": lambda problem, factors: factors, "signal": jf.measures.ye_du}
    run = jf.descend(problem, jf.methods.gradient_descent(ETA), start, num_steps=3, every=1, record=record)
    iterates = path(problem, start, 3)
    np.testing.assert_allclose(run.records["where"].V, np.stack([V for _, V in iterates]), rtol=1e-12)
    assert run.records["signal"].J.shape == (4,)
    expected = jf.measures.ye_du(problem, as_jax(jf.Factors(*iterates[2])))
    np.testing.assert_allclose([x[2] for x in run.records["signal"]], expected, rtol=1e-12)


def test_state_is_handed_on(problem, start):
    """After two steps the momentum is g₁ + ½g₀."""
    method = optax.sgd(ETA, momentum=0.5)
    whole = jf.descend(problem, method, start, num_steps=2)
    first = jf.descend(problem, method, start, num_steps=1)
    gradients = problem.gradient(start), problem.gradient(first.factors)
    trace = jax.tree.leaves(whole.state)
    np.testing.assert_allclose(trace[0], gradients[1].U + 0.5 * gradients[0].U, rtol=1e-12)


def final_loss(problem, step_size, factors, num_steps=12):
    return problem.loss(
        jf.descend(problem, jf.methods.gradient_descent(step_size), factors, num_steps=num_steps).factors
    )


def test_derivatives_by_finite_differences(problem, start):
    along = as_jax(pair((4, 6), 2, seed=9))
    value = jax.jit(lambda eta, shift: final_loss(problem, eta, jax.tree.map(lambda x, z: x + shift * z, start, along)))
    gradient = jax.jit(jax.grad(value, (0, 1)))(ETA, 0.0)
    h = 1e-5
    differences = [(value(ETA + h, 0.0) - value(ETA - h, 0.0)) / (2 * h), (value(ETA, h) - value(ETA, -h)) / (2 * h)]
    np.testing.assert_allclose(gradient, differences, rtol=1e-7)


@pytest.mark.parametrize("every", [None, 5])
def test_forward_and_reverse_mode_agree(problem, start, every):
    """⟨w, Jv⟩ = ⟨Jᵀw, v⟩ for the whole run, records and all."""

    def outcome(step_size, factors):
        run = jf.descend(problem, jf.methods.balanced(step_size, 0.1), factors, num_steps=12, every=every)
        return run.factors, run.records

    point, direction = (ETA, start), (1.0, as_jax(pair((4, 6), 2, seed=4)))
    result, pushed = jax.jit(lambda p, d: jax.jvp(outcome, p, d))(point, direction)
    weights = jax.tree.map(jnp.cos, result)
    pulled = jax.jit(lambda p, w: jax.vjp(outcome, *p)[1](w))(point, weights)

    def inner(left, right):
        return sum(float(np.sum(a * b)) for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True))

    assert inner(weights, pushed) == pytest.approx(inner(pulled, direction), rel=1e-12)
    assert abs(inner(weights, pushed)) > 1e-3


def test_records_are_the_same_batched_and_compiled(problem, start):
    """One program for a batch of step sizes, keys and starts."""
    etas, keys = jnp.array([0.1, ETA]), jr.split(KEY)
    starts = jax.tree.map(lambda x: jnp.stack([2 * x, x]), start)

    def run(eta, factors, key):
        return jf.descend(problem, jf.methods.perturbed(eta, 0.01), factors, num_steps=6, every=2, key=key)

    batch = jax.jit(jax.vmap(run))(etas, starts, keys)
    single = run(ETA, start, keys[1])
    assert batch.steps.tolist() == [[0, 2, 4, 6]] * 2
    np.testing.assert_allclose(batch.records["loss"][1], single.records["loss"], rtol=1e-11)
    np.testing.assert_allclose(batch.factors.U[1], single.factors.U, rtol=1e-11)
    assert np.any(batch.factors.U[0] != batch.factors.U[1])


@pytest.mark.parametrize("per_octave", [1, 3, 8])
@pytest.mark.parametrize(("num_steps", "unit"), [(1, 1), (100, 1), (4000, 10), (999, 7), (5, 10)])
def test_log_steps_are_even_within_octaves(num_steps, per_octave, unit):
    steps = np.array(jf.log_steps(num_steps, per_octave, unit))
    assert steps[0] == 0
    assert steps[-1] <= num_steps
    assert np.all(steps % unit == 0)
    gaps = np.diff(steps) // unit
    assert np.all(np.diff(gaps) >= 0)
    assert np.all(gaps & (gaps - 1) == 0)
    # Relative spacing stays between 1/(2·per_octave) and 1/per_octave once it has left single steps.
    spaced = steps[:-1][gaps > 1] // unit
    assert np.all((spaced >= per_octave * gaps[gaps > 1]) & (spaced < 2 * per_octave * gaps[gaps > 1]))
    # Nothing is left out at the end but less than a gap.
    assert num_steps - steps[-1] < unit * max(2 * (gaps[-1] if gaps.size else 1), 1)


REFUSED = [
    ({"num_steps": 0}, r"^num_steps=0: needs a whole number, 1 or above; .+\.$"),
    ({"num_steps": 2.5}, r"^num_steps=2.5: needs a whole number, 1 or above; .+\.$"),
    ({"every": 0}, r"^every=0: needs a whole number, 1 or above; .+\.$"),
    ({"every": [0, 11]}, r"^every=\[11\]: needs whole numbers of steps from 0 to 10; give every=jf.log_steps\(10\)\.$"),
    ({"every": [-1]}, r"^every=\[-1\]: needs whole numbers of steps from 0 to 10; .+\.$"),
    ({"every": []}, r"^every=\[\]: needs whole numbers of steps from 0 to 10; .+\.$"),
    ({"every": 11}, r"^every=11: is beyond the last step, 10, .+; lower it, or leave it out to record the end\.$"),
    ({"every": 2.5}, r"^every=2.5: needs a whole number, 1 or above; .+\.$"),
    ({"every": "10"}, r"^every='10': needs a whole number or a list of steps; .+\.$"),
    ({"every": [0, 2.5]}, r"^every=\[2.5\]: needs whole numbers of steps from 0 to 10; .+\.$"),
    ({"step": 3}, r"^descend\(…, num_steps=10, step=3\): has no argument step; .+\.$"),
    ({"key": 0}, r"^key=int\d+ of shape \(\): needs one threefry key; use jax.random.key\(.*\)\."),
    ({"every": 1, "record": [jf.measures.loss] * 2}, r"^record=\['loss'\]: needs distinct names; give a mapping .+\.$"),
    (
        {"every": 1, "record": {"loss": 3}},
        r"^record=loss: needs names of measures, or functions.+; see jaxfact.measures\.$",
    ),
]


@pytest.mark.parametrize(("keywords", "message"), REFUSED)
def test_runs_that_cannot_work_are_refused(problem, start, keywords, message):
    with pytest.raises(ValueError, match=message):
        jf.descend(problem, jf.methods.gradient_descent(ETA), start, **({"num_steps": 10} | keywords))


@pytest.mark.parametrize(
    "keywords", [{"num_steps": 0}, {"num_steps": 10, "unit": 0}, {"num_steps": 9, "per_octave": 0}]
)
def test_log_steps_refuses_empty_counts(keywords):
    with pytest.raises(ValueError, match=r"=0: needs a whole number, 1 or above; give a count\.$"):
        jf.log_steps(**keywords)
