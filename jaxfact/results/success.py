"""Which runs of a sweep succeeded, and what that says in one sentence."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from jaxfact.inputs import problem_with
from jaxfact.results import stats
from jaxfact.results.flags import PENDING
from jaxfact.results.wording import counted, listed, share_in_text, value_of

_MANY = 4  # variants that a sentence has room for


def check_runs(runs: xr.Dataset) -> None:
    """Refuse a dataset that is not of the runs of a sweep, along `seed`."""
    if "outcome" not in runs or not runs.outcome.sizes.get("seed"):
        held = ", ".join(map(str, [*runs.data_vars][:4])) or "nothing"
        needed = "is no sweep's, which has outcomes of runs along seed"
        raise problem_with("dataset", held, needed, "take what jf.sweep or jf.open_results returns, with all its seeds")


def axes_of(runs: xr.Dataset) -> list[str]:
    """Return the axes that runs differ along, beside seeds and variants."""
    return [str(dim) for dim in runs.outcome.dims if dim not in ("seed", "variant")]


def in_order(runs: xr.Dataset) -> xr.Dataset:
    """Return runs with the numbers on their axes in order; a store has them as they came. Words stay as they are."""
    return runs.sortby([axis for axis in axes_of(runs) if runs[axis].dtype.kind in "iuf"])


def finished(runs: xr.Dataset) -> xr.Dataset | None:
    """Return the runs of seeds that are done at every point and with every variant; None where there are none.

    Values and variants of which no run is done yet are left out first, and then, while no seed is left, those of which
    no seed is done everywhere else.
    """
    dims = [dim for dim in runs.outcome.dims if dim != "seed"]
    for whole in (False, True):
        for dim in dims:
            done, others = runs.outcome != PENDING, [other for other in dims if other != dim]
            keep = (done.all(others).any("seed") if whole else done.any([*others, "seed"])).values
            runs = runs.isel({dim: np.flatnonzero(keep)}) if keep.any() and not keep.all() else runs
        done = (runs.outcome != PENDING).all(dims).values
        if done.any():
            return runs if done.all() else runs.isel(seed=np.flatnonzero(done))
    return None


def is_judged(runs: xr.Dataset) -> bool:
    """Tell whether the runs were timed to levels, and to which tolerance they were run is known."""
    return "hit" in runs and "tolerance" in runs and runs.sizes["level"] > 0


def without_tolerance(runs: xr.Dataset) -> bool:
    """Tell whether runs had no tolerance, so that none of them converged."""
    return runs.attrs.get("tolerance") == "null"


def success(runs: xr.Dataset) -> tuple[xr.DataArray, str]:
    """Return which runs succeeded, and what such a run did.

    They converged; or, where variants had several tolerances, they reached the coarsest, which all can reach, and the
    lowest level where they had none.
    """
    if is_judged(runs) and len(levels := list(stats.judged_levels(runs))) > 1:
        return np.isfinite(runs.hit.sel(level=levels[0], drop=True)), f"at {levels[0]:g}"
    if not without_tolerance(runs) or not is_judged(runs):
        return runs.outcome == "converged", "converged"
    return np.isfinite(runs.hit.isel(level=-1, drop=True)), f"at {float(runs.level[-1]):g}"


def in_one_sentence(runs: xr.Dataset) -> str:
    """Return how many runs succeeded, least and most over the points of the axes, with Wilson intervals."""
    succeeded, did = success(runs)
    did = did if did == "converged" else f"came to distance {did.removeprefix('at ')}"
    if not succeeded.any():
        return f"None of {_number_of(runs)} {did}: {_ends(runs)}."
    each = list(variants_of(runs.assign(success=succeeded)))
    level = next(iter(stats.judged_levels(runs))) if is_judged(runs) else None
    said = [_said(name, part, did, level) for name, part in each[:_MANY]]
    more = f"; {counted(len(each) - _MANY, 'more variant')} in the tables" if len(each) > _MANY else ""
    text = f"{'; '.join(said)}{more}."
    return f"{text[0].upper()}{text[1:]}"


def _said(name: str, runs: xr.Dataset, did: str, level: float | None) -> str:
    of = f" of {name}" if name else ""
    seeds, axes = runs.sizes["seed"], axes_of(runs)
    number = runs.success.sum("seed")
    low, high = (number.copy(data=end) for end in stats.wilson(number, seeds))
    places = {key: number.argmax(axes) if key else number.argmin(axes) for key in (True, False)} if axes else {}

    def at(place: dict) -> str:
        ends = (float(found.isel(place)) for found in (number / seeds, low, high))
        return share_in_text(*ends)

    if not axes:
        return f"{at({})} of {counted(seeds, 'run')}{of} {did}{_half(runs, level)}"
    least, most = places[False], places[True]
    if int(number.isel(least)) == int(number.isel(most)):
        return f"{at(most)} of {counted(seeds, 'run')}{of} {did} at each of {number.size} points"
    where = [_point(number, place) for place in (least, most)]
    return f"from {at(least)} of the runs{of} at {where[0]} to {at(most)} at {where[1]} {did}, of {seeds} at each point"


def _half(runs: xr.Dataset, level: float | None) -> str:
    """Say by when half of the runs at one point had arrived at a level, where so many have."""
    if level is None:
        return ""
    middle = float(stats.time_to(runs, level).quantile([0.5])[0])
    return f", half of all at {level:g} by step {middle:.0f}" if np.isfinite(middle) else ""


def _point(number: xr.DataArray, place: dict) -> str:
    return listed([f"{name} {value_of(number[name].values[int(at)])}" for name, at in place.items()])


def _ends(runs: xr.Dataset) -> str:
    """Say how runs ended instead, the most frequent outcome first."""
    names, counts = np.unique(runs.outcome.values, return_counts=True)
    if names.tolist() == ["diverged"]:
        return f"all of them diverged, half by step {np.quantile(runs.steps, 0.5, method='inverted_cdf'):.0f}"
    ranked = sorted(zip(names.tolist(), counts.tolist(), strict=True), key=lambda one: -one[1])
    return listed([f"{count} ended as {name}" for name, count in ranked])


def _number_of(runs: xr.Dataset) -> str:
    return counted(runs.outcome.size, "run")


def variants_of(runs: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield every variant by its name; runs without variants have the name ""."""
    if "variant" not in runs.dims:
        yield "", runs
        return
    for name in runs.variant.values.tolist():
        yield str(name), runs.sel({"variant": name})
