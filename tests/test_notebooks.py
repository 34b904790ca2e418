"""Every notebook runs from top to bottom, and every Python block of the README too."""

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert "equivalent: time ratio" in str(shown)
    assert "different: time ratio" in str(shown)
    assert "image/png" in str(shown)


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
