"""What the tests of the command line share."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxfact import measures

# Factors that are arrays are data, so that both methods share one compiled program.
EXPERIMENTS = '''"""Experiments of the tests."""

import jax.numpy as jnp

import jaxfact as jf

TARGET = jf.Factorization([1.0, 0.5], shape=(5, 4))


def slowed(factor):
    def experiment(step_size):
        method = jf.methods.gradient_descent(jnp.asarray(step_size) * factor)
        return jf.Run(TARGET, jf.starts.Gaussian(2, scale=0.1), method)

    return experiment


methods = {"plain": slowed(jnp.asarray(1.0)), "slow": slowed(jnp.asarray(0.5))}


def plain(step_size):
    return methods["plain"](step_size)


def fails(step_size):
    return plain({}[step_size])
'''

SWEPT: dict[str, Any] = {
    "max_steps": 200,
    "tolerance": 1e-4,
    "check_every": 5,
    "record": [measures.distance, measures.imbalance],
    "every": 20,
    "step_size": [0.2, 0.5, 5.0],
}
"""What the stored sweep was run with; a step of 5/σ₁, or half of it, is beyond every edge."""

OPTIONS = [
    *("--max-steps", "200", "--tolerance", "1e-4", "--check-every", "5", "--record", "distance,imbalance"),
    *("--every", "20", "--tile-runs", "6", "--axis", "step_size=0.2,0.5,5"),
]
"""The same at the command line."""


class Called(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Called]


def assert_one_line(ended: Called, pattern: str, code: int = 2) -> None:
    """Assert that nothing but one line of error was said, which holds the pattern."""
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("jaxfact: ")
    assert ended.err.count("\n") == 1
    assert "Traceback" not in ended.err
    assert re.search(pattern, ended.err)
