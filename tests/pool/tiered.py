"""What the tests of servers with tiers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ringcast.pool import FileTier, Keys, PoolClient, PoolServer, Tier
from tests.pool.pools import CHUNK, LOOSE, figure, pool, retrieved, some_keys, store
from tests.pool.tiers import BLOCK
from tests.support import eventually

SLOT = BLOCK + CHUNK + BLOCK
"""A header, a chunk of whole blocks, and room for its parts' checksums."""


def file_tier(folder: Path, slots: int = 64, **options: Any) -> FileTier:
    return FileTier(folder / "tier", BLOCK + slots * SLOT, CHUNK, **options)


def tiered(
    *tiers: Tier, chunks: int = 16, **options: Any
) -> AbstractContextManager[tuple[PoolServer, list[PoolClient]]]:
    """A pool with these tiers, and an entry for each of their chunks. What is used once evicts all else."""
    return pool(chunks, tiers=tiers, **{"policy": "lru", "entries": None, **options})


def tier_figure(server: PoolServer, name: str, tier: int = 0) -> Callable[[], int]:
    """What the server counts of a tier, asked anew each time."""
    return figure(server, "tiers", tier, name)


def keep(server: PoolServer, client: PoolClient, keys: Keys, tier: int = 0) -> None:
    """Stores and uses the chunks of these keys, and waits until they have copies."""
    stored = tier_figure(server, "stored", tier)
    goal = stored() + len(keys)
    store(client, keys)
    assert retrieved(client, keys) == len(keys)
    eventually(lambda: stored() >= goal, "copies")


def evict(client: PoolClient, chunks: int = 64, first: int = 900) -> None:
    """Stores so much that is used once that all else goes."""
    for i in range(chunks):
        store(client, some_keys(1, first + i, LOOSE))


def is_tiered(client: PoolClient, keys: Keys) -> bool:
    found = client.lookup(keys)
    return found.memory == 0 and found.total == len(keys)


def is_gone(client: PoolClient, keys: Sequence[bytes] | Keys) -> bool:
    return client.lookup(keys) == (0, 0)  # type: ignore[arg-type]


def header_of_key(folder: Path, key: bytes) -> int:
    """Where the header of the chunk's slot begins. Its child's header has the key, too, further behind."""
    file = (folder / "tier").read_bytes()
    return next(at for at in range(BLOCK, len(file), SLOT) if file.startswith(key, at + 8))
