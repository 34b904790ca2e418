"""A service of objects that fails, at any of its answers: tried again, or one line and a store to go on with."""

import itertools
import shutil

import numpy as np
import pytest
from commands import SWEPT
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore, WrapperStore, ZipStore

import jaxfact as jf
from jaxfact.store import experiment_file, objects, work
from jaxfact.store.medium import StoreError


class Faulty(WrapperStore):
    """A store whose answers fail where `fails` says so of their number; `late` ones have been done all the same."""

    def __init__(self, store, fails=lambda number: False, error=TimeoutError, *, late=False, lag=0):
        super().__init__(store)
        self.fails, self.error, self.late, self.lag = fails, error, late, lag
        self.asked, self.deleted = itertools.count(), []
        self._listed: list[list[str]] = []

    async def _answer(self, work):
        fails = self.fails(next(self.asked))
        if fails and not self.late:
            work.close()
            raise self.error("slow down")
        found = await work
        if fails:
            raise self.error("slow down")
        return found

    async def get(self, key, prototype, byte_range=None):
        return await self._answer(self._store.get(key, prototype, byte_range))

    async def set(self, key, value, **options):
        return await self._answer(self._store.set(key, value))

    async def set_if_not_exists(self, key, value):
        return await self._answer(self._store.set_if_not_exists(key, value))

    async def delete(self, key):
        self.deleted.append(key)
        return await self._answer(self._store.delete(key))

    async def _keys(self, prefix):
        return [key async for key in self._store.list_prefix(prefix)]

    async def list_prefix(self, prefix):
        keys = await self._answer(self._keys(prefix))
        self._listed.append(keys)
        if self.lag:  # what was put lately is not listed yet
            keys = self._listed[max(0, len(self._listed) - 1 - self.lag)]
        for key in keys:
            yield key


class Throttled(Exception):
    """What a service's client raises, which is no OSError."""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(objects, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(work, "_PATIENCE", (0.0,) * 6)


@pytest.fixture(scope="module")
def methods(experiments):
    return experiment_file.load(f"{experiments}:methods")


def swept(methods, store):
    return jf.sweep(methods, seeds=6, store=store, tile_runs=18, **SWEPT)


def values(store: MemoryStore) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items() if "/c." in key}


@pytest.fixture(scope="module")
def whole(methods):
    """Return a store that nobody disturbed, and how many answers it took."""
    counted = Faulty(MemoryStore())
    swept(methods, counted)
    return values(counted._store), next(counted.asked)


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError, Throttled])
@pytest.mark.parametrize("late", [False, True], ids=["not done", "done"])
def test_every_tenth_answer_fails(methods, whole, error, late):
    """It is asked again, whether what was asked for has been done or not, and the bits are the same."""
    store = MemoryStore()
    found = swept(methods, Faulty(store, lambda number: number % 10 == 9, error, late=late))
    assert values(store) == whole[0]
    assert (found.outcome != "pending").all()


def test_a_damaged_object_is_made_again_where_every_one_is_read(methods, whole):
    """A service tells neither times nor losses: only a sweep that is told to read all of it finds them."""
    store = MemoryStore()
    swept(methods, store)
    rotten, lost = "loss/c.0.1.0", "steps/c.0.0.0"
    store._store_dict[rotten] = default_buffer_prototype().buffer.from_bytes(b"rot")
    del store._store_dict[lost]
    swept(methods, store)
    assert values(store)[rotten] == b"rot"
    with pytest.warns(UserWarning, match=f"{rotten}|{lost}") as told:
        jf.sweep(methods, seeds=6, store=store, tile_runs=18, check_store=True, **SWEPT)
    assert len(told) == 2
    assert values(store) == whole[0]


def test_a_service_that_has_gone(methods, whole):
    """From whatever answer on: one line, nothing deleted or changed, and the same call completes the store."""
    expected, answers = whole
    for first in np.linspace(0, answers - 1, 12).astype(int):
        store = MemoryStore()
        gone = Faulty(store, lambda number, first=first: number >= first, Throttled)
        with pytest.raises(StoreError, match=r"cannot be (reached|written) .*slow down") as ended:
            swept(methods, gone)
        assert "\n" not in str(ended.value)
        before = values(store)
        swept(methods, store)
        assert gone.deleted == []
        assert values(store) == expected
        assert before == {key: expected[key] for key in before}


def test_readers_of_a_service_that_has_gone(methods, whole):
    """Nothing of it is taken for damaged or missing."""
    store = MemoryStore()
    swept(methods, store)
    for read in (jf.status, jf.open_results, lambda place: jf.status(place, check=True)):
        for first in (0, 1, 2):
            gone = Faulty(store, lambda number, first=first: number >= first, ConnectionResetError)
            with pytest.raises(StoreError, match="cannot be reached .ConnectionResetError: slow down"):
                read(gone)
    half = Faulty(store)
    runs = jf.open_results(half)
    half.fails = lambda number: True
    with pytest.raises(StoreError, match="loss/c.0.*cannot be reached"):
        runs.loss.load()
    half.fails = lambda number: False
    assert runs.loss.load().notnull().any()


def test_a_zipped_store_is_read(stored, tmp_path):
    """As it was zipped, without its having been opened before; and where it is not writable."""
    archive = ZipStore(shutil.make_archive(str(tmp_path / "runs"), "zip", stored), mode="r")
    assert jf.status(archive, check=True).finished
    np.testing.assert_array_equal(jf.open_results(archive).loss, jf.open_results(stored).loss)
    archive.close()


def test_a_service_without_credentials():
    """Its client looks for them on the network at last, which says nothing to who has forgotten them."""

    def refused(_):
        return Throttled("Error performing PUT http://169.254.169.254/latest/api/token after 10 retries")

    with pytest.raises(StoreError, match="api/token .*; what is there is unchanged: no credentials were found"):
        jf.status(Faulty(MemoryStore(), lambda number: True, refused))


def test_a_listing_that_lags(methods, whole):
    """What was put is not listed for two answers: waited for, or one line; the bits are the same."""
    store = MemoryStore()
    found = swept(methods, Faulty(store, lag=2))
    assert (found.outcome != "pending").all()
    assert values(store) == whole[0]
    with pytest.raises(StoreError, match=r"tiles that were written are not listed; repeat the call, which finds them"):
        swept(methods, Faulty(MemoryStore(), lag=100))
