"""One run of a store as a plain NumPy script, for a referee with nothing else installed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxfact.engine.axes import both_given
from jaxfact.engine.experiment import Experiment
from jaxfact.inputs import explained, problem_with
from jaxfact.jobs.replay import StoredRun
from jaxfact.measures.records import Records
from jaxfact.methods.base import updated
from jaxfact.numerics.draws import key_of
from jaxfact.numerics.products import in_full_precision
from jaxfact.problems.compression import Compressed
from jaxfact.problems.factorization import Factorization
from jaxfact.problems.factors import Factors
from jaxfact.results.whole import whole_file

_SCALES = (1.0, 1e-6, 1e6)  # a method that clips or waits differs at one of them
_EXACT = 1e-10

_SCRIPT = '''"""One run of {title}.

{rule}.
The start and Σ, in the unit σ₁, are in the .npz beside this file{form}.
The run was computed in {dtype} and this is float64, so they differ by the run's rounding.
"""

from pathlib import Path

import numpy as np

run = np.load(Path(__file__).with_suffix(".npz"))
U, V, target = (run[name].astype(np.float64) for name in ("U", "V", "target"))
left, values, right = np.linalg.svd(target, full_matrices=False)
best = (left[:, :{width}] * values[:{width}]) @ right[:{width}]  # the best approximation of this width

distance, loss = [], []
for step in range({steps} + 1):
    residual = U @ V.T - target
    loss.append(np.sum(residual**2) / 2)
    distance.append(np.linalg.norm(U @ V.T - best) / (np.linalg.norm(best) or 1))
{update}

print("   level    step  distance here  in the store")
for level, step, stored in zip(run["level"], run["step"], run["distance"]):
    print(f"{{level:8.0e}}{{step:8d}}{{distance[step]:15.8e}}{{stored:15.8e}}")
print(f"last loss{{len(loss) - 1:7d}}{{loss[-1]:15.8e}}{{run['loss']:15.8e}}")
'''
_PLAIN = """\
    U, V = U - {step_size} * residual @ V, V - {step_size} * residual.T @ U"""
_BALANCED = """\
    pull = 4 * {weight} * (U.T @ U - V.T @ V)
    U, V = U - {step_size} * (residual @ V + U @ pull), V - {step_size} * (residual.T @ U - V @ pull)"""


class Descent(NamedTuple):
    """Gradient descent on ½‖UVᵀ − Σ‖²_F + weight·‖UᵀU − VᵀV‖²_F; the step size is in 1/σ₁."""

    step_size: float
    weight: float

    def __str__(self) -> str:
        balance = f" + {self.weight:g}·‖UᵀU − VᵀV‖²_F" if self.weight else ""
        return f"Gradient descent of step size {self.step_size:g} on ½‖UVᵀ − Σ‖²_F{balance}"


@explained
@in_full_precision
def numpy_script(
    store: str | Path,
    path: str | Path,
    *,
    seed: int,
    variant: str | None = None,
    experiment: Experiment | Mapping[str, Experiment] | None = None,
    record: Records | None = None,
    trust: bool = False,
    axes: Mapping[str, float] | None = None,
    **more_axes: float,
) -> Path:
    """Write one run of a store as a NumPy script, and its start and target as .npz beside it; return the script's path.

    The script repeats the run and prints, beside what the stored run had, the distance at the step of every hit and the
    last loss. Other arguments and errors are those of `replay`, which is done first. A method is written as gradient
    descent with or without balancing where random gradients and factors show that it is just that.

    Raises ValueError for any other method, for a problem that is not a `Factorization`, and for files that exist.
    """
    path = Path(path).with_suffix(".py")
    files = path, path.with_suffix(".npz")
    for file in files:
        if file.exists():
            raise problem_with("path", file, "exists already", "choose another path, or remove it")
    point = both_given(axes, more_axes)
    again = StoredRun(store, seed, variant, experiment, record, point, trust=trust)
    problem, transformation = again.ingredients
    if not isinstance(problem, Factorization):
        raise problem_with("problem", type(problem).__name__, "only a Factorization becomes a script", "use replay")
    rule = descent_of(transformation, problem, again.width)
    if not problem.is_truncation_unique(again.width):
        needed = "its best approximation of this width is not unique"
        raise problem_with("problem", "a target with equal singular values", needed, "use replay")
    replayed = again.replay()
    hits = replayed.run.hit[np.isfinite(replayed.run.hit)]
    steps = hits.values.astype(int)
    named = [*([] if variant is None else [variant]), f"seed {seed}", *(f"{name}={x}" for name, x in point.items())]
    text = _SCRIPT.format(
        title=json.dumps(f"{Path(again.name).name}: {', '.join(named)}")[1:-1],  # a folder may have any name
        rule=rule,
        form=", compressed" if isinstance(problem, Compressed) else "",
        dtype=problem.dtype,
        width=again.width if problem.used is None else int(np.asarray(problem.used)),
        steps=replayed.steps[-1],
        update=(_BALANCED if rule.weight else _PLAIN).format(**rule._asdict()),
    )
    U, V = (factor[0] for factor in replayed.factors)
    with whole_file(files[0]) as script, whole_file(files[1]) as numbers:
        script.write_text(text, encoding="utf-8")
        with numbers.open("wb") as file:
            np.savez(
                file, U=U, V=V, target=_target(problem), level=hits.level.values, step=steps,
                distance=replayed.distance[steps], loss=replayed.loss[-1],
            )  # fmt: skip
    return path


def descent_of(method: optax.GradientTransformation, problem: Factorization, width: int) -> Descent:
    """Return step size and weight of a method whose update is −η(∇ + 4·weight·(UD, −VD)), D = UᵀU − VᵀV; refuse others.

    Solved for at random gradients and factors, in float64, and checked at others, smaller and larger.
    """
    rng, found = np.random.default_rng(0), None
    for scale in _SCALES:
        gradient, factors = (Factors(*(rng.normal(size=(k, width)) for k in problem.rows)) for _ in range(2))  # pyright: ignore[reportArgumentType]
        gradient = Factors(scale * gradient.U, scale * gradient.V)
        update = _update(method, problem, gradient, factors)
        D = factors.imbalance
        terms = np.stack([_flat(gradient), 4 * _flat(Factors(factors.U @ D, -factors.V @ D))], axis=1)
        if found is None:
            step_size, pull = np.linalg.lstsq(terms, -update)[0]
            found = Descent(_rounded(float(step_size)), _rounded(float(pull / step_size)))
        wanted = -found.step_size * (terms @ np.asarray([1, found.weight]))
        if not np.max(np.abs(update - wanted)) <= _EXACT * np.max(np.abs(wanted)):
            raise _refused("takes another step")
    return found  # pyright: ignore[reportReturnType]


def _update(
    method: optax.GradientTransformation, problem: Factorization, gradient: Factors, factors: Factors
) -> np.ndarray:
    """Return what a method without a state adds to the factors, in float64."""
    key = key_of(0)
    with jax.enable_x64(True):
        gradient, factors = jax.tree.map(jnp.asarray, (gradient, factors))
        state = method.init(factors)
        if jax.tree.leaves(state):
            raise _refused("has a state")
        return _flat(updated(problem, method, gradient, state, factors, key)[0])


def _refused(why: str) -> ValueError:
    needed = "only gradient descent, with or without balancing, is written in NumPy"
    return problem_with("method", f"one that {why}", needed, "use replay")


def _rounded(number: float) -> float:
    """Return a number with eleven digits, as many as the probe is sure of."""
    return float(f"{number:.11g}") if abs(number) > _EXACT else 0.0


def _flat(pair: Any) -> np.ndarray:
    return np.concatenate([np.ravel(x) for x in pair])


def _target(problem: Factorization) -> np.ndarray:
    """Return Σ as the factors see it, in float64."""
    values = np.asarray(problem.singular_values, np.float64)
    bases = zip(problem.rows, (problem.left, problem.right), strict=True)
    left, right = (np.eye(k, len(values)) if basis is None else np.asarray(basis, np.float64) for k, basis in bases)
    return left @ (values[:, None] * right.T)
