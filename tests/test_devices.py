"""Which devices work, in how many threads; and nothing of JAX's is set for it."""

import os
import shutil
import subprocess
import sys
import threading
import time

import jax
import pytest

from jaxfact.engine import devices
from jaxfact.engine.devices import cores, made_ahead, working_devices

# What /proc/self/cgroup says, the quotas of groups, and how many of eight cores a process in them may use.
GROUPS = {
    "no groups": ("", {}, 8),
    "no quota": ("0::/\n", {"cpu.max": "max 100000"}, 8),
    "a container that sees its own group": ("0::/\n", {"cpu.max": "200000 100000"}, 2),
    "a fraction keeps a thread more busy": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "less than a core": ("0::/\n", {"cpu.max": "10000 100000"}, 1),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000"}, 8),
    "the least of all groups above": (
        "0::/jobs/one/step\n",
        {"jobs/one/step/cpu.max": "max 100000", "jobs/one/cpu.max": "300000 100000", "jobs/cpu.max": "500000 100000"},
        3,
    ),
    "a path that only the host has": ("0::/pods/of/the/host\n", {"cpu.max": "400000 100000"}, 4),
    "the first version": (
        "5:memory:/x\n4:cpu,cpuacct:/x\n",
        {"cpu/x/cpu.cfs_quota_us": "500000", "cpu/x/cpu.cfs_period_us": "100000"},
        5,
    ),
    "the first version, no quota": (
        "4:cpu:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        8,
    ),
    "another controller": ("4:cpuset:/\n", {"cpu/cpu.cfs_quota_us": "1", "cpu/cpu.cfs_period_us": "1"}, 8),
}


@pytest.mark.parametrize(("mine", "files", "expected"), GROUPS.values(), ids=GROUPS)
def test_cores_are_those_of_the_process(mine, files, expected, monkeypatch, tmp_path):
    groups, told = tmp_path / "groups", tmp_path / "mine"
    groups.mkdir()
    told.write_text(mine)
    for name, text in files.items():
        (groups / name).parent.mkdir(parents=True, exist_ok=True)
        (groups / name).write_text(text + "\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "_GROUPS", groups)
    monkeypatch.setattr(devices, "_MINE", told)
    assert cores() == expected
    told.unlink()
    assert cores() == 8, "not Linux"


def test_threads_of_the_first_cpu_device():
    first = jax.local_devices()[0]
    assert working_devices() == [first] * cores()
    assert working_devices(3) == [first] * 3, "more than there are cores, where that is asked for"
    last = jax.local_devices()[-1]
    with jax.default_device(last):
        assert working_devices(2) == [last] * 2
    with jax.default_device("cpu"):
        assert working_devices(1) == [first]


def test_some_are_made_ahead():
    """While those before are in use, in this thread's settings; an error comes when its turn comes."""
    made, threads = [], set()

    def items():
        for number in range(4):
            if number == 3:
                raise ValueError("the fourth")
            threads.add((threading.current_thread() is threading.main_thread(), jax.config.jax_enable_x64))
            made.append(number)
            yield number

    def used(light: bool, most: int) -> list[int]:
        seen = []
        made.clear()

        def use():
            for number in made_ahead(items(), most, while_light=lambda _: light):
                deadline = time.monotonic() + 5
                while light and len(made) < min(number + 1 + most, 3) and time.monotonic() < deadline:
                    time.sleep(0.001)
                seen.append((number, made[-1]))

        with jax.enable_x64(False), pytest.raises(ValueError, match="the fourth"):
            use()
        return seen

    assert used(light=True, most=1) == [(0, 1), (1, 2), (2, 2)]
    assert used(light=True, most=2) == [(0, 2), (1, 2), (2, 2)]
    assert threads == {(True, False), (False, False)}
    assert used(light=False, most=2) == [(0, 0), (1, 1), (2, 2)]


UNCHANGED = """
import os
before = dict(os.environ)
import jax
settings = dict(jax.config.values)
import jaxfact as jf
jf.sweep(
    lambda: jf.Run(jf.Factorization([1.0, 0.5], shape=(4, 3)), jf.starts.Gaussian(1, scale=0.1),
                   jf.methods.gradient_descent(0.3)),
    seeds=3, max_steps=20, tolerance=None,
)
changed = {name for name, value in jax.config.values.items() if settings[name] != value}
assert not changed, changed
assert dict(os.environ) == before
assert jax.local_device_count() == 1
"""


def test_a_sweep_sets_nothing_of_the_process():
    """No environment variable, no setting of JAX, no number of devices."""
    subprocess.run([sys.executable, "-c", UNCHANGED], check=True)


LIBRARY = """
import sys, jaxfact as jf
from experiments import plain
runs = jf.sweep(plain, seeds=int(sys.argv[1]), max_steps=100, tolerance=1e-3, store="a.zarr", step_size=[0.1, 0.3])
assert runs.sizes["seed"] == int(sys.argv[1]) and (runs.outcome != "pending").all()
"""
COMMAND = (
    "sweep experiments.py:plain --axis step_size=0.1,0.3 --seeds 5 --max-steps 100 --tolerance 1e-3 --store a.zarr"
)


def test_a_store_goes_on_in_the_library_and_at_the_command_line(experiments, tmp_path):
    """Each accepts what the other made: they run the same program, and neither sets a flag."""
    shutil.copy(experiments, tmp_path / "experiments.py")
    command = "from jaxfact.cli.main import main; main()"
    for words in ([LIBRARY, "4"], [command, *COMMAND.split()], [LIBRARY, "6"]):
        subprocess.run([sys.executable, "-c", *words], check=True, cwd=tmp_path, capture_output=True)
