"""Which way the steps of many runs are taken: in registers where that can be, else by XLA's own kernels."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxfact.engine import native, outcomes
from jaxfact.engine.assembly import Blocks
from jaxfact.engine.devices import working_devices
from jaxfact.engine.outcomes import Lane, Limits, Rules
from jaxfact.engine.reading import Own, Reading
from jaxfact.engine.scalars import Unscalarisable

Steps = Callable[[list[Array], Own, Int[Array, " lane"], Int[Array, ""]], Own]
"""Advances what all lanes own, at their steps, by a number of steps; given the shared arrays first."""

AT_ONCE = 500
"""Operations of a step, a look and a step round an orbit that are worth one kernel of a GPU. Compiling grows with their
square: at 400 it takes a second longer than steps alone, at 670 nine, at 1400 sixteen, which only sweeps of some 10¹¹
run-steps would win back."""
IN_TURN = 4_000
"""Operations of a step and a look that are worth two kernels which take turns: a plain run at d = 5 has 3445."""
_OLDEST = 8.0  # the compute capability below which Triton makes no kernels
_CPU_ENTRIES = 1600
# A GPU's multiprocessor holds four times as many numbers in registers.
_MULTIPROCESSOR_ENTRIES, _MULTIPROCESSORS = 2**14, 132
# What is done between two calls of native lanes takes about a tenth of a millisecond, whatever their number.
_NATIVE_ENTRIES, _MOST_NATIVE = 2**17, 256


class Way(NamedTuple):
    """How runs advance, what is said of it beside the results, and how many of them advance together.

    That is chosen from shapes only, because the last bits may depend on it. With neither steps nor blocks, XLA's
    kernels advance them.
    """

    said: str
    lanes: int
    steps: Steps | None = None
    blocks: native.Lanes | None = None

    @property
    def is_kernel(self) -> bool:
        """Whether something else than XLA advances runs."""
        return self.steps is not None or self.blocks is not None

    @property
    def least(self) -> int:
        """How many runs are worth a tile: as many as advance in one vector of a CPU, or as there are lanes."""
        return self.blocks.runs if isinstance(self.blocks, Blocks) else self.lanes


def way_of(reading: Reading, rules: Rules, lane: Lane, limits: Limits) -> Way:
    """Return the way in which runs of such lanes advance, and why it is no other."""
    if rules.checked:
        return way_by_xla("every step is checked", reading, lane.own)
    try:
        if working_devices(1)[0].platform == "cpu" and not is_interpreted():
            return _in_vectors(reading, rules, lane, limits)
        return _in_registers(reading, rules, lane, limits)
    except Unscalarisable as reason:
        return way_by_xla(str(reason), reading, lane.own)


def way_by_xla(reason: str, reading: Reading, own: Own) -> Way:
    """Return XLA's way, and why it is taken.

    On a CPU it has the largest block at which no kernel of a step is split over threads, which would cost more than it
    gains: about 1600 numbers in the largest array, from 16 to 128 lanes, unless the problem knows better.
    """
    said = f"by XLA's kernels: {reason}"
    if working_devices(1)[0].platform != "cpu":
        return Way(said, _on_this_device(reading, own))
    if reading.findings.lanes is not None:
        return Way(said, reading.findings.lanes)
    return Way(said, int(np.clip(_CPU_ENTRIES // max(_sizes(own)) // 16 * 16, 16, 128)))


def lanes_on_multiprocessors(numbers: int, multiprocessors: int) -> int:
    """Return how many lanes fill a GPU: 2¹⁴ numbers per multiprocessor, from 128 to 131,072 lanes.

    `numbers` are those of a run: its factors and its method's state, or the largest array of a step if that is larger.
    With fewer lanes a step costs its launches; with more, what a step reads and writes leaves the cache.
    """
    lanes = _MULTIPROCESSOR_ENTRIES * multiprocessors // numbers
    return int(np.clip(lanes // 128 * 128, 128, 2**17))


def is_interpreted() -> bool:
    """Tell whether a GPU's kernels are interpreted, on whatever backend: only tests replace this."""
    return False


def _in_vectors(reading: Reading, rules: Rules, lane: Lane, limits: Limits) -> Way:
    """Return lanes in vectors of a CPU, as many as make what lies between two calls small beside them."""
    lanes = int(np.clip(_NATIVE_ENTRIES // sum(_sizes(lane.own)) // 16 * 16, 16, _MOST_NATIVE))
    blocks = Blocks(_of_one_lane(reading, rules), _shapes(reading, lane, limits), lanes)
    records = f", records by XLA's kernels: {blocks.unrecorded}" if blocks.unrecorded else ""
    return Way(f"in vectors of {blocks.runs} runs{records}", lanes, blocks=blocks)


def _of_one_lane(reading: Reading, rules: Rules) -> native.Functions:
    """Return what lanes do as functions of one lane, whose arrays have no axis of lanes."""

    def lone(function: Callable) -> Callable:
        def called(*arguments):
            return jax.tree.map(lambda x: x[..., 0], function(*jax.tree.map(lambda x: x[..., None], arguments)))

        return called

    def look(shared: list[Array], uniform: tuple[Array, Limits], fresh: Array, lane: Lane):
        (stride, limits), glance = uniform, reading.glance(shared, lane.own)
        return lone(lambda lanes, seen: outcomes.seen(rules, limits, stride, lanes, seen, fresh))(lane, glance)

    def circle(lanes: Lane, own: Own):
        return outcomes.circle(lanes, own), lanes.outcome == outcomes.RETURNED

    def flags(lanes: Lane) -> native.Flags:
        ended, returned = lanes.outcome >= 0, lanes.outcome == outcomes.RETURNED
        midway = returned & (lanes.circled > 0)
        return native.Flags(
            busy=(lanes.run >= 0) & ~ended,
            ended=ended,
            frozen=ended & ~midway,
            returned=returned,
            midway=midway,
            fresh=outcomes.is_fresh(lanes),
            due=outcomes.is_due(lanes),
        )

    def record(shared: list[Array], own: Own):
        return jax.tree.leaves(reading.record(shared, own))

    def following(uniform: tuple[Array, Limits], lane: Lane):
        return lane.slot + 1, outcomes.following(uniform[1], lane.due)

    return native.Functions(reading.advance, look, lone(circle), lone(flags), record, following)


def _in_registers(reading: Reading, rules: Rules, lane: Lane, limits: Limits) -> Way:
    """Return lanes in registers of a GPU: whole runs, or where looks are no kernel, their steps."""
    device, interpret = working_devices(1)[0], is_interpreted()
    if not interpret and not (device.platform == "gpu" and "cuda" in device.client.platform_version.lower()):
        raise Unscalarisable(f"the backend is {device.platform}, not CUDA")
    if not interpret and float(device.compute_capability) < _OLDEST:
        raise Unscalarisable(f"the GPU has compute capability {device.compute_capability}, below {_OLDEST}")
    try:  # Half a second that a machine without a GPU need not spend.
        from jaxfact.engine import pallas
    except ImportError:  # JAX is about to drop the part of Pallas that speaks to Triton
        raise Unscalarisable("this JAX makes no kernels by Triton") from None

    kernel = pallas.kernel_of(reading.advance, reading.shared, lane.own)
    enough = max(_on_this_device(reading, lane.own), pallas.BLOCKS * pallas.BLOCK * _multiprocessors())
    lanes = pallas.BLOCK if interpret else enough
    said = f"in registers, {pallas.BLOCK} runs to a block"
    with suppress(Unscalarisable):
        return Way(said, lanes, blocks=kernel_of_looks(reading, rules, lane, limits, AT_ONCE, interpret=interpret))
    try:
        blocks = kernels_in_turn(reading, rules, lane, limits, IN_TURN, interpret=interpret)
        return Way(f"{said}, looks in a kernel of their own", lanes, blocks=blocks)
    except Unscalarisable as reason:
        said = f"{said}, looks by XLA's kernels: {reason}"
        return Way(said, lanes, steps=partial(pallas.advanced, kernel, interpret))


def kernel_of_looks(
    reading: Reading, rules: Rules, lane: Lane, limits: Limits, most: int, *, interpret: bool
) -> native.Lanes:
    """Return whole runs in registers of a GPU, as one kernel of at most so many operations.

    Raises Unscalarisable, with the reason, where that cannot be.
    """
    from jaxfact.engine import looks  # with Pallas, which a machine without a GPU need not load

    circles = rules.stops and rules.periodic
    return looks.Looks(_of_one_lane(reading, rules), _shapes(reading, lane, limits), circles, most, interpret)


def kernels_in_turn(
    reading: Reading, rules: Rules, lane: Lane, limits: Limits, most: int, *, interpret: bool
) -> native.Lanes:
    """Return whole runs in registers of a GPU, as a kernel of steps and one of looks, of at most so many operations.

    Raises Unscalarisable, with the reason, where that cannot be.
    """
    from jaxfact.engine import turns

    return turns.Turns(_of_one_lane(reading, rules), _shapes(reading, lane, limits), most, interpret)


def _shapes(reading: Reading, lane: Lane, limits: Limits) -> native.Shapes:
    uniform = jax.ShapeDtypeStruct((), jnp.int32), limits
    return native.Shapes(reading.shared, uniform, lane, len(limits.record_steps))


def _on_this_device(reading: Reading, own: Own) -> int:
    return lanes_on_multiprocessors(max(sum(_sizes(own)), reading.findings.advance.largest), _multiprocessors())


def _multiprocessors() -> int:
    return getattr(working_devices(1)[0], "core_count", _MULTIPROCESSORS)


def _sizes(own: Own) -> list[int]:
    return [leaf.size for leaf in jax.tree.leaves((own.factors, own.state))]
