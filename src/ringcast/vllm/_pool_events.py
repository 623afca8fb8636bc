"""KV events: which blocks that this engine has stored are in the pool, told to whoever routes requests by them.

That a chunk was stored this engine knows; that one has gone, by whatever cause, the pool's own events say.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ringcast._mishaps import shown, tell
from ringcast.errors import PoolError
from ringcast.pool import PoolEvent, watch
from ringcast.vllm._pool_settings import Settings

_log = logging.getLogger("vllm.ringcast")


class Stored(NamedTuple):
    """A block that is in the pool since."""

    hash: bytes
    parent: bytes | None
    tokens: list[int]


class Removed(NamedTuple):
    """A block that is there no more."""

    hash: bytes


class Announcements:
    """What an engine has to tell, in its order."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self.era = 0
        """Counts the times that all was forgotten; of the engine's thread."""
        self._there: dict[bytes, bytes] = {}
        """The hash of each key that was told as stored, until it is told as removed."""
        self._told: deque[Stored | Removed] = deque()
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="ringcast pool events", daemon=True).start()

    def stored(self, key: bytes, block: Stored, era: int, is_there: Callable[[], bool]) -> None:
        """A block that was offered in this era has been stored under this key: if it is there still.

        That is asked while no event is looked at. The pool tells that a chunk has gone after it has: so what is there
        now has that still to come, and what is not, of which it may have come already, is not told as stored.
        """
        with self._lock:
            if era == self.era and is_there():
                self._there[key] = block.hash
                self._told.append(block)

    def forget(self) -> None:
        """Nothing that was told as stored is of use any more, nor what is being stored."""
        with self._lock:
            self.era += 1
            self._gone(list(self._there))

    def take(self) -> list[Stored | Removed]:
        """What there is to tell since the last time."""
        with self._lock:
            told, self._told = list(self._told), deque()
        return told

    @property
    def waiting(self) -> bool:
        """Is there anything to tell?"""
        return bool(self._told)

    def close(self) -> None:
        """The thread ends, with the pool's next event at the latest."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.is_set():
            try:
                for batch in watch(self._settings.pool):
                    self._saw(batch)
                    if self._closed.is_set():
                        return
            except PoolError as error:
                tell(_log, "ringcast: no events: %s", shown(error), level=logging.DEBUG)
            except BaseException as error:  # whatever it is, nobody is sent to blocks that may have gone
                tell(_log, "ringcast: the pool's events could not be read: %s", shown(error), error=error)
            with self._lock:
                self._gone(list(self._there))
            self._closed.wait(max(self._settings.retry, 0.1))

    def _saw(self, batch: list[PoolEvent]) -> None:
        with self._lock:
            if batch[0].kind == "resync":
                present = {event.key for event in batch[1:]}
                self._gone([key for key in self._there if key not in present])
                return
            for event in batch:
                if event.kind == "removed" and event.key is not None and event.medium == "memory":
                    self._gone([event.key])
                elif event.kind == "cleared":
                    # Whose chunks these were is known by digests alone: a namespace of this engine's is as good as any.
                    self._gone(list(self._there))

    def _gone(self, keys: list[bytes]) -> None:
        for key in keys:
            gone = self._there.pop(key, None)
            if gone is not None:
                self._told.append(Removed(gone))
