"""What the tests of groups share: chunks of three parts, and workers that join a lease for one of them."""

from __future__ import annotations

from typing import Any

from ringcast.pool import ChunkStatus, Keys, Namespace, PoolClient, RetrieveLease, StoreLease
from tests.pool.pools import CHUNK, fill, part_content, pool, some_keys

SHARDS = 3
PART = CHUNK
WHOLE = SHARDS * PART
GROUP = Namespace("model", dtype="uint8", layout="bytes", shards=SHARDS)


def group_keys(count: int = 4, first: int = 0) -> Keys:
    return some_keys(count, first, GROUP)


def join_store(client: PoolClient, token: bytes, part: int) -> StoreLease:
    lease = client.join(token, part)
    assert isinstance(lease, StoreLease)
    return lease


def join_retrieve(client: PoolClient, token: bytes, part: int) -> RetrieveLease:
    lease = client.join(token, part)
    assert isinstance(lease, RetrieveLease)
    return lease


def store_part(client: PoolClient, token: bytes, part: int) -> list[ChunkStatus]:
    lease = join_store(client, token, part)
    fill(lease, part)
    return client.commit_store(lease)


def check_parts(client: PoolClient, keys: Keys) -> int:
    """How many of these keys are there; every part of each is looked at."""
    with client.retrieve(keys) as found:
        for part in range(SHARDS):
            with join_retrieve(client, found.export(), part) as joined:
                assert joined.hits == found.hits
                for slot in joined.slots:
                    assert bytes(slot.array) == bytes(part_content(slot.key, part, PART))
        return found.hits


def group_pool(clients: int = 1, chunks: int = 16, **options: Any) -> Any:
    """Room for so many chunks, whose checksums take one more page each."""
    return pool(chunks=chunks, clients=clients, chunk=WHOLE, **options)
