"""The command that shows a sweep as figures and a page."""

from pathlib import Path
from typing import Annotated

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import Store, command


@command(place=22)
def report(
    store: Store,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-report, or the next free]")] = None,
) -> Path:
    """Draw figures and write one HTML page of a sweep, finished or not, or of any store of results.

    Example: jaxfact report runs/a.zarr
    """
    from jaxfact.reports.pages import PAGE
    from jaxfact.reports.report import report as report_on

    folder = terminal.new_folder("jaxfact-report", out)
    shown = report_on(store)
    with terminal.written_first(lambda: shown.write(folder)):
        shown.print()
    print(f"page: {folder / PAGE}")
    return folder
