"""The rings of a group's answers, as one thing to wait for. Whoever leads takes from them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ringcast._interruptions import Cause, cause_of
from ringcast._selector import Selector
from ringcast.errors import (
    ArgumentError,
    DecodeError,
    QueueClosedError,
    QueueTimeoutError,
    RingcastError,
    WriterDiedError,
)
from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers._records import RAISED, UNKNOWN

_NOTHING: Any = object()
_MOMENT_S = 0.001


class Rings:
    """Used by one thread at a time."""

    def __init__(self, ended: Callable[[int, RingcastError], None], wait: Wait) -> None:
        self.inbox: deque[Any] = deque()
        """Messages go from a ring into it in one native step, so that no interruption comes between."""
        self._rings: dict[int, MessageQueue] = {}
        self._selector: Selector[int] = Selector(wait=wait)
        self._ended = ended

    def add(self, rank: int, ring: MessageQueue) -> None:
        self._rings[rank] = ring
        self._selector.register(ring, rank)

    def of(self, rank: int) -> MessageQueue:
        return self._rings[rank]

    def drop(self, rank: int) -> None:
        """Takes all that its worker, which has ended, has sent before, and lets go of the ring."""
        ring = self._rings.get(rank)
        if ring is None:
            return
        while self._take_from(rank, ring):
            pass
        self._let_go(rank)

    def take(self, seconds: float, wanted: Sequence[int] = (), *, each: bool = False) -> None:
        """Waits until some message is there, and takes what is there.

        For a moment it waits for one of the ranks `wanted` alone, without which nobody can go on, or for one message of
        `each`, if nobody else waits for any: that is cheaper than to wait for all.
        """
        rings, inbox = self._rings, self.inbox
        if inbox:  # left there by an interruption
            return
        alone = len(rings) == 1
        moment = (seconds if alone or seconds < _MOMENT_S else _MOMENT_S,)
        rank = -1
        try:
            for rank in tuple(rings) if alone else wanted:
                ring = rings[rank]
                inbox.extend(map(ring.dequeue, moment))
                if not each:
                    self._take_from(rank, ring)  # of other calls
                    return
            if inbox:
                return
        except (QueueTimeoutError, KeyError):  # KeyError: it has ended
            if inbox or alone:
                return
        except BaseException as error:
            self._failed(rank, error)
            return
        for rank, ring in self._selector._select(seconds):
            self._take_from(rank, ring)

    def take_what_is_there(self) -> None:
        for rank, ring in list(self._rings.items()):
            self._take_from(rank, ring)

    def close(self) -> None:
        for rank in list(self._rings):
            self._let_go(rank)
        self._selector.close()

    def _let_go(self, rank: int) -> None:
        ring = self._rings.get(rank)
        if ring is not None:
            with suppress(ArgumentError):  # an interruption came after that
                self._selector.unregister(ring)
            ring.close()
            self._rings.pop(rank, None)

    def _take_from(self, rank: int, ring: MessageQueue) -> bool:
        """False: the ring has no more."""
        try:
            self.inbox.extend(iter(partial(ring.try_dequeue, _NOTHING), _NOTHING))
        except BaseException as error:
            return self._failed(rank, error)
        return False

    def _failed(self, rank: int, error: BaseException) -> bool:
        """As `_take_from`."""
        if isinstance(error, DecodeError):
            self.inbox.append((UNKNOWN, rank, RAISED, error, 0.0))
            return True
        if isinstance(error, QueueClosedError | WriterDiedError):
            self._ended(rank, error)  # which may be interrupted: it comes again until the ring has been let go of
            self._let_go(rank)
            return False
        if cause_of(error, error.__traceback__) != Cause.WANT_OF_MEMORY:
            raise error
        return True  # the ring has the answer once more; if memory is wanting again, that is a DecodeError
