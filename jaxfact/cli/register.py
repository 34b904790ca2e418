"""How a command joins the command line, and the options it has.

Its file is in this folder, with `@command` on its function. Options that commands share are here, and a settings
class gives a command one option per field.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args, get_type_hints

import typer

from jaxfact.choices import members
from jaxfact.inputs import problem_with

Store = Annotated[str, typer.Argument(metavar="STORE", help="The store of a sweep: path or URL.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of the table.")]
Levels = Annotated[
    str | None,
    typer.Option(metavar="LEVEL,…", help="Distances to which runs are timed, beside the tolerance: 0.05,1e-3."),
]
X64 = Annotated[bool, typer.Option("--x64", help="Compute in float64.")]

Function = TypeVar("Function", bound=Callable[..., Path | None])


class _Command(NamedTuple):
    place: int
    function: Callable[..., Path | None]


_COMMANDS: dict[str, _Command] = {}


def command(place: int = 50) -> Callable[[Function], Function]:
    """Make a function the command of its name; `place` orders the list of commands, equal places go by name.

    The function writes its results before it tells them, and returns where they are, or None where it leaves none.
    """

    def register(function: Function) -> Function:
        _COMMANDS[function.__name__] = _Command(place, function)
        return function

    return register


def commands() -> list[Callable[..., Path | None]]:
    """Return the functions of all commands in their order; the files of the folder are loaded for that."""
    files = {module.__name__ for module in members(__name__.rpartition(".")[0])}
    ranked = sorted(_COMMANDS.items(), key=lambda item: (item[1].place, item[0]))
    return [found.function for _, found in ranked if found.function.__module__ in files]


def listed_levels(given: str | None) -> list[float]:
    """Return the levels of an option; none where it is left out."""
    if given is None:
        return []
    try:
        return [float(level) for level in given.split(",")]
    except ValueError:
        raise problem_with("--levels", given, "needs numbers between the commas", "write it like 0.05,1e-3") from None


def with_settings(kind: type) -> Callable[[Callable[..., Path | None]], Callable[..., Path | None]]:
    """Give a command an option per field of a settings class, where it takes `settings`; what it names itself wins.

    Defaults and help are those of the class, where the help stands beside the type.
    """
    hints = get_type_hints(kind, include_extras=True)

    def decorate(function: Callable[..., Path | None]) -> Callable[..., Path | None]:
        own = inspect.signature(function).parameters
        fields = [field for field in dataclasses.fields(kind) if field.name not in own]
        options = [_option(field, hints[field.name]) for field in fields]

        @wraps(function)
        def command(**given: Any) -> Path | None:
            settings = kind(**{field.name: given.pop(field.name) for field in fields})
            return function(settings=settings, **given)

        taken = [options if name == "settings" else [parameter] for name, parameter in own.items()]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for some in taken for one in some]
        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        return command

    return decorate


def _option(field: dataclasses.Field, hint: Any) -> inspect.Parameter:
    type_, text = get_args(hint)
    annotation = Annotated[type_, typer.Option(help=text)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
