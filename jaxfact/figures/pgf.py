"""Figures as PGF, drawn by LaTeX in the fonts of its document, and written without LaTeX."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_pgf import RendererPgf
from matplotlib.figure import Figure
from PIL import Image

from jaxfact.results.latex import latex_text

_DPI = 300
_BEGIN = r"""%% needs \usepackage{pgf}
\begingroup%%
\makeatletter%%
\providecommand{\mathdefault}[1]{#1}%%
\begin{pgfpicture}%%
\pgfpathrectangle{\pgfpointorigin}{\pgfqpoint{%(width)fin}{%(height)fin}}%%
\pgfusepath{use as bounding box, clip}%%
"""
_END = r"""\end{pgfpicture}%
\makeatother%
\endgroup%
"""


class _Renderer(RendererPgf):
    """Matplotlib's, which asks LaTeX how large text is; this measures it in the fonts of the figure."""

    def get_text_width_height_descent(self, s: str, prop: Any, ismath: Any) -> Any:
        return RendererBase.get_text_width_height_descent(self, s, prop, ismath)

    def draw_text(self, gc: Any, x: Any, y: Any, s: str, prop: Any, angle: Any, ismath: Any = False, mtext: Any = None):
        super().draw_text(gc, x, y, latex_text(s, maths=bool(ismath)), prop, angle, ismath, mtext)

    def draw_image(self, gc: Any, x: float, y: float, im: np.ndarray, transform: Any = None) -> None:
        """Put an image beside the file, and a picture of it in its place."""
        height, width = (pixels / self.dpi for pixels in im.shape[:2])
        if not (height and width):
            return
        path = Path(self.fh.name)
        name = f"{path.stem}-img{self.image_counter}.png"
        Image.fromarray(im[::-1]).save(path.with_name(name))
        self.image_counter += 1
        place = f"left,bottom,x={x / self.dpi:f}in,y={y / self.dpi:f}in"
        image = rf"\pgfimage[interpolate=false,width={width:f}in,height={height:f}in]{{{name}}}"
        self.fh.write(rf"\pgftext[{place}]{{{image}}}%" + "\n")


def write_pgf(figure: Figure, path: Path) -> None:
    """Write a figure that is laid out; images of it go into PNG files of the same name beside it."""
    before, figure.dpi = figure.dpi, _DPI
    width, height = figure.get_size_inches()
    try:
        # The document's own fonts, by the commands that every LaTeX knows.
        with (
            mpl.rc_context({"pgf.rcfonts": False, "pgf.texsystem": "pdflatex"}),
            path.open("w", encoding="utf-8") as file,
        ):
            file.write(_BEGIN % {"width": width, "height": height})
            renderer: Any = MixedModeRenderer(figure, width, height, _DPI, _Renderer(figure, file))
            figure.draw(renderer)
            file.write(_END)
    finally:
        figure.dpi = before
