"""What users choose among by name; light enough for the command line to list it before anything is loaded."""

import enum


class Spectrum(enum.StrEnum):
    """How singular values fall from 1 to 1/condition: evenly, evenly in the logarithm, or only at the last."""

    LINEAR = "linear"
    GEOMETRIC = "geometric"
    STEP = "step"


class Centring(enum.StrEnum):
    """What is removed from the training entries before the descent, and added back to its predictions."""

    NONE = "none"
    MEAN = "mean"
    BIASES = "biases"


class Sensor(enum.StrEnum):
    """What is measured: ⟨A, X⟩ with Gaussian or ±1 matrices A, aᵀXb, entries, or a transform of signed entries."""

    GAUSSIAN = "gaussian"
    RADEMACHER = "rademacher"
    RANK_ONE = "rank-one"
    ENTRIES = "entries"
    TRANSFORM = "transform"


class Format(enum.StrEnum):
    """A table with one row per run, as text or in columns, or the whole dataset."""

    CSV = "csv"
    PARQUET = "parquet"
    NETCDF = "netcdf"
