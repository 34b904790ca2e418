"""What a change must pass, and what continuous integration runs: `nox`, or `nox -s tests`."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What other versions of the dependencies break first: public names and the command line, and with the lowest ones also
# the README's examples and an optional package.
SURFACE, EXAMPLES = (
    [f"tests/test_{name}.py" for name in names] for names in (("public", "cli"), ("notebooks", "gradient_flow"))
)
# What is left out of them: mathematics that no version changes, and whole processes beside one that is kept.
LONG = (
    "notebook_runs",
    "derivatives",
    "tiny_start",
    "first_order",
    "many_starts",
    "sensing_perturbation",
    "may_depend_on_time",
    "step_beyond_the_edge",
    "wide_factors",
    "interrupted_process",
    "what_draws_is_loaded",
)

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False


def runs(python: Path | str) -> bool:
    """Return whether this Python is there and starts, which a shim without its version does not."""
    try:
        return subprocess.run([python, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def newest_python() -> str | None:
    """Return the newest Python of those the newest session is for, from the path or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in ("3.13", "3.12"):
        for python in (f"python{version}", *sorted(pyenv.glob(f"versions/{version}.*/bin/python"))):
            if runs(python):
                return str(python)
    return None


def floors() -> list[str]:
    """Return the lowest version of every dependency of the package and of its tests, as constraints."""
    lines = [
        *PROJECT["dependencies"],
        *(line for name in ("cluster", "explore", "export", "flow", "test") for line in EXTRAS[name]),
    ]
    found = [Requirement(line) for line in lines if not line.startswith(PROJECT["name"])]
    if unbounded := [str(item) for item in found if [bound.operator for bound in item.specifier] != [">="]]:
        raise ValueError(f"{unbounded} in pyproject.toml; each needs one floor; write it as name>=version")
    return [f"{item.name}=={bound.version}" for item in found for bound in item.specifier]


def readme_command() -> str:
    """Return the README's test command, word for word."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- test command -->\n```sh\n(.+)\n```", readme)
    if not found:
        raise ValueError("README.md has no line of shell under <!-- test command -->; put it back")
    return found[1]


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format, in the version that pyproject.toml pins."""
    session.install(*(line for line in EXTRAS["dev"] if line.startswith("ruff")))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


# uv would take the wheel of an earlier change from its cache.
@nox.session(venv_backend="venv")
def types(session: nox.Session) -> None:
    """Pyright on the sources, and on the public names of the installed wheel as a user's type checker sees them."""
    # What the sources import, and no tests; pyright reads no bytecode.
    session.install(
        "--no-compile",
        ".[cluster,explore,export,flow]",
        *(line for line in EXTRAS["dev"] if line.startswith("pyright")),
    )
    session.run("pyright")
    session.chdir(session.create_tmp())
    session.run("pyright", "--verifytypes", PROJECT["name"], "--ignoreexternal")


# The README's command calls pip, which an environment made by uv lacks.
@nox.session(venv_backend="venv")
def tests(session: nox.Session) -> None:
    """Run the README's test command, word for word."""
    session.run("bash", "-c", readme_command(), external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site; a warning, a reference that leads nowhere and a public name that is missing are errors."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-c", "docs", ".", *(session.posargs or ["docs/_build"]))


@nox.session(name="floors", python="3.11")
def at_the_floors(session: nox.Session) -> None:
    """Test the surface with the lowest version of every dependency; all with `-- --full`."""
    constraints = Path(session.create_tmp(), "floors.txt")
    constraints.write_text("\n".join(floors()) + "\n", encoding="utf-8")
    session.install("--no-compile", "-e", ".[test]", "-c", str(constraints))
    test(session, *EXAMPLES)


@nox.session(python=newest_python() or "3.13")
def newest(session: nox.Session) -> None:
    """Test the surface with the newest Python and the newest of everything; all with `-- --full`."""
    session.install("--no-compile", "-e", ".[test]")
    session.run("python", "-c", "import jax, sys; print('Python', sys.version, 'JAX', jax.__version__)")
    test(session)


def test(session: nox.Session, *more: str) -> None:
    """Run the tests of the surface and more, or all of them, with two workers."""
    chosen = [] if "--full" in session.posargs else [*SURFACE, *more, "-k", f"not ({' or '.join(LONG)})"]
    session.run("python", "-m", "pytest", "-n", "2", *chosen)
