"""The rooms of the house, and who imports from whom: `python tests/rooms.py` draws both into docs/architecture.md."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxfact"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "\n<!-- end of rooms -->\n"
# From the top floor down; a folder is one room, a file beside them another.
ROOMS = (
    "__main__",
    "cli",
    "reports",
    "jobs",
    "tuning",
    "papers",
    "explore",
    "sweep",
    "store",
    "accessor",
    "figures",
    "results",
    "engine",
    "flow",
    "descent",
    "measures",
    "methods",
    "starts",
    "problems",
    "data",
    "numerics",
    "showing",
    "choices",
    "inputs",
    "version",
)


@cache
def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name, without the package's own."""
    paths = (path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in paths}


def room_of(name: str) -> str:
    return name.partition(".")[0]


def imported(name: str, source: str) -> set[str]:
    """Return the rooms that a module imports from, wherever it does so and however it is written."""
    inside = ["jaxfact", *name.split(".")]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) - node.level] if node.level else []
            path = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {(*path, alias.name)[1] for alias in node.names} if path[:1] == ["jaxfact"] else set()
        elif isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
            found |= {path[1] for path in paths if path[0] == "jaxfact" and len(path) > 1}
            # The package itself has every room's names.
            found |= {"cli" for path in paths if path == ["jaxfact"]}
    return found


@cache
def arrows() -> dict[str, set[str]]:
    """Return which other rooms each room imports from."""
    found: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, path in modules().items():
        found[room_of(name)] |= imported(name, path.read_text(encoding="utf-8")) - {room_of(name)}
    return found


def floors(arrows: dict[str, set[str]]) -> dict[str, int]:
    """Return each room's floor, one above the highest that it imports from; the ground floor is 0."""
    found: dict[str, int] = {}
    for room in reversed(ROOMS):
        found[room] = max((found[below] + 1 for below in arrows[room]), default=0)
    return found


def purpose(room: str) -> str:
    """Return the first line of a room's docstring, without its full stop."""
    path = PACKAGE / room / "__init__.py" if (PACKAGE / room).is_dir() else PACKAGE / f"{room}.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0].rstrip(".")


def drawing() -> str:
    """Return the table of rooms: its counts, then one row per room, from the top floor down."""
    below = arrows()
    on = floors(below)
    upward = sum(ROOMS.index(to) < ROOMS.index(room) for room in ROOMS for to in below[room])
    size = f"{len(ROOMS)} rooms on {max(on.values()) + 1} floors, {sum(map(len, below.values()))} arrows"
    lines = [
        f"{size}, {upward} upward, as `python tests/rooms.py` draws them.\n",
        "| floor | room | what lives there | imports from |",
        "| --: | --- | --- | --- |",
    ]
    for room in ROOMS:
        names = ", ".join(f"`{to}`" for to in ROOMS if to in below[room])
        lines.append(f"| {on[room]} | `{room}` | {purpose(room)} | {names} |")
    return "\n".join(lines) + "\n"


def page(text: str, table: str) -> str:
    """Return the page with the table in place of what stands between its two marks."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), drawing()), encoding="utf-8")
