"""Groups that read: each worker has its own part, and finds out whether it is as it was stored."""

from __future__ import annotations

import os
import signal
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

from ringcast.pool import KVLayout, Namespace, PoolClient, PoolServer, StoreLease, gather_paged, scatter_paged
from tests.pool.groups import PART, SHARDS, WHOLE, check_parts, group_keys, group_pool, join_retrieve, join_store
from tests.pool.pools import HIT, MISS, Starter, fill, part_content, some_keys, start_server, store
from tests.support import eventually, unique_name


def test_a_retrieve_is_joined_without_a_message(start: Starter) -> None:
    name = unique_name("p")
    server, _ = start_server(start, name)
    with (
        PoolClient.connect(name, "scheduler", layout=WHOLE) as client,
        PoolClient.connect(name, "rank", layout=WHOLE) as rank,
    ):
        keys = group_keys()
        store(client, keys)
        found = client.prepare_retrieve(keys)
        server.kill()
        joined = join_retrieve(rank, found.export(), 2)
        assert joined.hits == 4
        assert joined.statuses == [HIT] * 4
        assert rank.held_pins == 1, "a run takes one pin"
        client.commit_retrieve(found)
        assert [bytes(slot.array) for slot in joined.slots] == [bytes(part_content(key, 2, PART)) for key in keys]


@pytest.mark.parametrize("leading", [True, False])
def test_what_has_gone_since_the_export_is_a_miss(leading: bool) -> None:
    with group_pool(clients=2, chunks=16) as (_, [client, other]):
        keys = group_keys(3)
        store(client, keys)
        with client.retrieve(keys, leading=leading) as found:
            token = found.export()
        client.clear()
        store(client, group_keys(3, first=5))
        with join_retrieve(other, token, 0) as joined:
            assert joined.hits == 0
            assert joined.statuses == [MISS] * 3
            assert joined.slots == []
        store(client, keys)
        with join_retrieve(other, token, 0) as joined:
            assert joined.hits == 0, "the same keys in another generation"


def test_keys_that_were_missed_stay_misses_where_they_are_joined() -> None:
    loose = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS, chained=False)
    with group_pool(clients=2) as (_, [client, other]):
        keys = some_keys(4, 0, loose)
        store(client, keys[1:2])
        with client.retrieve(keys, leading=False) as found, join_retrieve(other, found.export(), 1) as joined:
            assert joined.statuses == found.statuses == [MISS, HIT, MISS, MISS]
            assert [slot.index for slot in joined.slots] == [1]


# --- Copies and checksums.


def scribbling(lease: StoreLease) -> memoryview:
    """The first chunk's bytes, as somebody has them who keeps them from being read-only after the commit."""
    array: Any = lease.slots[0].array
    return memoryview(array)


def engine(part: int) -> Any:
    return np.random.default_rng(part).integers(0, 256, (8, PART // 2), np.uint8)


def test_ranks_gather_and_scatter_their_parts() -> None:
    tensors = [engine(part) for part in range(SHARDS)]
    layouts = [KVLayout.pages([(kv, PART // 2)], pages_per_chunk=2, shards=SHARDS) for kv in tensors]
    sizes = KVLayout.sizes([PART // 2], pages_per_chunk=2, shards=SHARDS)
    keys = some_keys(2, 0, Namespace("model", dtype="uint8", layout=sizes.fingerprint, shards=SHARDS))
    with PoolServer(unique_name("p"), "1MiB") as server:
        connect = partial(PoolClient.connect, server.name)
        scheduler = connect("scheduler", layout=sizes)
        ranks = [connect(f"rank {part}", layout=layout) for part, layout in enumerate(layouts)]
        with scheduler.store(keys) as lease:
            for part, rank in enumerate(ranks):
                with rank.join(lease.export(), part) as joined:
                    gather_paged(tensors[part], [1, 2, 5, 4], joined, layouts[part]).result()
        with scheduler.retrieve(keys) as found:
            for part, rank in enumerate(ranks):
                into = np.zeros_like(tensors[part])
                with rank.join(found.export(), part) as joined:
                    assert scatter_paged(joined, into, [0, 1, 2, 3], layouts[part]).result() == []
                assert np.array_equal(into[:4], tensors[part][[1, 2, 5, 4]])
        for client in (scheduler, *ranks):
            client.close()


@pytest.mark.parametrize("how", ["slots", "scatter"])
def test_a_part_whose_bytes_were_changed_is_told_and_quarantined(how: str) -> None:
    tensors = engine(0)
    layout = KVLayout.pages([(tensors, PART // 2)], pages_per_chunk=2, shards=SHARDS)
    space = Namespace("model", dtype="uint8", layout=layout.fingerprint, shards=SHARDS, chained=False)
    keys = some_keys(2, 0, space)
    with (
        PoolServer(unique_name("p"), "1MiB") as server,
        PoolClient.connect(server.name, "a", layout=layout) as client,
        PoolClient.connect(server.name, "b", layout=layout) as other,
    ):
        store_torch = client.prepare_store(keys)
        views = []
        for part in range(SHARDS):
            joined = join_store(client, store_torch.export(), part)
            views.append(scribbling(joined))  # sealed by the commit, as arrays are, but for this
            fill(joined, part)
            client.commit_store(joined)
        client.commit_store(store_torch)
        views[1][7] ^= 1
        found = other.prepare_retrieve(keys, leading=False)
        assert found.hits == 2
        assert len(join_retrieve(other, found.export(), 0).slots) == 2, "this part is as it was"
        joined_read = join_retrieve(other, found.export(), 1)
        if how == "slots":
            assert [slot.index for slot in joined_read.slots] == [1]
            assert joined_read.statuses == [MISS, HIT]
        else:
            into = np.zeros_like(tensors)
            assert scatter_paged(joined_read, into, [0, 1, 2, 3], layout).result() == [0]
        eventually(lambda: server.stats()["quarantined"] == 1, "the quarantine")
        assert other.prepare_retrieve(keys, leading=False).statuses == [MISS, HIT]
        del views


def test_a_server_finds_the_checksums_of_parts_and_of_the_whole_to_agree(start: Starter) -> None:
    """A rank reports its part as damaged, and it is whole again before the server looks at the chunk."""
    name = unique_name("p")
    server, _ = start_server(start, name)
    tensors = engine(0)
    layout = KVLayout.pages([(tensors, PART // 2)], pages_per_chunk=2, shards=SHARDS)
    keys = some_keys(1, 0, Namespace("model", dtype="uint8", layout=layout.fingerprint, shards=SHARDS))
    with (
        PoolClient.connect(name, "a", layout=layout) as client,
        PoolClient.connect(name, "b", layout=layout, timeout=60.0) as other,
    ):
        with client.store(keys) as lease:
            for part in range(SHARDS):
                joined = join_store(client, lease.export(), part)
                view = scribbling(joined)
                fill(joined, part)
                client.commit_store(joined)
        server.signal(signal.SIGSTOP)
        view[0] ^= 1
        with other.retrieve(keys) as found:
            read = join_retrieve(other, found.export(), SHARDS - 1)
            assert scatter_paged(read, np.zeros_like(tensors), [0, 1], layout).result() == [0]
        view[0] ^= 1
        os.kill(server.pid, signal.SIGCONT)
        eventually(lambda: not any(thread.name == "ringcast-report" for thread in threading.enumerate()), "the answer")
        assert check_parts(other, keys) == 1
        del view, joined
