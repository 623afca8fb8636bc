"""What is done while system calls fail: generators that yield an operation and, told its error, show that it works.

Each yields what is to be tried, is sent the error that it ended with, or None, and then, with no calls failing any
more, proves that the same operation works, and closes what it opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import numpy as np

from ringcast import MessageQueue
from ringcast.errors import QueueTimeoutError
from ringcast.instruments import list_queues
from tests.support import SHM, unique_name

Scenario = Generator[Callable[[], Any], "Exception | None", None]

SIZES: dict[str, Any] = {"max_chunk_bytes": 4096, "max_chunks": 2, "max_leases": 4, "max_bytes": 8 << 20}
LARGE = 300_000
WAIT = 0.003


def _create(name: str | None = None) -> MessageQueue:
    return MessageQueue(1, name=name, **SIZES)


def _attach(writer: MessageQueue, **options: Any) -> MessageQueue:
    return MessageQueue.create_from_handle(writer.export_handle(), 0, **options)


def _pass_messages(writer: MessageQueue, reader: MessageQueue) -> None:
    """Small and large ones, several times round the ring and the arena."""
    for n in range(6):
        for size in (10, LARGE):
            writer.enqueue(np.full(size, n, np.uint8), timeout=10)
            received = reader.dequeue(10)
            assert received.size == size
            assert bool((received == n).all())
    del received
    memory = writer.stats()["memory"]
    assert memory["blocks"] == 0, f"memory is lost: {memory}"


def _use_and_close(writer: MessageQueue, reader: MessageQueue | None = None) -> None:
    reader = _attach(writer) if reader is None else reader
    _pass_messages(writer, reader)
    reader.close()
    writer.close(0)


def create_with_a_name() -> Scenario:
    made: list[MessageQueue] = []
    name = unique_name("c")
    yield lambda: made.append(_create(name))
    _use_and_close(made[0] if made else _create(name))


def create_without_a_name() -> Scenario:
    made: list[MessageQueue] = []
    yield lambda: made.append(_create())
    _use_and_close(made[0] if made else _create())


def create_over_a_dead_queue() -> Scenario:
    made: list[MessageQueue] = []
    name = unique_name("d")
    with _create(name) as living:
        path = SHM / living.segment
        with open(path, "rb") as file:
            size, control = os.fstat(file.fileno()).st_size, file.read(living.stats()["memory"]["control"])
    path.touch(0o600)
    path.write_bytes(control)  # nobody holds its creator's lock
    os.truncate(path, size)
    yield lambda: made.append(_create(name))
    _use_and_close(made[0] if made else _create(name))


def create_under_a_living_queue_s_name() -> Scenario:
    with _create(unique_name("l")) as living:
        error = yield lambda: _create(living.name)
        assert error is not None, "the name of a living queue was given away"
        reader = _attach(living)
        _pass_messages(living, reader)
        reader.close()


def _attaching(**options: Any) -> Scenario:
    writer = _create(unique_name("a"))
    made: list[MessageQueue] = []
    yield lambda: made.append(_attach(writer, **options))
    _use_and_close(writer, made[0] if made else _attach(writer, **options))


def attach() -> Scenario:
    return _attaching()


def attach_with_private_memory() -> Scenario:
    return _attaching(zero_copy=True)


def attach_by_name() -> Scenario:
    writer = _create(unique_name("n"))
    assert writer.name is not None
    name, made = writer.name, list[MessageQueue]()
    yield lambda: made.append(MessageQueue.attach(name, timeout=0))
    _use_and_close(writer, made[0] if made else MessageQueue.attach(name, timeout=0))


def send_a_large_message() -> Scenario:
    writer = _create()
    reader = _attach(writer)
    message = bytes(range(256)) * (LARGE // 256)
    error = yield lambda: writer.enqueue(message, timeout=WAIT)
    if error is not None:
        assert reader.qsize() == 0, "an error, but the message was sent"
        writer.enqueue(message, timeout=10)
    assert reader.dequeue(10) == message
    _use_and_close(writer, reader)


def send_more_than_there_is_memory_for() -> Scenario:
    writer = _create()
    reader = _attach(writer)
    writer.enqueue(bytes(5 << 20))
    error = yield lambda: writer.enqueue(bytes(6 << 20), timeout=WAIT)
    assert error is not None
    assert len(reader.dequeue(10)) == 5 << 20
    writer.enqueue(bytes(6 << 20), timeout=10)
    assert len(reader.dequeue(10)) == 6 << 20
    _use_and_close(writer, reader)


def send_into_a_full_ring() -> Scenario:
    writer = _create()
    reader = _attach(writer)
    for n in range(2):
        writer.enqueue(n)
    error = yield lambda: writer.enqueue(2, timeout=WAIT)
    assert error is not None
    assert [reader.dequeue(10), reader.dequeue(10)] == [0, 1]
    _use_and_close(writer, reader)


def write_into_a_chunk() -> Scenario:
    writer = _create()
    reader = _attach(writer)

    def write() -> None:
        with writer.acquire_write(WAIT, nbytes=LARGE) as view:
            view[:4] = b"head"

    error = yield write
    if error is not None:
        write()
    assert reader.dequeue(10)[:4] == b"head"
    assert reader.qsize() == 0
    _use_and_close(writer, reader)


def receive_copies_and_views() -> Scenario:
    writer = _create()
    reader = _attach(writer)
    received: list[Any] = []
    writer.enqueue(b"x" * LARGE)
    writer.enqueue(np.arange(LARGE))

    def receive() -> None:
        while len(received) < 2:
            received.append(reader.dequeue(WAIT))

    error = yield receive
    if error is not None:
        receive()
    assert received[0] == b"x" * LARGE
    assert int(received[1].sum()) == LARGE * (LARGE - 1) // 2
    received.clear()
    _use_and_close(writer, reader)


def change_and_release_private_memory() -> Scenario:
    writer = _create()
    reader = _attach(writer, zero_copy=True)
    writer.enqueue(np.zeros(LARGE, np.uint8))
    changed = reader.dequeue(10)
    changed[::4096] = 1
    held = [changed]
    del changed
    yield held.clear
    writer.enqueue(np.zeros(LARGE, np.uint8))
    again = reader.dequeue(10)
    assert not again.any(), "what a reader wrote for itself came back in another message"
    del again
    _use_and_close(writer, reader)


def wait_for_a_message() -> Scenario:
    writer = _create()
    reader = _attach(writer)
    error = yield lambda: reader.dequeue(WAIT)
    assert error is not None
    _use_and_close(writer, reader)


def wait_until_all_are_there() -> Scenario:
    writer = _create()
    error = yield lambda: writer.wait_until_ready(WAIT)
    assert error is not None
    reader = _attach(writer)
    writer.wait_until_ready(10)
    reader.wait_until_ready(10)
    _use_and_close(writer, reader)


def look_at_statistics() -> Scenario:
    writer = _create()
    reader = _attach(writer)
    writer.enqueue(np.arange(LARGE))
    view = reader.dequeue(10)
    yield lambda: (writer.stats(), reader.stats(), writer.qsize(), reader.qsize())
    assert writer.stats()["memory"]["blocks"] == 1
    del view
    _use_and_close(writer, reader)


def list_what_is_there() -> Scenario:
    writer = _create(unique_name("i"))
    yield list_queues
    (info,) = [info for info in list_queues().queues if info["segment"] == writer.segment]
    assert info["writer"]["alive"]
    _use_and_close(writer)


def evict_a_reader() -> Scenario:
    writer = _create(unique_name("e"))
    reader = _attach(writer)
    yield lambda: writer.evict(0)
    writer.evict(0)
    reader.close()
    assert writer.name is not None
    _use_and_close(writer, MessageQueue.attach(writer.name, rank=0, timeout=0))


def close_both_ends() -> Scenario:
    writer = _create(unique_name("x"))
    reader = _attach(writer)
    writer.enqueue(np.arange(LARGE))
    view = reader.dequeue(10)

    def close() -> None:
        reader.close()
        with suppress(QueueTimeoutError):
            writer.close(0)

    error = yield close
    assert error is None, "closing must not fail"
    close()
    assert int(view[-1]) == LARGE - 1
    del view
    _use_and_close(_create(writer.name))  # its name may have been left, but is free


SCENARIOS: dict[str, Callable[[], Scenario]] = {
    scenario.__name__: scenario
    for scenario in (
        create_with_a_name,
        create_without_a_name,
        create_over_a_dead_queue,
        create_under_a_living_queue_s_name,
        attach,
        attach_with_private_memory,
        attach_by_name,
        send_a_large_message,
        send_more_than_there_is_memory_for,
        send_into_a_full_ring,
        write_into_a_chunk,
        receive_copies_and_views,
        change_and_release_private_memory,
        wait_for_a_message,
        wait_until_all_are_there,
        look_at_statistics,
        list_what_is_there,
        evict_a_reader,
        close_both_ends,
    )
}
