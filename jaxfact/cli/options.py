"""Options that commands share, and those that a settings class gives a command."""

import dataclasses
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

Store = Annotated[Path, typer.Argument(metavar="STORE", help="The store of a sweep.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of the table.")]
X64 = Annotated[bool, typer.Option("--x64", help="Compute in float64.")]


def with_settings(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option per field of a settings class, where it takes `settings`; what it names itself wins.

    Defaults and help are those of the class, where the help stands beside the type.
    """
    hints = get_type_hints(kind, include_extras=True)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function).parameters
        fields = [field for field in dataclasses.fields(kind) if field.name not in own]
        options = [_option(field, hints[field.name]) for field in fields]

        @wraps(function)
        def command(**given: Any) -> None:
            settings = kind(**{field.name: given.pop(field.name) for field in fields})
            function(settings=settings, **given)

        taken = [options if name == "settings" else [parameter] for name, parameter in own.items()]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for some in taken for one in some]
        command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        return command

    return decorate


def _option(field: dataclasses.Field, hint: Any) -> inspect.Parameter:
    type_, text = get_args(hint)
    annotation = Annotated[type_, typer.Option(help=text)]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
