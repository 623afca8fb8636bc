"""Who waits for many queues at once: for the workload "select" alone. Each has one writer and one reader.

Used as each library's documentation has it: whatever can be read is told, and one message is taken of each.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks.peers.no_queue import NoQueue
from ringcast import MessageQueue, Selector

_DEPTH, _MAX_BYTES = 128, 1 << 10

Send = Callable[[bytes], object]
Take = Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Waiter(NoQueue):
    """`place` is called before the processes fork, `writers` in one and `reader` in the other."""

    many: Callable[[int, str], Any] = lambda n, folder: None
    writers: Callable[[Any], Sequence[Send]] = lambda place: ()
    reader: Callable[[Any], Take] = lambda place: tuple
    only: tuple[str, ...] = ("select",)


def _names(n: int, folder: str) -> list[str]:
    return [f"{folder.rpartition('/')[2]}-{number}" for number in range(n)]


def _ring_writers(names: list[str]) -> Sequence[Send]:
    queues = [MessageQueue(1, max_chunks=_DEPTH, max_chunk_bytes=_MAX_BYTES, name=name) for name in names]
    for queue in queues:
        queue.wait_until_ready(60)
    return [queue.enqueue for queue in queues]


def _selector(names: list[str]) -> Take:
    selector: Selector[int] = Selector()
    for number, name in enumerate(names):
        selector.register(MessageQueue.attach(name, timeout=60), number)
    select = selector.select

    def take() -> Iterable[bytes]:
        return [end.dequeue() for _, end in select()]

    return take


def _pipe_reader(pipes: list[tuple[Connection, Connection]]) -> Take:
    ends = [end for end, _ in pipes]

    def take() -> Iterable[bytes]:
        return [end.recv_bytes() for end in wait(ends) if isinstance(end, Connection)]

    return take


def _socket_writers(place: list[str]) -> Sequence[Send]:
    import zmq

    context: Any = zmq.Context.instance()
    sends = []
    for address in place:
        socket = context.socket(zmq.PUSH)
        socket.bind(address)
        sends.append(socket.send)
    return sends


def _poller(place: list[str]) -> Take:
    import zmq

    context: Any = zmq.Context.instance()
    poller = zmq.Poller()
    for address in place:
        socket = context.socket(zmq.PULL)
        socket.connect(address)
        poller.register(socket, zmq.POLLIN)

    def take() -> Iterable[bytes]:
        return [socket.recv() for socket, _ in poller.poll()]

    return take


SUBJECTS = (
    Waiter(
        "selector", "ringcast Selector", "ringcast", "ringcast", "ringcast",
        many=_names, writers=_ring_writers, reader=_selector,
    ),
    Waiter(
        "connections", "multiprocessing.connection.wait", "multiprocessing",
        many=lambda n, folder: [multiprocessing.Pipe(duplex=False) for _ in range(n)],
        writers=lambda pipes: [end.send_bytes for _, end in pipes], reader=_pipe_reader,
    ),
    Waiter(
        "poller", "zmq.Poller", "zmq", "pyzmq",
        many=lambda n, folder: [f"ipc://{folder}/{number}" for number in range(n)],
        writers=_socket_writers, reader=_poller,
    ),
)  # fmt: skip
