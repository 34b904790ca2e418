"""How a program on small arrays is written out as scalars: the walk over its jaxpr, and a rule for each primitive.

What only moves entries about is done by NumPy, on arrays of nodes. A loop of known length is written out, one that ends
when it ends is kept, and of a choice all branches are evaluated.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxfact.engine.devices import working_devices
from jaxfact.engine.rows import Rows, Values, Wide, by_row, nodes_of, of_argument, of_table, sized
from jaxfact.engine.rowwise import rowwise
from jaxfact.engine.scalars import Constant, Graph, Input, Node, Nodes, Unscalarisable, kinds

_UNROLLED = 64  # passes of a loop


def scalarised(closed: core.ClosedJaxpr, most: int, shared: int = 0) -> tuple[list[Nodes], list[Nodes]]:
    """Return the inputs and the outputs of a program as arrays of nodes.

    Of the first `shared` inputs, those that no output needs have no nodes: they may be large.

    Raises Unscalarisable, with the reason, for an operation without a rule and for more than `most` nodes.
    """
    return scalarised_in_rows(closed, most, shared, None)  # pyright: ignore[reportReturnType]


def scalarised_in_rows(
    closed: core.ClosedJaxpr, most: int, shared: int, longest: int | None
) -> tuple[list[Nodes | Rows], list[Nodes | Rows]]:
    """Return the inputs and the outputs, where an array of more than `longest` rows is not written out.

    Raises Unscalarisable also for an array that would be long in two ways.
    """
    graph, (jaxpr, used) = Graph(most, longest), _alive(closed.jaxpr)
    inputs: list[Any] = []
    for place, var in enumerate(jaxpr.invars):
        aval: Any = var.aval
        if _is_key(aval.dtype):
            raise Unscalarisable("its state holds a random key")
        shape = aval.shape if var in used or place >= shared else (0,)
        inputs.append(_argument(graph, place, shape, aval.dtype))
    outputs: list[Any] = _walk(graph, jaxpr, closed.consts, inputs)
    if wide := [x for x in outputs if isinstance(x, Wide)]:
        raise Unscalarisable(f"its state has an array of {sized(wide[0].shape)}")
    return inputs, outputs


def _argument(graph: Graph, place: int, shape: tuple[int, ...], dtype: Any) -> Values:
    if len(axes := graph.long_axes(shape)) > 1:
        return Wide(shape)
    if axes:
        return of_argument(graph, place, shape, axes[0], dtype)
    return nodes_of([graph.leaf(Input(place, k), dtype) for k in range(math.prod(shape))], shape)


def _alive(jaxpr: core.Jaxpr) -> tuple[core.Jaxpr, set[core.Var]]:
    """Return a program without the equations that no output depends on, and the variables that are left."""
    used = {atom for atom in jaxpr.outvars if isinstance(atom, core.Var)}
    equations = []
    for equation in reversed(jaxpr.eqns):
        if used.intersection(equation.outvars):
            used.update(atom for atom in equation.invars if isinstance(atom, core.Var))
            equations.append(equation)
    return jaxpr.replace(eqns=equations[::-1]), used


def _walk(graph: Graph, jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Values]) -> list[Any]:
    env = dict(zip(jaxpr.constvars, (_constants(graph, x, x.dtype) for x in consts), strict=True))
    env |= zip(jaxpr.invars, arguments, strict=True)

    def read(atom: Any) -> Values:
        if not isinstance(atom, core.Literal):
            return env[atom]
        aval: Any = atom.aval
        return _constants(graph, atom.val, aval.dtype)

    for equation in jaxpr.eqns:
        outputs = _equation(graph, equation, [read(atom) for atom in equation.invars])
        env |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _equation(graph: Graph, equation: Any, arrays: list[Any]) -> list[Any]:
    """Return the outputs of one equation."""
    name = equation.primitive.name
    if name in _ALIASES:
        return arrays
    rule = _each if name in _ELEMENTWISE else _RULES.get(name)
    if rule is not None and name not in _OF_KEYS and any(_is_key(atom.aval.dtype) for atom in equation.invars):
        raise Unscalarisable(f"it has the operation {name} on random keys")
    shapes = (*(x.shape for x in arrays), *(var.aval.shape for var in equation.outvars))
    if name not in _OF_PROGRAMS and any(graph.long_axes(shape) for shape in shapes):
        found = rowwise(graph, equation, arrays, rule)
        if found is not None:
            return found
    elif rule is not None:
        return rule(graph, equation, arrays)
    for inner in equation.params.values():
        # A call takes and returns what its program does; a reduction by a program does not.
        if isinstance(inner, core.ClosedJaxpr) and kinds(inner.jaxpr) == kinds(equation):
            return _walk(graph, inner.jaxpr, inner.consts, arrays)
    raise Unscalarisable(f"it has the operation {name}")


def _each(graph: Graph, equation: Any, arrays: list[Nodes]) -> list[Nodes]:
    aval = equation.outvars[0].aval
    params = {k: v for k, v in equation.params.items() if k in _PARAMETERS}
    spread = [x if x.shape == aval.shape else np.broadcast_to(x, aval.shape) for x in arrays]
    together = zip(*(x.flat for x in spread), strict=True)
    return [nodes_of([graph.apply(equation.primitive, nodes, aval.dtype, params) for nodes in together], aval.shape)]


def _constants(graph: Graph, value: Any, dtype: Any) -> Values:
    numbers = np.asarray(jax.random.key_data(value) if _is_key(dtype) else value)
    numbers = numbers if _is_key(dtype) else numbers.astype(dtype)
    if len(axes := graph.long_axes(numbers.shape)) > 1:
        return Wide(numbers.shape)
    if axes:
        return of_table(graph, numbers, axes[0])
    return nodes_of([graph.constant(x, numbers.dtype) for x in numbers.flat], numbers.shape)


def _is_key(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jax.dtypes.prng_key)


# --- rules, by the name of the primitive -----------------------------------------------------------------------------


def _reshaped(graph, equation, arrays):
    return [arrays[0].reshape(_shape(equation))]


def _shape(equation) -> tuple[int, ...]:
    aval = equation.outvars[0].aval
    words = (2,) if _is_key(aval.dtype) else ()
    return (*aval.shape, *words)


def _broadcast(graph, equation, arrays):
    [x], shape = arrays, equation.params["shape"]
    spread = [1] * len(shape)
    for axis, size in zip(equation.params["broadcast_dimensions"], x.shape, strict=True):
        spread[axis] = size
    return [np.broadcast_to(x.reshape(spread), shape)]


def _sliced(graph, equation, arrays):
    p = equation.params
    strides = p["strides"] or (1,) * arrays[0].ndim
    return [arrays[0][tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]]


def _transposed(graph, equation, arrays):
    return [arrays[0].transpose(equation.params["permutation"])]


def _reversed(graph, equation, arrays):
    return [np.flip(arrays[0], equation.params["dimensions"])]


def _concatenated(graph, equation, arrays):
    return [np.concatenate(arrays, axis=equation.params["dimension"])]


def _stacked(graph, equation, arrays):
    return [np.stack(arrays, axis=equation.params["axis"])]


def _unstacked(graph, equation, arrays):
    parts = np.moveaxis(arrays[0], equation.params["axis"], 0)
    return [parts[at, ...] for at in range(len(parts))]


def _split(graph, equation, arrays):
    places = np.cumsum(equation.params["sizes"])[:-1]
    return np.split(arrays[0], places, axis=equation.params["axis"])


def _padded(graph, equation, arrays):
    [x, filling], config = arrays, equation.params["padding_config"]
    result = np.full(equation.outvars[0].aval.shape, filling[()], object)
    places = [low + np.arange(size) * (gap + 1) for (low, _, gap), size in zip(config, x.shape, strict=True)]
    kept = [(place >= 0) & (place < size) for place, size in zip(places, result.shape, strict=True)]
    result[np.ix_(*(place[k] for place, k in zip(places, kept, strict=True)))] = x[np.ix_(*kept)]
    return [result]


def _iota(graph, equation, arrays):
    shape, along = equation.params["shape"], equation.params["dimension"]
    counted = np.arange(shape[along]).reshape([-1 if axis == along else 1 for axis in range(len(shape))])
    return [_constants(graph, np.broadcast_to(counted, shape), equation.params["dtype"])]


def _moved(graph, equation, arrays):
    """Take entries at constant places, wherever JAX takes them: try it on numbers that say which entry is where."""
    x, *at = arrays
    if not all(isinstance(node.detail, Constant) for places in at for node in places.flat):
        raise Unscalarisable(f"it has the operation {equation.primitive.name} at places that are data")
    indices = [np.array([n.detail.value for n in p.flat], p.flat[0].dtype).reshape(p.shape) for p in at]
    with jax.ensure_compile_time_eval():
        numbered = jnp.arange(x.size, dtype=jnp.int32).reshape(x.shape)
        params = equation.params | ({"fill_value": -1} if "fill_value" in equation.params else {})
        places = np.asarray(equation.primitive.bind(numbered, *map(jnp.asarray, indices), **params))
    if np.any((places < 0) | (places >= x.size)):
        raise Unscalarisable(f"it has the operation {equation.primitive.name} beyond the array")
    return [x.reshape(-1)[places]]


def _reduction(primitive):
    def reduce(graph, equation, arrays):
        [x], axes, dtype = arrays, equation.params["axes"], equation.outvars[0].aval.dtype
        kept = equation.outvars[0].aval.shape
        lines = np.moveaxis(x, axes, range(x.ndim - len(axes), x.ndim))
        lines = lines.reshape(*kept, math.prod(x.shape[axis] for axis in axes))
        entries = [_folded(graph, primitive, list(lines[at]), dtype) for at in np.ndindex(lines.shape[:-1])]
        return [nodes_of(entries, kept)]

    return reduce


def _folded(graph: Graph, primitive: Any, terms: list[Node], dtype: Any) -> Node:
    if not terms:
        if primitive.name not in _OF_NOTHING:
            raise Unscalarisable(f"it has the operation {primitive.name} over nothing")
        return graph.constant(_OF_NOTHING[primitive.name], dtype)
    total, *rest = terms
    for term in rest:
        total = graph.apply(primitive, (total, term), dtype, {})
    return total


def _product(graph, equation, arrays):
    """Contract over the paired axes, term by term."""
    [left, right], dtype = arrays, equation.outvars[0].aval.dtype
    dtypes = [var.aval.dtype for var in (*equation.invars, *equation.outvars)]
    if dtype.kind == "b" or len(set(dtypes)) > 1:
        raise Unscalarisable("it has a matrix product of {} by {} as {}".format(*dtypes))
    (left_over, right_over), (left_batch, right_batch) = equation.params["dimension_numbers"]
    batch, terms = (math.prod(left.shape[axis] for axis in axes) for axes in (left_batch, left_over))

    def grouped(x, batched, over):
        free = [axis for axis in range(x.ndim) if axis not in (*batched, *over)]
        return x.transpose(*batched, *free, *over).reshape(batch, math.prod(x.shape[axis] for axis in free), terms)

    a, b = grouped(left, left_batch, left_over), grouped(right, right_batch, right_over)
    entries = [
        _folded(
            graph,
            jax.lax.add_p,
            [graph.apply(jax.lax.mul_p, pair, dtype, {}) for pair in zip(a[n, i], b[n, j], strict=True)],
            dtype,
        )
        for n in range(batch)
        for i in range(a.shape[1])
        for j in range(b.shape[1])
    ]
    return [nodes_of(entries, equation.outvars[0].aval.shape)]


def _scan(graph, equation, arrays):
    """Write out a loop of a few passes."""
    p, closed = equation.params, equation.params["jaxpr"]
    if p["length"] > _UNROLLED:
        raise Unscalarisable(f"it has a loop of more than {_UNROLLED} passes")
    # How many are carried is told by shapes: JAX 0.12 gives the numbers other names.
    carried = sum(x.aval.ndim == y.aval.ndim for x, y in zip(equation.outvars, closed.jaxpr.outvars, strict=True))
    ahead = sum(x.aval.ndim == y.aval.ndim for x, y in zip(equation.invars, closed.jaxpr.invars, strict=True))
    fixed, carry, along = arrays[: ahead - carried], arrays[ahead - carried : ahead], arrays[ahead:]
    if not all(isinstance(x, np.ndarray) for x in along):
        raise Unscalarisable("it has a loop over the rows of a long array")
    passes = []
    for at in range(p["length"])[:: -1 if p["reverse"] else 1]:
        found = _walk(graph, closed.jaxpr, closed.consts, [*fixed, *carry, *(x[at, ...] for x in along)])
        carry = found[:carried]
        passes.append(found[carried:])
    passes = passes[:: -1 if p["reverse"] else 1]
    if not all(isinstance(x, np.ndarray) for each in passes for x in each):
        raise Unscalarisable("it has a loop that stacks long arrays")
    stacked = [np.stack(each) for each in zip(*passes, strict=True)]
    return [*carry, *(stacked or (nodes_of([], var.aval.shape) for var in equation.outvars[carried:]))]


def _while(graph, equation, arrays):
    """Keep a loop that ends when it ends; runs that have ended wait for the others."""
    p = equation.params
    ahead, inner = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    if not all(isinstance(x, np.ndarray) for x in arrays[inner:]):
        raise Unscalarisable("it has a loop of unknown length that carries a long array")
    begin = [node for x in arrays[inner:] for node in x.flat]

    def shaped(carried):
        entries, at = [], 0
        for x in arrays[inner:]:
            entries.append(nodes_of(carried[at : at + x.size], x.shape))
            at += x.size
        return entries

    def condition(carried):
        closed = p["cond_jaxpr"]
        return _walk(graph, closed.jaxpr, closed.consts, [*arrays[:ahead], *shaped(carried)])[0][()]

    def body(carried):
        closed = p["body_jaxpr"]
        moved = _walk(graph, closed.jaxpr, closed.consts, [*arrays[ahead:inner], *shaped(carried)])
        return [node for x in moved for node in x.flat]

    return shaped(graph.loop(begin, condition, body))


def _cond(graph, equation, arrays):
    """Evaluate all branches and take one, entry by entry."""
    [index], *operands = arrays[0].reshape(1), *arrays[1:]
    branches = equation.params["branches"]
    if isinstance(index.detail, Constant):
        place = int(np.clip(int(index.detail.value), 0, len(branches) - 1))
        return _walk(graph, branches[place].jaxpr, branches[place].consts, operands)
    results = [_walk(graph, branch.jaxpr, branch.consts, operands) for branch in branches]
    chosen = results[-1]
    for place, other in reversed(list(enumerate(results[:-1]))):
        at = graph.constant(place, index.dtype)
        # JAX clamps the index: the first branch serves negative ones too.
        here = graph.apply(jax.lax.le_p, (index, at), np.dtype(bool), {})
        chosen = [_chosen(graph, here, x, y) for x, y in zip(chosen, other, strict=True)]
    return chosen


def _platform(graph, equation, arrays):
    """Return which of some programs is that of the platform that sweeps work on."""
    platform = working_devices(1)[0].platform
    places = [k for k, of in enumerate(equation.params["platforms"]) if of is None or platform in of]
    return [_constants(graph, np.asarray(places[0]), np.int32)]


def _chosen(graph: Graph, here: Node, otherwise: Any, then: Any) -> Any:
    def choose(pair):
        entries = zip(*(x.flat for x in pair), strict=True)
        chosen = [graph.apply(jax.lax.select_n_p, (here, x, y), x.dtype, {}) for x, y in entries]
        return nodes_of(chosen, pair[0].shape)

    if isinstance(then, Wide):
        raise Unscalarisable(f"it has a choice between arrays of {sized(then.shape)}")
    if isinstance(then, Rows):
        return by_row(then.shape, then.axis, [otherwise, then], choose)
    return choose([otherwise, then])


_RULES: dict[str, Callable] = {
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "transpose": _transposed,
    "rev": _reversed,
    "concatenate": _concatenated,
    "stack": _stacked,
    "unstack": _unstacked,
    "split": _split,
    "pad": _padded,
    "iota": _iota,
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
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "platform_index": _platform,
}

_OF_NOTHING = {"add": 0, "mul": 1, "and": True, "or": False}

# A key is its words.
_OF_KEYS = frozenset({"reshape", "squeeze"})
_OF_PROGRAMS = frozenset({"scan", "while", "cond"})
# fmt: off
_ALIASES = frozenset({"keep", "contiguous", "optimization_barrier", "copy", "copy_p", "stop_gradient",
                      "layout_constraint", "random_wrap", "random_unwrap"})
_ELEMENTWISE = frozenset({
    "add", "add_any", "sub", "mul", "div", "rem", "max", "min", "neg", "abs", "sign", "floor", "ceil", "square",
    "sqrt", "rsqrt", "exp", "log", "log1p", "expm1", "pow", "integer_pow", "erf_inv", "sin", "cos", "tanh", "logistic",
    "is_finite", "clamp", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "xor", "shift_left",
    "shift_right_logical", "shift_right_arithmetic", "select_n", "convert_element_type", "bitcast_convert_type",
})
# fmt: on
_PARAMETERS = ("y", "new_dtype")
