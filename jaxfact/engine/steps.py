"""Which way the steps of many runs are taken: in registers where that can be, else by XLA's own kernels."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Array, Int

from jaxfact.engine.devices import working_devices
from jaxfact.engine.reading import Own, Reading
from jaxfact.engine.scalars import Unscalarisable

Steps = Callable[[list[Array], Own, Int[Array, " lane"], Int[Array, ""]], Own]
"""Advances what all lanes own, at their steps, by a number of steps; given the shared arrays first."""

_OLDEST = 8.0  # the compute capability below which Triton makes no kernels


class Way(NamedTuple):
    """How steps are taken, None for XLA's kernels, what is said of it beside the results, and how it fills a GPU."""

    steps: Steps | None
    said: str
    lanes: int = 0
    """How many lanes a multiprocessor should have at least."""


BY_XLA = Way(None, "by XLA's kernels")


def way_of(reading: Reading, own: Own, *, checked: bool = False, lanes: int | None = None) -> Way:
    """Return the way in which the steps of runs that own such arrays are taken, and why it is no other.

    Every step may be checked; without a number of lanes, the number is still to be chosen.
    """
    device = working_devices(1)[0]
    interpret = is_interpreted()
    if not interpret and not (device.platform == "gpu" and "cuda" in device.client.platform_version.lower()):
        return _by_xla(f"the backend is {device.platform}, not CUDA")
    if not interpret and float(device.compute_capability) < _OLDEST:
        return _by_xla(f"the GPU has compute capability {device.compute_capability}, below {_OLDEST}")
    if checked:
        return _by_xla("every step is checked")
    try:  # Half a second that a machine without a GPU need not spend.
        from jaxfact.engine import pallas
    except ImportError:  # JAX is about to drop the part of Pallas that speaks to Triton
        return _by_xla("this JAX makes no kernels by Triton")

    if lanes is not None and lanes % pallas.BLOCK:
        return _by_xla(f"{lanes} lanes are no multiple of {pallas.BLOCK}")
    try:
        kernel = pallas.kernel_of(reading.advance, reading.shared, own)
    except Unscalarisable as reason:
        return _by_xla(str(reason))
    said = f"in registers, {pallas.BLOCK} runs to a block"
    return Way(partial(pallas.advanced, kernel, interpret), said, pallas.BLOCKS * pallas.BLOCK)


def is_interpreted() -> bool:
    """Tell whether kernels are interpreted, on whatever backend: only tests replace this."""
    return False


def _by_xla(reason: str) -> Way:
    return Way(None, f"{BY_XLA.said}: {reason}")
