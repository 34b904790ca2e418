"""Figures of labelled results, readable at a width of 8 cm, or in the column of a venue."""

from jaxfact.choices import Venue as Venue
from jaxfact.choices import listed
from jaxfact.figures.axes import fractions as fractions
from jaxfact.figures.axes import outcomes as outcomes
from jaxfact.figures.axes import times_along as times_along
from jaxfact.figures.claims import Plot as Plot
from jaxfact.figures.claims import Series as Series
from jaxfact.figures.claims import claim as claim
from jaxfact.figures.curves import curve as curve
from jaxfact.figures.curves import distance as distance
from jaxfact.figures.curves import imbalance as imbalance
from jaxfact.figures.curves import singular_values as singular_values
from jaxfact.figures.edge import edge_of_stability as edge_of_stability
from jaxfact.figures.laws import law as law
from jaxfact.figures.maps import heatmap as heatmap
from jaxfact.figures.maps import phase_diagram as phase_diagram
from jaxfact.figures.moving import animate as animate
from jaxfact.figures.points import bifurcation as bifurcation
from jaxfact.figures.points import scatter as scatter
from jaxfact.figures.publishing import publish as publish
from jaxfact.figures.recovery import recovery as recovery
from jaxfact.figures.saving import save as save
from jaxfact.figures.survival import survival as survival
from jaxfact.figures.worst import worst as worst


def __dir__() -> list[str]:
    return listed(globals())
