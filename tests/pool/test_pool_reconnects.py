"""A client that one thread closes or connects anew while others are in the midst of calls.

A call belongs to the seat that it began with, which nobody else gets before it ends; nothing of it touches another one.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from ringcast import errors
from ringcast.pool import Keys, PoolClient
from tests.pool.pools import (
    CACHED,
    CHUNK,
    COMMITTED,
    LOOSE,
    RESERVED,
    SPACE,
    Starter,
    begun,
    content,
    fill,
    long_turns,
    pool,
    retrieved,
    some_keys,
    start_server,
    store,
)
from tests.support import DEADLINE_S, eventually, unique_name


@pytest.fixture(autouse=True)
def _long_turns() -> Iterator[None]:
    with long_turns():
        yield


def is_stored(client: PoolClient, keys: Keys) -> bool:
    return set(store(client, keys)) <= {COMMITTED, CACHED}


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_that_there_is_no_server_is_told_however_often_it_is_asked(start: Starter, how: str) -> None:
    """What is withdrawn from a server that is gone keeps its slot of the mailbox: there are eight."""
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, layout=CHUNK, regain=0.01, timeout=DEADLINE_S) as client:
        store(client, keys := some_keys(1))
        if how == "killed":
            server.kill()
        else:
            server.signal(signal.SIGTERM)
            eventually(lambda: client.health.server == "gone")
        error = errors.ServerDiedError if how == "killed" else errors.PoolClosedError
        for i in range(20):
            with pytest.raises(error, match="prepare_store of 2 keys"):
                client.prepare_store(some_keys(2, first=1))
            with pytest.raises(error, match="clear: "):
                client.clear(SPACE if i % 2 else None)
            assert retrieved(client, keys) == 1


def test_a_store_of_many_requests_does_not_go_on_in_the_next_seat(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name, 64)
    with PoolClient.connect(name, "w", layout=CHUNK, timeout=DEADLINE_S) as client:
        for first in range(4):
            server.signal(signal.SIGSTOP)
            call = begun(partial(client.prepare_store, some_keys(300, first, LOOSE)))
            client.reconnect()
            os.kill(server.pid, signal.SIGCONT)
            with pytest.raises(errors.PoolClosedError):
                call.result()
            keys = some_keys(40, first=10 + first)
            eventually(partial(is_stored, client, keys), "what the other seat had reserved")
            assert retrieved(client, keys) == 40


@pytest.mark.parametrize("what", ["prepare", "abort", "clear"])
def test_a_call_that_waits_ends_in_the_seat_that_it_began_with(start: Starter, what: str) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with PoolClient.connect(name, "w", layout=CHUNK, timeout=DEADLINE_S) as client:
        store(client, some_keys(1, first=1))
        lease = client.prepare_store(some_keys(4))
        calls: dict[str, Callable[[], Any]] = {
            "prepare": lambda: client.prepare_store(some_keys(4, first=2)).statuses,
            "abort": lambda: client.abort_store(lease),
            "clear": client.clear,
        }
        server.signal(signal.SIGSTOP)
        call = begun(calls[what])
        if what != "abort":
            del lease, calls  # so that nothing but the call needs the seat
        client.reconnect()
        os.kill(server.pid, signal.SIGCONT)
        assert call.result() == ([RESERVED] * 4 if what == "prepare" else None)
        assert retrieved(client, some_keys(1, first=1)) == (what != "clear")
        for first in range(3):
            eventually(partial(is_stored, client, some_keys(4, first)), "what the other seat had reserved")


@pytest.mark.parametrize("again", [False, True])
def test_a_retrieve_that_waits_pins_nothing_in_a_seat_that_is_another_s_by_now(again: bool) -> None:
    """That seat's new client holds a chunk at the same place of its pins, which the old one would take away."""
    with pool(chunks=16, clients=2, policy="lru") as (_, [client, other]):
        pending = other.prepare_store(some_keys(1))
        fill(pending)
        call = begun(lambda: client.prepare_retrieve(some_keys(1), wait=DEADLINE_S))
        if again:
            client.reconnect()
        else:
            client.close()
        other.commit_store(pending)
        with pytest.raises(errors.PoolClosedError, match="was closed"):
            call.result()
        if not again:
            return
        store(client, keys := some_keys(1, first=1))
        view = client.prepare_retrieve(keys).slots[0].array
        del call
        for first in range(2, 6):
            store(other, some_keys(15, first))
        assert bytes(view) == bytes(content(keys[0]))


def test_a_lease_of_before_is_not_exported_as_one_of_now() -> None:
    with pool() as (_, [client]):
        store(client, keys := some_keys(2))
        found = client.prepare_retrieve(keys)
        client.reconnect()
        with pytest.raises(errors.LeaseExpiredError, match="before a reconnect"):
            found.export()
        assert [bytes(slot.array) for slot in found.slots] == [bytes(content(key)) for key in keys]
