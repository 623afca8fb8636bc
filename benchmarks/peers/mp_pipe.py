"""multiprocessing.Pipe, one-way: one for each reader, sent to in turn.

`bytes` go through ``send_bytes`` and ``recv_bytes``, other objects through ``send`` and ``recv``. The kernel bounds a
pipe in bytes: where it lets us, we set that to what ``depth`` messages need, at most 1 MiB (the usual limit of users).
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from .base import QueueSpec, Receiver, Sender, SubjectBase

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
        sends = [out.send_bytes if spec.payload == "bytes" else out.send for out in outs]

        def send_all(message: Any) -> None:
            for send in sends:
                send(message)

        def close() -> None:
            for out in outs:
                out.close()

        return Sender(sends[0] if len(sends) == 1 else send_all, close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end."""
        mine: Connection = address[0][rank]
        return Receiver(mine.recv_bytes if spec.payload == "bytes" else mine.recv, mine.close)


SUBJECTS = (MpPipe("mp.Pipe", "multiprocessing.Pipe", "multiprocessing"),)
