"""How figures are written: one file by its suffix, or all that a paper needs."""

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from jaxfact.figures.pgf import write_pgf
from jaxfact.figures.sheets import Look, drawing, put_title, said_of
from jaxfact.figures.styles import house
from jaxfact.inputs import problem_with

_DPI = 300
_LACKING = re.compile(r"Glyph (\d+) .*missing from|no font has the letters (.*?); ")
# Without a date, so that the same figure is the same file.
_METADATA = {".png": None, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
SUFFIXES: tuple[str, ...] = (*_METADATA, ".pgf")
"""What a figure can be written as."""


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (300 dpi), SVG, PDF or PGF, by the path's suffix, in exactly its size.

    Fonts are embedded in a PDF, of which text can be selected; SVG has text as text where the figure has a venue's
    style, and else as shapes, which look alike everywhere. PGF takes the fonts of the document that inputs it; no
    LaTeX is needed to write it.

    Raises ValueError for another suffix.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise problem_with("path", path, f"needs a suffix of {', '.join(SUFFIXES)}", "choose one of them")
    said = said_of(figure)
    settings: dict[Any, Any] = {"savefig.bbox": None, "pdf.fonttype": 42, "svg.hashsalt": "jaxfact"}
    if said is not None and said.venue is not None:
        settings["svg.fonttype"] = "none"
    with mpl.rc_context(settings), letters_said_once():
        _lay_out(figure)
        if path.suffix == ".pgf":
            write_pgf(figure, path)
        else:
            with _quiet_fonts():
                figure.savefig(path, dpi=_DPI, metadata=_METADATA[path.suffix])


@contextmanager
def letters_said_once() -> Iterator[None]:
    """Say in one warning which letters no font has, instead of one for each letter, file and look at the layout."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    missing: dict[str, None] = {}
    for one in caught:
        if lacking := _LACKING.match(str(one.message)):
            missing |= dict.fromkeys(chr(int(lacking[1])) if lacking[1] else lacking[2])
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    if missing:
        advice = f"install one that has, such as Noto Sans CJK, and empty {mpl.get_cachedir()}"
        warnings.warn(f"no font has the letters {''.join(missing)}; {advice}", stacklevel=3)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Keep to itself what the subsetting of fonts finds strange about the years in which matplotlib's own were made."""
    log = logging.getLogger("fontTools")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def get_ready() -> Figure:
    """Load the fonts, and what reads formulas and writes files, by drawing next to nothing, and return that."""
    with house(), drawing(Look(None, None, None, None), 1.0) as sheet:
        put_title(sheet.axes, "$t$")
        for kind in ("png", "svg"):
            sheet.figure.savefig(io.BytesIO(), format=kind)
        return sheet.figure


def _lay_out(figure: Figure) -> None:
    """Settle where everything lies; left to `savefig`, every format would go through the whole figure once more."""
    layout = figure.get_layout_engine()
    if layout is None:
        return
    before, figure.dpi = figure.dpi, _DPI  # at which text is measured as in the PNG
    layout.execute(figure)
    figure.set_layout_engine(None)
    figure.dpi = before
