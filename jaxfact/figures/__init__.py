"""Figures of labelled results, readable at a width of 8 cm."""

from jaxfact.choices import listed
from jaxfact.figures.axes import heat_map as heat_map
from jaxfact.figures.axes import outcomes as outcomes
from jaxfact.figures.axes import outcomes_along as outcomes_along
from jaxfact.figures.axes import times_along as times_along
from jaxfact.figures.claims import Plot as Plot
from jaxfact.figures.claims import Series as Series
from jaxfact.figures.claims import claim as claim
from jaxfact.figures.curves import distance as distance
from jaxfact.figures.curves import imbalance as imbalance
from jaxfact.figures.curves import singular_values as singular_values
from jaxfact.figures.curves import survival as survival
from jaxfact.figures.curves import worst as worst
from jaxfact.figures.phase import phase_diagram as phase_diagram
from jaxfact.figures.recovery import recovery as recovery
from jaxfact.figures.styles import save as save


def __dir__() -> list[str]:
    return listed(globals())
