"""ringcast itself, as a user has it: `MessageQueue`, its handle passed to the readers, the default waiting strategy."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ringcast import MessageQueue
from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase
from ringcast.waiting import Wait

#: Room in the budget for large payloads beyond the queue's depth: one being written, one held, one for fragmentation.
_SPARE_BLOCKS = 3
_BOOK_KEEPING_BYTES = 8 << 20

#: What every end of this run counted, the ends in measurements' processes too.
_rescued = multiprocessing.get_context("fork").Value("Q", 0)


def rescued_wakes() -> int:
    """Wake-ups that were lost and found by a time-out, in all measurements so far that came to their end."""
    return int(_rescued.value)


@dataclass(frozen=True)
class Ringcast(SubjectBase):
    """See the module. `wait` is the waiting strategy, None the default; `zero_copy` as readers have it."""

    wait: Wait = None
    zero_copy: bool = False

    def place(self, spec: QueueSpec) -> Any:
        """The writer makes the queue: nothing to do here."""
        return None

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end, and its handle to every reader."""
        large = spec.payload in {"array", "tensor"}
        queue = self.writer(
            spec, max_bytes=(spec.depth + _SPARE_BLOCKS) * spec.max_bytes + _BOOK_KEEPING_BYTES if large else None
        )
        handle = queue.export_handle()
        for link in links:
            link.send(handle)
        return Sender(self.send_with(queue), partial(_close, queue), queue.wait_until_ready, queue.enqueue_many)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end, from the writer's handle."""
        queue = MessageQueue.create_from_handle(link.recv(), rank, wait=self.wait, zero_copy=self.zero_copy)
        return Receiver(queue.dequeue, partial(_close, queue), queue.wait_until_ready, queue.dequeue_many)

    def writer(self, spec: QueueSpec, **options: Any) -> MessageQueue:
        """The queue, to write to."""
        depth, most = spec.depth, spec.max_bytes
        return MessageQueue(spec.n_readers, max_chunk_bytes=most, max_chunks=depth, wait=self.wait, **options)

    def send_with(self, queue: MessageQueue) -> Callable[[Any], object]:
        """How a message is sent."""
        return queue.enqueue


def _close(queue: MessageQueue) -> None:
    rescued = queue.stats()["rescued_wakes"]
    if rescued:
        with _rescued.get_lock():
            _rescued.value += rescued
    queue.close()


RINGCAST = Ringcast("ringcast", "ringcast", "ringcast", "ringcast", standing="ringcast")
