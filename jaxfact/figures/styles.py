"""How figures look: colours and lines, this library's own settings, those of venues, and how these give way to yours.

A figure follows the user's matplotlib settings; where a setting is as matplotlib ships it, this library's own takes its
place, and inside `house` that is so everywhere. With a venue's name every setting is the venue's.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from functools import cache
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import xarray as xr
from cycler import cycler
from matplotlib.axis import Axis, XAxis
from matplotlib.cbook import is_math_text
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.mathtext import MathTextParser
from matplotlib.ticker import FuncFormatter

from jaxfact.choices import Venue
from jaxfact.inputs import problem_with
from jaxfact.results.success import axes_of, check_runs

# Okabe & Ito's palette, which colour-blind readers tell apart; line styles separate curves that coincide.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", (0, (4, 2)), (0, (1, 1.2)), "-.", (0, (6, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P")
FEW = 8  # up to this many values are all named on an axis
WIDTH = 3.15  # 8 cm, in inches
_LETTERS = 40  # of a name, for which there is room in a legend of that width
_DECADE = 1.1 / 7  # inches, times the size of type, that names of 1, 2 and 5 times a power of ten take
_SMALL = 7 / 8  # of the size of labels, for ticks, legends and titles
_SIZES = {
    "axes.titlesize": _SMALL,
    "figure.titlesize": _SMALL,
    "figure.labelsize": 1.0,
    "axes.labelsize": 1.0,
    "legend.fontsize": _SMALL,
    "legend.title_fontsize": _SMALL,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
}
_HOUSE: dict[str, Any] = {
    "font.size": 8.0,
    "axes.titlelocation": "left",
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
}
_TIMES = {"font.family": ["STIXGeneral", "DejaVu Sans"], "mathtext.fontset": "stix"}
_COMPUTER_MODERN = {
    "font.family": ["cmr10", "STIXGeneral", "DejaVu Sans"],  # the latter two for letters that cmr10 lacks
    "mathtext.fontset": "cm",
    "axes.formatter.use_mathtext": True,  # as cmr10 has no minus
}


# For what the fonts above lack: Chinese, Japanese and Korean letters, by names that systems have for such fonts.
_FOREIGN = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei"),
    *("WenQuanYi Zen Hei", "Droid Sans Fallback", "Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB"),
    *("Heiti TC", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS"),
)


class Format(NamedTuple):
    """A venue's column: its width in inches, the height where it is set, the size of labels in points, and the font.

    `captioned` says that a caption below tells what is seen, and a title above would tell it twice.
    """

    width: float
    height: float | None
    points: float
    font: dict[str, Any]
    captioned: bool


# Widths are those of the venues' own style files: neurips_2025.sty has textwidth=5.5in and Times; icml2025.sty has
# \textwidth 6.75in with \columnsep 0.25in, so two columns of 3.25in, and Times; siamart220329.cls has a text of 5.125in
# in Computer Modern; beamer with aspectratio=169 has slides of 160 mm × 90 mm in a sans-serif font at 11 points.
FORMATS: dict[Venue, Format] = {
    Venue.NEURIPS: Format(5.5, None, 9.0, _TIMES, True),
    Venue.ICML: Format(3.25, None, 8.0, _TIMES, True),
    Venue.SIAM: Format(5.125, None, 9.0, _COMPUTER_MODERN, True),
    Venue.SLIDES: Format(16 / 2.54, 9 / 2.54, 11.0, {}, False),
}


def format_of(style: Venue | str | None) -> Format | None:
    """Return a venue's format; None where none is named. Raises ValueError for a name that no venue has."""
    if style is None:
        return None
    try:
        return FORMATS[Venue(style)]
    except ValueError:
        raise problem_with("style", repr(style), "is no venue", f"choose among {', '.join(Venue)}") from None


def settings(form: Format | None) -> dict[Any, Any]:
    """Return the settings to draw with: the venue's, or the house's wherever the user has left matplotlib's own."""
    if form is not None:
        return _complete(form.font, form.points)
    points = mpl.rcParams["font.size"] if _is_set("font.size") else _HOUSE["font.size"]
    wanted = {**_HOUSE, **_sizes(points), "font.family": [*mpl.rcParamsDefault["font.family"], *_others()]}
    return {name: value for name, value in wanted.items() if not _is_set(name)}


def figure_size(form: Format | None, height: float) -> tuple[float, float]:
    """Return width and height in inches, where a figure with letters of 8 points would be so high; within its settings.

    Without a venue the user's size holds, or it is 8 cm wide, and larger for larger letters.
    """
    larger = mpl.rcParams["font.size"] / _HOUSE["font.size"]
    if form is None:
        is_mine = _is_set("figure.figsize")
        return tuple(mpl.rcParams["figure.figsize"]) if is_mine else (WIDTH * larger, height * larger)
    return form.width, form.height or height * larger


def house() -> AbstractContextManager[None]:
    """Draw as this library does within the block, whatever the user's settings are: pages look alike everywhere."""
    return mpl.rc_context(_complete({}, _HOUSE["font.size"]))


def _complete(font: dict[str, Any], points: float) -> dict[Any, Any]:
    """Return a value for every setting, so that none is left to the user's."""
    made = {**mpl.rcParamsDefault, **_HOUSE, **_sizes(points), **font, "font.size": points}
    return {**made, "font.family": [*made["font.family"], *_others()]}


@cache
def _others() -> list[str]:
    """Return the first installed font for letters that the usual ones lack."""
    known = {font.name for font in fontManager.ttflist}
    return [name for name in _FOREIGN if name in known][:1]


def _sizes(points: float) -> dict[str, float]:
    return {name: share * points for name, share in _SIZES.items()}


def _is_set(name: Any) -> bool:
    """Tell whether the user has given a setting another value than matplotlib's own."""
    return bool(mpl.rcParams[name] != mpl.rcParamsDefault[name])


def variants_of(runs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset, str, Any]]:
    """Yield name, as a figure has it, runs, colour and line style of every variant."""
    palette = mpl.rcParams["axes.prop_cycle"].by_key().get("color", list(COLOURS))  # the user's, or the house's
    for place, name in enumerate(named_variants(runs)):
        part = runs.sel({"variant": name}) if "variant" in runs.dims else runs
        yield legible(name), part, palette[place % len(palette)], LINES[place % len(LINES)]


def legible(name: object) -> str:
    """Return a name as a legend has room for it, without what matplotlib would take for a command.

    It leaves out of legends what begins with an underscore, and draws nothing at all where a formula is none.
    """
    text = " ".join(str(name).split())
    text = text if len(text) <= _LETTERS else f"{text[: _LETTERS - 12]}…{text[-11:]}"
    text = f" {text}" if text.startswith("_") else text
    with suppress(ValueError):
        if is_math_text(text):
            MathTextParser("path").parse(text)
        return text
    return text.replace("$", r"\$")


def named_variants(runs: xr.Dataset) -> list[str]:
    """Return the names of the variants, of runs without any the name ""."""
    return runs.variant.values.tolist() if "variant" in runs.dims else [""]


def at_one_point(runs: xr.Dataset) -> None:
    """Refuse runs that have axes left, and what is no sweep's."""
    check_runs(runs)
    left = [dim for dim in runs.outcome.dims if dim not in ("seed", "variant")]
    if left:
        raise problem_with("runs", f"axes {left}", "a figure shows one point", "select one with runs.sel(...)")


def along_one(runs: xr.Dataset, axis: str) -> None:
    """Refuse runs that are not along an axis, or along others too, and what is no sweep's."""
    check_runs(runs)
    axes = axes_of(runs)
    if axes != [axis]:
        there = f"the axes of the runs are {', '.join(axes) or 'none'}"
        raise problem_with("axis", axis, there, "name one, select a point of others")


def is_geometric(values: np.ndarray) -> bool:
    """Tell whether values are spaced by a ratio rather than a difference."""
    return bool(len(values) > 2 and np.all(values > 0) and np.ptp(np.diff(np.log(values))) < np.ptp(np.diff(values)))


def axis_scale(values: np.ndarray) -> str:
    """Return the scale of an axis with these values."""
    return "log" if is_geometric(values) else "linear"


def name_few_minor_ticks(axis: Axis) -> None:
    """Name the twos and fives of a logarithmic axis of less than two decades that has room, and no other minor tick.

    Unasked, matplotlib names up to eight of a decade, which run into one another at a width of 8 cm.
    """
    letters = FontProperties(size=mpl.rcParams["xtick.labelsize"]).get_size_in_points()
    decade = _DECADE * letters if isinstance(axis, XAxis) else 0.0

    def name(value: float, _: int) -> str:
        low, high = sorted(axis.get_view_interval())
        room = axis.axes.bbox.width / axis.axes.figure.dpi
        has_room = high < 100 * low and decade * np.log10(high / low) <= room
        exponent = int(np.floor(np.log10(value)))
        leading = round(value / 10.0**exponent)
        return rf"${leading}\times10^{{{exponent}}}$" if leading in (2, 5) and has_room else ""

    axis.set_minor_formatter(FuncFormatter(name))


def cell_edges(values: np.ndarray) -> np.ndarray:
    """Return the borders of cells around the values, midway between neighbours on their axis."""
    scaled = np.log(values) if is_geometric(values) else np.asarray(values, float)
    steps = np.diff(scaled) if len(scaled) > 1 else np.ones(1)
    middle = (scaled[1:] + scaled[:-1]) / 2
    edges = np.concatenate([[scaled[0] - steps[0] / 2], middle, [scaled[-1] + steps[-1] / 2]])
    return np.exp(edges) if is_geometric(values) else edges
