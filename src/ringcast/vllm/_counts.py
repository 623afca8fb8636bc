"""What a side of the connector has done, counted by any of its threads, told in parts."""

from __future__ import annotations

import threading

EXPLAINED = {
    "blocks_looked_up": "Blocks of prompts that were looked for in the pool.",
    "blocks_loaded": "Blocks that were taken from the pool instead of being computed.",
    "loads_failed": "Requests of which a block could not be loaded, on one of the workers; they compute.",
    "blocks_stored": "Blocks that are in the pool since.",
    "blocks_not_stored": "Blocks that are not, for want of memory or of the server.",
    "pool_errors": "Calls to the pool that failed.",
    "bytes_loaded": "Bytes that the workers copied out of the pool.",
    "bytes_stored": "Bytes that the workers copied into the pool.",
}
"""Each count, and what it is."""


class Counts:
    """Counts since they were last taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def add(self, name: str, count: int) -> None:
        """So many more."""
        if count:
            with self._lock:
                self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, int]:
        """What was counted since the last time."""
        with self._lock:
            counts, self._counts = self._counts, {}
        return counts
