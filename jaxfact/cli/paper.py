"""The command that shows what a paper claims, and what of it runs show."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, command
from jaxfact.inputs import problem_with
from jaxfact.showing.pace import WORK


@command(place=12)
def paper(
    name: Annotated[str | None, typer.Argument(help="Which one; all are listed if omitted.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.  [default: each preset's own]")] = None,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-paper, or the next free]")] = None,
    as_json: AsJson = False,
    x64: X64 = False,
) -> Path | None:
    """Run the experiments of a paper at a small size, and draw what it promises against what they measure.

    The page has a figure for each claim; all numbers that the claims are judged by are printed too.

    Example: jaxfact paper wind-2023
    """
    if name is None and (seeds is not None or out is not None or as_json):
        raise problem_with("paper", None, "--seeds, --out and --json need a name", "jaxfact paper lists the names")
    terminal.configure(x64)
    from rich.console import Console

    from jaxfact import papers
    from jaxfact.jobs.verifying import verify
    from jaxfact.reports import claims as reports

    if name is None:
        reports.print_list(Console())
        return None
    paper = papers.find(name)
    folder = terminal.new_folder("jaxfact-paper", out)
    with terminal.progress_shown(WORK) as progress:
        found = verify(name, seeds=seeds, progress=progress)
    say = partial(reports.print_findings, found, Console())
    folder = terminal.tell(reports.report_of_paper(paper, found), folder, as_json, say)
    if found.failed:
        terminal.fail("; ".join(reports.failures(found)))
    return folder
