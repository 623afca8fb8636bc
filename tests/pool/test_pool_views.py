"""Views of chunks: what each keeps pinned beyond its lease, and that the collector finds leases in cycles."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import weakref
from functools import partial
from typing import Any

import pytest

from ringcast import errors
from ringcast.pool import Keys, Namespace, PoolClient, keys_from_hashes
from tests.pool import pools
from tests.pool.pools import BUSY, LOOSE, content, retrieved, some_keys, store
from tests.support import unique_name

pool = partial(pools.pool, policy="lru")
RUN = some_keys(8, first=1)


def press(client: PoolClient, first: int = 100) -> None:
    for i in range(6):
        store(client, some_keys(4, first=first + i))


def test_a_view_keeps_its_chunk_and_those_before_it_and_no_others() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, RUN)
        with client.retrieve(RUN) as found:
            slots = found.slots
            views = [slots[i].array for i in (1, 4)]
            assert client.held_pins == 1
        assert client.held_pins == 1
        press(other)
        assert other.lookup(RUN).memory == 5, "of a run stays what is needed to reach what is viewed"
        del views[1]
        press(other, first=200)
        assert other.lookup(RUN).memory == 2
        assert bytes(views[0]) == bytes(content(RUN[1]))
        views.clear()
        assert client.held_pins == 0
        press(other, first=300)
        assert other.lookup(RUN).memory == 0


def test_a_view_of_a_whole_run_keeps_it_until_it_goes() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, RUN)
        lease = client.prepare_retrieve(RUN)
        last, first, again = (lease.slots[i].array for i in (7, 0, 0))
        client.commit_retrieve(lease)
        press(other)
        assert other.lookup(RUN).memory == 8
        del last, first
        press(other, first=200)
        assert other.lookup(RUN).memory == 1
        assert bytes(again) == bytes(content(RUN[0]))


def test_views_of_loose_chunks_keep_their_own_alone() -> None:
    loose = some_keys(6, first=1, space=LOOSE)
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, loose)
        with client.retrieve(loose, leading=False) as found:
            views = [found.slots[i].array for i in (0, 3)]
            assert client.held_pins == 6
        assert client.held_pins == 2
        press(other)
        assert [other.lookup(loose[i : i + 1]).memory for i in range(6)] == [1, 0, 0, 1, 0, 0]
        assert [bytes(view) == bytes(content(loose[i])) for i, view in zip((0, 3), views, strict=True)] == [True] * 2


def test_a_full_row_of_pins_is_no_obstacle() -> None:
    with pool(chunks=16, clients=2, pins=16) as (_, [client, other]):
        store(client, RUN[:2])
        loose = some_keys(1, first=2, space=LOOSE)
        store(client, loose)
        run = client.prepare_retrieve(RUN[:2])
        view = run.slots[0].array
        leases = [client.prepare_retrieve(loose) for _ in range(15)]
        assert client.prepare_retrieve(RUN[:1]).statuses == [BUSY]
        client.commit_retrieve(run)
        assert client.held_pins == 16
        press(other)
        assert other.lookup(RUN[:2]).memory == 1
        assert other.lookup(loose).memory == 1
        assert bytes(view) == bytes(content(RUN[0]))
        leases.clear()
        assert client.held_pins == 1


def test_views_of_a_store_keep_their_own_chunks() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        lease = client.prepare_store(RUN[:4])
        pools.fill(lease)
        view = lease.slots[1].array
        client.commit_store(lease)
        assert client.held_pins == 1
        press(other)
        assert other.lookup(RUN[:4]).memory == 2
        assert bytes(view) == bytes(content(RUN[1]))


def test_a_view_outlives_its_lease_its_slot_and_its_client() -> None:
    with pool(chunks=16, clients=2) as (_, [client, other]):
        store(client, RUN)
        view = client.prepare_retrieve(RUN).slots[2].array  # never given back by a call
        client.close()
        del client
        press(other)
        assert other.lookup(RUN).memory == 3
        assert bytes(view) == bytes(content(RUN[2]))


@pytest.mark.parametrize("what", ["lease", "slot", "array", "keys", "store"])
def test_what_is_in_a_cycle_is_collected_and_its_pins_are_given_back(what: str) -> None:
    with pool(chunks=16, clients=1) as (server, [_]):
        client = PoolClient.connect(server.name, layout=pools.CHUNK)
        store(client, RUN[:4])
        lease: Any = client.prepare_store(RUN) if what == "store" else client.prepare_retrieve(RUN[:4])
        slot = lease.slots[1]
        held = {"slot": slot, "array": slot.array, "keys": (lease, lease.keys), "store": (lease, slot.array)}
        client.held = held.get(what, lease)  # type: ignore[attr-defined]
        gone = weakref.ref(client)
        witness = server.stats
        del client, lease, slot, held
        gc.collect()
        assert gone() is None
        pools_clients = [seat for seat in witness()["clients"] if seat["alive"]]
        assert len(pools_clients) == 1


def test_keys_in_a_cycle_through_their_namespace_are_collected() -> None:
    class Space(Namespace):
        keys: Keys

    space = Space("m", dtype="uint8", layout="bytes")
    object.__setattr__(space, "keys", keys_from_hashes([b"hash"], space))
    gone = weakref.ref(space)
    del space
    gc.collect()
    assert gone() is None


def test_a_client_may_be_closed_by_the_collector() -> None:
    with pool(chunks=16) as (server, [_]):

        class Closing:
            def __init__(self) -> None:
                self.client = PoolClient.connect(server.name, layout=pools.CHUNK)
                self.lease = self.client.prepare_retrieve(RUN)
                self.me = self

            def __del__(self) -> None:
                self.client.close()

        Closing()
        gc.collect()
        assert len([seat for seat in server.stats()["clients"] if seat["alive"]]) == 1


ENDINGS = {
    "leases alive": "lease = client.prepare_retrieve(keys); slots = lease.slots; views = [s.array for s in slots]",
    "a store under way": "lease = client.prepare_store(more); views = [slot.array for slot in lease.slots]",
    "in a cycle": "client.lease = client.prepare_retrieve(keys); client.view = client.lease.slots[0].array; del client",
    "closed with views": "views = [s.array for s in client.prepare_retrieve(keys).slots]; client.close()",
    "daemon threads": """
def wait():
    waiter = PoolClient.connect(name, layout=4096)
    entered.release()
    while True:
        waiter.prepare_retrieve(more, wait=60)
def call():
    caller = PoolClient.connect(name, layout=4096)
    entered.release()
    while True:
        caller.commit_store(caller.prepare_store(others)); caller.prepare_retrieve(keys); caller.clear(others.space)
entered = threading.Semaphore(0)
lease = client.prepare_store(more)
for body in (wait, call):
    threading.Thread(target=body, daemon=True).start()
    entered.acquire()
""",
}


@pytest.mark.parametrize("server_in", ["another process", "the same process"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_interpreter_ends_in_silence(ending: str, server_in: str) -> None:
    name = unique_name("p")
    script = f"""
import threading
from ringcast.pool import Namespace, PoolClient, PoolServer, keys_from_hashes
name = {name!r}
if {server_in == "the same process"}:
    server = PoolServer(name, "1MiB").start()
space = Namespace("m", dtype="uint8", layout="bytes")
keys, more = keys_from_hashes([b"0", b"1"], space), keys_from_hashes([b"2", b"3"], space)
others = keys_from_hashes([b"4"], Namespace("other", dtype="uint8", layout="bytes"))
client = PoolClient.connect(name, layout=4096)
client.commit_store(client.prepare_store(keys))
{ENDINGS[ending]}
"""
    command = [sys.executable, "-X", "dev", "-c", script]
    if server_in == "the same process":
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    else:
        from ringcast.pool import PoolServer

        with PoolServer(name, "1MiB"):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_view_of_a_lease_that_has_ended_is_refused() -> None:
    with pool(chunks=16) as (_, [client]):
        store(client, RUN[:2])
        with client.retrieve(RUN[:2]) as found:
            slot = found.slots[0]
        with pytest.raises(errors.LeaseExpiredError):
            _ = slot.array
        assert retrieved(client, RUN[:2]) == 2


@pytest.mark.parametrize("leading", [False, True])
def test_threads_that_ask_for_slots_at_once_are_all_given_what_was_compared(leading: bool) -> None:
    size = 64 << 20  # so that it takes a while
    with pool(chunks=2, clients=2, chunk=size) as (server, [client, other]):
        keys = some_keys(2, space=pools.SPACE if leading else LOOSE)
        store = client.prepare_store(keys)
        address = store.slots[1].array.ctypes.data
        client.commit_store(store)
        ctypes.memset(address + size - 1, 0x5A, 1)
        with other.retrieve(keys, leading=leading) as found:
            with pools.long_turns():
                first = pools.begun(lambda: len(found.slots))
                assert len(found.slots) == 1
                assert first.result() == 1
            assert found.hits == 1
        assert server.stats()["quarantined"] == 1
