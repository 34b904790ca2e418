"""The command that runs what papers show."""

import sys
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
    out: Annotated[Path | None, typer.Option(help="New folder for the labelled runs.")] = None,
    as_json: AsJson = False,
    x64: X64 = False,
) -> Path | None:
    """Run the experiments of a paper at a small size, and say whether they show what the paper says.

    Example: jaxfact paper wind-2023
    """
    if name is None and (seeds is not None or out is not None or as_json):
        raise problem_with("paper", None, "--seeds, --out and --json need a name", "jaxfact paper lists the names")
    terminal.configure(x64)
    from rich.console import Console

    from jaxfact import papers
    from jaxfact.reports import paper as reports
    from jaxfact.results.whole import check_new_folder

    if name is None:
        reports.print_list(Console())
        return None
    found = papers.find(name)
    terminal.configure(x64 or found.needs_x64)
    if out is not None:
        check_new_folder(out)
    with terminal.progress_bar() as progress:
        outcomes = found.run(seeds, progress)
    with terminal.written_first(partial(reports.write, outcomes, out) if out is not None else lambda: None):
        if as_json:
            terminal.tell_json(reports.as_json(found, outcomes))
        else:
            reports.print_findings(found, outcomes, Console())
    if out is not None:
        print(f"results: {out}", file=sys.stderr if as_json else sys.stdout)
    return out
