"""Loops that XLA compiles as one function of a CPU, where it can.

XLA runs a loop as a chain of kernels, each started by a scheduler, unless the loop is small: then it is one function. A
step is many kernels on small arrays, so a call of the loop is marked as small. XLA's own pass, which marks loops of up
to a kilobyte, leaves out those that contain what such a function has no code for, and so does this.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
from jax import lax
from jax.core import Tracer
from jax.experimental.scheduling_groups import xla_metadata_call
from jax.extend import core
from jaxtyping import Array, Bool

from jaxfact.numerics.trees import PyTree

T = TypeVar("T")

_LARGE = 4096  # entries from which XLA leaves a reduction to a library, as it does every matrix product
# fmt: off
_REDUCTIONS = frozenset({
    "argmax", "argmin", "cummax", "cummin", "cumprod", "cumsum", "reduce_and", "reduce_max", "reduce_min", "reduce_or",
    "reduce_prod", "reduce_sum", "reduce_xor",
})
_OTHERS = frozenset({
    # what moves entries about
    "broadcast_in_dim", "concatenate", "contiguous", "copy", "copy_p", "dynamic_slice", "dynamic_update_slice",
    "expand_dims", "gather", "iota", "keep", "layout_constraint", "optimization_barrier", "pad", "reshape", "rev",
    "select_n", "slice", "split", "squeeze", "stack", "stop_gradient", "transpose", "unstack",
    # elementwise
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "bitcast_convert_type",
    "cbrt", "ceil", "clamp", "clz", "convert_element_type", "cos", "cosh", "div", "eq", "erf", "erf_inv", "erfc", "exp",
    "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic", "lt", "max",
    "min", "mul", "ne", "neg", "nextafter", "not", "or", "population_count", "pow", "reduce_precision", "rem", "round",
    "rsqrt", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square",
    "sub", "tan", "tanh", "xor",
    # random bits
    "random_bits", "random_fold_in", "random_seed", "random_split", "random_unwrap", "random_wrap", "threefry2x32",
    # programs within it
    "checkpoint", "closed_call", "cond", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "remat", "scan", "while",
    "xla_metadata_call",
})
# fmt: on


def while_loop(
    going: Callable[[T, PyTree], Bool[Array, ""]],
    once: Callable[[T, PyTree], T],
    begun: T,
    given: PyTree,
    *,
    whole: bool,
) -> T:
    """Repeat `once` while `going`, both of what changes and what is given; `whole` is for a CPU, and with no checks.

    The loop must read nothing else: the function XLA makes has room for its arguments alone, all of which it returns.
    """

    def loop(carry: tuple[T, PyTree]) -> tuple[T, PyTree]:
        return lax.while_loop(lambda c: going(*c), lambda c: (once(*c), c[1]), carry)

    if not whole:
        return loop((begun, given))[0]
    leaves, tree = jax.tree.flatten((begun, given))
    traced = jax.make_jaxpr(lambda *leaves: jax.tree.leaves(loop(jax.tree.unflatten(tree, leaves))))(*leaves)
    if any(isinstance(value, Tracer) for value in traced.consts):
        raise TypeError("a loop reads an array that it is not given")
    looped: Any = core.jaxpr_as_fun(traced)
    if all(map(_has_code, _equations(traced.jaxpr))):
        looped = xla_metadata_call(looped, xla_cpu_small_call="true", inlineable="false")
        # From JAX 0.12 on, a result that nothing uses would be dropped, and XLA would abort the process.
        return jax.tree.unflatten(tree, lax.optimization_barrier(looped(*leaves)))[0]
    return jax.tree.unflatten(tree, looped(*leaves))[0]


def _has_code(equation: core.JaxprEqn) -> bool:
    """Tell whether such a function may contain an operation."""
    name = equation.primitive.name
    if name in _REDUCTIONS:
        return all(operand.aval.size < _LARGE for operand in equation.invars)  # pyright: ignore[reportAttributeAccessIssue]
    return name in _OTHERS


def _equations(jaxpr: core.Jaxpr) -> Iterator[core.JaxprEqn]:
    """Yield every operation, those of programs within it included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_program):
            if _is_program(inner):
                yield from _equations(getattr(inner, "jaxpr", inner))


def _is_program(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)
