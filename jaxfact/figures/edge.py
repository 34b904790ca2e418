"""The figure of the edge of stability: how sharply the loss curves along runs, against what their step can bear."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxfact.choices import Venue
from jaxfact.figures.curves import ENDS, SEEN, bands, path_of
from jaxfact.figures.labels import STEPS, symbol_label
from jaxfact.figures.sheets import Look, count_of, drawing, provenance
from jaxfact.figures.styles import LINES, at_one_point, variants_of
from jaxfact.inputs import positive, problem_with
from jaxfact.results.success import check_runs


def edge_of_stability(
    runs: xr.Dataset,
    step_size: float | None = None,
    *,
    ax: Axes | None = None,
    size: tuple[float, float] | None = None,
    title: str | None = None,
    style: Venue | str | None = None,
) -> Figure:
    """Plot the sharpness λ_max(∇²f) against steps, median and 5-95 % band over the runs, with the line 2/η, in σ₁.

    A minimiser above the line repels gradient descent of the constant step size η (Cohen et al. 2021); the line is that
    of plain descent on the recorded loss, whatever the method. At an exact fit the sharpness is σ₁²(U) + σ₁²(V) ≥ 2σ₁.

    Args:
        runs: results of one point, or along `step_size` alone, whose values then are the variants, each with its line.
            With a record `sharpness`, or else `curvatures`, of which the largest is drawn.
        step_size: η in 1/σ₁, by default the runs' own coordinate `step_size`.
        ax, size, title, style: as in `curve`.

    Raises:
        ValueError: For runs without such a record, without a step size, and with axes left.
    """
    runs = _by_step(runs) if step_size is None else runs
    at_one_point(runs)
    if step_size is not None:
        positive("step_size", step_size, "give that of the runs, in 1/σ₁")
        runs = runs.assign_coords(step_size=float(step_size))
    runs = runs.assign(sharpness_path=_sharpness(runs))
    edges = [2 / float(part.step_size) for _, part, _, _ in variants_of(runs)]
    with drawing(Look(ax, size, title, style), 2.5) as sheet:
        gone = bands(sheet, sheet.axes, runs, "sharpness_path", edges)
        own = runs.step_size.ndim > 0  # a step size, and so a line, for each variant
        for place, ((name, part, colour, _), edge) in enumerate(zip(variants_of(runs), edges, strict=True)):
            if own or place == 0:
                shade, label = (colour, None) if own else ("0.35", r"$2/\eta$")
                sheet.axes.axhline(edge, color=shade, linewidth=0.8, linestyle=LINES[2], zorder=0, label=label)
            sheet.column((name or "runs", "edge"), np.full(part.sizes["step"], edge))
        sheet.label_x(STEPS)
        sheet.axes.set_ylabel(symbol_label(runs.sharpness_path))
        told = ", ".join(f"{edge:.4g}" for edge in dict.fromkeys(edges))
        note = f"{SEEN}{count_of(runs)}{gone}" + ";\ndotted, in the same colour: 2/η" * own
        return sheet.finish("Sharpness and 2/η", note, f"2/η is {told} in σ₁; {ENDS}; {provenance(runs)}")


def _by_step(runs: xr.Dataset) -> xr.Dataset:
    """Return runs that know their step size, the values of an axis of step sizes as variants."""
    check_runs(runs)
    if "step_size" not in runs.coords:
        raise problem_with("step_size", "none", "the runs have no such coordinate, and 2/η is drawn", "give a number")
    if "step_size" not in runs.dims or "variant" in runs.dims:
        return runs
    values = runs.step_size.values
    short = [f"η = {value:.3g}" for value in values]
    names = short if len(set(short)) == len(short) else [f"η = {value}" for value in values]
    named = runs.drop_vars("variant", errors="ignore").rename(step_size="variant")
    return named.assign_coords(step_size=("variant", values), variant=names)


def _sharpness(runs: xr.Dataset) -> xr.DataArray:
    """Return the record of the largest curvature."""
    if "sharpness_path" not in runs and "curvatures_path" in runs:
        largest = runs.curvatures_path.isel(curvatures_0=0, drop=True)
        return largest.assign_attrs(latex=r"$\lambda_{\max}(\nabla^2f) \,/\, \sigma_1$")
    return path_of(runs, "sharpness")
