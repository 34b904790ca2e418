"""Double precision and two CPU devices for the whole session; float32 tests pass float32 arrays."""

import jax

jax.config.update("jax_enable_x64", True)
