"""Products of small matrices, written so that a batch of runs advances in a few fused loops.

A batched matrix product of 10×5 by 5×5 spends its time on overhead. Here short contractions are unrolled into
multiply-adds, which XLA fuses with what surrounds them, and the batch of runs is innermost in memory, so that one
vector instruction advances 8 or 16 runs. The code stays that of one run.
"""

import operator
from collections.abc import Callable, Iterable
from functools import reduce, wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.extend import core
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxfact.numerics.trees import PyTree

_NARROW = 8  # columns up to which parts of a long Gram matrix are faster than a matrix product: measured
_SHORT = 32  # terms that are written out; a longer contraction is a matrix product

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function's float32 products be float32, unless a precision was chosen: a GPU's default rounds to TF32."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
        with jax.default_matmul_precision(chosen or "highest"):
            return function(*args, **kwargs)

    return called


@jax.jit
def gram(X: Float[Array, "k d"]) -> Float[Array, "d d"]:
    """Return XᵀX; its derivative is S + Sᵀ, of one product S = XᵀẊ."""
    return _gram(X)


@jax.custom_jvp
def _gram(X: Float[Array, "k d"]) -> Float[Array, "d d"]:
    return cross(X, X)


@_gram.defjvp
def _(primals, tangents):
    (X,), (dX,) = primals, tangents
    half = product(X.T, dX)
    return _bound(_CROSSED, X.T, X), half + half.T


@jax.jit
def cross(X: Float[Array, "k d"], Y: Float[Array, "k e"]) -> Float[Array, "d e"]:
    """Return XᵀY; its derivative is one of plain products, as slices would be differentiated one by one."""
    return _cross(X, Y)


@jax.custom_jvp
def _cross(X: Float[Array, "k d"], Y: Float[Array, "k e"]) -> Float[Array, "d e"]:
    (k, d), e = X.shape, Y.shape[1]
    if k == 0:
        return jnp.zeros((d, e), X.dtype)
    if is_long(k):
        if max(d, e) > _NARROW:
            return _contiguous(X.T) @ _contiguous(Y.T).T
        part = k // _SHORT
        parts = keep(_total(X[i : i + part, :, None] * Y[i : i + part, None, :] for i in range(0, part * _SHORT, part)))
        return jnp.sum(parts, axis=0) + cross(X[part * _SHORT :], Y[part * _SHORT :])
    return _total(lax.slice(X, (i, 0), (i + 1, d)).reshape(d, 1) * lax.slice(Y, (i, 0), (i + 1, e)) for i in range(k))


@_cross.defjvp
def _(primals, tangents):
    (X, Y), (dX, dY) = primals, tangents
    return _cross(X, Y), product(dX.T, Y) + product(X.T, dY)


@jax.jit
def inner(X: Float[Array, "k d"], Y: Float[Array, "k d"]) -> Float[Array, ""]:
    """Return ⟨X, Y⟩ = tr(XᵀY), summed over parts of long columns, which XLA would otherwise sum run by run."""
    k, part = len(X), len(X) // _SHORT
    if not is_long(k):
        return jnp.sum(X * Y)
    parts = keep(_total(X[i : i + part] * Y[i : i + part] for i in range(0, part * _SHORT, part)))
    return jnp.sum(parts) + jnp.sum(X[part * _SHORT :] * Y[part * _SHORT :])


@jax.jit
def times(X: Float[Array, "k d"], G: Float[Array, "d e"]) -> Float[Array, "k e"]:
    """Return XG; see `cross`."""
    return _times(X, G)


@jax.custom_jvp
def _times(X: Float[Array, "k d"], G: Float[Array, "d e"]) -> Float[Array, "k e"]:
    (k, d), e = X.shape, G.shape[1]
    if d == 0 or is_long(d) or is_long(e):
        return X @ G
    return _total(lax.slice(X, (0, j), (k, j + 1)) * lax.slice(G, (j, 0), (j + 1, e)) for j in range(d))


@_times.defjvp
def _(primals, tangents):
    (X, G), (dX, dG) = primals, tangents
    return _times(X, G), product(dX, G) + product(X, dG)


def is_long(rows: int) -> bool:
    """Tell whether columns of that many rows are kept contiguous in memory and contracted by a matrix product."""
    return rows > _SHORT


def _total(terms: Iterable[Array]) -> Array:
    return reduce(operator.add, terms)


def pinned(tree: PyTree) -> PyTree:
    """Pin the memory layout of a batch along the last axis: innermost, except that long columns are contiguous."""
    return jax.tree.map(lambda x: _laid_out(x, range(x.ndim)) if not _has_long(x.shape[:-1]) else _by_columns(x), tree)


def _has_long(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and is_long(shape[0]) and shape[1] > _NARROW


def _by_columns(x: Array) -> Array:
    return _laid_out(x, (2, 1, 0))


def _laid_out(x: Array, order: Iterable[int]) -> Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) or x.ndim < 2:
        return x
    return with_layout_constraint(x, Layout(tuple(order)))


def _identity(name: str, order: Callable[[int], Iterable[int]]) -> core.Primitive:
    """Return an operation that returns its arrays, computed once, with the layout of a batch, its first axis, pinned.

    As an operation of its own it has derivatives of any order: of a rule for batches inside a loop JAX knows the first.
    """
    operation = core.Primitive(name)
    operation.multiple_results = True

    def barrier(*arrays: Array) -> list[Array]:
        return list(lax.optimization_barrier(arrays))

    def batched(arrays: tuple[Array, ...], axes: tuple[int | None, ...]) -> tuple[list[Array], list[int | None]]:
        pinned = [
            array if axis is None else _laid_out(jnp.moveaxis(array, axis, 0), order(array.ndim))
            for array, axis in zip(arrays, axes, strict=True)
        ]
        return barrier(*pinned), [None if axis is None else 0 for axis in axes]

    operation.def_impl(barrier)
    operation.def_abstract_eval(lambda *shapes: list(shapes))
    mlir.register_lowering(operation, mlir.lower_fun(barrier, multiple_results=True))
    ad.primitive_jvps[operation] = lambda primals, tangents: (operation.bind(*primals), list(tangents))
    batching.primitive_batchers[operation] = batched
    return operation


_KEPT = _identity("keep", lambda rank: (*range(1, rank), 0))
_CONTIGUOUS = _identity("contiguous", range)


def _bilinear(many: Callable[[Array, Array], Array]) -> core.Primitive:
    """Return the product of two matrices as an operation: a sum that XLA takes once for one run, `many` for a batch.

    Derivatives are made of such products. For one run a call of a library costs more than a product of ten rows does;
    for many, sums along axes that are not contiguous cost more than the call.
    """
    operation = core.Primitive("product")

    def one(X: Array, G: Array, **_) -> Array:
        if is_long(max(*X.shape, *G.shape)):
            return X @ G
        # Of a product of products XLA would compute the inner one for each entry of the outer.
        return lax.optimization_barrier(jnp.sum(X[:, :, None] * G, axis=1))

    def batched(arrays: tuple[Array, Array], axes: tuple[int | None, int | None], **_) -> tuple[Array, int]:
        return jax.vmap(many, axes)(*arrays), 0

    operation.def_impl(one)
    operation.def_abstract_eval(lambda X, G, **_: X.update(shape=(X.shape[0], G.shape[1])))
    mlir.register_lowering(operation, mlir.lower_fun(one, multiple_results=False))
    ad.defbilinear(operation, lambda ct, X, G, **_: product(ct, G.T), lambda ct, X, G, **_: product(X.T, ct))
    batching.primitive_batchers[operation] = batched
    return operation


_PRODUCT = _bilinear(jnp.matmul)

# A Gram matrix that is recomputed on the way back. Of one run XLA would compute what `_cross` writes out for each entry
# that uses it, as many as there are in the factors: a reduction it computes once.
_CROSSED = _bilinear(lambda XT, Y: _cross(XT.T, Y))


def product(X: Float[Array, "k d"], G: Float[Array, "d e"]) -> Float[Array, "k e"]:
    """Return XG for derivatives; `times` is for what is computed most."""
    return _bound(_PRODUCT, X, G)


def _bound(operation: core.Primitive, X: Float[Array, "k d"], G: Float[Array, "d e"]) -> Float[Array, "k e"]:
    """Return a product by an operation; its parameter is that of `dot_general`: who reads one reads the other."""
    dtype = jnp.result_type(X, G)
    return operation.bind(X.astype(dtype), G.astype(dtype), dimension_numbers=(((1,), (0,)), ((), ())))


def keep(tree: PyTree) -> PyTree:
    """Return the same numbers, computed once: XLA would otherwise recompute a Gram matrix for every entry using it."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, _KEPT.bind(*leaves))


def _contiguous(x: Float[Array, "d k"]) -> Float[Array, "d k"]:
    """Return the same matrix with contiguous rows, which XLA would not choose on its own."""
    return _CONTIGUOUS.bind(x)[0]
