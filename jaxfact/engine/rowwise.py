"""The rules for long arrays: how each operation on them is one on their rows.

What does not concern the long axis is done by the rule for short arrays, on an array of one row.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxfact.engine.rows import (
    Rows,
    Values,
    by_row,
    folded,
    joined,
    known,
    nodes_of,
    of_nodes,
    of_table,
    padded,
    reshaped,
    row,
    sized,
    taken,
)
from jaxfact.engine.scalars import FOLDED, Graph, Unscalarisable
from jaxfact.numerics.products import cross, inner
from jaxfact.numerics.tracing import is_call

Rule = Callable[[Graph, Any, list], list]


class _Var(NamedTuple):
    aval: Any


class _Equation(NamedTuple):
    """An equation on other shapes."""

    primitive: Any
    params: dict[str, Any]
    invars: list[Any]
    outvars: list[_Var]


def rowwise(graph: Graph, equation: Any, arrays: list[Any], rule: Rule | None) -> list[Any] | None:
    """Return the outputs of an equation of which some array is long; None for a call of a program.

    Raises Unscalarisable where the operation does not go row by row.
    """
    name = equation.primitive.name
    if rule is None:
        product = _product_called(equation, arrays)
        return None if product is None else product(graph, equation, arrays)
    shapes = [x.shape for x in arrays]
    wide = [s for s in (*shapes, *(v.aval.shape for v in equation.outvars)) if len(graph.long_axes(s)) > 1]
    if wide and name in ("dot_general", "product"):
        raise Unscalarisable(f"it has a matrix product of {' by '.join(map(sized, shapes))}")
    if wide:
        raise Unscalarisable(f"it has the operation {name} on an array of {sized(wide[0])}")
    if (table := _tabled(equation, arrays, rule)) is not None:
        return [_placed(graph, table)]
    return _RULES.get(name, _each)(graph, equation, arrays, rule)


def _each(graph: Graph, equation: Any, arrays: list, rule: Rule, **params: Any) -> list:
    """Apply a rule row by row."""
    results = []
    alone = _Equation(equation.primitive, equation.params | params, equation.invars, [])
    for var in equation.outvars:
        [axis] = graph.long_axes(var.aval.shape)
        inner = tuple(1 if k == axis else size for k, size in enumerate(var.aval.shape))
        alone.outvars.append(_Var(jax.ShapeDtypeStruct(inner, var.aval.dtype)))
        k = len(results)
        results.append(by_row(var.aval.shape, axis, arrays, lambda given, k=k: rule(graph, alone, given)[k]))
    return results


def _placed(graph: Graph, table: np.ndarray) -> Values:
    """Return numbers that are known as an array, long or short."""
    if axes := graph.long_axes(table.shape):
        return of_table(graph, table, axes[0])
    return nodes_of([graph.constant(x, table.dtype) for x in table.flat], table.shape)


def _tabled(equation: Any, arrays: list[Values], rule: Rule) -> np.ndarray | None:
    """Return the numbers of an operation on known ones, where NumPy has it."""
    name, aval = equation.primitive.name, equation.outvars[0].aval
    if name == "iota":
        size, along = aval.shape[equation.params["dimension"]], equation.params["dimension"]
        counted = np.arange(size, dtype=aval.dtype).reshape([-1 if k == along else 1 for k in range(aval.ndim)])
        return np.broadcast_to(counted, aval.shape)
    if name not in FOLDED and name not in _MOVES and name not in ("convert_element_type", "select_n"):
        return None
    numbers = [known(x) for x in arrays]
    if any(x is None for x in numbers):
        return None
    with np.errstate(all="ignore"):
        if name == "convert_element_type":
            found = numbers[0]
        elif name == "select_n":
            which, *choices = map(np.asarray, numbers)
            found = np.choose(which.astype(int), choices)
        else:
            found = FOLDED[name](*numbers) if name in FOLDED else rule(None, equation, numbers)[0]  # pyright: ignore[reportArgumentType]
        return np.broadcast_to(np.asarray(found).astype(aval.dtype), aval.shape)


def _short(graph: Graph, x: Rows) -> Any:
    """Return an array of few rows as nodes."""
    return x if graph.long_axes(x.shape) else x.written_out()


def _for_the_rest(graph: Graph, equation: Any, arrays: list, rule: Rule, params: dict[str, Any]) -> list:
    """Apply a rule with parameters that leave the long axis alone, which may have become short."""
    if isinstance(arrays[0], Rows):
        return _each(graph, equation, arrays, rule, **params)
    alone = _Equation(equation.primitive, equation.params | params, equation.invars, equation.outvars)
    return rule(graph, alone, arrays)


# --- rules, by the name of the primitive -----------------------------------------------------------------------------


def _reshaped(graph, equation, arrays, rule):
    [x], shape = arrays, equation.outvars[0].aval.shape
    axes = graph.long_axes(shape)
    if isinstance(x, Rows) and axes:
        return [reshaped(x, shape, axes[0])]
    return [x.written_out().reshape(shape)] if isinstance(x, Rows) else [of_nodes(x.reshape(shape), axes[0])]


def _sliced(graph, equation, arrays, rule):
    [x], p = arrays, equation.params
    begin, end, stride = ((p[k] or (1,) * len(x.shape))[x.axis] for k in ("start_indices", "limit_indices", "strides"))
    some = _short(graph, taken(x, begin, -(-(end - begin) // stride), stride))
    inner = {
        key: tuple(whole if k == x.axis else size for k, size in enumerate(p[key] or (1,) * len(x.shape)))
        for key, whole in (("start_indices", 0), ("limit_indices", None), ("strides", 1))
    }
    return _for_the_rest(graph, equation, [some], rule, inner)


def _joined(graph, equation, arrays, rule):
    along = equation.params["dimension"]
    if graph.long_axes(equation.outvars[0].aval.shape) != [along]:
        return _each(graph, equation, arrays, rule)
    return [joined([x if isinstance(x, Rows) else of_nodes(x, along) for x in arrays])]


def _padded(graph, equation, arrays, rule):
    [x, filling], config = arrays, equation.params["padding_config"]
    axis = x.axis if isinstance(x, Rows) else graph.long_axes(equation.outvars[0].aval.shape)[0]
    if config[axis][2]:
        raise Unscalarisable("it has the operation pad between rows")
    x = x if isinstance(x, Rows) else of_nodes(x, axis)
    before, after = map(int, config[axis][:2])
    some = _short(graph, padded(x, before, after, filling[()]))
    rest = {"padding_config": tuple((0, 0, 0) if k == axis else each for k, each in enumerate(config))}
    return _for_the_rest(graph, equation, [some, filling], rule, rest)


def _broadcast(graph, equation, arrays, rule):
    shape = equation.params["shape"]
    [axis] = graph.long_axes(shape)
    return _each(graph, equation, arrays, rule, shape=tuple(1 if k == axis else size for k, size in enumerate(shape)))


def _along(key):
    """Refuse what rearranges the rows themselves."""

    def checked(graph, equation, arrays, rule):
        axes = np.atleast_1d(equation.params[key])
        if any(isinstance(x, Rows) and x.axis in axes for x in arrays):
            raise Unscalarisable(f"it has the operation {equation.primitive.name} of {arrays[0].count} rows")
        return _each(graph, equation, arrays, rule)

    return checked


def _split(graph, equation, arrays, rule):
    [x], sizes = arrays, equation.params["sizes"]
    if equation.params["axis"] != x.axis:
        return _each(graph, equation, arrays, rule)
    begins = [0, *np.cumsum(sizes)[:-1]]
    return [_short(graph, taken(x, int(k), size, 1)) for k, size in zip(begins, sizes, strict=True)]


def _moved(graph, equation, arrays, rule):
    """Take single rows at constant places."""
    x, *at = arrays
    shape, name = equation.outvars[0].aval.shape, equation.primitive.name
    if not isinstance(x, Rows) or graph.long_axes(shape) or any(isinstance(places, Rows) for places in at):
        raise Unscalarisable(f"it has the operation {name} of many rows")
    numbered = nodes_of([graph.constant(k, np.int32) for k in range(np.prod(x.shape))], x.shape)
    found = rule(graph, equation, [numbered, *at])[0]
    places = [np.unravel_index(node.detail.value, x.shape) for node in found.flat]
    return [nodes_of([x.at(row(p[x.axis]))[(*p[: x.axis], 0, *p[x.axis + 1 :])] for p in places], found.shape)]


def _reduction(primitive):
    def reduce(graph, equation, arrays, rule):
        [x] = arrays
        if x.axis not in equation.params["axes"]:
            return _each(graph, equation, arrays, rule)
        rows = lambda place: rule(graph, equation, [x.at(place)])[0]  # noqa: E731
        return [folded(graph, primitive, x.stretches(), rows, equation.outvars[0].aval.shape)]

    return reduce


def _product(graph, equation, arrays, rule):
    """Contract row by row; the rows themselves in a fold, where both have them."""
    (left_over, right_over), _ = equation.params["dimension_numbers"]
    contracted = [
        isinstance(x, Rows) and x.axis in over for x, over in zip(arrays, (left_over, right_over), strict=True)
    ]
    if not any(contracted):
        return _each(graph, equation, arrays, rule)
    return [_contracted(graph, arrays, lambda pair: rule(graph, equation, pair)[0], equation.outvars[0].aval.shape)]


def _contracted(graph, pair, product, shape):
    both = by_row(pair[0].shape, pair[0].axis, pair, product)
    return folded(graph, jax.lax.add_p, both.stretches(), both.at, shape)


def _crossed(graph, equation, arrays):
    """Return XᵀY, which `products.cross` writes in parts for XLA's sake."""

    def product(pair):
        [x], [y] = pair
        dtype = x[0].dtype
        entries = [graph.apply(jax.lax.mul_p, (a, b), dtype, {}) for a in x for b in y]
        return nodes_of(entries, (len(x), len(y)))

    return [_contracted(graph, arrays, product, equation.outvars[0].aval.shape)]


def _inner(graph, equation, arrays):
    """Return tr(XᵀY), which `products.inner` writes in parts too."""

    def product(pair):
        dtype = equation.outvars[0].aval.dtype
        entries = zip(*(x.flat for x in pair), strict=True)
        terms = [graph.apply(jax.lax.mul_p, each, dtype, {}) for each in entries]
        total = reduce(lambda a, b: graph.apply(jax.lax.add_p, (a, b), dtype, {}), terms)
        return nodes_of([total], ())

    return [_contracted(graph, arrays, product, ())]


def _product_called(equation: Any, arrays: list[Values]) -> Callable | None:
    """Return the rule of a call of `products.cross` or `inner` on long arrays, not of another function so called."""
    name = equation.params.get("name")
    if name not in _PRODUCTS or not all(isinstance(x, Rows) and x.axis == 0 and len(x.shape) == 2 for x in arrays):
        return None
    function, rule = _PRODUCTS[name]
    return rule if arrays[0].shape[0] == arrays[1].shape[0] and is_call(equation, function) else None


_PRODUCTS: dict[str, tuple[Callable, Callable]] = {"cross": (cross, _crossed), "inner": (inner, _inner)}
_MOVES = frozenset(
    ["reshape", "squeeze", "expand_dims", "broadcast_in_dim", "slice", "transpose", "rev", "concatenate", "pad"]
)
_RULES: dict[str, Callable] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "rev": _along("dimensions"),
    "concatenate": _joined,
    "unstack": _along("axis"),
    "split": _split,
    "pad": _padded,
    "gather": _moved,
    "dynamic_slice": _moved,
    "reduce_sum": _reduction(jax.lax.add_p),
    "reduce_prod": _reduction(jax.lax.mul_p),
    "reduce_max": _reduction(jax.lax.max_p),
    "reduce_min": _reduction(jax.lax.min_p),
    "reduce_and": _reduction(jax.lax.and_p),
    "reduce_or": _reduction(jax.lax.or_p),
    "dot_general": _product,
    "product": _product,
}
