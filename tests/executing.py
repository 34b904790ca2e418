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
    client.nb = notebook
    client.execute_cell(nbformat.v4.new_code_cell("%reset -f"), 0)
    for place, cell in enumerate(notebook.cells):
        client.execute_cell(cell, place)
    for cell, output in outputs(notebook):
        cell.metadata, cell.execution_count, output.metadata = {}, None, {}
        if "execution_count" in output:
            output.execution_count = None
        if "data" in output:
            kept = "image/png" if "image/png" in output.data else "text/plain"
            output.data = {kept: output.data[kept]}
    join_streams(notebook)


def outputs(notebook: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    """Yield each output with its cell."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            yield cell, output


def join_streams(notebook: NotebookNode) -> None:
    """Join what a cell printed in pieces, which are as many as the kernel happened to send."""
    for cell in notebook.cells:
        joined: list[NotebookNode] = []
        for output in cell.get("outputs", []):
            if joined and output.output_type == joined[-1].output_type == "stream" and output.name == joined[-1].name:
                joined[-1].text += output.text
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined


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
