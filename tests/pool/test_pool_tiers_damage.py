"""Bytes that changed in a tier, or on their way there: a miss and an event, and never a chunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringcast.pool import ObjectTier, Tier, watch
from tests.pool.pools import CACHED, COMMITTED, retrieved, some_keys, store
from tests.pool.test_pool_scribbles import scribbled
from tests.pool.tiered import evict, file_tier, header_of_key, is_gone, keep, tier_figure, tiered
from tests.pool.tiers import BLOCK, TrustingTier, flip
from tests.support import eventually


def test_a_bit_that_changed_in_the_file_is_a_miss_and_an_event(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        flip(tmp_path / "tier", header_of_key(tmp_path, keys[1]) + BLOCK + 17)
        events = watch(server.name)
        next(events)
        assert retrieved(client, keys, wait=60) == 1
        assert client.lookup(keys) == (1, 1), "what continued it went along"
        told = [event for batch in (next(events),) for event in batch if event.reason == "damaged"]
        assert [(event.kind, event.key, event.medium) for event in told] == [("removed", keys[1], "FileTier")]
        assert tier_figure(server, "corrupt")() == 1
        [(times, text)] = server._core.tier_errors()  # type: ignore[union-attr]
        assert (times, "not those that were stored" in text) == (1, True), "which is logged"
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
        assert retrieved(client, keys, wait=60) == 1
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
        assert retrieved(client, keys, wait=60) == 1
        told = [event for event in next(events) if event.reason == "damaged"]
        assert [(event.key, event.medium) for event in told] == [(keys[1], type(tier).__name__)]
        assert tier_figure(server, "corrupt")() == 1
        eventually(lambda: tier.exists(keys).result() == [True, False, True])
