"""The command that shows what a paper claims, and what of it runs show."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, command
from jaxfact.inputs import problem_with


@command(place=12)
def paper(
    name: Annotated[str | None, typer.Argument(help="Which one; all are listed if omitted.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.  [default: each preset's own]")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder for the page and the labelled runs.")] = None,
    as_json: AsJson = False,
    x64: X64 = False,
) -> Path | None:
    """Run the experiments of a paper at a small size, and print its claims with all numbers that they are judged by.

    Example: jaxfact paper wind-2023
    """
    if name is None and (seeds is not None or out is not None or as_json):
        raise problem_with("paper", None, "--seeds, --out and --json need a name", "jaxfact paper lists the names")
    terminal.configure(x64)
    from rich.console import Console

    from jaxfact import papers
    from jaxfact.jobs.verifying import verify
    from jaxfact.reports import claims as reports
    from jaxfact.results.whole import check_new_folder

    if name is None:
        reports.print_list(Console())
        return None
    papers.find(name)
    if out is not None:
        check_new_folder(out)
    with terminal.progress_bar("s of work") as progress:
        found = verify(name, seeds=seeds, progress=progress)
    report, say = reports.report_of(found), partial(reports.print_findings, found, Console())
    folder = None
    if out is not None:
        folder = terminal.tell(report, out, as_json, say)
    elif as_json:
        terminal.tell_json(report.summary)
    else:
        say()
    if found.failed:
        terminal.fail("; ".join(reports.failures(found)))
    return folder
