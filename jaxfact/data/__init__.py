"""Targets: real matrices by name, the user's own file, made-up spectra, and observed entries."""

from jaxfact.choices import Absent as Absent
from jaxfact.choices import Centring as Centring
from jaxfact.choices import Labels as Labels
from jaxfact.choices import Spectrum as Spectrum
from jaxfact.choices import listed
from jaxfact.data.centring import Centred as Centred
from jaxfact.data.centring import remove_biases as remove_biases
from jaxfact.data.centring import remove_mean as remove_mean
from jaxfact.data.entries import Listed as Listed
from jaxfact.data.observed import Observed as Observed
from jaxfact.data.observed import split as split
from jaxfact.data.reading import load as load
from jaxfact.data.reading import read as read
from jaxfact.data.reading import read_entries as read_entries
from jaxfact.data.spectra import singular_values as singular_values


def __dir__() -> list[str]:
    return listed(globals())
