"""The command that compares methods on one matrix."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from jaxfact.choices import Sensor, Spectrum
from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, Levels, command, listed_levels, with_settings
from jaxfact.cli.targets import AbsentEntries, Entries, Largest, Source, TableLabels, Target
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import ComparisonSettings


@command(place=10)
@with_settings(ComparisonSettings)
def compare(
    *,
    matrix: Annotated[
        str | None,
        typer.Argument(
            help="A file, FILE:VARIABLE, or one of elevation, movielens, pm10, indian_pines, faces, digits, camera.",
        ),
    ] = None,
    entries: Entries = None,
    absent: AbsentEntries = None,
    labels: TableLabels = None,
    largest: Largest = None,
    shape: Annotated[
        str | None, typer.Option(help="Make up a target of this size instead, for example 100x80.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the made-up target.  [default: 5]")] = None,
    condition: Annotated[float | None, typer.Option(help="σ₁/σ_r of the made-up target.  [default: 10]")] = None,
    spectrum: Annotated[Spectrum | None, typer.Option(help="Its singular values.  [default: linear]")] = None,
    sense: Annotated[
        Sensor | None, typer.Option(help="See the matrix only through random linear measurements of this kind.")
    ] = None,
    measurements: Annotated[int | None, typer.Option(help="Number of measurements, with --sense.")] = None,
    tied: Annotated[bool, typer.Option("--tied", help="One factor X Xᵀ, for a positive semidefinite matrix.")] = False,
    settings: ComparisonSettings,
    levels: Levels = None,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-compare, or the next free]")] = None,
    as_json: AsJson = False,
    x64: X64 = False,
) -> Path:
    """Compare plain, balanced and noise-injected descent from thousands of random starts on one matrix.

    Without an argument, on the built-in elevation matrix. For a matrix with missing entries, use jaxfact complete.

    Example: jaxfact compare MATRIX.csv --width 3 --seeds 1000
    """
    target = Target(
        Source(matrix, entries, absent, labels, largest), shape, rank, condition, spectrum, sense, measurements, tied
    )
    settings = replace(settings, levels=tuple(listed_levels(levels)))
    if settings.width is None:
        settings = replace(settings, width=target.made_up_rank)
    if tied and settings.unbalanced is not None:
        given, needed = settings.unbalanced, "one factor cannot be unbalanced"
        raise problem_with("--unbalanced", given, needed, "leave --tied out")
    terminal.configure(x64)
    from jaxfact.jobs import comparison

    folder = terminal.new_folder("jaxfact-compare", out)
    problem = target.problem(settings.base_seed, as_json)
    with terminal.progress_shown() as bar, terminal.drawing_soon(bar) as progress:
        found = comparison.compare(problem, settings, progress=progress)
    from jaxfact.reports.report import report

    return terminal.tell(report(found), folder, as_json)
