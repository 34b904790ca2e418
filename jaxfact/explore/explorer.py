"""What `jf.explore` returns: the runs of an address, the app in a notebook, and its server."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import xarray as xr

from jaxfact.explore.controls import address_of, read_address, read_methods
from jaxfact.explore.laboratory import Laboratory
from jaxfact.inputs import explained, problem_with
from jaxfact.problems.base import Problem

LOOPBACK = "127.0.0.1"


class Explorer:
    """A page of `explore`: a notebook shows it, `serve` opens it in a browser, and `run` returns what it shows."""

    def __init__(self, problem: Problem | None, address: str):
        self._laboratory = Laboratory(problem)
        self._state = read_address(address, self._laboratory.controls)

    def __repr__(self) -> str:
        """Say where its controls stand."""
        given = "" if self._laboratory.problem is None else "problem, "
        return f'jf.explore({given}"{address_of(self._state, self._laboratory.controls)}")'

    @explained
    def run(self, method: str | None = None, seeds: int | Sequence[int] | None = None) -> xr.Dataset:
        """Return the runs of one method, or of several along `variant`, as the page has them, bit for bit.

        Args:
            method: "plain", "balanced", "noisy", "momentum", "scaled", or several with commas; else the address's.
            seeds: A count, or seed numbers; by default those of the address.

        Returns:
            The dataset of `sweep` at one point, with distance, imbalance and singular values along `step`.

        Raises:
            ValueError: For a method that is not there, and seeds as in `sweep`.
        """
        state = self._state if method is None else self._state._replace(methods=read_methods(method))
        runs = self._laboratory.run(state, state.seeds if seeds is None else seeds)
        return runs if len(state.methods) > 1 or method is None else runs.sel(variant=method)

    def serve(self, *, port: int = 0, address: str = LOOPBACK, browser: bool = True) -> None:
        """Serve the page until interrupted, to this machine alone unless another address is given.

        Raises ValueError where Panel is not installed, and for a port or an address that cannot be had.
        """
        need_panel()
        from jaxfact.explore.serving import serve

        serve(self._laboratory, self._state, port, address, browser)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """Show the app in a notebook."""
        need_panel()
        import panel as pn

        from jaxfact.explore.page import Page

        pn.extension(inline=True)  # nothing comes from elsewhere
        return Page(self._laboratory, self._state).view()._repr_mimebundle_(include, exclude)


@explained
def explore(problem: Problem | str | None = None, address: str = "") -> Explorer:
    """Return an explorer: sliders whose every move runs a thousand starts of each method anew.

    In a notebook it shows itself; `jaxfact explore` serves the same page. Runs are in single precision and end at a
    distance of 1e-4. Sizes are padded to width 5 and rank 5, so that a move compiles nothing.

        jf.explore()                                # a made-up target, whose rank and sizes can be moved too
        jf.explore(jf.Factorization(matrix))
        jf.explore("step_size=1.1&methods=plain")   # the address of a page, to show it again

    Args:
        problem: A factorisation; by default the target is made up. An address may stand in its place.
        address: Where controls stand that are not where they usually are, as the page's own address has it.

    Returns:
        An `Explorer`.

    Raises:
        ValueError: For a problem of another kind, and an address with unknown names or values out of range.
    """
    if isinstance(problem, str):
        if address:
            raise problem_with("problem", repr(problem), "an address is given too", "give one address")
        problem, address = None, problem
    return Explorer(problem, address)


def need_panel() -> None:
    """Refuse to show the page where Panel is not installed."""
    if importlib.util.find_spec("panel") is None:
        needed = "the page is made with Panel, which is not installed"
        raise problem_with("explore", "page", needed, "pip install 'jaxfact[explore]'")
