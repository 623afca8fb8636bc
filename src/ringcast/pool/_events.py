"""What happens to a pool's chunks, told in order: to a function or a queue of the server's, or to whoever watches.

The server writes its last events into the pool's memory, numbered. Who reads them takes no seat, sends nothing, and
holds nobody up; who falls too far behind is told to make his picture anew, with what is there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from ringcast import _core
from ringcast._arguments import checked, refuse
from ringcast._mishaps import shown, tell
from ringcast._names import pool_segment_name
from ringcast._version import __version__
from ringcast.errors import (
    PoolConnectError,
    QueueTimeoutError,
    SegmentError,
    SegmentMismatchError,
    SegmentNotFoundError,
    SegmentPermissionError,
    ServerDiedError,
)
from ringcast.pool._looking import not_reached
from ringcast.queue import MessageQueue

_log = logging.getLogger("ringcast.pool")

_MOST = 256
"""Events in a batch."""
_SLICE_NS = 250_000_000
_RETRY_S = 1.0
"""After how long a server's events are read again that could not be."""
_LINGER_S = 5.0
"""For how long a server that ends waits for a function to take its last events."""


class PoolEvent(NamedTuple):
    """One thing that happened to a pool. Keys are those of `Keys`; digests of namespaces and salts are cut to 8 bytes.

    Events are numbered from 0 in the order in which they happened. Where a batch begins with "resync" the picture is to
    be made anew: the rest of that batch is what is there, and the next event has the number of the "resync". It may say
    again what the picture shows already.
    """

    number: int
    kind: Literal["stored", "removed", "cleared", "resync"]
    """"cleared" takes all chunks of the namespace `space`, or all there are."""
    key: bytes | None = None
    """32 bytes, of "stored" and "removed"."""
    parent: bytes | None = None
    """The key that it continues; None: it begins a chain, or its namespace has none."""
    length: int = 0
    """Bytes of the chunk, as they were stored: all parts of it, and nothing that the pool keeps beside them."""
    space: bytes | None = None
    """The first 8 bytes of `Namespace.digest`."""
    tenant: bytes | None = None
    """The first 8 bytes of `Namespace.salt_digest`."""
    at_ns: int = 0
    """When it happened, by the wall clock; of what follows a "resync", when it was stored."""
    reason: Literal["", "evicted", "orphaned", "damaged", "failed"] = ""
    """Why it was removed: for what was to be stored, with what it continued, because its bytes had changed, or because
    a tier could not give it back."""
    medium: str = "memory"
    """Where it was stored or removed: "memory", or what `stats()["tiers"]` calls the tier. "cleared" is of all."""


EventSink = Callable[[list[PoolEvent]], object] | MessageQueue[Any]
"""What a server tells its events: a function that is called with a batch of them, or a queue that gets each batch."""


def watch(name: str, after: int | None = None) -> Iterator[list[PoolEvent]]:
    """What happens in the pool of this name from now on, in batches as they come, until the pool is closed.

    It begins with a "resync" and what is there, or with event number `after`, if that is still to be had: the number
    after the last event that was seen. Takes no seat and asks no server. Raises PoolConnectError if there is no such
    pool, and ServerDiedError if its server has died and the pool is gone.

    >>> keys = keys_from_hashes([b"hash 0"], Namespace("m", dtype="uint8", layout="bytes"))
    >>> with PoolServer("docs-watch", "1MiB"), PoolClient.connect("docs-watch", layout=4096) as client:
    ...     events = watch("docs-watch")
    ...     [event.kind for event in next(events)]
    ...     _ = client.commit_store(client.prepare_store(keys))
    ...     [(event.number, event.kind, event.key == keys[0]) for event in next(events)]
    ['resync']
    [(0, 'stored', True)]
    """
    number = None if after is None else checked("after", after, 0, (1 << 63) - 1)
    memory = attached(name)
    return _batches(memory, pool_segment_name(name), number, lambda: False)


def attached(name: str) -> _core.PoolMemory:
    """The pool of this name, looked at from outside; raises PoolConnectError if there is none."""
    try:
        return _core.PoolMemory(pool_segment_name(name), __version__)
    except SegmentError as error:
        raise PoolConnectError(not_reached(name, error)) from error


def _batches(
    memory: _core.PoolMemory, segment: str, number: int | None, ended: Callable[[], bool]
) -> Iterator[list[PoolEvent]]:
    """Each batch of events from `number` on (None: after a resync), until the pool or who asks for them has ended."""
    if number is None:
        number, batch = _resync(memory)
        yield batch
    while True:
        found, following, lost = memory.events(number, _MOST)
        batch = [PoolEvent._make(event) for event in found]
        if lost or any(event.kind == "resync" for event in batch):
            number, batch = _resync(memory)
            yield batch
            continue
        number = following
        if batch:
            yield batch
        elif memory.closed or ended():
            return
        elif not memory.wait_for_event(number, _SLICE_NS) and memory.server == "gone" and not memory.closed:
            _check_still_there(memory, segment)


def _resync(memory: _core.PoolMemory) -> tuple[int, list[PoolEvent]]:
    found, number = memory.present()
    return number, [PoolEvent(number, "resync"), *map(PoolEvent._make, found)]


def _check_still_there(memory: _core.PoolMemory, segment: str) -> None:
    """Has it been removed since its server died? Another pool of its name is another one."""
    try:
        if _core.PoolMemory(segment, __version__).id == memory.id:
            return
    except (SegmentNotFoundError, SegmentMismatchError, SegmentPermissionError):
        pass
    except SegmentError:  # it cannot be said just now, which is no answer: it is asked again
        return
    raise ServerDiedError(f"{memory.label}: its server died, and nobody took the pool over; watch the next one")


class Teller:
    """The thread that tells a server's events to a function or a queue, from the server's start to its end."""

    def __init__(self, name: str, sink: EventSink, adopted: bool) -> None:
        self._memory = attached(name)
        self._sink = sink
        self._name = name
        self._ending = threading.Event()
        # What was there before this server came is told first.
        self._first = None if adopted else 0
        self._thread = threading.Thread(target=self._run, name=f"ringcast events of {name}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Tells what there is to tell, and ends. The pool has been closed, and waits for no function without end."""
        self._ending.set()
        if self._thread is threading.current_thread():
            return
        self._thread.join(_LINGER_S)
        if self._thread.is_alive():
            _log.warning(
                "pool '%s': on_event has not returned for %g s; what it has not been told is not waited for",
                self._name,
                _LINGER_S,
            )

    def _run(self) -> None:
        """Whatever the function or its queue raises, or looking at the pool: the next events are told."""
        first, failures = self._first, 0
        while True:
            try:
                for batch in _batches(self._memory, pool_segment_name(self._name), first, self._ending.is_set):
                    if not self._told(batch):
                        return
                return
            except BaseException as error:
                failures += 1
                if failures & (failures - 1) == 0:  # told ever less often
                    tell(_log, "pool '%s': its events could not be read: %s", self._name, shown(error), error=error)
            first = None  # who is told makes his picture anew
            if self._ending.wait(_RETRY_S):
                tell(_log, "pool '%s': its last events were not told, for they could not be read", self._name)
                return

    def _told(self, batch: list[PoolEvent]) -> bool:
        """False: nothing more can be told."""
        try:
            if isinstance(self._sink, MessageQueue):
                return self._sent(self._sink, batch)
            self._sink(batch)
        except BaseException as error:
            tell(
                _log, "pool '%s': events %d to %d could not be told: %s",
                self._name, batch[0].number, batch[-1].number, shown(error), error=error, level=logging.ERROR,
            )  # fmt: skip
        return True

    def _sent(self, queue: MessageQueue[Any], batch: list[PoolEvent]) -> bool:
        """A full queue is waited for as long as the server serves."""
        while True:
            try:
                queue.enqueue(batch, timeout=0.25)
                return True
            except QueueTimeoutError:
                if self._ending.is_set():
                    tell(
                        _log, "pool '%s': its events from %d on were not sent, for the queue is full",
                        self._name, batch[0].number,
                    )  # fmt: skip
                    return False


def checked_sink(sink: object) -> EventSink | None:
    """What was given as `on_event`, if it can be told something."""
    if sink is None or isinstance(sink, MessageQueue) or callable(sink):
        return sink
    raise refuse("on_event", "a function, or a MessageQueue", sink)
