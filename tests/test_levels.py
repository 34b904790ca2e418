"""The ladder of levels, and when two of them are one."""

import math

import numpy as np
import pytest
from runs import NARROW, descent

import jaxfact as jf
from jaxfact.engine.levels import as_number, as_tolerance, chosen_levels, is_below, ladder, place_of


@pytest.mark.parametrize(
    ("tolerance", "expected"),
    [
        (1e-3, (0.1, 0.01, 0.001)),
        (3e-3, (0.1, 0.01, 0.003)),
        (0.5, (0.5,)),
        (0.1, (0.1,)),
        (None, (0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)),
    ],
)
def test_the_ladder_ends_at_the_tolerance(tolerance, expected):
    assert ladder(tolerance) == expected


def test_a_tolerance_in_single_precision_is_no_level_of_its_own():
    """float32(1e-5) is 2.5e-8 below 1e-5, relatively: one level, and not two beside each other."""
    single = float(np.float32(1e-5))
    assert single < 1e-5
    assert ladder(single) == (0.1, 0.01, 1e-3, 1e-4, single)
    assert place_of(1e-5, np.array(ladder(single))) == 4
    assert not is_below(single, 1e-5)
    # One per cent off is another level.
    assert ladder(0.99e-5)[-2:] == (1e-5, 0.99e-5)
    assert place_of(1.01e-5, np.array([1e-5])) is None
    assert is_below(0.99e-5, 1e-5)


def test_no_tolerance_is_none_and_nan_in_arrays():
    assert math.isnan(as_number(None))
    assert as_tolerance(as_number(None)) is None
    assert as_tolerance(as_number(1e-5)) == 1e-5
    np.testing.assert_array_equal(is_below(np.array([0.1, 1e-9]), math.nan), [False, False])


def test_chosen_levels_are_those_above_the_tolerance_and_the_tolerance():
    chosen = chosen_levels([1e-3, 5e-2, 1e-3], [1e-5])
    assert chosen == (5e-2, 1e-3)
    assert ladder(1e-5, chosen) == (5e-2, 1e-3, 1e-5)
    assert ladder(1e-2, chosen) == (5e-2, 1e-2)
    assert ladder(None, chosen) == chosen
    assert chosen_levels(None, [1e-5]) == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "needs distances above 0"),
        ([0.1, 0], "needs distances above 0"),
        ([0.1, math.nan], "needs distances above 0"),
        (0.1, "needs a list of distances"),
        ("0.1", "needs a list of distances"),
        ([0.1, 1e-7], "runs end at the tolerance 1e-06; lower the tolerance"),
    ],
)
def test_levels_that_are_none(given, words):
    with pytest.raises(ValueError, match=words):
        chosen_levels(given, [1e-3, 1e-6])
    assert chosen_levels([1e-7], [None]) == (1e-7,)


def test_runs_are_timed_to_the_chosen_levels():
    """At a level of both ladders the times are the same; a variant keeps what lies above its own tolerance."""
    experiment = descent(0.1, 2, NARROW)
    settings = {"seeds": 4, "max_steps": 400, "step_size": [0.3]}
    usual = jf.sweep(experiment, tolerance=1e-4, **settings)
    chosen = jf.sweep(experiment, tolerance=1e-4, levels=[5e-2, 1e-3], **settings)
    assert chosen.level.values.tolist() == [5e-2, 1e-3, 1e-4]
    for level in (1e-3, 1e-4):
        np.testing.assert_array_equal(chosen.hit.sel(level=level), usual.hit.sel(level=level))
    assert np.all(chosen.hit.sel(level=5e-2) <= chosen.hit.sel(level=1e-3))
    np.testing.assert_array_equal(chosen.distance, usual.distance)
    variants = {"fine": experiment, "coarse": experiment}
    both = jf.sweep(variants, tolerance={"fine": 1e-4, "coarse": 1e-2}, levels=[5e-2, 1e-3], **settings)
    assert both.level.values.tolist() == [5e-2, 1e-2, 1e-3, 1e-4]
    assert np.all(np.isnan(both.hit.sel(variant="coarse", level=1e-3)))
