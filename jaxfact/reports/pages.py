"""What every job hands to people: tables in the terminal, and a folder with results, figures and one HTML page."""

import base64
import html
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import xarray as xr
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from jaxfact.figures import save
from jaxfact.figures.saving import letters_said_once
from jaxfact.figures.styles import house
from jaxfact.inputs import printable
from jaxfact.results import strict_json
from jaxfact.results.whole import check_new_folder, whole_folder
from jaxfact.store.written import write_results

RESULTS, PAGE, SUMMARY = "results.zarr", "report.html", "summary.json"

_TITLE = "font-size:.9rem;font-weight:400;opacity:.75;margin:1rem 0 .2rem"

Rows = tuple[str, list[str], list[list[str]]]
"""The title, the columns and the rows of a table."""


@dataclass(frozen=True)
class Report:
    """What is said about what a job found. A notebook shows it; `print` and `write` are for elsewhere.

    Attributes:
        title: of the page.
        heading: lines that say what was run, in which units.
        tables: title, columns and rows of each.
        lines: comparisons, and what a reader should know before the numbers.
        captions: of the figures, by name.
        summary: all numbers and settings, as JSON has them.
        runs: the labelled results by the path of their store in the folder; none where they are on disk already.
        draw: draws the figures.
        found: what was found, in one sentence.
        again: the lines that make it again, of a shell or of Python.
    """

    title: str
    heading: list[str]
    tables: list[Rows]
    lines: list[str]
    captions: Mapping[str, str]
    summary: dict[str, Any]
    runs: Mapping[str, xr.Dataset]
    draw: Callable[[], dict[str, Figure]]
    found: str = ""
    again: str = ""

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """The figures by name, drawn when they are first looked at."""
        with house():
            return self.draw()

    def print(self, console: Console | None = None) -> None:
        """Print what was found, heading, tables and lines."""
        console = Console() if console is None else console
        for line in [self.found] * bool(self.found) + self.heading:
            console.print(printable(line), highlight=False, markup=False)
        for title, columns, rows in self.tables:
            print_table(console, title, columns, rows)
        for line in self.lines:
            console.print(f"• {printable(line)}", highlight=False, markup=False)

    def write(self, out: str | Path) -> Path:
        """Write results, figures, numbers and page into a new folder, and return the path of the page.

        The folder appears whole or not at all. Raises ValueError for one that holds something or cannot be made. Warns
        where figures cannot be drawn, and leaves them out.
        """
        out = Path(out)
        check_new_folder(out)
        with whole_folder(out) as made:
            for name, runs in self.runs.items():
                write_results(runs, made / name)
            (made / "figures").mkdir()
            try:
                self._draw_into(made / "figures")
            except OSError:
                raise
            except Exception as error:  # whatever a figure stumbles over, the results are there
                warnings.warn(f"not every figure could be drawn: {error}", stacklevel=2)
            (made / SUMMARY).write_text(strict_json.dumps(self.summary), encoding="utf-8")
            (made / PAGE).write_text(page(self, made / "figures"), encoding="utf-8")
        return out / PAGE

    def _draw_into(self, folder: Path) -> None:
        with letters_said_once():
            for name, figure in self.figures.items():
                for suffix in (".png", ".svg"):
                    save(figure, folder / f"{name}{suffix}")

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the page without its frame and without the numbers."""
        with tempfile.TemporaryDirectory() as folder:
            for name, figure in self.figures.items():
                save(figure, Path(folder) / f"{name}.svg")
            parts = _parts(self, Path(folder))
        return "{found}<p>{heading}</p>{figures}{tables}<ul>{lines}</ul>{again}".format(**parts)


def print_table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table in the style of all tables, under a title that may be wider than it is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(printable(name), overflow="fold")
    for row in rows:
        table.add_row(*map(printable, row))
    console.print(printable(title), style="italic", highlight=False, markup=False)
    console.print(table, markup=False)


def page(report: Report, folder: Path) -> str:
    """Return the page: what was found, figures from `folder`, tables and settings, in one file without a network."""
    template = Template((files("jaxfact.reports") / "page.html").read_text(encoding="utf-8"))
    summary = html.escape(strict_json.dumps(report.summary))
    return template.substitute(title=html.escape(report.title), summary=summary, **_parts(report, folder))


def _parts(report: Report, folder: Path) -> dict[str, str]:
    """Return what a page and a notebook show, as HTML."""
    present = {name: text for name, text in report.captions.items() if (folder / f"{name}.svg").exists()}
    again = f'<p>Made again by</p><pre class="again">{html.escape(report.again)}</pre>'
    return {
        "found": f'<p class="found">{html.escape(report.found)}</p>' * bool(report.found),
        "again": again * bool(report.again),
        "heading": "<br>".join(map(html.escape, report.heading)),
        "tables": "".join(_html_table(*table) for table in report.tables),
        "lines": "".join(f"<li>{html.escape(line)}</li>" for line in report.lines),
        "figures": "".join(_drawn(folder / f"{name}.svg", text) for name, text in present.items()),
    }


def _drawn(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption, quote=True)
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _html_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    # A caption of the table itself would be as wide as that, and leave a narrow screen with it.
    return f'<h3 style="{_TITLE}">{html.escape(title)}</h3><div style="overflow-x:auto">{table}</div>'
