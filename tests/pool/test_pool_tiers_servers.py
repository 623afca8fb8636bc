"""What a server is to its tiers: it shows what they do, registers memory with them, and closes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ringcast import _core
from ringcast.errors import ArgumentError, ArgumentTypeError, PoolClosedError, SegmentExistsError
from ringcast.pool import PoolServer, describe, watch
from tests.pool.pools import CHUNK, retrieved, some_keys
from tests.pool.tiered import evict, file_tier, keep, tier_figure, tiered
from tests.pool.tiers import DictTier
from tests.support import eventually, unique_name


def test_a_tier_is_shown_with_what_it_did(tmp_path: Path) -> None:
    with tiered(file_tier(tmp_path)) as (server, [client]):
        keys = some_keys(4)
        keep(server, client, keys)
        evict(client)
        retrieved(client, keys, wait=60)
        eventually(lambda: tier_figure(server, "running")() == 0, "what is told a moment after the chunks are there")
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
        retrieved(client, keys, wait=60)
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
        assert retrieved(client, keys, wait=60) == 4
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


class Unmade(DictTier):
    def __init__(self) -> None:
        self.kept = {}


def test_a_tier_whose_own_init_calls_no_other_is_told_so() -> None:
    tier = Unmade()
    with pytest.raises(ArgumentError, match=r"a Unmade .*super\(\).__init__\(\)"):
        PoolServer("wrong", "1MiB", tiers=[tier])
    with pytest.raises(ArgumentError, match=r"super\(\).__init__\(\)"):
        tier.store([bytes(32)], [b"a chunk"])
    tier.close()


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
