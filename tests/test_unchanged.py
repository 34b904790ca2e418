"""When an experiment counts as unchanged: never where something that it reads is another."""

import functools
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfact as jf
from jaxfact.engine.unchanged import footprint

SCALE, TABLE, HELD = 0.1, np.ones(3), {"scale": [0.1, 0.2]}
PROBLEM = jf.Factorization([1.0, 0.5], shape=(4, 3))
OBJECTS = np.array([object()])
RNG = np.random.default_rng(0)
MODULE = types.ModuleType("users_module")
exec("SCALE = 0.1\ndef scaled(x):\n    return SCALE * x", vars(MODULE))
sys.modules["users_module"] = MODULE


def helper(x):
    return SCALE * x


class Sized:
    """An object of a user, with a method that is an experiment."""

    offset = 1.0

    def __init__(self, size):
        self.size = size

    def experiment(self, x):
        return self.size * x + self.offset


class Leaf(eqx.Module):
    """A module of Equinox, as problems and starts are."""

    array: jax.Array
    table: np.ndarray
    name: str = eqx.field(static=True)


def set_global(name, value) -> Callable:
    return lambda: globals().update({name: value})


def closing_over(value):
    cell = [value]

    def experiment(x):
        return cell[0] * x

    return experiment, cell


def with_default(x, scale=0.1):
    return scale * x


def of_keyword(x, *, scale=0.1):
    return scale * x


CLOSED, CELL = closing_over(0.1)
ARRAYS, ARRAYS_CELL = closing_over(np.arange(6.0).reshape(2, 3))
PARTIAL = functools.partial(with_default, scale=0.3)
SIZED = Sized(2.0)
LEAF = Leaf(jnp.ones(3), np.ones(2), "leaf")
JITTED = jax.jit(lambda x: SCALE * x)


@jax.custom_vjp
def with_gradient(x):
    return x


with_gradient.defvjp(lambda x: (x, None), lambda _, slope: (SCALE * slope,))


@functools.cache
def remembered():
    return np.ones(3)


class Named(dict):
    """A dict whose keys are its attributes, as many write it: one that it lacks is a KeyError."""

    __getattr__ = dict.__getitem__


NAMED = Named(scale=0.1)

# What is read, and what changes it.
CHANGES = {
    "a global": (lambda x: SCALE * x, set_global("SCALE", 0.2)),
    "a global of the other zero": (lambda x: SCALE * x, set_global("SCALE", -0.0)),
    "a global of another type": (lambda x: SCALE * x, set_global("SCALE", np.float32(0.1))),
    "a global of a helper": (lambda x: helper(x), set_global("SCALE", 0.2)),
    "a helper": (lambda x: helper(x), set_global("helper", lambda x: x)),
    "a global within a function within": (lambda x: (lambda y: SCALE * y)(x), set_global("SCALE", 0.2)),
    "a global of a jitted function": (lambda x: JITTED(x), set_global("SCALE", 0.2)),
    "a global of a user's gradient": (lambda x: with_gradient(x), set_global("SCALE", 0.2)),
    "an array in place": (lambda x: TABLE * x, lambda: TABLE.__setitem__(0, 2.0)),
    "an array closed over, in place": (ARRAYS, lambda: ARRAYS_CELL[0].__setitem__((1, 2), 7.0)),
    "an entry of a list in a dict": (lambda x: HELD["scale"][0] * x, lambda: HELD["scale"].__setitem__(0, 3.0)),
    "a closure": (CLOSED, lambda: CELL.__setitem__(0, 0.2)),
    "a default": (with_default, lambda: setattr(with_default, "__defaults__", (0.2,))),
    "a default by keyword": (of_keyword, lambda: of_keyword.__kwdefaults__.update(scale=0.2)),
    "a problem": (lambda x: PROBLEM, lambda: object.__setattr__(PROBLEM, "singular_values", jnp.array([1.0, 0.4]))),
    "a leaf of a module": (lambda x: LEAF, lambda: object.__setattr__(LEAF, "name", "other")),
    "an array of a module, in place": (lambda x: LEAF.table, lambda: LEAF.table.__setitem__(1, 5.0)),
    "an attribute of a user's module": (lambda x: MODULE.SCALE * x, lambda: setattr(MODULE, "SCALE", 0.2)),
    "a global of a function of a module": (lambda x: MODULE.scaled(x), lambda: setattr(MODULE, "SCALE", 0.2)),
    "the object of a bound method": (SIZED.experiment, lambda: setattr(SIZED, "size", 3.0)),
    "the class of a bound method": (SIZED.experiment, lambda: setattr(Sized, "offset", 3.0)),
    "a method": (lambda x: SIZED.experiment(x), lambda: setattr(Sized, "experiment", lambda self, x: x)),
    "a keyword of a partial": (PARTIAL, lambda: PARTIAL.keywords.update(scale=0.4)),
    "code": (with_default, lambda: setattr(with_default, "__code__", (lambda x, scale=0.1: scale + x).__code__)),
    "a function of this library": (
        lambda x: jf.methods.gradient_descent(x),
        lambda: vars(jf.methods).update(gradient_descent=jf.methods.balanced),
    ),
    "a name that was not there": (lambda x: missing * x, set_global("missing", 1.0)),  # noqa: F821
}
RESTORED = ("SCALE", "helper", "missing")


@pytest.fixture(autouse=True)
def restored():
    """Put back what the changes change."""
    before = {name: globals().get(name) for name in RESTORED}
    functions = {one: (one.__code__, one.__defaults__, one.__kwdefaults__) for one in (with_default, of_keyword)}
    descent, values, method = jf.methods.gradient_descent, PROBLEM.singular_values, Sized.experiment
    yield
    globals().update(before)
    for one, (code, defaults, keywords) in functions.items():
        one.__code__, one.__defaults__, one.__kwdefaults__ = code, defaults, {"scale": 0.1} if keywords else None
    vars(jf.methods)["gradient_descent"] = descent
    object.__setattr__(PROBLEM, "singular_values", values)
    MODULE.SCALE, SIZED.size, Sized.offset, Sized.experiment = 0.1, 2.0, 1.0, method


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed(what):
    """And nothing is, where nothing has changed."""
    experiment, change = CHANGES[what]
    before = footprint(experiment)
    assert before is not None
    assert footprint(experiment) == before
    change()
    assert footprint(experiment) != before


def read_file(x):
    return x + len(open(__file__).read())


def writing(x):
    global SCALE  # noqa: PLW0603
    SCALE = x
    return x


class Secretive(Sized):
    def __getstate__(self):
        return {}


class Meta(type):
    rate = 0.1


class OfMeta(metaclass=Meta):
    pass


SECRETIVE = Secretive(1.0)
UFUNC = np.frompyfunc(lambda x: SCALE * x, 1, 1)

UNKNOWN = {
    "an object that hides its state": lambda x: SECRETIVE.size * x,
    "an object that raises": lambda x: NAMED.scale * x,
    "what a function remembers": lambda x: remembered()[0] * x,
    "a class of a user's metaclass": lambda x: OfMeta.rate * x,
    "a user's ufunc": lambda x: UFUNC(x),
    "a file that is mapped": lambda x: np.lib.format.open_memmap("a.npy") * x,
    "a file by JAX": lambda x: jnp.load("a.npy") * x,
    "a generator": lambda x: RNG.normal() * x,
    "random numbers of NumPy": lambda x: np.random.normal() * x,  # noqa: NPY002
    "NumPy handed on": lambda x: getattr(np, "random").normal() * x,  # noqa: B009
    "a file": read_file,
    "a file of the library": lambda x: jf.data.read("a.csv"),
    "a user's module handed on": lambda x: getattr(MODULE, f"SC{'ALE'}") * x,
    "a path": lambda x: Path("a").read_text(),
    "arrays of objects": lambda x: (OBJECTS, x),
    "a function that writes": writing,
    "evaluated text": lambda x: eval("SCALE") * x,
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_cannot_be_followed_is_not_known(what):
    assert footprint(UNKNOWN[what]) is None


def test_what_libraries_compute_with_is_followed_no_further():
    """An experiment as users write it: few things are looked at, and what it closes over is among them."""

    def experiment(step_size, width):
        import math

        start = jf.starts.Gaussian(2, scale=0.1 * math.sqrt(SCALE))
        noise = jax.random.normal(jax.random.key(0), (3,))
        values = jnp.linspace(1, 0.5, 3) + np.linspace(0, 1, 3) + noise
        return jf.Run(jf.Factorization(values, shape=(9, 8)), start, jf.methods.balanced(step_size, 0.1))

    found = footprint(experiment)
    assert found is not None
    assert len(found.parts) < 200


def test_methods_are_known_by_what_they_close_over():
    """An optax chain is a tuple of functions, which hold its numbers."""

    def of(step_size):
        method = jf.methods.gradient_descent(step_size)
        return lambda: jf.Run(PROBLEM, jf.starts.Gaussian(1, scale=0.1), method)

    code = of(0.1)
    assert footprint(code) == footprint(code)
    assert footprint(of(0.1)).parts[0] == footprint(of(0.2)).parts[0]
    assert footprint(of(0.1)) != footprint(of(0.2))


def test_sizes_of_arrays_are_counted():
    table = np.zeros(1000)
    assert footprint(lambda: table).size == 8000
    assert footprint(lambda: math.pi).size == 0
