"""How the pictures of the explorer look: sizes, colours, and where axes end."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfact.explore.controls import METHODS
from jaxfact.figures.styles import COLOURS

METHOD_COLOURS: Mapping[str, str] = dict(zip(METHODS, COLOURS, strict=False))
METHOD_DASHES: Mapping[str, Sequence[int]] = dict(zip(METHODS, ([], [9, 4], [2, 3], [9, 3, 2, 3], [5, 3]), strict=True))
"""Curves that lie on each other are seen by their dashes."""
OUTCOME_COLOURS: Mapping[str, str] = {
    "converged": "#A8DCC8",
    "stationary": "#F7F0A1",
    "cycle": "#A6CEE8",
    "budget": "#BBBBBB",
    "diverged": "#7F3B08",
}
"""Pale, or dark: methods have the other colours."""
GREY, CHOSEN = "#595959", "#000000"
# Frames that are aligned would all be as narrow as the one with the widest labels.
SIZES: Mapping[str, Any] = {
    "height": 270, "sizing_mode": "stretch_width", "frame_align": False, "toolbar_location": None,
}  # fmt: skip
_ROUND = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)


def largest(arrays: Sequence[np.ndarray]) -> float:
    """Return the largest finite number, 0 where there is none."""
    known = np.concatenate([np.asarray(one, float) for one in arrays])
    return float(np.max(known[np.isfinite(known)], initial=0))


def round_above(value: float) -> float:
    """Return the next number of 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 and 10, times a power of ten."""
    unit = 10 ** np.floor(np.log10(max(value, 1e-3)))
    return float(next(one * unit for one in (*_ROUND, 10) if one * unit >= value * (1 - 1e-9)))
