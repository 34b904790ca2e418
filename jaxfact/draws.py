"""Random numbers with the bits of `jax.random`, but many times faster on a CPU.

JAX rolls the rounds of its generator into a loop of small kernels there; here they are written out. Every result is
kept, because it would otherwise be computed again in each of the kernels that use it. Keys are threefry keys throughout
(Salmon et al. 2011).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from jaxfact.inputs import problem_with
from jaxfact.products import keep

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@partial(jax.jit, inline=True)
def fold(key: PRNGKeyArray, number: Int[Array, ""] | int) -> PRNGKeyArray:
    """Return `jax.random.fold_in(key, number)`, for a number below 2³²."""
    first, second = _words(key)
    x0, x1 = _threefry(first, second, jnp.zeros((), jnp.uint32), jnp.asarray(number).astype(jnp.uint32))
    return jax.random.wrap_key_data(keep(jnp.stack([x0, x1])), impl="threefry2x32")


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Return `jax.random.normal(key, shape, dtype)`, for fewer than 2³² entries."""
    return keep(_from_uniform(uniform(key, shape, dtype)))


@partial(jax.jit, static_argnums=(1, 2), inline=True)
def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Return `jax.random.uniform(key, shape, dtype)`, in [0, 1)."""
    first, second = _words(key)
    counter = jnp.arange(int(np.prod(shape)), dtype=jnp.uint32).reshape(shape)
    high, low = _threefry(first, second, jnp.zeros(shape, jnp.uint32), counter)
    info = jnp.finfo(dtype)
    double = info.bits == 64
    bits = (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64) if double else high ^ low
    one = np.array(1, dtype).view(bits.dtype)
    return lax.bitcast_convert_type((bits >> (info.bits - info.nmant)) | one, dtype) - 1


@partial(jax.jit, inline=True)
def chi(key: PRNGKeyArray, freedom: Float[Array, "..."]) -> Float[Array, "..."]:
    """Draw chi variables with the given degrees of freedom, which may be traced; 0 where they are 0 or fewer.

    2·Gamma(freedom/2) by rejection (Marsaglia & Tsang 2000), exact for every freedom; a freedom below 2 is raised by 2
    and the draw shrunk by a power of a uniform.
    """
    positive = jnp.where(freedom > 0, freedom, 1)
    small = positive < 2
    gamma = _gamma(_words(key), jnp.where(small, positive + 2, positive).ravel() / 2).reshape(freedom.shape)
    shrink = (1 - uniform(key, freedom.shape, freedom.dtype)) ** (2 / positive)
    return keep(jnp.where(freedom > 0, jnp.sqrt(2 * gamma * jnp.where(small, shrink, 1)), 0))


@jax.custom_batching.custom_vmap
def _gamma(words: UInt[Array, "*batch 2"], shape: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    """Draw gamma variables of shape parameter 1 or above.

    A batch is drawn in one loop: under vmap a loop would be batched with its condition, which checks do not allow.
    """
    d = shape - 1 / 3
    c = 1 / jnp.sqrt(9 * d)
    keys = jnp.reshape(words, (-1, 2))

    def attempt(carry):
        trial, gamma, accepted = carry

        def draw(word):
            key = jax.random.wrap_key_data(word, impl="threefry2x32")
            return uniform(fold(key, trial), (2, shape.shape[-1]), shape.dtype)

        drawn = jax.vmap(draw, out_axes=1)(keys)
        x, accept = _from_uniform(drawn[0]).reshape(shape.shape), drawn[1].reshape(shape.shape)
        v = (1 + c * x) ** 3
        bound = 0.5 * x**2 + d * (1 - v + jnp.log(jnp.where(v > 0, v, 1)))
        fits = (v > 0) & (jnp.log(1 - accept) < bound)
        return trial + 1, jnp.where(accepted, gamma, d * v), accepted | fits

    begin = (jnp.ones((), jnp.int32), jnp.zeros_like(shape), jnp.zeros(shape.shape, bool))
    return lax.while_loop(lambda carry: ~jnp.all(carry[2]), attempt, begin)[1]


@_gamma.def_vmap
def _(size, batched, words, shape):
    words, shape = (
        x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
        for x, is_batched in zip((words, shape), batched, strict=True)
    )
    return _gamma(words, shape), True


@partial(jax.jit, static_argnums=2, inline=True)
def bartlett(key: PRNGKeyArray, freedom: Float[Array, " k"], width: int) -> Float[Array, "k d d"]:
    """Draw the triangles R of freedom×width matrices of standard normals, GᵀG = RᵀR in law (Bartlett 1933).

    R_ii is chi with freedom − i degrees (i = 0, 1, …), with standard normals to its right; a row whose freedom is used
    up is zero. `freedom` may be traced.
    """
    left = freedom[:, None] - jnp.arange(width, dtype=freedom.dtype)
    entries = normal(fold(key, 0), (len(freedom), width, width), freedom.dtype)
    rows = jnp.where(left[..., None] > 0, jnp.triu(entries, 1), 0)
    return rows + jnp.eye(width, dtype=freedom.dtype) * chi(fold(key, 1), left)[..., None]


def _from_uniform(unit: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return standard normals for uniforms in [0, 1), as `jax.random.normal` does."""
    dtype = unit.dtype
    lowest = np.nextafter(np.array(-1, dtype), np.array(0, dtype))
    symmetric = jnp.maximum(lowest, unit * (np.array(1, dtype) - lowest) + lowest)
    return np.array(np.sqrt(2), dtype) * lax.erf_inv(symmetric)  # pyright: ignore[reportReturnType]


def _words(key: PRNGKeyArray) -> Array:
    """Return the two words of a threefry key."""
    words = jax.random.key_data(key)
    if words.shape != (2,):
        instead = "use jax.random.key(seed, impl='threefry2x32')"
        raise problem_with("key", f"of {words.size} words", "needs one threefry key", instead)
    return words


@partial(jax.jit, inline=True)
def _threefry(first: Array, second: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Return the generator's two words for counters (x0, x1) under the key (first, second); 20 rounds."""
    keys = (first, second, first ^ second ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
        x0 = x0 + keys[(group + 1) % 3]
        x1 = x1 + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1
