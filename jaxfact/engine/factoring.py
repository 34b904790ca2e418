"""Sums of products with the same factor: XA ± s·XB = X(A ± s·B), one product with a matrix as small as the width.

A step is put together from a problem's gradient and from what a method adds to it, each with products of its own: a
balanced step has 4w·U(UᵀU − VᵀV) beside U(VᵀV) − ΣV, and the second product with U costs as much as the first.
"""

from collections import Counter
from functools import reduce
from typing import Any, NamedTuple

import jax
from jax.extend import core

from jaxfact.numerics.products import keep, times
from jaxfact.numerics.tracing import is_call

_SUMS = ("add", "sub")


class _Way(NamedTuple):
    """The equations from a side of a sum down to a product, and how often, up to the sign, it enters the sum."""

    equations: list[Any]
    sign: int
    scalars: list[Any]


class _Program:
    """The equations of a program by what they compute, where only one other uses it."""

    def __init__(self, jaxpr: core.Jaxpr):
        uses = Counter(v for e in jaxpr.eqns for v in e.invars if isinstance(v, core.Var))
        uses.update(v for v in jaxpr.outvars if isinstance(v, core.Var))
        self._made: dict[Any, Any] = {e.outvars[0]: e for e in jaxpr.eqns if len(e.outvars) == 1}
        self._once: set[Any] = {var for var, count in uses.items() if count == 1}

    def multiple(self, atom: Any) -> _Way | None:
        """Return the way to a product that is multiplied by numbers; None where there is something else."""
        way = _Way([], 1, [])
        while (equation := self._maker(atom)) is not None:
            way.equations.append(equation)
            if _is_product(equation):
                return way
            numbers = [self._number(each) for each in equation.invars]
            if equation.primitive.name != "mul" or numbers == [None, None]:
                return None
            place = 0 if numbers[0] is not None else 1
            way.scalars.append(numbers[place])
            atom = equation.invars[1 - place]
        return None

    def term(self, atom: Any, product: Any) -> _Way | None:
        """Return the way, down a sum, to a product with the left factor of another; None without one."""
        waiting = [_Way([], 1, [])._replace(equations=[equation]) for equation in [self._maker(atom)] if equation]
        while waiting:
            way = waiting.pop()
            equation = way.equations[-1]
            if _is_product(equation) and _have_same_factor(equation, product):
                return way
            if equation.primitive.name in _SUMS:
                signs = (1, -1 if equation.primitive.name == "sub" else 1)
                below = [(self._maker(atom), sign) for atom, sign in zip(equation.invars, signs, strict=True)]
                waiting += [_Way([*way.equations, e], way.sign * sign, []) for e, sign in below if e is not None]
        return None

    def _maker(self, atom: Any) -> Any:
        return self._made.get(atom) if isinstance(atom, core.Var) and atom in self._once else None

    def _number(self, atom: Any) -> Any:
        """Return the number that all entries of an array are; None where it is not one number."""
        if not atom.aval.shape:
            return atom
        made = self._made.get(atom) if isinstance(atom, core.Var) else None
        if made is None or made.primitive.name != "broadcast_in_dim" or made.invars[0].aval.shape:
            return None
        return made.invars[0]


def factored(jaxpr: core.Jaxpr) -> core.Jaxpr:
    """Return a program in which sums of products with the same left factor are one product.

    What is used elsewhere too stays as it is.
    """
    while (better := _factored_once(jaxpr)) is not None:
        jaxpr = better
    return jaxpr


def _factored_once(jaxpr: core.Jaxpr) -> core.Jaxpr | None:
    program = _Program(jaxpr)
    for place, equation in enumerate(jaxpr.eqns):
        name = equation.primitive.name
        if name not in _SUMS:
            continue
        left, right = equation.invars
        for whole, part in ((left, right), (right, left)) if name == "add" else ((left, right),):
            joining = program.multiple(part)
            joined = joining and program.term(whole, joining.equations[-1])
            if joining and joined:
                sign = joined.sign * (-1 if name == "sub" else 1)
                return _joined(jaxpr, place, whole, joined.equations, joining._replace(sign=sign))
    return None


def _joined(jaxpr: core.Jaxpr, place: int, whole: Any, way: list[Any], joining: _Way) -> core.Jaxpr:
    """Return the program in which a product at the end of a way takes in another: a sum becomes one of its sides."""
    product, other, sum_ = way[-1], joining.equations[-1], jaxpr.eqns[place]
    (X, A), B = product.invars, other.invars[1]

    def matrix(A, B, *scalars):
        added = reduce(lambda x, scalar: scalar * x, scalars, B)
        return keep(A + added if joining.sign > 0 else A - added)

    atoms = [A, B, *joining.scalars]
    traced = jax.make_jaxpr(matrix)(*(jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in atoms)).jaxpr
    ours = dict(zip(traced.invars, atoms, strict=True))
    new = [_reading(equation, ours) for equation in traced.eqns]
    new += [product.replace(invars=[X, traced.outvars[0]]), *reversed(way[:-1])]
    gone = {id(equation) for equation in (*way, *joining.equations, sum_)}
    before, after = ([e for e in part if id(e) not in gone] for part in (jaxpr.eqns[:place], jaxpr.eqns[place:]))
    renamed = {sum_.outvars[0]: whole}
    results = [renamed.get(atom, atom) if isinstance(atom, core.Var) else atom for atom in jaxpr.outvars]
    return jaxpr.replace(eqns=[*before, *new, *(_reading(e, renamed) for e in after)], outvars=results)


def _reading(equation: Any, renamed: dict[Any, Any]) -> Any:
    atoms = [renamed.get(atom, atom) if isinstance(atom, core.Var) else atom for atom in equation.invars]
    return equation.replace(invars=atoms)


def _is_product(equation: Any) -> bool:
    """Tell whether an equation is a product of two matrices, by `products.times` or as NumPy has it."""
    if equation.primitive.name in ("dot_general", "product"):
        return equation.params["dimension_numbers"] == (((1,), (0,)), ((), ()))
    return is_call(equation, times)


def _have_same_factor(one: Any, other: Any) -> bool:
    shapes = [[var.aval.shape, var.aval.dtype] for e in (one, other) for var in (e.invars[1], e.outvars[0])]
    return one.invars[0] is other.invars[0] and shapes[:2] == shapes[2:]
