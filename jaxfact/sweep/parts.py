"""One experiment of a sweep, read, and those that were read lately."""

import math
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from threading import Lock
from types import MethodType
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.axes import as_run
from jaxfact.engine.compressibility import compression_of
from jaxfact.engine.devices import working_devices
from jaxfact.engine.experiment import Experiment, Run, check_experiment, run_at
from jaxfact.engine.floors import check_tolerance
from jaxfact.engine.lanes import Engine, Work
from jaxfact.engine.outcomes import Limits, Plan, Rules
from jaxfact.engine.program import Program
from jaxfact.engine.reading import Reading
from jaxfact.engine.recording import Found
from jaxfact.engine.unchanged import Same, footprint
from jaxfact.inputs import problem_with
from jaxfact.measures import invariants
from jaxfact.measures.records import Records, named_measures
from jaxfact.methods.base import as_method
from jaxfact.numerics.draws import key_of
from jaxfact.problems.base import Problem
from jaxfact.problems.factorization import Factorization
from jaxfact.results.labels import label
from jaxfact.store import provenance

_PARTS, _BYTES = 8, 2**26  # that are remembered, and what their arrays may take
_SIZES = 2


class Options(NamedTuple):
    """What the experiments of one sweep have in common."""

    max_steps: int
    record: Records | None
    record_steps: tuple[int, ...]
    check_every: int
    base_seed: int
    checked: bool
    compress: bool
    compensated: bool
    levels: tuple[float, ...] = ()


class Part:
    """One experiment of a sweep, read: its programs, its rules, and what is written beside its results.

    `axes` are the values of its axes by which it is read; others may follow, of the same kinds: see `admit`.
    """

    def __init__(
        self, experiment: Experiment, tolerance: float | None, options: Options, axes: Mapping[str, np.ndarray]
    ):
        self._experiment, self._options, self._record = experiment, options, named_measures(options.record)
        self._x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
        self._words = np.asarray(jax.random.key_data(key_of(options.base_seed)))
        self.plan: Plan = Plan(options.max_steps, options.check_every, tolerance, options.record_steps, options.levels)
        first = self._checked(axes)
        self._ranges = {name: (values.min(), values.max()) for name, values in axes.items()}
        self._said_of = _Said(_point(axes), first.problem, provenance.of_problem(first.problem), bool(axes))
        self.limits: Limits = self.plan.limits(first.problem.dtype)
        method = as_method(first.method)
        checks = invariants.applying_to(method) if options.checked else ()
        can = options.compress and type(first.problem) is Factorization
        compression = compression_of(method, options.record) if can else None
        point = {name: as_run(values, self._x64)[0] for name, values in axes.items()}
        self.reading: Reading = Reading(experiment, point, options.record, checks, compression, options.compensated)
        if options.compensated and self.reading.uses_noise:
            raise problem_with("compensated", True, "noise hides what rounding does", "leave it out for noisy methods")
        self._example = self.runs(_first(axes), np.zeros(1, int))
        self.rules: Rules = Rules(
            periodic=not self.reading.uses_noise,
            misfits=self.reading.findings.misfits,
            checked=options.checked,
            stops=tolerance is not None,
        )
        self.engine: Engine = Engine(self.reading, self.rules, self._example)
        self._attributes: dict[str, Any] = {
            **provenance.of_experiment(experiment),
            "base_seed": options.base_seed,
            "max_steps": options.max_steps,
            "check_every": options.check_every,
            "lanes_per_block": self.engine.way.lanes,
            "compression": "none" if compression is None else "in law" if compression.noisy else "exact",
            "lanes": self.engine.way.said,
            "tolerance": tolerance,
            "levels": list(options.levels),
            "record_names": list(self._record),
            "record_steps": list(options.record_steps),
            "record_functions": [provenance.place(measure) for measure in self._record.values()],
            "checked": options.checked,
            "compensated": options.compensated,
        }
        self._programs: list[Program] = []

    @property
    def size(self) -> int:
        """How many bytes the arrays have that its runs share."""
        return sum(array.nbytes for array in self.reading.shared)

    @property
    def is_light(self) -> bool:
        """Whether these arrays may be in memory together with those of another part."""
        return self.size <= _BYTES

    def admit(self, axes: Mapping[str, np.ndarray]) -> None:
        """Refuse values out of range, as when it was read; between two that were in range all are."""
        wider = {
            name: (min(least, axes[name].min()), max(most, axes[name].max()))
            for name, (least, most) in self._ranges.items()
        }
        if wider != self._ranges:
            self._checked(axes)
            self._ranges = wider
        self._said_at(axes)  # which calls the experiment, that may raise: before runs are made, and not after

    def _checked(self, axes: Mapping[str, np.ndarray]) -> Run:
        """Return the run at the first point; refuse points that are out of range."""
        corners = check_experiment(self._experiment, axes)
        check_tolerance(self.plan.tolerance, corners, self._options.compensated)
        return corners[0]

    def attributes(self, axes: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return what is written beside the results of runs along these axes."""
        return {**provenance.of_today(), **self._said_at(axes).words, **self._attributes, "axes": list(axes)}

    def _said_at(self, axes: Mapping[str, np.ndarray]) -> "_Said":
        """Return what is said of the problem at the first point, which is asked for where it may be another there."""
        known = self._said_of
        if not known.varies or known.point == _point(axes):
            return known
        problem = run_at(self._experiment, _point(axes)).problem
        said = _Said(_point(axes), problem, provenance.of_problem(problem), problem is not known.problem)
        self._said_of = said
        return said

    def program(self, size: int) -> Program:
        """Return the program for tiles of a size, traced once; to be stopped and drained on its own."""
        made = next((program for program in self._programs if program.fits(size)), None)
        if made is None:
            made = Program(self.engine, self._example, size)
            self._programs = [*self._programs[1 - _SIZES :], made]
        return made.anew()

    def runs(self, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> Work:
        """Return seeds and points of runs, on the host; the points run fastest, so that tiles are alike."""
        grid = np.meshgrid(*axes.values(), indexing="ij")
        flat = {
            name: np.tile(as_run(values.ravel(), self._x64), len(seeds))
            for name, values in zip(axes, grid, strict=True)
        }
        count = math.prod(map(len, axes.values()))
        numbers = np.asarray(count * len(seeds), np.int32), np.asarray(self._options.check_every, np.int32)
        return Work(self._words, np.repeat(seeds.astype(np.uint32), count), flat, *numbers, self.limits)  # pyright: ignore[reportArgumentType]

    def labelled(self, found: Found, axes: Mapping[str, np.ndarray], seeds: np.ndarray) -> xr.Dataset:
        """Return the results of such runs as a dataset."""
        findings = self.reading.findings
        return label(found, self.plan, self._record, axes, seeds, findings.is_pair, findings.misfits)


class _Said(NamedTuple):
    """The problem at a point, what is written of it, and whether another point may have another."""

    point: dict[str, float]
    problem: Problem
    words: dict[str, Any]
    varies: bool


def _first(axes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the first point of the axes."""
    return {name: values[:1] for name, values in axes.items()}


def _point(axes: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: values[0].item() for name, values in axes.items()}


_remembered: OrderedDict[Hashable, tuple[Part, int]] = OrderedDict()
_lock = Lock()


def part_of(experiment: Experiment, tolerance: float | None, options: Options, axes: Mapping[str, np.ndarray]) -> Part:
    """Return an experiment as it was read lately, where neither it nor anything that it reads has changed since.

    Else it is read. Big arrays are not kept for this: what holds more than 64 MB is read each time.
    """
    found = footprint(experiment, named_measures(options.record))
    if found is None:
        return Part(experiment, tolerance, options, axes)
    kinds = tuple((name, values.dtype.str) for name, values in axes.items())
    key = _identity(experiment), found.parts, tolerance, options._replace(record=None), kinds, _settings()
    with _lock:
        part, _ = _remembered.pop(key, (None, 0))
    if part is None:
        part = Part(experiment, tolerance, options, axes)
    else:
        part.admit(axes)
    size = max(found.size, part.size)
    with _lock:
        if size <= _BYTES:
            _remembered[key] = part, size
        while len(_remembered) > _PARTS or sum(size for _, size in _remembered.values()) > _BYTES:
            _remembered.popitem(last=False)
    return part


def _identity(experiment: Experiment) -> tuple[Same, ...]:
    """Return what tells apart experiments of the same content, which may be found under different names."""
    if isinstance(experiment, MethodType):  # made anew each time it is looked up
        return Same(experiment.__func__), Same(experiment.__self__)
    return (Same(experiment),)


def _settings() -> tuple[Hashable, ...]:
    """Return the settings of JAX by which experiments are read."""
    names = (
        *("jax_enable_x64", "jax_default_matmul_precision", "jax_numpy_dtype_promotion", "jax_default_prng_impl"),
        *("jax_threefry_partitionable", "jax_random_seed_offset"),
    )
    return (working_devices(1)[0], *(getattr(jax.config, name, None) for name in names))
