"""What a paper and its presets are, experiments at a size that runs here, and how papers are found: by their files."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.tiles import Progress
from jaxfact.inputs import positive_integer, problem_with
from jaxfact.results import stats
from jaxfact.results.deciding import numbers_that_decide, rounded_up

MEAN, WILSON, RANGE = "95 % for the mean over seeds", "95 %, Wilson", "range over runs"
LOOSE = 100
"""A bound this many times as large as what it bounds is called loose."""


@dataclass(frozen=True)
class Finding:
    """One number that the runs show, with its interval, what is expected of it, and whether that holds.

    `interval` says what `low` and `high` are. `holds` is None where nothing is expected, and where the interval leaves
    it open: then `why` says so, and what would help.
    """

    what: str
    measured: float
    low: float
    high: float
    interval: str
    expected: str
    holds: bool | None
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """Labelled runs by name, one dataset for each combination of sizes that arrays have, and what they show."""

    runs: dict[str, xr.Dataset]
    findings: list[Finding]


@dataclass(frozen=True)
class Preset:
    """An experiment of a paper, at a size that runs here.

    `place` is where in the paper it is from. `statement` says what should be seen, `randomness` what a seed draws and
    what all runs share, `seeds` how many there are by default, and `seconds` how long these took on two CPU cores that
    did other work too, compilation included.
    """

    name: str
    place: str
    statement: str
    randomness: str
    needs_x64: bool
    seeds: int
    seconds: int
    job: Callable[[int, Progress | None], Outcome]

    def run(self, seeds: int | None = None, progress: Progress | None = None) -> Outcome:
        """Run it and return the labelled runs with the findings.

        Raises ValueError for a number of seeds below 1, and in single precision where double is needed.
        """
        seeds = self.seeds if seeds is None else seeds
        positive_integer("seeds", seeds, "give the number of seeds")
        if self.needs_x64 and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
            instead = "call jax.config.update('jax_enable_x64', True) first"
            raise problem_with("preset", self.name, "its errors fall below what float32 resolves", instead)
        return self.job(seeds, progress)


@dataclass(frozen=True)
class Paper:
    """A paper, and what of it can be run here. Its name is that of its file: `wind_2023.py` holds "wind-2023".

    `module` is the file's `__name__`.
    """

    module: str
    title: str
    authors: tuple[str, ...]
    year: int
    presets: tuple[Preset, ...]

    @property
    def name(self) -> str:
        """The name to find it by."""
        return self.module.rpartition(".")[2].replace("_", "-")

    @property
    def citation(self) -> str:
        """Author and year: "Ma & Fattahi (2024)"."""
        *others, last = (author.rpartition(" ")[2] for author in self.authors)
        return f"{', '.join(others)} & {last} ({self.year})" if others else f"{last} ({self.year})"

    @property
    def needs_x64(self) -> bool:
        """Whether one of its presets needs double precision."""
        return any(preset.needs_x64 for preset in self.presets)

    def run(self, seeds: int | None = None, progress: Progress | None = None) -> dict[str, Outcome]:
        """Run every preset, with its own number of seeds unless one is given, and return what they show by name.

        Raises ValueError for a number of seeds below 1, and in single precision where double is needed.
        """
        count = len(self.presets)
        return {
            preset.name: preset.run(seeds, part(progress, place, count)) for place, preset in enumerate(self.presets)
        }


def names() -> list[str]:
    """Return the names of all papers, such as "wind-2023"."""
    return sorted(_all())


def find(name: str) -> Paper:
    """Return a paper by its name. Raises ValueError, which lists the names, for an unknown one."""
    papers = _all()
    if name not in papers:
        raise problem_with("paper", name, f"the papers are {', '.join(sorted(papers))}", "choose one of these")
    return papers[name]


def _all() -> dict[str, Paper]:
    package = importlib.import_module(__name__.rpartition(".")[0])
    files = (found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."))
    papers = (_paper_in(importlib.import_module(file)) for file in files)
    return {paper.name: paper for paper in papers if paper is not None}


def _paper_in(module: ModuleType) -> Paper | None:
    return getattr(module, "PAPER", None)


def part(progress: Progress | None, place: int, count: int) -> Progress | None:
    """Return the progress of the sweep number `place` out of `count`, taken to be equally long."""
    return progress and partial(_report, progress, place, count)


def _report(progress: Progress, place: int, count: int, done: int, total: int) -> None:
    progress(place * total + done, count * total)


def log_slopes(x: Sequence[float] | np.ndarray, y: xr.DataArray, axis: str) -> np.ndarray:
    """Return the least-squares slope of log y against log x for each seed."""
    return np.polyfit(np.log(x), np.log(y.transpose(axis, "seed").values), 1)[0]


def above(what: str, values: np.ndarray, bound: float) -> Finding:
    """Expect the mean over seeds to lie above a bound, with its whole interval."""
    return _mean(what, values, f"> {bound:.3g}", bound, np.inf)


def below(what: str, values: np.ndarray, bound: float) -> Finding:
    """Expect the mean over seeds to lie below a bound, with its whole interval."""
    return _mean(what, values, f"< {bound:.3g}", -np.inf, bound)


def within(what: str, values: np.ndarray, least: float, most: float) -> Finding:
    """Expect the mean over seeds to lie between two numbers, with its whole interval."""
    return _mean(what, values, f"{least:.3g} to {most:.3g}", least, most)


def near(what: str, values: np.ndarray, bound: float) -> Finding:
    """Report the mean over seeds beside a number, and expect nothing."""
    return Finding(what, *stats.mean_interval(values), MEAN, f"about {bound:.3g}", None)


def bounded(what: str, values: np.ndarray, bound: float) -> Finding:
    """Expect the largest value of all runs to be at most a bound, which is called loose where it says little."""
    most = float(np.max(values))
    loose = " (loose)" if 0 < LOOSE * most < bound else ""
    return Finding(what, most, float(np.min(values)), most, RANGE, f"≤ {bound:.3g}{loose}", most <= bound)


def unjudged(what: str, values: np.ndarray) -> Finding:
    """Report the largest value of all runs, of which nothing is expected."""
    return Finding(what, float(np.max(values)), float(np.min(values)), float(np.max(values)), RANGE, "–", None)


def always(what: str, successes: np.ndarray) -> Finding:
    """Expect every run to succeed."""
    count = np.size(successes)
    low, high = stats.wilson(int(np.sum(successes)), count)
    return Finding(what, float(np.mean(successes)), float(low), float(high), WILSON, "1", bool(np.all(successes)))


def _mean(what: str, values: np.ndarray, expected: str, least: float, most: float) -> Finding:
    """Judge a mean by its interval: it holds between the bounds, is refuted beyond one, and is left open on one."""
    values = np.asarray(values, float)
    found = mean, low, high = stats.mean_interval(values)
    if not np.all(np.isfinite(values)):
        # A run that diverged, or never arrived, shows nothing that was expected.
        return Finding(what, mean, low, high, MEAN, expected, False)
    if least < low and high < most:
        return Finding(what, mean, low, high, MEAN, expected, True)
    if high < least or low > most:
        return Finding(what, mean, low, high, MEAN, expected, False)
    return Finding(what, mean, low, high, MEAN, expected, None, _open(found, len(values), least, most))


def _open(found: tuple[float, float, float], count: int, least: float, most: float) -> str:
    """Say why an interval decides nothing, and how many seeds would."""
    if count < 2:
        return "one seed gives no interval: take at least 5"
    nearest = min((least, most), key=lambda bound: abs(found[0] - bound))
    needed = numbers_that_decide(found, count, abs(found[0] - nearest))
    said = rounded_up(needed)
    return f"the interval holds {nearest:.3g}: about {said} seeds decide if they scatter like these {count}"
