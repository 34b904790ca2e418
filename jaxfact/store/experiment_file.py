"""Experiments in files: a function, or a dict of functions, found in a Python file by its name."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxfact.engine.experiment import Experiment
from jaxfact.inputs import problem_with

_EXAMPLE = "write it like experiments.py:experiment"


def load(place: str) -> Experiment | dict[str, Experiment]:
    """Return what FILE.py:NAME names: a function that returns a `Run`, or a dict of such functions.

    The file is run once, with its folder where Python looks for modules, and its functions keep their source.

    Raises ValueError where there is no such file or name, and for a file that fails, with its exception and line.
    """
    path, _, name = place.rpartition(":")
    if not path or not name.isidentifier():
        raise problem_with("experiment", place, "needs a file and a name in it", _EXAMPLE)
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise problem_with("experiment", place, f"{path} is no Python file", _EXAMPLE)
    found = _executed(file)
    if name not in found:
        raise problem_with("experiment", place, f"{path} has no {name}", f"choose among {_candidates(found)}")
    return _checked(place, found[name])


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


def _executed(file: Path) -> Mapping[str, Any]:
    """Return what a file defines."""
    file = file.absolute()
    specification = importlib.util.spec_from_file_location(f"experiment file {file.stem}", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Dataclasses and pickles look their module up; no other module can have a name with blanks.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(file.parent))
    try:
        specification.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a script that calls sys.exit is no file of experiments
        raise blamed(file, error) or error from None
    finally:
        sys.path.remove(str(file.parent))
    return vars(module)


def _checked(place: str, found: Any) -> Experiment | dict[str, Experiment]:
    instead = "name a function that returns a jaxfact.Run, or a dict of such functions"
    if isinstance(found, Mapping):
        if not found or not all(isinstance(name, str) and callable(one) for name, one in found.items()):
            raise problem_with("experiment", place, "is a dict of something else than functions by name", instead)
        return dict(found)
    if not callable(found) or isinstance(found, type):
        raise problem_with("experiment", place, f"is a {type(found).__name__}", instead)
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
