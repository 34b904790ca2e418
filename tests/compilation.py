"""How the tests' programs are compiled: quickly, as thousands of them run once, or as they are for users.

With the quick flags XLA optimises the graph as ever, but for the wrapping of a few single operations, and turns it into
machine code without LLVM's optimisation, in one thread per worker, and by its older emitters where it still has them:
all together in a third of the time.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import pytest
from packaging.version import Version

# An unknown flag aborts the process, and jaxlib 0.11.1 dropped the older emitters together with theirs.
_HAS_OLDER_EMITTERS = Version(version("jaxlib")) < Version("0.11.1")
QUICK = " ".join(
    [
        *(["--xla_cpu_use_fusion_emitters=false"] if _HAS_OLDER_EMITTERS else []),
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)
# What XLA does unasked.
_UNASKED = {
    **({"xla_cpu_use_fusion_emitters": True} if _HAS_OLDER_EMITTERS else {}),
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}


@contextmanager
def as_for_users() -> Iterator[dict]:
    """Compile sweeps, and all that child processes compile, as for users; the value is for `jax.jit`."""
    from jaxfact.engine import program  # Only now, as the flags are set before JAX is loaded.

    with pytest.MonkeyPatch.context() as patch:
        # Blank flags would be the name of a file.
        if flags := os.environ["XLA_FLAGS"].replace(QUICK, "").strip():
            patch.setenv("XLA_FLAGS", flags)
        else:
            patch.delenv("XLA_FLAGS")
        patch.setattr(program, "ON_CPU", _UNASKED | program.ON_CPU)
        # A program compiled already would be taken whatever the options.
        program._compiled.cache_clear()
        yield _UNASKED
        program._compiled.cache_clear()
