"""The KV pool: memory that one server owns and workers of many engines map, found by the keys of token chunks.

_namespace    what keys are valid for
_keys         the keys of token chunks
_layouts      what the bytes of a chunk are
"""

from ringcast.pool._keys import Keys, chunk_keys, keys_from_hashes
from ringcast.pool._layouts import KVLayout
from ringcast.pool._namespace import Namespace, salt_digest

__all__ = ["KVLayout", "Keys", "Namespace", "chunk_keys", "keys_from_hashes", "salt_digest"]
