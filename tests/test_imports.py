"""The rooms of the house import only downward."""

import ast
from pathlib import Path

import pytest

import jaxfact

PACKAGE = Path(jaxfact.__file__).parent
LAYERS = {
    0: {
        "version",
        "inputs",
        "spectrum",
        "settings",
        "sensors",
        "formats",
        "devices",
        "products",
        "draws",
        "decompositions",
        "factors",
        "centring",
        "datasets",
        "data",
    },
    1: {
        "problems",
        "problems.base",
        "problems.targets",
        "problems.factorization",
        "problems.compression",
        "operators",
        "problems.partial",
        "problems.entries",
        "problems.completion",
        "problems.drawn",
        "problems.splits",
        "problems.sensing",
        "problems.tied",
    },
    2: {
        "methods",
        "starts",
        "spectral",
        "measures",
        "alignment",
        "subspaces",
        "entrywise",
        "isometry",
        "resampling",
        "invariants",
        "flow",
    },
    3: {"descent", "compressibility", "experiment", "recording", "outcomes", "lanes", "tiles"},
    4: {
        "labels",
        "sweep",
        "stored",
        "tilestore",
        "shards",
        "provenance",
        "store",
        "status",
        "export",
        "stats",
        "phase",
    },
    5: {
        "comparison",
        "recovery",
        "replay",
        "numpy_script",
        "presets",
        "presets.base",
        "presets.beyond_procrustes",
        "presets.chen",
        "presets.kim_chung",
        "presets.ma_fattahi",
        "presets.wind",
    },
    6: {
        "plots",
        "axis_plots",
        "pages",
        "report",
        "recovery_report",
        "preset_report",
        "sweep_report",
        "experiment_file",
        "terminal",
        "sweep_cli",
        "replay_cli",
        "cli",
    },
}
ROOM = {name: layer for layer, names in LAYERS.items() for name in names}


def modules() -> dict[str, Path]:
    paths = (path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
    return {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imported(source: str) -> set[str]:
    """Return the modules of the package that a source file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxfact":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxfact."):
            found.add(node.module.removeprefix("jaxfact."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("jaxfact.") for a in node.names if a.name.startswith("jaxfact.")}
    return found


def upward(name: str, source: str) -> set[str]:
    return {other for other in imported(source) if ROOM[other] > ROOM[name]}


def test_every_module_has_a_room():
    assert modules().keys() == ROOM.keys()


@pytest.mark.parametrize("name", sorted(ROOM))
def test_imports_point_downward(name):
    assert upward(name, modules()[name].read_text(encoding="utf-8")) == set()


def test_an_upward_import_is_caught():
    assert upward("factors", "from jaxfact import measures\nfrom jaxfact.sweep import sweep") == {"measures", "sweep"}


def test_modules_stay_short():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in modules().items()}
    assert max(lengths.values()) <= 400, lengths


def test_public_names_have_one_path():
    """The package re-exports each name from one module, and all of them load."""
    assert len(jaxfact.__all__) == len(set(jaxfact.__all__))
    for name in jaxfact.__all__:
        assert getattr(jaxfact, name) is not None
