"""pyzmq over ipc://: one PUSH socket a reader, so that the high-water mark blocks the writer and drops nothing.

PUB/SUB would broadcast by itself, but drops at the high-water mark. Both sides' marks are `depth`, which is in the
library's favour: together they hold twice as much. Arrays are a header and a frame without
copies of Python's own at either end; other objects than `bytes` are pickled with protocol 5.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase

from . import arrays


@dataclass(frozen=True)
class PyzmqPush(SubjectBase):
    """See the module."""

    def place(self, spec: QueueSpec) -> Any:
        """One address a reader."""
        return [f"ipc://{spec.workdir}/{spec.name}.{rank}" for rank in range(spec.n_readers)]

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end: it binds."""
        import zmq

        context = zmq.Context()
        sockets = []
        for endpoint in address:
            socket = context.socket(zmq.PUSH)
            socket.setsockopt(zmq.SNDHWM, spec.depth)
            socket.bind(endpoint)
            sockets.append(socket)
        sends = [socket.send for socket in sockets]
        dumps = pickle.dumps

        def send_bytes(message: bytes) -> None:
            for send in sends:
                send(message)

        def send_object(message: object) -> None:
            encoded = dumps(message, 5)
            for send in sends:
                send(encoded)

        def send_array(array: arrays.Array) -> None:
            frames = (arrays.header(array), arrays.raw(array))
            for socket in sockets:
                socket.send_multipart(frames, copy=False)

        def close() -> None:
            for socket in sockets:
                socket.close(linger=0)
            context.term()

        if spec.payload == "array":
            return Sender(send_array, close)
        if spec.payload != "bytes":
            return Sender(send_object, close)
        return Sender(sends[0] if len(sends) == 1 else send_bytes, close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """A reader's end: it connects."""
        import zmq

        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, spec.depth)
        socket.connect(address[rank])
        recv, loads = socket.recv, pickle.loads

        def recv_object() -> Any:
            return loads(recv())

        def recv_array() -> arrays.Array:
            head, data = socket.recv_multipart(copy=False)
            return arrays.restore(head.bytes, data.buffer)

        def close() -> None:
            socket.close(linger=0)
            context.term()

        if spec.payload == "array":
            return Receiver(recv_array, close)
        return Receiver(recv if spec.payload == "bytes" else recv_object, close)


SUBJECTS = (PyzmqPush("pyzmq", "pyzmq PUSH/PULL", "zmq", "pyzmq"),)
