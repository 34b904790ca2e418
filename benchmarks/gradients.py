"""What a derivative of a run costs: `python benchmarks/gradients.py [--repeats N]`.

The claim: a gradient takes at most six times the run it is of, is there in six seconds, and its memory grows as the
root of the steps. One 10×10 target of rank and width 5, float64; the derivative is that of the last loss by step size
and start. Times are wall seconds, the least of all rounds, in which the contenders take turns.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxfact as jf

jax.config.update("jax_enable_x64", True)

PROBLEM = jf.Factorization(np.linspace(1.0, 0.2, 5), shape=(10, 10))
METHODS = {
    "gradient descent": jf.methods.gradient_descent,
    "balanced": lambda step: jf.methods.balanced(step, 1 / 8),
    "ScaledGD, damped": lambda step: jf.methods.scaled_gd(step, 0.1),
    "perturbed": lambda step: jf.methods.perturbed(step, 1e-3),
}


def drawn(batch: int) -> jf.Factors:
    rng = np.random.default_rng(0)
    shape = (batch, 10, 5) if batch else (10, 5)
    return jf.Factors(*(jnp.asarray(0.1 * rng.normal(size=shape)) for _ in range(2)))


def loss_of(method, num_steps):
    def loss(step_size, start):
        return PROBLEM.loss(jf.descend(PROBLEM, METHODS[method](step_size), start, num_steps=num_steps).factors)

    return loss


def compiled(function, batch):
    """Return the program, and the wall and processor seconds until it is there."""
    began = time.perf_counter(), time.process_time()
    function = jax.vmap(function, (None, 0)) if batch else function
    program = jax.jit(function).lower(0.1, drawn(batch)).compile()
    return program, time.perf_counter() - began[0], time.process_time() - began[1]


def seconds(program, start):
    began = time.perf_counter()
    jax.block_until_ready(program(0.1, start))
    return time.perf_counter() - began


def measured(method: str, batch: int, num_steps: int, repeats: int) -> str:
    loss, start = loss_of(method, num_steps), drawn(batch)
    makers = {"run": loss, "reverse": jax.grad(loss, (0, 1)), "forward": jax.jacfwd(loss)}
    made = {name: compiled(function, batch) for name, function in makers.items()}
    best = dict.fromkeys(made, np.inf)
    for _ in range(repeats):
        best = {name: min(best[name], seconds(made[name][0], start)) for name in made}
    runs = f"{batch} runs" if batch else "one run"
    numbers = [best["run"] / num_steps * 1e6, best["reverse"] / best["run"], best["forward"] / best["run"]]
    wall, processor = made["reverse"][1:]
    told = "step {:.1f} µs, reverse {:.1f} × run, forward {:.1f} × run".format(*numbers)
    return f"{method}, {runs}: {told}, reverse compiled in {wall:.1f} s ({processor:.1f} s of processor)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    for method in METHODS:
        for batch in (0, 64):
            print(measured(method, batch, 1000, repeats), flush=True)
    for num_steps in (1_000, 10_000, 100_000):
        loss = loss_of("gradient descent", num_steps)
        reverse, forward = (
            compiled(f, 0)[0].memory_analysis().temp_size_in_bytes for f in (jax.grad(loss), jax.jacfwd(loss))
        )
        print(f"{num_steps} steps: reverse {reverse} bytes, forward {forward} bytes beside what is given", flush=True)


if __name__ == "__main__":
    main()
