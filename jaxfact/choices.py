"""What users choose among by name; light enough for the command line to list it before anything is loaded."""

import enum
import importlib
import pkgutil
import warnings
from collections.abc import Mapping
from types import ModuleType


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


class Absent(enum.StrEnum):
    """What the entries are that a sparse matrix does not store: zeros, as in arithmetic, or missing, as in ratings."""

    ZERO = "zero"
    MISSING = "missing"


class Labels(enum.StrEnum):
    """What a table of text names: its columns in a first line, its rows in a first column, both, or neither."""

    NONE = "none"
    ROWS = "rows"
    COLUMNS = "columns"
    BOTH = "both"


class Sensor(enum.StrEnum):
    """What is measured: ⟨A, X⟩ with Gaussian or ±1 matrices A, aᵀXb, entries, or a transform of signed entries."""

    GAUSSIAN = "gaussian"
    RADEMACHER = "rademacher"
    RANK_ONE = "rank-one"
    ENTRIES = "entries"
    TRANSFORM = "transform"


class DataSet(enum.StrEnum):
    """Real matrices that are there by name: one out of this library's own dependencies, the others out of packages."""

    ELEVATION = "elevation"
    MOVIELENS = "movielens"
    PM10 = "pm10"
    INDIAN_PINES = "indian_pines"
    FACES = "faces"
    DIGITS = "digits"
    CAMERA = "camera"


class Format(enum.StrEnum):
    """A table with one row per run, as text or in columns, or the whole dataset."""

    CSV = "csv"
    PARQUET = "parquet"
    NETCDF = "netcdf"


class Venue(enum.StrEnum):
    """What a figure is for: the column of a paper for NeurIPS, ICML or SIAM, or slides."""

    NEURIPS = "neurips"
    ICML = "icml"
    SIAM = "siam"
    SLIDES = "slides"


class Kind(enum.StrEnum):
    """What a figure of a store shows: times, a record, singular values, runs over axes, or the edge of stability."""

    SURVIVAL = "survival"
    BANDS = "bands"
    IMBALANCE = "imbalance"
    SINGULAR_VALUES = "singular-values"
    PHASE = "phase"
    BIFURCATION = "bifurcation"
    SCATTER = "scatter"
    LAW = "law"
    EDGE = "edge"


def members(package: str) -> list[ModuleType]:
    """Return the modules of a folder in which what is there is found; one that fails is left out, which is said."""
    folder, found = importlib.import_module(package), []
    for name in sorted(one.name for one in pkgutil.iter_modules(folder.__path__, f"{package}.")):
        try:
            found.append(importlib.import_module(name))
        except Exception as error:  # whatever it does, the others are there
            said = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"the file of {name} is left out, which fails ({said})", stacklevel=2)
    return found


def listed(namespace: Mapping[str, object], *modules: str) -> list[str]:
    """Return the names that tab completion shows of a public namespace: not what it imports for its own use.

    A folder shows all that it re-exports, a file what it defines; of modules only those that are named here.
    """
    is_folder, home = "__path__" in namespace, namespace["__name__"]

    def is_shown(value: object) -> bool:
        return not isinstance(value, ModuleType) if is_folder else getattr(value, "__module__", None) == home

    names = {name for name, value in namespace.items() if not name.startswith("_") and is_shown(value)}
    return sorted((names - {"listed"}) | set(modules))
