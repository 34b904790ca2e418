"""The ladder of levels, and when two of them are one."""

import math

import numpy as np
import pytest

from jaxfact.engine.levels import as_number, as_tolerance, is_below, ladder, place_of


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
