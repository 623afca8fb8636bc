"""vLLM's own queue between its scheduler and its workers, if vLLM is installed: `MessageQueue` of shm_broadcast.

It broadcasts by itself, through a ring in shared memory whose slots are as large as the largest message. Everything is
pickled by the library, arrays and tensors with their memory out of band. A reader gives way for a second after its last
message, then sleeps on a socket that the writer notifies.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase

_MODULE = "vllm.distributed.device_communicators.shm_broadcast"
#: Room in a slot for what pickling adds.
_ROOM_BYTES = 512


@dataclass(frozen=True)
class VllmQueue(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """The writer makes the queue: nothing to do here."""
        return None

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end, and its handle to every reader."""
        from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

        os.environ["VLLM_RPC_BASE_PATH"] = spec.workdir  # where its sockets are; it leaves them behind
        readers = spec.n_readers
        slot_bytes = spec.max_bytes + _ROOM_BYTES
        queue: Any = MessageQueue(readers, readers, max_chunk_bytes=slot_bytes, max_chunks=spec.depth)
        handle = queue.export_handle()
        for link in links:
            link.send(handle)
        return Sender(queue.enqueue, queue.shutdown, queue.wait_until_ready)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end, from the writer's handle."""
        from vllm.distributed.device_communicators.shm_broadcast import MessageQueue

        queue: Any = MessageQueue.create_from_handle(link.recv(), rank)
        return Receiver(queue.dequeue, queue.shutdown, queue.wait_until_ready)


SUBJECTS = (VllmQueue("vllm", "vLLM MessageQueue", _MODULE, "vllm"),)
