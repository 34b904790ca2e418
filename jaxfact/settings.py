"""What a comparison is run with; light enough for the command line to show the defaults."""

from dataclasses import dataclass

from jaxfact.inputs import non_negative, positive, positive_integer, problem_with


@dataclass(frozen=True)
class Settings:
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

    def __post_init__(self):
        positive_integer("width", self.width, "the rank you look for; above min(m, n) is allowed")
        for name in ("seeds", "max_steps", "check_every"):
            positive_integer(name, getattr(self, name), "give a count")
        for name in ("scale", "step_size", "tolerance"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name), "the defaults are a good beginning")
        for name in ("weight", "noise"):
            non_negative(name, getattr(self, name), "0 leaves the method plain")
        if not 0 <= self.base_seed < 2**32:
            raise problem_with("base_seed", self.base_seed, "needs a whole number from 0 to 2³²−1", "0 is the default")
        if self.unbalanced is not None:
            positive("unbalanced", self.unbalanced, "the ratio of the factors' norms, 25 for example")
