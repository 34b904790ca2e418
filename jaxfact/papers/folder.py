"""Papers are found by being in the folder."""

import importlib
import pkgutil
from types import ModuleType

from jaxfact.inputs import problem_with
from jaxfact.papers.base import Paper


def names() -> list[str]:
    """Return the names of all papers, such as "wind-2023"."""
    return sorted(_all())


def find(name: str) -> Paper:
    """Return a paper by its name. Raises ValueError, with the names there are, for one that is not known."""
    papers = _all()
    if name not in papers:
        raise problem_with("paper", name, f"the papers are {', '.join(sorted(papers))}", "choose one of these")
    return papers[name]


def _all() -> dict[str, Paper]:
    package = importlib.import_module(__name__.rpartition(".")[0])
    files = (found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."))
    papers = (_paper_in(importlib.import_module(file)) for file in files)
    return {paper.name: paper for paper in papers if paper is not None}


def _paper_in(module: ModuleType) -> Paper | None:
    return getattr(module, "PAPER", None)
