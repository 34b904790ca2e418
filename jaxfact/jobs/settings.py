"""What the jobs are run with; light enough for the command line to show the defaults.

The text beside a type is the help of the option of that name at the command line.
"""

from dataclasses import dataclass
from typing import Annotated

from jaxfact.engine.levels import chosen_levels
from jaxfact.inputs import non_negative, positive, positive_integer, problem_with

USUAL_WIDTH = 4


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of `compare`: step size in 1/σ₁, scale and noise in √σ₁; weight and tolerance are pure numbers.

    A width of None is 4, or the rank of the matrix where that is lower.
    `scale` and `noise` are standard deviations per entry; a scale of None is 1e-3, and less for a matrix with m + n
    above 1000, where it is 0.0316/√(m+n), so that the start stays small. `unbalanced` is the ratio ‖U‖_F/‖V‖_F of the
    start's root mean squares, None for equal entry scales. `tolerance` is on the relative distance, not squared.
    `levels` are the distances to which runs are timed beside it, 0.1, 0.01, … by default. `compress` lets runs take
    place on the exactly compressed problem.

    Raises ValueError for counts below 1, a scale, step, tolerance or level that is not above 0, levels below the
    tolerance, a negative weight or noise.
    """

    width: Annotated[
        int | None,
        "Columns of the factors.  [default: 4, or the rank where that is lower; the rank of what is made up]",
    ] = None
    seeds: Annotated[int, "Number of random starts for each method."] = 1000
    scale: Annotated[
        float | None,
        "Standard deviation of the start's entries, in √σ₁.  [default: 0.001, less for m+n > 1000]",
    ] = None
    unbalanced: Annotated[float | None, "Start with ‖U‖/‖V‖ equal to this."] = None
    step_size: Annotated[float, "Step size, in 1/σ₁."] = 0.5
    weight: Annotated[float, "Weight of ‖UᵀU−VᵀV‖²_F in the balanced loss."] = 0.125
    noise: Annotated[float, "Noise per entry and step, in √σ₁."] = 1e-5
    max_steps: Annotated[int, "Budget of steps for one run."] = 4000
    tolerance: Annotated[float, "Relative distance, not squared."] = 1e-5
    levels: tuple[float, ...] = ()
    check_every: Annotated[int, "Steps between two looks at a run."] = 5
    base_seed: Annotated[int, "Number from which all random keys derive."] = 0
    compress: Annotated[bool, "Run on the exactly compressed problem."] = True

    def __post_init__(self) -> None:
        _check(self)
        positive("tolerance", self.tolerance, "the defaults are a good start")
        chosen_levels(self.levels or None, [self.tolerance])

    @property
    def columns(self) -> int:
        """The width, which is the usual one where none was given."""
        return USUAL_WIDTH if self.width is None else self.width


@dataclass(frozen=True)
class RecoverySettings:
    """Settings of `complete`: step size in 1/unit, scale and noise in √unit, the unit being ‖P_Ω(Σ)/p‖₂.

    A width of None is 4, or min(m, n) where that is lower. `seeds` starts are shared by all splits and methods; a scale
    of None is min(1e-3, 0.0316/√(m+n)). A step size of None is min(½, ½/relative sharpness), the sharpness taken at the
    spectral start. `validation` and `test` are the shares of the entries that are held out. All runs go to `max_steps`.

    Raises ValueError for counts below 1, a scale or step that is not above 0, a negative weight or noise, and shares
    that leave nothing to train on.
    """

    width: Annotated[int | None, "Columns of the factors.  [default: 4, or min(m, n) where that is lower]"] = None
    seeds: Annotated[int, "Number of random starts for each split and method."] = 2
    scale: Annotated[
        float | None,
        "Standard deviation of the start's entries, in √unit.  [default: 0.001, less for m+n > 1000]",
    ] = None
    unbalanced: Annotated[float | None, "Start with ‖U‖/‖V‖ equal to this."] = None
    step_size: Annotated[
        float | None, "Step size, in 1/unit.  [default: ½, less where the part observed makes that unsafe]"
    ] = None
    weight: Annotated[float, "Weight of ‖UᵀU−VᵀV‖²_F in the balanced loss."] = 0.125
    noise: Annotated[float, "Noise per entry and step, in √unit."] = 1e-5
    max_steps: Annotated[int, "Steps of every run."] = 1000
    check_every: Annotated[int, "Steps between two looks at a run."] = 10
    base_seed: Annotated[int, "Number from which all random keys and splits derive."] = 0
    validation: Annotated[float, "Share of the entries that choose the step."] = 0.1
    test: Annotated[float, "Share of the entries that judge the methods."] = 0.2

    def __post_init__(self) -> None:
        _check(self)
        for name in ("validation", "test"):
            positive(name, getattr(self, name), "0.1 and 0.2 are usual")
        if self.validation + self.test >= 1:
            given = f"{self.validation:g} and {self.test:g}"
            raise problem_with("validation, test", given, "leave no training entry", "0.1 and 0.2 are usual")

    @property
    def columns(self) -> int:
        """The width, which is the usual one where none was given."""
        return USUAL_WIDTH if self.width is None else self.width


def small_scale(shape: tuple[int, int]) -> float:
    """Return the entry scale of a start that is small at every size: 1e-3, and 0.0316/√(m+n) for m + n above 1000."""
    return min(1e-3, 0.1**1.5 / sum(shape) ** 0.5)


def width_line(width: int, most: str) -> list[str]:
    """Return a line where a width that nobody has given is below the usual one."""
    return [f"width {width}: {most}; the usual {USUAL_WIDTH} would be above it"] if width < USUAL_WIDTH else []


def _check(settings: ComparisonSettings | RecoverySettings) -> None:
    """Refuse what no run could use."""
    positive_integer("width", settings.columns, "the rank you expect; above min(m, n) is allowed")
    for name in ("seeds", "max_steps", "check_every"):
        positive_integer(name, getattr(settings, name), "give a count")
    for name in ("scale", "step_size"):
        if getattr(settings, name) is not None:
            positive(name, getattr(settings, name), "the defaults are a good start")
    for name in ("weight", "noise"):
        non_negative(name, getattr(settings, name), "0 leaves the method plain")
    if not 0 <= settings.base_seed < 2**32:
        raise problem_with("base_seed", settings.base_seed, "needs a whole number from 0 to 2³²−1", "0 is the default")
    if settings.unbalanced is not None:
        positive("unbalanced", settings.unbalanced, "the ratio of the factors' norms, 25 for example")
