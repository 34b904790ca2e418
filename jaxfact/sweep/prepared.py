"""An experiment that is read, traced and compiled once, to be called as often as is wanted."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.axes import Values, both_given
from jaxfact.engine.experiment import Experiment
from jaxfact.engine.tiles import tile_size
from jaxfact.inputs import explained, nearest, problem_with, shown
from jaxfact.measures.records import Records
from jaxfact.numerics.products import in_full_precision
from jaxfact.results.labels import along_runs
from jaxfact.showing.markup import card
from jaxfact.showing.progress import Progress, shown_progress
from jaxfact.store.queues import MemoryQueue
from jaxfact.sweep.declared import Declared, Told, labels_of, outcomes_in, without_single

_USUAL = 4096  # runs in a tile


class Prepared:
    """An experiment, read, traced and compiled by `prepare`: call it with seeds, and with values of its axes.

    What it returns is the dataset of `sweep` with the same settings, bit for bit. Settings of JAX are those that held
    where it was made.
    """

    def __init__(self, declared: Declared, axes: Mapping[str, Values]):
        self._declared, self._defaults = declared, dict(axes)
        self._x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
        self._precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
        self._parts = list(declared.parts(declared.axes))
        for part in self._parts:
            program = part.program(part.engine.way.lanes)
            # Where records take so much room that it depends on the number of runs, the first call compiles.
            if program.fits(max(part.engine.way.lanes, _USUAL)):
                program.compile()

    @property
    def axes(self) -> dict[str, Values]:
        """The values of its axes where a call gives none."""
        return dict(self._defaults)

    def __repr__(self) -> str:
        """Say what it is a function of."""
        names = ", ".join(["seeds", *(f"{name}={shown(values)}" for name, values in self._defaults.items())])
        return f"Prepared({names})"

    def _repr_html_(self) -> str:
        """Say in a notebook what it is a function of, and how its runs advance."""
        said = self._parts[0].attributes(self._declared.axes)
        looked = f"looked at every {said['check_every']}"
        facts = {
            "axes": ", ".join(f"{name}={shown(values)}" for name, values in self._defaults.items()),
            "variants": ", ".join(self._declared.named),
            "problem": f"{said['problem']} of {'×'.join(map(str, said['shape']))}, {said['dtype']}",
            "runs": f"at most {said['max_steps']} steps, tolerance {said['tolerance']}, {looked}",
            "compression": str(said["compression"]),
            "lanes": str(said["lanes"]),
        }
        facts = {name: value for name, value in facts.items() if value}
        return card("Prepared", facts, note="prepared(seeds=1000) runs it; nothing is read or compiled then.")

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied."""
        needed = "it holds compiled code, which another process cannot take over"
        raise problem_with("pickle", repr(self), needed, "hand on the experiment, and call jf.prepare there")

    @explained
    def __call__(
        self,
        seeds: int | Sequence[int] | np.ndarray,
        *,
        progress: Progress | bool = True,
        store: str | Path | None = None,
        accept: Iterable[str] = (),
        tile_runs: int | None = None,
        devices: int | None = None,
        axes: Mapping[str, Values] | None = None,
        **more_axes: Values,
    ) -> xr.Dataset:
        """Run the experiment for every point of the axes and every seed; nothing is read, and nothing compiled.

        An axis of which no values are given has those that it was prepared with. Values are range-checked where they
        lie outside of all that were checked before. Axes of whole numbers take whole numbers only.

        Args:
            seeds: A count, or an array of distinct seed numbers from 0 to 2³²−1.
            progress: See `sweep`, as for all that follow.
            store: The path of a store.
            accept: Names of differences from what made the store, to go on despite them.
            tile_runs: The largest number of runs in a tile; another may need another program.
            devices: How many local devices work, or threads of a CPU.
            axes: The values of axes, for names that collide with options.
            **more_axes: The values of axes by keyword; one number gives a coordinate, and no dimension.

        Returns:
            The dataset of `sweep`.

        Raises:
            ValueError: For an axis that it was not prepared with, and as `sweep`.
            StoreError: Where a store cannot be written.
        """
        with (
            shown_progress(progress, counts=outcomes_in(store)) as tell,
            jax.enable_x64(self._x64),
            jax.default_matmul_precision(self._precision),
        ):
            given = both_given(axes, more_axes)
            labels = self._declared.axes | {name: self._labels(name, values) for name, values in given.items()}
            counts = {"tile_runs": tile_runs, "devices": devices}
            request = self._declared.request(seeds, labels, store, tell, accept, counts)
            for name, values in request.axes.items():
                if values.dtype != labels[name].dtype:
                    held = f"the store has {'fractions' if values.dtype.kind == 'f' else 'whole numbers'} there"
                    raise problem_with(name, shown(labels[name].tolist()), held, "prepare it with such numbers")
            for part in self._parts:
                part.admit(request.axes)
            runs = self._declared.results(self._parts, request, store)
            return without_single(runs, self._defaults | given)

    def arrays(
        self, seeds: Sequence[int] | np.ndarray, point: Mapping[str, float], tile_runs: int
    ) -> dict[str, np.ndarray]:
        """Return the numbers of `prepared(seeds, **point)` by their names, without labels, attributes or checks.

        For what asks ten times a second, as a page does: labels take as long as a thousand runs. All runs are made by
        one thread, so that several experiments may run side by side, in tiles with room for `tile_runs` runs, so that
        another number of seeds needs no other program. `point` has all axes, with values between those that it was
        prepared with; outcomes are numbers, places in `engine.outcomes.OUTCOMES`. Of one experiment only.
        """
        (part,) = self._parts
        axes = {name: np.asarray([point[name]], labels.dtype) for name, labels in self._declared.axes.items()}
        with jax.enable_x64(self._x64), jax.default_matmul_precision(self._precision):
            work = part.runs(axes, np.asarray(seeds))
            queue = MemoryQueue(work, tile_size(int(work.count), part.engine.way, 1, tile_runs))
            part.program(max(queue.size, tile_runs)).run(queue, None, 1)
            findings = part.reading.findings
            found = along_runs(queue.found, part.plan, {}, findings.is_pair, findings.misfits)
        return {name: values for name, (_, values) in found.items()}

    def _labels(self, name: str, values: Values) -> np.ndarray:
        """Return the values of an axis as labels of the kind it was prepared with."""
        known = self._declared.axes
        if name not in known and name in _OF_PREPARE:
            raise problem_with(name, shown(values), "was settled by jf.prepare", "prepare again, or call jf.sweep")
        if name not in known:
            likely = nearest(name, {*known, *_OF_A_CALL})
            instead = f"{likely} may be meant" if likely else "prepare it with this axis"
            held = f"with {', '.join(known)}" if known else "without axes"
            raise problem_with(name, shown(values), f"is no axis: it was prepared {held}", instead)
        labels, kind = labels_of(name, values), known[name].dtype
        if kind.kind == "i" and not np.array_equal(labels, labels.astype(kind)):
            needed = "it was prepared with whole numbers, which are another program"
            raise problem_with(
                name, shown(labels.tolist()), needed, "give whole numbers, or prepare it with a fraction"
            )
        return labels.astype(kind)


_OF_A_CALL = tuple(inspect.signature(Prepared.__call__).parameters)[1:-1]


@explained
@in_full_precision
def prepare(
    experiment: Experiment | Mapping[str, Experiment],
    *,
    max_steps: int,
    tolerance: float | None | Mapping[str, float | None],
    levels: Sequence[float] | None = None,
    record: Records | None = None,
    every: int | Sequence[int] | None = None,
    check_every: int = 10,
    base_seed: int = 0,
    checked: bool = False,
    compress: bool = True,
    compensated: bool = False,
    axes: Mapping[str, Values] | None = None,
    **more_axes: Values,
) -> Prepared:
    """Read, trace and compile an experiment once, and return a function of seeds and of values of its axes.

    A call of it costs milliseconds beyond its runs: for sliders, searches, and whatever else asks again and again. What
    the experiment closes over is read here, once: a number or an array that is changed afterwards has no effect on
    calls, so make it an axis, or prepare again.

        prepared = jf.prepare(experiment, max_steps=2000, tolerance=1e-5, step_size=[0.05, 1.0], scale=1e-3)
        runs = prepared(seeds=1000, step_size=0.3)
        grid = prepared(seeds=100, step_size=np.geomspace(0.05, 1, 16), scale=[1e-3, 1e-1])

    Args:
        experiment: A function of the axes that returns a `Run`, or a dict of such functions, as for `sweep`.
        max_steps: The budget of steps for one run, a multiple of `check_every`.
        tolerance: The distance at which a run may end, None for never; a mapping gives one for each variant.
        levels: The distances to which runs are timed.
        record: Measures along the steps, or at the end.
        every: The steps to record, a stride or a list.
        check_every: The number of steps between two looks at a run.
        base_seed: The number from which all random keys derive.
        checked: Whether the invariants are evaluated after every step.
        compress: Whether runs may take place on the exactly compressed problem; the method is probed at the first
            values.
        compensated: Whether the rounding error of each update is carried into the next.
        axes: Values of each axis, for names that collide with options; others may be given by keyword.
        **more_axes: Values of each axis by keyword, which calls have by default. Whole numbers make an axis of whole
            numbers. Those between the ends are in range, and calls need not check them again.

    Returns:
        A `Prepared`.

    Raises:
        ValueError: As `sweep`.
    """
    told = Told(max_steps, tolerance, levels, record, every, check_every, base_seed, checked, compress, compensated)
    given = both_given(axes, more_axes)
    return Prepared(Declared(experiment, told, given, _OF_PREPARE), given)


_OF_PREPARE = tuple(inspect.signature(prepare).parameters)
