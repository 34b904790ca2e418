"""Random numbers from the generator of `jax.random`, threefry (Salmon et al. 2011), many times faster on a CPU.

There JAX rolls the rounds of its generator into a loop of small kernels, and drops half of each result; here the rounds
are unrolled and both words are used. Normals are kept, because otherwise every kernel that uses them would compute them
again.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from jaxfact.inputs import problem_with
from jaxfact.numerics.products import keep

# fmt: off
_CENTRAL = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 2.1858087e-04, -1.25372503e-03,
            -4.17768164e-03, 2.46640727e-01, 1.50140941)
_TAIL = (-2.00214257e-04, 1.00950558e-04, 1.34934322e-03, -3.67342844e-03, 5.73950773e-03, -7.6224613e-03,
         9.43887047e-03, 1.00167406, 2.83297682)
# In double precision erf⁻¹(x)/x, by w below 6.25, by √w below 16 and above: interpolated at Chebyshev points.
_DOUBLE = (
    (
        -3.5932028927020693e-22, 3.194015548136271e-21, 1.999259988861535e-20, -3.4734793888538036e-19,
        6.075050702072414e-19, 1.5510787009902526e-17, -1.2215637192404172e-16, -3.94018812230432e-17,
        6.521333511502239e-15, -4.0020031087558496e-14, -8.07192593899004e-14, 2.6305268312595183e-12,
        -1.2978805369932565e-11, -5.414303283919504e-11, 1.051223377050429e-09, -4.1126604371632185e-09,
        -2.907039127564132e-08, 4.23478816822246e-07, -1.3654691758785656e-06, -1.3882523393957483e-05,
        0.00018673420801981186, -0.0007407025341546431, -0.006033670871426851, 0.24015818242558834, 1.6536545626831027,
    ),
    (
        -3.831039946072411e-10, 9.071950571029922e-08, -2.6860975725571463e-07, 1.832399988132858e-08,
        1.4958263152984917e-06, -4.013946398190292e-06, 2.9273722115986924e-06, 1.2475343474376931e-05,
        -4.731952918337189e-05, 6.828484052292924e-05, 2.4031363245440546e-05, -0.00035503751863069763,
        0.0009532893521118177, -0.0016882755561681802, 0.0024914420976198813, -0.0037512085075638536,
        0.0053709145535581985, 1.0052589676941592, 3.0838856104922208,
    ),
    (
        2.7520836691204922e-11, -2.2467591693364952e-11, -3.7171553416167463e-10, 1.4895546197648137e-09,
        -3.5875995609819953e-09, 7.644335983557396e-09, -1.5146221782627176e-08, 2.9124399186491765e-08,
        -6.761414811460412e-08, 2.2901554497563463e-07, -9.930119183482954e-07, 4.5260599477720725e-06,
        -1.968177348376382e-05, 7.599527735160192e-05, -0.00021503011962944126, -0.00013871931835112341,
        1.0103004648645413, 4.849906401408584,
    ),
)
# fmt: on
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))

_GENERATOR = "threefry2x32"


def key_of(seed: Int[Array, ""] | int) -> PRNGKeyArray:
    """Return the key of a seed number; always threefry, whatever JAX's default generator is."""
    if isinstance(seed, int) and 0 <= seed < 2**32:  # the same words, and nothing to compile
        return key_from(np.array([0, seed], np.uint32))  # pyright: ignore[reportArgumentType]
    return jax.random.key(seed, impl=_GENERATOR)


def key_from(words: UInt[Array, "*batch 2"]) -> PRNGKeyArray:
    """Return the key made of two words, those of `jax.random.key_data`."""
    return jax.random.wrap_key_data(words, impl=_GENERATOR)


def fold(key: PRNGKeyArray, number: Int[Array, ""] | int) -> PRNGKeyArray:
    """Return `jax.random.fold_in(key, number)`, for a number below 2³²."""
    # One type of number, so that one program is traced.
    return _folded(key, np.uint32(number) if isinstance(number, int) else number.astype(np.uint32))


@jax.jit
def _folded(key: PRNGKeyArray, number: UInt[Array, ""]) -> PRNGKeyArray:
    first, second = _words(key)
    x0, x1 = _threefry(first, second, jnp.zeros_like(number), number)
    return key_from(keep(jnp.stack([x0, x1])))


@partial(jax.jit, static_argnums=(1, 2))
def normal(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Draw independent standard normals, fewer than 2³² of them."""
    return keep(_joined([_from_uniform(part) for part in _uniforms(key, shape, dtype)], shape))


@partial(jax.jit, static_argnums=(1, 2))
def uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> Float[Array, "..."]:
    """Draw independent numbers uniform in [0, 1), fewer than 2³² of them."""
    return _joined(_uniforms(key, shape, dtype), shape)


def _uniforms(key: PRNGKeyArray, shape: tuple[int, ...], dtype: jnp.dtype) -> list[Array]:
    """Return the flat array of uniforms in parts: each word of a counter makes a number, in float64 both make one."""
    first, second = _words(key)
    count, info = int(np.prod(shape)), jnp.finfo(dtype)
    double = info.bits == 64
    counter = jnp.arange(count if double else (count + 1) // 2, dtype=jnp.uint32)
    high, low = _threefry(first, second, jnp.zeros_like(counter), counter)
    words = [(high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)] if double else [high, low[: count // 2]]
    one = np.array(1, dtype).view(words[0].dtype)
    return [lax.bitcast_convert_type((bits >> (info.bits - info.nmant)) | one, dtype) - 1 for bits in words]


def _joined(parts: list[Array], shape: tuple[int, ...]) -> Array:
    return jnp.concatenate(parts).reshape(shape)


@jax.jit
def chi(key: PRNGKeyArray, freedom: Float[Array, "..."]) -> Float[Array, "..."]:
    """Draw chi variables with the given degrees of freedom, which may be traced; 0 where they are 0 or fewer.

    2·Gamma(freedom/2) by rejection (Marsaglia & Tsang 2000), exact for any freedom; a freedom below 2 is raised by 2
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

    A batch is drawn in one loop: under vmap, the loop's condition would be batched too, which checks do not allow.
    """
    d = shape - 1 / 3
    c = 1 / jnp.sqrt(9 * d)
    keys = jnp.reshape(words, (-1, 2))

    def attempt(carry):
        trial, gamma, accepted = carry

        def draw(word):
            key = key_from(word)
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


@partial(jax.jit, static_argnums=2)
def bartlett(key: PRNGKeyArray, freedom: Float[Array, " k"], width: int) -> Float[Array, "k d d"]:
    """Draw the triangles R of freedom×width matrices of standard normals, GᵀG = RᵀR in law (Bartlett 1933).

    R_ii is chi with freedom − i degrees (i = 0, 1, …), with standard normals to its right; a row with no freedom left
    is zero. `freedom` may be traced.
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
    inverse = _erf_inv_in_double if np.dtype(dtype).itemsize == 8 else _erf_inv
    return np.array(np.sqrt(2), dtype) * inverse(symmetric)  # pyright: ignore[reportReturnType]


def _erf_inv(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return erf⁻¹ in single precision (Giles 2012); `lax.erf_inv` uses a log1p that costs more than all the rest."""
    w = -jnp.log((1 - x) * (1 + x))
    central = w < 5
    t = jnp.where(central, w - 2.5, jnp.sqrt(w) - 3)
    value = jnp.zeros_like(x)
    for near, far in zip(_CENTRAL, _TAIL, strict=True):
        value = jnp.where(central, np.float32(near), np.float32(far)) + value * t
    return value * x


def _erf_inv_in_double(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return erf⁻¹ to 2 units in the last place, of what native lanes know too: `lax.erf_inv` is one operation."""
    w = -jnp.log((1 - x) * (1 + x))
    root = jnp.sqrt(w)
    pieces = [w - 3.125, root - 3.25, root - 5]
    first, second, third = (
        reduce(lambda sum_, c, t=t: sum_ * t + c, terms) for t, terms in zip(pieces, _DOUBLE, strict=True)
    )
    return jnp.where(w < 6.25, first, jnp.where(w < 16, second, third)) * x


def _words(key: PRNGKeyArray) -> Array:
    """Return the two words of a threefry key."""
    instead = f"use jax.random.key(seed, impl='{_GENERATOR}')"
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and (key.dtype, key.shape) != (jnp.uint32, (2,)):
        given = f"{key.dtype} of shape {key.shape}"
        raise problem_with("key", given, "needs one threefry key", instead)
    words = jax.random.key_data(key)
    if words.shape != (2,):
        raise problem_with("key", f"{words.size} words", "needs one threefry key", instead)
    return words


@jax.jit
def _threefry(first: Array, second: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Return the generator's two words for counters (x0, x1) under the key (first, second); 20 rounds."""
    # By `lax`, whose operations are traced in a third of the time that operators take: most of a sweep's are these.
    keys = (first, second, lax.bitwise_xor(lax.bitwise_xor(first, second), np.uint32(0x1BD11BDA)))
    x0, x1 = lax.add(x0, keys[0]), lax.add(x1, keys[1])
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = lax.add(x0, x1)
            left, right = (np.uint32(bits) for bits in (rotation, 32 - rotation))
            turned = lax.bitwise_or(lax.shift_left(x1, left), lax.shift_right_logical(x1, right))
            x1 = lax.bitwise_xor(turned, x0)
        x0 = lax.add(x0, keys[(group + 1) % 3])
        x1 = lax.add(lax.add(x1, keys[(group + 2) % 3]), np.uint32(group + 1))
    return x0, x1
