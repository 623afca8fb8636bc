"""ringcast itself, as a user has it: `MessageQueue`, its handle passed to the readers, the default waiting strategy.

The variants are extra rows: "spin" waits by spinning only, "many" uses enqueue_many and dequeue_many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from .base import QueueSpec, Receiver, Sender, SubjectBase, only


@dataclass(frozen=True)
class Ringcast(SubjectBase):
    """See the module. ``wait`` is the waiting strategy, None the default."""

    wait: str | None = None

    def place(self, spec: QueueSpec) -> Any:
        """The writer makes the queue: nothing to do here."""
        return None

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end, and its handle to every reader."""
        from ringcast import MessageQueue

        queue = MessageQueue(spec.n_readers, max_chunk_bytes=spec.max_bytes, max_chunks=spec.depth, wait=self.wait)
        handle = queue.export_handle()
        for link in links:
            link.send(handle)
        return Sender(queue.enqueue, queue.close, queue.wait_until_ready, queue.enqueue_many)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end, from the writer's handle."""
        from ringcast import MessageQueue

        queue = MessageQueue.create_from_handle(link.recv(), rank, wait=self.wait)
        return Receiver(queue.dequeue, queue.close, queue.wait_until_ready, queue.dequeue_many)


SUBJECTS = (
    Ringcast("ringcast", "ringcast", "ringcast", "ringcast", standing="ringcast"),
    Ringcast(
        "ringcast-spin",
        "ringcast, wait=spin",
        "ringcast",
        "ringcast",
        standing="extra",
        unfit=only("latency"),
        wait="spin",
    ),
    Ringcast("ringcast-many", "ringcast, many at once", "ringcast", "ringcast", standing="extra", unfit=only("rate")),
)
