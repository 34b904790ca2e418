"""The lines of Python that make results again."""

import dataclasses
import json
from typing import Any

import numpy as np
import xarray as xr

from jaxfact.descent import log_steps
from jaxfact.results.success import axes_of

_MANY = 32  # values that a line has room for
_X64 = 'jax.config.update("jax_enable_x64", True)\n'


def of_settings(call: str, settings: Any, more: str, runs: xr.Dataset) -> str:
    """Return the call of a job with the settings that are not the usual ones, in the precision of its runs."""
    usual = type(settings)()
    own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    changed = [f"{name}={_plain(value)}" for name, value in own.items() if value != getattr(usual, name)]
    made = f"jf.{call}jf.{type(settings).__name__}({', '.join(changed)}){more}"
    return f"{_precision(runs)}found = {made})\njf.report(found)"


def of_sweep(runs: xr.Dataset, store: str | None) -> str:
    """Return the call of `sweep` that made some runs, as far as what is written beside them tells."""
    told = {name: _told(value) for name, value in runs.attrs.items()}
    there = "runs" if store is None else f"jf.open_results({store!r})"
    options = {
        "seeds": _seeds(runs.seed.values, there),
        "max_steps": repr(told.get("max_steps")),
        "tolerance": repr(_tolerance(told)),
        "check_every": repr(told.get("check_every")),
        **({"levels": repr(told["levels"])} if told.get("levels") else {}),
        **({"record": repr(told["record_names"])} if told.get("record_names") else {}),
        **({"every": _every(told, there)} if told.get("record_steps") else {}),
        **{name: repr(told[name]) for name in ("base_seed", "checked", "compensated") if told.get(name)},
        **{name: _values(runs[name].values, f"{there}.{name}.values") for name in _axes(told, runs)},
        **({} if store is None else {"store": repr(store)}),
    }
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    return f"{_precision(runs)}runs = jf.sweep({_experiment(told)}, {said})"


def of_diagram(diagram: xr.Dataset) -> str:
    """Return the call of `phase_diagram` that made a diagram."""
    told = {name: _told(value) for name, value in diagram.attrs.items()}
    names = ("seeds", "max_steps", "tolerance", "check_every", "base_seed")
    axes = {name: _values(diagram[name].values, f"diagram.{name}.values") for name in (told["along"], told["across"])}
    said = ", ".join(f"{name}={value}" for name, value in ({n: repr(told.get(n)) for n in names} | axes).items())
    return f"{_precision(diagram)}diagram = jf.phase_diagram({_experiment(told)}, {said})\njf.report(diagram)"


def _axes(told: dict[str, Any], runs: xr.Dataset) -> list[str]:
    """Return the axes of a sweep, as they are called now where they were given other names."""
    known = told.get("axes", [])
    return known if known and all(name in runs.coords for name in known) else axes_of(runs)


def _precision(runs: xr.Dataset) -> str:
    return _X64 if _told(runs.attrs.get("x64")) is True else ""


def _told(value: Any) -> Any:
    """Return an attribute as it was before it was made plain for files."""
    if isinstance(value, list):  # what variants do not have in common
        return [_told(one) for one in value]
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, str) and (value in ("true", "false", "null") or value.startswith(("[", "{"))):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _experiment(told: dict[str, Any]) -> str:
    """Return what the experiment, or the dict of them, was called in its file."""
    names = told.get("experiment_name") or "experiment"
    lone = {str(name).partition(":")[0] for name in ([names] if isinstance(names, str) else names)}
    return lone.pop() if len(lone) == 1 and "" not in lone else "experiments"


def _seeds(seeds: np.ndarray, there: str) -> str:
    return str(len(seeds)) if np.array_equal(seeds, np.arange(len(seeds))) else _values(seeds, f"{there}.seed.values")


def _values(values: np.ndarray, there: str) -> str:
    return (
        repr(np.sort(values, axis=None).tolist() if values.ndim else values.item()) if values.size <= _MANY else there
    )


def _tolerance(told: dict[str, Any]) -> Any:
    """Return the tolerance, or that of each variant where they differ."""
    tolerance = told.get("tolerance")
    if not isinstance(tolerance, list):
        return tolerance
    return dict(zip(told["variants"], [None if one == "None" else float(one) for one in tolerance], strict=True))


def _every(told: dict[str, Any], there: str) -> str:
    """Return the steps that were recorded, by their stride where they have one."""
    steps, last, unit = np.atleast_1d(told["record_steps"]), told["max_steps"], told["check_every"]
    strides = np.unique(np.diff(steps))
    if len(strides) == 1 and steps[0] == 0 and steps[-1] + strides[0] > last:
        return str(strides[0])
    if steps.tolist() == log_steps(last, unit=unit):
        return f"jf.log_steps({last}, unit={unit})"
    return _values(steps, f"{there}.step.values")


def _plain(value: Any) -> str:
    """Return a setting as it is written: an array of one number is that number."""
    return repr(value.item() if hasattr(value, "item") else value)
