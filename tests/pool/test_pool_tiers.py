"""A server that drives tiers: what is used again is copied, and what was evicted comes back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ringcast.errors import ArgumentTypeError, LeaseExpiredError, PoolClosedError
from ringcast.pool import ChunkStatus
from tests.pool.pools import CACHED, COMMITTED, LOOSE, MISS, PENDING, RESERVED, fill, retrieved, some_keys, store
from tests.pool.tiered import evict, file_tier, header_of_key, is_gone, is_tiered, keep, tier_figure, tiered
from tests.pool.tiers import BLOCK, DictTier, flip
from tests.support import eventually

TIERED = ChunkStatus.TIERED


def test_what_was_used_again_is_found_when_it_was_evicted_and_comes_back(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        store(client, keys)
        assert tier_figure(server, "stored")() == 0
        assert retrieved(client, keys) == 4
        eventually(lambda: tier_figure(server, "chunks")() == 4)
        evict(client)
        assert is_tiered(client, keys)
        with client.retrieve(keys) as found:
            assert (found.hits, found.statuses[0]) == (0, TIERED)
        assert retrieved(client, keys, wait=60) == 4
        assert client.lookup(keys) == (4, 4)
        assert (tier_figure(server, "wanted")(), tier_figure(server, "hits")()) == (4, 4)


def test_what_was_used_once_is_not_copied(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        store(client, some_keys(4))
        assert store(client, some_keys(4)) == [CACHED] * 4, "which is no use of it"
        evict(client)
        assert is_gone(client, some_keys(4))
        assert tier_figure(server, "stored")() == 0


@pytest.mark.parametrize("policy", ["lru", "arc", "s3fifo"])
def test_a_chain_longer_than_memory_comes_back_as_far_as_there_is_room(tmp_path: Path, policy: str) -> None:
    with tiered(file_tier(tmp_path), policy=policy) as (server, [client]):
        keys = some_keys(24)
        for end in range(4, 25, 4):
            store(client, keys[:end])
            client.prefetch(keys[:end]).result()
            retrieved(client, keys[:end], wait=1)
            eventually(lambda: tier_figure(server, "waiting")() + tier_figure(server, "running")() == 0)
        evict(client)
        found = retrieved(client, keys, wait=60)
        assert 8 <= found <= 16
        assert client.lookup(keys).total >= found


def test_prefetch_brings_chunks_without_anybody_waiting(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        assert client.prefetch(keys).result() == 4
        assert client.lookup(keys).memory == 4
        assert client.prefetch(keys[:2]).result() == 2
        assert client.prefetch(some_keys(3, 5)).result() == 0
        retrieves = server.stats()["retrieves"]
        assert client.prefetch(keys).result() == 4
        assert server.stats()["retrieves"] == retrieves
        with pytest.raises(ArgumentTypeError):
            client.prefetch([b"key"])  # type: ignore[arg-type]
        client.close()
        with pytest.raises(PoolClosedError):
            client.prefetch(keys)


def test_a_coroutine_waits_for_a_tier_beside_its_loop(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        lease = asyncio.run(client.aretrieve(keys, wait=60))
        assert lease.hits == 4
        client.commit_retrieve(lease)


def test_loose_chunks_come_back_each_by_itself(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4, space=LOOSE)
        keep(server, client, keys)
        evict(client)
        with client.retrieve(keys, leading=False) as found:
            assert found.statuses == [TIERED] * 4
        assert client.prefetch(keys[2:]).result() == 2
        with client.retrieve(keys, leading=False) as found:
            assert found.hits == 2


def test_the_middle_of_a_chain_brings_its_beginning_along(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(6)
        keep(server, client, keys)
        evict(client)
        assert retrieved(client, keys[4:], wait=60) == 2
        assert retrieved(client, keys, wait=60) == 6


def test_what_a_client_stores_anew_is_its_own_again(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path), clients=2) as (server, [client, other]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        lease = client.prepare_store(keys)
        assert lease.statuses == [RESERVED] * 4
        assert other.prepare_store(keys).statuses == [PENDING] * 4
        fill(lease)
        assert client.commit_store(lease) == [COMMITTED] * 4
        assert retrieved(other, keys) == 4
        evict(client)
        assert is_tiered(client, keys)


def test_a_store_that_is_given_up_leaves_what_the_tier_has(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        client.abort_store(client.prepare_store(keys[:2]))
        eventually(lambda: is_tiered(client, keys))
        assert retrieved(client, keys, wait=60) == 4


def test_a_chunk_whose_parent_is_only_in_a_tier_is_stored_and_brings_it_along(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path), clients=2) as (server, [client, other]):
        keys = some_keys(6)
        keep(server, client, keys[:4])
        evict(client)
        lease = client.prepare_store(keys[4:])
        assert lease.statuses == [RESERVED] * 2
        assert other.prepare_store(keys[4:], parent=keys[:4]).statuses == [PENDING] * 2
        fill(lease)
        assert client.commit_store(lease) == [COMMITTED] * 2
        assert retrieved(other, keys, wait=60) == 6
        assert client.prepare_store(some_keys(2, 7), parent=some_keys(4, 8)).statuses == [ChunkStatus.ORPHAN] * 2


def test_a_parent_that_cannot_be_read_takes_along_what_was_stored_behind_it(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(6)
        keep(server, client, keys[:4])
        evict(client)
        flip(tmp_path / "tier", header_of_key(tmp_path, keys[3]) + BLOCK + 17)
        lease = client.prepare_store(keys[4:])
        assert set(lease.statuses) <= {RESERVED, ChunkStatus.ORPHAN}  # this if it is known already
        eventually(lambda: tier_figure(server, "corrupt")() == 1)
        eventually(lambda: client.lookup(keys).memory == 3, "those before it, which may come after it")
        if RESERVED in lease.statuses:
            fill(lease)
            with pytest.raises(LeaseExpiredError):
                client.commit_store(lease)
        assert store(client, keys) == [CACHED] * 3 + [COMMITTED] * 3


def test_a_parent_for_which_there_is_no_room_is_no_orphans_parent(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(6)
        keep(server, client, keys[:4])
        evict(client)
        lease = client.prepare_store(some_keys(16, 3))
        assert lease.statuses == [RESERVED] * 16
        assert client.prepare_store(keys[4:]).statuses == [ChunkStatus.NO_MEMORY, ChunkStatus.ORPHAN]
        client.abort_store(lease)
        eventually(lambda: server.stats()["limbo"] == 0)
        assert client.prepare_store(keys[4:]).statuses == [RESERVED] * 2


# --- Room in the tier.


def test_a_full_file_gives_up_what_was_not_used_for_the_longest_and_leaves_first(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path, slots=12)) as (server, [client]):
        for i in range(8):
            keep(server, client, some_keys(4, i))
            assert tier_figure(server, "chunks")() <= 12
        evict(client)
        there = [client.lookup(some_keys(4, i)).total for i in range(8)]
        assert there[:4] == [0] * 4
        assert there[-2:] == [4, 4]
        stats = tier.stats()
        assert (stats["evicted"], stats["used"]) == (0, sum(there)), "the server says what goes"


def test_a_full_file_gives_up_one_chunk_for_one(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path, slots=16), chunks=64) as (server, [client]):
        for i in range(20):
            keep(server, client, some_keys(1, i))
        assert tier.stats()["used"] == 16
        assert [client.lookup(some_keys(1, i)).total for i in range(20)] == [1] * 20
        evict(client, chunks=128)
        assert [client.lookup(some_keys(1, i)).total for i in range(20)] == [0] * 4 + [1] * 16


def test_few_entries_are_shared_by_memory_and_tier(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path), entries=20) as (server, [client]):
        for i in range(20):
            store(client, some_keys(2, i))
            assert retrieved(client, some_keys(2, i)) == 2
            eventually(lambda: tier_figure(server, "waiting")() + tier_figure(server, "running")() == 0)
        total = sum(client.lookup(some_keys(2, i)).total for i in range(20))
        assert 16 <= total <= 20
        eventually(lambda: tier.stats()["used"] == tier_figure(server, "chunks")())


# --- Tiers that are asked.


def test_what_only_another_machine_has_is_asked_for_when_it_is_wanted() -> None:
    kept: dict[Any, Any] = {}
    keys, loose = some_keys(5), some_keys(3, 2, LOOSE)
    with tiered(DictTier(kept)) as (server, [client]):
        keep(server, client, keys)
        keep(server, client, loose)
        evict(client)
        assert is_gone(client, keys)
        with client.retrieve(keys) as found:
            assert found.statuses[0] == MISS
        assert retrieved(client, keys, wait=60) == 5
        assert client.prefetch(loose).result() == 3
        assert retrieved(client, some_keys(2, 3), wait=60) == 0
    with tiered(DictTier(kept)) as (server, [client]):
        del kept[keys[3]]
        assert retrieved(client, keys, wait=60) == 3
        assert tier_figure(server, "hits")() == 3


def test_two_tiers_each_have_a_copy_and_the_second_helps_out(tmp_path: Path) -> None:
    kept: dict[Any, Any] = {}
    with tiered(file_tier(tmp_path), DictTier(kept)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        eventually(lambda: tier_figure(server, "stored", 1)() == 4)
        evict(client)
        flip(tmp_path / "tier", header_of_key(tmp_path, keys[1]) + BLOCK + 17)
        assert retrieved(client, keys[:2], wait=60) == 2
        assert (tier_figure(server, "corrupt")(), tier_figure(server, "hits", 1)()) == (1, 1)
        assert retrieved(client, keys, wait=60) == 4
