"""The JAX contenders of `factorization.py`: the plain program and optax, and jaxfact itself."""

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from peers import CHECKED, ENTRIES, Case, Contender, Timed, losses

import jaxfact as jf

LONG = "jaxfact, ten times the steps"

_held: list[Case] = []


def hold(case: Case) -> None:
    """Prepare a process of its own for the JAX peers: with one device, all cores serve that device."""
    os.environ.pop("XLA_FLAGS", None)  # the peers run with XLA's own settings
    jax.config.update("jax_num_cpu_devices", 1)
    _held.append(case)


def run_jax(kind: str, starts: int, steps: int) -> Timed:
    """Run a JAX peer in the process that `hold` prepared."""
    case, began = _held[0], time.perf_counter()
    program, setup = _compiled_jax(kind, starts)
    U, V = jax.device_put((case.U[:starts], case.V[:starts]))
    started = time.perf_counter()
    U, V = jax.block_until_ready(program(U, V, steps))
    ended = time.perf_counter()
    return Timed(losses(case.values, np.asarray(U), np.asarray(V)), ended - started, setup, ended - began)


@cache
def _compiled_jax(kind: str, starts: int) -> tuple[Callable, float]:
    case, began = _held[0], time.perf_counter()
    function = {"plain": plain_jax, "optax": _optax}[kind]
    arguments = case.U[:starts], case.V[:starts], 1
    program = jax.jit(partial(function, case)).lower(*arguments).compile()
    return program, time.perf_counter() - began


def _loss(case: Case):
    diagonal = np.arange(len(case.values))
    target = jnp.zeros(case.shape, jnp.float32).at[diagonal, diagonal].set(case.values)
    return lambda factors: jnp.sum((factors[0] @ factors[1].T - target) ** 2) / 2


def plain_jax(case: Case, U, V, steps):
    """Descend with vmap(grad) in a fori_loop."""
    gradient = jax.vmap(jax.grad(_loss(case)))

    def step(_, factors):
        return jax.tree.map(lambda x, g: x - case.step_size * g, factors, gradient(factors))

    return jax.lax.fori_loop(0, steps, step, (U, V))


def _optax(case: Case, U, V, steps):
    method, gradient = optax.sgd(case.step_size), jax.grad(_loss(case))

    def step(_, carry):
        factors, state = carry
        updates, state = method.update(gradient(factors), state, factors)
        return optax.apply_updates(factors, updates), state

    def run(factors):
        return jax.lax.fori_loop(0, steps, step, (factors, method.init(factors)))[0]

    return jax.vmap(run)((U, V))


def problem_of(case: Case):
    """Return jaxfact's problem."""
    return jf.Factorization(case.values, shape=case.shape)


def drawn(problem, width: int, scale: float, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts that `jaxfact.sweep` draws for its first seeds."""

    @jax.jit
    @jax.vmap
    def draw(seed):
        key = jax.random.fold_in(jax.random.key(0, impl="threefry2x32"), seed)
        return jf.starts.Gaussian(width, scale=scale).draw(jax.random.fold_in(key, 1), problem)

    U, V = draw(jnp.arange(seeds, dtype=jnp.uint32))
    return np.array(U), np.array(V)


def jax_contenders(case: Case, process: Executor) -> list[Contender]:
    """Return plain JAX and optax, which run in a process of their own."""

    def run(kind, starts, steps):
        return process.submit(run_jax, kind, starts, steps).result()

    starts = min(case.starts, max(8, ENTRIES // math.prod(case.shape)))
    labels = {"plain": "JAX, vmap(grad) in fori_loop", "optax": "optax.sgd under vmap"}
    return [Contender(label, "residual", partial(run, kind), starts) for kind, label in labels.items()]


def jaxfact_contenders(case: Case, scale: float) -> list[Contender]:
    """Return `jaxfact.sweep` on all cores: not compressed, as it comes, so long that only the steps count, prepared."""

    def contender(label, form, run):
        return Contender(label, form, run, case.starts, (case.steps, case.steps))

    @cache
    def prepared(steps: int) -> Any:
        return jf.prepare(_experiment(case, scale), **_options(case, steps))

    plain = contender("jaxfact, not compressed", "gram", partial(_sweep, case, scale, False))
    whole = contender("jaxfact", "compressed", partial(_sweep, case, scale, True))
    again = contender("jaxfact, prepared", "compressed", lambda starts, steps: _timed(lambda: prepared(steps)(starts)))
    return [plain, whole, whole._replace(label=LONG, steps=(10 * case.steps, 10 * case.steps)), again]


def _experiment(case: Case, scale: float) -> Any:
    problem, width = problem_of(case), case.U.shape[2]

    def experiment(step_size):
        return jf.Run(problem, jf.starts.Gaussian(width, scale=scale), jf.methods.gradient_descent(step_size))

    return experiment


def _options(case: Case, steps: int) -> dict[str, Any]:
    return {
        "max_steps": steps,
        "tolerance": None,
        "check_every": math.gcd(steps, 1000),
        "step_size": [case.step_size],
    }


def _sweep(case: Case, scale: float, compress: bool, starts: int, steps: int) -> Timed:
    """Sweep an experiment that has never been read before."""
    experiment = _experiment(case, scale)
    return _timed(lambda: jf.sweep(experiment, seeds=starts, compress=compress, **_options(case, steps)))


def _timed(call: Callable[[], Any]) -> Timed:
    began = time.perf_counter()
    runs = call()
    wall = time.perf_counter() - began
    found = runs.loss.values.ravel()[:CHECKED].astype(float)
    return Timed(found, float(runs.run_seconds), float(runs.compile_seconds), wall)
