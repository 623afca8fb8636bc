"""Whatever users' code raises in threads of a pool's: the next events are told, the next copies made, futures end."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue, Selector, _core, errors
from ringcast.pool import (
    FileTier,
    KVLayout,
    ObjectTier,
    PoolClient,
    PoolEvent,
    PoolServer,
    _copies,
    _events,
    gather_paged,
    remove,
    watch,
)
from tests.mishaps import MISHAPS, filtered, no_threads
from tests.pool.pools import CHUNK, Picture, Starter, pool, some_keys, start_server, store
from tests.support import DEADLINE_S, Background, eventually, unique_name


@pytest.mark.parametrize("kind", MISHAPS)
def test_what_on_event_raises_keeps_no_later_event_from_it(
    kind: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[int] = []
    first = threading.Event()

    def on_event(batch: list[PoolEvent]) -> None:
        told.extend(event.number for event in batch)
        if not first.is_set():
            first.set()
            raise kind()

    with pool(chunks=16, on_event=on_event) as (_, [client]):
        store(client, some_keys(1))
        assert first.wait(DEADLINE_S)
        store(client, some_keys(3, 1))
        eventually(lambda: len(told) == 4, "the other events")
    assert told == [0, 1, 2, 3]
    assert f"events 0 to 0 could not be told: {type(kind()).__name__}" in caplog.text


def test_who_logs_that_may_raise_too() -> None:
    told: list[int] = []
    logged = threading.Event()

    def on_event(batch: list[PoolEvent]) -> None:
        told.extend(event.number for event in batch)
        raise ValueError

    def exits(record: logging.LogRecord) -> bool:
        logged.set()
        raise SystemExit

    with filtered("ringcast.pool", exits), pool(chunks=16, on_event=on_event) as (_, [client]):
        store(client, some_keys(1))
        assert logged.wait(DEADLINE_S)
        store(client, some_keys(3, 1))
        eventually(lambda: len(told) == 4, "the other events")
    assert told == [0, 1, 2, 3]


def test_events_that_could_not_be_read_are_made_good_by_a_resync(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_events, "_RETRY_S", 0.0)
    read, go_on, picture = _events._batches, threading.Event(), Picture()
    broken = iter([True])

    def batches(*arguments: Any) -> Iterator[list[PoolEvent]]:
        if next(broken, False):
            assert go_on.wait(DEADLINE_S)
            raise errors.SegmentMismatchError("of another release")
        yield from read(*arguments)

    monkeypatch.setattr(_events, "_batches", batches)
    with pool(chunks=16, on_event=picture.add) as (_, [client]):
        keys, more = some_keys(3), some_keys(2, 1)
        store(client, keys)
        go_on.set()
        eventually(lambda: picture.resyncs == 1, "another picture")
        store(client, more)
        eventually(lambda: set(picture.keys) == {*keys, *more}, "the whole picture")
    assert "its events could not be read: SegmentMismatchError: of another release" in caplog.text


def test_a_server_ends_whose_events_cannot_be_read_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def batches(*_: Any) -> Iterator[list[PoolEvent]]:
        raise MemoryError

    monkeypatch.setattr(_events, "_batches", batches)
    with MessageQueue(1, name=unique_name("q")) as sink, pool(chunks=16, on_event=sink):
        pass
    eventually(lambda: "its last events were not told" in caplog.text)
    assert "its events could not be read: MemoryError" in caplog.text


def watched_until_its_server_died(start: Starter) -> Iterator[list[PoolEvent]]:
    name = unique_name("p")
    child, _ = start_server(start, name)
    events = watch(name)
    next(events)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return events


@pytest.mark.parametrize("kind", [errors.SegmentMismatchError, errors.SegmentPermissionError])
def test_a_dead_server_s_pool_is_gone_too_where_its_name_is_something_unreadable_s(
    start: Starter, monkeypatch: pytest.MonkeyPatch, kind: type[errors.SegmentError]
) -> None:
    events = watched_until_its_server_died(start)

    def unreadable(*_: Any) -> Any:
        raise kind("another release's, or another user's")

    monkeypatch.setattr(_core, "PoolMemory", unreadable)
    with pytest.raises(errors.ServerDiedError, match="nobody took the pool over"):
        next(events)


def test_that_it_cannot_be_looked_whether_a_pool_is_there_says_nothing_of_it(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = watched_until_its_server_died(start)
    looks = iter([errors.SystemCallError("too many open files"), errors.SegmentNotFoundError("none")])
    looked: list[BaseException] = []

    def at_last_gone(*_: Any) -> Any:
        looked.append(next(looks))
        raise looked[-1]

    monkeypatch.setattr(_core, "PoolMemory", at_last_gone)
    with pytest.raises(errors.ServerDiedError):
        next(events)
    assert len(looked) == 2


def test_a_copy_that_no_thread_can_be_had_for_is_made_by_its_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_copies, "_OWN_BYTES", 0)
    monkeypatch.setattr(_copies, "_pool", None)
    kv = np.arange(4 * 64, dtype=np.uint8).reshape(4, 64)
    layout = KVLayout.pages([(kv, 64)])
    with pool(chunks=16, chunk=64) as (server, _), PoolClient.connect(server.name, layout=layout) as client:
        with client.store(some_keys(2)) as lease, no_threads(monkeypatch):
            copied = gather_paged(kv, [3, 1], lease, layout)
            assert copied.done()
        expected = [bytes(kv[3]), bytes(kv[1])]
        kv[:] = 0
        assert _copies._pool is not None
        with _copies._pool as threads:
            threads.submit(int).result(DEADLINE_S)  # after what had been queued: it is not copied again
        with client.retrieve(some_keys(2)) as found:
            assert [bytes(slot.array) for slot in found.slots] == expected


@pytest.mark.parametrize("kind", MISHAPS)
def test_a_damage_that_cannot_be_told_is_logged(
    kind: Callable[[], BaseException], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Copy:
        def report(self) -> None:
            raise kind()

    says = "damaged chunks could not be told to their pool's server"
    _copies._report(Copy())  # type: ignore[arg-type]
    eventually(lambda: f"{says}, and are left to the next copy: {type(kind()).__name__}" in caplog.text)
    caplog.clear()
    with no_threads(monkeypatch):
        _copies._report(Copy())  # type: ignore[arg-type]
    assert says in caplog.text


def test_what_is_called_when_a_prefetch_is_done_changes_nothing_of_its_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on, called = threading.Event(), threading.Event()
    unhandled: list[Any] = []
    others: list[int] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)

    class Gated(PoolClient):
        def _prefetch(self, keys: Any, seconds: float) -> int:
            assert go_on.wait(DEADLINE_S)
            return 0

    def exits(_: Any) -> None:
        called.set()
        raise SystemExit

    before = set(threading.enumerate())
    with pool(chunks=16) as (server, _), Gated.connect(server.name, layout=CHUNK) as client:
        future = client.prefetch(some_keys(1))
        thread = next(one for one in set(threading.enumerate()) - before if one.name == "ringcast prefetch")
        future.add_done_callback(exits)
        future.add_done_callback(lambda done: others.append(done.result()))
        go_on.set()
        Background(thread.join).result()
        assert future.result() == 0
    assert called.is_set()
    assert others == [0], "who else is called"
    assert not unhandled


def test_a_server_that_cannot_begin_is_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for options in ({"on_event": print}, {"tiers": [FileTier(tmp_path / "tier", "1MiB", CHUNK)]}):
        server = PoolServer(unique_name("p"), "1MiB", **options)
        with no_threads(monkeypatch), pytest.raises(errors.SystemCallError, match=f"{server.name}.*thread.*limit"):
            server.start()
        assert server.closed
        with pytest.raises(errors.PoolConnectError, match="start its server first"):
            PoolClient.connect(server.name, layout=CHUNK)
    FileTier(tmp_path / "tier", "1MiB", CHUNK).close()  # which nobody has any more


def test_without_threads_a_client_s_calls_end_in_errors_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def ask(client: PoolClient) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(errors.PoolError, match=r"prefetch: can't start.*limit"):
                client.prefetch(some_keys(2)).result(0)
            with pytest.raises(errors.PoolError, match=r"aretrieve: can't start.*limit"):
                await client.aretrieve(some_keys(2), wait=DEADLINE_S)

    with pool() as (_, [client]):
        asyncio.run(ask(client))
        assert client.prefetch(some_keys(2)).result() == 0


def test_an_object_tier_opens_without_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    with no_threads(monkeypatch):
        tier = ObjectTier("memory:///", "prefix")
        assert tier.store([bytes(32)], [b"a chunk"]).result(0) == [False]
        assert tier.clear() == 1
        tier.close()


def test_a_tier_is_one_server_s(tmp_path: Path) -> None:
    tier = FileTier(tmp_path / "tier", "1MiB", CHUNK)
    with PoolServer(unique_name("p"), "1MiB", tiers=[tier]):
        other = PoolServer(unique_name("p"), "1MiB", tiers=[tier])
        with pytest.raises(errors.ArgumentError, match="is a tier of <PoolServer"):
            other.start()
        assert not tier.closed
    assert tier.closed


def test_what_belongs_to_a_process_says_so_to_who_pickles_it(tmp_path: Path) -> None:
    with (
        pool(chunks=4, tiers=[FileTier(tmp_path / "tier", "1MiB", CHUNK)]) as (server, [client]),
        Selector[int]() as selector,
    ):
        for one in (server, client, server._tiers[0], selector):
            for way in (pickle.dumps, copy.copy):
                with pytest.raises(TypeError, match="belongs to its process and cannot be pickled or copied"):
                    way(one)


def test_a_pool_s_errors_speak_of_pools() -> None:
    with pytest.raises(errors.CapacityError, match=r"or use a smaller capacity$"):
        PoolServer(unique_name("p"), 1 << 43).start()
    name = unique_name("p")
    PoolServer(name, "1MiB", keep=True).start().close()
    with pytest.raises(errors.SegmentMismatchError, match=f"what an earlier server left of pool '{name}' has 1.0 MiB"):
        PoolServer(name, "2MiB").start()
    remove(name)
