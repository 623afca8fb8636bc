"""The thread of a group that starts its workers, hears their first words, learns of their ends, and signals them.

One thread does all of it, so that no process is signalled that is not ours any more, and none is started that an
interruption lets go unseen: Ctrl-C comes to the main thread alone. It sleeps until something happens, and no step that
fails ends it.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from signal import SIGKILL

from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers._bell import Bell
from ringcast.workers._birth import Birth
from ringcast.workers._failures import Failure
from ringcast.workers._steps import Steps
from ringcast.workers._worker import Worker

_POLL_S = 0.1
"""How often a process is looked at that no descriptor tells about."""
_LEAVING_S = 0.7
"""A worker that serves no more, and whose process goes on for so long, is killed."""


class Keeper:
    """Starts and ends with its group."""

    def __init__(self, wait: Wait, steps: Steps, died: Callable[[Worker], None]) -> None:
        self.failures: dict[Worker, BaseException | Failure] = {}
        """Why those that could not be started could not."""
        self.changed = threading.Condition()
        """Notified when a worker has become ready, has failed or has ended."""
        self._wait = wait
        self._steps = steps
        self._died = died
        self._orders: deque[Callable[[], None]] = deque()
        self._kept: dict[Worker, int | None] = {}
        self._over = self._gone = False
        self._selector = selectors.DefaultSelector()
        self._bell = Bell(self._selector)
        self._thread = threading.Thread(target=self._keep, name="ringcast-keeper", daemon=True)
        self._thread.start()

    def start(self, worker: Worker, birth: Birth) -> None:
        """Soon; it then is `ready`, or has ended."""
        self._order(lambda: self._start(worker, birth))

    def signal(self, worker: Worker, number: int) -> None:
        """Soon, if it has not ended; one that has not been started is not started any more."""
        self._order(lambda: self._signal(worker, number))

    def look(self) -> None:
        """A worker has said that it leaves."""
        self._order(lambda: None)

    def keeps(self, worker: Worker) -> bool:
        """Until its death has been told."""
        return worker in self._kept

    def end(self, seconds: float) -> None:
        """Once all workers have ended: none is started from here on, and who lives is killed. Any number of times."""
        self._over = True
        self.look()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self._bell.close()

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        if self._gone:
            self._carry_out()  # for nobody else does
        else:
            self._bell.ring()

    def _carry_out(self) -> None:
        with suppress(IndexError):
            while True:
                self._steps.take("an order to its keeper", self._orders.popleft())

    def _keep(self) -> None:
        while not (self._over and not self._kept and not self._orders):
            ready = set()
            for key, _ in self._selector.select(self._patience()):
                ready.add(key.fd)
                if key.data is self._bell:
                    self._bell.hear()
                elif isinstance(key.data, Worker):
                    self._hear(key.data)
            self._carry_out()
            for worker, sentinel in list(self._kept.items()):
                if self._over:
                    worker.signal(SIGKILL)
                self._steps.take(f"the look at rank {worker.rank}", self._look_at, worker, sentinel, sentinel in ready)
        self._gone = True
        self._carry_out()  # what has come since
        self._selector.close()

    def _patience(self) -> float | None:
        if any(sentinel is None for sentinel in self._kept.values()):
            return _POLL_S
        leaving = [worker.leaving_since for worker in self._kept if worker.leaving_since is not None]
        return max(0.01, min(leaving) + _LEAVING_S - time.monotonic()) if leaving else None

    def _start(self, worker: Worker, birth: Birth) -> None:
        if self._over or worker.ended.is_set():
            self._never_start(worker)
            return
        self._kept[worker] = None
        try:
            worker.start(birth)
            self._selector.register(worker.news, selectors.EVENT_READ, worker)
            sentinel = worker.sentinel()
            if sentinel is not None:
                self._selector.register(sentinel, selectors.EVENT_READ)
                self._kept[worker] = sentinel
        except BaseException as error:
            self.failures[worker] = error
            worker.signal(SIGKILL)

    def _signal(self, worker: Worker, number: int) -> None:
        if self.keeps(worker):
            worker.signal(number)
        else:
            self._never_start(worker)

    def _never_start(self, worker: Worker) -> None:
        worker.reap(surely_ended=True)
        self._notify()

    def _hear(self, worker: Worker) -> None:
        """Its first words, or that there will be none."""
        self._selector.unregister(worker.news)
        try:
            kind, told = worker.news.recv()
            if kind == "ready":
                worker.ring = MessageQueue.create_from_handle(told, 0, wait=self._wait)
                worker.ready.set()
            else:
                self.failures[worker] = told
        except (EOFError, OSError):
            return  # its end says more
        except BaseException as error:
            self.failures[worker] = error
            worker.signal(SIGKILL)
        self._notify()

    def _look_at(self, worker: Worker, sentinel: int | None, ended: bool) -> None:
        since = worker.leaving_since
        if since is not None and time.monotonic() - since > _LEAVING_S:
            worker.signal(SIGKILL)
        if sentinel is not None and not ended:
            return
        if worker.news in self._selector.get_map():
            if worker.news.poll(0):
                self._hear(worker)
            else:
                self._selector.unregister(worker.news)
        if not worker.reap(ended or not worker.pid):
            return
        try:
            self._died(worker)
        finally:
            if sentinel is not None:
                self._selector.unregister(sentinel)
                os.close(sentinel)
            del self._kept[worker]
            self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()
