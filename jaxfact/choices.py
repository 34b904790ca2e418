"""The shapes of made-up spectra; light enough for the command line to list them."""

import enum


class Spectrum(enum.StrEnum):
    """How singular values fall from 1 to 1/condition: evenly, evenly in the logarithm, or by the last alone."""

    LINEAR = "linear"
    GEOMETRIC = "geometric"
    STEP = "step"
