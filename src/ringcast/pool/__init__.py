"""The KV pool: memory that one server owns and workers of many engines map, found by the keys of token chunks.

_namespace    what keys are valid for
_keys         the keys of token chunks
_layouts      what the bytes of a chunk are
_forms        which dimension of a tensor is what
_copies       an engine's blocks into chunks, and chunks into blocks
_accelerators the same for tensors of a device
_trial        are the copies of a layout right?
_server       owns the memory and hands it out
_client       looks up, reads and stores
_tokens       leases that others join
_status       what became of a key
_looking      pools seen from outside
_events       what happens to chunks, told in order
_explaining   why a lookup misses
tiers         where chunks lie that are not in memory
_tending      the threads that do tiers' work for a server
_progress     how far a server has come with taking its memory
_huge_pages   how much of it is mapped with them
"""

from ringcast._core import Found, RetrieveLease, Slot, StoreLease
from ringcast.pool._client import Health, PoolClient, PoolInfo
from ringcast.pool._copies import gather_paged, scatter_paged
from ringcast.pool._events import PoolEvent, watch
from ringcast.pool._explaining import Elsewhere, Explanation, explain
from ringcast.pool._keys import Keys, chunk_keys, keys_from_hashes
from ringcast.pool._layouts import KVLayout
from ringcast.pool._looking import (
    FoundPools,
    PoolClientStats,
    PoolPin,
    PoolStats,
    PoolTenant,
    PoolTierStats,
    UnreadablePool,
    describe,
    list_pools,
    remove,
)
from ringcast.pool._namespace import Namespace, salt_digest
from ringcast.pool._server import PoolServer
from ringcast.pool._status import ChunkStatus
from ringcast.pool.tiers import FileTier, FileTierStats, MooncakeTier, MooncakeTierStats, ObjectTier, Tier, TierStats

__all__ = [
    "ChunkStatus",
    "Elsewhere",
    "Explanation",
    "FileTier",
    "FileTierStats",
    "Found",
    "FoundPools",
    "Health",
    "KVLayout",
    "Keys",
    "MooncakeTier",
    "MooncakeTierStats",
    "Namespace",
    "ObjectTier",
    "PoolClient",
    "PoolClientStats",
    "PoolEvent",
    "PoolInfo",
    "PoolPin",
    "PoolServer",
    "PoolStats",
    "PoolTenant",
    "PoolTierStats",
    "RetrieveLease",
    "Slot",
    "StoreLease",
    "Tier",
    "TierStats",
    "UnreadablePool",
    "chunk_keys",
    "describe",
    "explain",
    "gather_paged",
    "keys_from_hashes",
    "list_pools",
    "remove",
    "salt_digest",
    "scatter_paged",
    "watch",
]
