"""The two ways to broadcast that `demo` and `bench` compare, behind one face: ours, and multiprocessing's queues.

A `multiprocessing.Queue` gives each message to one reader, so a broadcast takes one queue per worker. Both ways hold
back a sender that is `depth` messages ahead. The parent holds a `Sender`; its `ticket(rank)` travels to a worker when
that is started, and opens to the function that receives.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ringcast import Handle, MessageQueue
from ringcast.cli.lab.team import CONTEXT, LOOK_SECONDS, Team, interruptions_held, patiently_for_parent
from ringcast.errors import QueueTimeoutError

RINGCAST = "ringcast"
STANDARD = "multiprocessing.Queue"

Receive = Callable[[], Any]


class Ticket(Protocol):
    """What a worker needs to receive."""

    def open(self) -> AbstractContextManager[Receive]: ...


class Sender(Protocol):
    """The parent's end. `send` reaches every worker of the team; it raises if one has died."""

    name: str

    def ticket(self, rank: int) -> Ticket: ...

    def meet(self, team: Team) -> None:
        """Every worker has opened its ticket."""

    def send(self, team: Team, message: Any) -> None: ...

    def close(self) -> None: ...


class RingcastSender:
    """One `MessageQueue` that all workers read."""

    name = RINGCAST

    def __init__(self, readers: int, *, depth: int, largest: int) -> None:
        self._queue = MessageQueue(readers, max_chunks=depth, max_chunk_bytes=largest)

    def ticket(self, rank: int) -> Ticket:
        return _RingcastTicket(self._queue.export_handle(), rank)

    def meet(self, team: Team) -> None:
        team.patiently(self._queue.wait_until_ready)  # from here on not even a SIGKILL leaves a segment behind

    def send(self, team: Team, message: Any) -> None:
        team.patiently(lambda timeout: self._queue.enqueue(message, timeout))

    def close(self) -> None:
        # Workers that never came, died, or left when they were told to have missed something: not worth a word.
        logger = logging.getLogger("ringcast")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with suppress(QueueTimeoutError):
                self._queue.close(linger=0)
        finally:
            logger.setLevel(level)


class StandardSender:
    """A `multiprocessing.Queue` for each worker."""

    name = STANDARD

    def __init__(self, readers: int, *, depth: int) -> None:
        with interruptions_held():
            self._queues = [CONTEXT.Queue(depth) for _ in range(readers)]

    def ticket(self, rank: int) -> Ticket:
        return _StandardTicket(self._queues[rank])

    def meet(self, team: Team) -> None:
        pass

    def send(self, team: Team, message: Any) -> None:
        for one in self._queues:
            while True:
                try:
                    one.put(message, timeout=LOOK_SECONDS)
                    break
                except queue.Full:
                    team.check()

    def close(self) -> None:
        for one in self._queues:
            all_read = _all_read(one)
            if not all_read:
                one.cancel_join_thread()  # nobody will read what is left: the exit must not wait for that
            one.close()
            if all_read:
                # Else the feeder thread may be the last to let go of a semaphore, and be stopped by the exit before it
                # has told the resource tracker, which then prints a warning.
                one.join_thread()


def _all_read(one: Any) -> bool:
    try:
        return bool(one.qsize() == 0)
    except NotImplementedError:  # on macOS
        return False


@dataclass(frozen=True)
class _RingcastTicket:
    handle: Handle
    rank: int

    @contextmanager
    def open(self) -> Iterator[Receive]:
        with MessageQueue.create_from_handle(self.handle, self.rank) as reader:
            yield reader.dequeue  # ends with an error if the parent dies


@dataclass(frozen=True)
class _StandardTicket:
    queue: Any

    @contextmanager
    def open(self) -> Iterator[Receive]:
        yield self._receive

    def _receive(self) -> Any:
        return patiently_for_parent(lambda timeout: self.queue.get(timeout=timeout))
