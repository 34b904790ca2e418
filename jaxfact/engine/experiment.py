"""What an experiment is: a pure function of named numbers that returns a problem, a start and a method."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from jaxfact.inputs import problem_with
from jaxfact.numerics.draws import key_of
from jaxfact.problems.base import Problem
from jaxfact.problems.factors import AnyFactors, Factors, TiedFactor
from jaxfact.starts import Start


class Run(NamedTuple):
    """What an experiment returns: a problem, a start (or explicit factors) and a method."""

    problem: Problem
    start: Start | AnyFactors
    method: optax.GradientTransformation


Experiment = Callable[..., Run]


def parameters(experiment: Experiment) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of an experiment by name."""
    return inspect.signature(experiment).parameters


def takes_key(experiment: Experiment, axes: Mapping[str, object]) -> bool:
    """Tell whether an experiment draws its problem: `key` is a parameter and not an axis."""
    return "key" in parameters(experiment) and "key" not in axes


def check_experiment(experiment: Experiment, axes: Mapping[str, np.ndarray]) -> list[Run]:
    """Return the runs at the first point and at the ends of each axis.

    A signature that does not fit the axes is refused, and points out of range.

    Evaluating it at the least and greatest value of each axis finds hyperparameters out of range, which cannot be
    seen in a traced number.
    """
    if not callable(experiment):
        raise problem_with("experiment", repr(experiment), "needs a function of the axes", "return a jaxfact.Run")
    _check_signature(experiment, axes)
    extra = {"key": key_of(0)} if takes_key(experiment, axes) else {}
    first = {name: values[0] for name, values in axes.items()}
    corners = [first] + [{**first, name: v} for name, values in axes.items() for v in (values.min(), values.max())]
    with warnings.catch_warnings():
        if extra:  # warnings about a problem drawn from this one key say nothing about the runs
            warnings.simplefilter("ignore", UserWarning)
        runs = [experiment(**{name: jnp.asarray(value) for name, value in at.items()}, **extra) for at in corners]
    for run in runs:
        check_run(run)
    return runs


def check_run(run: object) -> None:
    """Refuse anything but a `Run` of a problem, a start and a method."""
    instead = "return Run(problem, start, method)"
    if not isinstance(run, Run):
        raise problem_with("experiment", f"returned a {type(run).__name__}", "needs a Run", instead)
    for name, value, kinds, wanted in (
        ("problem", run.problem, Problem, "a Problem"),
        ("start", run.start, Start | Factors | TiedFactor, "a Start or factors"),
        ("method", run.method, optax.GradientTransformation, "an optax transformation"),
    ):
        if not isinstance(value, kinds):
            raise problem_with(f"Run.{name}", type(value).__name__, f"needs {wanted}", instead)


def _check_signature(experiment: Experiment, axes: Mapping[str, np.ndarray]) -> None:
    known = parameters(experiment)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    unknown = [name for name in axes if name not in known and not open_ended]
    needed = [name for name, p in known.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    missing = [name for name in needed if name != "key" and name not in axes]
    if unknown or missing:
        raise problem_with(
            "axes",
            sorted(axes),
            f"the experiment takes ({', '.join(known)})",
            "give one axis per parameter",
        )
