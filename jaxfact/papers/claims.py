"""What a claim is: a statement of a paper, the runs it is held against, and the rule that decides.

A claim must be able to fail. Its control is the same experiment with a broken algorithm or a violated hypothesis, of
which the verdict has to be another; its power is the deviation that the rule notices in at least 95 % of cases.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.experiment import Experiment
from jaxfact.figures.claims import Plot
from jaxfact.inputs import problem_with
from jaxfact.papers.rules import Finding, Verdict
from jaxfact.showing.progress import Progress
from jaxfact.store.medium import medium_of
from jaxfact.sweep import sweep

Runs = dict[str, xr.Dataset]
"""Labelled runs by name: a dataset for each combination of sizes that arrays have."""


class Made(NamedTuple):
    """A sweep that was made: what was run, and the dataset as it was returned."""

    experiment: Experiment | Mapping[str, Experiment]
    runs: xr.Dataset


@dataclass
class Sweeps:
    """What a preset's job runs its sweeps with: the seeds, the store and the progress of whoever asked.

    `count` is how many sweeps there will be. One has its store at the path itself, several have theirs within it.
    `made` holds them by name.
    """

    seeds: int
    progress: Progress | None = None
    store: str | Path | None = None
    count: int = 1
    made: dict[str, Made] = field(default_factory=dict)

    def __call__(
        self, name: str, experiment: Experiment | Mapping[str, Experiment], *, max_steps: int, **options: Any
    ) -> xr.Dataset:
        """Run one sweep and return its dataset; options are those of `jaxfact.sweep`, and may be other seeds."""
        place = min(len(self.made), self.count - 1)
        given = {"seeds": self.seeds, "tolerance": None, "progress": part(self.progress, place, self.count) or False}
        found = sweep(experiment, max_steps=max_steps, store=self._store_of(name), **(given | options))  # pyright: ignore
        self.made[name] = Made(experiment, found)
        return found

    def _store_of(self, name: str) -> str | Path | None:
        if self.store is None or self.count == 1:
            return self.store
        own = f"{str(self.store).rstrip('/')}/{name}.zarr"
        if not self.made and not medium_of(own).exists() and not medium_of(self.store).is_empty():
            needed = "holds something, but no runs of this claim, whose sweeps have a store each"
            raise problem_with("store", self.store, needed, "name a new folder, or the one of this claim")
        return own


Job = Callable[..., Runs]
"""Runs the sweeps of a preset: a function of `Sweeps`, with keywords that a control changes."""


@dataclass(frozen=True)
class Preset:
    """An experiment of a paper, at a size that runs here; claims of equal presets share its runs.

    `place` is where in the paper it is from. `randomness` says what a seed draws and what all runs share, `seeds` how
    many there are by default, and `seconds` how long these took on two CPU cores, compilation included. `sweeps` is the
    number of sweeps that `job` makes. One that needs double precision runs in it, whatever holds elsewhere.
    """

    name: str
    place: str
    randomness: str
    needs_x64: bool
    seeds: int
    seconds: int
    job: Job
    sweeps: int = 1

    def run(self, sweeps: Sweeps, **changed: Any) -> Runs:
        """Run it and return the labelled runs; `changed` are keywords of its job."""
        with self.precision():
            return self.job(sweeps, **changed)

    def precision(self) -> Any:
        """Return the context in which it runs."""
        return jax.enable_x64(True) if self.needs_x64 else nullcontext()


@dataclass(frozen=True)
class Hypothesis:
    """A hypothesis that can be computed: its value on the runs, its bound, and whether it is met.

    `met` is None where the theorem's constant is not known, so that the value is reported and nothing follows.
    """

    what: str
    value: float
    bound: str
    met: bool | None


@dataclass(frozen=True)
class Control:
    """What must change the verdict: the preset's job with other keywords, at a reduced size.

    `said` says what is broken, `changed` are the keywords that break it, `small` those that only make it small: with
    these alone the claim holds.
    """

    said: str
    changed: Mapping[str, Any]
    small: Mapping[str, Any]
    seeds: int


@dataclass(frozen=True)
class Power:
    """A deviation that the rule notices with probability 0.95 or more, from `seeds` seeds on.

    `findings` draws what that many runs would show if the truth deviated so, and returns what the claim's own rule
    makes of it.
    """

    deviation: str
    seeds: int
    findings: Callable[[np.random.Generator], list[Finding]]


def no_hypotheses(_: Runs) -> list[Hypothesis]:
    """Return nothing: the claim is about every run."""
    return []


@dataclass(frozen=True)
class Claim:
    """A statement of a paper that runs can refute.

    `id` is its number in the table of claims, `title` what it says in a few words, `place` where the paper has it.
    `judge` returns what the preset's runs show, the number that matters most first; `plot` the figure, measured against
    promised. `evidence` says what was read where the paper's own text was not available, and `departure` where and why
    preset or rule are not those of the paper.
    """

    id: str
    title: str
    place: str
    statement: str
    formula: str
    preset: Preset
    judge: Callable[[Runs], list[Finding]]
    plot: Callable[[Runs], Plot]
    power: Power
    control: Control
    hypotheses: Callable[[Runs], list[Hypothesis]] = no_hypotheses
    evidence: str = ""
    departure: str = ""


def verdict_of(findings: list[Finding], hypotheses: list[Hypothesis]) -> Verdict:
    """Return what findings say together: nothing outside the hypotheses, and else what the worst of them says."""
    if any(hypothesis.met is False for hypothesis in hypotheses):
        return Verdict.OUTSIDE
    found = {finding.verdict for finding in findings} - {None}
    worst = next((one for one in (Verdict.VIOLATED, Verdict.INCONCLUSIVE) if one in found), None)
    return worst or (Verdict.HOLDS if found else Verdict.INCONCLUSIVE)


def part(progress: Progress | None, place: int, count: int) -> Progress | None:
    """Return the progress of the sweep number `place` out of `count`, taken to be equally long."""
    return progress and partial(_report, progress, place, count)


def _report(progress: Progress, place: int, count: int, done: int, total: int) -> None:
    progress(place * total + done, count * total)
