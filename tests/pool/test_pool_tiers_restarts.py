"""Servers with tiers that are killed: the next finds what the tier has, and nothing that was cleared."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from ringcast.pool import PoolClient, PoolServer
from tests.pool.pools import CHUNK, COMMITTED, LOOSE, SPACE, Starter, retrieved, some_keys, store
from tests.pool.tiered import evict, file_tier, is_gone, is_tiered
from tests.support import Child, Link, eventually, unique_name


def serving(link: Link, name: str, folder: str, slots: int, chunks: int) -> None:
    tier = file_tier(Path(folder), slots)
    server = PoolServer(name, chunks * CHUNK, tiers=[tier], policy="lru").start()
    link.send(server.adopted)
    while True:
        if link.recv() == "stats":
            assert server._core is not None
            link.send((server._core.described()["tiers"][0], tier.stats()["used"]))


class Serving:
    """A server in a process of its own, to be killed and followed by another one."""

    def __init__(self, start: Starter, folder: Path, slots: int = 64, chunks: int = 16) -> None:
        self.name = unique_name("t")
        self._start, self._what = start, (str(folder), slots, chunks)
        self.begin()

    def begin(self) -> None:
        self.child: Child = self._start(serving, self.name, *self._what)
        self.adopted = self.child.receive()

    def restart(self, last: PoolClient | None = None) -> None:
        """`last`: a client that closes when the server is dead, and takes the pool along."""
        self.child.kill()
        if last is not None:
            last.close()
        self.begin()

    def stats(self) -> tuple[dict[str, Any], int]:
        self.child.link.send("stats")
        stats, used = self.child.receive()
        return stats, used

    def connect(self) -> PoolClient:
        return PoolClient.connect(self.name, layout=CHUNK)

    def idle(self) -> None:
        """Until its tiers have nothing to do."""

        def is_idle() -> bool:
            stats, used = self.stats()
            return bool(stats["waiting"] == stats["running"] == 0 and used == stats["chunks"])

        eventually(is_idle, "an idle tier")

    def keep(self, client: PoolClient, keys: Any) -> None:
        goal = self.stats()[0]["stored"] + len(keys)
        store(client, keys)
        assert retrieved(client, keys) == len(keys)
        eventually(lambda: self.stats()[0]["stored"] >= goal)


@pytest.mark.parametrize("adopted", [True, False])
def test_what_the_file_has_is_found_by_the_next_server(start: Starter, tmp_path: Path, adopted: bool) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    keys = some_keys(4)
    serving.keep(client, keys)
    serving.keep(client, some_keys(3, 1))
    evict(client)
    serving.restart(None if adopted else client)
    assert serving.adopted == adopted
    client = client if adopted else serving.connect()
    assert is_tiered(client, keys)
    assert retrieved(client, keys, wait=60) == 4
    assert retrieved(client, some_keys(3, 1), wait=60) == 3
    client.close()


def test_what_was_cleared_does_not_come_back(start: Starter, tmp_path: Path) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    serving.keep(client, some_keys(4))
    client.clear(SPACE)
    serving.restart()
    assert is_gone(client, some_keys(4))
    serving.restart(client)
    client = serving.connect()
    assert is_gone(client, some_keys(4))
    assert serving.stats()[1] == 0
    client.close()


@pytest.mark.parametrize("adopted", [True, False])
def test_a_namespace_that_was_cleared_does_not_come_back_and_another_does(
    start: Starter, tmp_path: Path, adopted: bool
) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    keys, others = some_keys(4), some_keys(3, space=LOOSE)
    serving.keep(client, keys)
    serving.keep(client, others)
    evict(client)
    client.clear(SPACE)
    serving.restart(None if adopted else client)
    client = client if adopted else serving.connect()
    assert is_gone(client, keys)
    serving.idle()
    assert serving.stats()[1] == 3
    assert client.prefetch(others).result() == 3
    client.close()


@pytest.mark.parametrize("adopted", [True, False])
def test_a_chunk_is_stored_behind_one_that_the_file_has(start: Starter, tmp_path: Path, adopted: bool) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    keys = some_keys(6)
    serving.keep(client, keys[:4])
    evict(client)
    serving.restart(None if adopted else client)
    client = client if adopted else serving.connect()
    assert client.lookup(keys) == (0, 4)
    assert store(client, keys[4:]) == [COMMITTED] * 2
    assert retrieved(client, keys, wait=60) == 6
    client.close()


def test_a_file_without_the_beginning_of_a_chain_keeps_nothing_of_it(start: Starter, tmp_path: Path) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    keys = some_keys(6)
    serving.keep(client, keys)
    serving.child.kill()
    client.close()
    with file_tier(tmp_path) as tier:
        assert tier.remove([keys[2]]).result() == [True]
    serving.begin()
    client = serving.connect()
    serving.idle()
    assert client.lookup(keys) == (0, 2)
    assert client.lookup(keys[3:]) == (0, 0)
    assert serving.stats()[1] == 2
    client.close()


def test_an_adopted_entry_is_believed_only_if_the_file_has_it(start: Starter, tmp_path: Path) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    keys = some_keys(6)
    serving.keep(client, keys)
    evict(client)
    assert is_tiered(client, keys)
    serving.child.kill()
    with file_tier(tmp_path) as tier:
        assert tier.remove([keys[2]]).result() == [True]
        foreign = some_keys(1, 50)[0]
        assert tier.store([foreign], [bytes(CHUNK)]).result() == [True]
    serving.begin()
    serving.idle()
    assert client.lookup(keys) == (0, 2)
    assert serving.stats()[1] == 2
    client.close()


def test_a_client_that_waits_is_served_by_the_next_server(start: Starter, tmp_path: Path) -> None:
    serving = Serving(start, tmp_path)
    client = serving.connect()
    keys = some_keys(4)
    serving.keep(client, keys)
    evict(client)
    serving.child.kill()
    future = client.prefetch(keys)
    serving.begin()
    assert future.result() in {0, 4}
    assert retrieved(client, keys, wait=60) == 4
    client.close()


@pytest.mark.parametrize("seed", range(3))
def test_ten_thousand_chunks_through_a_pool_of_a_hundred(start: Starter, tmp_path: Path, seed: int) -> None:
    """Every byte right, whoever is killed in between; no orphan; nothing left in memory or on disk."""
    chosen = random.Random(seed)
    serving = Serving(start, tmp_path, slots=11_000, chunks=100)
    client = serving.connect()
    length = 10
    chains = [some_keys(length, seed * 10_000 + i) for i in range(1_000 if seed == 0 else 100)]
    restarts = set(chosen.sample(range(len(chains)), 4))
    for number, keys in enumerate(chains):
        store(client, keys)
        assert retrieved(client, keys) == length
        if number % 8 == 7:
            serving.idle()
        if number in restarts:
            serving.idle()
            serving.restart()
            if chosen.random() < 0.5:
                serving.restart(client)
                client = serving.connect()
    serving.idle()
    kept = 0
    for keys in chosen.sample(chains, len(chains)):
        total = client.lookup(keys).total
        found = retrieved(client, keys, wait=60)
        assert found == total
        for i in range(total, length):
            assert client.lookup(keys[i:]) == (0, 0), "an orphan"
        kept += total
    assert kept >= 0.9 * length * len(chains), kept
    serving.idle()
    client.clear()
    assert serving.stats()[1] == 0
    client.close()
