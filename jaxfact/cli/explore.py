"""The command that opens the live explorer."""

from typing import Annotated

import typer

from jaxfact.cli.register import command
from jaxfact.cli.targets import AbsentEntries, Entries, Largest, Source, TableLabels, read_problem


@command(place=14)
def explore(
    matrix: Annotated[
        str | None,
        typer.Argument(
            metavar="[MATRIX]", help="A file, or a data set by name; made up if omitted.", show_default=False
        ),
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where controls stand: 'step_size=0.3&methods=plain'.")
    ] = "",
    port: Annotated[int, typer.Option(help="The port; 0 for any that is free.")] = 0,
    address: Annotated[str, typer.Option(help="Who is served: the default is this machine alone.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in the browser.")] = True,
    entries: Entries = None,
    absent: AbsentEntries = None,
    labels: TableLabels = None,
    largest: Largest = None,
) -> None:
    """Serve the live explorer: a page whose sliders run a thousand starts of every method anew.

    Example: jaxfact explore --at 'step_size=1.1'
    """
    from jaxfact.explore.explorer import explore, need_panel

    need_panel()
    source = Source(matrix, entries, absent, labels, largest)
    problem = None if matrix is None else read_problem(source, as_json=False)
    explore(problem, at).serve(port=port, address=address, browser=browser)
