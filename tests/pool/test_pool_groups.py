"""Groups: a chunk of N parts, stored by N workers, each with one of them, and there with the last one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringcast import errors
from ringcast.pool import FileTier, Namespace, PoolClient, PoolEvent, PoolServer, watch
from tests.pool.groups import SHARDS, WHOLE, check_parts, group_keys, group_pool, join_store, store_part
from tests.pool.pools import (
    CACHED,
    CHUNK,
    COMMITTED,
    MISS,
    NO_MEMORY,
    ORPHAN,
    PENDING,
    RESERVED,
    answered,
    content,
    pool,
    some_keys,
    store,
)
from tests.pool.tiered import evict, is_tiered, tier_figure, tiered
from tests.pool.tiers import BLOCK
from tests.support import DEADLINE_S, eventually, unique_name


def test_a_chunk_is_there_when_its_last_part_is_and_each_rank_reads_its_own() -> None:
    with group_pool(clients=SHARDS + 1) as (server, clients):
        keys = group_keys()
        exporter = clients[-1]
        lease = exporter.prepare_store(keys)
        assert lease.statuses == [RESERVED] * 4
        token = lease.export()
        assert lease.missing_parts == (0, 1, 2)
        for part in (2, 0, 1):
            assert exporter.lookup(keys).memory == 0
            assert store_part(clients[part], token, part) == [COMMITTED] * 4
        assert lease.missing_parts == lease.missing_parts_of(3) == ()
        assert exporter.commit_store(lease) == [COMMITTED] * 4
        assert check_parts(clients[0], keys) == 4
        assert server.stats()["stored"] == 4
        assert exporter.held_pins == 0


def test_missing_parts_are_told_by_chunk() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        with client.store(group_keys(2)) as lease:
            store_part(other, lease.export(), 1)
            assert lease.missing_parts == lease.missing_parts_of(0) == lease.missing_parts_of(1) == (0, 2)
            with pytest.raises(errors.ArgumentError, match="index"):
                lease.missing_parts_of(2)
            store_part(other, lease.export(), 0)
            store_part(other, lease.export(), 2)
        assert lease.missing_parts == ()


def test_who_exports_may_join_too() -> None:
    with group_pool() as (_, [client]):
        store(client, group_keys())
        assert check_parts(client, group_keys()) == 4
        assert client.held_pins == 0


def test_a_lease_of_one_part_is_filled_by_who_joins_it() -> None:
    with pool(clients=2) as (_, [scheduler, worker]):
        keys = some_keys(3)
        with scheduler.store(keys) as lease:
            token = lease.export()
            with pytest.raises(errors.PoolError, match="exported"):
                lease.slots  # noqa: B018
            with worker.join(token) as joined:
                for slot in joined.slots:
                    slot.array[:] = content(slot.key)
        with scheduler.retrieve(keys) as found, worker.join(found.export()) as joined:
            assert [bytes(slot.array) for slot in joined.slots] == [bytes(content(key)) for key in keys]


def test_a_lease_that_fills_its_chunks_is_not_exported() -> None:
    with pool() as (_, [client]):
        lease = client.prepare_store(some_keys(1))
        lease.slots[0].array[:] = 1
        with pytest.raises(errors.PoolError, match="fills its chunks itself"):
            lease.export()
        client.commit_store(lease)
        with pytest.raises(errors.LeaseExpiredError, match="given back"):
            lease.export()


def test_a_lease_without_a_part_shows_none() -> None:
    with group_pool() as (_, [client]):
        lease = client.prepare_store(group_keys(1))
        with pytest.raises(errors.PoolError, match=r"3 parts.*join\(lease.export\(\), part\)"):
            lease.slots  # noqa: B018
        with pytest.raises(errors.PoolError, match="nobody can fill them before the lease is exported"):
            client.commit_store(lease)
        client.abort_store(lease)
        store(client, group_keys(1))
        with client.retrieve(group_keys(1)) as found, pytest.raises(errors.PoolError, match="3 parts"):
            found.slots  # noqa: B018


def test_a_commit_that_waits_for_others_names_the_parts() -> None:
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        PoolClient.connect(server.name, "scheduler", layout=WHOLE, timeout=0.2) as client,
        PoolClient.connect(server.name, "rank", layout=WHOLE, timeout=DEADLINE_S) as worker,
    ):
        lease = answered(lambda: client.prepare_store(group_keys(2)))
        store_part(worker, lease.export(), 1)
        with pytest.raises(
            errors.PoolTimeoutError, match=r"worker 'scheduler'.*2 chunks.*waited \d[.\d]* s for parts 0, 2"
        ):
            client.commit_store(lease)
        store_part(worker, lease.export(), 0)
        store_part(worker, lease.export(), 2)
        assert answered(lambda: client.commit_store(lease)) == [COMMITTED] * 2


def test_a_block_that_ends_before_the_others_are_done_aborts_for_all() -> None:
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        PoolClient.connect(server.name, "scheduler", layout=WHOLE, timeout=0.2) as client,
        PoolClient.connect(server.name, "rank 0", layout=WHOLE, timeout=DEADLINE_S) as worker,
    ):
        lease = answered(lambda: client.store(group_keys(1)))
        with pytest.raises(errors.PoolTimeoutError), lease:
            joined = join_store(worker, lease.export(), 0)
        with pytest.raises(errors.LeaseExpiredError, match=r"worker 'scheduler'.*aborted"):
            worker.commit_store(joined)


def test_other_engines_wait_for_the_last_part() -> None:
    with group_pool(clients=2) as (_, [client, other]):
        keys = group_keys(2)
        lease = client.prepare_store(keys)
        assert other.prepare_store(keys).statuses == [PENDING] * 2
        assert other.prepare_retrieve(keys).statuses == [PENDING, MISS]
        hits: list[int] = []
        waiter = threading.Thread(target=lambda: hits.append(other.prepare_retrieve(keys, wait=60.0).hits))
        waiter.start()
        for part in range(SHARDS):
            assert not hits
            store_part(client, lease.export(), part)
        waiter.join(60.0)
        assert hits == [2]
        client.commit_store(lease)


def test_who_fills_a_part_does_not_wait_for_it() -> None:
    with group_pool(clients=2) as (_, [client, member]):
        lease = client.prepare_store(group_keys(1))
        joined = join_store(member, lease.export(), 0)
        assert member.prepare_retrieve(group_keys(1), wait=600.0).statuses == [PENDING]
        del joined


def test_a_chunk_may_have_as_many_parts_as_there_are_bits() -> None:
    space = Namespace("model", dtype="uint8", layout="bytes", shards=64)
    keys = some_keys(2, 0, space)
    with PoolServer(unique_name("p"), "1MiB") as server, PoolClient.connect(server.name, layout=64 * 5) as client:
        with client.store(keys) as lease:
            for part in reversed(range(64)):
                assert client.lookup(keys).memory == 0
                with client.join(lease.export(), part) as joined:
                    for slot in joined.slots:
                        slot.array[:] = part
        with client.retrieve(keys) as found:
            for part in range(64):
                with client.join(found.export(), part) as mine:
                    assert [bytes(slot.array) for slot in mine.slots] == [bytes([part]) * 5] * 2


def test_quotas_count_all_parts() -> None:
    salted = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS, salt=b"tenant")
    whole = WHOLE + 4 * SHARDS
    with group_pool(chunks=32, quota={b"tenant": 2 * whole}) as (_, [client]):
        store(client, some_keys(5, 0, salted)[:2])
        statuses = client.prepare_store(some_keys(4, 0, salted)).statuses
        assert statuses == [CACHED, CACHED, NO_MEMORY, ORPHAN]


def test_plain_chunks_are_as_they_were() -> None:
    with pool() as (server, [client]):
        store(client, some_keys(3))
        assert server.stats()["used_bytes"] == 3 * CHUNK, "one part has no checksums behind it"


def test_events_tell_the_bytes_that_were_stored_and_no_checksums(tmp_path: Path) -> None:
    """Also where a chunk comes back from a tier, and where the next server knows it only from there."""
    keys = group_keys()
    told: list[tuple[str, str, int]] = []

    def tell(events: Iterator[list[PoolEvent]], until: str, medium: str) -> None:
        while not told or told[-1][:2] != (until, medium):
            told.extend((event.kind, event.medium, event.length) for event in next(events) if event.key in set(keys))

    def opened() -> FileTier:
        return FileTier(tmp_path / "tier", BLOCK + 4 * (BLOCK + 4 * BLOCK), WHOLE)

    with tiered(opened(), chunk=WHOLE) as (server, [client]):
        events = watch(server.name)
        next(events)
        store(client, keys)
        assert check_parts(client, keys) == 4
        tell(events, "stored", "FileTier")
        eventually(lambda: tier_figure(server, "chunks")() == 4)
        evict(client)
        assert is_tiered(client, keys)
        assert client.prefetch(keys).result() == 4
        assert check_parts(client, keys) == 4
        tell(events, "stored", "memory")
        assert [event.length for event in next(watch(server.name)) if event.key in set(keys)] == [WHOLE] * 4
    with tiered(opened(), chunk=WHOLE) as (server, [client]):
        assert is_tiered(client, keys)
        events = watch(server.name)
        next(events)
        others = group_keys(first=7)
        store(client, others)
        assert check_parts(client, others) == 4
        tell(events, "removed", "FileTier")
    assert {length for *_, length in told} == {WHOLE}
