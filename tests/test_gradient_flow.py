"""Integrated flow: against closed forms and identities, as the limit of descent, perturbed, and where it gives up."""

import sys

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import KEY, TRUTH, as_jax
from test_flow import lambda_balanced

import jaxfact as jf

TIMES = np.array([0.0, 1.5, 20.0])
TRUE = TRUTH.build()
# Noisy measurements; a perturbation has their 𝒜*(noise) too.
SENSED = jf.Sensing.of(TRUE, jf.operators.gaussian(KEY, TRUE.rows, 30), noise=0.1, key=KEY)
# The same flow by two ways: of the problem, and of the matrix that it looks for.
PAIRS = {"two factors": (SENSED, TRUE), "one factor": (jf.Tied(SENSED), jf.Tied(TRUE))}


def start_of(problem, scale=0.3):
    return jf.starts.Gaussian(2, scale=scale).draw(KEY, problem)


def off(flow, other):
    """Return the largest difference between the products, at each time."""
    return np.abs(np.asarray(flow.product - other.product)).max(axis=(-2, -1))


@pytest.mark.parametrize("balance", [0.0, 0.6, -1.0])
def test_balanced_starts_flow_as_in_closed_form(balance):
    start = as_jax(lambda_balanced(TRUE.shape, 2, balance))
    exact = jf.flow.balanced_flow(TRUE, start, TIMES)
    flow = jf.flow.gradient_flow(TRUE, start, TIMES)
    assert off(flow, exact).max() < 1e-9
    np.testing.assert_array_equal(flow.U[0], start.U)
    np.testing.assert_allclose(flow.imbalance, np.stack([balance * np.eye(2)] * 3), atol=1e-9)
    assert off(jf.flow.gradient_flow(TRUE, start, TIMES, rtol=1e-4), exact).max() > 1e-7


def test_a_tiny_start_leaves_the_saddle_in_time():
    """At 2·ln(1/10⁻⁹) of each mode's own time; an absolute error that is small beside 1, not beside 10⁻⁹, is late."""
    start = jf.starts.Balanced(2, 1e-9).draw(KEY, TRUE)
    times = 20.7 * np.array([0.9, 1.0, 2.0])
    exact = jf.flow.balanced_flow(TRUE, start, times)
    assert off(jf.flow.gradient_flow(TRUE, start, times), exact).max() < 1e-8
    assert off(jf.flow.gradient_flow(TRUE, start, times, atol=1e-9), exact).max() > 1e-6


@pytest.mark.parametrize("name", PAIRS)
def test_the_sensing_perturbation_is_what_measurements_change(name):
    """Wind's flow of the fully observed problem with E = (I − 𝒜*𝒜)(UVᵀ − Σ) + 𝒜*(noise) is the flow of sensing."""
    problem, truth = PAIRS[name]
    start, perturbation = start_of(problem), jf.flow.sensing_perturbation(SENSED)
    flow = jf.flow.gradient_flow(problem, start, TIMES)
    perturbed = jf.flow.gradient_flow(truth, start, TIMES, perturbation=perturbation)
    assert off(flow, perturbed).max() < 1e-10
    assert off(flow, jf.flow.gradient_flow(truth, start, TIMES))[1:].min() > 1e-2
    # At the truth only the noise is left, as the operator's adjoint has it.
    optimum = TRUE.truncation(2)
    noise = SENSED.observations - SENSED.operator.measure(optimum)
    np.testing.assert_allclose(perturbation(0.0, optimum), SENSED.operator.adjoint(noise), atol=1e-14)


def test_a_perturbation_may_depend_on_time():
    """With E = cos(t)·(Σ − UVᵀ) the flow is 1 + cos t times as fast: at t it is where the other is at t + sin t."""
    start = start_of(TRUE)

    def hastening(time, factors):
        return jnp.cos(time) * (TRUE.target - factors.product)

    hastened = jf.flow.gradient_flow(TRUE, start, TIMES, perturbation=hastening)
    assert off(hastened, jf.flow.gradient_flow(TRUE, start, TIMES + np.sin(TIMES))).max() < 1e-9
    assert off(hastened, jf.flow.gradient_flow(TRUE, start, TIMES))[1] > 1e-2


@pytest.mark.parametrize("name", PAIRS)
def test_descent_approaches_the_flow_at_first_order(name):
    """And not that of the matrix, which is another limit."""
    problem, truth = PAIRS[name]
    start, counts = start_of(problem), np.array([100, 400])
    flow, wrong = (jf.flow.gradient_flow(p, start, TIMES) for p in (problem, truth))
    ends = [
        jf.descend(problem, jf.methods.gradient_descent(TIMES[1] / count), start, num_steps=int(count)).factors
        for count in counts
    ]
    errors, others = ([np.linalg.norm(end.product - limit.product[1]) for end in ends] for limit in (flow, wrong))
    slope, flat = (np.log(of[0] / of[1]) / np.log(4) for of in (errors, others))
    assert slope == pytest.approx(1, abs=0.02)
    assert abs(flat) < 0.1


def test_many_starts_are_one_program():
    """Each lane is its own flow, whatever the others do; one that gives up is NaN from there on."""
    starts = jax.tree.map(lambda *xs: jnp.stack(xs), *(start_of(TRUE, scale) for scale in (0.3, 1e-3, 1.0)))
    flows = jax.vmap(lambda start: jf.flow.gradient_flow(TRUE, start, TIMES, max_steps=90))(starts)
    assert flows.U.shape == (3, 3, 6, 2)
    known = np.isfinite(flows.U).all(axis=(-2, -1))
    np.testing.assert_array_equal(known, [[True, True, True], [True, True, True], [True, True, False]])
    for lane in range(3):
        alone = jf.flow.gradient_flow(TRUE, jax.tree.map(lambda x, lane=lane: x[lane], starts), TIMES)
        together = jax.tree.map(lambda x, lane=lane: x[lane], flows)
        assert off(together, alone)[known[lane]].max() < 1e-9


def test_derivatives_are_those_of_the_flow():
    """f falls by ‖∇f‖² per unit of time, and moving the start along its own velocity is the same as waiting."""
    start = start_of(TRUE)

    def loss(factors, time):
        return TRUE.loss(jf.flow.gradient_flow(TRUE, factors, time))

    by_start, by_time = jax.jit(jax.grad(loss, argnums=(0, 1)))(start, 1.5)
    falls = -float(TRUE.gradient(jax.tree.map(lambda x: x[1], jf.flow.gradient_flow(TRUE, start, TIMES))).energy)
    assert float(by_time) == pytest.approx(falls, rel=1e-8)
    along = sum(float(jnp.sum(g * -v)) for g, v in zip(by_start, TRUE.gradient(start), strict=True))
    assert along == pytest.approx(falls, rel=1e-8)
    assert abs(sum(float(jnp.sum(g * x)) for g, x in zip(by_start, start, strict=True)) / falls - 1) > 0.1


def test_another_solver_of_diffrax():
    """Of another order: the same flow, by other steps."""
    start = start_of(TRUE)
    flow, other = (jf.flow.gradient_flow(TRUE, start, TIMES, solver=solver) for solver in (None, diffrax.Tsit5()))
    assert 0 < off(flow, other).max() < 1e-9


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"max_steps": 20},
            r"max_steps=20: the solver gave up between times 1\.5 and 20; raise it, ask for .+Kvaerno5",
        ),
        (
            {"perturbation": lambda time, factors: jnp.full((6, 6), jnp.where(time < 1, 0, jnp.nan))},
            r"perturbation=.+: the velocity is not finite between times 0 and 1\.5; ",
        ),
        ({"perturbation": lambda *_: jnp.zeros((2, 2))}, r"perturbation=.+ returns \(2, 2\): needs one .+\(6, 6\); "),
        ({"times": [2.0, 1.0]}, r"times=\[2\.0, 1\.0\]: needs a number, or numbers in increasing order; sort them\.$"),
        ({"times": [0.0, np.inf]}, r"times=\[0\.0, inf\]: needs finite numbers, 0 or above; "),
        ({"rtol": 0}, r"rtol=0: needs a finite number above 0; "),
        (
            {"factors": as_jax(TRUE.truncation(2), np.float32)},
            r"problem=numbers of float32.*: a flow needs float64; build it from ",
        ),
    ],
)
def test_what_cannot_be_integrated_is_said(options, said):
    given = {"problem": TRUE, "factors": start_of(TRUE), "times": TIMES} | options
    with pytest.raises(ValueError, match=f"^{said}"):
        jf.flow.gradient_flow(**given)


def test_a_perturbation_needs_a_truth_and_something_unseen():
    with pytest.raises(ValueError, match=r"^problem=Factorization: needs a problem seen in part; give a jaxfact.Sens"):
        jf.flow.sensing_perturbation(TRUE)
    with pytest.raises(ValueError, match=r"^problem=Sensing: its truth is not known; "):
        jf.flow.sensing_perturbation(jf.Sensing(SENSED.operator, SENSED.observations))


def test_without_diffrax(monkeypatch):
    """The rest of the room goes on."""
    monkeypatch.setitem(sys.modules, "diffrax", None)
    said = r"^gradient_flow=.+: needs the package diffrax; pip install 'jaxfact\[flow\]' installs it; "
    with pytest.raises(ValueError, match=said):
        jf.flow.gradient_flow(TRUE, start_of(TRUE), TIMES)
    assert jf.flow.balanced_flow(TRUE, as_jax(lambda_balanced(TRUE.shape, 2, 0.0)), 1.0).U.shape == (6, 2)
