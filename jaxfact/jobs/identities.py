"""Exact identities on the steps of a run: how far each is from holding, beside what rounding explains."""

import json
from collections.abc import Iterable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxfact.engine.experiment import Experiment, Run, takes_key
from jaxfact.measures import invariants
from jaxfact.methods.base import as_method, updated
from jaxfact.numerics.draws import fold, key_of
from jaxfact.papers.claims import Made
from jaxfact.problems.factors import as_factors
from jaxfact.starts import Start

_STEPS = 300
# Those without eigenvalues, which would take longer to compile than many a claim takes to run.
_CHECKED = (invariants.imbalance_change, invariants.rotation)


def defects(sweeps: Iterable[Made]) -> dict[str, float]:
    """Return the largest ratio of an identity's defect to its bound over the first 300 steps, by the identity's name.

    1 or less is what rounding explains. The steps are those of one run at the first point of every sweep and variant
    that has another program or shape than those before it, uncompressed and in full. NaN where it is not finite from
    the beginning.
    """
    found: dict[str, float] = {}
    for made, experiment in _each_once(sweeps):
        for name, ratio in of_run(_begun(made, experiment), int(made.runs.attrs["max_steps"])).items():
            found[name] = float(np.maximum(found.get(name, 0.0), ratio))
    return found


def of_run(run: Run, most: int) -> dict[str, float]:
    """Return the same of a run that is about to begin, over at most as many steps."""
    method, key = as_method(run.method), key_of(0)
    kept = [invariant for invariant in invariants.applying_to(method) if invariant in _CHECKED]

    def step(carry, t):
        factors, state = carry
        gradient = run.problem.gradient(factors)
        updates, state = updated(run.problem, method, gradient, state, factors, fold(key, t))
        after = jax.tree.map(jnp.add, factors, updates)
        taken = invariants.Step(run.problem, factors, gradient, after)
        each = {invariant.__name__: invariant(taken) for invariant in kept}
        return (after, state), {name: one.value / one.bound for name, one in each.items() if one is not None}

    steps = jnp.arange(min(most, _STEPS))
    begun = jax.tree.map(jnp.asarray, run.start)
    ratios = jax.jit(lambda factors: jax.lax.scan(step, (factors, method.init(factors)), steps)[1])(begun)
    return {name: _largest(np.asarray(values)) for name, values in ratios.items()}


def _each_once(sweeps: Iterable[Made]) -> Iterator[tuple[Made, Experiment]]:
    known = set()
    for made in sweeps:
        named = dict(made.experiment) if isinstance(made.experiment, Mapping) else {"": made.experiment}
        for name, experiment in named.items():
            same = name, getattr(experiment, "__code__", experiment), str(made.runs.attrs["shape"])
            if same not in known:
                known.add(same)
                yield made, experiment


def _begun(made: Made, experiment: Experiment) -> Run:
    """Return a run of an experiment at the first point of its axes."""
    point = {name: np.ravel(made.runs[name].values)[0].item() for name in json.loads(made.runs.attrs["axes"])}
    drawn = {"key": fold(key_of(0), 0)} if takes_key(experiment, point) else {}
    run = experiment(**point, **drawn)
    start = run.start.draw(fold(key_of(0), 1), run.problem) if isinstance(run.start, Start) else as_factors(run.start)
    return Run(run.problem, start, run.method)


def _largest(ratios: np.ndarray) -> float:
    known = ratios[np.isfinite(ratios)]
    return float(known.max()) if len(known) else float("nan")
