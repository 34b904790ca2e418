"""Numbers of each run by name, as a figure of points has them on its axes: `steps`, `ye_du_B@100`, `ln(1/distance)`."""

import re

import numpy as np
import xarray as xr

from jaxfact.figures.categories import is_category, places_of
from jaxfact.figures.labels import axis_label, spoken
from jaxfact.inputs import problem_with, shown
from jaxfact.measures.base import names
from jaxfact.results import stats

_FORM = re.compile(r"(?P<ln>ln\()?(?P<over>1/)?(?P<name>\w+)(@(?P<at>[\d.eE+-]+))?(?P<end>\))?")
_WORDS = "a name of the results, or NAME@STEP of a record, hit@LEVEL, 1/…, ln(…)"


def quantity(runs: xr.Dataset, given: str | xr.DataArray) -> xr.DataArray:
    """Return a number of each run, with what an axis calls it as its `long_name`.

    Text is the name of what the runs have, `steps` or `distance` say, of a record at a step, `imbalance@0`, or of the
    time to a level, `hit@1e-3`; `hit` alone is for the level at which runs are judged. `1/…` and `ln(…)` may stand
    around it, as in `ln(1/ye_du_A_min@0)`.

    Raises ValueError for text that is none of this, and numbers that are not one for each run.
    """
    if not isinstance(given, str):
        labelled = given.assign_attrs(long_name=axis_label(given), latex="", units="1")
        found = _one_each(runs, labelled, str(given.name))
        return places_of(found) if is_category(found) else found
    parts = _FORM.fullmatch(given.replace(" ", ""))
    if parts is None or bool(parts["ln"]) != bool(parts["end"]):
        raise problem_with("quantity", shown(given), f"needs {_WORDS}", "write it like ln(1/ye_du_A_min@0)")
    values = _one_each(runs, _named(runs, parts["name"], parts["at"]), given)
    if is_category(values):
        if parts["over"] or parts["ln"]:
            raise problem_with("quantity", shown(given), "is of words, not of numbers", f"give {parts['name']} alone")
        return places_of(values).assign_attrs(long_name=axis_label(values), latex="", units="1")
    words, symbol = values.attrs["long_name"], str(values.attrs.get("latex", "")).strip("$")
    text = symbol or spoken(words)
    numbers = values.astype(float)
    if parts["over"]:
        numbers, text = 1 / numbers.where(numbers != 0), f"1/({text})" if "/" in text else f"1/{text}"
    if parts["ln"]:
        numbers = numbers.where(numbers > 0)
        numbers, text = numbers.copy(data=np.log(numbers.values)), rf"\ln({text})" if symbol else f"ln({text})"
    is_plain = not (parts["over"] or parts["ln"])
    name = axis_label(values) if is_plain else f"${text}$" if symbol else text
    return numbers.assign_attrs(long_name=name, latex="", units="1")


def _record_of(name: str) -> str:
    """Return the measure that records a number of this name, which may be one of several that it returns."""
    return max((one for one in names() if f"{name}_".startswith(f"{one}_")), key=len, default=name)


def _named(runs: xr.Dataset, name: str, at: str | None) -> xr.DataArray:
    """Return what the runs have under a name, at a step or level."""
    if name == "hit":
        level = next(iter(stats.judged_levels(runs))) if at is None else _number(at)
        hit = stats.time_to(runs, level).hit
        return hit.assign_attrs(long_name=f"step at which {level:g} is reached", latex="", units="1")
    if at is None:
        if name not in runs.variables:
            known = sorted(str(one) for one in runs.variables if set(runs[one].dims) <= set(runs.outcome.dims))
            raise problem_with("quantity", name, f"the runs have {', '.join(known)}", f"give {_WORDS}")
        return runs[name].assign_attrs({"long_name": spoken(name)} | runs[name].attrs)
    if f"{name}_path" not in runs:
        known = [str(one).removesuffix("_path") for one in runs if str(one).endswith("_path")]
        had = f"the records are {', '.join(known) or 'none'}"
        raise problem_with("quantity", f"{name}@{at}", had, f"choose one, or sweep with record={_record_of(name)!r}")
    path, step = runs[f"{name}_path"], _number(at)
    if step not in runs.step.values:
        first = ", ".join(f"{one:g}" for one in runs.step.values[:4])
        raise problem_with("quantity", f"{name}@{at}", f"the recorded steps are {first}, …", "choose one")
    symbol = str(path.attrs.get("latex", ""))
    text = f"{path.attrs.get('long_name', spoken(name))} at step {at}"
    return path.sel(step=step, drop=True).assign_attrs(
        long_name=text, latex=symbol and rf"{symbol[:-1]}\,|_{{t={at}}}$"
    )


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise problem_with("quantity", f"@{text}", "needs a number behind @", "write it like distance@100") from None


def _one_each(runs: xr.Dataset, values: xr.DataArray, name: str) -> xr.DataArray:
    more = [str(dim) for dim in values.dims if dim not in runs.outcome.dims]
    if more:
        raise problem_with("quantity", name, f"has several numbers for each run, along {', '.join(more)}", "select one")
    return values.broadcast_like(runs.outcome)
