"""A sweep with a store: what it does not hold is run into it, and what was asked for is opened."""

import errno
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import numpy as np
import xarray as xr

from jaxfact.engine.axes import places_of
from jaxfact.engine.devices import made_ahead
from jaxfact.engine.program import Program
from jaxfact.inputs import problem_with
from jaxfact.results.labels import TIMES, describe, join
from jaxfact.showing.progress import Progress
from jaxfact.store.files import results_in
from jaxfact.store.grid import Grid, Tile, blocks_of, size
from jaxfact.store.medium import Medium, Place, StoreError, medium_of
from jaxfact.store.queues import Cluster, Part, StoreQueue
from jaxfact.store.root import Root
from jaxfact.store.roots import read_root
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import admit, create, extend, mend

_TILE = 4096
_PAUSE = 0.5  # seconds between two looks at what others make
_PATIENCE = (0.1, 0.3, 1.0, 3.0, 10.0, 0.0)
_NEW = "choose a path where nothing is yet"


class Request(NamedTuple):
    """What a sweep asks of a store: its runs, and how they are to be made.

    `variants` is None where there is one experiment without a name.
    """

    axes: Mapping[str, np.ndarray]
    seeds: np.ndarray
    variants: Sequence[str] | None
    accept: Sequence[str] = ()
    tile_runs: int | None = None
    devices: int | None = None
    progress: Progress | None = None
    cluster: Cluster | None = None
    check_store: bool = False


def run_into(place: Place, parts: Sequence[Part], request: Request) -> xr.Dataset:
    """Run what a store does not hold, create it where there is none, and return what was asked for.

    Raises ValueError where another sweep has made it, StoreError where it cannot be written, and KeyboardInterrupt,
    which says how to go on.
    """
    medium = medium_of(place)
    blocks = _blocks(medium, parts, request)
    first = Grid({name: values[:1] for name, values in request.axes.items()}, request.seeds[:1], blocks)
    programs = [part.program(max(part.engine.way.lanes, math.prod(blocks))) for part in parts]
    form = _template(parts, programs, request.variants, first)
    if medium.is_empty():
        with suppress(FileExistsError):  # another process was faster
            create(place, Grid(request.axes, request.seeds, blocks), form)
    damaged = admit(place, form.attrs, request.accept)
    extend(place, request.axes, request.seeds)
    store = TileStore(place)
    for damage in [f"{damage}; it is made again" for damage in damaged] + [
        f"{damage}; the runs of this tile are made again" for damage in mend(store, thorough=request.check_store)
    ]:
        warnings.warn(f"{store.name}: {damage}", stacklevel=3)
    if request.cluster is None:
        seconds = _run(store, parts, programs, request)
    else:
        seconds = _run_elsewhere(store, request.cluster, request)
    _refresh(store, request)
    return describe(_asked_for(store, request).assign(_timed(seconds, request.variants)))


def progress_of(progress: Progress | None, place: int, count: int) -> Progress | None:
    """Return a progress call for one of several equal parts that reports the runs of all; None where nobody asks."""
    return progress and (lambda done, total: progress(place * total + done, count * total))


def _template(
    parts: Sequence[Part], programs: Sequence[Program], variants: Sequence[str] | None, first: Grid
) -> xr.Dataset:
    """Return the dataset of the one run of a grid in each variant, for its form and its attributes."""
    blank = [
        part.labelled(program.blank(part.limits), first.axes, first.seeds).assign_attrs(
            {**part.attributes(first.axes), "program": program.fingerprint}
        )
        for part, program in zip(parts, programs, strict=True)
    ]
    whole = blank[0] if variants is None else join(blank, variants)
    return whole.assign_attrs(variants=variants)


def _blocks(medium: Medium, parts: Sequence[Part], request: Request) -> tuple[int, ...]:
    """Return the lengths of a tile: those that the store has, where there is one."""
    if medium.is_empty():
        most = request.tile_runs or max(_TILE, *(part.engine.way.lanes for part in parts))
        return blocks_of([len(values) for values in request.axes.values()], len(request.seeds), most)
    blocks = read_root(medium, _NEW).root.grid.blocks
    if request.tile_runs is not None and math.prod(blocks) > request.tile_runs:
        held = f"the tiles of {medium.name} have {math.prod(blocks)} runs"
        raise problem_with("tile_runs", request.tile_runs, held, "leave it out, or begin a new store")
    return blocks


def _run(
    store: TileStore, parts: Sequence[Part], programs: Sequence[Program], request: Request
) -> list[dict[str, float]]:
    """Run what is missing, first without waiting for others; return each part's seconds, by what took them."""
    seconds = [dict.fromkeys(TIMES, 0.0) for _ in parts]
    asked = store.grid.tiles_with(_places(store.root, request))
    total = int(np.sum(store.grid.sizes(), where=asked))
    for patient in (False, True):
        queues = (
            StoreQueue(store, part, store.left(place, asked), total, patient=patient, halted=program.halted)
            for place, (part, program) in enumerate(zip(parts, programs, strict=True))
        )
        for place, queue, compiling in made_ahead(_ready(queues, programs, request), 1, while_light=lambda _: True):
            progress = progress_of(request.progress, place, len(parts))
            with drained_by_signals(programs[place], store.name):
                timing = programs[place].run(queue, progress, request.devices)
            timing["compile_seconds"] += compiling
            seconds[place] = {name: seconds[place][name] + timing.get(name, 0.0) for name in TIMES}
    return seconds


def _run_elsewhere(store: TileStore, cluster: Cluster, request: Request) -> list[dict[str, float]]:
    """Have a cluster make what is missing, and wait for what others make; return the seconds, of each part alike."""
    began, asked, made = time.perf_counter(), store.grid.tiles_with(_places(store.root, request)), set()
    variants = range(len(store.variants))
    total = int(np.sum(store.grid.sizes(), where=asked)) * len(variants)
    while left := [tile for variant in variants for tile in store.left(variant, asked) if tile not in made]:
        done, before = total - sum(size(store.grid.box(tile)) for tile in left), len(made)

        def told(tile: Tile, runs: int) -> None:
            nonlocal done
            done += runs
            made.update([tile] * (runs > 0))
            if request.progress:
                request.progress(done, total)

        with drained_by_signals(cluster, store.name):
            cluster.make(left, told)
        if len(made) == before:
            time.sleep(_PAUSE)  # others have them all
        store.refresh()
    seconds = (time.perf_counter() - began) / len(variants)
    return [{"compile_seconds": 0.0, "run_seconds": seconds} for _ in variants]


def _refresh(store: TileStore, request: Request) -> None:
    """Wait until what was asked for is seen to be there, which takes seconds where a listing lags behind."""
    asked = store.grid.tiles_with(_places(store.root, request))
    for pause in _PATIENCE:
        store.refresh()
        missing = sum(len(store.left(variant, asked)) for variant in range(len(store.variants)))
        if not missing:
            return
        time.sleep(pause)
    said = f"{store.name}: {missing} tiles that were written are not listed; repeat the call, which finds them"
    raise StoreError(errno.EAGAIN, said)


def _ready(
    queues: Iterable[StoreQueue], programs: Sequence[Program], request: Request
) -> Iterator[tuple[int, StoreQueue, float]]:
    """Yield the queues that are not empty, with their places, and the seconds it has taken to compile their programs.

    The first is compiled where it is run, each other one before that.
    """
    first = True
    for place, queue in enumerate(queues):
        if len(queue):
            yield place, queue, 0.0 if first else programs[place].compile(request.devices)
            first = False


def as_in_store(place: Place, axes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return axes with whole numbers where a store has them, and with others where it has those.

    The same number is another to a program where it is whole. Raises ValueError for a fraction where all are whole.
    """
    medium = medium_of(place)
    if medium.is_empty():
        return dict(axes)
    held = read_root(medium, _NEW).root.grid.axes
    kinds = {name: held[name].dtype if name in held else values.dtype for name, values in axes.items()}
    for name, values in axes.items():
        if kinds[name].kind == "i" and not np.array_equal(values, values.astype(kinds[name])):
            needed = f"the axis has whole numbers in {medium.name}"
            raise problem_with(name, values.tolist(), needed, "give whole numbers, or begin a new store")
    return {name: values.astype(kinds[name]) for name, values in axes.items()}


def _places(root: Root, request: Request) -> dict[str, np.ndarray]:
    """Return the numbers of the values that were asked for among those of a store."""
    x64 = root.attributes["x64"]
    places = {name: places_of(values, root.grid.axes[name], x64) for name, values in request.axes.items()}
    return places | {"seed": places_of(request.seeds, root.grid.seeds, x64=True)}


def _asked_for(store: TileStore, request: Request) -> xr.Dataset:
    """Open the runs that were asked for, in the order in which they were, under the labels that were asked for."""
    found, places = results_in(store.medium, store.root, store.marks.done()), _places(store.root, request)
    same = all(np.array_equal(place, np.arange(found.sizes[name])) for name, place in places.items())
    chosen = found if same else found.isel(places)
    renamed = {
        name: (name, values, chosen[name].attrs)
        for name, values in request.axes.items()
        if not np.array_equal(chosen[name], values)
    }
    return chosen.assign_coords(renamed) if renamed else chosen


def _timed(seconds: Sequence[Mapping[str, float]], variants: Sequence[str] | None) -> dict[str, tuple]:
    if variants is None:
        return {name: ((), seconds[0][name]) for name in TIMES}
    return {name: ("variant", [of_variant[name] for of_variant in seconds]) for name in TIMES}


@contextmanager
def drained_by_signals(program: Program | Cluster, name: str) -> Iterator[None]:
    """Finish the tiles in flight at the first interrupt or SIGTERM, stop at once at the second.

    Raises a KeyboardInterrupt that says how to go on, where the block was cut short.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def handle(number: int, _: object) -> None:
        caught.append(number)
        program.drain()
        if len(caught) > 1:
            raise KeyboardInterrupt(f"stopped at once; {_resume(name)}")
        warnings.warn("finishing the tiles in flight; interrupt again to stop at once", stacklevel=2)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt(f"stopped; {_resume(name)}")


def _resume(name: str) -> str:
    return f"what is in {name} is safe: repeat the call, which makes only the other runs"
