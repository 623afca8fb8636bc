"""One server and its clients: what is stored is found, read in place, and given back."""

from __future__ import annotations

import ctypes
import gc
import pickle
import threading
from contextlib import suppress

import pytest

from ringcast import errors
from ringcast.pool import KVLayout, Namespace, PoolClient, PoolServer
from tests.pool.pools import (
    BUSY,
    CACHED,
    CHUNK,
    COMMITTED,
    HIT,
    LOOSE,
    MISS,
    NO_MEMORY,
    ORPHAN,
    OWN,
    PENDING,
    RESERVED,
    content,
    figure,
    fill,
    pool,
    retrieved,
    some_keys,
    store,
)
from tests.support import eventually, segments, unique_name


def test_what_is_committed_is_found_and_is_what_was_stored() -> None:
    with pool() as (server, [client]):
        keys = some_keys(10)
        assert client.lookup(keys).memory == 0
        lease = client.prepare_store(keys)
        assert lease.statuses == [RESERVED] * 10
        assert client.lookup(keys) == (0, 0), "nothing is visible before its commit"
        fill(lease)
        assert client.commit_store(lease) == [COMMITTED] * 10
        assert client.lookup(keys) == (10, 10)
        assert retrieved(client, keys) == 10
        assert server.stats()["chunks"] == 10


def test_a_retrieve_stops_at_the_first_miss_unless_told_otherwise() -> None:
    with pool() as (_, [client]):
        keys = some_keys(6, space=LOOSE)
        store(client, keys[:2])
        store(client, keys[3:5])
        with client.retrieve(keys) as found:
            assert found.statuses == [HIT, HIT, MISS, MISS, MISS, MISS]
            assert [slot.index for slot in found.slots] == [0, 1]
        with client.retrieve(keys, leading=False) as found:
            assert found.statuses == [HIT, HIT, MISS, HIT, HIT, MISS]
            assert [slot.index for slot in found.slots] == [0, 1, 3, 4]
            assert [slot.key for slot in found.slots] == [keys[i] for i in (0, 1, 3, 4)]
        assert retrieved(client, keys, leading=False) == 4


def test_what_is_there_already_is_not_reserved_again() -> None:
    with pool(clients=2) as (_, [first, second]):
        keys = some_keys(8)
        store(first, keys[:5])
        lease = second.prepare_store(keys)
        assert lease.statuses == [CACHED] * 5 + [RESERVED] * 3
        assert [slot.index for slot in lease.slots] == [5, 6, 7]
        fill(lease)
        assert second.commit_store(lease) == [CACHED] * 5 + [COMMITTED] * 3
        assert retrieved(first, keys) == 8


def test_a_chunk_that_is_being_stored_is_pending_to_others_and_ones_own_to_oneself() -> None:
    with pool(clients=2) as (_, [first, second]):
        keys = some_keys(3)
        lease = first.prepare_store(keys)
        assert first.prepare_store(keys).statuses == [OWN] * 3
        assert second.prepare_store(keys).statuses == [PENDING] * 3
        assert second.prepare_retrieve(keys).statuses == [PENDING, MISS, MISS]
        fill(lease)
        first.commit_store(lease)
        assert retrieved(second, keys) == 3


def test_children_of_a_pending_parent_are_stored_and_go_with_it() -> None:
    with pool(clients=2) as (server, [first, second]):
        keys = some_keys(4)
        parents = first.prepare_store(keys[:2])
        children = second.prepare_store(keys)
        assert children.statuses == [PENDING, PENDING, RESERVED, RESERVED]
        fill(children)
        assert second.commit_store(children)[2:] == [COMMITTED] * 2
        assert second.lookup(keys).memory == 0, "what comes behind a gap cannot be used"
        first.abort_store(parents)
        eventually(lambda: server.stats()["chunks"] == 0, "the end of the orphans")
        again = second.prepare_store(keys)
        assert again.statuses == [RESERVED] * 4


def test_a_commit_after_its_parent_was_aborted_says_orphan() -> None:
    with pool(clients=2) as (_, [first, second]):
        keys = some_keys(4)
        parents = first.prepare_store(keys[:2])
        children = second.prepare_store(keys)
        first.abort_store(parents)
        fill(children)
        assert second.commit_store(children)[2:] == [ORPHAN] * 2
        assert second.lookup(keys).memory == 0


def test_a_chunk_whose_parent_is_not_there_is_an_orphan() -> None:
    with pool() as (_, [client]):
        keys = some_keys(4)
        assert client.prepare_store(keys[2:]).statuses == [ORPHAN, ORPHAN]
        store(client, keys[:2])
        assert client.prepare_store(keys[2:]).statuses == [RESERVED, RESERVED]


def test_an_exception_in_the_block_aborts() -> None:
    with pool() as (server, [client]):
        keys = some_keys(3)
        with suppress(RuntimeError), client.store(keys) as lease:
            lease.slots[0].array[:] = 1
            raise RuntimeError("no")
        assert lease.ended
        assert client.lookup(keys).memory == 0
        eventually(lambda: server.stats()["used_bytes"] == 0, "the memory's return")
        with client.store(keys) as lease:
            fill(lease)
        assert retrieved(client, keys) == 3


def test_a_lease_is_over_once() -> None:
    with pool(clients=2) as (_, [client, other]):
        keys = some_keys(2)
        lease = client.prepare_store(keys)
        with pytest.raises(errors.LeaseExpiredError, match="another client"):
            other.commit_store(lease)
        client.abort_store(lease)
        with pytest.raises(errors.LeaseExpiredError, match="aborted"):
            client.commit_store(lease)
        with pytest.raises(errors.LeaseExpiredError):
            _ = lease.slots
        lease = client.prepare_store(keys)
        fill(lease)
        assert client.commit_store(lease) == client.commit_store(lease), "a commit may be repeated"
        found = client.prepare_retrieve(keys)
        client.commit_retrieve(found)
        client.commit_retrieve(found)
        with pytest.raises(errors.LeaseExpiredError, match="given back"):
            _ = found.slots


def test_a_dropped_store_is_taken_back() -> None:
    with pool() as (server, [client]):
        lease = client.prepare_store(some_keys(3))
        assert server.stats()["reserved"] == 3
        del lease
        gc.collect()
        eventually(lambda: server.stats()["used_bytes"] == 0, "the memory's return")


def test_what_is_cleared_is_gone_and_views_of_it_stay_what_they_were() -> None:
    with pool(clients=2) as (server, [client, other]):
        keys, others = some_keys(4), some_keys(4, space=LOOSE)
        store(client, keys)
        store(client, others)
        with client.retrieve(keys) as found:
            view = found.slots[2].array
        other.clear(keys.space)
        assert client.lookup(keys).memory == 0
        assert client.lookup(others).memory == 4
        store(client, some_keys(50, first=2))
        assert bytes(view) == bytes(content(keys[2]))
        del view
        other.clear()
        eventually(lambda: server.stats()["used_bytes"] == 0, "the memory's return")


def test_a_full_pool_evicts_what_was_used_longest_ago_and_leaves_first() -> None:
    with pool(chunks=16) as (server, [client]):
        chains = [some_keys(4, first=i) for i in range(4)]
        for keys in chains:
            store(client, keys)
        assert server.stats()["chunks"] == 16
        for i in (0, 2, 3):
            assert retrieved(client, chains[i]) == 4
        store(client, some_keys(2, first=9))
        assert [client.lookup(keys).memory for keys in chains] == [4, 2, 4, 4]
        assert server.stats()["evicted"] == 2


def test_what_is_pinned_is_not_evicted_and_a_pin_of_a_chain_holds_all_of_it() -> None:
    with pool(chunks=16) as (_, [client]):
        keys = some_keys(8)
        store(client, keys)
        found = client.prepare_retrieve(keys)
        assert client.held_pins == 1
        statuses = client.prepare_store(some_keys(16, first=1)).statuses
        assert statuses == [RESERVED] * 8 + [NO_MEMORY] + [ORPHAN] * 7
        assert client.lookup(keys).memory == 8
        client.commit_retrieve(found)
        assert client.held_pins == 0


def test_views_outlive_their_lease_their_client_and_their_server() -> None:
    with pool(chunks=16) as (_, [client]):
        keys = some_keys(4)
        store(client, keys)
        with client.retrieve(keys) as found:
            views = [slot.array for slot in found.slots]
        assert not views[0].flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            views[0][0] = 1
        for i in range(1, 6):
            store(client, some_keys(12, first=i))
        client.close()
    assert [bytes(view) for view in views] == [bytes(content(key)) for key in keys]


def test_a_seat_comes_back_when_its_last_view_is_gone() -> None:
    with pool(seats=1) as (server, [client]):
        keys = some_keys(2)
        store(client, keys)
        with client.retrieve(keys) as found:
            view = found.slots[1].array
        client.close()
        with pytest.raises(errors.PoolConnectError, match="no seat"):
            PoolClient.connect(server.name, layout=CHUNK, timeout=0.3)
        del view
        with PoolClient.connect(server.name, layout=CHUNK) as another:
            assert retrieved(another, keys) == 2


def test_a_stored_array_is_read_only_from_the_commit_on() -> None:
    with pool() as (_, [client]):
        lease = client.prepare_store(some_keys(1))
        array = lease.slots[0].array
        array[:] = 7
        client.commit_store(lease)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 8


def test_tensors_share_the_pools_memory_and_what_is_written_to_a_retrieved_one_stays_private() -> None:
    torch = pytest.importorskip("torch")
    with pool() as (_, [client]):
        keys = some_keys(2)
        with client.store(keys) as lease:
            for slot in lease.slots:
                slot.tensor.copy_(torch.from_numpy(content(slot.key)))
        with client.retrieve(keys) as found:
            tensor = found.slots[0].tensor
            assert bytes(tensor.numpy()) == bytes(content(keys[0]))
            tensor.zero_()
        assert retrieved(client, keys) == 2
        assert int(tensor.sum()) == 0


def test_a_row_of_pins_that_is_full_is_busy_and_never_a_miss() -> None:
    with pool(chunks=64, pins=16) as (_, [client]):
        keys = some_keys(20, space=LOOSE)
        lease = client.prepare_store(keys)
        assert lease.statuses == [RESERVED] * 16 + [BUSY] * 4
        client.abort_store(lease)
        store(client, keys[:10])
        store(client, keys[10:])
        held = [client.prepare_retrieve(keys[i : i + 1]) for i in range(16)]
        assert client.prepare_retrieve(keys[16:17]).statuses == [BUSY]
        client.commit_retrieve(held.pop())
        assert client.prepare_retrieve(keys[16:17]).statuses == [HIT]


def test_a_retrieve_waits_for_another_clients_store_and_not_for_ones_own() -> None:
    with pool(clients=2) as (_, [first, second]):
        keys = some_keys(2)
        lease = first.prepare_store(keys)
        assert first.prepare_retrieve(keys, wait=60.0).statuses[0] is PENDING, "at once"
        assert second.prepare_retrieve(keys, wait=0.01).statuses[0] is PENDING
        fill(lease)
        found: list[int] = []
        waiter = threading.Thread(target=lambda: found.append(second.prepare_retrieve(keys, wait=60.0).hits))
        waiter.start()
        first.commit_store(lease)
        waiter.join(60.0)
        assert found == [2]


def test_more_keys_than_one_request_takes() -> None:
    with pool(chunks=1024, chunk=64) as (server, [client]):
        keys = some_keys(700)
        assert store(client, keys) == [COMMITTED] * 700
        assert retrieved(client, keys) == 700
        assert server.stats()["chunks"] == 700


def test_one_prompt_in_two_requests_leaks_no_pin() -> None:
    with pool() as (_, [client]):
        keys = some_keys(4)
        store(client, keys)
        with client.retrieve(keys) as first, client.retrieve(keys) as second:
            assert (first.hits, second.hits) == (4, 4)
        assert client.held_pins == 0


def test_chunks_of_another_size_are_an_error_that_says_so() -> None:
    with pool() as (server, [client]):
        store(client, some_keys(1))
        with PoolClient.connect(server.name, layout=CHUNK * 2) as other:
            with pytest.raises(errors.PoolError, match="8192"):
                other.prepare_retrieve(some_keys(1))
            assert other.held_pins == 0


def test_a_layout_says_the_size() -> None:
    layout = KVLayout.sizes(page_bytes=[1024, 1024], pages_per_chunk=2)
    with pool() as (server, _), PoolClient.connect(server.name, layout=layout) as client:
        with client.store(some_keys(1)) as lease:
            assert len(lease.slots[0].array) == 4096
        assert client.info.name == server.name
        assert client.info.segment == server.segment
        assert client.info.capacity >= 64 * CHUNK
        assert client.health.server == "living"


def test_there_is_one_server_of_a_name_and_closing_it_ends_the_pool() -> None:
    with pool() as (server, [client]):
        with pytest.raises(errors.SegmentExistsError, match="living server"):
            PoolServer(server.name, "1MiB").start()
        keys = some_keys(2)
        store(client, keys)
        server.close()
        assert server.segment not in segments()
        assert retrieved(client, keys) == 2, "hits need no server"
        with pytest.raises(errors.PoolClosedError, match="closed the pool"):
            client.prepare_store(some_keys(1, first=1))
        with pytest.raises(errors.PoolConnectError):
            client.reconnect()
        with PoolServer(server.name, "1MiB"):
            client.reconnect()
            assert client.lookup(keys).memory == 0
            store(client, keys)
            assert retrieved(client, keys) == 2


def test_a_client_without_a_pool_is_told_so() -> None:
    with pytest.raises(errors.PoolConnectError, match="no segment"):
        PoolClient.connect(unique_name("p"), layout=CHUNK)


def test_a_worker_s_name_must_be_text_that_can_be_kept() -> None:
    with pool() as (server, _):
        for wrong in ("\ud800", 5, b"w"):
            with pytest.raises(errors.ArgumentError, match="worker_id"):
                PoolClient.connect(server.name, wrong, layout=CHUNK)  # type: ignore[arg-type]


def test_leases_are_no_messages() -> None:
    with pool() as (_, [client]), pytest.raises(TypeError):
        pickle.dumps(client.prepare_retrieve(some_keys(1)))


def test_a_quota_holds_whoever_stores() -> None:
    salted = Namespace("model", dtype="uint8", layout="bytes", salt=b"tenant")
    with pool(chunks=64, quota={b"tenant": 8 * CHUNK}, clients=2) as (server, [attacker, other]):
        store(other, some_keys(20))
        for i in range(20):
            store(attacker, some_keys(4, first=i, space=salted))
        assert other.lookup(some_keys(20)).memory == 20
        kept = sum(attacker.lookup(some_keys(4, first=i, space=salted)).memory for i in range(20))
        assert kept == 8
        assert figure(server, "chunks")() == 28
        statuses = attacker.prepare_store(some_keys(12, first=99, space=salted)).statuses
        assert statuses == [RESERVED] * 8 + [NO_MEMORY] + [ORPHAN] * 3


def test_a_damaged_chunk_is_a_miss_and_goes_for_good() -> None:
    with pool(clients=2) as (server, [client, other]):
        keys = some_keys(4)
        lease = client.prepare_store(keys)
        arrays = [slot.array for slot in lease.slots]
        fill(lease)
        address = arrays[2].ctypes.data
        client.commit_store(lease)
        ctypes.memset(address + 100, 0x5A, 1)
        found = other.prepare_retrieve(keys)
        assert len(found.slots) == 2
        assert found.statuses == [HIT, HIT, MISS, MISS]
        assert server.stats()["quarantined"] == 1
        assert client.lookup(keys).memory == 2


def test_what_a_damaged_chunk_continued_is_evicted_as_ever() -> None:
    with pool(chunks=16, clients=2, policy="lru") as (server, [client, other]):
        keys = some_keys(4)
        lease = client.prepare_store(keys)
        fill(lease)
        address = lease.slots[2].array.ctypes.data
        client.commit_store(lease)
        held = client.prepare_retrieve(keys[:1])
        whole = other.prepare_retrieve(keys, leading=False)  # and so is not looked at
        ctypes.memset(address + 100, 0x5A, 1)
        assert len(whole.slots) == 3
        for number in range(8):
            store(other, some_keys(4, first=1 + number))
        assert client.lookup(keys).memory == 2  # they are held
        client.commit_retrieve(held)
        other.commit_retrieve(whole)
        eventually(lambda: server.stats()["limbo"] == 0)
        for number in range(8):
            store(other, some_keys(4, first=11 + number))
        assert client.lookup(keys).memory == 0
        assert server.stats()["no_memory"] == 0


@pytest.mark.parametrize("policy", ["lru", "arc", "s3fifo"])
def test_what_one_client_holds_for_long_keeps_others_from_nothing_else(policy: str) -> None:
    with pool(chunks=400, clients=2, policy=policy) as (server, [holder, other]):
        held = some_keys(130, space=LOOSE)  # more than are looked at together
        store(holder, held)
        lease = holder.prepare_retrieve(held)
        for i in range(60):
            assert store(other, some_keys(20, first=1 + i, space=LOOSE)) == [COMMITTED] * 20
        assert server.stats()["no_memory"] == 0
        assert lease.hits == retrieved(holder, held) == 130
