"""What a comparison is run with; light enough for the command line to show the defaults."""

from dataclasses import dataclass

from jaxfact.inputs import non_negative, positive, positive_integer, problem_with


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings of a comparison: step size in 1/σ₁, scale and noise in √σ₁; weight and tolerance are pure numbers.

    `scale` and `noise` are standard deviations per entry; a scale of None is 1e-3, and less for a matrix with m + n
    above 1000, where it is 0.0316/√(m+n), so that the start stays small. `compress` lets runs take place on the exactly
    compressed problem. `unbalanced` is the ratio ‖U‖_F/‖V‖_F of the start's root
    mean squares, None for equal entry scales.

    Raises ValueError for counts below 1, a scale, step or tolerance that is not above 0, a negative weight or noise.
    """

    width: int = 4
    seeds: int = 1000
    scale: float | None = None
    unbalanced: float | None = None
    step_size: float = 0.5
    weight: float = 0.125
    noise: float = 1e-5
    max_steps: int = 4000
    tolerance: float = 1e-5
    check_every: int = 5
    base_seed: int = 0
    compress: bool = True

    def __post_init__(self) -> None:
        _check(self)
        positive("tolerance", self.tolerance, "the defaults are a good beginning")


@dataclass(frozen=True)
class RecoverySettings:
    """ComparisonSettings of a recovery: step size in 1/unit, scale and noise in √unit, the unit being ‖P_Ω(Σ)/p‖₂.

    `seeds` starts are shared by all splits and methods; a scale of None is min(1e-3, 0.0316/√(m+n)). A step size of
    None is min(½, ½/relative sharpness), the sharpness taken at the spectral start. `validation` and `test` are the
    shares of the entries that are kept back. All runs go to `max_steps`.

    Raises ValueError for counts below 1, a scale or step that is not above 0, a negative weight or noise, and shares
    that leave nothing to learn from.
    """

    width: int = 4
    seeds: int = 2
    scale: float | None = None
    unbalanced: float | None = None
    step_size: float | None = None
    weight: float = 0.125
    noise: float = 1e-5
    max_steps: int = 1000
    check_every: int = 10
    base_seed: int = 0
    validation: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        _check(self)
        for name in ("validation", "test"):
            positive(name, getattr(self, name), "0.1 and 0.2 are usual")
        if self.validation + self.test >= 1:
            given = f"{self.validation:g} and {self.test:g}"
            raise problem_with("validation, test", given, "leave no training entry", "0.1 and 0.2 are usual")


def _check(settings: ComparisonSettings | RecoverySettings) -> None:
    """Refuse what no run could use."""
    positive_integer("width", settings.width, "the rank you look for; above min(m, n) is allowed")
    for name in ("seeds", "max_steps", "check_every"):
        positive_integer(name, getattr(settings, name), "give a count")
    for name in ("scale", "step_size"):
        if getattr(settings, name) is not None:
            positive(name, getattr(settings, name), "the defaults are a good beginning")
    for name in ("weight", "noise"):
        non_negative(name, getattr(settings, name), "0 leaves the method plain")
    if not 0 <= settings.base_seed < 2**32:
        raise problem_with("base_seed", settings.base_seed, "needs a whole number from 0 to 2³²−1", "0 is the default")
    if settings.unbalanced is not None:
        positive("unbalanced", settings.unbalanced, "the ratio of the factors' norms, 25 for example")
