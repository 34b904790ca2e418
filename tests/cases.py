"""The table of named cases: problems, methods, starts, measures. `test_cases.py` says what each must satisfy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

import jaxfact as jf


def frame(size: int, width: int, seed: int) -> np.ndarray:
    """Return orthonormal columns."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, width)))[0]


def pair(shape: tuple[int, int], width: int, seed: int = 1, scale: float = 0.5) -> jf.Factors:
    """Return generic factors, as NumPy arrays in float64; the numbers are not those of any `frame`."""
    rng = np.random.default_rng([seed, 1])
    return jf.Factors(*(scale * rng.normal(size=(size, width)) for size in shape))


KEY = jax.random.key(4)


def as_jax(tree, dtype=float):
    return jax.tree.map(lambda x: jax.numpy.asarray(x, dtype), tree)


class ProblemCase(NamedTuple):
    """A target as the user gives it, the same target as a plain matrix, and the width it is factorised at."""

    target: np.ndarray
    width: int
    shape: tuple[int, int] | None = None
    left: np.ndarray | None = None
    right: np.ndarray | None = None

    def build(self, dtype=float) -> jf.Factorization:
        bases = [None if basis is None else basis.astype(dtype) for basis in (self.left, self.right)]
        return jf.Factorization(self.target.astype(dtype), shape=self.shape, left=bases[0], right=bases[1])

    @property
    def matrix(self) -> np.ndarray:
        """The target in the user's unit."""
        if self.shape is None:
            return self.target
        if self.left is None or self.right is None:
            matrix = np.zeros(self.shape)
            np.fill_diagonal(matrix[: len(self.target), : len(self.target)], self.target)
            return matrix
        return self.left @ np.diag(self.target) @ self.right.T

    @property
    def scaled_matrix(self) -> np.ndarray:
        """The target divided by its largest singular value, by dense linear algebra alone."""
        return self.matrix / (np.linalg.norm(self.matrix, 2) or 1.0)


def _with_bases(values: np.ndarray, m: int, n: int, width: int) -> ProblemCase:
    return ProblemCase(values, width, (m, n), frame(m, len(values), 11), frame(n, len(values), 12))


PROBLEMS: dict[str, ProblemCase] = {
    "dense, tall": ProblemCase(np.random.default_rng(0).normal(size=(7, 5)), width=3),
    "dense, wide": ProblemCase(3 * np.random.default_rng(1).normal(size=(4, 6)), width=4),
    "rank-deficient": ProblemCase(frame(8, 2, 2) @ np.diag([2.0, 1.4]) @ frame(6, 2, 3).T, width=2),
    "singular values": ProblemCase(np.array([1.0, 0.7, 0.4]), width=3, shape=(6, 5)),
    "singular values and bases": _with_bases(np.array([5.0, 3.0, 2.0, 1.0]), 6, 7, width=2),
    "badly conditioned": _with_bases(np.geomspace(3.0, 0.03, 3), 6, 5, width=3),
    "width above rank": ProblemCase(frame(6, 2, 4) @ np.diag([1.0, 0.5]) @ frame(5, 2, 5).T, width=4),
    "width above both sides": ProblemCase(np.random.default_rng(2).normal(size=(4, 3)), width=6),
    "repeated singular values": ProblemCase(np.eye(4), width=2),
    "scalar": ProblemCase(np.array([[-2.0]]), width=1),
    "zero": ProblemCase(np.zeros((4, 3)), width=2),
}

TRUTH = _with_bases(np.array([1.0, 0.5]), 6, 6, width=2)._replace(right=frame(6, 2, 11))
"""A symmetric positive semidefinite matrix, which every kind of problem can look for."""

# From the matrix that is looked for to a problem. Each public problem is built in at least one row.
KINDS: dict[str, Callable[[jf.Factorization], jf.Problem]] = {
    "every entry": lambda truth: truth,
    "sensing": lambda truth: jf.Sensing.of(truth, jf.operators.gaussian(KEY, truth.rows, 30, dtype=truth.unit.dtype)),
    "completion by a mask": lambda truth: jf.Completion.of(truth, 0.8, KEY, dense=True),
    "completion by entries": lambda truth: jf.Completion.of(truth, 0.8, KEY, dense=False),
    "one factor": lambda truth: jf.Tied(truth),
    "one factor, sensing": lambda truth: jf.Tied(KINDS["sensing"](truth)),
}

# From a step size to a method. Each public function of jaxfact.methods is called by name in at least one row.
METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "gradient descent": lambda step: jf.methods.gradient_descent(step),
    "scheduled": lambda step: jf.methods.gradient_descent(lambda count: step / (1 + count) ** 0.5),
    "balanced": lambda step: jf.methods.balanced(step, 1 / 8),
    "perturbed": lambda step: jf.methods.perturbed(step, 1e-5),
    "perturbed on sphere": lambda step: jf.methods.perturbed_on_sphere(step, 1e-3),
    "perturbed in ball": lambda step: jf.methods.perturbed_in_ball(step, radius=1e-3, threshold=2.0, interval=2),
    "by the descent lemma": lambda step: jf.methods.curvature_descent(10 * step),
    "scaled": lambda step: jf.methods.scaled_gd(step),
    "scaled, damped": lambda step: jf.methods.scaled_gd(step, 0.1),
    "scaled by start": lambda step: jf.methods.scaled_by_start(step),
    "start in a chain": lambda step: optax.chain(jf.methods.scale_by_start(), optax.sgd(step)),
    "alternating": lambda step: jf.methods.alternating(step),
    "balancing in a chain": lambda step: optax.chain(jf.methods.add_balancing(1 / 16), optax.sgd(step)),
    "noise in a chain": lambda step: optax.chain(optax.sgd(step), jf.methods.add_noise(1e-5)),
    "Gram in a chain": lambda step: optax.chain(jf.methods.scale_by_gram(0.1), optax.sgd(step)),
    "momentum": lambda step: optax.sgd(step, momentum=0.9),
    "Nesterov": lambda step: optax.sgd(step, momentum=0.9, nesterov=True),
    "Adam": lambda step: optax.adam(step),
    "optax schedule": lambda step: optax.sgd(optax.piecewise_constant_schedule(step, {5: 0.5})),
}

# Methods that only a factorisation has.
OF_THE_TRUTH: dict[str, Callable[..., optax.GradientTransformation]] = {
    "fresh batches": lambda step: optax.chain(jf.methods.fresh_batch(1000), optax.sgd(step)),
}

# From a problem and a width to a start.
STARTS: dict[str, Callable[[jf.Problem, int], jf.starts.Start | jf.Factors]] = {
    "Gaussian": lambda problem, width: jf.starts.Gaussian(width, scale=0.3),
    "Gaussian by norm": lambda problem, width: jf.starts.Gaussian(width, norm=1.0),
    "Gaussian, unbalanced": lambda problem, width: jf.starts.Gaussian(width, scale=0.3, ratio=4.0),
    "Gaussian of a spectral norm": lambda problem, width: jf.starts.NormedGaussian(width, 0.3),
    "on a sphere": lambda problem, width: jf.starts.Sphere(width, 1.0),
    "orthogonal": lambda problem, width: jf.starts.Orthogonal(width, 0.5),
    "balanced": lambda problem, width: jf.starts.Balanced(width, 0.3),
    "spectral": lambda problem, width: jf.starts.Spectral(width, 0.9),
    "projected gradient": lambda problem, width: jf.starts.ProjectedGradient(width, 3),
    "column space": lambda problem, width: jf.starts.ColumnSpace(width, left=2.0, right=0.5),
    "Ward & Kolda": lambda problem, width: jf.starts.ward_kolda(width, 9 / 16),
    "explicit factors": lambda problem, width: as_jax(pair(problem.shape, width), problem.unit.dtype),
}


class MeasureCase(NamedTuple):
    """A measure, the kind of problem that has it, and the width of the factors."""

    measure: Callable[[], jf.measures.Measure]
    kind: str = "every entry"
    width: int = 2


# Each public measure is named in at least one row; those of parameters are called.
MEASURES: dict[str, MeasureCase] = {
    "loss": MeasureCase(lambda: jf.measures.loss),
    "distance": MeasureCase(lambda: jf.measures.distance),
    "excess": MeasureCase(lambda: jf.measures.excess),
    "energy": MeasureCase(lambda: jf.measures.energy),
    "misfit": MeasureCase(lambda: jf.measures.misfit, "sensing"),
    "imbalance": MeasureCase(lambda: jf.measures.imbalance),
    "singular values": MeasureCase(lambda: jf.measures.singular_values),
    "gradient norm": MeasureCase(lambda: jf.measures.gradient_norm, "completion by a mask"),
    "Procrustes": MeasureCase(lambda: jf.measures.procrustes_distance),
    "invertible": MeasureCase(lambda: jf.measures.invertible_distance),
    "scaled invertible": MeasureCase(lambda: jf.measures.scaled_invertible_distance),
    "held out": MeasureCase(lambda: jf.measures.HeldOut([0, 5], [1, 2], [0.5, -0.5])),
    "incoherence": MeasureCase(lambda: jf.measures.incoherence),
    "spread": MeasureCase(lambda: jf.measures.spread, width=1),
    "sharpness": MeasureCase(lambda: jf.measures.sharpness),
    "relative sharpness": MeasureCase(lambda: jf.measures.relative_sharpness),
    "stability": MeasureCase(lambda: jf.measures.stability(0.3)),
    "curvatures": MeasureCase(lambda: jf.measures.curvatures(2, steps=8)),
    "saddle": MeasureCase(lambda: jf.measures.saddle),
    "signal": MeasureCase(lambda: jf.measures.signal),
    "signal of one factor": MeasureCase(lambda: jf.measures.signal, "one factor"),
    "largest row": MeasureCase(lambda: jf.measures.largest_row),
    "rows": MeasureCase(lambda: jf.measures.rows(2), "one factor"),
    "Ye & Du": MeasureCase(lambda: jf.measures.ye_du),
}


def draw(start: jf.starts.Start | jf.Factors, key: jax.Array, problem: jf.Problem) -> jf.Factors:
    """Return the first factors of a run: explicit ones are a start too."""
    return start.draw(key, problem) if isinstance(start, jf.starts.Start) else start
