"""The rooms of the house import only downward."""

import ast
from pathlib import Path

import pytest

import jaxfact

PACKAGE = Path(jaxfact.__file__).parent
# From the top floor down; a folder is one room, a file beside them another.
ROOMS = (
    "cli",
    "reports",
    "jobs",
    "papers",
    "sweep",
    "figures",
    "store",
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
    "choices",
    "inputs",
    "version",
)


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
            found |= {ROOMS[0] for path in paths if path == ["jaxfact"]}
    return found


def upward(name: str, source: str) -> set[str]:
    floor = ROOMS.index(room_of(name))
    return {room for room in imported(name, source) if ROOMS.index(room) < floor}


def test_every_module_has_a_room():
    assert {room_of(name) for name in modules()} == set(ROOMS)
    assert len(ROOMS) <= 24


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_downward(name):
    assert upward(name, modules()[name].read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("from jaxfact import measures\nfrom jaxfact.sweep import sweep", {"measures", "sweep"}),
        ("from ..measures import loss", {"measures"}),
        ("from .. import sweep, inputs", {"sweep"}),
        ("def f():\n    import jaxfact.cli.main", {"cli"}),
        ("import jaxfact as jf", {"cli"}),
        ("from . import base\nfrom .entries import Sums\nimport jax", set()),
    ],
)
def test_an_upward_import_is_caught(source, rooms):
    assert upward("problems.factors", source) == rooms


def test_files_stay_short():
    """None above 400 lines, and the median of those that hold code between 100 and 250."""
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert max(lengths.values()) <= 400, lengths
    sizes = sorted(length for name, length in lengths.items() if not name.endswith("__init__"))
    assert 100 <= sizes[len(sizes) // 2] <= 250


def test_functions_stay_short():
    """No function of more than 60 lines of code, its docstring not counted."""
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                assert (node.end_lineno or 0) - first.lineno + 1 <= 60, f"{name}.{node.name}"
