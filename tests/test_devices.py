"""Cores: chosen before the first computation, or refused."""

import subprocess
import sys

import jax
import pytest

import jaxfact as jf

SCRIPT = """
import jaxfact as jf, os, sys
jf.use_cores(int(sys.argv[1]))
import jax
assert jax.local_device_count() == int(sys.argv[1])
assert "small_while_loop" in os.environ["XLA_FLAGS"]
assert "--xla_cpu_enable_fast_math=false" in os.environ["XLA_FLAGS"]
"""


def test_use_cores_before_the_first_computation(monkeypatch):
    """As many devices as asked for; flags that are there already are kept."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    subprocess.run([sys.executable, "-c", SCRIPT, "3"], check=True)


def test_too_late(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    jf.use_cores(jax.local_device_count())
    with pytest.raises(ValueError, match="already chosen its devices; call use_cores first"):
        jf.use_cores(jax.local_device_count() + 1)


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_no_cores(count):
    with pytest.raises(ValueError, match=r"count=.*needs a whole number"):
        jf.use_cores(count)
