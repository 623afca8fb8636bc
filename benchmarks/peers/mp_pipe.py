"""multiprocessing.Pipe, one-way: one for each reader, sent to in turn.

`bytes` go through `send_bytes` and `recv_bytes`, arrays too, after a header, tensors as a pickle (see `Payload`),
other objects through `send` and `recv`. The kernel bounds a pipe in bytes: where it lets us, we set that to what
`depth` messages need, at most 1 MiB (the usual limit of users).
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import Payload, QueueSpec, Receiver, Sender, SubjectBase

from . import arrays

_F_SETPIPE_SZ = 1031
_MOST_BYTES = 1 << 20
_HEADER_BYTES = 4


@dataclass(frozen=True)
class MpPipe(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """One pipe a reader: (reading ends, writing ends)."""
        context = multiprocessing.get_context("fork")
        pairs = [context.Pipe(duplex=False) for _ in range(spec.n_readers)]
        size = min(_MOST_BYTES, spec.depth * (spec.max_bytes + _HEADER_BYTES))
        for _, out in pairs:
            with contextlib.suppress(OSError):
                fcntl.fcntl(out.fileno(), _F_SETPIPE_SZ, size)
        return [ours for ours, _ in pairs], [out for _, out in pairs]

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end."""
        outs: list[Connection] = address[1]
        sends: list[Callable[[Any], None]]
        sends = [out.send if spec.payload == "object" else out.send_bytes for out in outs]

        def send_all(message: Any) -> None:
            for send in sends:
                send(message)

        def send_array(array: arrays.Array) -> None:
            head, data = arrays.header(array), arrays.raw(array)
            for send in sends:
                send(head)
                send(data)

        def send_tensor(tensor: object) -> None:
            send_all(pickle.dumps(tensor, 5))

        def close() -> None:
            for out in outs:
                out.close()

        if spec.payload in {"array", "tensor"}:
            return Sender(send_array if spec.payload == "array" else send_tensor, close)
        return Sender(sends[0] if len(sends) == 1 else send_all, close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end."""
        mine: Connection = address[0][rank]
        recv_bytes, loads = mine.recv_bytes, pickle.loads

        def recv_array() -> arrays.Array:
            return arrays.restore(recv_bytes(), recv_bytes())

        def recv_tensor() -> Any:
            return loads(recv_bytes())

        ways: dict[Payload, Callable[[], Any]] = {
            "bytes": recv_bytes,
            "object": mine.recv,
            "array": recv_array,
            "tensor": recv_tensor,
        }
        return Receiver(ways[spec.payload], mine.close)


SUBJECTS = (MpPipe("mp.Pipe", "multiprocessing.Pipe", "multiprocessing"),)
