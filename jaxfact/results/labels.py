"""What the engine found, as a labelled dataset."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import numpy as np
import xarray as xr

from jaxfact import measures
from jaxfact.engine.levels import as_number
from jaxfact.engine.outcomes import BUDGET, DIVERGED, OUTCOMES, Plan
from jaxfact.engine.recording import Finished, Found
from jaxfact.measures.base import Label, Measure, label_of, labels_of

_DISTANCE = label_of(measures.distance).latex

# What is kept of every run beside its records, and how its label begins: the rest is that of the measure.
_ENDS = {
    "loss": ("last ", label_of(measures.loss)),
    "distance": ("last ", label_of(measures.distance)),
    "misfit": ("last ", label_of(measures.misfit)),
    "imbalance": ("last ", label_of(measures.imbalance)),
    "best_distance": ("least checked ", label_of(measures.distance)),
    "gradient_norm": ("last ", label_of(measures.gradient_norm)),
}
_BOOKKEEPING = {
    "seed": Label("seed number", "1", r"$s$"),
    "step": Label("step", "1", r"$t$"),
    "level": Label("distance level", "1", _DISTANCE),
    "hit": Label("first checked step at or below the level", "1", r"$t$"),
    "steps": Label("steps that were run", "1", r"$T$"),
    "period": Label("smallest period of the cycle", "1", r"$p$"),
    "tolerance": Label("distance at which a run may end", "1", _DISTANCE),
    "compile_seconds": Label("time to compile", "s", r"$\mathrm{time} \,/\, \mathrm{s}$"),
    "run_seconds": Label("time to run, without compilation", "s", r"$\mathrm{time} \,/\, \mathrm{s}$"),
}
# The parameters of experiments, under the names that this library gives them.
_PARAMETERS = {
    "step_size": Label("step size", "1/σ₁", r"$\eta\,\sigma_1$"),
    "scale": Label("scale of the start", "√σ₁", r"$\epsilon \,/\, \sqrt{\sigma_1}$"),
    "ratio": Label("ratio of the start", "1", r"$\|U\|_F \,/\, \|V\|_F$"),
    "weight": Label("balancing weight", "1", r"$\lambda$"),
    "noise": Label("noise per entry and step", "√σ₁", r"$\nu \,/\, \sqrt{\sigma_1}$"),
    "damping": Label("damping", "σ₁", r"$\delta \,/\, \sigma_1$"),
    "norm": Label("norm of the start", "√σ₁", r"$\alpha \,/\, \sqrt{\sigma_1}$"),
    "width": Label("columns of the factors", "1", r"$d$"),
    "rank": Label("rank of the target", "1", r"$r$"),
    "m": Label("rows of the target", "1", r"$m$"),
    "n": Label("columns of the target", "1", r"$n$"),
    "condition": Label("condition number", "1", r"$\sigma_1 \,/\, \sigma_r$"),
    "measurements": Label("measurements", "1", r"$p$"),
    "fraction": Label("fraction observed", "1", r"$|\Omega| \,/\, (mn)$"),
}

# What `jaxfact.stats` may give its results beside the dimensions of the runs.
_OF_STATISTICS = ("quantile", "time", "outcome_name")

TIMES: tuple[str, ...] = ("compile_seconds", "run_seconds")
"""What a sweep adds to the results of each variant."""


@lru_cache
def taken_names() -> frozenset[str]:
    """Return what results, or what statistics make of them, may have beside axes and records: no axis is called so."""
    plan = Plan(max_steps=1, check_every=1, tolerance=0.1, record_steps=(1,))
    ends = Finished(**dict.fromkeys(Finished._fields, np.zeros(1, int)))  # pyright: ignore[reportArgumentType]
    ends = ends._replace(hit=np.zeros((1, len(plan.levels))))  # pyright: ignore[reportArgumentType]
    alone = label(Found(ends, {}, {}), plan, {}, {}, np.zeros(1, int))
    both = join([alone], ["variant"])
    return frozenset(map(str, (*both.variables, *both.dims, *TIMES, *_OF_STATISTICS)))


def plain(attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return attributes as text, numbers and lists of numbers, which every format can hold; anything else as JSON."""
    return {
        name: value if _is_plain(value) else json.dumps(value, ensure_ascii=False) for name, value in attributes.items()
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, int | float) and not isinstance(one, bool) for one in value)
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def label(
    found: Found,
    plan: Plan,
    record: Mapping[str, Measure],
    axes: Mapping[str, np.ndarray],
    seeds: np.ndarray,
    is_pair: bool = True,
    misfits: bool = True,
) -> xr.Dataset:
    """Return the results of all runs along the axes and `seed`."""
    variables: dict[str, Any] = along_runs(
        found, plan, {name: len(values) for name, values in axes.items()}, is_pair, misfits
    )
    dims, codes = variables["outcome"]
    variables["outcome"] = (dims, np.asarray(OUTCOMES)[codes])
    variables["tolerance"] = as_number(plan.tolerance)
    coordinates: dict[str, Any] = {**axes, "seed": seeds, "level": list(plan.levels)}
    if plan.record_steps:
        coordinates["step"] = list(plan.record_steps)
    return _describe_paths(describe(xr.Dataset(variables, coordinates)), record)


def along_runs(
    found: Found, plan: Plan, lengths: Mapping[str, int], is_pair: bool, misfits: bool
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return the dims and the values of every variable; `lengths` are those of the axes, outcomes are their numbers.

    Tied factors, which are no pair, have no imbalance; `misfits` says that data may be fitted without the truth.
    """
    finished = found.finished
    grid, seeds = [*lengths, "seed"], len(finished.outcome) // math.prod(lengths.values())

    def spread(values, *extra):
        # The engine runs through the points of one seed before it takes the next.
        by_seed = np.reshape(values, (seeds, *lengths.values(), *np.shape(values)[1:]))
        return ([*grid, *extra], np.moveaxis(by_seed, 0, len(lengths)))

    never = np.where(finished.outcome == BUDGET, np.nan, np.inf)
    variables = {
        "outcome": spread(finished.outcome),
        "steps": spread(finished.steps),
        "period": spread(finished.period),
        "hit": spread(np.where(finished.hit >= 0, finished.hit, never[:, None]), "level"),
        "loss": spread(finished.loss),
        "distance": spread(finished.distance),
        **({"misfit": spread(finished.misfit)} if misfits else {}),
        **({"imbalance": spread(finished.imbalance)} if is_pair else {}),
        "best_distance": spread(finished.best),
        "loss_rose": spread(finished.rose),
        "gradient_norm": spread(finished.gradient),
    }
    diverged = np.asarray(finished.outcome == DIVERGED)
    for name, values, final in _named_leaves(found.at_steps, found.last):
        last = np.where(diverged.reshape(-1, *[1] * (final.ndim - 1)), np.inf, final)
        extra = [f"{name}_{place}" for place in range(values.ndim - 2)]
        if plan.record_steps:
            filled = _fill(values, last, plan.record_steps, np.asarray(finished.steps))
            variables[f"{name}_path"] = spread(filled, "step", *extra)
        else:  # what the engine looks at anyway keeps the number it found
            variables.setdefault(name, spread(last, *extra))
    return variables


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """Put long name, unit and LaTeX label of every known variable into its attributes, except for records."""
    ends = {name: label._replace(text=begins + label.text) for name, (begins, label) in _ENDS.items()}
    for name, known in (_BOOKKEEPING | ends | _PARAMETERS).items():
        if name in dataset.variables:
            _put(dataset[name], known)
    return dataset


def _describe_paths(dataset: xr.Dataset, record: Mapping[str, Measure]) -> xr.Dataset:
    """Put the label that a measure has declared into the attributes of what was recorded of it."""
    for name, measure in record.items():
        for field, known in labels_of(measure).items():
            for along in ("path", ""):
                recorded = "_".join(filter(None, (name, field, along)))
                if recorded in dataset.variables and recorded not in _ENDS:
                    _put(dataset[recorded], known)
    return dataset


def _put(variable: xr.DataArray, known: Label) -> None:
    variable.attrs.update(long_name=known.text, units=known.unit, latex=known.latex)


class Origin(int):
    """The base seed of a sweep; while its results are in memory, also what the sweep was given, to run it again.

    As an attribute it goes where the dataset goes; in files and to other processes it is the number alone.
    """

    experiment: Any = None
    record: Any = None
    attributes: Mapping[str, Any] = {}

    @classmethod
    def of(cls, experiment: Any, record: Any, attributes: Mapping[str, Any]) -> "Origin":
        """Return what a sweep was given, and the attributes of its results before they were made plain."""
        made = cls(attributes["base_seed"])
        made.experiment, made.record, made.attributes = experiment, record, attributes
        return made

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        """Go to other processes as a number: experiments may be functions that cannot be sent."""
        return int, (int(self),)

    def __deepcopy__(self, memo: object) -> "Origin":
        """Stay what it is."""
        return self


def join(parts: Sequence[xr.Dataset], variants: Sequence[str]) -> xr.Dataset:
    """Return the datasets of several variants along `variant`; NaN at a level that one was not run to."""
    shared = {name: value for name, value in parts[0].attrs.items() if all(p.attrs.get(name) == value for p in parts)}
    differing = [name for name in parts[0].attrs if name not in shared]
    joined = xr.concat(
        parts, xr.IndexVariable("variant", list(variants)), join="outer", combine_attrs="override", coords="minimal"
    )
    joined = joined.sortby("level", ascending=False)
    axes = [name for name in parts[0].outcome.dims if name != "seed"]
    order = [*axes, "variant", "seed", "level", "step"]
    joined = joined.transpose(*(name for name in order if name in joined.dims), ...)
    joined.attrs = shared | {name: [str(part.attrs[name]) for part in parts] for name in differing}
    # Those who choose variants, or put them in another order, keep what is said of each.
    joined.attrs |= {"differing": differing, "variants": list(variants)}
    return describe(joined)


def _named_leaves(records: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield every array of the records under one name, a field's after its record's."""
    for name, values in records.items():
        leaves = jax.tree_util.tree_leaves_with_path(values)
        for (path, leaf), final in zip(leaves, jax.tree.leaves(last[name]), strict=True):
            fields = [str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path]
            yield "_".join([name, *fields]), leaf, final


def _fill(values: np.ndarray, last: np.ndarray, steps: Sequence[int], ran: np.ndarray) -> np.ndarray:
    """Give a finished run its last value at later steps."""
    after = np.asarray(steps)[None, :] > ran[:, None]
    return np.where(after.reshape(*after.shape, *[1] * (values.ndim - 2)), last[:, None], values)
