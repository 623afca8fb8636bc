"""Workers that somebody else has started, as the process that calls them sees them.

Whether they live is what their rings say, and what is known besides: nobody is reaped here. A thread looks between
calls, so that a death is known before the next one.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ringcast import _reports
from ringcast._dropping import in_background
from ringcast.errors import LinkDiedError, QueueClosedError, RingcastError, WorkerDiedError
from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers._asking import Asking
from ringcast.workers._attendant import Attendant
from ringcast.workers._calls import Calls
from ringcast.workers._steps import Steps

CHUNK_BYTES = 1 << 20
IN_HASTE_S = 0.5
"""So long ranks are waited for where nobody has closed the group."""
_LOOK_S = 0.2


class Guest:
    """A rank, of which no more is known than it has said."""

    host: str = ""
    pid: int = 0

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ended = threading.Event()

    def is_at(self, host: str, pid: int) -> None:
        self.host, self.pid = host, pid


class Guests(ABC):
    """In the place of a Crew."""

    def __init__(
        self, label: str, ring: MessageQueue[Any], asks: MessageQueue[Any], workers: Sequence[Any], wait: Wait
    ) -> None:
        self.label = label
        self.calls = Calls(ring, [worker.rank for worker in workers], label, self._left, wait)
        self.workers: list[Any] = list(workers)
        self._pid = os.getpid()
        self._ring = ring
        self._asking = Asking(self.calls, asks)
        self.calls.stacks = self._asking.stacks
        self._steps = Steps(self.calls)
        self._attendant = Attendant(self.calls)
        self._news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """Ranks of which something may be known besides; None, at the end."""
        self._thread = threading.Thread(target=self._watch, name="ringcast-watch", daemon=True)

    def worker(self, rank: int) -> Any:
        return next(worker for worker in self.workers if worker.rank == rank)

    @abstractmethod
    def end(self, timeout: float, why: str) -> None:
        """Any number of times."""

    @abstractmethod
    def respawn(self, rank: int, timeout: float | None) -> None:
        """Brings back one that has ended, or says why it cannot."""

    def drop(self) -> None:
        """For finalizers."""
        in_background(self.end, IN_HASTE_S, "was dropped without close()")

    def _let_go(self) -> None:
        """At the end, when no rank is waited for any more."""
        self._news.put(None)
        if self._thread is not threading.current_thread() and self._thread.is_alive():
            self._thread.join(1.0)
        self._asking.close()
        self._attendant.end()
        self.calls.let_go()
        self._attendant.end()  # once more: who led until then may have left it something to tell

    def _await_ends(self, seconds: float) -> bool:
        """Takes meanwhile what they still answer, since they may wait for that."""
        until = time.monotonic() + seconds
        while not all(worker.ended.is_set() for worker in self.workers):
            if time.monotonic() >= until:
                return False
            self._steps.take("taking answers", self.calls.look)
            time.sleep(0.001)
        return True

    def _watch(self) -> None:
        steps = self._steps
        while True:
            with suppress(queue.Empty):
                rank = self._news.get(timeout=_LOOK_S)
                if rank is None:
                    return
                steps.take(f"hearing of rank {rank}", self._heard, rank)
            for worker in list(self.workers):
                steps.take(f"the look at rank {worker.rank}", self._look_at, worker)
            steps.take("taking answers", self.calls.look)

    def _heard(self, rank: int) -> None:  # noqa: B027 (may be left as it is)
        """There is news of a rank."""

    def _look_at(self, worker: Any) -> None:  # noqa: B027 (likewise)
        """Now and then."""

    def _left(self, rank: int, error: RingcastError) -> None:
        """Its ring has ended. Called by who leads."""
        self._died(rank, how_it_left(error))

    def _died(self, rank: int, how: str, exitcode: int | None = None) -> None:
        """Any number of times: one that was interrupted is not the last."""
        worker, calls, steps = self.worker(rank), self.calls, self._steps
        if worker.ended.is_set():
            return
        if calls.closed is None:
            doing = steps.take("naming its call", calls.doing, rank) or "and what it did is not known"
            error = WorkerDiedError(f"rank {rank} (host {worker.host}, pid {worker.pid}) {how}, {doing}")
            error.rank, error.pid, error.exitcode = rank, worker.pid, exitcode
            calls.dead[rank] = how
            steps.take("logging a death", _reports.worker_died, self.label, rank, worker.pid, str(error))
            with suppress(Exception):
                self._ring.evict(rank)
            calls.deaths.append((rank, error))
        worker.ended.set()  # last


def how_it_left(error: RingcastError) -> str:
    """What the end of its ring tells of a rank."""
    if isinstance(error, QueueClosedError):
        return "has left: its end of the group is closed"
    if isinstance(error, LinkDiedError):
        return f"is out of reach ({error})"
    return "has died: it was killed, or crashed"
