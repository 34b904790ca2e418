"""Regions of a grid that are held out: halves of its axes, and corners of two of them."""

from collections.abc import Mapping
from itertools import combinations, product

import numpy as np
from jaxtyping import Bool, Float

FEWEST = 3
"""How many values an axis needs for one to be held out: two are needed to tell a slope."""


def halves(name: str, values: Float[np.ndarray, " n"]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Return the lower and the upper half of an axis at points, by what they are called; none for a short axis.

    The middle value of an odd number of them is in neither, and two are always left.
    """
    places = np.unique(values)
    if len(places) < FEWEST:
        return {}
    count = min(len(places) // 2, len(places) - 2)
    low, high = places[count - 1], places[-count]
    return {f"{name} ≤ {low:g}": values <= low, f"{name} ≥ {high:g}": values >= high}


def regions(places: Mapping[str, Float[np.ndarray, " n"]]) -> dict[str, Bool[np.ndarray, " n"]]:
    """Return what is held out of points, given by their coordinates: each half of each axis, each corner of two.

    A corner is what two halves share, so an interaction of two axes is seen in one corner that the fit has not.
    """
    each = [halves(name, values) for name, values in places.items()]
    found = {text: rows for half in each for text, rows in half.items()}
    for one, two in combinations(each, 2):
        for (first, here), (second, there) in product(one.items(), two.items()):
            found[f"{first}, {second}"] = here & there
    return {text: rows for text, rows in found.items() if 0 < rows.sum() < len(rows)}
