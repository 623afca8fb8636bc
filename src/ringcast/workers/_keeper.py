"""The thread of a group that starts its workers, hears their first words, learns of their ends, and signals them.

One thread does all of it, so that no process is signalled that is not ours any more, and none is started that an
interruption lets go unseen: Ctrl-C comes to the main thread alone. It sleeps until something happens.
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
from typing import Any

from ringcast.queue import MessageQueue
from ringcast.waiting import Wait
from ringcast.workers._birth import Birth
from ringcast.workers._failures import Failure
from ringcast.workers._worker import Worker

_POLL_S = 0.1
"""How often a process is looked at that no descriptor tells about."""
_LEAVING_S = 0.7
"""A worker that serves no more, and whose process goes on for so long, is killed."""


class Keeper:
    """Starts and ends with its group."""

    def __init__(self, wait: Wait, died: Callable[[Worker], None]) -> None:
        self.failures: dict[Worker, BaseException | Failure] = {}
        """Why those that could not be started could not."""
        self.changed = threading.Condition()
        """Notified when a worker has become ready, has failed or has ended."""
        self._wait = wait
        self._died = died
        self._orders: deque[Callable[[], None]] = deque()
        self._kept: dict[Worker, int | None] = {}
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._lock = threading.Lock()
        self._over = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._awake, selectors.EVENT_READ)
        self.thread = threading.Thread(target=self._keep, name="ringcast-keeper", daemon=True)
        self.thread.start()

    def start(self, worker: Worker, birth: Birth) -> None:
        """Soon; it then is `ready`, or has ended."""
        self._order(lambda: self._start(worker, birth))

    def signal(self, worker: Worker, number: int) -> None:
        """Soon, if it has not ended."""
        self._order(lambda: worker.signal(number))

    def look(self) -> None:
        """A worker has said that it leaves."""
        self._order(lambda: None)

    def end(self) -> None:
        """Once all workers have ended."""
        self._over = True
        self.look()

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        with self._lock:
            if self._wake >= 0:
                with suppress(BlockingIOError):  # full: it is awake
                    os.write(self._wake, b".")

    def _keep(self) -> None:
        while not (self._over and not self._kept and not self._orders):
            for key, _ in self._selector.select(self._patience()):
                if key.fd == self._awake:
                    os.read(self._awake, 4096)
                elif isinstance(key.data, Worker):
                    self._hear(key.data)
            while self._orders:
                self._orders.popleft()()
            for worker, sentinel in list(self._kept.items()):
                self._look_at(worker, sentinel)
        self._selector.close()
        with self._lock:
            os.close(self._awake)
            os.close(self._wake)
            self._wake = -1

    def _patience(self) -> float | None:
        if any(sentinel is None for sentinel in self._kept.values()):
            return _POLL_S
        leaving = [worker.leaving_since for worker in self._kept if worker.leaving_since is not None]
        return max(0.01, min(leaving) + _LEAVING_S - time.monotonic()) if leaving else None

    def _start(self, worker: Worker, birth: Birth) -> None:
        try:
            worker.start(birth)
        except BaseException as error:
            self.failures[worker] = error
        sentinel = worker.sentinel()
        if sentinel is not None:
            self._selector.register(sentinel, selectors.EVENT_READ)
        if worker.pid:
            self._selector.register(worker.news, selectors.EVENT_READ, worker)
        self._kept[worker] = sentinel

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
        except Exception as error:
            self.failures[worker] = error
            worker.signal(SIGKILL)
        self._notify()

    def _look_at(self, worker: Worker, sentinel: int | None) -> None:
        since = worker.leaving_since
        if since is not None and time.monotonic() - since > _LEAVING_S:
            worker.signal(SIGKILL)
        surely = not worker.pid
        if sentinel is not None:
            surely = bool(_readable(sentinel))
            if not surely:
                return
        if worker.news in self._selector.get_map():
            if worker.news.poll(0):
                self._hear(worker)
            else:
                self._selector.unregister(worker.news)
        if not worker.reap(surely):
            return
        if sentinel is not None:
            self._selector.unregister(sentinel)
            os.close(sentinel)
        del self._kept[worker]
        self._died(worker)
        self._notify()

    def _notify(self) -> None:
        with self.changed:
            self.changed.notify_all()


def _readable(descriptor: int) -> Any:
    with selectors.DefaultSelector() as one:
        one.register(descriptor, selectors.EVENT_READ)
        return one.select(0)
