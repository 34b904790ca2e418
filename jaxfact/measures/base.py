"""What a measure is: a number worth recording, a function of a problem and its factors, and what it is called.

    @measure(text="‖U‖_F", unit="√σ₁", latex=r"$\\|U\\|_F \\,/\\, \\sqrt{\\sigma_1}$")
    def size_of_U(problem, factors):
        return jnp.linalg.norm(factors.U)

From then on `record="size_of_U"` finds it, in Python and at the command line, and what is recorded carries its label.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from jaxfact.inputs import problem_with
from jaxfact.numerics.trees import PyTree

Measure = Callable[[Any, Any], PyTree]
_F = TypeVar("_F", bound=Callable)


class Label(NamedTuple):
    """What a number is called: a long name, its unit, and its name in LaTeX as a pure number, divided by the unit."""

    text: str
    unit: str
    latex: str


_registered: dict[str, Measure] = {}


def measure(
    *, text: str = "", unit: str = "1", latex: str = "", fields: Mapping[str, Label] | None = None
) -> Callable[[_F], _F]:
    """Register a function of (problem, factors) under its own name, with its label; the function stays as it is.

    `text` is its long name, `unit` its unit and `latex` what a figure calls it. A measure that returns several numbers
    names those of each field in `fields` instead, an inner field as `outer_inner`.

    Raises ValueError for a name that another measure already has.
    """

    def registered(function: _F) -> _F:
        name = function.__name__
        holder = _registered.get(name, function)
        # A notebook cell or the file of an experiment may be read twice.
        if (holder.__module__, holder.__qualname__) != (function.__module__, function.__qualname__):
            raise problem_with("measure", name, f"{holder.__module__} has one of the same name", "rename the function")
        _registered[name] = labelled(text=text, unit=unit, latex=latex, fields=fields)(function)
        return function

    return registered


def labelled(
    *, text: str = "", unit: str = "1", latex: str = "", fields: Mapping[str, Label] | None = None
) -> Callable[[_F], _F]:
    """Give a function its label but no name to be found by: for what a function of parameters returns, as `rows(2)`."""
    labels = {"": Label(text, unit, latex)} if fields is None else dict(fields)

    def labelled(function: _F) -> _F:
        vars(function)["labels"] = labels
        return function

    return labelled


def labels_of(function: Measure) -> Mapping[str, Label]:
    """Return the labels of a measure by field, that of a lone number under ""; empty where it declares none."""
    return getattr(function, "labels", {})


def label_of(function: Measure) -> Label:
    """Return the label of a measure of one number, which has declared it."""
    return labels_of(function)[""]


def names() -> list[str]:
    """Return the names of all known measures, in alphabetical order."""
    return sorted(_registered)


def named(name: str) -> Measure:
    """Return a measure by its name; raises ValueError, which lists the known names, where there is none."""
    if name not in _registered:
        raise problem_with("record", name or "''", "no measure has this name", f"choose among {', '.join(names())}")
    return _registered[name]
