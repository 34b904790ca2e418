"""The rooms of the house import only downward, and are drawn as they are."""

import ast

import pytest
from rooms import PAGE, ROOMS, arrows, drawing, floors, imported, modules, page, room_of


def upward(name: str, source: str) -> set[str]:
    floor = ROOMS.index(room_of(name))
    return {room for room in imported(name, source) if ROOMS.index(room) < floor}


def test_every_module_has_a_room():
    assert {room_of(name) for name in modules()} == set(ROOMS)
    assert len(ROOMS) <= 25


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


def test_floors_are_counted_from_the_ground():
    """Two rooms above the same one share a floor; a room stands one above the highest it uses, not the nearest."""
    some = {room: set() for room in ROOMS} | {"cli": {"sweep", "inputs"}, "sweep": {"data"}, "data": {"inputs"}}
    on = floors(some | {"store": {"data"}})
    assert [on[room] for room in ("inputs", "data", "store", "sweep", "cli")] == [0, 1, 2, 2, 3]


def test_the_drawing_is_of_this_house():
    """If not, run `python tests/rooms.py`; a missing room is seen."""
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, drawing()) == text
    assert page(text, drawing().replace("| `inputs` |", "|")) != text
    assert sum(map(len, arrows().values())) > len(ROOMS)


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
