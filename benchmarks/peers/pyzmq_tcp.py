"""pyzmq over TCP, PUSH/PULL as over ipc://: plain, and with CURVE, which encrypts and lets in who has the keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from ringcast.cli.lab.subject import QueueSpec, Receiver, Sender, SubjectBase

from . import arrays
from .ringcast_link import ACROSS, LOOPBACK


@dataclass(frozen=True)
class PyzmqTcp(SubjectBase):
    """See the module."""

    curve: bool = False

    def place(self, spec: QueueSpec) -> Any:
        """The keys of the writer and of the reader; the writer finds a port."""
        import zmq

        return (zmq.curve_keypair(), zmq.curve_keypair()) if self.curve else None

    def sender(self, spec: QueueSpec, address: Any, links: Sequence[Connection]) -> Sender:
        """The writer's end: it binds, and tells where."""
        import zmq

        context = zmq.Context()
        socket = context.socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, spec.depth)
        if self.curve:
            (socket.curve_publickey, socket.curve_secretkey), _ = address
            socket.curve_server = True
        port = socket.bind_to_random_port(f"tcp://{LOOPBACK}")
        (link,) = links
        link.send(f"tcp://{LOOPBACK}:{port}")

        def send_array(array: arrays.Array) -> None:
            socket.send_multipart((arrays.header(array), arrays.raw(array)), copy=False)

        def close() -> None:
            socket.close(linger=0)
            context.term()

        return Sender(send_array if spec.payload == "array" else socket.send, close)

    def receiver(self, spec: QueueSpec, address: Any, rank: int, link: Connection) -> Receiver:
        """The reader's end: it connects."""
        import zmq

        context = zmq.Context()
        socket = context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, spec.depth)
        if self.curve:
            (socket.curve_serverkey, _), (socket.curve_publickey, socket.curve_secretkey) = address
        socket.connect(link.recv())

        def recv_array() -> arrays.Array:
            head, data = socket.recv_multipart(copy=False)
            return arrays.restore(head.bytes, data.buffer)

        def close() -> None:
            socket.close(linger=0)
            context.term()

        return Receiver(recv_array if spec.payload == "array" else socket.recv, close)


SUBJECTS = (
    PyzmqTcp("pyzmq-tcp", "pyzmq PUSH/PULL over TCP", "zmq", "pyzmq", only=ACROSS),
    PyzmqTcp("pyzmq-curve", "pyzmq PUSH/PULL, CURVE", "zmq", "pyzmq", only=ACROSS, curve=True),
)
