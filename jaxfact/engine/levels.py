"""The ladder of distances at which runs are timed."""

_DECADES = 16
_WITHOUT = 6
_SAME = 1e-9


def ladder(tolerance: float | None) -> tuple[float, ...]:
    """Return 1e-1, 1e-2, … and the tolerance; six decades without one."""
    if tolerance is None:
        return tuple(float(f"1e-{k}") for k in range(1, _WITHOUT + 1))
    decades = (float(f"1e-{k}") for k in range(1, _DECADES + 1))
    return (*(level for level in decades if level > tolerance * (1 + _SAME)), float(tolerance))
