"""The KV pool: memory that one server owns and workers of many engines map, found by the keys of token chunks.

_namespace    what keys are valid for
_keys         the keys of token chunks
_layouts      what the bytes of a chunk are
_server       owns the memory and hands it out
_client       looks up, reads and stores
_status       what became of a key
_looking      pools seen from outside
_events       what happens to chunks, told in order
_progress     how far a server has come with taking its memory
_huge_pages   how much of it is mapped with them
"""

from ringcast._core import Found, RetrieveLease, Slot, StoreLease
from ringcast.pool._client import Health, PoolClient, PoolInfo
from ringcast.pool._events import PoolEvent, watch
from ringcast.pool._keys import Keys, chunk_keys, keys_from_hashes
from ringcast.pool._layouts import KVLayout
from ringcast.pool._looking import (
    FoundPools,
    PoolClientStats,
    PoolPin,
    PoolStats,
    PoolTenant,
    UnreadablePool,
    describe,
    list_pools,
    remove,
)
from ringcast.pool._namespace import Namespace, salt_digest
from ringcast.pool._server import PoolServer
from ringcast.pool._status import ChunkStatus

__all__ = [
    "ChunkStatus",
    "Found",
    "FoundPools",
    "Health",
    "KVLayout",
    "Keys",
    "Namespace",
    "PoolClient",
    "PoolClientStats",
    "PoolEvent",
    "PoolInfo",
    "PoolPin",
    "PoolServer",
    "PoolStats",
    "PoolTenant",
    "RetrieveLease",
    "Slot",
    "StoreLease",
    "UnreadablePool",
    "chunk_keys",
    "describe",
    "keys_from_hashes",
    "list_pools",
    "remove",
    "salt_digest",
    "watch",
]
