"""Loops as one function of the processor: the same numbers, and only where XLA has code for what they contain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxfact as jf
from jaxfact.engine import machine
from jaxfact.engine.loops import while_loop
from jaxfact.engine.program import ON_CPU, Program
from jaxfact.sweep.parts import Options, Part

MARKED = "xla_cpu_small_call"


def repeated(once, x, *, whole=True):
    """Return a jitted function that applies `once` seven times, and its text."""

    def function(x, bound, added):
        begun, given = (jnp.zeros((), jnp.int32), x), (bound, added)
        return while_loop(
            lambda carry, given: carry[0] < given[0],
            lambda carry, given: (carry[0] + 1, once(carry[1]) + given[1]),
            begun,
            given,
            whole=whole,
        )[1]

    arguments = x, jnp.asarray(7, jnp.int32), jnp.full_like(x, 0.5)
    lowered = jax.jit(function).lower(*arguments)
    return lowered.compile(ON_CPU)(*arguments), lowered.as_text()


TABLE = jnp.linspace(0, 1, 4)


def mean_square(x, rows):
    """Return a sum over a number of rows of four."""
    return jnp.sum((jnp.linspace(0, 1, rows)[:, None] * x[0]) ** 2) / rows


def inverse(x):
    return jnp.linalg.inv(x @ x.T + jnp.eye(len(x)))


ALLOWED = {
    "elementwise": jnp.sin,
    "a reduction": lambda x: x / (1 + jnp.sum(x**2)),
    "the largest reduction": lambda x: x / (1 + mean_square(x, 1023)),
    "a choice and a loop": lambda x: jax.lax.cond(
        x[0, 0] > 1, jnp.cos, lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x / 2, x), x
    ),
    "a jitted function": jax.jit(jnp.tanh),
    "constants": lambda x: x * np.arange(16.0).reshape(4, 4) + TABLE,
    "random bits": lambda x: (
        x / 2 + jax.random.normal(jax.random.fold_in(jax.random.key(1), x[0, 0].astype(int)), x.shape)
    ),
}
LEFT_OUT = {
    "a matrix product": lambda x: jnp.tanh(x @ x),
    "LAPACK": inverse,
    "a larger reduction": lambda x: x / (1 + mean_square(x, 1024)),
    "sorting": lambda x: jnp.sin(jnp.sort(x)),
    "scattering": lambda x: jnp.sin(x).at[jnp.argmax(x[:, 0])].add(1.0),
    "within a choice": lambda x: jax.lax.cond(x[0, 0] > 1, jnp.tanh, lambda x: jnp.tanh(x @ x), x),
}


@pytest.mark.parametrize(
    ("once", "allowed"), [(f, name in ALLOWED) for name, f in (ALLOWED | LEFT_OUT).items()], ids=[*ALLOWED, *LEFT_OUT]
)
def test_same_numbers_and_marked_only_where_possible(once, allowed):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4)))
    (whole, text), (plain, control) = (repeated(once, x, whole=whole) for whole in (True, False))
    np.testing.assert_allclose(whole, plain, rtol=1e-13)
    assert (MARKED in text) is allowed
    assert MARKED not in control


def test_a_loop_may_read_only_what_it_is_given():
    """XLA would abort the process: the function it makes has room for its arguments alone."""

    def function(x):
        return while_loop(lambda c, _: c < 3, lambda c, _: c + x, jnp.zeros_like(x), (), whole=True)

    with pytest.raises(TypeError, match="reads an array that it is not given"):
        jax.jit(function)(1.0)


def program(problem, method, width=2, **options) -> Program:
    """Return the program of one experiment."""

    def experiment():
        return jf.Run(problem, jf.starts.Gaussian(width, scale=0.1), method)

    usual = {"record": {}, "record_steps": (), "check_every": 10, "base_seed": 0, "checked": False}
    usual |= {"compress": True, "compensated": False, "levels": (1e-3,)}
    part = Part(experiment, 1e-3, Options(max_steps=100, **usual | options), {})
    return part.program(part.engine.way.lanes)


SMALL = jf.Factorization([1.0, 0.5], shape=(5, 4))


@pytest.mark.parametrize(
    "method",
    [jf.methods.gradient_descent(0.1), jf.methods.balanced(0.1, 0.1), jf.methods.scaled_gd(0.1), optax.adam(0.1)],
    ids=["plain", "balanced", "ScaledGD", "Adam"],
)
def test_a_run_is_one_function(method, monkeypatch):
    """Of the loop over looks, with the loop over steps within it; the control checks every step."""
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert program(SMALL, method)._lowered.lowered.as_text().count(MARKED) == 2
    assert MARKED not in program(SMALL, method, checked=True)._lowered.lowered.as_text()


def test_looks_at_wide_runs_are_not(monkeypatch):
    """Sixteen lanes of 24×12 factors are more than the largest reduction of such a function; steps have none."""
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    wide = program(jf.Factorization(np.linspace(1, 0.5, 12), shape=(30, 30)), jf.methods.gradient_descent(0.1), 12)
    assert wide._lowered.lowered.as_text().count(MARKED) == 1
    wide.compile()
