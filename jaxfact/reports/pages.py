"""What every job hands to people: tables in the terminal, and a folder with results, figures and one HTML page."""

import base64
import html
import json
from dataclasses import dataclass
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
from jaxfact.results.files import write_results
from jaxfact.results.whole import check_new_folder, whole_folder

RESULTS, PAGE, SUMMARY = "results.zarr", "report.html", "summary.json"


@dataclass(frozen=True)
class Sheet:
    """What is said about a job: lines, tables of title, columns and rows, captions by figure, numbers, results.

    `runs` is None where the results are on disk already.
    """

    heading: list[str]
    tables: list[tuple[str, list[str], list[list[str]]]]
    lines: list[str]
    captions: dict[str, str]
    summary: dict[str, Any]
    runs: xr.Dataset | None
    title: str = "Plain, balanced and noise-injected descent from the same random starts"


def write(sheet: Sheet, figures: dict[str, Figure], folder: Path) -> None:
    """Write results, figures, summary and page into a folder, which appears whole or not at all."""
    check_new_folder(folder)
    with whole_folder(folder) as made:
        if sheet.runs is not None:
            write_results(sheet.runs, made / RESULTS)
        (made / "figures").mkdir()
        for name, figure in figures.items():
            for suffix in (".png", ".svg"):
                save(figure, made / "figures" / f"{name}{suffix}")
        (made / SUMMARY).write_text(json.dumps(sheet.summary, indent=2, ensure_ascii=False), encoding="utf-8")
        (made / PAGE).write_text(page(sheet, made / "figures"), encoding="utf-8")


def print_tables(sheet: Sheet, console: Console) -> None:
    """Print heading, tables, paired lines and notes."""
    for line in sheet.heading:
        console.print(line, highlight=False, markup=False)
    for title, columns, rows in sheet.tables:
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table, markup=False)
    for line in sheet.lines:
        console.print(f"• {line}", highlight=False, markup=False)


def page(sheet: Sheet, folder: Path) -> str:
    """Return the page: heading, table, figures from `folder` and settings, in one file that needs no network."""
    template = Template((files("jaxfact.reports") / "page.html").read_text(encoding="utf-8"))
    present = {name: title for name, title in sheet.captions.items() if (folder / f"{name}.svg").exists()}
    drawn = "".join(_drawn(folder / f"{name}.svg", title) for name, title in present.items())
    return template.substitute(
        title=html.escape(sheet.title),
        heading="<br>".join(map(html.escape, sheet.heading)),
        tables="".join(_html_table(*table) for table in sheet.tables),
        lines="".join(f"<li>{html.escape(line)}</li>" for line in sheet.lines),
        figures=drawn,
        summary=html.escape(json.dumps(sheet.summary, indent=2, ensure_ascii=False)),
    )


def _drawn(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption, quote=True)
    return f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _html_table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{html.escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
