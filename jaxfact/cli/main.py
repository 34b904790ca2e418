"""The command line: reads arguments, calls the library, prints. Nothing heavy is imported before a command runs."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from jaxfact.cli import terminal
from jaxfact.cli.output import forgiving_streams
from jaxfact.cli.register import commands
from jaxfact.inputs import printable
from jaxfact.store.medium import Damage, DamageWarning, StoreError
from jaxfact.version import __version__


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, a warning one line.

    What is damaged of a store is a warning, and exit code 1.

    A pipe that is closed ends nothing and is no error. Other output that cannot be written is said, and is an error
    where the command leaves no results that hold what was to be told.
    """
    damaged: list[object] = []

    def note(message: Warning | str, category: type[Warning], *_: object) -> None:
        print(printable(f"jaxfact: note: {message}"), file=sys.stderr)
        damaged.extend([message] * issubclass(category, DamageWarning))

    warnings.showwarning = note
    # Of many files that cannot be read Zarr raises the first, and the others would be logged with their tracebacks.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    with forgiving_streams() as told:
        results = _called()
        told.flush()
        if told.failure is not None and not isinstance(told.failure, BrokenPipeError):
            said = f"standard output could not be written ({told.failure.strerror})"
            if results is None:
                terminal.fail(said, 1)
            print(f"jaxfact: note: {said}; the results are in {results}", file=sys.stderr)
        sys.exit(1 if damaged else 0)


def _called() -> Path | None:
    """Run the command and return where it has left results; end in one line where it cannot."""
    try:
        code = _app()(standalone_mode=False)
    except typer.TyperException as error:
        terminal.fail(error.format_message().replace("Value error, ", ""))  # the words of what checks for Typer
    except Damage as error:
        terminal.fail(f"{error}; {error.remedy}", 1)
    except ValueError as error:
        terminal.fail(str(error))
    except StoreError as error:
        terminal.fail(str(error), 1)
    except OSError as error:
        terminal.fail(f"the results could not be written ({error}); nothing was left behind", 1)
    except MemoryError:
        terminal.fail("this machine has too little memory for it; ask for fewer runs, or fewer records, at a time", 1)
    except (KeyboardInterrupt, typer.Abort):
        terminal.fail("interrupted; nothing was written", 130)
    if code == 130:  # Typer turns an interrupt into this code
        terminal.fail("interrupted; nothing was written", 130)
    if isinstance(code, int) and code:
        sys.exit(code)
    return code if isinstance(code, Path) else None


def _app() -> typer.Typer:
    """Return the command line with every command of this folder."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback(invoke_without_command=True)(_root)
    for function in commands():
        app.command()(function)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """A laboratory for gradient descent on low-rank matrix problems."""
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())
