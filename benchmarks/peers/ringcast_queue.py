"""ringcast itself, as a user has it: `MessageQueue`, its handle passed to the readers, the default waiting strategy.

The variants are extra rows: "spin", "yield", "busy" and "park" wait in that manner, "many" uses enqueue_many and
dequeue_many, "zero_copy" has torch tensors on the shared memory instead of in copies, and the loans produce an array in
place.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from multiprocessing.connection import Connection
from typing import Any, Literal

from .base import QueueSpec, Receiver, Sender, SubjectBase, only

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
    """See the module. ``wait`` is the waiting strategy, None the default."""

    wait: str | None = None
    zero_copy: bool = False
    loan: Literal["", "filled", "stamped"] = ""

    def lacking(self) -> str:
        """Whether the installed ringcast has what this variant is about."""
        from ringcast import MessageQueue

        try:
            MessageQueue(1, max_chunks=1, wait=self.wait).close()
        except ValueError:
            return f"this ringcast has no wait={self.wait!r}"
        if self.loan and not hasattr(MessageQueue, "loan_array"):
            return "this ringcast has no loan_array"
        if self.zero_copy and "zero_copy" not in signature(MessageQueue.create_from_handle).parameters:
            return "this ringcast has no zero_copy"
        return ""

    def place(self, spec: QueueSpec) -> Any:
        """The writer makes the queue: nothing to do here."""
        return None

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end, and its handle to every reader."""
        from ringcast import MessageQueue

        large = spec.payload in {"array", "tensor"}
        queue: Any = MessageQueue(
            spec.n_readers,
            max_chunk_bytes=spec.max_bytes,
            max_chunks=spec.depth,
            max_bytes=(spec.depth + _SPARE_BLOCKS) * spec.max_bytes + _BOOK_KEEPING_BYTES if large else None,
            wait=self.wait,
        )
        handle = queue.export_handle()
        for link in links:
            link.send(handle)
        send = self._producer(queue) if self.loan else queue.enqueue
        return Sender(send, partial(_close, queue), queue.wait_until_ready, queue.enqueue_many)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end, from the writer's handle."""
        from ringcast import MessageQueue

        options: dict[str, Any] = {"zero_copy": True} if self.zero_copy else {}
        queue = MessageQueue.create_from_handle(link.recv(), rank, wait=self.wait, **options)
        return Receiver(queue.dequeue, partial(_close, queue), queue.wait_until_ready, queue.dequeue_many)

    def _producer(self, queue: Any) -> Callable[[Any], None]:
        """Produce in place, as if the array given were the work to do."""
        loan_array = queue.loan_array

        def fill(source: Any) -> None:
            with loan_array(source.shape, source.dtype) as array:
                array[...] = source

        def stamp(source: Any) -> None:
            with loan_array(source.shape, source.dtype) as array:
                array[0] = source[0]
                array[-1] = source[-1]

        return fill if self.loan == "filled" else stamp


def _close(queue: Any) -> None:
    rescued = queue.stats()["rescued_wakes"]
    if rescued:
        with _rescued.get_lock():
            _rescued.value += rescued
    queue.close()


def _waiting(wait: str, *workloads: str) -> Ringcast:
    """A row that shows a waiting strategy, of these workloads only."""
    return Ringcast(
        f"ringcast-{wait}",
        f"ringcast, wait={wait}",
        "ringcast",
        "ringcast",
        standing="extra",
        unfit=only(*workloads),
        wait=wait,
    )


SUBJECTS = (
    Ringcast("ringcast", "ringcast", "ringcast", "ringcast", standing="ringcast"),
    # Spinning ends that share CPUs take turns by time slices: in the step pattern one step would take milliseconds.
    _waiting("spin", "latency", "dict", "bursts", "arrays"),
    _waiting("yield", "latency", "dict", "bursts", "step", "wake", "cpu", "arrays"),
    _waiting("busy", "latency", "dict", "bursts", "step", "wake", "cpu"),
    _waiting("park", "dict", "step"),
    Ringcast("ringcast-many", "ringcast, many at once", "ringcast", "ringcast", standing="extra", unfit=only("rate")),
    Ringcast(
        "ringcast-zero-copy",
        "ringcast, zero_copy=True",
        "ringcast",
        "ringcast",
        standing="extra",
        unfit=only("tensors", "tensor_list"),
        zero_copy=True,
    ),
    Ringcast(
        "ringcast-loan",
        "ringcast loan_array, filled",
        "ringcast",
        "ringcast",
        standing="extra",
        unfit=only("loan"),
        loan="filled",
    ),
    Ringcast(
        "ringcast-loan-stamp",
        "ringcast loan_array, only stamped",
        "ringcast",
        "ringcast",
        standing="extra",
        unfit=only("loan"),
        loan="stamped",
    ),
)
