"""The kinds of measurements that the command line offers; light enough for it to list them."""

import enum


class Sensor(enum.StrEnum):
    """What is measured: ⟨A, X⟩ with Gaussian or ±1 matrices A, aᵀXb, entries, or a transform of signed entries."""

    GAUSSIAN = "gaussian"
    RADEMACHER = "rademacher"
    RANK_ONE = "rank-one"
    ENTRIES = "entries"
    TRANSFORM = "transform"
