"""What all figures share: size, colours, lines, axes, and how they are saved."""

import io
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jaxfact.inputs import problem_with

# Okabe & Ito's palette, which colour-blind readers tell apart; line styles separate curves that coincide.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (4, 2)), (0, (1, 1.2)), "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
FEW = 8  # up to this many values are all named on an axis
_WIDTH = 3.15
_DPI = 300
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 7,
    "axes.titlelocation": "left",
    "figure.titlesize": 7,
    "figure.labelsize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "jaxfact",
}
P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with this module's style, whatever the user's own settings are."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # pyright: ignore[reportArgumentType]
            return draw(*args, **kwargs)

    return styled


def new_figure(height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a figure 8 cm wide and `height` inches high, and its panels, row by row."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)  # keeps what it has measured for the layout, formulas above all, until it draws
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=columns > 1)
    return figure, list(panels.ravel())


def put_title(axes: Axes, text: str) -> None:
    """Put a title above axes that have nothing there; to find that out would take matplotlib a quarter of a layout."""
    axes.set_title(text, y=1.0)


def variants_of(runs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset, str, object]]:
    """Yield name, runs, colour and line style of every variant."""
    names = runs.variant.values.tolist() if "variant" in runs.dims else [None]
    for place, name in enumerate(names):
        part = runs if name is None else runs.sel({"variant": name})
        yield name or "", part, COLOURS[place % len(COLOURS)], LINES[place % len(LINES)]


def count_line(runs: xr.Dataset, interval: str) -> str:
    """Return the title that says how many runs there are and what the band is."""
    each = " per variant" if "variant" in runs.dims else ""
    return f"{runs.sizes['seed']} runs{each}\n{interval}"


def is_geometric(values: np.ndarray) -> bool:
    """Tell whether values are spaced by a ratio rather than a difference."""
    return bool(len(values) > 2 and np.all(values > 0) and np.ptp(np.diff(np.log(values))) < np.ptp(np.diff(values)))


def axis_scale(values: np.ndarray) -> str:
    """Return the scale of an axis with these values."""
    return "log" if is_geometric(values) else "linear"


def name_few_minor_ticks(axis: Axis) -> None:
    """Name the twos and fives of a logarithmic axis of less than two decades, and no other minor tick.

    Unasked, matplotlib names up to eight of a decade, which run into one another at a width of 8 cm.
    """

    def name(value: float, _: int) -> str:
        low, high = sorted(axis.get_view_interval())
        exponent = int(np.floor(np.log10(value)))
        leading = round(value / 10.0**exponent)
        return rf"${leading}\times10^{{{exponent}}}$" if leading in (2, 5) and high < 100 * low else ""

    axis.set_minor_formatter(FuncFormatter(name))


def cell_edges(values: np.ndarray) -> np.ndarray:
    """Return the borders of cells around the values, midway between neighbours on their axis."""
    scaled = np.log(values) if is_geometric(values) else np.asarray(values, float)
    steps = np.diff(scaled) if len(scaled) > 1 else np.ones(1)
    middle = (scaled[1:] + scaled[:-1]) / 2
    edges = np.concatenate([[scaled[0] - steps[0] / 2], middle, [scaled[-1] + steps[-1] / 2]])
    return np.exp(edges) if is_geometric(values) else edges


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (300 dpi) or SVG, by the path's suffix."""
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise problem_with("path", path, "needs the suffix .png or .svg", "choose one of them")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with mpl.rc_context({**mpl.rcParamsDefault, **_STYLE}):  # pyright: ignore[reportArgumentType]
        _lay_out(figure)
        figure.savefig(path, dpi=_DPI, metadata=metadata)


@styled
def get_ready() -> Figure:
    """Load the fonts, and what reads formulas and writes files, by drawing next to nothing, and return that."""
    figure, (axes,) = new_figure(1.0)
    put_title(axes, "$t$")
    for kind in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=kind)
    return figure


def _lay_out(figure: Figure) -> None:
    """Settle where everything lies; left to `savefig`, every format would go through the whole figure once more."""
    layout = figure.get_layout_engine()
    if layout is None:
        return
    before, figure.dpi = figure.dpi, _DPI  # at which text is measured as in the PNG
    layout.execute(figure)
    figure.set_layout_engine(None)
    figure.dpi = before
