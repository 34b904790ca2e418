"""What the engine found, as a labelled dataset."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from jaxfact.engine.lanes import Found
from jaxfact.engine.outcomes import BUDGET, DIVERGED, OUTCOMES, Rules

_DISTANCE = r"$\|UV^\top-\Sigma_d\|_F \,/\, \|\Sigma_d\|_F$"
_IMBALANCE = r"$\|U^\top U-V^\top V\|_F \,/\, \sigma_1$"
_LOSS = r"$f \,/\, \sigma_1^2$"

VARIABLES = (
    *("seed", "variant", "level", "step", "outcome", "steps", "period", "hit", "loss", "distance", "misfit"),
    *("imbalance", "best_distance", "loss_rose", "tolerance", "compile_seconds", "run_seconds"),
)
"""Names that the dataset of every sweep may hold, so that no axis has one of them."""

# Long name, unit, and what a figure calls it: a pure number, divided by the unit.
_TEXTS = {
    "seed": ("seed number", "1", r"$s$"),
    "step": ("step", "1", r"$t$"),
    "level": ("distance level", "1", _DISTANCE),
    "hit": ("first checked step at or below the level", "1", r"$t$"),
    "steps": ("steps that were run", "1", r"$T$"),
    "period": ("period of the cycle", "1", r"$p$"),
    "loss": ("last loss", "σ₁²", _LOSS),
    "distance": ("last ‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F", "1", _DISTANCE),
    "misfit": ("last ‖𝒜(UVᵀ)−y‖/‖y‖", "1", r"$\|\mathcal{A}(UV^\top)-y\| \,/\, \|y\|$"),
    "imbalance": ("last ‖UᵀU−VᵀV‖_F", "σ₁", _IMBALANCE),
    "best_distance": ("least checked ‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F", "1", _DISTANCE),
    "loss_path": ("loss", "σ₁²", _LOSS),
    "distance_path": ("‖UVᵀ−Σ_d‖_F/‖Σ_d‖_F", "1", _DISTANCE),
    "imbalance_path": ("‖UᵀU−VᵀV‖_F", "σ₁", _IMBALANCE),
    "energy_path": ("‖U‖²_F+‖V‖²_F", "σ₁", r"$(\|U\|_F^2+\|V\|_F^2) \,/\, \sigma_1$"),
    "singular_values_path": ("singular values of UVᵀ", "σ₁", r"$\sigma_k(UV^\top) \,/\, \sigma_1$"),
    "tolerance": ("distance at which a run may end", "1", _DISTANCE),
    "compile_seconds": ("time to compile", "s", r"$\mathrm{time} \,/\, \mathrm{s}$"),
    "run_seconds": ("time to run, compilation apart", "s", r"$\mathrm{time} \,/\, \mathrm{s}$"),
    # The parameters of experiments, under the names that this library gives them.
    "step_size": ("step size", "1/σ₁", r"$\eta\,\sigma_1$"),
    "scale": ("scale of the start", "√σ₁", r"$\epsilon \,/\, \sqrt{\sigma_1}$"),
    "ratio": ("‖U‖_F/‖V‖_F of the start", "1", r"$\|U\|_F \,/\, \|V\|_F$"),
    "weight": ("balancing weight", "1", r"$\lambda$"),
    "noise": ("noise an entry and step", "√σ₁", r"$\nu \,/\, \sqrt{\sigma_1}$"),
    "damping": ("damping", "σ₁", r"$\delta \,/\, \sigma_1$"),
    "norm": ("norm of the start", "√σ₁", r"$\alpha \,/\, \sqrt{\sigma_1}$"),
    "width": ("columns of the factors", "1", r"$d$"),
    "rank": ("rank of the target", "1", r"$r$"),
    "m": ("rows of the target", "1", r"$m$"),
    "n": ("columns of the target", "1", r"$n$"),
    "condition": ("condition number", "1", r"$\sigma_1 \,/\, \sigma_r$"),
    "measurements": ("measurements", "1", r"$p$"),
    "fraction": ("fraction observed", "1", r"$|\Omega| \,/\, (mn)$"),
}


def label(
    found: Found,
    rules: Rules,
    axes: Mapping[str, np.ndarray],
    seeds: np.ndarray,
    is_pair: bool = True,
) -> xr.Dataset:
    """Return the results of all runs along the axes and `seed`."""
    variables: dict[str, Any] = along_runs(found, rules, {name: len(values) for name, values in axes.items()}, is_pair)
    dims, codes = variables["outcome"]
    variables["outcome"] = (dims, np.asarray(OUTCOMES)[codes])
    variables["tolerance"] = float("nan") if rules.tolerance is None else rules.tolerance
    coordinates: dict[str, Any] = {**axes, "seed": seeds, "level": list(rules.levels)}
    if rules.record_steps:
        coordinates["step"] = list(rules.record_steps)
    return describe(xr.Dataset(variables, coordinates))


def along_runs(
    found: Found, rules: Rules, lengths: Mapping[str, int], is_pair: bool
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return the dims and the values of every variable; `lengths` are those of the axes, outcomes are their numbers.

    Tied factors, which are no pair, have no imbalance.
    """
    finished = found.finished
    grid = [*lengths, "seed"]

    def spread(values, *extra):
        # The engine runs through the points of one seed before it takes the next.
        by_seed = np.reshape(values, (-1, *lengths.values(), *np.shape(values)[1:]))
        return ([*grid, *extra], np.moveaxis(by_seed, 0, len(lengths)))

    never = np.where(finished.outcome == BUDGET, np.nan, np.inf)
    variables = {
        "outcome": spread(finished.outcome),
        "steps": spread(finished.steps),
        "period": spread(finished.period),
        "hit": spread(np.where(finished.hit >= 0, finished.hit, never[:, None]), "level"),
        "loss": spread(finished.loss),
        "distance": spread(finished.distance),
        **({"misfit": spread(finished.misfit)} if rules.misfits else {}),
        **({"imbalance": spread(finished.imbalance)} if is_pair else {}),
        "best_distance": spread(finished.best),
        "loss_rose": spread(finished.rose),
    }
    diverged = np.asarray(finished.outcome == DIVERGED)
    for name, values, final in _named_leaves(found.at_steps, found.last):
        filled = _fill(values, final, rules.record_steps, np.asarray(finished.steps), diverged)
        extra = [f"{name}_{place}" for place in range(values.ndim - 2)]
        variables[f"{name}_path"] = spread(filled, "step", *extra)
    return variables


def describe(dataset: xr.Dataset) -> xr.Dataset:
    """Put the long name, the unit and the LaTeX label of every known variable into its attributes."""
    for name, (text, unit, latex) in _TEXTS.items():
        if name in dataset.variables:
            dataset[name].attrs.update(long_name=text, units=unit, latex=latex)
    return dataset


def join(parts: Sequence[xr.Dataset], variants: Sequence[str]) -> xr.Dataset:
    """Return the datasets of several variants along `variant`; a level that one was not run to is NaN there."""
    shared = {name: value for name, value in parts[0].attrs.items() if all(p.attrs.get(name) == value for p in parts)}
    differing = [name for name in parts[0].attrs if name not in shared]
    joined = xr.concat(
        parts, xr.IndexVariable("variant", list(variants)), join="outer", combine_attrs="drop", coords="minimal"
    )
    joined = joined.sortby("level", ascending=False)
    axes = [name for name in parts[0].outcome.dims if name != "seed"]
    order = [*axes, "variant", "seed", "level", "step"]
    joined = joined.transpose(*(name for name in order if name in joined.dims), ...)
    joined = joined.assign_attrs(shared)
    joined.attrs |= {name: [str(part.attrs[name]) for part in parts] for name in differing}
    return describe(joined)


def _named_leaves(records: Mapping[str, Any], last: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield every array of the records under one name, a field's after its record's."""
    for name, values in records.items():
        leaves = jax.tree_util.tree_leaves_with_path(values)
        for (path, leaf), final in zip(leaves, jax.tree.leaves(last[name]), strict=True):
            fields = [str(getattr(p, "name", getattr(p, "key", getattr(p, "idx", p)))) for p in path]
            yield "_".join([name, *fields]), leaf, final


def _fill(
    values: np.ndarray, last: np.ndarray, steps: Sequence[int], ran: np.ndarray, diverged: np.ndarray
) -> np.ndarray:
    """Give a finished run its last value at later steps; a diverged one counts as inf."""
    after = np.asarray(steps)[None, :] > ran[:, None]
    final = np.where(diverged.reshape(-1, *[1] * (last.ndim - 1)), np.inf, last)
    return np.where(after.reshape(*after.shape, *[1] * (values.ndim - 2)), final[:, None], values)
