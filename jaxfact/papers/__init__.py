"""Papers by name: what they claim, each claim with runs at a size that takes a minute and a rule that decides.

A paper is a file of this folder that holds `PAPER`. `names()` lists them, `find("wind-2023")` returns one, and
`claims()` returns all claims by id. `jaxfact.verify` runs them.
"""

from jaxfact.choices import listed
from jaxfact.papers.base import Paper as Paper
from jaxfact.papers.base import claims as claims
from jaxfact.papers.base import find as find
from jaxfact.papers.base import names as names
from jaxfact.papers.claims import Claim as Claim
from jaxfact.papers.claims import Control as Control
from jaxfact.papers.claims import Hypothesis as Hypothesis
from jaxfact.papers.claims import Power as Power
from jaxfact.papers.claims import Preset as Preset
from jaxfact.papers.claims import Sweeps as Sweeps
from jaxfact.papers.rules import Finding as Finding
from jaxfact.papers.rules import Verdict as Verdict


def __dir__() -> list[str]:
    return listed(globals())
