"""The commands of sweeps that outlive the process: run one, see how far it is, look at it, hand it on."""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxfact.choices import Format
from jaxfact.cli import terminal
from jaxfact.inputs import problem_with

if TYPE_CHECKING:
    import numpy as np

    from jaxfact.store.status import Status

_AXIS = "write it like step_size=0.1:1:10:log, scale=0:1:11:lin or width=2,4,8"
_SUFFIXES = {Format.CSV: ".csv", Format.PARQUET: ".parquet", Format.NETCDF: ".nc"}
_Store = Annotated[Path, typer.Argument(metavar="STORE", help="The store of a sweep.", show_default=False)]


def sweep(
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME[:KEY]",
            help="A function in a file that returns a jaxfact.Run, or a dict of them: variants.",
        ),
    ],
    store: Annotated[Path, typer.Option(help="Where the runs are kept; what is there already is not run again.")],
    axis: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUES", help="A parameter: start:stop:count:log, start:stop:count:lin or a,b,c."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of random starts at each point.")] = 1000,
    max_steps: Annotated[int, typer.Option(help="Budget of steps for one run.")] = 4000,
    tolerance: Annotated[str, typer.Option(help="Relative distance, not squared; none runs to the end.")] = "1e-5",
    check_every: Annotated[int, typer.Option(help="Steps between two looks at a run.")] = 10,
    record: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Measures along the steps: distance,imbalance, for example."),
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Steps between two records.  [default: closer together at the beginning]")
    ] = None,
    base_seed: Annotated[int, typer.Option(help="Number from which all random keys derive.")] = 0,
    devices: Annotated[str, typer.Option(metavar="all|N", help="Cores or accelerators that work.")] = "all",
    tile_runs: Annotated[
        int | None, typer.Option(help="Runs that are written together, at most.  [default: about 4096]")
    ] = None,
    accept: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A difference to what the store was made with.")
    ] = None,
    checked: Annotated[bool, typer.Option("--checked", help="Check the invariants after every step.")] = False,
    compress: Annotated[
        bool, typer.Option("--compress/--no-compress", help="Run on the exactly compressed problem.")
    ] = True,
    compensated: Annotated[
        bool, typer.Option("--compensated", help="Carry the rounding error of each update into the next.")
    ] = False,
    x64: Annotated[bool, typer.Option("--x64", help="Compute in float64.")] = False,
) -> None:
    """Run an experiment from a file for every point of the axes and every seed, into a store.

    The same command goes on where it was interrupted, adds what more --seeds or --axis values ask for, and may be run
    several times at once on one store.
    """
    count = _device_count(devices)
    axes = _axes(axis or [])
    level = _level(tolerance)
    terminal.configure(x64, count)
    from jaxfact.descent import log_steps
    from jaxfact.store import experiment_file
    from jaxfact.store.status import outcomes_so_far
    from jaxfact.sweep import sweep as run

    names = None if record is None else [name.strip() for name in record.split(",")]
    steps = log_steps(max_steps, unit=check_every) if record is not None and every is None else every
    found = experiment_file.load(experiment)
    with _ending_in_one_line(experiment, store), terminal.sweep_progress(partial(outcomes_so_far, store)) as progress:
        run(
            found,
            seeds=seeds,
            max_steps=max_steps,
            tolerance=level,
            record=names,
            every=steps,
            check_every=check_every,
            base_seed=base_seed,
            checked=checked,
            compress=compress,
            compensated=compensated,
            progress=progress,
            store=store,
            accept=accept or (),
            tile_runs=tile_runs,
            devices=count,
            axes=axes,  # pyright: ignore[reportArgumentType]
        )
    _say_status(store)
    typer.echo(f"see it with: jaxfact report {store}")


def status(
    store: _Store,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Say how far a sweep is, how its runs ended, and who works on it."""
    from jaxfact.store.status import status as look

    if as_json:
        typer.echo(json.dumps(_status_numbers(look(store)), indent=2, ensure_ascii=False))
    else:
        _say_status(store)


def report(
    store: _Store,
    out: Annotated[Path | None, typer.Option(help="New folder.  [default: jaxfact-report, or the next free]")] = None,
) -> None:
    """Draw figures and write one HTML page of a sweep, finished or not, or of any store of results."""
    from rich.console import Console

    from jaxfact.reports import pages
    from jaxfact.reports import sweep as sweep_report
    from jaxfact.results.whole import check_new_folder

    folder = terminal.free_folder("jaxfact-report") if out is None else out
    check_new_folder(folder)
    found = sweep_report.shown(store)
    sweep_report.print_tables(found, Console())
    sweep_report.write(found, folder)
    typer.echo(f"page: {folder / pages.PAGE}")


def export(
    store: _Store,
    to: Annotated[Format, typer.Option(help="One row a run as text or in columns, or the whole dataset.")],
    out: Annotated[Path | None, typer.Option(help="New file.  [default: beside the store]")] = None,
) -> None:
    """Write the finished runs of a store for other programs."""
    from jaxfact.results import export as writing

    write = {Format.CSV: writing.to_csv, Format.PARQUET: writing.to_parquet, Format.NETCDF: writing.to_netcdf}[to]
    file = _beside(store, _SUFFIXES[to]) if out is None else out
    typer.echo(f"{write(store, file)} runs: {file}")


COMMANDS = (sweep, status, report, export)


@contextmanager
def _ending_in_one_line(experiment: str, store: Path) -> Iterator[None]:
    """Say in one line what ended a sweep, where it is not the user's mistake of a value."""
    from jaxfact.store.experiment_file import blamed, file_of
    from jaxfact.store.queues import StoreError

    file = file_of(experiment)
    try:
        yield
    except ValueError:
        raise
    except KeyboardInterrupt as stopped:
        terminal.fail(str(stopped) or f"interrupted; what is in {store} is safe", 130)
    except MemoryError as error:
        said = (
            str(error).replace("tile_runs=", "--tile-runs ") or "too little memory: lower --tile-runs or record less."
        )
        terminal.fail(f"{said} What is in {store} is safe.", 1)
    except Exception as error:
        if isinstance(error, StoreError):
            terminal.fail(str(error.strerror), 1)
        if (mistake := blamed(file, error)) is not None:
            raise mistake from None
        if isinstance(error, OSError):
            terminal.fail(f"the store cannot be written ({error}); what is in {store} is safe", 1)
        if not isinstance(error, RuntimeError):  # which a broken invariant is, and what XLA reports
            raise
        terminal.fail(str(error), 1)


def _device_count(given: str) -> int | None:
    if given == "all":
        return None
    if not given.isdecimal() or int(given) < 1:
        raise problem_with("--devices", given, "needs all or a whole number, 1 or above", "leave it out for all")
    return int(given)


def _level(given: str) -> float | None:
    if given.lower() == "none":
        return None
    try:
        return float(given)
    except ValueError:
        raise problem_with("--tolerance", given, "needs a number or none", "1e-5 is usual in float32") from None


def _axes(given: Sequence[str]) -> "dict[str, np.ndarray]":
    """Return the axes that were given, in their order."""
    axes: dict[str, np.ndarray] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not name.isidentifier() or not values:
            raise problem_with("--axis", text, "needs a name and values", _AXIS)
        if name in axes:
            raise problem_with("--axis", text, f"{name} is given twice", "give all its values in one --axis")
        axes[name] = _spaced(text, values.split(":")) if ":" in values else _listed(text, values.split(","))
    return axes


def _listed(text: str, values: list[str]) -> "np.ndarray":
    """Return values given one by one; whole numbers stay whole."""
    import numpy as np

    for kind in (int, float):
        try:
            return np.array([kind(value) for value in values])
        except (ValueError, OverflowError):
            continue
    raise problem_with("--axis", text, "needs numbers between the commas", _AXIS)


def _spaced(text: str, parts: list[str]) -> "np.ndarray":
    """Return values at equal ratios or differences."""
    import numpy as np

    try:
        start, stop, count, spacing = float(parts[0]), float(parts[1]), int(parts[2]), parts[3]
        space = {"log": np.geomspace, "lin": np.linspace}[spacing]
        if len(parts) != 4 or count < 1 or not math.isfinite(start + stop):
            raise ValueError
    except (ValueError, IndexError, KeyError):
        raise problem_with("--axis", text, "needs start:stop:count:log or start:stop:count:lin", _AXIS) from None
    if spacing == "log" and min(start, stop) <= 0:
        raise problem_with("--axis", text, "needs ends above 0 for log", "use lin, or raise them")
    return space(start, stop, count)


def _say_status(store: Path) -> None:
    """Print how far a sweep is."""
    from jaxfact.store.status import status as look

    found = look(store)
    typer.echo("\n".join(_status_lines(found)))


def _status_lines(found: "Status") -> list[str]:
    share = f"{math.floor(1000 * found.done / found.runs) / 10:g} %"
    done = f"finished, {found.runs} runs" if found.finished else f"{found.done} of {found.runs} runs done ({share})"
    lines = [f"{found.path}: {done}"]
    if len(found.variants) > 1:
        lines += [f"  {name}: {_ended(counts, found.total)}" for name, counts in found.variants.items()]
    if found.done:
        shares = {name: f"{100 * count / found.done:.3g} %" for name, count in found.outcomes.items()}
        ranked = sorted(found.outcomes, key=found.outcomes.__getitem__, reverse=True)
        lines.append("outcomes: " + ", ".join(f"{name} {shares[name]}" for name in ranked))
        lines.append(f"failed (diverged): {found.failed}")
        lines.append(f"{found.run_steps_per_second:.3g} run-steps/s")
    if found.workers:
        lines.append(
            "working: " + ", ".join(f"{who} ({tiles} tile{'s' * (tiles > 1)})" for who, tiles in found.workers.items())
        )
        lines += [f"about {terminal.duration(found.seconds_left)} left"] * math.isfinite(found.seconds_left)
    elif not found.finished:
        lines.append("nobody works on it: repeat the sweep to go on")
    return lines


def _ended(counts: dict[str, int], total: int) -> str:
    return "; ".join(filter(None, [f"{sum(counts.values())} of {total}", terminal.counted(counts)]))


def _status_numbers(found: "Status") -> dict[str, Any]:
    """Return a status as plain numbers and strings; what is not known is null."""
    derived = {name: getattr(found, name) for name in ("runs", "done", "failed", "outcomes", "finished")}
    numbers = {**asdict(found), "path": str(found.path), **derived}
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in numbers.items()}


def _beside(store: Path, suffix: str) -> Path:
    """Return the store's name with another suffix; only .zarr is one."""
    return store.with_name(store.name.removesuffix(".zarr") + suffix)
