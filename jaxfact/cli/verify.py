"""The command that holds claims of papers against runs."""

from pathlib import Path
from typing import Annotated

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, command
from jaxfact.inputs import problem_with
from jaxfact.showing.pace import WORK


@command(place=13)
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ID or PAPER]…", help="Which claims; all if omitted.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.  [default: each preset's own]")] = None,
    store: Annotated[
        str | None, typer.Option(help="Store of the runs, path or URL: a killed command goes on, seeds are added.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-verify, or the next free]")] = None,
    as_json: AsJson = False,
    x64: X64 = False,
    listed: Annotated[bool, typer.Option("--list", help="List the claims, and run none.")] = False,
) -> Path | None:
    """Hold what theorems promise against thousands of runs, with verdicts: all claims take a few minutes.

    The exit code is 1 if a claim is violated. Claims that need float64 run in it in any case, the others with --x64.

    Example: jaxfact verify C1 C8
    """
    given = {"--seeds": seeds, "--store": store, "--out": out}
    if listed and (more := [name for name, value in given.items() if value is not None]):
        raise problem_with("--list", " ".join(more), "runs nothing", "leave one of them out")
    terminal.configure(x64)
    from rich.console import Console

    from jaxfact.jobs import verifying
    from jaxfact.reports import claims as reports
    from jaxfact.reports.pages import print_table

    chosen = verifying.chosen(names or ())
    if listed:
        if as_json:
            terminal.tell_json(reports.list_as_json(chosen))
        else:
            print_table(Console(), *reports.list_of(chosen))
        return None
    verifying.check(chosen, seeds, store)
    folder = terminal.new_folder("jaxfact-verify", out)
    try:
        with terminal.progress_shown(WORK) as progress:
            found = verifying.verify(*chosen, seeds=seeds, store=store, progress=progress)
    except KeyboardInterrupt:
        if store is None:
            raise
        terminal.fail(f"interrupted; the same command goes on with what {store} holds", 130)
    folder = terminal.tell(reports.report_of(found, stored=store is not None), folder, as_json)
    if found.left_out:
        terminal.fail(f"interrupted before {', '.join(found.left_out)}", 130)
    if found.failed:
        terminal.fail("; ".join(reports.failures(found)))
    if found.violated:
        raise typer.Exit(1)
    return folder
