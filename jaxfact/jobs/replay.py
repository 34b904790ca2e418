"""One run of a sweep once more, step by step, with the bits it had.

The compiled program of the sweep is run again, for this run alone. How many steps it takes between two looks is data:
first as many as the sweep took, so that every stored number can be compared, then one.
"""

import hashlib
import importlib
import json
import math
import numbers
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray as xr

from jaxfact.descent import in_lines
from jaxfact.engine.axes import both_given, places_of
from jaxfact.engine.devices import working_devices
from jaxfact.engine.experiment import Experiment, Run
from jaxfact.engine.lanes import Tile, Work
from jaxfact.engine.levels import as_tolerance
from jaxfact.engine.program import Program
from jaxfact.engine.recording import Found
from jaxfact.inputs import explained, problem_with, shown
from jaxfact.measures.records import Records, named_measures
from jaxfact.numerics.draws import fold, key_from
from jaxfact.numerics.products import in_full_precision
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors
from jaxfact.results.flags import PENDING, encoded
from jaxfact.results.labels import Origin
from jaxfact.store import experiment_file, provenance
from jaxfact.store.differences import HARMLESS, differences
from jaxfact.store.files import open_results
from jaxfact.store.medium import medium_of
from jaxfact.store.root import Root
from jaxfact.store.roots import read_root
from jaxfact.store.trust import is_own
from jaxfact.sweep import Options, Part

_GIVE = "give the experiment, as it was given to the sweep"


class Replay(NamedTuple):
    """A run and its trajectory: `factors`, `loss` and `distance` at `steps` 0, 1, … to the last, along the first axis.

    `run` is what the store or dataset says of it. `problem` is that of the factors: the compressed one, where that was
    run. `expand`, from the experiment's own problem, draws full factors with the same loss and Gram matrices.
    """

    run: xr.Dataset
    factors: AnyFactors
    steps: np.ndarray
    loss: np.ndarray
    distance: np.ndarray
    problem: Problem

    def __repr__(self) -> str:
        """Say which run it is, how it ended, and what there is of it: all its numbers would fill a screen."""
        point = ", ".join(f"{name}={of.item()!r}" for name, of in self.run.coords.items() if not of.ndim)
        ended = f"{self.run.outcome.item()} after {len(self.steps) - 1} steps at distance {self.distance[-1]:.3g}"
        return in_lines(f"Replay({point}: {ended})", self.factors, {"loss": self.loss, "distance": self.distance})


@explained
@in_full_precision
def replay(
    store: str | Path | xr.Dataset,
    *,
    seed: int,
    variant: str | None = None,
    experiment: Experiment | Mapping[str, Experiment] | None = None,
    record: Records | None = None,
    trust: bool = False,
    axes: Mapping[str, float] | None = None,
    **more_axes: float,
) -> Replay:
    """Run one run of a store, or of the dataset that `sweep` returned, again, and return every step of it.

    `variant` is needed where there are several, and one value of every axis that has several, by keyword or, for names
    that collide with arguments, in the mapping `axes`. `experiment` is what the sweep was given; a dataset in memory
    remembers it, and of a store the text that it holds of the experiment's file is executed, up to where it sweeps:
    only where a sweep of this user has written it, unless you `trust` the store as you would a script. `record` is
    needed for records that are neither of this library nor of the file the experiment is in. All factors of all steps
    are kept in memory, in √σ₁.

    Raises ValueError for a run that the store does not hold or has not finished, for an experiment or settings that are
    not those of the store, and for code that is not trusted; RuntimeError where a number differs from the stored one in
    any bit.
    """
    return StoredRun(store, seed, variant, experiment, record, both_given(axes, more_axes), trust=trust).replay()


@explained
@in_full_precision
def draw(
    store: str | Path | xr.Dataset,
    *,
    seed: int,
    variant: str | None = None,
    experiment: Experiment | Mapping[str, Experiment] | None = None,
    record: Records | None = None,
    trust: bool = False,
    axes: Mapping[str, float] | None = None,
    **more_axes: float,
) -> Run:
    """Return how one run of a sweep began: its problem, the factors that were drawn, with their bits, and its method.

    From there `descend` goes on. The problem is the compressed one, where that was run, and the factors are its.
    Arguments and errors are those of `replay`.
    """
    return StoredRun(store, seed, variant, experiment, record, both_given(axes, more_axes), trust=trust).begun()


class StoredRun:
    """One run of a store, or of a dataset in memory, and the program that made it; arguments are those of `replay`.

    `said` is the dataset of this run, `differences` what may have changed its last bits since.
    """

    def __init__(
        self,
        store: str | Path | xr.Dataset,
        seed: int,
        variant: str | None,
        experiment: Experiment | Mapping[str, Experiment] | None,
        record: Records | None,
        axes: Mapping[str, float],
        *,
        trust: bool = False,
    ):
        self._trust = trust
        self.name: str = "the dataset"
        self._root: Root | None = None
        if isinstance(store, xr.Dataset):
            runs, self._all = _in_memory(store)
            origin = store.attrs.get("base_seed")
            if experiment is None and isinstance(origin, Origin):
                experiment, record = origin.experiment, origin.record if record is None else record
            if gone := [name for name in self._all["axes"] if name not in runs]:
                raise problem_with("runs", f"without {gone[0]}", "lacks an axis of its sweep", "rename axes back first")
        else:
            if not isinstance(store, str | PathLike) and not hasattr(store, "set_if_not_exists"):
                raise problem_with(
                    "runs", shown(store), "needs a dataset of a sweep, or a path", "give what sweep returned"
                )
            instead = "give the path that sweep(store=) was given, or what it returned"
            self._root = read_root(medium_of(store), instead).root
            self.name, runs, self._all = str(store), open_results(store), self._root.attributes
        variant = _known_variant(runs, variant)
        self._axes = {name: runs[name].values for name in self._all["axes"]}
        place = _check_point(self._axes, axes, self._all["x64"])
        place["seed"] = _nearest("seed", runs.seed.values, seed, x64=True)
        self.said: xr.Dataset = (runs if variant is None else runs.sel({"variant": variant})).isel(place).load()
        if self.said.outcome.item() == PENDING:
            raise problem_with("seed", seed, "this run has not finished yet", "repeat the sweep, which goes on with it")
        self._check_environment()
        self._name = self.attribute("experiment_name") if experiment is None else "the given one"
        self.part: Part = self._read(experiment, record)
        point = {name: self._axes[name][[place[name]]] for name in self._axes}
        self.work: Work = self.part.runs(point, self.said.seed.values[None])
        self.differences: dict[str, str] = self._check_program()

    @cached_property
    def _program(self) -> Program:
        blocks = 1 if self._root is None else math.prod(self._root.grid.blocks)
        return self.part.program(max(self.part.engine.way.lanes, blocks))

    def attribute(self, name: str) -> Any:
        """Return an attribute of the store; where variants differ in it, that of this run's variant."""
        value = self._all[name]
        return value[self._all["variants"].index(str(self.said.variant.item()))] if self._differs(name) else value

    @property
    def _signature(self) -> Any:
        """What is to show that this user has written the text of its experiment; nothing where there is none."""
        return self.attribute("signature") if "signature" in self._all else ""

    def _differs(self, name: str) -> bool:
        """Tell whether an attribute has one value per variant."""
        return name in self._all.get("differing", ())

    @property
    def ingredients(self) -> tuple[Problem, optax.GradientTransformation]:
        """The problem this run takes place on, compressed or not, and its method."""
        key = fold(key_from(jnp.asarray(self.work.base)), self.work.seeds[0])
        return self.part.reading.ingredients(key, {name: jnp.asarray(x[0]) for name, x in self.work.points.items()})

    @property
    def width(self) -> int:
        """The number of columns of its factors."""
        return self.part.engine.own.factors.width

    def begun(self) -> Run:
        """Return its problem, its first factors and its method."""
        problem, method = self.ingredients
        return Run(problem, _seen(next(self._states(self.work)))[0], method)

    def replay(self) -> Replay:
        """Run it with the looks of the sweep, compare, and run it with a look at every step."""
        looks, found = {}, None
        for tile in self._states(self.work):
            looks[int(np.asarray(tile.lanes.step)[0])] = _seen(tile)
            found = tile.found(1, self.work.limits)
        assert found is not None, "a run is looked at before it begins"
        self._compare(found)
        last = max(looks)
        every_step = self.work._replace(stride=np.ones_like(self.work.stride))
        path = [_seen(tile) for tile in islice(self._states(every_step, beyond=True), last + 1)]
        for step, seen in looks.items():
            if not all(map(_same_bits, jax.tree.leaves(seen), jax.tree.leaves(path[step]))):
                raise RuntimeError(f"step {step}: a look at every step has changed this run; {self._why}")
        factors, loss, distance = jax.tree.map(lambda *xs: np.stack(xs), *path)
        return Replay(self.said, factors, np.arange(last + 1), loss, distance, self.ingredients[0])

    def _states(self, work: Work, *, beyond: bool = False) -> Iterator[Tile]:
        return self._program.steps(work, working_devices(1)[0], beyond=beyond)

    def _check_environment(self) -> None:
        """Refuse another backend or precision before anything is made of them."""
        differing = differences(self._all, {**self._all, **provenance.environment()})
        if fatal := [said for name, said in differing.items() if name not in HARMLESS]:
            made = f"was made differently: {'; '.join(fatal)}"
            raise problem_with("store", self.name, made, "set JAX as it was then")

    def _read(self, given: Experiment | Mapping[str, Experiment] | None, record: Records | None) -> Part:
        """Read the experiment as the sweep did."""
        stored = self._all
        if given is None:
            given = self._recorded()
        elif isinstance(given, Mapping):
            variant = str(self.said.variant.item()) if self._all["variants"] else "a function"
            if variant not in given:
                raise problem_with("experiment", sorted(given), f"lacks {variant}", "name it as the sweep did")
            given = given[variant]
        options = Options(
            max_steps=stored["max_steps"],
            record=self._records(getattr(given, "__globals__", {})) if record is None else record,
            record_steps=tuple(stored["record_steps"]),
            check_every=stored["check_every"],
            base_seed=stored["base_seed"],
            checked=stored["checked"],
            compress=self.attribute("compression") != "none",
            compensated=stored["compensated"],
            levels=tuple(stored["levels"]),
        )
        return Part(given, as_tolerance(self.said.tolerance.item()), options, self._axes)

    def _recorded(self) -> Experiment:
        """Return the experiment whose file the store holds."""
        if not self._name:
            held = "the store holds no file that has it: it comes from a notebook, or lives inside a function"
            raise problem_with("experiment", None, held, _GIVE)
        text = str(self.attribute("experiment_file"))
        if not self._trust and not is_own(str(self._signature), str(self._name), text):
            lines, digest = len(text.splitlines()), hashlib.sha256(text.encode()).hexdigest()[:12]
            unknown = f"no sweep of this user has written the {lines} lines of Python that would be executed for "
            unknown += f"{self._name} (open_results(store).attrs['experiment_file'], SHA-256 {digest}…)"
            raise problem_with("store", self.name, unknown, f"read them, then give trust=True or --trust; or {_GIVE}")
        return experiment_file.from_text(text, self._name, f"experiment of {Path(self.name).absolute()}")

    def _records(self, beside: Mapping[str, Any]) -> Records | None:
        """Return the functions that were recorded: the library's, or those that stand beside the experiment."""
        names, places = self._all["record_names"], self._all["record_functions"]
        if names == list(named_measures(None)) and self._all["record_steps"]:
            return None
        found = {}
        for name, place in zip(names, places, strict=True):
            home, _, function = place.partition(":")
            holder = vars(importlib.import_module(home)) if home.startswith("jaxfact.measures") else beside
            found[name] = holder.get(function)
            if found[name] is None:
                missing = f"{name} was a function that cannot be found beside the experiment"
                raise problem_with("record", None, missing, "write it there, or give what was recorded too")
        return found

    def _check_program(self) -> dict[str, str]:
        """Refuse another experiment; return what else has changed."""
        wanted = self.part.attributes(self._axes) | {"variants": self._all["variants"]}
        if self._root is not None:
            wanted["program"] = self._program.fingerprint
        wanted, stored = json.loads(json.dumps(wanted)), json.loads(json.dumps(dict(self._all)))
        for name in wanted.keys() & stored.keys():
            if self._differs(name):
                stored[name], wanted[name] = self.attribute(name), str(wanted[name])
        differing = differences(stored, wanted)
        fatal = [said for name, said in differing.items() if name == "program" or name not in HARMLESS]
        if fatal:
            made = f"is not what made {self.name}: {'; '.join(fatal)}"
            raise problem_with("experiment", self._name, made, _GIVE)
        return differing

    @property
    def _why(self) -> str:
        accepted = [difference for note in self._all.get("accepted", ()) for difference in note["differences"]]
        if differing := [*self.differences.values(), *accepted]:
            return f"the store was made differently: {'; '.join(differing)}"
        return "versions, device and program are the same: the store was altered, or this machine computes differently"

    def _compare(self, results: Found) -> None:
        """Refuse a run of which a stored number differs in any bit."""
        point = {name: np.asarray(values) for name, values in self.work.points.items()}
        found = self.part.labelled(results, point, np.asarray(self.work.seeds))
        found = found.isel(dict.fromkeys([*point, "seed"], 0)).reindex(level=self.said.level)
        old, new = encoded(self.said), encoded(found)
        # Variables that only other variants have, and a wider dtype of theirs, say nothing about this run.
        names = [str(name) for name in old.data_vars if name in new]
        differing = [
            name for name in names if not _same_bits(old[name].values, new[name].values.astype(old[name].dtype))
        ]
        if differing:
            said = ", ".join(_both(name, self.said[name].values, found[name].values) for name in differing)
            raise RuntimeError(f"{self.name}: the run does not have the store's numbers: {said}; {self._why}")


def _in_memory(runs: xr.Dataset) -> tuple[xr.Dataset, dict[str, Any]]:
    """Return a dataset with all its dimensions, and its attributes as they were before they were made plain."""
    if "seed" not in runs.coords or "axes" not in runs.attrs:
        instead = "give what sweep or open_results returned"
        raise problem_with("runs", shown(list(runs.coords)), "is not the dataset of a sweep", instead)
    origin = runs.attrs.get("base_seed")
    attributes = origin.attributes if isinstance(origin, Origin) else _decoded(runs.attrs)
    variants = np.atleast_1d(runs.variant.values).tolist() if "variant" in runs.coords else None
    lost = [name for name in (*attributes["axes"], "seed", "variant") if name in runs.coords and name not in runs.dims]
    return runs.expand_dims(lost), {"variants": variants, **attributes}


def _decoded(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes whose lists and truth values were written as JSON."""
    # Files give numbers back as those of NumPy.
    found = {
        name: value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in attributes.items()
    }
    for name, value in attributes.items():
        if isinstance(value, str) and (value in ("true", "false", "null") or value.startswith("[")):
            with suppress(ValueError):
                found[name] = json.loads(value)
    return found


def _known_variant(runs: xr.Dataset, variant: str | None) -> str | None:
    """Return the variant, or the only one of the runs; one that they do not have, and none of several, are refused."""
    variants = runs.variant.values.tolist() if "variant" in runs.coords else []
    if variant is None and len(variants) < 2:
        return variants[0] if variants else None
    if variant not in variants:
        there = f"the runs are of {', '.join(variants) or 'one without a name'}"
        raise problem_with("variant", variant, there, "name one of them" if variants else "leave it out")
    return variant


def _check_point(there: Mapping[str, np.ndarray], given: Mapping[str, float], x64: bool) -> dict[str, int]:
    """Return the place of the given value along every axis; one that has a single value need not be given."""
    several = {name for name, values in there.items() if len(values) > 1}
    if not several <= set(given) <= set(there):
        has, instead = (", ".join(there), "give one value of each") if there else ("no axis", "leave it out")
        raise problem_with("axes", ", ".join(given) or "no value", f"the runs have {has}", instead)
    single = {name: values[0].item() for name, values in there.items() if len(values) == 1}
    return {name: _nearest(name, there[name], value, x64) for name, value in (single | dict(given)).items()}


def _nearest(name: str, there: np.ndarray, value: float, x64: bool) -> int:
    """Return the place of a value among those that are there, or refuse it and name the nearest."""
    if not isinstance(value, numbers.Real):
        raise problem_with(name, repr(value), "needs a number", f"give {name}={there[0].item()!r}")
    place = int(np.argmin(np.abs(there.astype(float) - float(value))))
    same = float(value) == int(value) if there.dtype.kind == "i" and math.isfinite(value) else True
    if not same or places_of(np.asarray([value]).astype(there.dtype), there[[place]], x64)[0] < 0:
        least, most = there.min().item(), there.max().item()
        within = f"is not one of the {len(there)} from {least!r} to {most!r} in the store"
        raise problem_with(name, value, within, f"the nearest is {there[place].item()!r}")
    return place


def _seen(tile: Tile) -> tuple[AnyFactors, np.ndarray, np.ndarray]:
    """Return factors, loss and distance of a tile's one run; copies, as the tile's memory is used again."""
    lanes = tile.lanes
    return jax.tree.map(lambda x: np.asarray(x)[..., 0].copy(), (lanes.own.factors, lanes.loss, lanes.distance))


def _same_bits(old: np.ndarray, new: np.ndarray) -> bool:
    return old.dtype == new.dtype and old.tobytes() == new.tobytes()


def _both(name: str, old: np.ndarray, new: np.ndarray) -> str:
    """Say the first number that differs."""
    pairs = zip(np.ravel(old).tolist(), np.ravel(new).tolist(), strict=True)
    there, here = next(((a, b) for a, b in pairs if a != b and not (a != a and b != b)), ("NaN", "another NaN"))
    return f"{name} ({there} there, {here} here)"
