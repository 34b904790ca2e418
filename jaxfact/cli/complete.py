"""The command that completes a matrix with missing entries."""

from pathlib import Path
from typing import Annotated

import typer

from jaxfact.choices import Centring
from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, command, with_settings
from jaxfact.cli.targets import AbsentEntries, Entries, Largest, Source, TableLabels
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import RecoverySettings


@command(place=11)
@with_settings(RecoverySettings)
def complete(
    *,
    matrix: Annotated[
        str,
        typer.Argument(
            metavar="MATRIX",
            help="A file of a matrix that lacks entries or of a list of entries, FILE:VARIABLE, or movielens or pm10.",
            show_default=False,
        ),
    ],
    entries: Entries = None,
    absent: AbsentEntries = None,
    labels: TableLabels = None,
    largest: Largest = None,
    settings: RecoverySettings,
    centre: Annotated[
        Centring, typer.Option(help="Removed before the descent, and added to the predictions.")
    ] = Centring.NONE,
    splits: Annotated[
        int | None, typer.Option(help="Random splits of the known entries.  [default: 5, fewer for more than 200000]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-complete, or the next free]")] = None,
    as_json: AsJson = False,
    x64: X64 = False,
) -> Path:
    """Complete a matrix from part of its known entries, and judge the methods by the others.

    Plain, balanced and noise-injected descent fit the training entries of each split; validation entries choose the
    step, test entries judge. For a matrix without missing entries, use jaxfact compare.

    Example: jaxfact complete ratings.csv --width 5 --centre biases
    """
    source = Source(matrix, entries, absent, labels, largest)
    terminal.configure(x64)
    from jaxfact.jobs import recovery

    folder = terminal.new_folder("jaxfact-complete", out)
    known = source.read()
    if not known.isnull().any():
        raise problem_with("matrix", matrix, "has no missing entry", f"run jaxfact compare {matrix}")
    source.say(known, as_json)
    with terminal.progress_shown() as bar, terminal.drawing_soon(bar) as progress:
        found = recovery.complete(known, settings, centre=centre, splits=splits, progress=progress)
    from jaxfact.reports.report import report

    return terminal.tell(report(found), folder, as_json)
