"""Execute the notebooks, one after the other in one kernel; `python tests/executing.py [NAME …]` stores what they show.

Stored are text and PNG figures of 256 colours: rich tables would be most of a notebook's size, and true colours two
thirds of a figure's.
"""

import base64
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KINDS = ("text/plain", "image/png")


@contextmanager
def kernel(folder: Path) -> Iterator[NotebookClient]:
    """Start a kernel in a folder; what it has imported and compiled serves all notebooks."""
    client = NotebookClient(
        nbformat.v4.new_notebook(), timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    with client.setup_kernel():
        yield client


def execute(client: NotebookClient, notebook: NotebookNode) -> None:
    """Run a notebook's cells from nothing, and keep of their outputs what is stored."""
    forget = nbformat.v4.new_code_cell("%reset -f")
    client.nb = nbformat.v4.new_notebook(cells=[forget])
    client.execute_cell(forget, 0)
    client.nb = notebook
    for place, cell in enumerate(notebook.cells):
        client.execute_cell(cell, place)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.execution_count, cell.outputs = None, tidied(cell.outputs)


def tidied(given: list[NotebookNode]) -> list[NotebookNode]:
    """Return what is stored of a cell's outputs: what was printed, in one piece, and one form of each value."""
    kept: list[NotebookNode] = []
    for output in given:
        if output.output_type == "stream":
            if kept and kept[-1].get("name") == output.name:
                kept[-1].text += output.text
                continue
        else:
            kind = "image/png" if "image/png" in output.data else "text/plain"
            output.metadata, output.data = {}, {kind: output.data[kind]}
            if output.output_type == "execute_result":
                output.execution_count = None
            if output.data[kind] == "":  # a bar of progress that has gone
                continue
        kept.append(output)
    return kept


def outputs(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    """Yield each output with its cell."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield cell, output


def in_few_colours(png: str) -> str:
    """Return a figure, in base64, with a palette."""
    written = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(256).save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def main(names: list[str]) -> None:
    """Execute the notebooks of these names, or all, and write them with their outputs."""
    with tempfile.TemporaryDirectory() as folder, kernel(Path(folder)) as client:
        for path in NOTEBOOKS:
            if names and path.stem not in names:
                continue
            notebook = nbformat.read(path, as_version=4)
            execute(client, notebook)
            for _, output in outputs(notebook):
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = in_few_colours(output.data["image/png"])
            notebook.metadata.pop("language_info", None)
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
