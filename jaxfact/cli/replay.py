"""The command that replays one run of a store."""

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import command
from jaxfact.inputs import printable, problem_with
from jaxfact.store.experiment_file import blaming, check_place, load

if TYPE_CHECKING:
    from jaxfact.jobs.replay import Replay


@command(place=24)
def replay(
    store: Annotated[str, typer.Argument(help="The store of a sweep: path or URL.")],
    seed: Annotated[int, typer.Option(help="Number of the seed.")],
    point: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Value along each axis: step_size=0.1.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Which variant, where the store has several.")] = None,
    experiment: Annotated[
        str | None, typer.Option(help="FILE.py:NAME[:KEY] of the experiment, where the store does not hold its file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New .npz file for loss, distance and factors of every step.")
    ] = None,
    numpy: Annotated[
        Path | None, typer.Option(help="New .py file: the run as a NumPy script, with its start in a .npz beside it.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Execute the text that the store holds, though no sweep of yours wrote it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> Path | None:
    """Run one run of a store again, step by step, and check that it reproduces every stored number bit for bit.

    This executes the text of the experiment's file that the store holds, where a sweep of yours wrote it, or you
    --trust it as you would trust a script.

    Example: jaxfact replay runs/a.zarr --seed 8123 step_size=0.1
    """
    chosen: dict[str, Any] = {"seed": seed, "variant": variant, "trust": trust, "axes": _axes(point or [])}
    if out is not None:
        _check_new(out)
    file = None if experiment is None else check_place(experiment)[0]
    _configure_as(store)
    from jaxfact.jobs.numpy_script import numpy_script
    from jaxfact.jobs.replay import replay as replayed

    if experiment is not None:
        chosen["experiment"] = load(experiment, up_to_sweep=True)
    try:
        with blaming(file):
            script = None if numpy is None else numpy_script(store, numpy, **chosen)
            found = replayed(store, **chosen)
    except RuntimeError as error:
        terminal.fail(str(error), 1)
    with terminal.written_first(partial(_write, found, out) if out is not None else lambda: None):
        if as_json:
            terminal.tell_json(_as_json(found))
        else:
            print(printable(_as_text(found)))
    beside = sys.stderr if as_json else sys.stdout
    if out is not None:
        print(f"trajectory: {out}", file=beside)
    if script is not None:
        print(f"script: {script}   start and target: {script.with_suffix('.npz')}", file=beside)
    return script if out is None else out


def _axes(point: list[str]) -> dict[str, float]:
    """Return the value along each axis."""
    axes: dict[str, float] = {}
    for text in point:
        name, value = _axis_value(text)
        if name in axes:
            raise problem_with("point", text, f"{name} is given twice", "give one value of each")
        axes[name] = value
    return axes


def _axis_value(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise problem_with("point", text, "needs a name and a number", "write it like step_size=0.3") from None


def _check_new(out: Path) -> None:
    from jaxfact.results.whole import check_new_file

    if out.suffix != ".npz":
        raise problem_with("--out", out, "is written as .npz", f"use {out.with_suffix('.npz')}")
    check_new_file(out)


def _configure_as(store: str) -> None:
    """Choose the precision as a sweep had it."""
    from jaxfact.store.medium import medium_of
    from jaxfact.store.roots import read_root

    attributes = read_root(medium_of(store), "give the path that the sweep was given").root.attributes
    import jax

    precision = attributes.get("matmul_precision", "None")
    jax.config.update("jax_default_matmul_precision", None if precision == "None" else precision)
    jax.config.update("jax_enable_x64", attributes.get("x64", False))


def _as_json(found: "Replay") -> dict[str, Any]:
    """Return where the run is and its numbers; a time that is never reached is null."""
    run = found.run
    hits = zip(run.level.values.tolist(), run.hit.values.tolist(), strict=True)
    numbers = {str(name): values.item() for name, values in {**run.coords, **run.data_vars}.items() if not values.ndim}
    return {
        **numbers,
        "hit": {f"{level:g}": int(step) if math.isfinite(step) else None for level, step in hits},
        "same_bits": sorted(map(str, run.data_vars)),
    }


def _as_text(found: "Replay") -> str:
    """Return what the run did, in lines."""
    run, axes = found.run, json.loads(found.run.attrs["axes"])
    named = [*([str(run.variant.item())] if "variant" in run.coords else []), f"seed {run.seed.item()}"]
    named += [f"{name}={run[name].item()}" for name in axes]
    lines = [
        f"{', '.join(named)}: {run.outcome.item()} after {run.steps.item()} steps; "
        f"loss {_number(run.loss.item())} {run.loss.attrs['units']}, distance {_number(run.distance.item())}"
    ]
    for level, step in zip(run.level.values, run.hit.values, strict=True):
        lines.append(f"distance {level:g}: {_arrival(step)}")
    lines.append(f"every stored number was reproduced bit for bit: {', '.join(sorted(map(str, run.data_vars)))}")
    return "\n".join(lines)


def _number(value: float) -> str:
    """Return a number; not a number is what diverged, or a distance to a truth that nobody knows."""
    return f"{value:.6g}" if math.isfinite(value) else "unknown" if math.isnan(value) else "infinite"


def _arrival(step: float) -> str:
    """Return when a run arrived; one whose budget came first, or that had no need to go so far, might yet have."""
    if math.isnan(step):
        return "not before the run was ended"
    return f"step {step:.0f}" if math.isfinite(step) else "never"


def _write(found: "Replay", out: Path) -> None:
    """Write steps, loss, distance and each factor, whole or not at all."""
    import jax
    import numpy as np

    from jaxfact.results.whole import whole_file

    leaves = jax.tree_util.tree_leaves_with_path(found.factors)
    factors = {jax.tree_util.keystr(path, simple=True, separator="_"): leaf for path, leaf in leaves}
    with whole_file(out) as made, made.open("wb") as file:
        np.savez(file, steps=found.steps, loss=found.loss, distance=found.distance, **factors)
