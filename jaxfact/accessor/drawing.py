"""The figures of `runs.jaxfact.plot`; matplotlib is loaded when the first is drawn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import xarray as xr

from jaxfact.results.success import check_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Drawing:
    """The figures of jaxfact.figures for the runs of a dataset; options are those of the functions there.

    All but those along an axis show one point, to be selected first: `runs.sel(scale=0.1).jaxfact.plot.survival()`.
    """

    def __init__(self, runs: xr.Dataset):
        self._runs = runs

    def survival(self, **options: Any) -> "Figure":
        """Plot the fraction of runs not yet at a distance against steps."""
        from jaxfact import figures

        return self._drawn(figures.survival, **options)

    def distance(self, **options: Any) -> "Figure":
        """Plot the distance against steps."""
        from jaxfact import figures

        return self._drawn(figures.distance, **options)

    def imbalance(self, **options: Any) -> "Figure":
        """Plot the imbalance of the factors against steps."""
        from jaxfact import figures

        return self._drawn(figures.imbalance, **options)

    def singular_values(self, target: Any, **options: Any) -> "Figure":
        """Plot the singular values of UVᵀ against steps, beside those of the target."""
        from jaxfact import figures

        return self._drawn(figures.singular_values, target, **options)

    def worst(self, **options: Any) -> "Figure":
        """Plot the distance of the worst runs one by one."""
        from jaxfact import figures

        return self._drawn(figures.worst, **options)

    def curve(self, name: str, **options: Any) -> "Figure":
        """Plot any record against steps."""
        from jaxfact import figures

        return self._drawn(figures.curve, name, **options)

    def edge_of_stability(self, step_size: float | None = None, **options: Any) -> "Figure":
        """Plot the sharpness against steps, beside 2/η."""
        from jaxfact import figures

        return self._drawn(figures.edge_of_stability, step_size, **options)

    def outcomes(self, **options: Any) -> "Figure":
        """Plot how the runs of one point ended."""
        from jaxfact import figures

        return self._drawn(figures.outcomes, **options)

    def fractions(self, axis: str, **options: Any) -> "Figure":
        """Plot the fraction of each outcome, or of one, or of a level, against an axis."""
        from jaxfact import figures

        return self._drawn(figures.fractions, axis, **options)

    def times_along(self, axis: str, **options: Any) -> "Figure":
        """Plot quantiles of the time to a distance against an axis."""
        from jaxfact import figures

        return self._drawn(figures.times_along, axis, **options)

    def _drawn(self, draw: Callable[..., "Figure"], *arguments: Any, **options: Any) -> "Figure":
        check_runs(self._runs)
        return draw(self._runs, *arguments, **options)

    def __repr__(self) -> str:
        """Name the figures."""
        return f"the figures {', '.join(name for name in vars(type(self)) if not name.startswith('_'))}"
