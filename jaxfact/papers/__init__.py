"""Experiments of papers by name, at sizes that run in a minute, each with what should be seen and whether it is.

`ALL` maps names to presets and `find` looks one up; `find("wind_small").run()` returns labelled runs and findings.
"""

from jaxfact.inputs import problem_with
from jaxfact.presets.base import Finding, Outcome, Preset
from jaxfact.presets.beyond_procrustes import BEYOND_PROCRUSTES_FIG2
from jaxfact.presets.chen import CHEN_FIG1_SMALL
from jaxfact.presets.kim_chung import KIMCHUNG_SMALL
from jaxfact.presets.ma_fattahi import MAFATTAHI_FIG1
from jaxfact.presets.wind import WIND_SMALL

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
