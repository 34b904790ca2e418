"""Where derivatives through a run are cut: a method that forgets, for derivatives, what came before."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxfact.methods.base import Method
from jaxfact.numerics.trees import PyTree
from jaxfact.problems.factors import AnyFactors


class CutState(NamedTuple):
    """The number of steps so far, and the state of the method that is cut."""

    count: Int[Array, ""]
    inner: PyTree


def cut(method: Method, window: int) -> Method:
    """Return a method that takes the same steps, and whose derivatives go back to the last multiple of `window` only.

    Before step window, 2·window, … the factors and the method's state count as constants. The update then also holds
    what is zero, the constant factors minus the factors, so that nothing earlier is left in their derivative.
    """

    def init(factors: AnyFactors) -> CutState:
        return CutState(jnp.zeros((), jnp.int32), method.init(factors))

    def update(gradient: AnyFactors, state: CutState, factors: AnyFactors, **extra):
        is_cut = state.count % window == 0

        def gate(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda x: jnp.where(is_cut, jax.lax.stop_gradient(x), x), tree)

        kept = gate(factors)
        updates, inner = method.update(gate(gradient), gate(state.inner), kept, **extra)
        updates = jax.tree.map(lambda step, now, before: step + (now - before), updates, kept, factors)
        return updates, CutState(state.count + 1, inner)

    return Method(init, update)  # pyright: ignore[reportArgumentType]
