"""Phase diagrams."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from jaxfact.figures.axes import label_axis
from jaxfact.figures.styles import cell_edges, new_figure, styled


@styled
def phase_diagram(diagram: xr.Dataset, outcome: str = "converged") -> Figure:
    """Plot how often runs had an outcome over the two axes of a phase diagram, with the threshold and its interval."""
    along, across = diagram.attrs["along"], diagram.attrs["across"]
    figure, (axes,) = new_figure(2.7)
    values = diagram[outcome].transpose(across, along).values
    columns, rows = (cell_edges(diagram[name].values) for name in (along, across))
    mesh = axes.pcolormesh(columns, rows, values, cmap="cividis", vmin=0, vmax=1)
    if outcome == "converged":
        met = (diagram.threshold.values > columns[0]) & (diagram.threshold.values < columns[-1])
        at, low, high = (diagram[name].values[met] for name in ("threshold", "threshold_low", "threshold_high"))
        reach = np.stack([at - np.maximum(low, columns[0]), np.minimum(high, columns[-1]) - at])
        axes.errorbar(at, diagram[across].values[met], xerr=reach, fmt=".", color="#D55E00", markersize=4)
    label_axis(axes, "x", diagram[along])
    label_axis(axes, "y", diagram[across])
    axes.set(xlim=(columns[0], columns[-1]), ylim=(rows[0], rows[-1]))
    figure.colorbar(mesh, ax=axes, label=f"fraction {outcome}")
    axes.set_title(f"{diagram.attrs['seeds']} runs per cell\ndot and bar: threshold and its 95 % interval")
    return figure
