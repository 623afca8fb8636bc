"""Clients and servers that are killed: memory comes back, hits go on, and the next server takes everything over."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import Any

import pytest

from ringcast import errors
from ringcast.pool import PoolClient, PoolServer
from tests.pool.pools import (
    CACHED,
    CHUNK,
    COMMITTED,
    RESERVED,
    Starter,
    content,
    fill,
    pool,
    retrieved,
    some_keys,
    start_server,
    store,
)
from tests.support import DEADLINE_S, SHM, Link, eventually, segments, unique_name


def holding(link: Link, name: str, what: str) -> None:
    """A client that reserves, fills, or pins, says so, and does nothing more."""
    client = PoolClient.connect(name, "victim", layout=CHUNK)
    keys = some_keys(4, first=7)
    if what == "pinned":
        store(client, keys)
        kept: Any = client.prepare_retrieve(keys)
    else:
        kept = client.prepare_store(keys)
        if what == "filled":
            fill(kept)
    link.send(what)
    link.recv()
    del kept


@pytest.mark.parametrize("what", ["reserved", "filled", "pinned"])
def test_a_killed_clients_memory_comes_back_and_nothing_unwritten_is_seen(start: Starter, what: str) -> None:
    with pool(chunks=64) as (server, [client]):
        victim = start(holding, server.name, what)
        assert victim.receive() == what
        victim.kill()
        there = 4 if what == "pinned" else 0
        eventually(lambda: server.stats()["reserved"] == 0 and len(server.stats()["clients"]) == 1, "the seat's return")
        assert server.stats()["used_bytes"] == there * CHUNK
        assert retrieved(client, some_keys(4, first=7)) == there
        assert store(client, some_keys(64, first=8)) == [COMMITTED] * 64, "what the dead pinned may go"


def test_a_stopped_clients_pins_never_expire(start: Starter) -> None:
    with pool(chunks=16) as (server, [client]):
        victim = start(holding, server.name, "pinned")
        victim.receive()
        victim.signal(signal.SIGSTOP)
        for i in range(5):
            store(client, some_keys(12, first=20 + i))
        assert retrieved(client, some_keys(4, first=7)) == 4


def test_hits_go_on_without_a_server_and_calls_that_need_it_say_that_it_died(start: Starter) -> None:
    name = unique_name("p")
    server, adopted = start_server(start, name)
    assert not adopted
    with PoolClient.connect(name, "w", layout=CHUNK, regain=0.3) as client:
        keys = some_keys(5)
        store(client, keys)
        open_store = client.prepare_store(some_keys(2, first=1))
        server.kill()
        assert retrieved(client, keys) == 5
        assert client.lookup(keys).memory == 5
        assert client.health.server == "gone"
        with pytest.raises(errors.ServerDiedError, match=f"pid {server.pid}.*died"):
            client.prepare_store(some_keys(1, first=2))
        with pytest.raises(errors.ServerDiedError):
            client.commit_store(open_store)
        with pytest.raises(errors.PoolConnectError, match="no living server"):
            PoolClient.connect(name, layout=CHUNK)


def test_the_next_server_takes_everything_over(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with (
        PoolClient.connect(name, "w", layout=CHUNK) as client,
        PoolClient.connect(name, "v", layout=CHUNK) as other,
    ):
        keys, pinned = some_keys(5), some_keys(3, first=5)
        store(client, keys)
        store(client, pinned)
        open_store = client.prepare_store(some_keys(6)[:])  # the last one is missing
        lost = other.prepare_store(some_keys(2, first=1))
        held = client.prepare_retrieve(pinned)
        fill(open_store)
        before = client.info
        server.kill()
        victim, adopted = start_server(start, name)
        assert adopted
        assert client.info.epoch == before.epoch + 1
        assert retrieved(client, keys) == 5
        client.commit_store(open_store)
        assert retrieved(other, some_keys(6)) == 6, "a store in progress commits with the next server"
        fill(lost)
        assert other.commit_store(lost) == [COMMITTED] * 2
        for i in range(10, 16):
            store(client, some_keys(40, first=i))
        client.commit_retrieve(held)
        assert retrieved(client, pinned) == 3, "it was pinned all the time"
        victim.kill()


def test_a_call_in_flight_is_answered_by_the_next_server(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=CHUNK, regain=60.0, timeout=120.0) as client:
        keys = some_keys(3)
        server.signal(signal.SIGSTOP)
        statuses: list[Any] = []
        asker = threading.Thread(target=lambda: statuses.extend(store(client, keys)))
        asker.start()
        server.kill()
        _, adopted = start_server(start, name)
        assert adopted
        asker.join(60.0)
        assert statuses == [COMMITTED] * 3
        assert retrieved(client, keys) == 3


def test_a_stopped_server_is_named_by_the_time_out_and_delays_no_hit(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with (
        PoolClient.connect(name, "w7", layout=CHUNK, timeout=0.3) as client,
        PoolClient.connect(name, layout=CHUNK, timeout=DEADLINE_S) as patient,
    ):
        keys = some_keys(3)
        store(patient, keys)
        server.signal(signal.SIGSTOP)
        assert client.health.server == "stopped"
        assert retrieved(client, keys) == 3
        with pytest.raises(errors.PoolTimeoutError, match=r"worker 'w7'.*waited \d[.\d]* s.*stopped"):
            client.prepare_store(some_keys(2, first=1))
        os.kill(server.pid, signal.SIGCONT)
        eventually(
            lambda: patient.prepare_store(some_keys(2, first=1)).statuses == [RESERVED] * 2, "what was withdrawn"
        )


def test_what_was_reserved_and_not_heard_of_is_undone(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=CHUNK, timeout=0.2) as client:
        server.signal(signal.SIGSTOP)
        for i in range(8):
            with pytest.raises(errors.PoolTimeoutError):
                client.prepare_store(some_keys(2, first=i))
        with pytest.raises(errors.PoolTimeoutError, match="mailbox"):
            client.prepare_store(some_keys(2, first=8))
        os.kill(server.pid, signal.SIGCONT)
        for i in range(9):
            eventually(partial(_stores, client, i), "a free slot of the mailbox")
        assert client.lookup(some_keys(2, first=8)).memory == 2


def _stores(client: PoolClient, first: int) -> bool:
    """Stores, or finds stored what it has not heard of the last time."""
    try:
        return set(store(client, some_keys(2, first=first))) <= {CACHED, COMMITTED}
    except errors.PoolTimeoutError:
        return False


def test_a_killed_server_and_its_last_client_leave_nothing(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    client = PoolClient.connect(name, layout=CHUNK)
    segment = client.info.segment
    server.kill()
    assert segment in segments()
    client.close()
    assert segment not in segments()


def test_a_server_that_dies_alone_is_swept_by_the_next_one(start: Starter) -> None:
    server, _ = start_server(start, unique_name("p"))
    left = {name for name in segments() if "+" in name}
    assert len(left) == 1
    server.kill()
    assert left <= segments()
    with pool():
        assert not left & segments()


def test_what_a_killed_server_left_that_nobody_maps_is_the_next_ones_of_its_name(start: Starter) -> None:
    name = unique_name("p")
    first, _ = start_server(start, name)
    with PoolClient.connect(name, layout=CHUNK) as client:
        store(client, some_keys(4))
        segment = client.info.segment
    first.kill()
    second, adopted = start_server(start, name)
    assert adopted
    with PoolClient.connect(name, layout=CHUNK) as client:
        assert retrieved(client, some_keys(4)) == 4
    second.kill()
    with pool():
        assert segment not in segments(), "the next sweep takes it"


def test_a_kept_pool_waits_for_its_next_server(start: Starter) -> None:
    name = unique_name("p")
    with PoolServer(name, 64 * CHUNK, entries=64, keep=True) as server:
        segment = server.segment
        with PoolClient.connect(name, layout=CHUNK) as client:
            store(client, some_keys(4))
    assert segment in segments()
    with pool():
        assert segment in segments(), "no sweep takes it"
    second, adopted = start_server(start, name, keep=True)
    assert adopted
    with PoolClient.connect(name, layout=CHUNK) as client:
        assert retrieved(client, some_keys(4)) == 4
    second.kill()
    assert segment in segments()
    (SHM / segment).unlink()


def test_other_sizes_are_refused_with_both(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, layout=CHUNK):
        server.kill()
        with pytest.raises(errors.SegmentMismatchError, match=r"64 entries.*128 entries"):
            PoolServer(name, 64 * CHUNK, entries=128).start()


def test_termination_ends_a_server_in_order(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, layout=CHUNK) as client:
        segment = client.info.segment
        os.kill(server.pid, signal.SIGTERM)
        eventually(lambda: segment not in segments(), "the pool's end")
        with pytest.raises(errors.PoolClosedError):
            client.prepare_store(some_keys(1))


def test_a_forked_childs_client_is_its_parents(start: Starter) -> None:
    with pool() as (_, [client]):
        store(client, some_keys(2))
        pid = os.fork()
        if pid == 0:
            try:
                client.lookup(some_keys(2))
            except errors.ForkedError:
                client.close()
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        assert retrieved(client, some_keys(2)) == 2


def test_what_is_content_is_content() -> None:
    assert bytes(content(b"ab", 5)) == b"ababa"
