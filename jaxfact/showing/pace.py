"""How fast something goes on, in words."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

_COUNTED_SECONDS = 5.0

Counts = Callable[[], Mapping[str, int]]
"""Returns how many runs have had each outcome so far."""


class Unit(NamedTuple):
    """What is counted, and what so many of them in a second are called; nothing where the rate says nothing."""

    name: str
    rate: str


RUNS: Unit = Unit("runs", "runs/s")
WORK: Unit = Unit("s of work", "")


class Pace:
    """What was told of some work, and how fast it has gone since this process began with it; told by any thread.

    Attributes:
        counted: how much is done, and how much there is; None as long as nothing was told.
    """

    def __init__(self, unit: Unit = RUNS, counts: Counts = dict, clock: Callable[[], float] = time.monotonic):
        self._unit, self._counts, self._clock = unit, counts, clock
        self._began = (0.0, 0)
        self._counted_at, self._outcomes = -_COUNTED_SECONDS, {}
        self.counted: tuple[int, int] | None = None

    def told(self, done: int, total: int) -> None:
        """Note how much is done; what a store held before took none of this process's time."""
        if self.counted is None:
            self._began = self._clock(), done
        self.counted = done, total

    def amount(self) -> str:
        """Return how much is done of how much; nothing was told as long as an experiment is read and compiled."""
        if self.counted is None:
            return "reading and compiling"
        done, total = self.counted
        return f"{done} of {total} {self._unit.name}"

    def speed(self) -> str:
        """Return the rate, the time left and the outcomes so far, which are looked at every five seconds."""
        if self.counted is None:
            return ""
        (done, total), (began, before), now = self.counted, self._began, self._clock()
        if now - self._counted_at >= _COUNTED_SECONDS:
            self._counted_at, self._outcomes = now, self._counts()
        rate = (done - before) / (now - began) if now > began else 0.0
        left = f"{duration((total - done) / rate)} left" if rate > 0 else "time left unknown"
        fast = f"{rate:.3g} {self._unit.rate}" if self._unit.rate and rate > 0 else ""
        return "; ".join(filter(None, [", ".join(filter(None, [fast, left])), ranked(self._outcomes)]))


def ranked(outcomes: Mapping[str, int]) -> str:
    """Return counts of outcomes in words, the most frequent first."""
    return ", ".join(f"{name} {count}" for name, count in sorted(outcomes.items(), key=lambda item: -item[1]))


def duration(seconds: float) -> str:
    """Return a time in words of two units at most."""
    whole = round(seconds)
    for unit, length, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // part} {below}"
    return f"{whole} s"
