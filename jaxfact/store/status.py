"""How far a sweep has got, from what its finished tiles say: nothing is computed, and nothing locked for long."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxfact.showing.markup import Table, card
from jaxfact.showing.pace import duration
from jaxfact.store.claims import owners
from jaxfact.store.damage import damage_of
from jaxfact.store.marks import Marks
from jaxfact.store.medium import Place, medium_of
from jaxfact.store.roots import read_root

_RECENT = 20  # tiles whose pace tells the time left


@dataclass(frozen=True)
class Status:
    """How far a sweep has got: runs done of all, by outcome, over all variants and by variant, and who works on it.

    `total` counts the runs of one variant; `variants` maps each variant's name, "" where there is only one, to its runs
    by outcome. `run_steps_per_second` is over the time in which anybody worked, without compilation; `seconds_left` is
    inferred from the last tiles, NaN where nobody works or none is done. `workers` maps who holds tiles to how many,
    `damaged` files that are damaged, whose tiles are not counted, to what is wrong with them.
    """

    path: str
    total: int
    variants: dict[str, dict[str, int]]
    run_steps: int
    run_steps_per_second: float
    seconds_left: float
    workers: dict[str, int]
    damaged: dict[str, str] = field(default_factory=dict)

    def _repr_html_(self) -> str:
        """Say in a notebook how far it has got."""
        done = "finished" if self.finished else f"{self.done} of {self.runs} runs ({100 * self.done / self.runs:.3g} %)"
        facts = {"done": done, "working": ", ".join(self.workers) or "nobody"}
        facts |= {"left": f"about {duration(self.seconds_left)}"} if math.isfinite(self.seconds_left) else {}
        facts |= {"damaged": ", ".join(self.damaged)} if self.damaged else {}
        outcomes = sorted(self.outcomes)
        rows = [[name or "all", *(str(of.get(one, 0)) for one in outcomes)] for name, of in self.variants.items()]
        return card(f"Status of {self.path}", facts, table=Table(["runs", *outcomes], rows))

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


def status(store: Place, *, check: bool = False) -> Status:
    """Return how far the sweep with this store has got; with `check` every file is read.

    Raises ValueError where there is no store of a sweep.
    """
    medium = medium_of(store)
    found = read_root(medium, "give the path that the sweep was given")
    root, marks = found.root, Marks(medium, found.root)
    damaged, done = damage_of(medium, found, marks, thorough=check)
    whole = done[tuple(marks.records["tile"].T)]
    records = marks.records if whole.all() else marks.records[whole]
    variant = records["tile"][:, 0]
    outcomes = {name: _outcomes_of(records, variant == place) for place, name in enumerate(root.variants)}
    workers = dict(Counter(owners(medium)))
    recent = records[np.argsort(records["date"], kind="stable")[-_RECENT:]]
    runs = sum(_outcomes_of(recent).values())
    missing = root.grid.runs * len(outcomes) - sum(sum(counts.values()) for counts in outcomes.values())
    seconds, run_steps = _worked(records), int(records["run_steps"].sum())
    return Status(
        path=medium.name,
        total=root.grid.runs,
        variants=outcomes,
        run_steps=run_steps,
        run_steps_per_second=run_steps / seconds if seconds else math.nan,
        seconds_left=0.0 if not missing else missing * _worked(recent) / runs if workers and runs else math.nan,
        workers=workers,
        damaged=damaged,
    )


class Watch:
    """How the runs of a store end while a sweep goes on: only what is new is read."""

    def __init__(self, store: Place):
        self._store = store
        self._marks: Marks | None = None

    def outcomes(self) -> dict[str, int]:
        """Return how many runs have had each outcome; none where there is no store yet."""
        try:
            if self._marks is None:
                medium = medium_of(self._store)
                self._marks = Marks(medium, read_root(medium, "").root)
            else:
                self._marks.refresh()
        except ValueError:
            return {}
        return _outcomes_of(self._marks.records)


def _outcomes_of(records: np.ndarray, where: Any = True) -> dict[str, int]:
    """Return how many runs of some tiles had each outcome that any had."""
    counts = {
        name: int(np.sum(records["outcomes"][name], where=where)) for name in records.dtype["outcomes"].names or ()
    }
    return {name: count for name, count in counts.items() if count}


def _worked(records: np.ndarray) -> float:
    """Return for how many seconds somebody worked: the length of the union of the tiles' intervals."""
    if not len(records):
        return 0.0
    ends, begins = records["date"], records["date"] - records["seconds"]
    order = np.argsort(begins, kind="stable")
    until = np.maximum.accumulate(np.concatenate([[-np.inf], ends[order][:-1]]))
    return float(np.sum(np.maximum(0.0, ends[order] - np.maximum(begins[order], until))))
