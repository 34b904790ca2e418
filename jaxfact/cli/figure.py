"""The command that draws one figure of a store for a paper or for slides."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jaxfact.choices import Kind, Venue
from jaxfact.cli.register import Store, command
from jaxfact.inputs import problem_with

if TYPE_CHECKING:
    import xarray as xr


@command(place=23)
def figure(
    store: Store,
    kind: Annotated[Kind, typer.Option(help="What it shows.")],
    venue: Annotated[
        Venue | None, typer.Option("--for", help="Whose column and font it takes.  [default: 8 cm, sans serif]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New files, without suffix.  [default: jaxfact-KIND, or the next free]")
    ] = None,
    select: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A point of an axis, or a variant; may be repeated.")
    ] = None,
    level: Annotated[float | None, typer.Option(help="The distance of times: survival, law, scatter.")] = None,
    record: Annotated[str, typer.Option(help="Which record: bands, bifurcation.")] = "distance",
    axes: Annotated[
        str | None, typer.Option(metavar="ALONG,…", help="Axis of a bifurcation; both axes of a phase diagram.")
    ] = None,
    x: Annotated[
        str, typer.Option(help="Of a scatter: a number of each run, or ln(…), 1/…, RECORD@STEP, hit@LEVEL.")
    ] = "ln(1/ye_du_A_min@0)",
    y: Annotated[str | None, typer.Option(help="As --x.  [default: the time to the level]")] = None,
    simultaneous: Annotated[
        bool, typer.Option("--simultaneous", help="Bands that hold at all steps together: survival.")
    ] = False,
    title: Annotated[
        str | None, typer.Option(help="Above the figure.  [default: what is seen, none in papers]")
    ] = None,
) -> Path:
    """Draw a figure as PDF, SVG and PGF, with its numbers (.dat) and its caption (.tex) beside it.

    Example: jaxfact figure runs/a.zarr --kind survival --for neurips --select step_size=0.1
    """
    from jaxfact.figures.publishing import check_new, publish
    from jaxfact.figures.styles import house

    stem = _free(f"jaxfact-{kind}") if out is None else out.with_suffix("") if out.suffix == ".pdf" else out
    check_new(stem)
    runs = _selected(_finished(store), select or [])
    chosen = {"level": level, "record": record, "axes": axes.split(",") if axes else [], "x": x, "y": y}
    with house():
        made = _DRAWN[kind](runs, chosen | {"simultaneous": simultaneous}, {"title": title, "style": venue})
        written = publish(made, stem, made_by=shlex.join(["jaxfact", *sys.argv[1:]]))
    print(*written, sep="\n")
    return stem.parent


def _free(usual: str) -> Path:
    """Return the first of usual, usual-2, … of which there is no file yet."""
    number = 1
    while any(Path().glob(f"{usual}{f'-{number}' * (number > 1)}.*")):
        number += 1
    return Path(f"{usual}{f'-{number}' * (number > 1)}")


def _finished(store: str) -> "xr.Dataset":
    """Return the runs of the seeds that are done at every point and with every variant."""
    import numpy as np

    from jaxfact.results.flags import PENDING
    from jaxfact.results.success import in_order
    from jaxfact.store.files import open_results

    runs = open_results(store)
    if "outcome" not in runs or "seed" not in runs.outcome.dims:
        raise problem_with("store", store, "holds no outcomes of runs along seed", "give the store of a sweep")
    waiting = (runs.outcome == PENDING).any([dim for dim in runs.outcome.dims if dim != "seed"]).values
    if waiting.all():
        needed = "has no seed yet that is done at every point and with every variant"
        raise problem_with("store", store, needed, "repeat the sweep, or wait: jaxfact status says how far it has got")
    runs = runs.isel(seed=np.flatnonzero(~waiting))
    return in_order(runs)


def _selected(runs: "xr.Dataset", select: list[str]) -> "xr.Dataset":
    """Return the runs at the points that are named, and at the only point of other axes."""
    for text in select:
        name, _, value = text.partition("=")
        known = [str(dim) for dim in runs.outcome.dims if dim != "seed"]
        if name not in known:
            raise problem_with("--select", text, f"the axes are {', '.join(known) or 'none'}", "name one of them")
        there = runs[name].values
        found = [one for one in there.tolist() if str(one) == value or _is_near(one, value)]
        if len(found) != 1:
            values = ", ".join(f"{one:.6g}" if isinstance(one, float) else str(one) for one in there.tolist())
            raise problem_with("--select", text, f"{name} is one of {values}", "choose one of them")
        runs = runs.sel({name: found[0]})
    single = [dim for dim in runs.outcome.dims if runs.sizes[dim] == 1 and dim not in ("seed", "variant")]
    return runs.isel(dict.fromkeys(single, 0))


def _is_near(one: object, value: str) -> bool:
    try:
        return isinstance(one, int | float) and abs(one - float(value)) <= 1e-6 * abs(one)
    except ValueError:
        return False


def _axes_of(runs: "xr.Dataset") -> list[str]:
    return [str(dim) for dim in runs.outcome.dims if dim not in ("seed", "variant")]


def _needs(runs: "xr.Dataset", count: int, wanted: list[str]) -> list[str]:
    """Return the axes of a figure over so many; the runs may have no others."""
    axes = wanted or _axes_of(runs)
    if wanted and not set(wanted) <= set(_axes_of(runs)):
        there = ", ".join(_axes_of(runs)) or "none"
        raise problem_with("--axes", ",".join(wanted), f"the axes with several values are {there}", "name of these")
    if len(axes) != count or sorted(axes) != sorted(_axes_of(runs)):
        has = ", ".join(f"{name} ({runs.sizes[name]} values)" for name in _axes_of(runs)) or "none"
        more = len(_axes_of(runs)) > count
        instead = "give --select NAME=VALUE for others" if more else "choose another figure"
        raise problem_with("axes", has, f"this figure has {count} of them", instead)
    return axes


def _survival(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures

    _needs(runs, 0, [])
    return figures.survival(runs, chosen["level"], simultaneous=chosen["simultaneous"], **look)


def _bands(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures

    _needs(runs, 0, [])
    return figures.curve(runs, chosen["record"], **look)


def _imbalance(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    return _bands(runs, chosen | {"record": "imbalance"}, look)


def _singular_values(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures

    _needs(runs, 0, [])
    return figures.singular_values(runs, **look)


def _edge(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures

    if not {"sharpness_path", "curvatures_path"} & set(map(str, runs)):
        known = [str(name).removesuffix("_path") for name in runs if str(name).endswith("_path")]
        needed = "the edge of stability is drawn of sharpness, or of curvatures"
        raise problem_with("records", ", ".join(known) or "none", needed, "sweep with --record sharpness --every log")
    if "step_size" not in runs.coords:
        needed = "the store has no such axis, and 2/η is drawn"
        raise problem_with("step_size", "none", needed, "sweep with --axis step_size=…")
    if "step_size" in _axes_of(runs) and "variant" not in runs.dims:
        _needs(runs, 1, ["step_size"])
    else:
        _needs(runs, 0, [])
    return figures.edge_of_stability(runs, **look)


def _phase(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures
    from jaxfact.jobs.phase import diagram_of

    along, across = _needs(runs, 2, chosen["axes"])
    if "variant" in runs.dims:
        names = ", ".join(map(str, runs.variant.values))
        raise problem_with("variants", names, "a phase diagram is of one", "give --select variant=NAME")
    return figures.phase_diagram(diagram_of(runs, along, across), **look)


def _bifurcation(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures

    (axis,) = _needs(runs, 1, chosen["axes"])
    return figures.bifurcation(runs, axis, of=chosen["record"], **look)


def _scatter(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures

    time = "hit" if chosen["level"] is None else f"hit@{chosen['level']!r}"
    return figures.scatter(runs, chosen["x"], chosen["y"] or time, **look)


def _law(runs: "xr.Dataset", chosen: dict[str, Any], look: dict[str, Any]) -> Any:
    from jaxfact import figures
    from jaxfact.results import stats

    if "variant" in runs.dims:
        names = ", ".join(map(str, runs.variant.values))
        raise problem_with("variants", names, "a law is of one", "give --select variant=NAME")
    level = next(iter(stats.judged_levels(runs))) if chosen["level"] is None else chosen["level"]
    times = stats.time_to(runs, level)
    return figures.law(stats.fit_law(times), times, runs=runs, **look)


_DRAWN = {
    Kind.SURVIVAL: _survival,
    Kind.BANDS: _bands,
    Kind.IMBALANCE: _imbalance,
    Kind.SINGULAR_VALUES: _singular_values,
    Kind.PHASE: _phase,
    Kind.BIFURCATION: _bifurcation,
    Kind.SCATTER: _scatter,
    Kind.LAW: _law,
    Kind.EDGE: _edge,
}
