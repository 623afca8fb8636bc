"""faster-fifo: one queue for each reader, sent to in turn.

For `bytes` its pickling is replaced by `bytes` itself, the quickest it can do, and for arrays by a header and the
array's bytes; tensors go through plain pickle (see `Payload`), other objects through its own. Bounded by `maxsize`,
and in bytes with room to spare. The variant "many" uses put_many and get_many.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import Payload, QueueSpec, Receiver, Sender, SubjectBase

from . import arrays

_FOREVER = 1e6
_HEADER_BYTES = 64


def _dump_array(array: arrays.Array) -> bytes:
    return b"".join((arrays.header(array), arrays.raw(array)))


def _load_array(view: memoryview) -> arrays.Array:
    """The library uses the memory again: a copy."""
    return arrays.restore(bytes(view[: arrays.HEADER_BYTES]), view[arrays.HEADER_BYTES :]).copy()


_CODECS: dict[Payload, dict[str, Callable[[Any], Any]]] = {
    "bytes": {"loads": bytes, "dumps": bytes},
    "array": {"loads": _load_array, "dumps": _dump_array},
    "tensor": {"loads": pickle.loads, "dumps": partial(pickle.dumps, protocol=5)},
}


@dataclass(frozen=True)
class FasterFifo(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """One queue a reader; its ends can only be inherited."""
        import faster_fifo

        size = max(1 << 16, 2 * spec.depth * (spec.max_bytes + _HEADER_BYTES))
        codec = _CODECS.get(spec.payload, {})
        return [faster_fifo.Queue(size, maxsize=spec.depth, **codec) for _ in range(spec.n_readers)]

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end."""
        puts = [queue.put for queue in address]
        puts_many = [queue.put_many for queue in address]

        def put(message: object) -> None:
            for put_one in puts:
                put_one(message, True, _FOREVER)

        def put_many(messages: list[Any]) -> None:
            for put_one in puts_many:
                put_one(messages, True, _FOREVER)

        return Sender(put, send_many=put_many)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end."""
        get, get_many = address[rank].get, address[rank].get_many

        def recv() -> Any:
            return get(True, _FOREVER)

        def recv_many(most: int) -> list[Any]:
            got: list[Any] = get_many(True, _FOREVER, most)
            return got

        return Receiver(recv, recv_many=recv_many)


SUBJECTS = (
    FasterFifo(
        "faster-fifo",
        "faster-fifo",
        "faster_fifo",
        "faster-fifo",
        unfit={
            "startup": "a running process cannot be given one: it can only be inherited",
            "step": "left out to bound a run's time",
        },
    ),
    FasterFifo(
        "faster-fifo-many",
        "faster-fifo, many at once",
        "faster_fifo",
        "faster-fifo",
        standing="extra",
        only=("rate",),
    ),
)
