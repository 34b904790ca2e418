"""What options say about the matrix: read or made up, and seen whole or through measurements."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jaxfact.choices import Absent, DataSet, Labels, Sensor, Spectrum
from jaxfact.inputs import positive_integer, problem_with

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from jaxtyping import PRNGKeyArray

    from jaxfact.problems.base import Problem
    from jaxfact.problems.factorization import Factorization

_RANK, _CONDITION = 5, 10.0
_TARGET, _OPERATOR = range(2)


Entries = Annotated[
    bool | None,
    typer.Option(
        "--entries/--no-entries",
        help="A text file lists entries, a line each, or is a table.  [default: its contents decide]",
        show_default=False,
    ),
]
AbsentEntries = Annotated[
    Absent | None,
    typer.Option(
        "--absent", help="Entries that a list or a sparse file does not have.  [default: missing in a list, else zero]"
    ),
]
TableLabels = Annotated[
    Labels | None, typer.Option("--labels", help="What a text table names.  [default: its contents decide]")
]
Largest = Annotated[
    int | None, typer.Option(help="Entries that a file may ask for.  [default: 268435456, two gigabytes]")
]


@dataclass(frozen=True)
class Source:
    """A matrix out of a file or of the data sets, as the argument and its options have it.

    An existing file wins over a data set of its name. Raises ValueError for what is neither, before anything is loaded,
    and for options where there is no file to read.
    """

    name: str | None
    entries: bool | None
    absent: Absent | None
    labels: Labels | None
    largest: int | None

    def __post_init__(self) -> None:
        options = (self.entries, self.absent, self.labels, self.largest)
        if not self._is_file and options != (None,) * len(options):
            given = "no file" if self.name is None else self.name
            needed = "--entries, --absent, --labels and --largest say how a file is read"
            raise problem_with("matrix", given, needed, "leave them out, or name a file")
        if self.name is None or self._is_file or self.name in tuple(DataSet):
            return
        if Path(self.name).is_dir():
            raise problem_with("matrix", self.name, "is a folder", "name a file of a matrix in it")
        if Path(self.name).suffix or len(Path(self.name).parts) > 1:
            raise problem_with("file", self.name, "does not exist or is not a file", "check the path")
        needed = "is neither a file nor a data set"
        raise problem_with("matrix", self.name, needed, f"give a file, or one of {', '.join(DataSet)}")

    @property
    def _is_file(self) -> bool:
        """Whether it is a file, or a variable of one."""
        if self.name is None:
            return False
        parts = self.name.split(":")
        files = [Path(":".join(parts[:count])) for count in range(1, len(parts) + 1)]
        return any(file.is_file() or (file.is_dir() and file.suffix) for file in files)

    def read(self) -> "xr.DataArray":
        """Read it; without a name, it is the built-in matrix."""
        from jaxfact import data

        if self.name is None:
            return data.load(DataSet.ELEVATION)
        if not self._is_file:
            return data.load(self.name)
        largest = {} if self.largest is None else {"largest": self.largest}
        return data.read(self.name, entries=self.entries, absent=self.absent, labels=self.labels, **largest)

    def say(self, matrix: "xr.DataArray", as_json: bool) -> None:
        """Print what was read in one line; of the built-in matrix the tables tell."""
        if self.name is not None:
            print(f"{self.name}: {matrix.attrs['read']}", file=sys.stderr if as_json else sys.stdout)


@dataclass(frozen=True)
class Target:
    """The matrix and how it is seen, each as its option has it.

    Raises ValueError for options that contradict each other.
    """

    source: Source
    shape: str | None
    rank: int | None
    condition: float | None
    spectrum: Spectrum | None
    sense: Sensor | None
    measurements: int | None
    tied: bool

    def __post_init__(self) -> None:
        if self.rank is not None:
            positive_integer("--rank", self.rank, "5 is the default")
        if self.source.name is not None and self.shape is not None:
            raise problem_with("--shape", self.shape, "a matrix is given too", "give one of the two")
        of_made_up = {"--rank": self.rank, "--condition": self.condition, "--spectrum": self.spectrum}
        given = {name: value for name, value in of_made_up.items() if value is not None}
        if self.shape is None and given:
            name, value = next(iter(given.items()))
            whole = "the built-in matrix" if self.source.name is None else self.source.name
            needed = f"is for a made-up target, and {whole} has its own"
            instead = f"leave it out, or add --shape 100x80{' in place of the matrix' * (self.source.name is not None)}"
            raise problem_with(name, value, needed, instead)
        if self.sense is None and self.measurements is not None:
            raise problem_with("--measurements", self.measurements, "needs --sense too", "add --sense gaussian")
        if self.sense is not None and self.measurements is None:
            raise problem_with("--sense", self.sense, "needs --measurements too", "add --measurements 1500")

    @property
    def made_up_rank(self) -> int | None:
        """The rank of what is made up; None for a matrix that is read."""
        if self.shape is None:
            return None
        return _RANK if self.rank is None else self.rank

    def problem(self, base_seed: int, as_json: bool) -> "Problem":
        """Read it or make it up; what is drawn for that derives from `base_seed`."""
        from jaxfact.problems.tied import Tied

        whole = read_problem(self.source, as_json) if self.shape is None else self._made_up(self.shape, base_seed)
        seen = whole
        if self.sense is not None and self.measurements is not None:
            seen = _sensed(whole, self.sense, self.measurements, base_seed)
        return Tied(seen) if self.tied else seen

    def _made_up(self, shape: str, base_seed: int) -> "Factorization":
        """Return a target with these singular values: diagonal, or with random singular vectors where they matter."""
        import jax

        from jaxfact.problems.drawn import random_target
        from jaxfact.problems.factorization import Factorization

        sizes = _sizes(shape)
        values = self._singular_values(min(sizes))
        if self.sense is None:
            return Factorization(values, shape=sizes)
        drawn = random_target(_key(base_seed, _TARGET), sizes, values)
        if not self.tied or sizes[0] != sizes[1]:
            return drawn
        left = jax.device_get(drawn.left)
        return Factorization(values, shape=sizes, left=left, right=left)

    def _singular_values(self, most: int) -> "np.ndarray":
        from jaxfact import data

        rank = _RANK if self.rank is None else self.rank
        condition = _CONDITION if self.condition is None else self.condition
        if rank > most:
            raise problem_with("--rank", rank, f"is above min(m, n) = {most}", "lower it")
        return data.singular_values(rank, condition, self.spectrum or Spectrum.LINEAR)  # pyright: ignore[reportReturnType]


def _sizes(shape: str) -> tuple[int, int]:
    try:
        m, n = (int(size) for size in shape.lower().split("x"))
    except ValueError:
        raise problem_with("--shape", shape, "needs two whole numbers", "write it like 100x80") from None
    if min(m, n) < 1:
        raise problem_with("--shape", shape, "needs at least one row and column", "write it like 100x80")
    return m, n


def read_problem(source: Source, as_json: bool) -> "Factorization":
    """Read a whole matrix, and say what was read."""
    from jaxfact.problems.factorization import Factorization

    target = source.read()
    if not target.any():
        raise problem_with("matrix", source.name, "is zero throughout", "give a matrix with a non-zero entry")
    if target.isnull().any():
        raise problem_with("matrix", source.name, "has missing entries", f"run jaxfact complete {source.name}")
    source.say(target, as_json)
    return Factorization(target)


def _sensed(problem: "Factorization", sense: Sensor, measurements: int, base_seed: int) -> "Problem":
    from jaxfact.problems import operators
    from jaxfact.problems.sensing import Sensing

    draw = {
        Sensor.GAUSSIAN: operators.gaussian,
        Sensor.RADEMACHER: operators.rademacher,
        Sensor.RANK_ONE: operators.rank_one,
        Sensor.ENTRIES: operators.entries,
        Sensor.TRANSFORM: operators.transform,
    }[sense]
    operator = draw(_key(base_seed, _OPERATOR), problem.rows, measurements, dtype=problem.dtype)
    return Sensing.of(problem, operator)


def _key(base_seed: int, name: int) -> "PRNGKeyArray":
    """Return the key of what is drawn once for all runs, apart from those of the runs themselves."""
    import jax

    from jaxfact.numerics.draws import key_of

    return jax.random.fold_in(key_of(base_seed), 2**32 - 1 - name)
