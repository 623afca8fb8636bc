"""multiprocessing.Queue: one for each reader, sent to in turn.

Bounded by `maxsize`; `put` hands the object to a feeder thread of the writer's process, which pickles it, so the
thread is part of what is measured. Tensors are pickled before: see `Payload`.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase


@dataclass(frozen=True)
class MpQueue(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """One queue a reader; its ends can only be inherited."""
        context = multiprocessing.get_context("fork")
        return [context.Queue(spec.depth) for _ in range(spec.n_readers)]

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end."""
        if spec.n_readers == 1:
            put = address[0].put
        else:
            puts = [queue.put for queue in address]

            def put(message: object) -> None:
                for put_one in puts:
                    put_one(message)

        def put_pickled(message: object) -> None:
            put(pickle.dumps(message, 5))

        def close() -> None:
            for queue in address:
                queue.close()
                queue.join_thread()

        return Sender(put_pickled if spec.payload == "tensor" else put, close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end."""
        get, loads = address[rank].get, pickle.loads

        def get_pickled() -> Any:
            return loads(get())

        return Receiver(get_pickled if spec.payload == "tensor" else get, address[rank].close)


MP_QUEUE = MpQueue(
    "mp.Queue",
    "multiprocessing.Queue",
    "multiprocessing",
    unfit={
        "startup": "a running process cannot be given one: it can only be inherited",
        "step": "left out to bound a run's time",
    },
)
