"""Random operations of several clients against a plain-Python model of the pool, while servers are killed and adopted.

The model does not know what is evicted, and need not: what it knows is what may be there and what must be. Each run
prints its seed. RINGCAST_POOL_OPERATIONS and RINGCAST_POOL_SEED choose another length and another run.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ringcast import __version__, _core, errors
from ringcast.pool import ChunkStatus, Keys, PoolClient, RetrieveLease, StoreLease
from tests.pool.pools import (
    BUSY,
    CACHED,
    CHUNK,
    COMMITTED,
    HIT,
    LOOSE,
    NO_MEMORY,
    ORPHAN,
    RESERVED,
    content,
    some_keys,
)
from tests.pool.test_pool_deaths import start_server
from tests.support import Child, eventually, unique_name

OPERATIONS = int(os.environ.get("RINGCAST_POOL_OPERATIONS", "2000"))
SEED = int(os.environ.get("RINGCAST_POOL_SEED", "0"))
CHUNKS = 48
CHAINS = 12
LENGTH = 8
CLIENTS = 3

Starter = Callable[..., Child]


class Model:
    """What is known of each key: whose store is open, whether it may be there, and who holds it."""

    def __init__(self, start: Starter, seed: int) -> None:
        self.random = random.Random(seed)
        self.start = start
        self.name = unique_name("p")
        self.server, _ = start_server(start, self.name, CHUNKS)
        self.clients = [
            PoolClient.connect(self.name, f"w{i}", layout=CHUNK, regain=30.0, timeout=60.0) for i in range(CLIENTS)
        ]
        self.chains = [
            some_keys(LENGTH, first=i, space=LOOSE if i % 4 == 3 else some_keys(1).space) for i in range(CHAINS)
        ]
        self.committed: set[bytes] = set()
        self.stores: list[tuple[int, StoreLease, Keys]] = []
        self.held: list[tuple[int, RetrieveLease, list[Any]]] = []
        self.dropped: set[bytes] = set()
        self.doubtful: set[bytes] = set()
        self.aborts = 0
        self.kills = 0

    def chain(self) -> Keys:
        keys = self.random.choice(self.chains)
        return keys[: self.random.randint(1, LENGTH)]

    def client(self) -> int:
        return self.random.randrange(CLIENTS)

    # --- What is done.

    def store(self) -> None:
        if len(self.stores) > 4:
            return self.commit()
        i, keys = self.client(), self.chain()
        lease = self.clients[i].prepare_store(keys)
        reserved = {keys[slot.index] for slot in lease.slots}
        being_stored = {key for _, other, _ in self.stores for key in _reserved(other)}
        for key, status in zip(keys, lease.statuses, strict=True):
            assert (status is RESERVED) == (key in reserved)
            if status is RESERVED:
                assert key not in being_stored - self.doubtful, "one chunk has two writers"
                self.committed.discard(key)  # it had gone
                self.dropped.discard(key)
            elif status is CACHED:
                assert key in self.committed, "a chunk that nobody committed is there"
            elif status in (ChunkStatus.PENDING, ChunkStatus.OWN):
                assert key in being_stored | self.dropped
                if key not in being_stored:
                    continue  # the server has not seen yet that nobody stores it any more
                mine = any(key in _reserved(other) for owner, other, _ in self.stores if owner == i)
                assert mine == (status is ChunkStatus.OWN)
            else:
                assert status in (NO_MEMORY, ORPHAN, BUSY), status
        if keys.space.chained and self.dropped & set(keys):  # they go with what nobody stores any more
            self.doubtful |= reserved
        for slot in lease.slots:
            slot.array[:] = content(slot.key)
        self.stores.append((i, lease, keys))

    def commit(self) -> None:
        if not self.stores:
            return
        i, lease, keys = self.stores.pop(self.random.randrange(len(self.stores)))
        reserved = _reserved(lease)
        try:
            statuses = self.clients[i].commit_store(lease)
        except errors.LeaseExpiredError:
            assert self.aborts, "a reservation was lost without a reason"
            return
        for key, status in zip(keys, statuses, strict=True):
            if key not in reserved:
                continue
            assert status in (COMMITTED, ORPHAN), status
            if status is COMMITTED:
                self.committed.add(key)

    def abort(self) -> None:
        if not self.stores:
            return
        self.aborts += 1
        i, lease, _ = self.stores.pop(self.random.randrange(len(self.stores)))
        if lease.keys.space.chained:  # what hangs from these chunks goes with them
            for _, other, keys in self.stores:
                if keys[0] == lease.keys[0]:
                    self.doubtful |= _reserved(other)
        if self.random.random() < 0.7:
            self.clients[i].abort_store(lease)
        else:
            self.dropped |= _reserved(lease)

    def retrieve(self) -> None:
        i, keys = self.client(), self.chain()
        leading = self.random.random() < 0.7
        lease = self.clients[i].prepare_retrieve(keys, leading=leading)
        views = [(slot.key, slot.array) for slot in lease.slots]
        for key, view in views:
            assert key in self.committed, "a chunk is seen that was not committed"
            assert bytes(view) == bytes(content(key)), "wrong bytes"
        there = [status is HIT for status in lease.statuses]
        if not leading and keys.space.chained and ChunkStatus.PENDING not in lease.statuses:
            assert sorted(there, reverse=True) == there, "there is an orphan"
        if self.random.random() < 0.4 and len(self.held) < 6:
            self.held.append((i, lease, views))
        else:
            self.clients[i].commit_retrieve(lease)

    def release(self) -> None:
        if not self.held:
            return
        i, lease, views = self.held.pop(self.random.randrange(len(self.held)))
        for key, view in views:
            assert bytes(view) == bytes(content(key)), "a view changed while it was held"
        self.clients[i].commit_retrieve(lease)

    def look_up(self) -> None:
        keys = self.chain()
        n = self.clients[self.client()].lookup(keys, touch=self.random.random() < 0.5).memory
        assert all(key in self.committed for key in keys[:n])
        for _, lease, _ in self.held:
            if lease.keys.space.chained and set(lease.statuses[: lease.hits]) == {HIT}:
                # An eviction that began before the pin shows it as a miss for a moment, and puts it back.
                eventually(partial(self.is_there, lease), "the return of what is held")

    def is_there(self, lease: RetrieveLease) -> bool:
        return self.clients[0].lookup(lease.keys[: lease.hits]).memory == lease.hits

    def kill_the_server(self) -> None:
        self.server.kill()
        self.kills += 1
        self.look_up()
        self.retrieve()
        self.server, adopted = start_server(self.start, self.name, CHUNKS)
        assert adopted

    def run(self, operations: int) -> None:
        for _ in range(operations):
            chosen = self.random.random()
            if chosen < 0.25:
                self.store()
            elif chosen < 0.45:
                self.commit()
            elif chosen < 0.52:
                self.abort()
            elif chosen < 0.75:
                self.retrieve()
            elif chosen < 0.87:
                self.release()
            elif chosen < 0.997:
                self.look_up()
            else:
                self.kill_the_server()
        self.end()

    def end(self) -> None:
        """Everything is given back, and the pool is empty after it is cleared."""
        while self.held:
            self.release()
        while self.stores:
            self.commit()
        for keys in self.chains:
            self.clients[0].prepare_retrieve(keys, leading=False)
        self.clients[0].clear()
        eventually(lambda: self.figures()["used_bytes"] == 0, "the memory's return")
        figures = self.figures()
        assert (figures["reserved"], figures["limbo"], figures["chunks"], figures["quarantined"]) == (0, 0, 0, 0)
        assert figures["refused"] == 0
        assert [client.held_pins for client in self.clients] == [0] * CLIENTS

    def figures(self) -> dict[str, Any]:

        return _core.PoolMemory(self.clients[0].info.segment, __version__).described()

    def close(self) -> None:
        self.held.clear()
        self.stores.clear()
        for client in self.clients:
            client.close()


def _reserved(lease: StoreLease) -> set[bytes]:
    return {lease.keys[i] for i, status in enumerate(lease.statuses) if status is RESERVED}


@pytest.mark.parametrize("seed", [SEED, SEED + 1, SEED + 2])
def test_random_operations_with_servers_that_are_killed(start: Starter, seed: int) -> None:
    print(f"seed {seed}")
    model = Model(start, seed)
    try:
        model.run(OPERATIONS)
    finally:
        model.close()


def test_the_model_would_see_wrong_bytes(start: Starter) -> None:
    """The checks themselves: a chunk that is not what its key says."""
    model = Model(start, 1)
    try:
        keys = model.chains[0][:1]
        with model.clients[0].store(keys) as lease:
            lease.slots[0].array[:] = 0
        model.committed.add(keys[0])
        model.chains = [keys] * CHAINS
        with pytest.raises(AssertionError, match="wrong bytes"):
            model.retrieve()
    finally:
        model.close()
