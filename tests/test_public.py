"""What users and their type checkers see of the package: the list of public names, and what is written beside it."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import jaxfact as jf

PACKAGE = Path(jf.__file__).parent
ROOT = PACKAGE.parent
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
LISTED = {alias.name: node for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_the_list_holds_each_name_once():
    """One line per name, exported to type checkers by `import X as X`, and nothing else."""
    assert all(isinstance(node, ast.ImportFrom) and len(node.names) == 1 for node in STUB.body)
    assert all(alias.asname == alias.name for node in LISTED.values() for alias in node.names)
    assert len(LISTED) == len(STUB.body)
    assert set(jf.__all__) == set(LISTED) == set(dir(jf))


FAMILIES = [
    "data",
    "export",
    "figures",
    "flow",
    "measures",
    "methods",
    "operators",
    "papers",
    "starts",
    "stats",
    "tuning",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_tab_completion_shows_what_a_family_offers(name):
    """Neither its files nor what it imports for its own use, though `vars` holds them."""
    family = getattr(jf, name)
    shown, held = set(dir(family)), {name for name in vars(family) if not name.startswith("_")}
    assert shown < held
    for hidden in held - shown:
        value = vars(family)[hidden]
        assert isinstance(value, ModuleType) or not getattr(value, "__module__", "").startswith(family.__name__), hidden
    assert {one for one in shown if isinstance(getattr(family, one), ModuleType)} <= {"invariants"}
    assert "listed" not in shown


@pytest.mark.parametrize("name", LISTED)
def test_a_public_name_is_what_the_list_says(name):
    """The package's own attribute is the very object of the module it is listed under."""
    place = ".".join(["jaxfact", *filter(None, [LISTED[name].module])])
    module = importlib.import_module(place)
    if place == "jaxfact" or not hasattr(module, name):
        assert getattr(jf, name) is importlib.import_module(f"{place}.{name}")
    else:
        assert getattr(jf, name) is getattr(module, name)


SCRIPT = """
import sys, types
import jaxfact as jf
names = sorted(jf.__all__, reverse=sys.argv[1] == "backward")
first = {name: getattr(jf, name) for name in names}
assert all(getattr(jf, name) is first[name] for name in names)
print(*sorted(name for name in names if isinstance(first[name], types.ModuleType)))
"""


@pytest.mark.parametrize("order", ["forward", "backward"])
def test_names_do_not_depend_on_what_was_loaded_before(order):
    """The function `sweep` has its module's name, and importing the module must not put it in the function's place.

    It does with lazy-loader below 0.6, once `phase_diagram` was loaded.
    """
    ended = subprocess.run([sys.executable, "-c", SCRIPT, order], capture_output=True, text=True, check=True)
    found = ended.stdout.split()
    assert "measures" in found
    assert "sweep" not in found


def test_the_package_says_that_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def test_the_citation_names_this_version():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, re.MULTILINE) == [jf.version.__version__]


def test_the_hooks_take_the_ruff_of_the_checks():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    [pinned] = [line for line in extras["dev"] if line.startswith("ruff")]
    assert re.findall(r"ruff-pre-commit\n +rev: v(.+)$", hooks, re.MULTILINE) == [pinned.removeprefix("ruff==")]
