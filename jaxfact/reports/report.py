"""The one way from what a job found to what people read."""

from pathlib import Path

import xarray as xr

from jaxfact.jobs.comparison import Comparison
from jaxfact.jobs.recovery import Recovery
from jaxfact.jobs.verifying import Verification
from jaxfact.reports import claims, comparison, phase, recovery, sweep
from jaxfact.reports.pages import Report


def report(found: Comparison | Recovery | Verification | xr.Dataset | str | Path) -> Report:
    """Return tables, figures and page of what a job found, of a sweep's store, or of the dataset it returned.

    A job is `compare`, `complete`, `verify` or `phase_diagram`.

    In a notebook the report shows itself; `report(found).print()` prints its tables, `report(found).write(folder)`
    writes results, figures and one HTML page, and `report(found).figures` holds the figures by name.

    Raises ValueError for a dataset that is of no sweep, and where there is no store, or no seed in it that is done at
    every point and with every variant.
    """
    if isinstance(found, Comparison):
        return comparison.report_of(found)
    if isinstance(found, Recovery):
        return recovery.report_of(found)
    if isinstance(found, Verification):
        return claims.report_of(found)
    if isinstance(found, xr.Dataset) and phase.is_diagram(found):
        return phase.report_of(found)
    return sweep.report_of(sweep.shown(found))
