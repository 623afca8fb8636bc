"""What a rank is doing, where no pipe leads to it: asked through a ring of its own, answered as calls are.

A thread of the rank's answers, which needs the interpreter's lock: of code that never lets go of it nothing is told.
"""

from __future__ import annotations

import itertools
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ringcast.errors import QueueTimeoutError, RingcastError
from ringcast.queue import MessageQueue
from ringcast.workers._call import Call
from ringcast.workers._calls import Calls
from ringcast.workers._records import DONE

_WITHIN_S = 0.5
_MOST_TEXT = 1 << 16
_MUTE = "(says nothing: its process is stopped or out of reach, or code there never lets go of the interpreter's lock)"


class Asking:
    """On the side that calls."""

    def __init__(self, calls: Calls, ring: MessageQueue[Any]) -> None:
        self._calls = calls
        self._ring = ring
        self._numbers = itertools.count(-2, -1)  # no call of a user's has these

    def stacks(self, ranks: Sequence[int]) -> dict[int, str]:
        """Of all that have not ended."""
        calls = self._calls
        asked = tuple(rank for rank in ranks if rank not in calls.dead)
        question = Call("stacks", asked, False, _WITHIN_S)
        question.number = next(self._numbers)
        calls.under_way[question.number] = question
        try:
            if asked and self._ring.try_enqueue((question.number, asked)):
                calls.wait(question, question.expires)
            return {rank: question.results.get(rank, _MUTE) for rank in asked if rank not in calls.dead}
        except RingcastError:  # the group is being closed
            return {}
        finally:
            calls.under_way.pop(question.number, None)

    def close(self) -> None:
        with suppress(QueueTimeoutError):  # of who is dead
            self._ring.close(0)


class Telling:
    """On a rank's: a thread, for as long as the rank serves."""

    def __init__(self, asks: MessageQueue[Any], answers: MessageQueue[Any], rank: int) -> None:
        self._asks, self._answers, self._rank = asks, answers, rank
        self._serving = threading.get_ident()
        self._thread = threading.Thread(target=self._tell, name="ringcast-telling", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._asks.shutdown()
        self._thread.join(1.0)

    def _tell(self) -> None:
        with suppress(RingcastError):
            while True:
                number, ranks = self._asks.dequeue(None, None, True)
                if self._rank in ranks:
                    self._answers.enqueue((number, self._rank, DONE, stacks(first=self._serving), 0.0))


def stacks(first: int) -> str:
    """Of all threads of this process but the calling one."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sorted(sys._current_frames().items(), key=lambda one: one[0] != first)
    told = [
        f"Thread {names.get(ident, ident)} (most recent call last):\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in frames
        if ident != threading.get_ident()
    ]
    return "\n".join(told)[:_MOST_TEXT]
