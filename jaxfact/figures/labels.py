"""What axes are called and how they are scaled."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from jaxfact.figures.categories import NAMES
from jaxfact.figures.styles import FEW, axis_scale, is_geometric, legible, name_few_minor_ticks

STEPS = "step $t$"
_LETTERS = 16  # that the values of a logarithmic axis may have in all, to be named beside one another
_IN_A_ROW = 28  # letters for which there is room below an axis of 8 cm
_SPAN = 30.0  # from which ratio on a range asks for a logarithmic axis


def axis_label(coordinate: xr.DataArray) -> str:
    """Return what a coordinate is and its symbol, or its unit where there is no symbol."""
    text = coordinate.attrs.get("long_name", spoken(coordinate.name))
    symbol, unit = coordinate.attrs.get("latex"), coordinate.attrs.get("units", "1")
    if symbol:
        return f"{text} {symbol}"
    return text if unit == "1" else f"{text} / {unit}"


def symbol_label(values: xr.DataArray) -> str:
    """Return the symbol of numbers, which holds their unit, or what they are where there is no symbol."""
    return values.attrs.get("latex") or axis_label(values)


def spoken(name: object) -> str:
    """Return the name of a variable in words."""
    return str(name).removesuffix("_path").replace("_", " ")


def plain_name(values: xr.DataArray, name: str) -> str:
    """Return what numbers are in words: their long name, unless that is a formula."""
    text = str(values.attrs.get("long_name", ""))
    return text if text[:1].isalpha() and "_" not in text else spoken(name)


def label_axis(axes: Axes, which: str, coordinate: xr.DataArray) -> None:
    """Label and scale an axis; if it has few values, all are named, on a logarithmic one if they are short.

    Categories are all named, aslant where they would meet.
    """
    if NAMES in coordinate.attrs:
        _name_categories(axes, which, coordinate)
        return
    values = np.sort(coordinate.values)
    scale = axis_scale(values)
    axes.set(**{f"{which}label": axis_label(coordinate), f"{which}scale": scale})
    axis = axes.xaxis if which == "x" else axes.yaxis
    if scale == "linear" and len(values) <= FEW:
        axis.set_ticks(values, labels=[f"{value:.4g}" for value in values])
    elif scale == "log" and sum(map(len, names := [f"{value:.3g}" for value in values])) <= _LETTERS:
        axis.set_ticks(values, labels=names)
        axis.set_minor_locator(NullLocator())
    elif scale == "log":
        name_few_minor_ticks(axis)


def _name_categories(axes: Axes, which: str, coordinate: xr.DataArray) -> None:
    names = [legible(name) for name in coordinate.attrs[NAMES]]
    axis, aslant = axes.xaxis if which == "x" else axes.yaxis, {"rotation": 30, "horizontalalignment": "right"}
    meet = which == "x" and sum(map(len, names)) > _IN_A_ROW
    axis.set_ticks(np.arange(len(names)), labels=names, **aslant if meet else {})
    axes.set(**{f"{which}label": axis_label(coordinate)})
    low, high = axis.get_view_interval()
    axes.set(**{f"{which}lim": (min(low, -0.5), max(high, len(names) - 0.5))})


def asks_for_log(values: np.ndarray) -> bool:
    """Tell whether numbers range over so many sizes that only a logarithmic axis shows them; none may be negative."""
    known = values[np.isfinite(values)]
    positive = known[known > 0]
    return bool(positive.size and known.min() >= 0 and positive.max() > _SPAN * positive.min())


def scale_steps(axes: Axes, steps: np.ndarray) -> None:
    """Scale an axis of recorded steps as they are spaced; zero has its place on a logarithmic one too."""
    later = np.sort(steps[steps > 0])
    # Whole steps that are to be spaced by a ratio begin one apart.
    if is_geometric(later) and len(later) > 3 and later[-1] > _SPAN * later[0]:
        axes.set_xscale("symlog", linthresh=float(later[0]), linscale=0.8)
        # A power of ten below the first step would be named on top of zero.
        first, last = np.ceil(np.log10(later[0])), np.floor(np.log10(later[-1]))
        axes.set_xticks([0.0, *10 ** np.arange(first, last + 1)])
        axes.set_xlim(left=0 if len(later) < len(steps) else later[0])
