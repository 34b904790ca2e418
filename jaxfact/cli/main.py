"""The command line: reads arguments, calls the library, prints. Nothing heavy is imported before a command runs."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxfact.choices import Centring, Sensor, Spectrum
from jaxfact.cli import sweep as sweep_cli
from jaxfact.cli import terminal
from jaxfact.cli.replay import replay
from jaxfact.inputs import problem_with
from jaxfact.jobs.settings import ComparisonSettings, RecoverySettings
from jaxfact.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import PRNGKeyArray

    from jaxfact.data import Matrix
    from jaxfact.problems.base import Problem
    from jaxfact.problems.factorization import Factorization

app: typer.Typer = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
_DEFAULT = ComparisonSettings()
_TARGET, _OPERATOR = range(2)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit code 2, a warning one line."""
    warnings.showwarning = lambda message, *_: print(f"jaxfact: note: {message}", file=sys.stderr)
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        terminal.fail(error.format_message())
    except ValueError as error:
        terminal.fail(str(error))
    except OSError as error:
        terminal.fail(f"the results could not be written ({error}); nothing was left behind", 1)
    except MemoryError:
        terminal.fail("this machine has too little memory for it; ask for fewer runs, or fewer records, at a time", 1)
    except (KeyboardInterrupt, typer.Abort):
        terminal.fail("interrupted; nothing was written", 130)
    else:
        if code == 130:  # Typer turns an interrupt into this code
            terminal.fail("interrupted; nothing was written", 130)
        sys.exit(code or 0)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """A laboratory for gradient descent on low-rank matrix problems."""
    if version:
        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def compare(
    context: typer.Context,
    matrix: Annotated[
        Path | None,
        typer.Argument(help="A .npy, .npz, .csv, .tsv, .mtx or image file; the built-in elevation matrix if absent."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Make up a target of this size instead, for example 100x80.")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the made-up target.  [default: 5]")] = None,
    condition: Annotated[float | None, typer.Option(help="σ₁/σ_r of the made-up target.  [default: 10]")] = None,
    spectrum: Annotated[Spectrum | None, typer.Option(help="Its singular values.  [default: linear]")] = None,
    width: Annotated[
        int | None, typer.Option(help=f"Columns of the factors.  [default: {_DEFAULT.width}, or the made-up rank]")
    ] = None,
    sense: Annotated[
        Sensor | None, typer.Option(help="See the matrix through random linear measurements of this kind only.")
    ] = None,
    measurements: Annotated[int | None, typer.Option(help="Their number, with --sense.")] = None,
    tied: Annotated[bool, typer.Option("--tied", help="One factor X Xᵀ, for a symmetric positive matrix.")] = False,
    seeds: Annotated[int, typer.Option(help="Number of random starts for each method.")] = _DEFAULT.seeds,
    scale: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the start's entries, in √σ₁.  [default: 0.001, less for m+n > 1000]"),
    ] = _DEFAULT.scale,
    unbalanced: Annotated[float | None, typer.Option(help="Start with ‖U‖/‖V‖ equal to this.")] = None,
    step_size: Annotated[float, typer.Option(help="Step size, in 1/σ₁.")] = _DEFAULT.step_size,
    weight: Annotated[float, typer.Option(help="Weight of ‖UᵀU−VᵀV‖²_F in the balanced loss.")] = _DEFAULT.weight,
    noise: Annotated[float, typer.Option(help="Noise an entry and step, in √σ₁.")] = _DEFAULT.noise,
    max_steps: Annotated[int, typer.Option(help="Budget of steps for one run.")] = _DEFAULT.max_steps,
    tolerance: Annotated[float, typer.Option(help="Relative distance, not squared.")] = _DEFAULT.tolerance,
    check_every: Annotated[int, typer.Option(help="Steps between two looks at a run.")] = _DEFAULT.check_every,
    base_seed: Annotated[int, typer.Option(help="Number from which all random keys derive.")] = _DEFAULT.base_seed,
    centre: Annotated[
        Centring | None,
        typer.Option(help="Removed from a matrix with missing entries before the descent.  [default: none]"),
    ] = None,
    compress: Annotated[
        bool, typer.Option("--compress/--no-compress", help="Run on the exactly compressed problem.")
    ] = _DEFAULT.compress,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-compare, or the next free]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON instead of the table.")] = False,
    x64: Annotated[bool, typer.Option("--x64", help="Compute in float64.")] = False,
    preset: Annotated[
        str | None, typer.Option(help="Run an experiment of a paper instead: see jaxfact presets.")
    ] = None,
) -> None:
    """Compare plain, balanced and noise-injected descent from thousands of random starts on one matrix.

    A matrix with missing entries (NaN, empty fields, or a .csv of row,column,value) is completed from a part of those
    that are known, and the methods are judged by the others: then the defaults are 2 starts on each of 2 to 5 splits,
    1000 steps looked at every 10, and a step size that is safe for the part observed.
    """
    if preset is not None:
        return _run_preset(preset, _given(context), as_json)
    made_up = shape is not None
    settings = ComparisonSettings(
        width=_DEFAULT.width if width is None else width,
        seeds=seeds,
        scale=scale,
        unbalanced=unbalanced,
        step_size=step_size,
        weight=weight,
        noise=noise,
        max_steps=max_steps,
        tolerance=tolerance,
        check_every=check_every,
        base_seed=base_seed,
        compress=compress,
    )
    if matrix is not None and made_up:
        raise problem_with("--shape", shape, "a matrix is given too", "give one of the two")
    if not made_up and (rank, condition, spectrum) != (None, None, None):
        raise problem_with("--rank, --condition, --spectrum", "given", "they need --shape", "add --shape 100x80")
    if (sense is None) != (measurements is None):
        given = "--measurements alone" if sense is None else "--sense alone"
        raise problem_with("--sense, --measurements", given, "needs both", "say --sense gaussian --measurements 1500")
    if tied and unbalanced is not None:
        raise problem_with("--unbalanced", unbalanced, "one factor cannot be unbalanced", "leave --tied out")
    terminal.configure(x64)
    from jaxfact.jobs import comparison
    from jaxfact.problems.factorization import Factorization
    from jaxfact.reports import comparison as report
    from jaxfact.results.whole import check_new_folder

    folder = terminal.free_folder("jaxfact-compare") if out is None else out
    check_new_folder(folder)
    if made_up:
        rank = 5 if rank is None else rank
        values = _made_up_values(shape, rank, 10.0 if condition is None else condition, spectrum or Spectrum.LINEAR)
        problem = _made_up(_sizes(shape), values, generic=sense is not None, tied=tied, base_seed=base_seed)
        settings = settings if width is not None else replace(settings, width=rank)
    else:
        target = _measured(matrix)
        if (target != target).any():  # NaN
            return _recover(context, target, folder, as_json)
        problem = Factorization(target)
    if centre is not None:
        raise problem_with("--centre", centre, "is for missing entries", "leave it out, or centre the matrix yourself")
    if sense is not None and measurements is not None:
        problem = _sensed(problem, sense, measurements, base_seed)
    if tied:
        problem = _tied(problem)
    with terminal.progress_bar() as progress:
        found = comparison.compare(problem, settings, progress)
    return _tell(found, comparison, report, folder, as_json)


for _command in sweep_cli.COMMANDS:
    app.command()(_command)


@app.command()
def presets() -> None:
    """List the experiments of papers that compare --preset runs."""
    terminal.configure(x64=False)
    from rich.console import Console

    from jaxfact.reports import paper as preset_report

    preset_report.print_list(Console())


@app.command()
def info() -> None:
    """Print versions, devices and precision."""
    terminal.configure(x64=False)
    from importlib.metadata import version

    import jax
    import numpy as np

    names = ("jax", "jaxlib", "optax", "equinox", "chex", "numpy", "xarray", "zarr")
    typer.echo(f"{'jaxfact':<12}{__version__}")
    typer.echo("\n".join(f"{name:<12}{version(name)}" for name in names))
    typer.echo(f"{'python':<12}{sys.version.split()[0]}")
    typer.echo(f"{'backend':<12}{jax.default_backend()}")
    typer.echo(f"{'devices':<12}{len(jax.local_devices())} × {jax.local_devices()[0].device_kind}")
    typer.echo(f"{'float32':<12}epsilon {np.finfo('f4').eps:.2g}; the default")
    typer.echo(f"{'float64':<12}epsilon {np.finfo('f8').eps:.2g}; with --x64")
    typer.echo(f"{'products':<12}{jax.config.jax_default_matmul_precision or 'backend default'}")  # pyright: ignore[reportAttributeAccessIssue]


app.command()(replay)


def _run_preset(name: str, given: dict[str, Any], as_json: bool) -> None:
    """Run a preset, which fixes everything but the number of seeds."""
    if refused := sorted(given.keys() - {"preset", "seeds", "as_json", "out", "x64"}):
        said = ", ".join("a matrix" if option == "matrix" else f"--{option.replace('_', '-')}" for option in refused)
        raise problem_with("--preset", name, f"it fixes everything but --seeds; {said} is given too", "leave it out")
    terminal.configure(x64=False)
    from rich.console import Console

    from jaxfact.papers import find
    from jaxfact.reports import paper as preset_report

    preset = find(name)
    terminal.configure(preset.needs_x64 or "x64" in given)
    with terminal.progress_bar() as progress:
        preset_report.run(preset, given.get("seeds"), given.get("out"), as_json, progress, Console())


def _given(context: typer.Context) -> dict[str, Any]:
    """Return what the user gave, rather than the defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name: context.params[name] for name, source in sources.items() if source and source.name == "COMMANDLINE"}


def _sizes(shape: str | None) -> tuple[int, int]:
    try:
        m, n = (int(size) for size in str(shape).lower().split("x"))
    except ValueError:
        raise problem_with("--shape", shape, "needs two whole numbers", "write it like 100x80") from None
    if min(m, n) < 1:
        raise problem_with("--shape", shape, "needs at least one row and column", "write it like 100x80")
    return m, n


def _made_up_values(shape: str | None, rank: int, condition: float, spectrum: Spectrum) -> "np.ndarray":
    from jaxfact import data

    smaller = min(_sizes(shape))
    if rank > smaller:
        raise problem_with("--rank", rank, f"is above min(m, n) = {smaller}", "lower it")
    return data.singular_values(rank, condition, spectrum)  # pyright: ignore[reportReturnType]


def _made_up(
    shape: tuple[int, int], values: "np.ndarray", *, generic: bool, tied: bool, base_seed: int
) -> "Factorization":
    """Return a target with these singular values: diagonal, or with random singular vectors where they matter."""
    import jax

    from jaxfact.problems.drawn import random_target
    from jaxfact.problems.factorization import Factorization

    if not generic:
        return Factorization(values, shape=shape)
    drawn = random_target(_key(base_seed, _TARGET), shape, values)
    if not tied or shape[0] != shape[1]:
        return drawn
    return Factorization(values, shape=shape, left=jax.device_get(drawn.left), right=jax.device_get(drawn.left))


def _sensed(problem: "Factorization", sense: Sensor, measurements: int, base_seed: int) -> "Problem":
    from jaxfact.problems import operators
    from jaxfact.problems.sensing import Sensing

    draw = {
        Sensor.GAUSSIAN: operators.gaussian,
        Sensor.RADEMACHER: operators.rademacher,
        Sensor.RANK_ONE: operators.rank_one,
        Sensor.ENTRIES: operators.entries,
        Sensor.TRANSFORM: operators.transform,
    }[sense]
    operator = draw(_key(base_seed, _OPERATOR), problem.rows, measurements, dtype=problem.unit.dtype)
    return Sensing.of(problem, operator)


def _tied(problem: "Problem") -> "Problem":
    from jaxfact.problems.tied import Tied

    return Tied(problem)


def _key(base_seed: int, name: int) -> "PRNGKeyArray":
    """Return the key of what is drawn once for all runs, apart from those of the runs themselves."""
    import jax

    from jaxfact.numerics.draws import key_of

    return jax.random.fold_in(key_of(base_seed), 2**32 - 1 - name)


def _measured(matrix: Path | None) -> "Matrix":
    from jaxfact import data

    target = data.load("elevation") if matrix is None else data.read(matrix)
    if not target.any():
        raise problem_with("matrix", matrix, "is zero throughout", "give a matrix with a non-zero entry")
    return target


def _recover(context: typer.Context, matrix: "Matrix", folder: Path, as_json: bool) -> None:
    """Complete a matrix with missing entries, with the options that were given and its own defaults for the others."""
    from jaxfact.jobs import recovery
    from jaxfact.reports import recovery as recovery_report

    given = _given(context)
    for name in {"tolerance", "compress"} & set(given):
        needed = "has no meaning where entries are missing: every run takes all steps, on the entries themselves"
        raise problem_with(f"--{name}", given[name], needed, "leave it out")
    for name in {"sense", "measurements", "tied"} & set(given):
        raise problem_with(f"--{name}", given[name], "needs a whole matrix, and entries are missing", "leave it out")
    known = RecoverySettings.__dataclass_fields__
    settings = RecoverySettings(**{name: value for name, value in given.items() if name in known})
    with terminal.progress_bar() as progress:
        found = recovery.complete(matrix, settings, centre=given.get("centre", Centring.NONE), progress=progress)
    _tell(found, recovery, recovery_report, folder, as_json)


def _tell(found: Any, job: ModuleType, report: ModuleType, folder: Path, as_json: bool) -> None:
    """Print a job's numbers and write its folder; printed first, so that a full disk does not take them along."""
    from jaxfact.reports import pages

    if as_json:
        typer.echo(json.dumps(job.as_json(found), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        report.print_tables(found, Console())
    report.write(found, folder)
    typer.echo(f"results: {folder / pages.RESULTS}   page: {folder / pages.PAGE}", err=as_json)
