"""Double precision, and quick compilation except where a claim is about last bits, rounding or machine code.

With `XLA_FLAGS=` in the environment, empty, everything is compiled as it is for users.
"""

import os

from compilation import QUICK, as_for_users

# Before JAX is loaded; processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", QUICK)

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def as_users_compile():
    with as_for_users() as options:
        yield options
