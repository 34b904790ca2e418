"""What the options of `compare` say about the matrix: read or made up, and seen whole or through measurements."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxfact.choices import Sensor, Spectrum
from jaxfact.inputs import positive_integer, problem_with

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import PRNGKeyArray

    from jaxfact.problems.base import Problem
    from jaxfact.problems.factorization import Factorization

_RANK, _CONDITION = 5, 10.0
_TARGET, _OPERATOR = range(2)


@dataclass(frozen=True)
class Target:
    """The matrix and how it is seen, each as its option has it.

    Raises ValueError for options that contradict each other.
    """

    matrix: Path | None
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
        if self.matrix is not None and self.shape is not None:
            raise problem_with("--shape", self.shape, "a matrix is given too", "give one of the two")
        if self.shape is None and (self.rank, self.condition, self.spectrum) != (None, None, None):
            raise problem_with("--rank, --condition, --spectrum", "given", "they need --shape", "add --shape 100x80")
        if (self.sense is None) != (self.measurements is None):
            given = "--measurements alone" if self.sense is None else "--sense alone"
            instead = "give --sense gaussian --measurements 1500"
            raise problem_with("--sense, --measurements", given, "needs both", instead)

    def width(self, usual: int) -> int:
        """Return the width that suits it: the rank of what is made up."""
        if self.shape is None:
            return usual
        return _RANK if self.rank is None else self.rank

    def problem(self, base_seed: int) -> "Problem":
        """Read it or make it up; what is drawn for that derives from `base_seed`."""
        from jaxfact.problems.tied import Tied

        whole = _read(self.matrix) if self.shape is None else self._made_up(self.shape, base_seed)
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


def _read(matrix: Path | None) -> "Factorization":
    from jaxfact import data
    from jaxfact.problems.factorization import Factorization

    target = data.load("elevation") if matrix is None else data.read(matrix)
    if not target.any():
        raise problem_with("matrix", matrix, "is zero throughout", "give a matrix with a non-zero entry")
    if (target != target).any():  # NaN
        raise problem_with("matrix", matrix, "has missing entries", f"run jaxfact complete {matrix}")
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
