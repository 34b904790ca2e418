"""All that a paper needs of a figure: vector graphics, its numbers, and its caption."""

import tempfile
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxfact.figures.saving import letters_said_once, save
from jaxfact.figures.sheets import Said, said_of
from jaxfact.inputs import problem_with, shown
from jaxfact.results.latex import latex_name, latex_text

_DRAWN = (".pdf", ".svg", ".pgf")
_WRITTEN = (*_DRAWN, ".dat", ".tex")


def publish(figure: Figure, path: str | Path, *, made_by: str = "") -> list[Path]:
    r"""Write a figure as PDF, SVG and PGF, its numbers as `.dat` and its caption as `.tex`; return the files.

    The `.dat` has a column for each curve and each end of a band, under a header, as pgfplots reads it; columns of
    unlike length are filled up with nan. The `.tex` is a \caption, which says what is seen, what intervals are, and
    with which seeds, precision and unit of steps it was run.

    Args:
        figure: of this library.
        path: of the files, without a suffix.
        made_by: the command that makes it again, for a comment in the caption.

    Raises:
        ValueError: For a figure that this library did not draw, and where one of the files exists.
    """
    path, said = Path(path), said_of(figure)
    if said is None:
        raise problem_with("figure", "one of others", "nothing is known of its numbers", "use matplotlib's savefig")
    check_new(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as made:
        stem = Path(made) / path.name
        with letters_said_once():
            for suffix in _DRAWN:
                save(figure, stem.with_name(f"{path.name}{suffix}"))
        stem.with_name(f"{path.name}.dat").write_text(data(said), encoding="utf-8")
        stem.with_name(f"{path.name}.tex").write_text(caption(said, path.name, made_by), encoding="utf-8")
        # Images of a PGF are files of their own.
        return [one.replace(path.parent / one.name) for one in sorted(Path(made).iterdir())]


def check_new(path: Path) -> None:
    """Refuse a path of which a file exists; called before anything is computed."""
    if not path.name:
        raise problem_with("out", shown(str(path)), "needs a name for the files", "end it with one, as in figures/a")
    files = [path.with_name(f"{path.name}{suffix}") for suffix in (*_WRITTEN, "-img0.png")]
    there = [one for one in files if one.exists()]
    if there:
        raise problem_with("out", there[0], "exists already", "choose another name, or remove it")


def data(said: Said) -> str:
    """Return the numbers of a figure as a table, a column per curve."""
    longest = max((len(values) for values in said.columns.values()), default=0)
    columns = [
        np.append(values.astype(float), np.full(longest - len(values), np.nan)) for values in said.columns.values()
    ]
    rows = (" ".join(f"{value:.9g}" for value in row) for row in zip(*columns, strict=True))
    return "\n".join([" ".join(said.columns), *rows]) + "\n"


def caption(said: Said, name: str, made_by: str = "") -> str:
    """Return the caption of a figure as LaTeX, with how to use it in a comment."""
    told = " ".join(latex_text(" ".join(sentence.split())) for sentence in said.sentences)
    comments = [rf"\begin{{figure}}\centering\input{{{name}.pgf}}\input{{{name}.tex}}\end{{figure}}"]
    comments += [" ".join(made_by.split())] if made_by else []
    return "".join(f"% {line}\n" for line in comments) + f"\\caption{{{told}}}\n\\label{{fig:{latex_name(name)}}}\n"
