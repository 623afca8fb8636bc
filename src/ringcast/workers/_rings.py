"""The rings of a group's answers, as one thing to wait for. Whoever leads takes from them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection
from functools import partial
from itertools import count
from typing import Any

from ringcast.errors import DecodeError, QueueClosedError, QueueTimeoutError, RingcastError, WriterDiedError
from ringcast.queue import MessageQueue
from ringcast.workers._records import RAISED, UNKNOWN

_NOTHING: Any = object()
_FIRST_S = 0.0005
_LAST_S = 0.005
"""Of several rings one is waited for at a time, in turn, for so long at first and at last."""


class Rings:
    """Used by one thread at a time."""

    def __init__(self, ended: Callable[[int], None]) -> None:
        self.inbox: deque[Any] = deque()
        """Messages go from a ring into it in one native step, so that no interruption comes between."""
        self._rings: dict[int, MessageQueue] = {}
        self._ended = ended

    def add(self, rank: int, ring: MessageQueue) -> None:
        self._rings[rank] = ring

    def of(self, rank: int) -> MessageQueue:
        return self._rings[rank]

    def drop(self, rank: int) -> None:
        """Takes all that its worker, which has ended, has sent before, and lets go of the ring."""
        ring = self._rings.get(rank)
        if ring is None:
            return
        while self._take_from(rank, ring):
            pass
        self._rings.pop(rank, None)
        ring.close()

    def take(self, seconds: float, wanted: Collection[int]) -> None:
        """Waits until some message is there, preferably of a rank of `wanted`, and takes what is there."""
        rings = self._rings
        if len(rings) == 1:
            for rank, ring in rings.items():
                self._wait(rank, ring, seconds)
                return
        until = time.monotonic() + seconds
        turn = _FIRST_S
        for number in count():
            self.take_what_is_there()
            left = until - time.monotonic()
            if self.inbox or left <= 0:
                return
            ranks = [rank for rank in wanted if rank in rings] or list(rings)
            if not ranks:
                time.sleep(min(left, _LAST_S))
                return
            rank = ranks[number % len(ranks)]
            self._wait(rank, rings[rank], min(left, turn))
            if self.inbox:
                return
            turn = min(2 * turn, _LAST_S)

    def take_what_is_there(self) -> None:
        for rank, ring in list(self._rings.items()):
            self._take_from(rank, ring)

    def close(self) -> None:
        for ring in list(self._rings.values()):
            ring.close()
        self._rings.clear()

    def _wait(self, rank: int, ring: MessageQueue, seconds: float) -> None:
        try:
            self.inbox.extend(map(ring.dequeue, (seconds,)))
        except QueueTimeoutError:
            pass
        except RingcastError as error:
            self._failed(rank, error)

    def _take_from(self, rank: int, ring: MessageQueue) -> bool:
        """False: the ring has no more."""
        try:
            self.inbox.extend(iter(partial(ring.try_dequeue, _NOTHING), _NOTHING))
        except RingcastError as error:
            return self._failed(rank, error)
        return False

    def _failed(self, rank: int, error: RingcastError) -> bool:
        if isinstance(error, DecodeError):
            self.inbox.append((UNKNOWN, rank, RAISED, error, 0.0))
            return True
        if isinstance(error, QueueClosedError | WriterDiedError):
            ring = self._rings.pop(rank, None)
            if ring is not None:
                ring.close()
            self._ended(rank)
            return False
        raise error
