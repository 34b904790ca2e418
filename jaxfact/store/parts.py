"""What a store needs to know of an experiment of a sweep, and what it makes of it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.lanes import Found, Work
from jaxfact.engine.outcomes import Rules
from jaxfact.engine.program import Program
from jaxfact.engine.reading import Reading
from jaxfact.results.labels import along_runs, join
from jaxfact.store.grid import Box, Grid, size
from jaxfact.store.tilestore import Results


class Part(Protocol):
    """One experiment of a sweep: how it is read, how its runs end, and what is written beside its results."""

    reading: Reading
    rules: Rules
    attributes: dict[str, Any]

    def runs(self, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> Work:
        """Return seeds and points of runs, of which the points run fastest."""
        ...

    def labelled(self, found: Found, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> xr.Dataset:
        """Return the results of such runs as a dataset."""
        ...


def template(
    parts: Sequence[Part], programs: Sequence[Program], variants: Sequence[str] | None, first: Grid
) -> xr.Dataset:
    """Return the dataset of the one run of a grid by each variant, for its form and its attributes."""
    blank = [
        part.labelled(program.blank, first.axes, first.seeds).assign_attrs(
            {**part.attributes, "program": program.fingerprint}
        )
        for part, program in zip(parts, programs, strict=True)
    ]
    whole = blank[0] if variants is None else join(blank, variants)
    return whole.assign_attrs(variants=variants)


def runs_in(part: Part, grid: Grid, boxes: Sequence[Box]) -> Work:
    """Return the runs of some boxes, one box after the other."""
    works = [part.runs(*grid.at(box)) for box in boxes]
    seeds, points = jax.tree.map(lambda *xs: np.concatenate(xs), *[(w.seeds, dict(w.points)) for w in works])
    return works[0]._replace(seeds=seeds, points=points, count=np.asarray(sum(map(size, boxes)), np.int32))


def results_in(part: Part, grid: Grid, boxes: Sequence[Box], found: Found) -> list[tuple[Box, Results]]:
    """Return what was found in such boxes, as a store takes it."""
    parts, begin = [], 0
    for box in boxes:
        rows = found.rows(slice(begin, begin + size(box)))
        begin += size(box)
        lengths = dict(zip(grid.axes, map(len, box), strict=False))
        variables = along_runs(rows, part.rules, lengths, part.reading.findings.is_pair)
        parts.append((box, Results(np.asarray(part.rules.levels), variables)))
    return parts
