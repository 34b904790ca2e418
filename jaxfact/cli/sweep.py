"""The command that runs a sweep which outlives the process."""

import math
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jaxfact.cli import terminal
from jaxfact.cli.clusters import client_of
from jaxfact.cli.register import X64, Levels, command, listed_levels
from jaxfact.cli.status import say_status
from jaxfact.inputs import positive, positive_integer, printable, problem_with, seed_number
from jaxfact.store import experiment_file
from jaxfact.store.differences import HARMLESS, accepted_names
from jaxfact.store.medium import reachable

if TYPE_CHECKING:
    import numpy as np


_AXIS = "write it like step_size=0.1:1:10:log, scale=0:1:11:lin or width=2,4,8"


@command(place=20)
def sweep(
    experiment: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:NAME[:KEY]",
            help="A function in a file that returns a jaxfact.Run, or a dict of such functions: variants.",
        ),
    ],
    store: Annotated[str, typer.Option(help="Where the runs are kept, path or URL; what is there is not run again.")],
    axis: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="A parameter: start:stop:count:log, start:stop:count:lin or a,b,c; one --axis for each.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of random starts at each point.")] = 1000,
    max_steps: Annotated[int, typer.Option(help="Budget of steps for one run.")] = 4000,
    tolerance: Annotated[str, typer.Option(help="Relative distance, not squared; none runs to the end.")] = "1e-5",
    levels: Levels = None,
    check_every: Annotated[int, typer.Option(help="Steps between two looks at a run.")] = 10,
    record: Annotated[
        str | None,
        typer.Option(metavar="NAME,…", help="Measures along the steps: distance,imbalance, for example."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="N|log",
            help="Steps between two records, or log: closer together at the beginning.  [default: only where runs end]",
        ),
    ] = None,
    base_seed: Annotated[int, typer.Option(help="Number from which all random keys derive.")] = 0,
    devices: Annotated[str, typer.Option(metavar="all|N", help="Cores or accelerators to use.")] = "all",
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local|FILE.yaml", help="Workers that make the runs: see docs/stores.md."),
    ] = None,
    tile_runs: Annotated[int | None, typer.Option(help="Most runs written together.  [default: about 4096]")] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Go on despite this difference from the store: {', '.join(HARMLESS)} (a changed experiment).",
        ),
    ] = None,
    check_store: Annotated[
        bool, typer.Option("--check-store", help="Read every file of the store, and make again what is damaged.")
    ] = False,
    checked: Annotated[bool, typer.Option("--checked", help="Check the invariants after every step.")] = False,
    compress: Annotated[
        bool, typer.Option("--compress/--no-compress", help="Run on the exactly compressed problem.")
    ] = True,
    compensated: Annotated[
        bool, typer.Option("--compensated", help="Carry the rounding error of each update into the next.")
    ] = False,
    x64: X64 = False,
) -> Path:
    """Run an experiment from a file for every point of the axes and every seed, into a store.

    The same command goes on where it was interrupted, adds what more --seeds or --axis values ask for, and may be run
    several times at once on the same store.

    Example: jaxfact sweep FILE.py:experiment --axis step_size=0.1:1:16:log --store runs/a.zarr
    """
    from jaxfact.engine.axes import Steps, check_size, seed_numbers

    count = _device_count(devices)
    axes = _axes(axis or [], x64)
    level, timed = _level(tolerance), listed_levels(levels)
    names = None if record is None else [name.strip() for name in record.split(",")]
    stride = _stride(every)
    Steps(max_steps, check_every, None if stride == "log" else stride)
    check_size(axes, seed_numbers(seeds), 1, None)
    seed_number("base_seed", base_seed)
    if tile_runs is not None:
        positive_integer("tile_runs", tile_runs, "leave it out for the usual number")
    accepted_names(accept or ())
    experiment_file.check_place(experiment)
    reachable(store)
    terminal.configure(x64)
    from jaxfact.descent import log_steps
    from jaxfact.store.status import Watch
    from jaxfact.sweep import sweep as run

    steps = log_steps(max_steps, unit=check_every) if stride == "log" else stride
    found = experiment_file.load(experiment)
    with (
        client_of(cluster) as client,
        _ending_in_one_line(experiment, store),
        terminal.progress_shown(counts=Watch(store).outcomes) as progress,
    ):
        run(
            found,
            seeds=seeds,
            max_steps=max_steps,
            tolerance=level,
            levels=timed or None,
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
            check_store=check_store,
            tile_runs=tile_runs,
            devices=count,
            cluster=client,
            axes=axes,  # pyright: ignore[reportArgumentType]
        )
    say_status(store)
    print(printable(f"see it with: jaxfact report {shlex.quote(store)}"))
    return Path(store)


@contextmanager
def _ending_in_one_line(experiment: str, store: str) -> Iterator[None]:
    """Say in one line what ended a sweep, unless it was a value that the user gave."""
    from jaxfact.store.medium import StoreError

    try:
        with experiment_file.blaming(experiment_file.file_of(experiment)):
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
        if isinstance(error, OSError):
            terminal.fail(f"the store cannot be written ({error}); what is in {store} is safe", 1)
        if not isinstance(error, RuntimeError):  # which is what a broken invariant raises, and XLA
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
        level = float(given)
    except ValueError:
        raise problem_with("--tolerance", given, "needs a number or none", "1e-5 is usual in float32") from None
    positive("tolerance", level, "1e-5 is usual in float32; none runs to max_steps")
    return level


def _stride(given: str | None) -> int | Literal["log"] | None:
    """Return the number of steps between two records, or log."""
    if given is None or given == "log":
        return given
    try:
        return int(given)
    except ValueError:
        raise problem_with("--every", given, "needs a whole number or log", "leave it out to record the end") from None


def _axes(given: Sequence[str], x64: bool) -> "dict[str, np.ndarray]":
    """Return the axes that were given, in their order."""
    from jaxfact.engine.axes import axis as checked

    axes: dict[str, np.ndarray] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not name.isidentifier() or not values:
            raise problem_with("--axis", text, "needs a name and values", _AXIS)
        if name in axes:
            raise problem_with("--axis", text, f"{name} is given twice", "give all its values in one --axis")
        axes[name] = _spaced(text, values.split(":")) if ":" in values else _listed(text, values.split(","))
    return {name: checked(name, values, x64) for name, values in axes.items()}


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
