"""How far a sweep is: counts are those of the dataset, rates those of the tiles' intervals."""

import json
import math
import shutil
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partialmethod

import numpy as np
import pytest

import jaxfact as jf
from jaxfact.store.claims import LOCKS, claimed
from jaxfact.store.folder import Folder
from jaxfact.store.marks import here
from jaxfact.store.tilestore import TileStore
from jaxfact.store.upkeep import create, extend

FIRST = (0, 0, 0)
TILE = (1, 0, 3)  # one that is missing in the unfinished store


def set_work(store, work) -> None:
    """Write marks once more, with other dates, seconds and steps."""
    opened = TileStore(store)
    marks = opened.marks.records.copy()
    for mark, facts in zip(marks, work, strict=True):
        for name, value in facts.items():
            mark[name] = value
    marks["seen"] += 1
    opened.remember(marks)


def at(time: str) -> float:
    return datetime.fromisoformat(f"2026-01-01T{time}+00:00").timestamp()


def claim(store) -> AbstractContextManager:
    """Hold one tile of the store, as a process does that works on it."""
    return claimed(Folder(store), TILE)


def test_a_finished_store(stored):
    found, runs = jf.status(stored), jf.open_results(stored)
    assert found.finished
    assert (found.done, found.runs, found.total) == (36, 36, 18)
    for name, counts in found.variants.items():
        assert counts == dict(zip(*np.unique(runs.outcome.sel({"variant": name}), return_counts=True), strict=True))
    assert sum(map(sum, (counts.values() for counts in found.variants.values()))) == 36
    assert found.failed == int((runs.outcome == "diverged").sum()) == 12
    assert found.run_steps == int(runs.steps.sum())
    assert (found.seconds_left, found.workers) == (0, {})


def test_an_unfinished_store(unfinished):
    found = jf.status(unfinished)
    assert not found.finished
    assert (found.done, found.runs) == (36, 54)
    assert int((jf.open_results(unfinished).outcome == "pending").sum()) == 18
    assert math.isnan(found.seconds_left)  # nobody works on it


def test_rates_are_over_the_union_of_intervals(stored, tmp_path):
    """Two tiles side by side for two seconds, one alone for one, then a night, then three for one: four seconds."""
    shutil.copytree(stored, tmp_path / "copy")
    times = [("00:00:02.000", 2), ("00:00:02.000", 2), ("00:00:03.000", 1)] + [("12:00:00.500", 1)] * 3
    set_work(tmp_path / "copy", [{"date": at(time), "seconds": s, "run_steps": 100} for time, s in times])
    assert jf.status(tmp_path / "copy").run_steps_per_second == pytest.approx(600 / 4)


def test_time_left_is_that_of_the_last_tiles(unfinished):
    """Six tiles of six runs, one after the other in two seconds each: 18 runs more take six seconds."""
    set_work(unfinished, [{"date": at(f"00:00:{2 * k + 2:02d}.000"), "seconds": 2} for k in range(6)])
    with claim(unfinished):
        found = jf.status(unfinished)
    assert found.workers == {f"process {here()['pid']} on {here()['host']}": 1}
    assert found.seconds_left == pytest.approx(6)


def test_the_dead_do_not_work(unfinished):
    """A process that was killed leaves its name behind, but not its lock."""
    locks = unfinished / LOCKS
    locks.mkdir(exist_ok=True)
    (locks / "1-0-3.owner").write_text(json.dumps({"host": "gone", "pid": 1}))
    (locks / "1-0-3.lock").touch()
    assert jf.status(unfinished).workers == {}
    assert (locks / "1-0-3.owner").exists()
    with claim(unfinished):
        assert len(jf.status(unfinished).workers) == 1


def created(stored, store):
    template = jf.open_results(stored).isel(step_size=[0], seed=[0]).load()
    opened = TileStore(stored)
    template.attrs = opened.root.attributes
    create(store, opened.grid, template)


def extended(stored, store):
    extend(store, {"step_size": np.array([0.1])}, np.arange(9))


def made_again(stored, store):
    """Make a tile that was taken back."""
    opened, whole = TileStore(store), TileStore(stored)
    for name in whole.names:
        opened.medium.put(whole.root.key(name, FIRST), whole.medium.get(whole.root.key(name, FIRST)))
    assert opened.adopt(FIRST)


def damage_said(store):
    try:
        return jf.status(store).damaged
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("work", [created, extended, made_again])
def test_what_others_do_meanwhile_is_no_damage(stored, tmp_path, monkeypatch, work):
    """Before each look of a reader at what says what there is, another process does all its work at once."""
    looks = {name: getattr(Folder, name) for name in ("get", "list", "count")}
    for moment in range(20):
        store, left = tmp_path / f"{moment}.zarr", [moment]
        if work is not created:
            shutil.copytree(stored, store)
        if work is made_again:
            TileStore(store).drop(FIRST, [TileStore(store).root.key(name, FIRST) for name in TileStore(store).names])
            shutil.rmtree(store / "tiles" / "damaged")

        def noted(self, key, *others, look, store=store, left=left):
            if key in ("zarr.json", "tiles", "outcome", "outcome/zarr.json") or key.startswith("tiles/"):
                left[0] -= 1
                if left[0] == -1:
                    work(stored, store)
            return look(self, key, *others)

        with monkeypatch.context() as patch:
            for name, look in looks.items():
                patch.setattr(Folder, name, partialmethod(noted, look=look))
            said = damage_said(store)
        assert said == {} or (work is created and "is not the store of a sweep" in said)
        if left[0] >= 0:
            break
        assert jf.status(store).damaged == {}
    assert 2 < moment < 19


@pytest.mark.parametrize("name", ["missing", "results.zarr"])
def test_only_stores_of_sweeps(stored, tmp_path, name):
    jf.write_results(jf.open_results(stored).isel(seed=[0]).load(), tmp_path / "results.zarr")
    with pytest.raises(ValueError, match=f"{name}: is not the store of a sweep; give the path"):
        jf.status(tmp_path / name)


def test_the_command(call, stored, unfinished):
    code, out, err = call("status", stored)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{stored}: finished, 36 runs"
    assert lines[1] == "  plain: 18 of 18; converged 12, diverged 6"
    assert lines[2] == "  slow: 18 of 18; budget 6, converged 6, diverged 6"
    assert lines[3] == "outcomes: converged 50 %, diverged 33.3 %, budget 16.7 %"
    assert lines[4] == "failed (diverged): 12"
    assert lines[5].endswith(" run-steps/s")
    lines = call("status", unfinished).out.splitlines()
    assert lines[0] == f"{unfinished}: 36 of 54 runs done (66.6 %)"
    assert lines[-1] == "nobody is working on it: a sweep of all its seeds and values makes the rest"
    with claim(unfinished):
        lines = call("status", unfinished).out.splitlines()
    assert lines[-2] == f"working: process {here()['pid']} on {here()['host']} (1 tile)"
    assert lines[-1].endswith(" left")


def test_the_command_in_json(call, unfinished):
    found = json.loads(call("status", unfinished, "--json").out, parse_constant=lambda name: pytest.fail(name))
    assert (found["done"], found["runs"], found["finished"]) == (36, 54, False)
    assert found["seconds_left"] is None
    assert found["variants"]["slow"] == {"budget": 6, "converged": 6, "diverged": 6}
