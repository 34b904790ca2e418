"""The benchmark of a GPU, run where there is none, and the rules that it gave."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from compilation import QUICK

from jaxfact.engine import program
from jaxfact.engine.steps import Way, lanes_on_multiprocessors
from jaxfact.engine.tiles import tile_size

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> dict:
    """What the script writes, run at sizes at which nothing is measured; it chooses its devices itself."""
    if not os.environ.get("JAXFACT_WHOLE_BENCHMARK"):
        pytest.skip(
            "compiles for most of a minute: JAXFACT_WHOLE_BENCHMARK=1, after changes of the script or the engine"
        )
    folder = tmp_path_factory.mktemp("results")
    settings = {**os.environ, "XLA_FLAGS": QUICK, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(SCRIPT), "--tiny", "--out", str(folder)]
    run = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert (folder / "gpu-cpu.txt").read_text() == run.stdout
    return json.loads((folder / "gpu-cpu.json").read_text())


def section(report: dict, start: str) -> list[dict]:
    (title,) = (title for title in report if title.startswith(start))
    return report[title]


def test_every_section_has_rows(report):
    """Every method and problem has a positive speed, and its share follows from it and the ceiling."""
    loops = section(report, "Run-steps per second, target") + section(report, "Run-steps per second of other")
    assert [row["what"].split()[0] for row in loops] == [
        *("plain", "balanced", "ScaledGD", "Adam", "noise"),
        *("full", "sensing", "completion"),
    ]
    assert {row["way"] for row in loops} == {"XLA"}
    assert all(row["rate"] == pytest.approx(row["lanes"] / row["step_seconds"]) for row in loops)
    plain = loops[0]
    # Two factors of 4×2, each read and written once.
    assert plain["of_bandwidth"] == pytest.approx(plain["rate"] * 2 * 4 * 16 / report["ceilings"]["bytes_per_second"])
    assert all(row["rate"] > 0 for row in section(report, "Whole sweeps"))
    assert all(row["compiled"] > 0 for row in section(report, "Seconds"))


def test_peers_descend_as_jaxfact_does(report):
    rows = section(report, "Beside peers")
    assert {"JAX, vmap(grad), highest", "jaxfact", "jaxfact, not compressed"} <= {row["contender"] for row in rows}
    assert all(0 < row["off"] < 1e-4 for row in rows)


def test_no_bits_differ_and_products_are_float32(report):
    for title in ("Runs, of a few", "Runs, of those"):
        for row in section(report, title):
            assert {value for name, value in row.items() if name not in ("what", "d", "way")} == {0}
    (errors,) = section(report, "Relative error")
    assert 0 < errors["product, highest"] < 1e-6
    assert 0 < errors["sweep, unset"] < 1e-6


def test_lanes_on_a_gpu():
    """A quarter of the registers of all multiprocessors, in whole warps; bounded for the smallest and largest runs."""
    assert lanes_on_multiprocessors(100, 132) == 16384 * 132 // 100 // 128 * 128 == 21504
    assert lanes_on_multiprocessors(100, 66) == 10752
    assert lanes_on_multiprocessors(1, 132) == 131_072
    assert lanes_on_multiprocessors(10**6, 132) == 128


def test_tiles_hold_several_times_the_lanes():
    """With as many runs as lanes a tile would wait for its slowest run; few runs still make one tile."""
    way = Way("on a GPU", 21504)
    assert tile_size(10**6, way, 1, None) == 8 * 21504
    assert tile_size(30_000, way, 1, None) == 30_000
    assert tile_size(10, way, 1, None) == 21504
    assert tile_size(10**6, way._replace(lanes=32), 1, None) == 4096


def test_options_for_a_gpu_are_known_to_the_compiler():
    """The compiler reads them whatever it compiles for, and refuses those that it does not know."""
    lowered = jax.jit(lambda x: x + 1).lower(jnp.ones(3))
    assert lowered.compile(program.ON_GPU)(jnp.ones(3)).tolist() == [2, 2, 2]
    for name, value in program.ON_GPU.items():
        with pytest.raises(jax.errors.JaxRuntimeError, match="While setting option"):
            lowered.compile({name: f"{value},UNHEARD_OF"})
