"""How far a sweep has got, from what its finished tiles say: nothing is computed, and nothing locked for long."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jaxfact.store.layout import Layout, dims_of
from jaxfact.store.marks import marks, owners

_RECENT = 20  # tiles whose pace tells the time left


@dataclass(frozen=True)
class Status:
    """How far a sweep has got: runs done of all, by outcome, over all variants and by variant, and who works on it.

    `total` counts the runs of one variant; `variants` maps each variant's name, "" where there is only one, to its runs
    by outcome. `run_steps_per_second` is over the time in which anybody worked, without compilation; `seconds_left` is
    inferred from the last tiles, NaN where nobody works or none is done. `workers` maps who holds tiles to how many.
    """

    path: Path
    total: int
    variants: dict[str, dict[str, int]]
    run_steps: int
    run_steps_per_second: float
    seconds_left: float
    workers: dict[str, int]

    @property
    def runs(self) -> int:
        """All runs that the store is to hold."""
        return self.total * len(self.variants)

    @property
    def done(self) -> int:
        """The runs that it holds."""
        return sum(self.outcomes.values())

    @property
    def outcomes(self) -> dict[str, int]:
        """The runs that it holds by outcome, over all variants."""
        return dict(sum(map(Counter, self.variants.values()), Counter()))

    @property
    def failed(self) -> int:
        """The runs that diverged."""
        return self.outcomes.get("diverged", 0)

    @property
    def finished(self) -> bool:
        """Whether it holds all."""
        return self.done == self.runs


def status(path: str | Path) -> Status:
    """Return how far the sweep with this store has got.

    Raises ValueError where there is no store of a sweep.
    """
    path = Path(path)
    layout = Layout.of(path, "give the path that the sweep was given")
    names, total = _plan(layout)
    found: list[Counter[str]] = [Counter() for _ in names]
    work: list[dict[str, Any]] = []
    for (variant, *_), mark in marks(path):
        found[variant].update(mark.outcomes)
        work += mark.work
    workers = dict(Counter(owners(layout)))
    seconds, run_steps = _worked(work), sum(entry["run_steps"] for entry in work)
    recent = sorted(work, key=lambda entry: entry["date"])[-_RECENT:]
    lasted, runs = _worked(recent), sum(entry["runs"] for entry in recent)
    missing = total * len(names) - sum(count.total() for count in found)
    return Status(
        path=path,
        total=total,
        variants={name: dict(counts) for name, counts in zip(names, found, strict=True)},
        run_steps=run_steps,
        run_steps_per_second=run_steps / seconds if seconds else math.nan,
        seconds_left=0.0 if not missing else missing * lasted / runs if workers and runs else math.nan,
        workers=workers,
    )


def outcomes_so_far(path: Path) -> dict[str, int]:
    """Return how many runs of a store have had each outcome; none where there is no store yet."""
    return dict(sum((Counter(mark.outcomes) for _, mark in marks(path)), Counter()))


def _plan(layout: Layout) -> tuple[list[str], int]:
    """Return the variants of a store and the number of runs of each."""
    outcome = layout.arrays()["outcome"]
    sizes = zip(dims_of(outcome), outcome["shape"], strict=True)
    return layout.attributes()["variants"] or [""], math.prod(length for dim, length in sizes if dim != "variant")


def _worked(work: Iterable[Mapping[str, Any]]) -> float:
    """Return for how many seconds somebody worked: the length of the union of the tiles' intervals."""
    ends = [(datetime.fromisoformat(entry["date"]).timestamp(), entry["seconds"]) for entry in work]
    total, until = 0.0, -math.inf
    for began, ended in sorted((end - seconds, end) for end, seconds in ends):
        total += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return total
