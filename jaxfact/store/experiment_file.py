"""Experiments in files: `FILE.py:name`, or `FILE.py:name:key` for an entry of a dict.

A file is executed in a module of its own, whose name no other file's module can have; meanwhile its folder is where
Python looks for modules. Its functions keep their source.
"""

import ast
import contextlib
import hashlib
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxfact.inputs import problem_with

if TYPE_CHECKING:
    from jaxfact.engine.experiment import Experiment

_PACKAGE = str(Path(__file__).parents[1])
_EXAMPLE = "write it like experiments.py:experiment"


class Name(NamedTuple):
    """What an experiment, or a dict of them, is called in its file: `name`, or `name:key` in a dict."""

    name: str
    key: str | None = None

    @classmethod
    def parsed(cls, text: str) -> "Name | None":
        """Return the name that a text means, or None."""
        name, colon, key = text.partition(":")
        return cls(name, key if colon else None) if name.isidentifier() else None

    @classmethod
    def of(cls, experiment: "Experiment", names: Mapping[str, Any]) -> "Name | None":
        """Return what a function is called in a module; None where it lives inside another."""
        for name, value in names.items():
            if value is experiment:
                return cls(name)
        for name, value in names.items():
            if isinstance(value, dict) and not name.startswith("__"):
                for key, entry in value.items():
                    if entry is experiment and isinstance(key, str):
                        return cls(name, key)
        return None

    def found_in(self, names: Mapping[str, Any]) -> Any:
        """Return what has this name. Raises KeyError."""
        found = names[self.name]
        return found if self.key is None else found[self.key]

    def __str__(self) -> str:
        return self.name if self.key is None else f"{self.name}:{self.key}"


def load(place: str, *, up_to_sweep: bool = False) -> "Experiment | dict[str, Experiment]":
    """Return what a place names: a function that returns a `Run`, or a dict of such functions.

    With `up_to_sweep` the statements of the file that sweep are left out, and what follows the first of them once the
    name is there.

    Raises ValueError where there is no such file or name, and for a file that fails, with its exception and line.
    """
    file, name = check_place(place)
    names = _loaded(file, name if up_to_sweep else None)
    try:
        experiment = name.found_in(names)
    except (KeyError, TypeError):
        raise problem_with("experiment", place, f"{file} has no {name}", f"choose among {_candidates(names)}") from None
    return _checked(place, experiment)


def check_place(place: str) -> tuple[Path, Name]:
    """Return the file of a place and the name in it; nothing of the file is executed, so that no JAX is needed.

    Raises ValueError where there is no such file, and where it cannot be read as Python.
    """
    stem, found, text = place.partition(".py:")
    file = Path(f"{stem}.py")
    name = Name.parsed(text)
    if not found or name is None:
        raise problem_with("experiment", place, "needs a Python file and a name in it", _EXAMPLE)
    if not file.is_file():
        raise problem_with("experiment", place, f"{file} is not a Python file", _EXAMPLE)
    file = file.absolute()
    try:
        ast.parse(_text_of(file), str(file))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        said = f"cannot be read as Python ({type(error).__name__}: {error})"
        raise blamed(file, error) or problem_with("experiment", file, said, "correct the file") from None
    return file, name


def _text_of(file: Path) -> str:
    return importlib.util.decode_source(file.read_bytes())


def file_of(place: str) -> Path:
    """Return the file of a place that `load` takes."""
    return Path(f"{place.partition('.py:')[0]}.py").absolute()


def from_text(text: str, name: str, origin: str) -> Any:
    """Return what a file's text calls `name` or `name:key`; in tracebacks `origin` says where the text is from.

    Statements that sweep are left out, and what follows the first of them once the name is there.

    Raises ValueError where it is not there, and for a text that fails.
    """
    wanted = Name.parsed(name)
    assert wanted is not None, "names are written by `Name.of`"
    # Two texts from one place, such as those of two variants, are two modules.
    label = f"<{origin}, {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    try:
        return wanted.found_in(_executed(text, label, wanted))
    except Exception as error:
        failed = f"its file fails ({type(error).__name__}: {error})"
        raise problem_with("experiment", name, failed, "give experiment=, as it was given to the sweep") from error


def blamed(file: Path, error: BaseException) -> ValueError | None:
    """Return the error as a message that names exception and line of the file, None where it came from elsewhere."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        line = error.lineno
    else:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
        line = lines[-1] if lines else None
    if line is None:
        return None
    said = f"line {line} raised {type(error).__name__}: {getattr(error, 'msg', error)}".rstrip(": .")
    return problem_with("experiment", file, said, "correct the file")


@contextlib.contextmanager
def blaming(file: Path | None) -> Iterator[None]:
    """Let what a file of experiments prints go to the error stream, and blame it, by its line, for what it raises.

    Errors of this library keep their words, and have the line that led to them before those.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # SystemExit too
        if file is None or (mistake := blamed(file, error)) is None:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if isinstance(error, ValueError) and last.startswith(_PACKAGE):
            line = str(mistake).partition(" raised ")[0].removeprefix("experiment=")
            raise ValueError(f"{line.replace(': line', ', line')}: {error}") from None
        raise mistake from None


def _loaded(file: Path, until: Name | None) -> dict[str, Any]:
    """Return what a file defines, which finds the modules beside it."""
    with _on_path(str(file.parent)):
        try:
            return _executed(_text_of(file), str(file), until)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a script that calls sys.exit is not a file of experiments
            raise blamed(file, error) or error from None


@contextlib.contextmanager
def _on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # where the file has removed it
            sys.path.remove(folder)


def _executed(text: str, label: str, until: Name | None) -> dict[str, Any]:
    """Execute a text in a module of its own and return what that defines; only up to a name's sweep, where given."""
    tree = ast.parse(text, label)
    if until is not None:
        tree = ast.Module(_up_to_sweep(tree.body, until.name), [])
    # Dataclasses and pickles look their module up. No import can have a name with blanks.
    module = ModuleType(f"experiment file {label}")
    module.__file__ = label
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    linecache.cache[label] = (len(text), None, text.splitlines(keepends=True), label)
    try:
        exec(compile(tree, label, "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        raise
    return module.__dict__


def _up_to_sweep(statements: list[ast.stmt], name: str) -> list[ast.stmt]:
    """Return the statements that are needed for a name, without those that sweep."""
    kept: list[ast.stmt] = []
    there = False
    for statement in statements:
        if not _sweeps(statement):
            kept.append(statement)
            there = there or _binds(statement, name)
        elif there:
            break
    return kept


def _sweeps(statement: ast.stmt) -> bool:
    """Tell whether a statement itself runs a sweep."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return False
    called = [node.func for node in ast.walk(statement) if isinstance(node, ast.Call)]
    return any(getattr(function, "attr", getattr(function, "id", None)) == "sweep" for function in called)


def _binds(statement: ast.stmt, name: str) -> bool:
    """Tell whether a statement gives a name its value."""
    if isinstance(statement, ast.FunctionDef):
        return statement.name == name
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store)
        for node in ast.walk(statement)
    )


def _checked(place: str, found: Any) -> "Experiment | dict[str, Experiment]":
    instead = "name a function that returns a jaxfact.Run, or a dict of such functions"
    if isinstance(found, Mapping):
        if not found or not all(isinstance(name, str) and callable(one) for name, one in found.items()):
            raise problem_with("experiment", place, "is a dict of something other than functions by name", instead)
        return dict(found)
    if not callable(found) or isinstance(found, type):
        raise problem_with("experiment", place, f"is of type {type(found).__name__}", instead)
    return found  # pyright: ignore[reportReturnType]


def _candidates(found: Mapping[str, Any]) -> str:
    """Return the names that may be meant: functions written in the file itself, and dicts of functions."""
    own = found["__name__"]

    def is_meant(value: Any) -> bool:
        if isinstance(value, Mapping):
            return bool(value) and all(map(callable, value.values()))
        return isinstance(value, Callable) and getattr(value, "__module__", None) == own

    names = [name for name, value in found.items() if not name.startswith("_") and is_meant(value)]
    return ", ".join(names) or "what it defines: there is no function in it"
