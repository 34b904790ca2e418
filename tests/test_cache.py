"""Compiled code from an earlier process: the same bits, and never a reason to fail."""

import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxfact.engine import cache, compiling
from jaxfact.engine.program import ON_CPU


@pytest.fixture
def top(monkeypatch, tmp_path) -> Path:
    """Return the folder of an empty cache."""
    monkeypatch.setenv("JAXFACT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(top: Path) -> list[Path]:
    return sorted(top.glob("*/*"))


def test_what_is_put_is_got(top):
    assert cache.get("a") is None
    cache.put("a", b"first")
    cache.put("b" * 10_000, b"")
    assert (cache.get("a"), cache.get("b" * 10_000), cache.get("c")) == (b"first", b"", None)
    cache.put("a", b"second")
    assert cache.get("a") == b"second"
    assert len(files(top)) == 2
    for path in (*top.iterdir(), *files(top)):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, "nobody else's"


DAMAGES = {
    "truncated": lambda whole: whole[:-1],
    "empty": lambda whole: b"",
    "half a digest": lambda whole: whole[:16],
    "one bit": lambda whole: whole[:40] + bytes([whole[40] ^ 1]) + whole[41:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_not_there(damage, top):
    cache.put("a", b"0123456789")
    (file,) = files(top)
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get("a") is None
    cache.put("a", b"0123456789")
    assert cache.get("a") == b"0123456789"


def test_another_processor_has_a_folder_of_its_own(monkeypatch, top):
    cache.put("a", b"of this one")
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_processor", lambda: "another")
        assert cache.get("a") is None
        cache.put("a", b"of the other")
    assert cache.get("a") == b"of this one"
    assert len(list(top.iterdir())) == 2


def test_another_users_files_are_left_alone(monkeypatch, top):
    """What is loaded is run."""
    cache.put("a", b"code")
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert cache.get("a") is None


@pytest.mark.parametrize("word", ["off", "OFF", "0", "false"])
def test_switched_off(word, top, monkeypatch):
    cache.put("a", b"before")
    monkeypatch.setenv("JAXFACT_CACHE", word)
    assert cache.folder() is None
    assert cache.get("a") is None
    cache.put("b", b"nowhere")
    assert len(files(top)) == 1
    assert not Path(word).exists()


@pytest.mark.parametrize("word", ["on", "True", "1", "2"])
def test_a_switch_is_no_folder(word, monkeypatch):
    monkeypatch.delenv("JAXFACT_CACHE", raising=False)
    usual = cache.folder()
    monkeypatch.setenv("JAXFACT_CACHE", word)
    assert cache.folder() == usual
    monkeypatch.setenv("JAXFACT_CACHE", f"./{word}")
    assert cache.folder() == Path.cwd() / word


def test_no_place_to_write(top, monkeypatch, recwarn):
    """A file where the folder should be, which no superuser can write into either; and a user without a home."""
    top.write_text("a file")
    cache.put("a", b"code")
    assert cache.get("a") is None
    monkeypatch.delenv("JAXFACT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    cache.put("a", b"code")
    assert cache.get("a") is None
    assert not recwarn


PLACES = {
    "linux": ({"XDG_CACHE_HOME": "/x/cache"}, "/x/cache/jaxfact"),
    "linux, no such variable": ({}, "/home/me/.cache/jaxfact"),
    "linux, a relative path is to be ignored": ({"XDG_CACHE_HOME": "x"}, "/home/me/.cache/jaxfact"),
    "darwin": ({"XDG_CACHE_HOME": "/x/cache"}, "/home/me/Library/Caches/jaxfact"),
    "win32": ({"LOCALAPPDATA": "/x/local"}, "/x/local/jaxfact"),
    "win32, no such variable": ({}, "/home/me/AppData/Local/jaxfact"),
}


@pytest.mark.parametrize("name", PLACES)
def test_the_folder_is_in_the_users_cache(name, monkeypatch):
    for variable in ("JAXFACT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    settings, expected = PLACES[name]
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "platform", name.split(",")[0])
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert cache.folder() == Path(expected)


def test_the_least_used_make_room(top, monkeypatch):
    """Ten of a hundred bytes each where there is room for six; one that is used stays, whatever its age."""
    monkeypatch.setattr(cache, "_LARGEST", 6 * 132)
    other = top / "mine.bin"
    top.mkdir()
    other.write_bytes(bytes(10_000))
    for number in range(10):
        cache.put(str(number), bytes(100))
        for age, file in enumerate(sorted(files(top), key=lambda file: file.stat().st_mtime, reverse=True)):
            os.utime(file, times=(time.time() - 10 - age,) * 2)
        assert cache.get("0") is not None
    assert [cache.get(str(number)) is not None for number in range(10)] == [
        number in (0, 5, 6, 7, 8, 9) for number in range(10)
    ]
    cache.put("too large", bytes(200))
    assert cache.get("too large") is None
    assert other.exists(), "not of this cache"


def test_what_killed_processes_left_is_removed(top):
    cache.put("a", b"code")
    (file,) = files(top)
    old, new = file.with_name("old.part"), file.with_name("new.part")
    for each in (old, new):
        each.write_bytes(b"half")
    os.utime(old, times=(time.time() - 7200,) * 2)
    cache.put("b", b"code")
    assert not old.exists()
    assert new.exists(), "somebody may be writing it"


def test_many_at_once(top):
    """Eight threads and one key, of which every reader sees one whole content or none."""
    contents = [bytes([number]) * 100_000 for number in range(8)]

    def work(number):
        seen = []
        for _ in range(20):
            cache.put("a", contents[number])
            seen.append(cache.get("a"))
        return seen

    with ThreadPoolExecutor(8) as threads:
        seen = [content for found in threads.map(work, range(8)) for content in found]
    assert None not in seen
    assert set(seen) <= set(contents)
    assert len(files(top)) == 1


def lowered(scale: float):
    """Return a program, which may take its first argument's place, and its text."""
    made = jax.jit(lambda x, y: (x + scale * y, y), donate_argnums=0).lower(*[jax.ShapeDtypeStruct((3,), float)] * 2)
    return made, made.as_text()


def called(scale: float, device=None) -> list[float]:
    made = compiling.compiled(*lowered(scale), device or jax.local_devices()[0], ON_CPU)
    x, y = jax.device_put((jnp.ones(3), jnp.arange(3.0)), device)
    return made(x, y)[0].tolist()


@pytest.fixture
def compilations(monkeypatch) -> list[str]:
    """Return a list that grows by one with every compilation."""
    counted, compile_ = [], jax.stages.Lowered.compile

    def counting(self, *arguments):
        counted.append("one")
        return compile_(self, *arguments)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counting)
    return counted


def test_a_program_is_compiled_once(top, compilations, monkeypatch):
    """What is loaded computes the same, donates the same; another program, or other options, are compiled."""
    for _ in range(3):
        assert called(2.0) == [1.0, 3.0, 5.0]
    assert len(compilations) == 1
    assert called(3.0) == [1.0, 4.0, 7.0]
    assert len(compilations) == 2
    loaded = compiling.compiled(*lowered(2.0), jax.local_devices()[0], ON_CPU)
    x = jnp.ones(3)
    loaded(x, jnp.ones(3))
    assert x.is_deleted()
    assert len(compilations) == 2
    compiling.compiled(*lowered(2.0), jax.local_devices()[0], ON_CPU | {"xla_cpu_prefer_vector_width": 256})
    assert len(compilations) == 3
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", "") + " --xla_cpu_enable_fast_min_max=true")
    called(2.0)
    assert len(compilations) == 4


@pytest.mark.parametrize(
    "damage", [lambda _: b"no pickle", lambda whole: whole[: len(whole) // 2]], ids=["wrong", "half"]
)
def test_what_cannot_be_loaded_is_compiled(damage, top, compilations, monkeypatch):
    """Its digest is right, so the cache gives it; JAX cannot make anything of it."""
    called(2.0)
    get = cache.get
    with monkeypatch.context() as patch:
        patch.setattr(cache, "get", lambda key: damage(get(key)))
        assert called(2.0) == [1.0, 3.0, 5.0]
    assert len(compilations) == 2
    assert called(2.0) == [1.0, 3.0, 5.0]
    assert len(compilations) == 2


def test_the_users_own_setting_wins(top, tmp_path, compilations):
    """JAX keeps it then, or nobody does, where the user forbids it."""
    for settings in ({"jax_compilation_cache_dir": str(tmp_path / "jax")}, {"jax_enable_compilation_cache": False}):
        before = {name: getattr(jax.config, name) for name in settings}
        try:
            for name, value in settings.items():
                jax.config.update(name, value)
            assert called(2.0) == called(2.0)
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
    assert len(compilations) == 4
    assert not top.exists()


SWEPT = """
import jax, numpy as np, sys
import jaxfact as jf
method = jf.methods.perturbed(0.3, 1e-4)
runs = jf.sweep(
    lambda: jf.Run(jf.Factorization(np.array([1, 0.5], "f4"), shape=(5, 4)), jf.starts.Gaussian(2, scale=0.1), method),
    seeds=40, max_steps=100, tolerance=None,
)
sys.stdout.write(runs.loss.values.tobytes().hex() + runs.imbalance.values.tobytes().hex())
"""


def test_two_processes_at_once_and_one_after(tmp_path):
    """The same bits from those that compiled as from the one that did not, which writes nothing."""
    settings = os.environ | {"JAXFACT_CACHE": str(tmp_path / "cache")}

    def begun() -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-W", "error", "-c", SWEPT], env=settings, stdout=subprocess.PIPE)

    bits = [process.communicate()[0] for process in [begun(), begun()]]
    kept = {file: file.stat().st_ino for file in files(tmp_path / "cache")}
    assert len(kept) == 5, "two programs of the reading, the loop, and the code of its lanes in two pieces"
    bits.append(begun().communicate()[0])
    assert len(bits[0]) == 2 * 2 * 4 * 40
    assert len(set(bits)) == 1
    assert {file: file.stat().st_ino for file in files(tmp_path / "cache")} == kept
