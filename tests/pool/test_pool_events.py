"""What happens to chunks is told in order, to whoever asks, and a picture made of it is what is in the pool."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from ringcast import MessageQueue, errors
from ringcast.instruments.looking import sweep
from ringcast.pool import Namespace, PoolClient, PoolEvent, PoolServer, describe, watch
from tests.pool.pools import CHUNK, SPACE, Picture, Starter, fill, pool, some_keys, store
from tests.support import DEADLINE_S, Link, eventually, started_pids, unique_name

OTHER = Namespace("other", dtype="uint8", layout="bytes", salt=b"tenant 7")


@pytest.fixture(autouse=True)
def _servers_wait_until_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a function may have its last events later than a server that ends waits for."""
    monkeypatch.setattr("ringcast.pool._events._LINGER_S", DEADLINE_S)


def present(client: PoolClient, *chains: Any) -> set[bytes]:
    """The keys of these chains that are there."""
    return {key for keys in chains for key in list(keys)[: client.lookup(keys).memory]}


def kinds(events: Iterable[PoolEvent]) -> list[str]:
    return [event.kind for event in events]


def test_each_store_removal_and_clearing_is_an_event_with_all_that_routers_need() -> None:
    seen: list[PoolEvent] = []
    with pool(chunks=16, on_event=seen.extend) as (server, [client]):
        chain, others = some_keys(3), some_keys(2, space=OTHER)
        store(client, chain)
        store(client, others)
        client.clear(OTHER)
        client.clear()
        server.close()
    assert kinds(seen) == ["stored"] * 5 + ["cleared"] * 2
    assert [event.number for event in seen] == list(range(7))
    assert [event.key for event in seen[:5]] == [*chain, *others]
    assert [event.parent for event in seen[:5]] == [None, chain[0], chain[1], None, others[0]]
    assert {event.length for event in seen[:5]} == {CHUNK}
    assert [event.space for event in seen] == [SPACE.digest[:8]] * 3 + [OTHER.digest[:8]] * 3 + [None]
    assert seen[3].tenant == OTHER.salt_digest[:8]
    assert [event.at_ns for event in seen] == sorted(event.at_ns for event in seen)


def test_what_is_evicted_or_goes_with_its_parent_is_told_and_an_aborted_store_is_not() -> None:
    seen: list[PoolEvent] = []
    with pool(chunks=16, clients=2, on_event=seen.extend) as (server, [client, other]):
        for number in range(8):
            store(client, some_keys(4, first=number))
        lease = client.prepare_store(some_keys(2, first=99))
        assert other.prepare_store(some_keys(4, first=99)).slots  # whose parents are pending
        client.abort_store(lease)
        server.close()
    reasons = {event.reason for event in seen if event.kind == "removed"}
    assert reasons == {"evicted"}
    assert sum(event.kind == "stored" for event in seen) == 32


def test_a_damaged_chunk_is_removed_and_its_children_are_orphans() -> None:
    seen: list[PoolEvent] = []
    with pool(chunks=16, on_event=seen.extend) as (server, [client]):
        keys = some_keys(3)
        lease = client.prepare_store(keys)
        fill(lease)
        array = lease.slots[0].array
        address = array.ctypes.data
        client.commit_store(lease)
        ctypes.memset(address + 100, 0x5A, 1)
        with PoolClient.connect(server.name, layout=CHUNK) as reader, reader.retrieve(keys) as found:
            assert len(found.slots) < 3
        server.close()
    removed = {event.key: event.reason for event in seen if event.kind == "removed"}
    assert removed == {keys[0]: "damaged", keys[1]: "orphaned", keys[2]: "orphaned"}


def test_a_picture_made_of_events_is_what_is_in_the_pool() -> None:
    with pool(chunks=32) as (server, [client]):
        chains = [some_keys(5, first=number) for number in range(20)]
        store(client, chains[0])
        events = watch(server.name)
        picture = Picture()
        for number, chain in enumerate(chains):
            store(client, chain)
            if number % 3 == 0:
                picture.add(next(events))
            if number == 11:
                client.clear(SPACE)
        last = describe(server.name)["events"]
        server.close()
        for batch in events:
            picture.add(batch)
        assert picture.next == last
    assert picture.resyncs == 1


def test_a_watcher_that_falls_behind_makes_its_picture_anew() -> None:
    with pool(chunks=16) as (server, [client]):
        events = watch(server.name)
        picture = Picture()
        picture.add(next(events))
        for number in range(400):  # more than the journal of a small pool holds
            store(client, some_keys(4, first=number))
        there = describe(server.name)["events"]
        while picture.next < there:
            picture.add(next(events))
        assert picture.resyncs == 2
        chains = [some_keys(4, first=number) for number in range(400)]
        assert set(picture.keys) == present(client, *chains)
        server.close()
        assert list(events) == []


def test_a_watcher_may_go_on_where_another_one_stopped() -> None:
    with pool(chunks=16) as (server, [client]):
        store(client, some_keys(4))
        assert [event.number for event in next(watch(server.name, after=2))] == [2, 3]
        ahead = next(watch(server.name, after=1000))  # of another pool, which is gone
        assert kinds(ahead) == ["resync"] + ["stored"] * 4
        assert {event.number for event in ahead} == {4}


@pytest.mark.parametrize("after", [-1, True, "3", 1.0, 1 << 63])
def test_a_wrong_number_is_refused(after: Any) -> None:
    with pool() as (server, _), pytest.raises(errors.RingcastError):
        watch(server.name, after=after)


def test_there_is_nothing_to_watch_without_a_pool() -> None:
    with pytest.raises(errors.PoolConnectError, match="no"):
        watch(unique_name("p"))


@pytest.mark.parametrize("sink", ["a name", 7, []])
def test_events_are_told_to_nothing_else(sink: Any) -> None:
    with pytest.raises(errors.ArgumentTypeError, match="on_event"):
        PoolServer(unique_name("p"), "1MiB", on_event=sink)


def test_a_function_that_raises_is_logged_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[PoolEvent] = []

    def sink(events: list[PoolEvent]) -> None:
        if not seen:
            seen.extend(events)
            raise ValueError("not today")
        seen.extend(events)

    with caplog.at_level(logging.ERROR, "ringcast"), pool(chunks=16, on_event=sink) as (server, [client]):
        store(client, some_keys(1))
        eventually(lambda: len(seen) == 1)
        store(client, some_keys(1, first=1))
        server.close()
    assert len(seen) == 2
    assert "events 0 to 0 could not be told" in caplog.text


def test_a_function_that_blocks_holds_nobody_up_and_is_told_what_it_missed() -> None:
    picture = Picture()
    go_on = threading.Event()

    def sink(events: list[PoolEvent]) -> None:
        go_on.wait()
        picture.add(events)

    with pool(chunks=16, on_event=sink) as (server, [client]):
        for number in range(400):
            store(client, some_keys(4, first=number))
        go_on.set()
        chains = [some_keys(4, first=number) for number in range(400)]
        eventually(lambda: set(picture.keys) == present(client, *chains))
        server.close()
    assert picture.resyncs == 1


def test_a_function_that_never_returns_keeps_no_server_from_ending(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ringcast.pool._events._LINGER_S", 0.1)
    called, go_on = threading.Event(), threading.Event()

    def sink(events: list[PoolEvent]) -> None:
        called.set()
        go_on.wait()

    with pool(chunks=16, on_event=sink) as (server, [client]):
        store(client, some_keys(1))
        assert called.wait(DEADLINE_S)
        server.close()
    assert "on_event has not returned" in caplog.text
    go_on.set()


def test_a_function_may_close_the_server() -> None:
    name = unique_name("p")
    server: PoolServer = PoolServer(name, "1MiB", on_event=lambda events: server.close()).start()
    with PoolClient.connect(name, layout=CHUNK) as client:
        store(client, some_keys(1))
        server.serve_forever()  # until it is closed
    assert server.closed


def test_a_queue_gets_each_batch() -> None:
    queue: MessageQueue[list[PoolEvent]] = MessageQueue(1, 1)
    reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
    with queue, reader, pool(chunks=16, on_event=queue) as (server, [client]):
        keys = some_keys(3)
        store(client, keys)
        server.close()
        got: list[PoolEvent] = []
        while len(got) < 3:
            got.extend(PoolEvent(*event) for event in reader.dequeue(timeout=DEADLINE_S))
    assert [event.key for event in got] == list(keys)


def test_a_full_queue_does_not_keep_the_server_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    queue: MessageQueue[list[PoolEvent]] = MessageQueue(1, 1, max_chunks=1)
    reader = MessageQueue.create_from_handle(queue.export_handle(), 0)  # which reads nothing
    with queue, reader, pool(chunks=16, on_event=queue) as (server, [client]):
        store(client, some_keys(1))
        eventually(lambda: reader.qsize() == 1, "the only message for which there is room")
        store(client, some_keys(1, first=1))
        server.close()
    assert "its events from 1 on were not sent, for the queue is full" in caplog.text


def serving(link: Link, name: str) -> None:
    PoolServer(name, 64 * CHUNK, entries=64).start()
    link.send("serving")
    link.recv()


def test_an_adopted_pool_is_told_anew(start: Starter) -> None:
    name = unique_name("p")
    child = start(serving, name)
    assert child.receive() == "serving"
    seen = Picture()
    with PoolClient.connect(name, layout=CHUNK) as client:
        keys = some_keys(4)
        store(client, keys)
        events = watch(name)
        picture = Picture()
        picture.add(next(events))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with PoolServer(name, 64 * CHUNK, entries=64, on_event=seen.add) as server:
            assert server.adopted
            store(client, some_keys(2, first=1))
            eventually(lambda: len(seen.keys) == 6)
            while len(picture.keys) < 6:
                picture.add(next(events))
    assert seen.resyncs == 1
    assert picture.resyncs == 2
    assert picture.keys == seen.keys


def test_a_watcher_is_told_that_the_pool_is_gone_with_its_server(start: Starter) -> None:
    name = unique_name("p")
    child = start(serving, name)
    assert child.receive() == "serving"
    events = watch(name)
    next(events)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    sweep()
    with pytest.raises(errors.ServerDiedError, match="nobody took the pool over"):
        next(events)


def test_the_command_writes_events_as_they_come() -> None:
    with pool(chunks=16) as (server, [client]):
        command = [sys.executable, "-m", "ringcast", "pool", "events", server.name, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started_pids.add(process.pid)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "resync"
        keys = some_keys(2)
        store(client, keys)
        told = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert [event["key"] for event in told] == [key.hex() for key in keys]
        server.close()
        assert process.wait(DEADLINE_S) == 0
        process.stdout.close()
