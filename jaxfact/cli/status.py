"""The command that says how far a sweep has got."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxfact.cli import terminal
from jaxfact.cli.register import AsJson, Store, command
from jaxfact.inputs import printable
from jaxfact.showing.pace import duration, ranked

if TYPE_CHECKING:
    from jaxfact.store.status import Status


@command(place=21)
def status(
    store: Store,
    as_json: AsJson = False,
    check: Annotated[bool, typer.Option("--check", help="Read every file and compare it with its checksum.")] = False,
) -> None:
    """Say how far a sweep has got, how its runs ended, and who is working on it; exit code 1 where it is damaged.

    Example: jaxfact status runs/a.zarr
    """
    from jaxfact.store.status import status as look

    found = look(store, check=check)
    if as_json:
        terminal.tell_json(_status_numbers(found))
    else:
        print(printable("\n".join(_status_lines(found))))
    if found.damaged:
        raise typer.Exit(1)


def say_status(store: str) -> None:
    """Print how far a store has got after a sweep, which may have asked for some of its runs only."""
    from jaxfact.store.status import status as look

    print(
        printable(
            "\n".join(_status_lines(look(store), "that sweep is done; one of all seeds and values makes the rest"))
        )
    )


def _status_lines(found: "Status", rest: str = "a sweep of all its seeds and values makes the rest") -> list[str]:
    share = f"{math.floor(1000 * found.done / found.runs) / 10:g} %"
    done = f"finished, {found.runs} runs" if found.finished else f"{found.done} of {found.runs} runs done ({share})"
    lines = [f"{found.path}: {done}", *(f"damaged: {key} {what}" for key, what in found.damaged.items())]
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
        lines += [f"about {duration(found.seconds_left)} left"] * math.isfinite(found.seconds_left)
    elif not found.finished:
        lines.append(f"nobody is working on it: {rest}")
    return lines


def _ended(counts: dict[str, int], total: int) -> str:
    return "; ".join(filter(None, [f"{sum(counts.values())} of {total}", ranked(counts)]))


def _status_numbers(found: "Status") -> dict[str, Any]:
    """Return a status as plain numbers and strings."""
    derived = {name: getattr(found, name) for name in ("runs", "done", "failed", "outcomes", "finished")}
    return {**asdict(found), **derived}
