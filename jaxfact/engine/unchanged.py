"""Whether a function would still do what it did: its code and all that it reads, compared by content.

A function is followed into the cells that it closes over, its defaults, the globals and the attributes of modules that
its code names, and into the functions and objects among them. What cannot be followed, such as files, generators of
random numbers and extension types, has no footprint: of such a function nothing is known. Only the code of this
library and of those that it computes with is taken to stay as it is.
"""

import builtins
import dis
import enum
import functools
import hashlib
import sys
import types
from collections import defaultdict
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TRUSTED = (
    *("jax", "jaxlib", "jaxtyping", "ml_dtypes", "numpy", "optax", "equinox", "jaxfact", "math", "cmath", "operator"),
    *("itertools", "functools", "collections", "typing", "types", "enum", "dataclasses", "abc", "builtins"),
)
_READING = ("datasets", "reading", "formats", "arrays", "lines", "layout", "text", "entries", "hierarchical", "images")
_UNTRUSTED = ("numpy.random", "jaxfact.store", *(f"jaxfact.data.{name}" for name in _READING))
# They read files, or names that stand nowhere in the code.
_OPAQUE = (
    *(builtins.open, builtins.input, builtins.eval, builtins.exec, builtins.__import__, builtins.globals),
    *(builtins.vars, builtins.locals, np.load, np.loadtxt, np.genfromtxt, np.fromfile, np.fromregex, np.memmap),
    *(np.lib.format.open_memmap, jnp.load),
)
_PLAIN = (type(None), bool, int, str, bytes, range, type(...), type(NotImplemented), types.CodeType)
_UNCHANGING = (
    *(jax.Array, np.dtype, enum.Enum, types.BuiltinFunctionType, types.WrapperDescriptorType),
    *(types.MethodDescriptorType, types.GetSetDescriptorType, types.MemberDescriptorType),
)
# What makes an object tell another state than it has.
_STATES = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__")
_REMEMBERING = type(functools.lru_cache(lambda: None))
_FUNCTIONS = ("__wrapped__", "fwd", "bwd", "jvp", "vmap_rule")  # of what jax makes of a function
_OF_EVERY_CLASS = frozenset(
    ["__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__slots__", "__annotations__"]
    + ["__orig_bases__", "__parameters__", "__dataclass_params__", "__dataclass_fields__", "__match_args__", "__hash__"]
    + ["__abstractmethods__", "_abc_impl", "__firstlineno__", "__static_attributes__", "__annotate__"]
    + ["__annotate_func__", "__annotations_cache__", "__classcell__", "__type_params__"]
)
_MOST = 3000  # objects that are followed

_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME")
_LOADS = (*_GLOBALS, "LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")

Chains = frozenset[tuple[str, ...]]
"""The attributes that code takes of what it reads, one after the other."""


class Unknown(Exception):
    """Something that has no footprint."""


class Footprint(NamedTuple):
    """What is compared, and how many bytes the arrays have that it keeps, or that its function does."""

    parts: tuple[Hashable, ...]
    size: int


def footprint(*values: Any) -> Footprint | None:
    """Return the footprint of functions and objects, equal to a later one if they would do the same; None for no."""
    walk = _Walk()
    try:
        for value in values:
            walk.follow(value)
    except Exception:  # Unknown, or whatever an object of the user raises when it is asked
        return None
    return Footprint(tuple(walk.parts), walk.size)


class Same:
    """An object that equals itself alone; it is kept, so that no other has its place in memory."""

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class _Reads(NamedTuple):
    """What code reads: globals and what it closes over, with their attributes, and modules it imports; `writes` too."""

    names: dict[str, Chains]
    cells: dict[str, Chains]
    modules: frozenset[str]
    attributes: frozenset[str]
    writes: bool


@functools.lru_cache(1024)
def _reads(code: types.CodeType) -> _Reads:
    """Read the instructions of a function, and of those within it."""
    names, cells = defaultdict[str, set](set), defaultdict[str, set](set)
    modules, attributes, writes = set(), set(), False
    chain: list[str] = []
    into = names
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
            attributes.add(step.argval)
            chain += [step.argval] if chain else []
            continue
        if chain:
            into[chain[0]].add(tuple(chain[1:]))
        chain = [step.argval] if step.opname in _LOADS else []
        into = names if step.opname in _GLOBALS else cells
        modules |= {step.argval} if step.opname == "IMPORT_NAME" else set()
        writes |= step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL")
    for inner in (_reads(const) for const in code.co_consts if isinstance(const, types.CodeType)):
        for ours, theirs in ((names, inner.names), (cells, inner.cells)):
            for name, chains in theirs.items():
                ours[name] |= chains
        modules |= inner.modules
        attributes |= inner.attributes
        writes |= inner.writes
    found, held = ({name: frozenset(chains) for name, chains in each.items()} for each in (names, cells))
    return _Reads(found, held, frozenset(modules), frozenset(attributes), writes)


def _is_trusted(module: Any) -> bool:
    """Tell whether a module's functions depend on their arguments and on what they close over alone."""
    name = str(module or "")
    return name.partition(".")[0] in _TRUSTED and not f"{name}.".startswith(tuple(f"{one}." for one in _UNTRUSTED))


def _check_users(module: Any) -> None:
    """Refuse what belongs to Python or to an installed package: much of those reads the outside world."""
    name = str(module or "")
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    top = name.partition(".")[0]
    if top in _TRUSTED or (top in sys.stdlib_module_names and top != "__main__") or "site-packages" in file:
        raise Unknown


class _Walk:
    """One walk over what functions read: the parts of their footprint."""

    def __init__(self):
        self.parts: list[Hashable] = []
        self.size: int = 0
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no two of them have the same place in memory

    def follow(self, value: Any) -> None:
        """Add the footprint of a value."""
        kind = type(value)
        if kind in _PLAIN:
            self.parts += (kind, value)
        elif kind in (float, complex) or isinstance(value, np.generic):
            self.parts += (kind, np.asarray(value).tobytes())
        elif id(value) in self._met:
            self.parts += ("again", self._met[id(value)])
        else:
            self._met[id(value)] = len(self._met)
            self._kept.append(value)
            if len(self._met) > _MOST:
                raise Unknown
            self._follow_new(value)

    def _follow_new(self, value: Any) -> None:
        kind = type(value)
        if any(value is one for one in _OPAQUE):
            raise Unknown
        if kind is np.ufunc and getattr(np, value.__name__, None) is not value:
            raise Unknown
        if isinstance(value, (*_UNCHANGING, np.ufunc)):
            self._identity(value)
        elif kind is np.ndarray:
            self._array(value)
        elif kind in (dict, types.MappingProxyType):
            self._all(kind, [one for pair in value.items() for one in pair])
        elif kind in (list, tuple, set, frozenset):
            self._all(kind, value)
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self._all(kind, (value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._all(kind, (value.func, value.args, value.keywords, vars(value)))
        elif isinstance(value, property | staticmethod | classmethod):
            self._all(kind, (value.fget,) if isinstance(value, property) else (value.__func__,))
        elif isinstance(value, types.ModuleType):
            self._module(value, frozenset([()]))
        elif isinstance(value, type):
            self._class(value)
        elif kind is _REMEMBERING and not _is_trusted(value.__module__):
            raise Unknown  # what it has returned, and will again, may have been changed since
        elif _is_trusted(kind.__module__) and hasattr(value, "__wrapped__"):  # such as what jax.jit returns
            self.parts.append(Same(value))
            for name in _FUNCTIONS:
                self.follow(getattr(value, name, None))
        else:
            self._object(value)

    def _all(self, kind: type, values: Iterable[Any]) -> None:
        values = list(values)
        self.parts += (kind, len(values))
        for value in values:
            self.follow(value)

    def _identity(self, value: Any) -> None:
        """Add what cannot change."""
        if isinstance(value, jax.Array):
            self.size += value.nbytes
        holder = getattr(value, "__self__", None)  # of a method of an extension type
        if holder is not None and not isinstance(holder, types.ModuleType):
            self.follow(holder)
        elif isinstance(value, types.BuiltinFunctionType) and not _is_trusted(value.__module__):
            raise Unknown
        self.parts.append(Same(value))

    def _array(self, value: np.ndarray) -> None:
        if value.dtype.hasobject:
            raise Unknown
        self.size += value.nbytes
        digest = hashlib.blake2b(np.ascontiguousarray(value).view(np.uint8).data).digest() if value.size else b""
        self.parts += (value.dtype.str, value.shape, digest)

    def _function(self, value: types.FunctionType) -> None:
        code, home = value.__code__, value.__globals__.get("__name__")
        self.parts.append(code)
        self.follow((value.__defaults__, value.__kwdefaults__))
        reads = _reads(code)
        for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
            try:
                self._read(cell.cell_contents, reads.cells.get(name, frozenset()))
            except ValueError:  # a name without a value yet
                self.parts.append(name)
        if _is_trusted(home):
            return
        _check_users(home)
        if reads.writes:
            raise Unknown
        self.follow(value.__dict__)
        for name in sorted(reads.modules):  # their attributes are taken of local names, which are not followed
            if not _is_trusted(name) or (name == "numpy" and "random" in reads.attributes):
                raise Unknown
            self.parts.append(name)
        for name, chains in reads.names.items():
            self.parts.append(name)
            self._read(value.__globals__.get(name, vars(builtins).get(name)), chains)

    def _read(self, value: Any, chains: Chains) -> None:
        """Add what code takes of a value: of a module only the attributes that it names."""
        if isinstance(value, types.ModuleType):
            self._module(value, chains)
        else:
            self.follow(value)

    def _module(self, module: types.ModuleType, chains: Chains) -> None:
        trusted = _is_trusted(module.__name__)
        if not trusted:
            _check_users(module.__name__)
        self.parts.append(Same(module))
        if () in chains:  # it is handed on, and may be asked for anything
            if not trusted or module is np:
                raise Unknown
            chains -= {()}
        for first in sorted({chain[0] for chain in chains}):
            self.parts.append(first)
            rest = frozenset(chain[1:] for chain in chains if chain[0] == first)
            self._read(getattr(module, first, None), rest)

    def _class(self, value: type) -> None:
        self.parts.append(Same(value))
        if _is_trusted(value.__module__):
            return
        if type(value) is not type and not _is_trusted(type(value).__module__):
            raise Unknown
        _check_users(value.__module__)
        self._all(type, value.__bases__)
        for name, held in vars(value).items():
            if isinstance(held, types.FunctionType) or name not in _OF_EVERY_CLASS:
                self.parts.append(name)
                self.follow(held)

    def _object(self, value: Any) -> None:
        """Add an object whose whole state Python can tell."""
        kind = type(value)
        if any(getattr(kind, name, None) is not getattr(object, name, None) for name in _STATES):
            raise Unknown
        try:
            made = value.__reduce_ex__(2)
        except TypeError:  # an extension type
            raise Unknown from None
        self.follow(kind)
        self._all(kind, made[1:3])
        if any(rest is not None for rest in made[3:]):
            raise Unknown
