"""A phase diagram for people: where runs begin to converge, with intervals."""

import math
from functools import partial
from typing import Any

import xarray as xr
from matplotlib.figure import Figure

from jaxfact import figures
from jaxfact.reports.again import of_diagram
from jaxfact.reports.pages import RESULTS, Report, Rows
from jaxfact.results.strict_json import finite_or_none
from jaxfact.results.wording import counted, number, share

_MANY = 4  # thresholds that a sentence has room for


def is_diagram(found: xr.Dataset) -> bool:
    """Tell whether a dataset is what `phase_diagram` returned."""
    return {"along", "across"} <= set(found.attrs) and "threshold" in found


def report_of(diagram: xr.Dataset) -> Report:
    """Return what terminal, notebook and page say."""
    attrs, along, across = diagram.attrs, diagram.attrs["along"], diagram.attrs["across"]
    return Report(
        title=f"Phase diagram over {along} and {across}",
        heading=[
            f"{attrs.get('problem', 'problem')}, {counted(attrs['seeds'], 'run')} at each point",
            f"at most {attrs.get('max_steps')} steps, looked at every {attrs.get('check_every')}, tolerance "
            f"{attrs.get('tolerance')}; {attrs.get('dtype')} on {attrs.get('device')}, jax {attrs.get('jax')}",
        ],
        tables=[_fractions(diagram), _thresholds(diagram)],
        lines=[],
        captions={"phase": "Fraction of the runs that converged. Dot and bar: threshold and its 95 % interval."},
        summary=_as_json(diagram),
        runs={RESULTS: diagram},
        draw=partial(_drawn, diagram),
        found=_in_one_sentence(diagram),
        again=of_diagram(diagram),
    )


def _drawn(diagram: xr.Dataset) -> dict[str, Figure]:
    return {"phase": figures.phase_diagram(diagram)}


def _in_one_sentence(diagram: xr.Dataset) -> str:
    """Return where half of the runs converge, for each value of the second axis that has such a place."""
    along, across = diagram.attrs["along"], diagram.attrs["across"]
    met = [row for row in _rows(diagram) if math.isfinite(row[1])]
    if not met:
        least, most = (share(*_at(diagram, place)) for place in ("argmin", "argmax"))
        alike = f"{most} % of the runs converged" if least == most else f"between {least} and {most} % converged"
        return f"No threshold lies within these values of {along}: at every point {alike} (95 % intervals)."
    said = [f"{number(at)} [{number(low)}, {_end(high)}] at {across} {number(where)}" for where, at, low, high in met]
    more = f", and {len(said) - _MANY} more in the table" if len(said) > _MANY else ""
    none = f"; at {counted(diagram.sizes[across] - len(met), 'other value')} of {across} there is none"
    text = f"Half of the runs converge at {along} {'; '.join(said[:_MANY])}{more} (95 % intervals)"
    return f"{text}{none if len(met) < diagram.sizes[across] else ''}."


def _rows(diagram: xr.Dataset) -> list[tuple[float, float, float, float]]:
    names = (diagram.attrs["across"], "threshold", "threshold_low", "threshold_high")
    return list(zip(*(diagram[name].values.tolist() for name in names), strict=True))


def _at(diagram: xr.Dataset, place: str) -> tuple[float, float, float]:
    """Return the least or the greatest fraction that converged, with its interval."""
    where = getattr(diagram.converged, place)(...)
    fraction, low, high = (float(diagram[f"converged{end}"].isel(where)) for end in ("", "_low", "_high"))
    return fraction, low, high


def _end(high: float) -> str:
    return number(high) if math.isfinite(high) else "∞"


def _thresholds(diagram: xr.Dataset) -> Rows:
    rows = [[number(where), number(at), f"{number(low)} to {_end(high)}"] for where, at, low, high in _rows(diagram)]
    title = f"{diagram.attrs['along']} at which half of the runs converge (95 % interval)"
    return title, [diagram.attrs["across"], "threshold", "interval"], rows


def _fractions(diagram: xr.Dataset) -> Rows:
    along, across = diagram.attrs["along"], diagram.attrs["across"]
    rows = []
    for where in diagram[across].values:
        part = diagram.sel({across: where})
        ends = zip(*(part[f"converged{end}"].values.tolist() for end in ("", "_low", "_high")), strict=True)
        rows.append([number(where), *(share(*one) for one in ends)])
    title = f"% of runs that converged (95 % Wilson interval), by {along}"
    return title, [across, *(number(value) for value in diagram[along].values)], rows


def _as_json(diagram: xr.Dataset) -> dict[str, Any]:
    along, across = diagram.attrs["along"], diagram.attrs["across"]
    ordered = diagram.transpose(across, along)
    values = {str(name): found.values.tolist() for name, found in ordered.data_vars.items()}
    axes = {name: diagram[name].values.tolist() for name in (along, across)}
    return finite_or_none({"along": along, "across": across, "seeds": diagram.attrs["seeds"], "axes": axes, **values})
