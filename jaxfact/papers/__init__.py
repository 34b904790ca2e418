"""Papers by name: their experiments at sizes that run in a minute, each with what should be seen and whether it is.

A paper is a file of this folder that holds `PAPER`. `names()` lists them, `find("wind-2023")` returns one, and its
`run()` the labelled runs and findings of its presets.
"""

from jaxfact.choices import listed
from jaxfact.papers.base import Finding as Finding
from jaxfact.papers.base import Outcome as Outcome
from jaxfact.papers.base import Paper as Paper
from jaxfact.papers.base import Preset as Preset
from jaxfact.papers.base import find as find
from jaxfact.papers.base import names as names


def __dir__() -> list[str]:
    return listed(globals())
