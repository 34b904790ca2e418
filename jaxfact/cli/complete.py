"""The command that completes a matrix with missing entries."""

from pathlib import Path
from typing import Annotated

import typer

from jaxfact.choices import Centring
from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, command, with_settings
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import RecoverySettings


@command(place=11)
@with_settings(RecoverySettings)
def complete(
    *,
    matrix: Annotated[
        Path,
        typer.Argument(
            metavar="MATRIX",
            help="A file holding a matrix with NaN or empty fields, or a .csv of row,column,value.",
            show_default=False,
        ),
    ],
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
    """
    terminal.configure(x64)
    from jaxfact import data
    from jaxfact.jobs import recovery
    from jaxfact.reports.report import report

    folder = terminal.new_folder("jaxfact-complete", out)
    known = data.read(matrix)
    if (known == known).all():  # no NaN
        raise problem_with("matrix", matrix, "has no missing entry", f"run jaxfact compare {matrix}")
    with terminal.progress_bar() as progress:
        found = recovery.complete(known, settings, centre=centre, splits=splits, progress=progress)
    return terminal.tell(report(found), folder, as_json)
