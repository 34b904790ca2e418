"""Written-out random numbers have the bits of `jax.random`."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from jaxfact import draws

KEY = jr.key(3, impl="threefry2x32")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("shape", [(), (5,), (100, 5), (3, 4, 5)])
def test_same_bits(shape, dtype):
    dtype = jnp.dtype(dtype)
    np.testing.assert_array_equal(draws.normal(KEY, shape, dtype), jr.normal(KEY, shape, dtype))
    np.testing.assert_array_equal(draws.uniform(KEY, shape, dtype), jr.uniform(KEY, shape, dtype))
    assert not np.array_equal(draws.normal(draws.fold(KEY, 1), shape, dtype), jr.normal(KEY, shape, dtype))


def test_same_keys():
    for number in (0, 1, 2**31, 2**32 - 1):
        expected = jr.key_data(jr.fold_in(KEY, np.uint32(number)))
        np.testing.assert_array_equal(jr.key_data(draws.fold(KEY, np.uint32(number))), expected)


def test_batches_of_keys():
    keys = jr.split(KEY, 7)
    batch = jax.jit(jax.vmap(lambda key: draws.normal(key, (3,), jnp.dtype("f4"))))(keys)
    np.testing.assert_array_equal(batch, jax.vmap(lambda key: jr.normal(key, (3,), "f4"))(keys))
    alone = [draws.chi(key, jnp.array([2.0, 7.0])) for key in keys]
    np.testing.assert_allclose(jax.vmap(lambda key: draws.chi(key, jnp.array([2.0, 7.0])))(keys), alone, rtol=1e-12)


def test_other_generators_are_refused():
    with pytest.raises(ValueError, match="needs one threefry key; use jax.random.key"):
        draws.fold(jr.key(0, impl="rbg"), 1)
