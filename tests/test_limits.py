"""What is data of a compiled program: other numbers compile nothing, and other shapes do."""

from collections.abc import Callable

import numpy as np
import pytest

import jaxfact as jf
from jaxfact.engine import program
from jaxfact.engine.outcomes import NEVER, Plan
from jaxfact.engine.tiles import room

SPECTRUM = np.array([1, 0.7, 0.4])


def narrow(spectrum=SPECTRUM, scale=0.1, width=2) -> Callable:
    """Return an experiment that closes over an array, a number and a width."""
    problem = jf.Factorization(np.asarray(spectrum), shape=(6, 5))
    return lambda step_size: jf.Run(
        problem, jf.starts.Gaussian(width, scale=scale), jf.methods.gradient_descent(step_size)
    )


def swept(experiment=None, **options):
    usual = {"seeds": 5, "max_steps": 200, "tolerance": 1e-3, "every": 50, "step_size": [0.3, 0.5]}
    return jf.sweep(experiment or narrow(), **(usual | options))


def compilations() -> int:
    """Return how many programs of the engine this process has compiled."""
    return program._compiled.cache_info().misses


@pytest.fixture(scope="module")
def runs():
    return swept()


DATA = {
    "other seeds": {"seeds": [7, 3]},
    "more seeds": {"seeds": 300},
    "max_steps": {"max_steps": 300},
    "tolerance": {"tolerance": 1e-6},
    "levels": {"levels": [0.5, 0.05]},
    "recorded steps": {"every": [0, 10, 100]},
    "check_every": {"check_every": 5},
    "base_seed": {"base_seed": 4},
    "values of an axis": {"step_size": [0.1, 0.2, 0.7]},
    "a number closed over": {"experiment": narrow(scale=0.3)},
    "an array closed over": {"experiment": narrow(spectrum=[1, 0.9, 0.8])},
}


@pytest.mark.parametrize("changed", DATA)
def test_other_numbers_compile_nothing(runs, changed):
    """And they are not those of before: the numbers that come out differ."""
    before = compilations()
    other = swept(**DATA[changed])
    assert compilations() == before
    same = other.sizes == runs.sizes and all(np.array_equal(other[name], runs[name]) for name in ("hit", "loss_path"))
    assert not same or changed == "max_steps"


SHAPES = {
    "width": {"experiment": narrow(width=1)},
    "rank": {"experiment": narrow(spectrum=[1, 0.5])},
    "no tolerance": {"tolerance": None},
    "more than sixteen records": {"every": 10},
    "more than sixteen levels": {"levels": np.linspace(0.1, 0.9, 17)},
    "record": {"record": "energy"},
}


@pytest.mark.parametrize("changed", SHAPES)
def test_other_shapes_are_compiled(runs, changed):
    before = compilations()
    swept(**SHAPES[changed])
    assert compilations() == before + 1


def test_results_have_what_was_asked_for(runs):
    """Room beyond the levels and the recorded steps is cut off, and what is there is what `descend` finds."""
    assert runs.level.values.tolist() == [0.1, 0.01, 0.001]
    assert runs.step.values.tolist() == [0, 50, 100, 150, 200]
    fine = swept(every=10, levels=np.linspace(0.01, 0.9, 40), tolerance=1e-3)
    np.testing.assert_array_equal(fine.loss_path.sel(step=runs.step), runs.loss_path)
    np.testing.assert_array_equal(fine.hit.sel(level=1e-3), runs.hit.sel(level=1e-3))
    # The first look at or below a level, read off the records at all looks; a run that has ended is NaN nowhere there.
    path = fine.distance_path.values
    for level in fine.level.values[fine.level.values > 0.5]:
        np.testing.assert_array_equal(fine.hit.sel(level=level), 10 * np.argmax(path <= level, axis=-1))


def test_limits_are_padded_with_what_is_never_met():
    limits = Plan(max_steps=100, check_every=10, tolerance=1e-3, record_steps=(0, 50)).limits(np.float32)
    assert limits.counts == (3, 2)
    assert limits.levels.dtype == limits.goal.dtype == np.float32
    assert limits.goal == np.float32(1e-3)
    assert limits.near == np.float32(10 * 1e-3)
    assert limits.levels.tolist()[3:] == [-1] * 13
    assert limits.record_steps.tolist() == [0, 50] + [NEVER] * 14
    none = Plan(max_steps=100, check_every=10, tolerance=None, record_steps=()).limits(np.float64)
    assert none.counts == (6, 0)
    assert none.record_steps.size == 0


@pytest.mark.parametrize(("count", "slots"), [(1, 16), (16, 16), (17, 32), (512, 512), (513, 1024), (20_001, 20_480)])
def test_room_for_records(count, slots):
    plan = Plan(max_steps=count, check_every=1, tolerance=None, record_steps=tuple(range(count)))
    assert len(plan.limits(np.float32).record_steps) == slots


def test_room_for_runs():
    """Small results have room for 4096 runs; of large ones, at most an eighth is spare."""
    assert room(3, 100) == room(4096, 100) == 4096
    assert room(5000, 100) == 5120
    assert room(3, 10**6) == 3
    assert all(runs <= room(runs, 10**6) <= 1.125 * runs for runs in range(1, 5000))
