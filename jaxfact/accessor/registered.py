"""What `runs.jaxfact` offers: outcomes, times and variants of a sweep, and a summary for notebooks."""

import numpy as np
import xarray as xr

from jaxfact.accessor.drawing import Drawing
from jaxfact.inputs import nearest, problem_with
from jaxfact.results import stats
from jaxfact.results.success import axes_of, check_runs, finished, in_one_sentence, variants_of
from jaxfact.results.times import Times
from jaxfact.results.wording import percent, share
from jaxfact.showing.markup import Table, card


@xr.register_dataset_accessor("jaxfact")
class Runs:
    """The runs of a sweep: `runs.jaxfact` of the dataset that `sweep` or `open_results` returned.

    Every method raises ValueError for a dataset that is of no sweep, or has lost its seeds.
    """

    def __init__(self, runs: xr.Dataset):
        # Nothing is refused here: whoever lists the attributes of any dataset makes one of these.
        self._runs = runs

    @property
    def plot(self) -> Drawing:
        """The figures of these runs."""
        return Drawing(self._checked())

    def outcomes(self) -> xr.Dataset:
        """Return the fraction of seeds with each outcome, with Wilson's interval: `stats.outcome_fractions`."""
        return stats.outcome_fractions(self._checked())

    def times(self, level: float | None = None) -> Times:
        """Return the hitting times of a distance level, or of all levels: `stats.time_to`."""
        return stats.time_to(self._checked(), level)

    def sel_variant(self, *names: str) -> xr.Dataset:
        """Return the runs of one variant, without that dimension, or of several, in the order in which they are named.

        Raises ValueError for a variant that is not there.
        """
        runs = self._checked()
        known = np.atleast_1d(runs.variant.values).tolist() if "variant" in runs.coords else []
        for name in names or ("",):
            if name not in known:
                there = f"the variants are {', '.join(known)}" if known else "the runs have no variants"
                likely = nearest(name, known)
                raise problem_with("variant", repr(name), there, f"{likely} may be meant" if likely else "name one")
        if "variant" not in runs.dims:
            return runs
        return runs.sel({"variant": names[0] if len(names) == 1 else list(names)})

    def __repr__(self) -> str:
        """Say what was found."""
        return f"runs.jaxfact: {self._said()}"

    def _repr_html_(self) -> str:
        """Say in a notebook what was found, how runs ended by variant, and what can be asked."""
        runs = finished(self._checked())
        if runs is None:
            return card("Sweep", said=self._said())
        each, axes = stats.outcome_fractions(runs), axes_of(runs)
        names = each.outcome.values.tolist()
        rows = [
            [name or "all", *(_cell(part.sel(outcome=one), axes) for one in names)] for name, part in variants_of(each)
        ]
        sizes = ", ".join(f"{runs.sizes[name]} {name}" for name in map(str, runs.outcome.dims))
        records = [str(name).removesuffix("_path") for name in runs.data_vars if str(name).endswith("_path")]
        facts = {"runs": sizes, **({"records": ", ".join(records)} if records else {})}
        note = "runs.jaxfact.outcomes(), .times(level), .sel_variant(name), .plot.survival(); jf.report(runs)"
        return card("Sweep", facts, said=self._said(), table=Table(["% of runs", *names], rows), note=note)

    def _said(self) -> str:
        checked = self._checked()
        runs = finished(checked)
        if runs is None:
            return "no seed is done yet at every point and with every variant."
        soon = "so far: " * (runs.outcome.size < checked.outcome.size)
        return soon + in_one_sentence(runs)

    def _checked(self) -> xr.Dataset:
        check_runs(self._runs)
        return self._runs


def _cell(at: xr.Dataset, axes: list[str]) -> str:
    """Return a fraction with its interval; over the points of axes the least, the median and the greatest."""
    if not axes:
        return share(float(at.fraction), float(at.low), float(at.high))
    return " – ".join(percent(float(value)) for value in at.fraction.quantile([0, 0.5, 1], axes))
