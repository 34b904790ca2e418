"""Small pieces of HTML for notebooks: escaped, without scripts, in the colours of whatever theme is around them."""

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_LINE = "1px solid rgba(128,128,128,.45)"
_CELL = f"text-align:left;padding:.15em .8em .15em 0;border-bottom:{_LINE};background:none;vertical-align:top"


REPORTED: str = "jf.report(found) shows tables and figures; jf.report(found).write(folder) writes them."


class Table(NamedTuple):
    """Names of columns, and rows of as many cells."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def card(
    title: str, facts: Mapping[str, str] = {}, *, said: str = "", table: Table | None = None, note: str = ""
) -> str:
    """Return what an object is in a few lines: its name, a sentence, facts by name, a table, and what to do next."""
    parts = [
        f'<div style="font-weight:600">{html.escape(title)}</div>',
        f'<div style="max-width:60em">{html.escape(said)}</div>' * bool(said),
        _grid([], [[name, value] for name, value in facts.items()]) * bool(facts),
        "" if table is None else _grid(table.columns, table.rows),
        f'<div style="opacity:.7;font-size:.9em">{html.escape(note)}</div>' * bool(note),
    ]
    return f'<div style="line-height:1.45">{"".join(parts)}</div>'


def bar(done: int, total: int, said: str) -> str:
    """Return a bar of how much is done, and words beside it; a total of zero is not known yet."""
    place = f'value="{done}" max="{total}"' if total else ""
    text = html.escape(said)
    return f'<div><progress {place} style="width:12em;vertical-align:middle"></progress> {text}</div>'


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = _row("th", columns) if columns else ""
    body = "".join(_row("td", row) for row in rows)
    style = "color:inherit;border-collapse:collapse;margin:.3em 0;font-size:.95em;font-variant-numeric:tabular-nums"
    return f'<div style="overflow-x:auto"><table style="{style}">{head}{body}</table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    made = "".join(f'<{tag} style="{_CELL}">{html.escape(cell)}</{tag}>' for cell in cells)
    return f'<tr style="background:none">{made}</tr>'
