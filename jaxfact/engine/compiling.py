"""A lowered program becomes an executable: compiled here, or by an earlier process."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import jax
from jax.experimental import serialize_executable

from jaxfact.engine import cache

# The settings of JAX that change what is compiled, beside those that the program's digest tells.
_SETTINGS = (
    "jax_compiler_enable_remat_pass",
    "jax_disable_most_optimizations",
    "jax_exec_time_optimization_effort",
    "jax_memory_fitting_effort",
    "jax_optimization_level",
    "jax_xla_profile_version",
)


_QUIET = (0, 10, 2)  # older versions print an error for code of this very processor, as if it were of another


def compiled(
    lowered: jax.stages.Lowered, digest: str, device: Any, options: Mapping[str, Any] | None
) -> jax.stages.Compiled:
    """Compile a program of such a digest for a device, unless the cache of compiled code has it.

    JAX does all on a GPU, where its user has set it to keep what it compiles, or not to, and where it is old.
    """
    options = None if options is None else dict(options)
    if device.platform != "cpu" or jax.__version_info__ < _QUIET or _is_kept_by_jax():
        return lowered.compile(options)
    key = _key(lowered, digest, device, options)
    if (held := cache.get(key)) is not None and (loaded := _loaded(held, lowered, device)) is not None:
        return loaded
    made = lowered.compile(options)
    # Some executables cannot be written down, which each version of JAX says in its own way.
    with suppress(Exception):
        cache.put(key, serialize_executable.serialize(made)[0])
    return made


def _loaded(held: bytes, lowered: jax.stages.Lowered, device: Any) -> jax.stages.Compiled | None:
    """Return an executable from its bytes, or None where this JAX cannot read them, whatever it says."""
    trees = lowered.in_tree, lowered.out_tree
    with suppress(Exception):
        return serialize_executable.deserialize_and_load(
            held, *trees, backend=device.client, execution_devices=[device]
        )
    return None


def _is_kept_by_jax() -> bool:
    return bool(_setting("jax_compilation_cache_dir")) or not _setting("jax_enable_compilation_cache")


def _setting(name: str) -> Any:
    return getattr(jax.config, name, None)


def _key(lowered: jax.stages.Lowered, digest: str, device: Any, options: Mapping[str, Any] | None) -> str:
    """Return all that an executable depends on, but for the processor."""
    parts = [
        (jax.__version__, version("jaxlib"), device.client.platform_version, sys.version),
        (device.platform, device.device_kind, device.id),
        sorted(os.environ.get("XLA_FLAGS", "").split()),
        [(name, _setting(name)) for name in _SETTINGS],
        sorted((options or {}).items()),
        (lowered.in_tree, lowered.in_avals, lowered.out_tree),
    ]
    return "\n".join([*map(str, parts), digest])
