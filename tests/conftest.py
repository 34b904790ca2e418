"""Double precision, and quick compilation except where a claim is about last bits, rounding or machine code.

With `XLA_FLAGS=` in the environment, empty, everything is compiled as it is for users. What is compiled is kept for the
other processes of the same session, and no longer.
"""

import atexit
import gc
import os
import shutil
import sys
import tempfile

from compilation import QUICK, as_for_users

# Before JAX is loaded; processes that tests start inherit it.
os.environ.setdefault("XLA_FLAGS", QUICK)
if "JAXFACT_CACHE" not in os.environ:
    os.environ["JAXFACT_CACHE"] = tempfile.mkdtemp(prefix="jaxfact-tests-")
    atexit.register(shutil.rmtree, os.environ["JAXFACT_CACHE"], ignore_errors=True)
if sys.dont_write_bytecode:  # then every process would compile all sources that it imports, for four seconds
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = tempfile.mkdtemp(prefix="jaxfact-bytecode-")
    atexit.register(shutil.rmtree, sys.pycache_prefix, ignore_errors=True)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
if "XDG_CONFIG_HOME" not in os.environ:
    os.environ["XDG_CONFIG_HOME"] = os.environ["JAXFACT_CACHE"]  # where stores are signed with a key of their own

import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import EXPERIMENTS, SWEPT, Called, Run

import jaxfact as jf
from jaxfact.cli import main as cli
from jaxfact.cli import terminal
from jaxfact.showing import progress
from jaxfact.store import experiment_file
from jaxfact.store.upkeep import extend

jax.config.update("jax_enable_x64", True)
progress._LINE = 1e6  # a line of progress after ten seconds would depend on how slow a machine is
# Traced programs are millions of objects that live as long as the session: to look through them takes a while.
gc.set_threshold(10_000, 10, 10)

# The files that take longest, in order: a long one that begins last would leave the other workers idle.
LONGEST = (
    "papers",
    "registers",
    "explore",
    "cases",
    "sweep",
    "compression",
    "noting",
    "calls",
    "prepared",
    "notebooks",
    "cli",
    "recovery",
    "rows",
    "completion",
    "comparison",
    "gradient_flow",
    "sweep_cli",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def as_users_compile():
    """Compile sweeps, and all that child processes compile, as for users; the value is for `jax.jit`."""
    with as_for_users() as options:
        yield options


@pytest.fixture
def call(monkeypatch, capsys, tmp_path) -> Run:
    """Return a function that runs the command in this process, in an empty folder, with the session's devices."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(terminal, "configure", lambda *_, **__: None)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Called:
        monkeypatch.setattr(sys, "argv", ["jaxfact", *map(str, arguments)])
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)  # which the command says as a note
            with pytest.raises(SystemExit) as ended:
                cli.main()
        return Called(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def experiments(tmp_path_factory) -> Path:
    """Return a file of experiments: `plain` of one axis, and two `methods`."""
    file = tmp_path_factory.mktemp("experiments") / "experiments.py"
    file.write_text(EXPERIMENTS)
    return file


@pytest.fixture(scope="session")
def stored(experiments, tmp_path_factory) -> Path:
    """Return a finished store, only to be read: two methods, three step sizes, six seeds, in tiles of two seeds."""
    store = tmp_path_factory.mktemp("stored") / "runs.zarr"
    methods = experiment_file.load(f"{experiments}:methods")
    jf.sweep(methods, seeds=6, store=store, tile_runs=6, **SWEPT)
    return store


@pytest.fixture
def unfinished(stored, tmp_path) -> Path:
    """Return a copy of the store that is to hold nine seeds, of which three were not run."""
    store = tmp_path / "unfinished.zarr"
    shutil.copytree(stored, store)
    extend(store, {"step_size": np.asarray(SWEPT["step_size"])}, np.arange(9))
    return store
