"""Experiments of papers by name, at sizes that run in a minute, each with what should be seen and whether it is.

`ALL` maps names to presets and `find` looks one up; `find("wind_small").run()` returns labelled runs and findings.
"""

from jaxfact.inputs import problem_with
from jaxfact.papers.base import Finding, Outcome, Preset
from jaxfact.papers.chen_2024 import CHEN_FIG1_SMALL
from jaxfact.papers.kim_chung_2023 import KIMCHUNG_SMALL
from jaxfact.papers.ma_fattahi_2024 import MAFATTAHI_FIG1
from jaxfact.papers.ma_li_chi_2021 import BEYOND_PROCRUSTES_FIG2
from jaxfact.papers.wind_2023 import WIND_SMALL

__all__ = ["ALL", "Finding", "Outcome", "Preset", "find"]

ALL: dict[str, Preset] = {
    preset.name: preset
    for preset in (WIND_SMALL, KIMCHUNG_SMALL, MAFATTAHI_FIG1, CHEN_FIG1_SMALL, BEYOND_PROCRUSTES_FIG2)
}


def find(name: str) -> Preset:
    """Return a preset by name. Raises ValueError, with the names there are, for one that is not known."""
    if name not in ALL:
        raise problem_with("preset", name, f"the presets are {', '.join(ALL)}", "choose one of these")
    return ALL[name]
