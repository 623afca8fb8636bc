"""What every tier promises, whichever it is."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ringcast.errors import (
    ArgumentError,
    ArgumentTypeError,
    ForkedError,
    MissingPackageError,
    PoolClosedError,
    TierError,
)
from ringcast.pool import ObjectTier, Tier
from ringcast.pool.tiers import _object
from tests.pool.pools import some_keys
from tests.pool.tiers import CHUNK, KINDS, DictTier, Kind, chunk, key, kind_of, loaded, store
from tests.support import eventually


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return kind_of(request.param, tmp_path, request)


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, CHUNK])
def test_what_was_stored_is_loaded(kind: Kind, size: int) -> None:
    with kind.open() as tier:
        assert not loaded(tier, 1, size)
        assert store(tier, 1, size=size) == [True]
        assert loaded(tier, 1, size)


def test_each_key_of_a_batch_has_its_own_answer(kind: Kind) -> None:
    with kind.open() as tier:
        assert store(tier, 1, 3) == [True, True]
        keys = [key(n) for n in range(4)]
        assert tier.exists(keys).result() == [False, True, False, True]
        slots = [bytearray(CHUNK) for _ in keys]
        assert tier.load(keys, slots).result() == [False, True, False, True]
        assert [bytes(slots[1]), bytes(slots[3])] == [chunk(1), chunk(3)]
        assert tier.store([], []).result() == tier.load([], []).result() == tier.exists([]).result() == []


def test_keys_and_arrays_of_a_pool_will_do(kind: Kind) -> None:
    keys = some_keys(3)
    arrays = [np.full((4, 64), n, np.float32) for n in range(3)]
    into = np.zeros((3, 4, 64), np.float32)
    with kind.open() as tier:
        assert tier.store(keys, arrays).result() == [True] * 3
        assert tier.load(keys, list(into)).result() == [True] * 3
    assert (into == np.stack(arrays)).all()


@pytest.mark.parametrize("offset", [1, 64, 512, 2048])
def test_memory_may_lie_anywhere(kind: Kind, offset: int) -> None:
    memory = np.zeros(CHUNK + 3 * 4096, np.uint8)
    first = -memory.ctypes.data % 4096 + offset
    slot = memory[first : first + CHUNK]
    with kind.open() as tier:
        slot[:] = np.frombuffer(chunk(1), np.uint8)
        assert tier.store([key(1)], [slot]).result() == [True]
        slot[:] = 0
        assert tier.load([key(1)], [slot]).result() == [True]
    assert bytes(slot) == chunk(1)
    assert not memory[:first].any()
    assert not memory[first + CHUNK :].any()


def test_a_chunk_of_another_length_is_not_there(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, 1)
        slot = bytearray(CHUNK - 1)
        assert tier.load([key(1)], [slot]).result() == [False]
        assert loaded(tier, 1)


def test_what_is_there_may_be_stored_again(kind: Kind) -> None:
    with kind.open() as tier:
        assert store(tier, 1) == store(tier, 1) == store(tier, 1) == [True]
        assert loaded(tier, 1)


def test_one_key_may_be_stored_by_many_at_once(kind: Kind) -> None:
    with kind.open() as tier:
        assert store(tier, *[1] * 16) == [True] * 16
        assert loaded(tier, 1)


def test_what_is_removed_is_gone_for_good(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, 1, 2)
        assert tier.remove([key(1), key(3)]).result() == [True, False]
        assert not loaded(tier, 1)
        assert loaded(tier, 2)
    with kind.open() as tier:
        assert tier.exists([key(1), key(2)]).result() == [False, True]


def test_chunks_are_there_when_it_is_opened_again(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, *range(20))
        assert tier.sync()
    with kind.open() as tier:
        assert all(loaded(tier, n) for n in range(20))


def test_what_is_cleared_is_gone_for_good(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, 1, 2)
        assert tier.clear() == tier.era == 1
        assert not loaded(tier, 1)
        assert tier.exists([key(1), key(2)]).result() == [False, False]
        assert store(tier, 2, 3) == [True, True]
    with kind.open() as tier:
        assert tier.era == 1
        assert [loaded(tier, n) for n in (1, 2, 3)] == [False, True, True]


def test_an_era_goes_up_only(kind: Kind) -> None:
    with kind.open() as tier:
        assert tier.clear(7) == 7
        store(tier, 1)
        assert tier.clear(7) == 7  # which it is already
        assert tier.era == 7
        with pytest.raises(ArgumentError, match="at least 7"):
            tier.clear(6)
    with kind.open() as tier:
        assert tier.era == 7


def test_wrong_bytes_are_a_miss_and_dropped(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, 1, 2)
        kind.spoil(1)
        assert not loaded(tier, 1)
        assert tier.stats()["corrupt"] == 1
        assert tier.exists([key(1)]).result() == [False]
        assert loaded(tier, 2)
        assert store(tier, 1) == [True]
        assert loaded(tier, 1)


def test_a_store_beyond_its_bytes_in_flight_is_refused_at_once(kind: Kind) -> None:
    with kind.open(in_flight=CHUNK - 1) as tier:
        refused = tier.store([key(1), key(2)], [chunk(1), chunk(2)[:100]])
        assert refused.result() == [False, True]
        stats = tier.stats()
        assert (stats["refused"], stats["in_flight_bytes"], stats["failed"]) == (1, 0, 0)


def test_bytes_in_flight_are_bounded_while_a_store_is_slow() -> None:
    held = threading.Event()

    class Slow(DictTier):
        def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
            assert held.wait(60)
            return super().store_chunk(key, chunk)

    with Slow({}, threads=2, in_flight=3 * CHUNK) as tier:
        first = tier.store([key(n) for n in range(5)], [chunk(n) for n in range(5)])
        assert tier.store([key(9)], [chunk(9)]).result() == [False]  # at once
        assert tier.stats()["in_flight_bytes"] == 3 * CHUNK
        held.set()
        assert first.result() == [True, True, True, False, False]
        assert tier.stats()["refused"] == 3
        assert store(tier, 9) == [True]


def test_figures_say_what_was_done(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, 1, 2)
        loaded(tier, 1)
        loaded(tier, 3)
        stats = tier.stats()
    assert (stats["stores"], stats["stored"], stats["stored_bytes"]) == (2, 2, 2 * CHUNK)
    assert (stats["loads"], stats["hits"], stats["loaded_bytes"]) == (2, 1, CHUNK)
    assert stats["store_rate"] > 0
    assert stats["load_rate"] > 0
    assert (stats["refused"], stats["failed"], stats["corrupt"], stats["last_error"]) == (0, 0, 0, "")


def test_a_closed_tier_says_so(kind: Kind) -> None:
    tier = kind.open()
    tier.close()
    tier.close()
    assert tier.closed
    for call in (
        lambda: store(tier, 1),
        lambda: loaded(tier, 1),
        lambda: tier.exists([key(1)]),
        lambda: tier.remove([key(1)]),
        tier.clear,
        tier.sync,
    ):
        with pytest.raises(PoolClosedError):
            call()


def test_jobs_that_were_begun_end_before_it_is_closed(kind: Kind) -> None:
    tier = kind.open()
    jobs = [tier.store([key(n)], [chunk(n)]) for n in range(30)]
    tier.close()
    assert all(job.done() and job.result() == [True] for job in jobs)
    with kind.open() as again:
        assert all(loaded(again, n) for n in range(30))


def test_a_forked_child_has_no_tier(kind: Kind) -> None:
    with kind.open() as tier:
        store(tier, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                tier.exists([key(1)])
            except ForkedError:
                tier.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert loaded(tier, 1)


def test_a_job_can_be_awaited(kind: Kind) -> None:
    async def both(tier: Tier) -> list[list[bool]]:
        stored = await asyncio.wrap_future(tier.store([key(1)], [chunk(1)]))
        return [stored, await asyncio.wrap_future(tier.exists([key(1)]))]

    with kind.open() as tier:
        assert asyncio.run(both(tier)) == [[True], [True]]


@pytest.mark.parametrize(
    ("keys", "slots", "error"),
    [
        (bytes(32), [b"x"], ArgumentTypeError),
        ("k" * 32, [b"x"], ArgumentTypeError),
        (None, [b"x"], ArgumentTypeError),
        (7, [b"x"], ArgumentTypeError),
        (["k" * 32], [b"x"], ArgumentTypeError),
        ([bytearray(32)], [b"x"], ArgumentTypeError),
        ([bytes(31)], [b"x"], ArgumentError),
        ([bytes(32)], b"x", ArgumentTypeError),
        ([bytes(32)], [1], ArgumentTypeError),
        ([bytes(32)], ["x"], ArgumentTypeError),
        ([bytes(32)], [None], ArgumentTypeError),
        ([bytes(32)], [], ArgumentError),
        ([bytes(32)], [b""], ArgumentError),
        ([bytes(32)], [np.zeros(8, np.uint8)[::2]], ArgumentError),
    ],
)
def test_arguments_that_make_no_sense_are_refused(keys: Any, slots: Any, error: type[Exception]) -> None:
    with DictTier({}) as tier:
        for call in (tier.store, tier.load):
            with pytest.raises(error):
                call(keys, slots)


def test_what_cannot_be_written_to_is_not_loaded_into() -> None:
    with DictTier({}) as tier, pytest.raises(ArgumentError, match="writable"):
        tier.load([key(1)], [b"read-only"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("threads", 0), ("threads", True), ("threads", "4"), ("in_flight", 0), ("in_flight", "much"), ("in_flight", 1.5)],
)
def test_options_that_make_no_sense_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=name):
        DictTier({}, **{name: value})


def test_a_tier_that_fails_is_a_tier_that_has_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(DictTier):
        def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
            raise OSError("the disk is gone")

        def load_chunk(self, key: bytes, into: memoryview) -> bool:
            raise OSError("the disk is gone")

        def has_chunk(self, key: bytes) -> bool:
            raise ConnectionError("the disk is gone")

        remove_chunk = has_chunk

        def clear_before(self, era: int) -> None:
            raise OSError("the disk is gone")

    with Gone({}) as tier:
        assert store(tier, 1, 2) == [False, False]
        assert not loaded(tier, 1)
        assert tier.exists([key(1)]).result() == tier.remove([key(1)]).result() == [False]
        assert tier.stats()["failed"] == 5
        assert "the disk is gone" in tier.stats()["last_error"]
        assert "the disk is gone" in caplog.text
        with pytest.raises(TierError, match="the disk is gone"):
            tier.clear()


def test_many_threads_find_right_bytes_or_none(kind: Kind) -> None:
    wrong: list[str] = []
    hits = [0] * 4

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(120):
            number = chance.randrange(24)
            act = chance.randrange(8)
            try:
                if act < 3:
                    store(tier, number)
                elif act < 7:
                    hits[seed] += loaded(tier, number)
                else:
                    tier.remove([key(number)]).result()
                if chance.randrange(100) == 0:
                    tier.clear()
            except BaseException as error:
                wrong.append(repr(error))

    with kind.open() as tier:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = tier.stats()
    assert wrong == []
    assert sum(hits) > 0
    assert (stats["corrupt"], stats["failed"]) == (0, 0), stats["last_error"]


def test_objects_of_earlier_eras_are_removed(tmp_path: Path) -> None:
    stores: Any = pytest.importorskip("obstore.store")
    with ObjectTier(stores.LocalStore(tmp_path), "pool") as tier:
        store(tier, *range(5))
        tier.clear()
        store(tier, 7)

        def left() -> bool:
            return sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(["ERA", key(7).hex()])

        eventually(left, "the removal of what was cleared")
        assert loaded(tier, 7)


@pytest.mark.parametrize("what", ["empty", "in its header", "in its bytes", "longer", "much longer", "another key's"])
def test_an_object_that_is_another_one_is_dropped_whatever_its_length(tmp_path: Path, what: str) -> None:
    """And of one that is longer no more is fetched than a chunk: whoever wrote it says how long it is."""
    stores: Any = pytest.importorskip("obstore.store")
    obstore: Any = pytest.importorskip("obstore")
    with ObjectTier(stores.LocalStore(tmp_path), "pool") as tier:
        store(tier, 1, 2)
        one, two = (tmp_path / "pool" / f"{0:016x}" / key(n).hex() for n in (1, 2))
        if what == "another key's":
            one.write_bytes(two.read_bytes())
        else:
            whole = one.stat().st_size
            lengths = {"empty": 0, "in its header": 30, "in its bytes": 99, "longer": whole + 1}
            os.truncate(one, lengths.get(what, 64 << 20))
        fetched = []

        def get(*arguments: Any) -> Any:
            result = obstore.get(*arguments)

            def fetch() -> Any:
                fetched.append(result.meta["size"])
                return result.bytes()

            return SimpleNamespace(meta=result.meta, bytes=fetch)

        tier._obstore = SimpleNamespace(**{**vars(obstore), "get": get})
        assert not loaded(tier, 1)
        assert tier.stats()["corrupt"] == 1
        assert sum(fetched) <= 2 * CHUNK
        assert not one.exists()
        assert loaded(tier, 2)


def test_a_chunk_of_another_length_is_no_damage(tmp_path: Path) -> None:
    stores: Any = pytest.importorskip("obstore.store")
    with ObjectTier(stores.LocalStore(tmp_path), "pool") as tier:
        store(tier, 1)
        assert not loaded(tier, 1, CHUNK - 1)
        assert not loaded(tier, 1, CHUNK + 1)
        assert loaded(tier, 1)
        assert tier.stats()["corrupt"] == 0


def test_what_is_no_tiers_is_left_alone(tmp_path: Path) -> None:
    stores: Any = pytest.importorskip("obstore.store")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "somebody's").write_text("letters")
    with pytest.raises(TierError, match="somebody's"):
        ObjectTier(stores.LocalStore(tmp_path), "pool")
    (tmp_path / "pool" / "ERA").write_text("of the dinosaurs")
    with pytest.raises(TierError, match="ERA is not a tier's"):
        ObjectTier(stores.LocalStore(tmp_path), "pool")
    assert (tmp_path / "pool" / "somebody's").read_text() == "letters"


def test_an_object_store_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    pytest.importorskip("obstore")
    with pytest.raises(ArgumentError):
        ObjectTier("nonsense://somewhere")
    with pytest.raises(ArgumentTypeError):
        ObjectTier(tmp_path)
    with pytest.raises(ArgumentError, match="prefix"):
        ObjectTier("memory:///", "/")


def test_what_an_object_tier_needs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    if sys.version_info >= (3, 11):
        with pytest.raises(MissingPackageError, match=r"ringcast\[object\]"):
            ObjectTier("memory:///")
    monkeypatch.setattr(_object, "_OLDEST_PYTHON", (99, 0))
    with pytest.raises(MissingPackageError, match=r"needs Python 3\.11; this is"):
        ObjectTier("memory:///")
