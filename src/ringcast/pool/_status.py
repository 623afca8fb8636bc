"""What became of a key."""

from __future__ import annotations

from enum import Enum

from ringcast import _core


class ChunkStatus(Enum):
    """What a store or a retrieve says of each of its keys.

    >>> keys = keys_from_hashes([b"hash 0"], Namespace("m", dtype="uint8", layout="bytes"))
    >>> with PoolServer("docs-status", "1MiB"), PoolClient.connect("docs-status", layout=4096) as client:
    ...     client.commit_store(client.prepare_store(keys)) == [ChunkStatus.COMMITTED]
    ...     client.prepare_store(keys).statuses == [ChunkStatus.CACHED]
    True
    True
    """

    RESERVED = "reserved"
    """Store: the chunk is this lease's to fill."""
    CACHED = "cached"
    """Store: it is in the pool already."""
    PENDING = "pending"
    """Another client stores it just now. A retrieve can wait for that."""
    OWN = "own"
    """Store: this client stores it already, by another lease or earlier in this one."""
    BUSY = "busy"
    """This client holds as many chunks as its seat has pins for. Commit leases, or drop views."""
    NO_MEMORY = "no memory"
    """Store: there is no room, and nothing that may go for it."""
    ORPHAN = "orphan"
    """Store: the chunk before it is neither in the pool nor in a file of its server's, so nobody could find it."""
    HIT = "hit"
    """Retrieve: it is pinned, to be read."""
    MISS = "miss"
    """Retrieve: it is not there, or not as it was stored, or comes after one that is a miss."""
    COMMITTED = "committed"
    """Store: it is in the pool now."""
    LOST = "lost"
    """Store: the reservation was given up before the commit."""
    TIERED = "tiered"
    """Retrieve: it is in a tier, and not in memory. `prefetch` or `wait=` bring it there."""


_core.set_pool_statuses(tuple(ChunkStatus))  # in the order of the core's own, from RESERVED on
