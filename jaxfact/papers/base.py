"""What a paper is, and how papers and their claims are found: by the files of this folder."""

from dataclasses import dataclass
from types import ModuleType

from jaxfact.choices import members
from jaxfact.inputs import problem_with
from jaxfact.papers.claims import Claim, Preset


@dataclass(frozen=True)
class Paper:
    """A paper, and what of it can be run here. Its name is that of its file: `wind_2023.py` holds "wind-2023".

    `module` is the file's `__name__`. Without authors it is what was found with jaxfact itself.
    """

    module: str
    title: str
    authors: tuple[str, ...]
    year: int
    claims: tuple[Claim, ...]

    @property
    def name(self) -> str:
        """The name to find it by."""
        return self.module.rpartition(".")[2].replace("_", "-")

    @property
    def citation(self) -> str:
        """Author and year: "Ma & Fattahi (2024)"."""
        *others, last = [author.rpartition(" ")[2] for author in self.authors] or ["jaxfact"]
        return f"{', '.join(others)} & {last} ({self.year})" if others else f"{last} ({self.year})"

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The experiments of its claims, each once."""
        return tuple({claim.preset.name: claim.preset for claim in self.claims}.values())


def names() -> list[str]:
    """Return the names of all papers, such as "wind-2023"."""
    return sorted(_all())


def find(name: str) -> Paper:
    """Return a paper by its name. Raises ValueError, which lists the names, for an unknown one."""
    papers = _all()
    if name not in papers:
        raise problem_with("paper", name, f"the papers are {', '.join(sorted(papers))}", "choose one of these")
    return papers[name]


def claims() -> dict[str, tuple[Paper, Claim]]:
    """Return every claim by its id, with its paper: C1, C2, …"""
    found = [(paper, claim) for paper in _all().values() for claim in paper.claims]
    return {claim.id: (paper, claim) for paper, claim in sorted(found, key=_in_order)}


def _in_order(found: tuple[Paper, Claim]) -> tuple[int, str]:
    return len(found[1].id), found[1].id


def _all() -> dict[str, Paper]:
    papers = map(_paper_in, members(__name__.rpartition(".")[0]))
    return {paper.name: paper for paper in papers if paper is not None}


def _paper_in(module: ModuleType) -> Paper | None:
    return getattr(module, "PAPER", None)
