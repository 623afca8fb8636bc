"""What is cleared is gone from the tiers too, when it answers, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringcast.errors import PoolError
from tests.pool.pools import COMMITTED, LOOSE, SPACE, retrieved, some_keys, store
from tests.pool.tiered import evict, file_tier, is_gone, is_tiered, keep, tier_figure, tiered
from tests.pool.tiers import DictTier, unwritable
from tests.support import eventually


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
        assert retrieved(client, keys, wait=60) == 4
        eventually(lambda: len(kept) == 5, "a copy again of what is used again")


def test_a_clear_hears_of_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with tiered(tier := file_tier(tmp_path)) as (server, [client]):
        keep(server, client, some_keys(4))
        keep(server, client, others := some_keys(3, space=LOOSE))
        with unwritable(), pytest.raises(PoolError, match="could not promise"):
            client.clear(SPACE)
        assert is_gone(client, some_keys(4))
        assert tier.stats()["failed"] == 8, "each was tried once more"
        assert client.lookup(others[:1]) == (1, 1)
        client.clear(LOOSE)
        assert tier.stats()["used"] == 0


def test_what_could_not_be_erased_before_its_namespace_was_cleared_does_not_come_back(tmp_path: Path) -> None:
    """It was dropped in a time of trouble, of which nothing is left when it is cleared: the file alone remembers it."""
    with tiered(tier := file_tier(tmp_path, slots=4)) as (server, [client]):
        for i in range(4):
            keep(server, client, some_keys(1, i))
        with unwritable():
            store(client, some_keys(1, 5))
            retrieved(client, some_keys(1, 5))
            eventually(lambda: tier.stats()["failed"] >= 2, "an eviction, and a store, that failed")
        client.clear(SPACE)
        server.close()
    with tiered(file_tier(tmp_path, slots=4)) as (server, [client]):
        assert tier_figure(server, "chunks")() == 0
        assert all(is_gone(client, some_keys(1, i)) for i in range(6))
