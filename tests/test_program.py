"""What the compiler makes of a step, and what a big shared problem costs in memory."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxfact as jf
from jaxfact.descent import stepper
from jaxfact.engine import program
from jaxfact.engine.jaxprs import Lowered
from jaxfact.numerics.products import pinned
from jaxfact.problems import compression, factorization

LANES = 32


def compiled_steps(options=None):
    """Compile a loop of steps for a block of lanes, as the engine does."""
    small, factors = compression.compress(
        jf.Factorization(np.linspace(1, 0.5, 5, dtype=np.float32), shape=(100, 100)),
        jf.Factors(jnp.ones((100, 5), "f4"), jnp.ones((100, 5), "f4")),
    )
    method = jf.methods.gradient_descent(0.3)
    advance = stepper(small, method, jax.random.key(0, impl="threefry2x32"))
    batch = jax.tree.map(lambda x: jnp.repeat(x[..., None], LANES, -1), factors)

    def step(t, batch):
        moved = jax.vmap(lambda own: advance(own, method.init(own), t)[0], -1, -1)(batch)
        return pinned(moved)

    return jax.jit(lambda batch: lax.fori_loop(0, 100, step, batch)).lower(batch).compile(options)


def kernels_with_a_gram(compiled) -> int:
    """Count the kernels of a new factor that make a Gram matrix themselves: they make it again for every entry."""
    kernels = re.findall(r"^%(?:copy_)?\w*fus\w+[^{]*{\n.*?^}", compiled.as_text(), re.MULTILINE | re.DOTALL)
    of_factors = [kernel for kernel in kernels if re.search(rf"ROOT [^=]+= f32\[10,5,{LANES}\]", kernel)]
    assert len(of_factors) == 2
    product = re.compile(rf"= f32\[(?:{LANES},5,5|5,5,{LANES})\]\S* multiply\(")
    # Σ times the first five rows has that shape too; a Gram matrix takes ten.
    return sum(len(product.findall(kernel)) >= 10 for kernel in of_factors)


def test_gram_matrices_are_computed_once(monkeypatch, as_users_compile):
    """The control takes the barrier away, and both Grams go into the kernels that use them."""
    assert kernels_with_a_gram(compiled_steps(program.ON_CPU)) == 0
    monkeypatch.setattr(factorization, "keep", lambda tree: tree)
    assert kernels_with_a_gram(compiled_steps(program.ON_CPU)) == 2


def test_no_kernel_is_split_over_threads(as_users_compile):
    """The other cores have tiles of their own; without the option XLA splits large kernels of a step."""
    assert "outer_dimension_partitions" not in compiled_steps(program.ON_CPU).as_text()


PEAK = """
import resource, sys
import jax, numpy as np
import jaxfact as jf

target = np.random.default_rng(0).standard_normal((4000, 2000), dtype=np.float32)
left, right = np.eye(4000, 2000, dtype=np.float32), np.eye(2000, dtype=np.float32)
problem = jf.Factorization(np.linspace(1, 0.5, 2000, dtype=np.float32), shape=(4000, 2000), left=left, right=right)
del target, left, right
run = lambda: jf.Run(problem, jf.starts.Gaussian(1, scale=1e-2), jf.methods.gradient_descent(0.1))
jf.sweep(run, seeds=int(sys.argv[1]), max_steps=1, tolerance=None, check_every=1, compress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_a_shared_problem_is_in_memory_once():
    """48 MB of singular vectors: with 64 runs instead of 8 the peak grows by the runs' own numbers alone."""
    few, many = (
        int(subprocess.run([sys.executable, "-c", PEAK, str(n)], capture_output=True, text=True, check=True).stdout)
        for n in (8, 64)
    )
    assert many - few < 25, (few, many)


FIRST_SWEEP = """
import sys
import jax
import jaxfact as jf

compiled = []

def listen(event, *_, **__):
    compiled.append("backend_compile" in event)

jax.monitoring.register_event_duration_secs_listener(listen)
problem = jf.Factorization(jf.data.singular_values(3, 2.0), shape=(9, 8))

def swept(step_size):
    compiled.clear()
    start, method = jf.starts.Gaussian(3, scale=0.1), jf.methods.gradient_descent
    options = dict(seeds=2, max_steps=10, tolerance=1e-4, step_size=[step_size])
    jf.sweep(lambda step_size: jf.Run(problem, start, method(step_size)), **options)
    return sum(compiled)

print(swept(0.3), swept(0.5), [name for name in ("scipy.stats", "zarr", "matplotlib") if name in sys.modules])
"""


def test_a_first_sweep_compiles_little_else_and_loads_only_what_it_uses():
    """In a process of its own: the sign of the step, its size, the probe, what all runs share, and the program.

    Another step size is data for all of them. With what earlier processes have kept, none is compiled.
    """
    alone = os.environ | {"JAXFACT_CACHE": "off"}
    ended = subprocess.run([sys.executable, "-c", FIRST_SWEEP], capture_output=True, text=True, check=True, env=alone)
    assert ended.stdout.split(maxsplit=2) == ["5", "0", "[]\n"]


def test_a_program_is_the_same_whatever_jax_has_forgotten():
    """JAX writes a function once for every time that it traced it; the controls call another, and in another order."""

    def doubled(x):
        return x + x

    def squared(x):
        return x * x

    def calling(*functions):
        # As after the trace of one was dropped, each of these is traced on its own.
        own = [jax.jit(lambda x, function=function: function(x)) for function in functions]
        return jax.jit(lambda x: [function(x) for function in own]).lower(1.0)

    once = jax.jit(doubled)
    shared = jax.jit(lambda x: [once(x), once(x)]).lower(1.0)
    anew = calling(doubled, doubled)
    assert shared.as_text().count("func.func") == anew.as_text().count("func.func") - 1
    assert Lowered(shared) == Lowered(anew)
    distinct = [Lowered(calling(*functions)) for functions in ((doubled, squared), (squared, doubled))]
    assert len({Lowered(anew), *distinct}) == 3
