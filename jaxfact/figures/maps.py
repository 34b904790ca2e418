"""Maps: numbers over two axes, as colours."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxfact.choices import Venue
from jaxfact.figures.categories import numbered
from jaxfact.figures.labels import label_axis, plain_name, symbol_label
from jaxfact.figures.sheets import Look, Sheet, drawing, provenance
from jaxfact.figures.styles import cell_edges, legible
from jaxfact.inputs import problem_with, shown

_UNKNOWN = "0.75"  # the grey of what no number is known of
_THRESHOLDS = "#D55E00"
_SIZES = 1000.0  # from which ratio on colours are logarithmic: fractions of fewer seeds never are


def heatmap(
    values: xr.DataArray,
    along: str,
    across: str,
    *,
    label: str | None = None,
    limits: tuple[float, float] | None = None,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot numbers over two axes, one panel per variant; grey where there is no number.

    Args:
        values: along both axes and perhaps `variant`. Of runs take a mean, a quantile or a fraction over seeds first.
        along: the axis from left to right.
        across: the axis from below to above.
        label: of the colours; by default what the attributes of `values` say, or their name.
        limits: of the colours; by default 0 and 1 for fractions, else the least and the greatest number.
        ax, size, title, style: as in `curve`; axes are for one panel.

    Raises:
        ValueError: For values with other dimensions, or without one of the axes.
    """
    left = [dim for dim in values.dims if dim not in (along, across, "variant")]
    if left or not {along, across} <= set(values.dims):
        given = f"{along}, {across}"
        raise problem_with("axes", given, f"the values are along {', '.join(map(str, values.dims))}", "reduce others")
    values = numbered(values, along, across).sortby([along, across])
    count = values.sizes.get("variant", 1)
    with drawing(Look(ax, size, title, style), 0.7, count, each=1.9) as sheet:
        words = label or symbol_label(values.rename(values.name or "value"))
        _cells(sheet, values, along, across, words, limits)
        seen = label or plain_name(values, str(values.name or "value"))
        return sheet.finish(f"{seen[0].upper()}{seen[1:]}", names=_unknown(sheet, values))


def phase_diagram(
    diagram: xr.Dataset,
    outcome: str = "converged",
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot how often runs had an outcome over the two axes of a phase diagram, with the threshold and its interval.

    `diagram` is what `jaxfact.phase_diagram` returns, or any such dataset; one without `threshold` is drawn without.
    The further arguments are those of `curve`.
    """
    along, across = diagram.attrs["along"], diagram.attrs["across"]
    if outcome not in diagram:
        known = [str(name) for name in diagram if f"{name}_low" in diagram and not str(name).startswith("threshold")]
        raise problem_with("outcome", shown(outcome), f"the diagram has {', '.join(known)}", "choose one")
    diagram = numbered(diagram, along, across)
    with drawing(Look(ax, size, title, style), 2.7) as sheet:
        _cells(sheet, diagram[outcome], along, across, f"fraction {outcome}", (0, 1))
        note = ""
        if outcome == "converged" and "threshold" in diagram:
            _thresholds(sheet, diagram, along, across)
            note = "dot and bar: where half converge, 95 % interval"
        told = f"{diagram.attrs['seeds']} runs per cell; {provenance(diagram.attrs)}"
        return sheet.finish(f"Fraction of runs {outcome}", note, told)


def _cells(
    sheet: Sheet, values: xr.DataArray, along: str, across: str, label: str, limits: tuple[float, float] | None
) -> None:
    """Draw the cells of every variant in its panel, and the scale of the colours beside them."""
    columns, rows = (cell_edges(values[name].values) for name in (along, across))
    norm = _norm(values.values, limits)
    names = values.variant.values.tolist() if "variant" in values.dims else [""]
    for axes, name in zip(sheet.panels, names, strict=True):
        part = (values.sel({"variant": name}) if "variant" in values.dims else values).transpose(across, along)
        axes.set_facecolor(_UNKNOWN)
        # As an image: SVG viewers leave hairlines between cells.
        cells = np.ma.masked_invalid(part.values.astype(float))
        mesh = axes.pcolormesh(columns, rows, cells, cmap="cividis", norm=norm, rasterized=True)
        label_axis(axes, "y", values[across])
        axes.set(xlim=(columns[0], columns[-1]), ylim=(rows[0], rows[-1]), title=legible(name))
        at, height = np.meshgrid(part[along].values, part[across].values)
        for what, numbers in ((along, at), (across, height), ("value", part.values)):
            sheet.column((name, what), numbers)
    label_axis(sheet.panels[-1], "x", values[along])
    sheet.label_x(sheet.panels[-1].get_xlabel())
    sheet.figure.colorbar(mesh, ax=sheet.panels, label=label, aspect=20 if len(names) == 1 else 30)


def _norm(values: np.ndarray, limits: tuple[float, float] | None) -> Normalize:
    """Return the scale of colours: 0 to 1 for fractions, logarithmic where the numbers ask for it."""
    known = values[np.isfinite(values)].astype(float)
    if limits is not None:
        return Normalize(*limits)
    if known.size and known.min() > 0 and known.max() > _SIZES * known.min():
        return LogNorm(known.min(), known.max())
    if known.size == 0 or (known.min() >= 0 and known.max() <= 1):
        return Normalize(0, 1)
    return Normalize(known.min(), known.max())


def _unknown(sheet: Sheet, values: xr.DataArray) -> tuple[list[Patch], list[str]]:
    if np.isfinite(values).all():
        return [], []
    return [Patch(color=_UNKNOWN, label="no number")], ["no number"]


def _thresholds(sheet: Sheet, diagram: xr.Dataset, along: str, across: str) -> None:
    left, right = sheet.axes.get_xlim()
    met = (diagram.threshold.values > left) & (diagram.threshold.values < right)
    at, low, high = (diagram[name].values[met] for name in ("threshold", "threshold_low", "threshold_high"))
    reach = np.stack([at - np.maximum(low, left), np.minimum(high, right) - at])
    height = diagram[across].values[met]
    sheet.axes.errorbar(at, height, xerr=reach, fmt=".", color=_THRESHOLDS, markersize=4)
    for what, numbers in ((across, height), ("at", at), ("low", low), ("high", high)):
        sheet.column(("threshold", what), numbers)
