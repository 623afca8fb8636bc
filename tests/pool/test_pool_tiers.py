"""A server that drives tiers: what is used again is copied, what was evicted comes back, and no byte is wrong."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from ringcast import _core
from ringcast.errors import (
    ArgumentError,
    ArgumentTypeError,
    LeaseExpiredError,
    PoolClosedError,
    PoolError,
    SegmentExistsError,
)
from ringcast.pool import ChunkStatus, ObjectTier, PoolServer, Tier, describe, watch
from tests.pool.pools import (
    CACHED,
    CHUNK,
    COMMITTED,
    LOOSE,
    MISS,
    PENDING,
    RESERVED,
    SPACE,
    fill,
    retrieved,
    some_keys,
    store,
)
from tests.pool.test_pool_scribbles import scribbled
from tests.pool.tiered import SLOT, evict, file_tier, is_gone, is_tiered, keep, tier_figure, tiered
from tests.pool.tiers import BLOCK, DictTier, TrustingTier, flip
from tests.support import eventually, unique_name

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
        assert retrieved(client, keys, wait=10) == 4
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
        found = retrieved(client, keys, wait=5)
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
        lease = asyncio.run(client.aretrieve(keys, wait=10))
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
        assert retrieved(client, keys[4:], wait=10) == 2
        assert retrieved(client, keys, wait=10) == 6


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
        assert retrieved(client, keys, wait=10) == 4


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
        assert retrieved(other, keys, wait=10) == 6
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


def test_few_entries_are_shared_by_memory_and_tier(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path), entries=20) as (server, [client]):
        for i in range(20):
            store(client, some_keys(2, i))
            assert retrieved(client, some_keys(2, i)) == 2
            eventually(lambda: tier_figure(server, "waiting")() + tier_figure(server, "running")() == 0)
        total = sum(client.lookup(some_keys(2, i)).total for i in range(20))
        assert 16 <= total <= 20
        eventually(lambda: tier.stats()["used"] == tier_figure(server, "chunks")())


# --- Wrong bytes.


def test_a_bit_that_changed_in_the_file_is_a_miss_and_an_event(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        flip(tmp_path / "tier", header_of_key(tmp_path, keys[1]) + BLOCK + 17)
        events = watch(server.name)
        next(events)
        assert retrieved(client, keys, wait=10) == 1
        assert client.lookup(keys) == (1, 1), "what continued it went along"
        told = [event for batch in (next(events),) for event in batch if event.reason == "damaged"]
        assert [(event.kind, event.key, event.medium) for event in told] == [("removed", keys[1], "FileTier")]
        assert tier_figure(server, "corrupt")() == 1
        eventually(lambda: tier.stats()["used"] == 1, "no copy stays that nobody can find")
        assert store(client, keys) == [CACHED] + [COMMITTED] * 3


def test_a_bit_that_changed_in_memory_is_not_copied(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(1)
        store(client, keys)
        with scribbled(server) as (memory, *_):
            begin = memory.rfind(keys[0] * 3)
            memory[begin + 5] ^= 1
        client.touch(keys)
        eventually(lambda: server.stats()["quarantined"] == 1)
        assert is_gone(client, keys)
        assert tier_figure(server, "stored")() == 0


def test_a_bit_that_changed_among_the_objects_is_a_miss_and_an_event(tmp_path: Path) -> None:
    stores: Any = pytest.importorskip("obstore.store")
    objects = stores.LocalStore(tmp_path)
    with tiered(ObjectTier(objects, "some/prefix")) as (server, [client]):
        keys = some_keys(3)
        keep(server, client, keys)
        evict(client)
        assert is_gone(client, keys), "it is not in the index"
        [path] = tmp_path.rglob(keys[1].hex())
        flip(path, path.stat().st_size - 7)
        events = watch(server.name)
        next(events)
        assert retrieved(client, keys, wait=10) == 1
        told = [event for event in next(events) if event.reason == "damaged"]
        assert [(event.key, event.medium) for event in told] == [(keys[1], "ObjectTier")]
        assert not path.exists()


@pytest.mark.parametrize("at", [3, 20, 60, -7])
@pytest.mark.parametrize("kind", ["python", "objects"])
def test_a_bit_that_changed_before_the_server_came_is_a_miss_and_an_event(tmp_path: Path, kind: str, at: int) -> None:
    kept: dict[Any, Any] = {}

    def opened() -> Tier:
        if kind == "python":
            return TrustingTier(kept)
        stores: Any = pytest.importorskip("obstore.store")
        return ObjectTier(stores.LocalStore(tmp_path), "some/prefix")

    keys = some_keys(3)
    with tiered(opened()) as (server, [client]):
        keep(server, client, keys)
    if kind == "python":
        kept[keys[1]][at] ^= 4
    else:
        [path] = tmp_path.rglob(keys[1].hex())
        flip(path, at % path.stat().st_size)
    with tiered(tier := opened()) as (server, [client]):
        events = watch(server.name)
        next(events)
        assert retrieved(client, keys, wait=10) == 1
        told = [event for event in next(events) if event.reason == "damaged"]
        assert [(event.key, event.medium) for event in told] == [(keys[1], type(tier).__name__)]
        assert tier_figure(server, "corrupt")() == 1
        eventually(lambda: tier.exists(keys).result() == [True, False, True])


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
        assert retrieved(client, keys, wait=10) == 5
        assert client.prefetch(loose).result() == 3
        assert retrieved(client, some_keys(2, 3), wait=10) == 0
    with tiered(DictTier(kept)) as (server, [client]):
        del kept[keys[3]]
        assert retrieved(client, keys, wait=10) == 3
        assert tier_figure(server, "hits")() == 3


def test_two_tiers_each_have_a_copy_and_the_second_helps_out(tmp_path: Path) -> None:
    kept: dict[Any, Any] = {}
    with tiered(file_tier(tmp_path), DictTier(kept)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        eventually(lambda: tier_figure(server, "stored", 1)() == 4)
        evict(client)
        flip(tmp_path / "tier", header_of_key(tmp_path, keys[1]) + BLOCK + 17)
        assert retrieved(client, keys[:2], wait=10) == 2
        assert (tier_figure(server, "corrupt")(), tier_figure(server, "hits", 1)()) == (1, 1)
        assert retrieved(client, keys, wait=10) == 4


def header_of_key(folder: Path, key: bytes) -> int:
    """Where the header of the chunk's slot begins. Its child's header has the key, too, further behind."""
    file = (folder / "tier").read_bytes()
    return next(at for at in range(BLOCK, len(file), SLOT) if file.startswith(key, at + 8))


# --- Clearing.


@pytest.mark.parametrize("held", [False, True])
def test_what_is_cleared_is_gone_from_the_tier_when_it_answers(tmp_path: Path, held: bool) -> None:
    with tiered(tier := file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        keep(server, client, some_keys(3, 1))
        lease = client.prepare_retrieve(keys) if held else None
        evict(client, chunks=32)
        era = tier.era
        client.clear()
        assert (tier.era, tier.stats()["used"]) == (era + 1, 0)
        assert is_gone(client, keys)
        if lease is not None:
            client.commit_retrieve(lease)
        eventually(lambda: server.stats()["used_bytes"] == 0)
        assert is_gone(client, keys)
        keep(server, client, keys)
        evict(client)
        assert is_tiered(client, keys)


@pytest.mark.parametrize("held", [False, True])
def test_a_namespace_is_cleared_and_no_other(tmp_path: Path, held: bool) -> None:
    with tiered(tier := file_tier(tmp_path)) as (server, [client]):
        keys, others = some_keys(6), some_keys(3, space=LOOSE)
        keep(server, client, keys[:4])
        keep(server, client, others)
        lease = client.prepare_retrieve(keys[:2]) if held else None
        evict(client, chunks=32)
        era, cleared = tier.era, server.stats()["cleared"]
        client.clear(SPACE)
        assert (tier.era, tier.stats()["used"], tier_figure(server, "chunks")()) == (era, 3, 3)
        assert server.stats()["cleared"] == cleared + 4
        if lease is not None:
            client.commit_retrieve(lease)
        eventually(lambda: server.stats()["limbo"] == 0)
        assert is_gone(client, keys)
        assert client.prefetch(others).result() == 3
        assert store(client, keys) == [COMMITTED] * 6
        client.clear(LOOSE)
        assert tier.stats()["used"] == 0
        assert retrieved(client, keys) == 6


def test_what_is_on_its_way_to_the_tier_while_its_namespace_is_cleared_is_not_there(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path), chunks=64) as (server, [client]):
        others = some_keys(3, space=LOOSE)
        keep(server, client, others)
        for i in range(8):
            keys = some_keys(24, i)
            store(client, keys)
            assert retrieved(client, keys) == 24
            client.clear(SPACE)
            assert tier.stats()["used"] == 3
            assert is_gone(client, keys)
        eventually(lambda: tier_figure(server, "waiting")() + tier_figure(server, "running")() == 0)
        assert tier.stats()["used"] == 3


def test_a_tier_that_is_asked_is_emptied_whatever_is_cleared(tmp_path: Path) -> None:
    """It may have chunks of that namespace of which this server has never heard."""
    kept: dict[Any, Any] = {}
    with tiered(file_tier(tmp_path), DictTier(kept)) as (server, [client]):
        keys, others = some_keys(4), some_keys(3, 1, LOOSE)
        keep(server, client, keys)
        keep(server, client, others)
        eventually(lambda: tier_figure(server, "stored", 1)() == 7)
        evict(client)
        client.clear(LOOSE)
        assert kept == {"era": 1}
        assert tier_figure(server, "chunks", 1)() == 0
        assert is_gone(client, others)
        assert client.prefetch(others).result() == 0
        assert retrieved(client, keys, wait=10) == 4
        eventually(lambda: len(kept) == 5, "a copy again of what is used again")


def test_a_clear_hears_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path)) as (server, [client]):
        keep(server, client, some_keys(4))
        keep(server, client, others := some_keys(3, space=LOOSE))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, limits[1]))
        try:
            with pytest.raises(PoolError, match="could not promise"):
                client.clear(SPACE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert is_gone(client, some_keys(4))
        assert tier.stats()["failed"] == 4
        assert client.lookup(others[:1]) == (1, 1)
        client.clear(LOOSE)
        assert tier.stats()["used"] == 0


# --- What is shown.


def test_a_tier_is_shown_with_what_it_did(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        retrieved(client, keys, wait=10)
        [tier] = describe(server.name)["tiers"]
        assert (tier["name"], tier["local"], tier["slots"], tier["chunks"]) == ("FileTier", True, 64, 4)
        assert (tier["stored"], tier["stored_bytes"], tier["wanted"], tier["hits"]) == (4, 4 * CHUNK, 4, 4)
        assert tier["loaded_bytes"] == 4 * CHUNK
        assert tier["store_rate"] > 0
        assert tier["load_rate"] > 0
        assert (tier["failed"], tier["corrupt"], tier["late"], tier["waiting"], tier["running"]) == (0, 0, 0, 0, 0)


def test_events_say_where_it_happened(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        events = watch(server.name)
        next(events)
        keys = some_keys(1)
        keep(server, client, keys)
        evict(client)
        retrieved(client, keys, wait=10)
        told: list[tuple[str, str]] = []
        while len(told) < 4:
            told += [(event.kind, event.medium) for event in next(events) if event.key == keys[0]]
        assert told == [("stored", "memory"), ("stored", "FileTier"), ("removed", "memory"), ("stored", "memory")]


class Registering(DictTier):
    """One that can move chunks straight from memory of which it was told."""

    checks = True

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__({})
        self.fails = fails
        self.memory: memoryview | None = None
        self.inside: list[bool] = []

    def register(self, memory: Any) -> None:
        if self.fails:
            raise OSError("locked memory is not to be had")
        self.memory = memoryview(memory)

    def unregister(self, memory: Any) -> None:
        assert not self.closed
        assert self.memory is not None
        assert _core.address(self.memory) == _core.address(memory)
        self.memory.release()
        self.memory = None

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        self.inside.append(self._is_inside(chunk))
        return super().store_chunk(key, chunk)

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        self.inside.append(self._is_inside(into))
        return super().load_chunk(key, into)

    def memory_bytes(self) -> int:
        return 0 if self.memory is None else self.memory.nbytes

    def _is_inside(self, chunk: memoryview) -> bool:
        if self.memory is None:
            return False
        first = _core.address(self.memory)
        return first <= _core.address(chunk) <= first + self.memory.nbytes - chunk.nbytes


def test_the_pools_memory_is_registered_with_tiers_that_want_it(caplog: pytest.LogCaptureFixture) -> None:
    tiers = [Registering(), Registering(fails=True)]
    with tiered(*tiers) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        eventually(lambda: tier_figure(server, "stored", 1)() == 4)
        evict(client)
        assert retrieved(client, keys, wait=10) == 4
        assert [tier.memory_bytes() for tier in tiers] == [server.capacity, 0]
    assert [tier.inside for tier in tiers] == [[True] * 8, [False] * 4]
    assert [tier.memory_bytes() for tier in tiers] == [0, 0]
    assert [tier.closed for tier in tiers] == [True, True]
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "could not be registered" in line
    assert "locked memory is not to be had" in line


def test_tiers_must_be_tiers(tmp_path: Path) -> None:
    tier = file_tier(tmp_path)
    for wrong in (tier, 3, "file:x"):
        with pytest.raises(ArgumentTypeError):
            PoolServer("wrong", "1MiB", tiers=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        PoolServer("wrong", "1MiB", tiers=["file"])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match="different"):
        PoolServer("wrong", "1MiB", tiers=[tier, tier])
    tier.close()
    with pytest.raises(PoolClosedError):
        PoolServer("wrong", "1MiB", tiers=[tier])


def test_a_server_closes_its_tiers(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path)):
        before = tier.closed
    assert (before, tier.closed) == (False, True)
    name = unique_name("t")
    with PoolServer(name, "1MiB"):
        tier = file_tier(tmp_path)
        with pytest.raises(SegmentExistsError):
            PoolServer(name, "1MiB", tiers=[tier]).start()
        assert tier.closed
