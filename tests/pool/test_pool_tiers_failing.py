"""A tier that is slow, full, gone, lying, raising or hanging delays and fails nothing but what only it has."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ringcast.errors import PoolError
from ringcast.pool import FileTier, Keys, PoolClient, PoolServer, _server, _tending
from tests.pool.pools import CHUNK, COMMITTED, retrieved, some_keys, store
from tests.pool.tiered import evict, file_tier, is_gone, keep, tier_figure, tiered
from tests.pool.tiers import DictTier
from tests.support import DEADLINE_S, eventually


class Troubled(DictTier):
    """A tier that does as it should until it is told otherwise."""

    checks = True  # so it is given the pool's memory itself

    def __init__(self) -> None:
        super().__init__({}, threads=2)
        self.trouble = ""
        self.held = threading.Event()
        self.go_on = threading.Event()
        self.seen: list[memoryview] = []

    def _meets_trouble(self) -> bool:
        if self.trouble == "hangs":
            self.held.set()
            self.go_on.wait()
        if self.trouble == "raises":
            raise OSError("the disk is on fire")
        if self.trouble == "exits":
            raise SystemExit
        return self.trouble == "full"

    def store_chunk(self, key: bytes, chunk: memoryview) -> bool:
        if self._meets_trouble():
            return False
        if self.trouble == "keeps":
            self.seen.append(chunk[:10])
        if self.trouble == "forgets":
            return True
        return super().store_chunk(key, chunk)

    def load_chunk(self, key: bytes, into: memoryview) -> bool:
        if self._meets_trouble():
            return False
        loaded = super().load_chunk(key, into)
        if self.trouble == "lies":
            into[7] ^= 1
        return loaded

    def has_chunk(self, key: bytes) -> bool:
        if self.trouble == "lies":
            return True
        return not self._meets_trouble() and super().has_chunk(key)

    def clear_before(self, era: int) -> None:
        self._meets_trouble()
        super().clear_before(era)


@pytest.fixture
def troubled() -> Iterator[Troubled]:
    tier = Troubled()
    yield tier
    tier.go_on.set()


def goes_on(server: PoolServer, client: PoolClient, round_: int) -> None:
    """Everything that needs no tier is as it was."""
    for i in range(8):
        keys = some_keys(2, 1000 + 8 * round_ + i)
        assert store(client, keys) == [COMMITTED] * 2
        assert retrieved(client, keys) == 2
        assert retrieved(client, keys, wait=0.01) == 2


def keep_impatiently(server: PoolServer, client: PoolClient, tier: DictTier, keys: Keys) -> None:
    """`keep`, where a tier that does not get the CPU in time is taken for one that hangs: then they are used again."""
    stored, running = tier_figure(server, "stored"), tier_figure(server, "running")
    goal = stored() + len(keys)
    store(client, keys)

    def has_copies() -> bool:
        client.touch(keys)
        return stored() >= goal and running() == 0 and all(key in tier.kept for key in keys)

    eventually(has_copies, "copies")


@pytest.mark.parametrize("trouble", ["hangs", "raises", "exits", "full", "forgets", "keeps"])
def test_a_tier_in_trouble_fails_and_delays_nothing_in_memory(troubled: Troubled, trouble: str) -> None:
    with tiered(troubled) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        troubled.trouble = trouble
        for round_ in range(4):
            goes_on(server, client, round_)
        assert retrieved(client, some_keys(2, 5), wait=0.05) == 0
        troubled.trouble = ""
        troubled.seen.clear()
        troubled.go_on.set()
        assert retrieved(client, keys, wait=60) == 4


def test_a_chunk_that_is_lied_about_is_a_miss(troubled: Troubled) -> None:
    with tiered(file := troubled) as (server, [client]):
        keys = some_keys(3)
        keep(server, client, keys)
        evict(client)
        file.trouble = "lies"
        assert retrieved(client, some_keys(3, 4), wait=60) == 0, "what it says to have and has not"
        assert retrieved(client, keys, wait=60) == 0
        assert tier_figure(server, "corrupt")() >= 1


def test_what_a_tier_hangs_on_is_given_up_and_the_rest_goes_on(
    troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "_TIER_PATIENCE_S", 0.3)
    with tiered(troubled) as (server, [client]):
        keys = some_keys(6)
        keep_impatiently(server, client, troubled, keys)
        evict(client)
        troubled.trouble = "hangs"
        # Asked in a thread of the tier's own, the question itself hangs.
        assert retrieved(client, keys, wait=DEADLINE_S) == 0, "and not after a minute only: the server gives up"
        assert store(client, keys) == [COMMITTED] * 6
        goes_on(server, client, 0)
        with pytest.raises(PoolError, match="promise"):
            client.clear()
        troubled.trouble = ""
        troubled.go_on.set()
        eventually(lambda: troubled.era == 1, "the clear that was owed")
        keep_impatiently(server, client, troubled, keys)


def test_a_load_that_hangs_keeps_its_memory_and_nothing_else(
    troubled: Troubled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_server, "_TIER_PATIENCE_S", 0.3)
    monkeypatch.setattr(Troubled, "has_chunk", DictTier.has_chunk)
    with tiered(troubled) as (server, [client]):
        keys = some_keys(6)
        keep_impatiently(server, client, troubled, keys)
        evict(client)
        troubled.trouble = "hangs"
        futures = []

        def hangs() -> bool:  # the question before it may be given up, as above
            futures.append(client.prefetch(keys))
            return troubled.held.wait(5)

        eventually(hangs, "a load")
        assert client.lookup(keys) == (0, 0)
        assert [future.result() for future in futures] == [0] * len(futures)
        eventually(lambda: tier_figure(server, "late")() >= 1)
        eventually(lambda: server.stats()["reserved"] == 0)
        assert store(client, keys) == [COMMITTED] * 6, "others may store it"
        goes_on(server, client, 0)
        troubled.trouble = ""
        troubled.go_on.set()
        eventually(lambda: server.stats()["limbo"] == 0 and tier_figure(server, "running")() == 0)


def test_a_server_ends_although_a_tier_hangs(troubled: Troubled, caplog: pytest.LogCaptureFixture) -> None:
    with tiered(troubled) as (server, [client]):
        troubled.trouble = "hangs"
        store(client, some_keys(1))
        assert retrieved(client, some_keys(1)) == 1
        assert troubled.held.wait(DEADLINE_S)
    assert server.closed
    assert not troubled.closed
    assert "has not come back" in caplog.text


def test_what_fails_is_logged_ever_less_often(
    troubled: Troubled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_tending, "_LOOK_S", 0.02)
    with caplog.at_level(logging.WARNING, "ringcast.pool"), tiered(troubled) as (server, [client]):
        troubled.trouble = "raises"
        failed = tier_figure(server, "failed")

        def failed_times(least: int) -> bool:
            return failed() >= least

        for i in range(20):
            store(client, some_keys(1, i))
            assert retrieved(client, some_keys(1, i)) == 1
            eventually(partial(failed_times, i + 1))
        eventually(lambda: "on fire" in caplog.text)
        assert sum("on fire" in record.message for record in caplog.records) <= failed().bit_length() + 1


def test_a_file_whose_slots_are_too_short_says_how_long_they_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_tending, "_LOOK_S", 0.02)
    tier = FileTier(tmp_path / "tier", "1MiB", CHUNK // 2)
    with caplog.at_level(logging.WARNING, "ringcast.pool"), tiered(tier) as (server, [client]):
        store(client, some_keys(1))
        assert retrieved(client, some_keys(1)) == 1
        said = f"a chunk has {CHUNK} bytes, and the file's slots are for chunks of at most {CHUNK // 2}"
        eventually(lambda: said in caplog.text)
        assert (tier_figure(server, "failed")(), tier_figure(server, "dropped")()) == (1, 1)


def test_a_file_that_is_gone_fails_nothing(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        with (tmp_path / "tier").open("r+b") as file:
            file.truncate(0)
        assert retrieved(client, keys, wait=60) == 0
        assert is_gone(client, keys)
        goes_on(server, client, 0)
        keep(server, client, keys)


def test_more_than_a_tier_can_take_is_not_copied_and_waits_for_nothing(troubled: Troubled) -> None:
    with tiered(troubled, chunks=64) as (server, [client]):
        troubled.trouble = "hangs"
        for i in range(300):
            store(client, some_keys(4, i))
            assert retrieved(client, some_keys(4, i)) == 4
        stats: Any = server.stats()["tiers"][0]
        assert stats["running"] <= 4
        troubled.trouble = ""
        troubled.go_on.set()
        eventually(lambda: tier_figure(server, "waiting")() == 0)
        assert tier_figure(server, "dropped")() > 0, "what had gone when it was its turn"
