"""How a command comes to the command line: its file stands in this folder, with `@command` on its function."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import NamedTuple, TypeVar

Function = TypeVar("Function", bound=Callable[..., None])


class _Command(NamedTuple):
    place: int
    function: Callable[..., None]


_COMMANDS: dict[str, _Command] = {}


def command(place: int = 50) -> Callable[[Function], Function]:
    """Make a function the command of its name; `place` orders the list of commands, equal places go by name."""

    def register(function: Function) -> Function:
        _COMMANDS[function.__name__] = _Command(place, function)
        return function

    return register


def commands() -> list[Callable[..., None]]:
    """Return the functions of all commands in their order; the files of the folder are loaded for that."""
    package = importlib.import_module(__name__.rpartition(".")[0])
    files = {found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")}
    for file in sorted(files):
        importlib.import_module(file)
    ranked = sorted(_COMMANDS.items(), key=lambda item: (item[1].place, item[0]))
    return [found.function for _, found in ranked if found.function.__module__ in files]
