"""The command that compares methods on one matrix."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from jaxfact.choices import Sensor, Spectrum
from jaxfact.cli import terminal
from jaxfact.cli.register import X64, AsJson, Levels, command, listed_levels, with_settings
from jaxfact.cli.targets import Target
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import ComparisonSettings


@command(place=10)
@with_settings(ComparisonSettings)
def compare(
    *,
    matrix: Annotated[
        Path | None,
        typer.Argument(help="A .npy, .npz, .csv, .tsv, .mtx or image file; the built-in elevation matrix if omitted."),
    ] = None,
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

    For a matrix with missing entries, use jaxfact complete.
    """
    target = Target(matrix, shape, rank, condition, spectrum, sense, measurements, tied)
    settings = replace(settings, levels=tuple(listed_levels(levels)))
    if settings.width is None:
        settings = replace(settings, width=target.made_up_rank)
    if tied and settings.unbalanced is not None:
        given, needed = settings.unbalanced, "one factor cannot be unbalanced"
        raise problem_with("--unbalanced", given, needed, "leave --tied out")
    terminal.configure(x64)
    from jaxfact.jobs import comparison
    from jaxfact.reports.report import report

    folder = terminal.new_folder("jaxfact-compare", out)
    problem = target.problem(settings.base_seed)
    with terminal.progress_bar() as progress:
        found = comparison.compare(problem, settings, progress=progress)
    return terminal.tell(report(found), folder, as_json)
