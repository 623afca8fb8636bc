"""What the tests of servers with tiers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ringcast.pool import FileTier, Keys, PoolClient, PoolServer, Tier
from tests.pool.pools import CHUNK, LOOSE, retrieved, some_keys, store
from tests.support import eventually, unique_name

SLOT = 4096 + CHUNK


def file_tier(folder: Path, slots: int = 64, **options: Any) -> FileTier:
    return FileTier(folder / "tier", 4096 + slots * SLOT, CHUNK, **options)


@contextmanager
def tiered(
    *tiers: Tier, chunks: int = 16, clients: int = 1, name: str | None = None, **options: Any
) -> Iterator[tuple[PoolServer, list[PoolClient]]]:
    """A server of room for so many chunks, with these tiers, and its clients. What is used once evicts all else."""
    options = {"policy": "lru", **options}
    with PoolServer(name or unique_name("t"), chunks * CHUNK, tiers=tiers, **options) as server:
        made = [PoolClient.connect(server.name, f"w{i}", layout=CHUNK) for i in range(clients)]
        try:
            yield server, made
        finally:
            for client in made:
                client.close()


def tier_figure(server: PoolServer, name: str, tier: int = 0) -> Callable[[], int]:
    """What the server counts of a tier, asked anew each time."""

    def now() -> int:
        counted: Any = server.stats()["tiers"][tier]
        return int(counted[name])

    return now


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
