"""Unrolled random numbers are those of the library's generator, and their normals are exact."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import special

from jaxfact.numerics import draws

KEY = jr.key(3, impl="threefry2x32")


def expected_uniform(key, shape, dtype):
    """Both words of every counter are used: in float32 each makes a number, in float64 they make one together."""
    count = int(np.prod(shape))
    words = np.asarray(jr.bits(key, (count,), "uint64"))
    if dtype == np.float64:
        bits = (words >> np.uint64(12)) | np.float64(1).view("u8")
    else:
        half = words[: (count + 1) // 2]
        bits = np.concatenate([half >> np.uint64(32), half & np.uint64(2**32 - 1)])[:count].astype("u4")
        bits = (bits >> np.uint32(9)) | np.float32(1).view("u4")
    return (bits.view(dtype) - dtype.type(1)).reshape(shape)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (5,), (100, 5), (3, 4, 5)])
def test_bits_are_those_of_the_library(shape, dtype, as_users_compile):
    dtype = np.dtype(dtype)
    found = draws.uniform(KEY, shape, dtype)
    np.testing.assert_array_equal(found, expected_uniform(KEY, shape, dtype))
    assert not np.array_equal(draws.uniform(draws.fold(KEY, 1), shape, dtype), found)
    if dtype == np.float64:
        ours, theirs = (
            jax.jit(lambda key, normal=normal: normal(key, shape, dtype), compiler_options=as_users_compile)(KEY)
            for normal in (draws.normal, jr.normal)
        )
        # The library's erf⁻¹ is one operation, ours is written out.
        np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-14)


def test_normals_are_the_quantiles_of_the_uniforms():
    unit = np.asarray(draws.uniform(KEY, (200_000,), jnp.dtype("f4")))
    lowest = np.nextafter(np.float32(-1), np.float32(0))
    expected = np.sqrt(2) * special.erfinv((2 * unit + lowest).astype(float))
    found = np.asarray(draws.normal(KEY, (200_000,), jnp.dtype("f4")))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-7)
    assert np.abs(found).max() > 4


def test_same_keys():
    for number in (0, 1, 2**31, 2**32 - 1):
        expected = jr.key_data(jr.fold_in(KEY, np.uint32(number)))
        np.testing.assert_array_equal(jr.key_data(draws.fold(KEY, np.uint32(number))), expected)


def test_keys_are_threefry_whatever_the_default_is():
    with jax.default_prng_impl("rbg"):
        found = draws.key_of(3)
        assert jr.key(3).dtype != found.dtype
    np.testing.assert_array_equal(jr.key_data(found), jr.key_data(KEY))
    assert draws.key_from(jr.key_data(KEY)).dtype == KEY.dtype == found.dtype


def test_batches_of_keys():
    keys = jr.split(KEY, 7)
    batch = jax.jit(jax.vmap(lambda key: draws.uniform(key, (3,), jnp.dtype("f4"))))(keys)
    np.testing.assert_array_equal(batch, [expected_uniform(key, (3,), np.dtype("f4")) for key in keys])
    alone = [draws.chi(key, jnp.array([2.0, 7.0])) for key in keys]
    np.testing.assert_allclose(jax.vmap(lambda key: draws.chi(key, jnp.array([2.0, 7.0])))(keys), alone, rtol=1e-12)


def test_other_generators_are_refused():
    with pytest.raises(ValueError, match="needs one threefry key; use jax.random.key"):
        draws.fold(jr.key(0, impl="rbg"), 1)
