"""The sheet that a figure is drawn on: its panels, what is said about it, and the numbers that it shows."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.styles import Format, figure_size, format_of, settings
from jaxfact.inputs import problem_with
from jaxfact.results.latex import latex_name
from jaxfact.results.wording import counted
from jaxfact.showing.notebook import show_figures

LETTER = 0.53  # of the size of type: the mean width of a letter
_PANEL = 13.0  # times the size of type: the least width of a panel
_WIDE = 5.0  # inches from which on panels stand side by side


class Look(NamedTuple):
    """What users may say of every figure: axes to draw into, size in inches, title and venue."""

    ax: Axes | None
    size: tuple[float, float] | None
    title: str | None
    style: Venue | str | None


@dataclass
class Said:
    """What a figure shows beside its ink: what is to be written below it, and its numbers by column."""

    venue: Format | None
    sentences: list[str] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)


_SAID: WeakKeyDictionary[Figure, Said] = WeakKeyDictionary()


def said_of(figure: Figure) -> Said | None:
    """Return what a figure of this library shows; None of any other."""
    return _SAID.get(figure)


@dataclass
class Sheet:
    """A figure while it is drawn. `own` says that it is this library's, and not the user's axes."""

    figure: Figure
    panels: list[Axes]
    across: int
    own: bool
    look: Look
    said: Said

    @property
    def axes(self) -> Axes:
        """The first panel, of which many figures have no other."""
        return self.panels[0]

    def column(self, name: Sequence[str], values: Any) -> None:
        """Keep a column of numbers under a name that is made of several parts, of which empty ones are left out."""
        known = latex_name("_".join(filter(None, name)))
        number = 2
        while known in self.said.columns:
            known, number = f"{latex_name('_'.join(filter(None, name)))}_{number}", number + 1
        self.said.columns[known] = np.ravel(np.asarray(values))

    def label_x(self, text: str) -> None:
        """Name what is along the panels, below the last of each column."""
        for place, axes in enumerate(self.panels):
            if place + self.across >= len(self.panels):
                axes.set_xlabel(text)
                axes.tick_params(labelbottom=True)

    def mark_edge(self, axes: Axes, at: np.ndarray, colour: str) -> None:
        """Put triangles at the upper edge, where a curve leaves the axes."""
        if len(at):  # matplotlib takes no points at all for one in the corner of the figure
            edge = axes.get_xaxis_transform()
            axes.plot(at, np.ones(len(at)), "^", color=colour, transform=edge, clip_on=False, markersize=4)

    def finish(
        self,
        title: str,
        note: str = "",
        told: str = "",
        names: tuple[Sequence[Artist], Sequence[str]] | None = None,
        above: str = "",
    ) -> Figure:
        """Say what is seen, how it is drawn, and what colours and lines are called; return the figure.

        `note` stands below the figure where no caption does, and in the caption, with what else is `told` there. What
        stands `above` the figure is the title that the caption has too, unless another is given.
        """
        handles, labels = self.axes.get_legend_handles_labels() if names is None else names
        captioned = self.said.venue is not None and self.said.venue.captioned
        shown = self.look.title if self.look.title is not None else "" if captioned or not self.own else above or title
        self.said.sentences += [f"{text[0].upper()}{text[1:]}." for text in (title, note, told) if text]
        if shown:
            self._put_title(shown)
        if self.own and (labels or (note and not captioned)):
            self._put_legend(handles, labels, "" if captioned else note)
        elif labels:
            self.axes.legend(handles, labels)
        if self.own:
            self._fix_ticks()
        return self.figure

    def _fix_ticks(self) -> None:
        """Make the first ticks, of which further ones are copies: left alone, they follow settings at another time."""
        for axes in self.panels:
            sizes = mpl.rcParams["xtick.labelsize"], mpl.rcParams["ytick.labelsize"]
            for axis, size in zip((axes.xaxis, axes.yaxis), sizes, strict=True):
                axis.set_tick_params("both", labelsize=size)
                axis.get_major_ticks(1)
                axis.get_minor_ticks(1)

    def _put_title(self, text: str) -> None:
        if len(self.panels) == 1:
            put_title(self.axes, text)
        else:
            self.figure.suptitle(text, x=0.01, ha="left")

    def _put_legend(self, handles: Sequence[Artist], labels: Sequence[str], note: str) -> None:
        """Put the legend below all panels, where it covers nothing; the note is its head."""
        letters = max(map(len, labels), default=0)
        room = self.figure.get_figwidth() * 72 / (LETTER * mpl.rcParams["legend.fontsize"])
        fit = max(1, min(len(labels), int(room / (letters + 7))))
        columns = -(-len(labels) // max(1, -(-len(labels) // fit)))  # which fill the rows
        wrapped = "\n".join(textwrap.fill(line, int(room)) for line in note.splitlines()) or None
        legend = self.figure.legend(
            list(handles), list(labels), loc="outside lower center", ncols=columns, title=wrapped
        )
        legend.get_title().set(color="0.35", multialignment="center")


@contextmanager
def drawing(
    look: Look, height: float, count: int = 1, each: float = 0.0, columns: int = 1, share_y: bool = False
) -> Iterator[Sheet]:
    """Yield a sheet with panels, within the settings that it is to be drawn with.

    The figure is `height` inches high and `each` more for each row of panels, of which a wide one has fewer.

    Raises ValueError for axes given to a figure of several panels, or with a size, and for a venue that is none.
    """
    form = format_of(look.style)
    show_figures(Figure)
    if look.ax is not None and count > 1:
        needed = f"this figure has {count} panels"
        raise problem_with("ax", "one axes", needed, "leave it out, or draw fewer variants or levels")
    if look.ax is not None and look.size is not None:
        raise problem_with("size", look.size, "the axes of ax have theirs", "leave out one of them")
    with mpl.rc_context(settings(form)):
        if look.ax is not None:
            figure = look.ax.get_figure(root=True)
            said = _SAID.setdefault(figure, Said(form)) if figure is not None else Said(form)
            assert figure is not None
            yield Sheet(figure, [look.ax], 1, False, look, said)
        else:
            yield _new_sheet(look, form, height, count, each, columns, share_y)


def _new_sheet(
    look: Look, form: Format | None, height: float, count: int, each: float, columns: int, share_y: bool
) -> Sheet:
    width = (look.size or figure_size(form, height))[0]
    room = int(width * 72 / (_PANEL * mpl.rcParams["font.size"]))
    across = min(count, max(columns, min(room, 3 * columns))) if width >= _WIDE else columns
    rows = math.ceil(count / across)
    size = look.size or figure_size(form, height + each * rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)  # keeps what it has measured for the layout, formulas above all, until it draws
    panels = list(figure.subplots(rows, across, squeeze=False, sharex=True, sharey=share_y).ravel())
    for axes in panels[count:]:
        axes.set_visible(False)
    said = _SAID[figure] = Said(form)
    return Sheet(figure, panels[:count], across, True, look, said)


def put_title(axes: Axes, text: str) -> None:
    """Put a title above axes that have nothing there; to find that out would take matplotlib a quarter of a layout."""
    axes.set_title(text, y=1.0, verticalalignment="bottom" if "$" in text else "baseline")  # fractions reach down


def count_of(runs: xr.Dataset) -> str:
    """Return how many runs there are."""
    each = " per variant" if "variant" in runs.dims else ""
    return f"{counted(runs.sizes['seed'], 'run')}{each}"


def provenance(runs: xr.Dataset | Mapping[str, Any]) -> str:
    """Return the sentence of a caption that says what was run: seeds, precision, and what a step is."""
    attrs = runs.attrs if isinstance(runs, xr.Dataset) else runs
    seeds = runs.sizes["seed"] if isinstance(runs, xr.Dataset) else int(runs["seeds"])
    told = [
        f"{counted(seeds, 'seed')}{_after(', base seed ', attrs.get('base_seed'))}",
        str(attrs.get("dtype", "")),
        f"time in steps of descent{_after(', checked every ', attrs.get('check_every'))}, step size in units of "
        f"1/{attrs.get('unit_name', 'σ₁')}",
        _after("at most ", attrs.get("max_steps"), " steps"),
    ]
    return "; ".join(filter(None, told))


def _after(before: str, value: Any, behind: str = "") -> str:
    return "" if value is None else f"{before}{value}{behind}"
