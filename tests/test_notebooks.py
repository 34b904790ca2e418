"""Every notebook runs from top to bottom, and every Python block of the README too."""

import base64
import re
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from executing import NOTEBOOKS, execute, kernel, outputs

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Return a kernel in an empty folder, which the notebooks share."""
    with kernel(tmp_path_factory.mktemp("notebooks")) as client:
        yield client


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, client):
    """Its assertions hold, nothing is written to stderr, and what it shows is of the kind that is stored."""
    stored, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    execute(client, notebook)
    assert not [output.text for _, output in outputs(notebook) if output.get("name") == "stderr"]
    assert kinds(notebook) == kinds(stored), f"python tests/executing.py {path.stem}"


def kinds(notebook):
    """Return what each cell shows: text that it prints, a value, or a figure."""
    return [(cell.id, output.output_type, *output.get("data", ())) for cell, output in outputs(notebook)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_small(path):
    """Figures are PNG of at most 40 kB; all else is text."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    shown = Counter(kind for _, output in outputs(notebook) for kind in output.get("data", ()))
    assert shown["image/png"] > 0
    assert set(shown) <= {"image/png", "text/plain"}
    figures = [output.data["image/png"] for _, output in outputs(notebook) if "image/png" in output.get("data", ())]
    assert max(len(base64.b64decode(figure)) for figure in figures) < 40_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_short(path):
    """One idea takes eight to twelve cells, and prose says what a cell will show before it shows it.

    The gallery has as many as there are figures: it is a page of the documentation.
    """
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code"] * (len(cells) // 2)
    assert path.stem == "gallery" or 8 <= len(cells) <= 12


def test_readme_snippets_run():
    """The first is what a reader tries first; it ends in quantiles that are finite at every point."""
    first, prepared, completion, sizes = re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    *lines, last = first.strip().splitlines()
    names: dict = {}
    exec("\n".join(lines) + f"\nresult = {last.split('  #')[0]}", names)
    assert names["result"].sizes == {"step_size": 4, "scale": 2, "quantile": 3}
    assert (names["result"] > 0).all()
    assert names["result"].sel(quantile=0.5).min() < 2_000
    *lines, last = prepared.strip().splitlines()
    exec("\n".join(lines) + f"\nonce = {last.split('  #')[0]}", names)
    assert names["once"].outcome.sizes == {"seed": 100}
    fewer = completion.replace("seeds=20", "seeds=8")  # every run takes a thousand steps
    assert fewer != completion
    exec(fewer, names)
    assert names["diagram"].converged.sizes == {"fraction": 5, "rank": 3}
    assert names["diagram"].threshold.sel(rank=1) < names["diagram"].threshold.sel(rank=3)
    *lines, last = sizes.strip().splitlines()
    exec("\n".join(lines) + f"\nruns = {last}", names)
    assert names["runs"].outcome.sizes == {"m": 3, "rank": 3, "seed": 100}
    assert (names["runs"].outcome == "converged").all()
