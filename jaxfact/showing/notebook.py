"""Notebooks: whether this is one, and that figures show themselves there; IPython is not loaded to find out."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shell() -> Any:
    """Return the shell of the notebook whose kernel this process is; None elsewhere."""
    module = sys.modules.get("IPython")
    found = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return found if hasattr(found, "kernel") else None


def is_notebook() -> bool:
    """Tell whether this is the kernel of a notebook."""
    return shell() is not None


def show_figures(kind: "type[Figure]") -> None:
    """Have a notebook show figures as pictures, as it does once pyplot is loaded, which needs windows.

    A format that was chosen before stays.
    """
    found = shell()
    if found is None or any(kind in one.type_printers for one in found.display_formatter.formatters.values()):
        return
    from IPython.core.pylabtools import select_figure_formats  # pyright: ignore[reportMissingImports]

    select_figure_formats(found, {"png"})
