"""Double precision, and quick compilation: the session compiles thousands of small programs and runs most of them once.

With these settings XLA optimises the graph as ever, but for the wrapping of a few single operations, and turns it into
machine code by its older emitters and without LLVM's optimisation, in a third of the time and in one thread a worker.
What is claimed of last bits, rounding or machine code asks for `as_users_compile`. With `XLA_FLAGS=" "` in the
environment everything is compiled so.
"""

import os

# Before JAX is loaded; processes that tests start inherit it.
QUICK = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", QUICK)

import jax
import pytest

from jaxfact import tiles

# What XLA does unasked.
USERS = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3}

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def as_users_compile(monkeypatch):
    """Compile sweeps, and all that child processes compile, with XLA's own settings; the value is for `jax.jit`."""
    monkeypatch.setenv("XLA_FLAGS", os.environ["XLA_FLAGS"].replace(QUICK, " "))
    monkeypatch.setattr(tiles, "ON_CPU", tiles.ON_CPU | USERS)
    # A program compiled already would be taken whatever the options.
    tiles._compiled.cache_clear()
    yield USERS
    tiles._compiled.cache_clear()
