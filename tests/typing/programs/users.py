"""What type checkers say of programs that use the library: nothing, but where a line says that it is wrong."""

from __future__ import annotations

import threading
from typing import Any, TypedDict

from typing_extensions import assert_type

from ringcast import Handle, MessageQueue, QueueStats, ShmRingBuffer


class Step(TypedDict):
    number: int


def write(queue: MessageQueue[Step]) -> None:
    queue.enqueue({"number": 1})
    queue.enqueue("no step")  # wrong
    queue.try_enqueue({"number": 2}, timeout=1)  # wrong
    assert_type(queue.enqueue_many({"number": number} for number in range(3)), int)
    assert_type(queue.export_handle(), Handle)
    with queue.loan_array((2, 3), "float32") as array:
        array[:] = 1
    with queue.loan(100) as memory:
        assert_type(memory, memoryview)


def read(handle: Handle) -> None:
    reader = MessageQueue[Step].create_from_handle(handle, rank=0)
    assert_type(reader.dequeue(timeout=1, cancel=threading.Event()), Step)
    assert_type(reader.dequeue_many(10), list[Step])
    assert_type(reader.try_dequeue(), Step | None)
    assert_type(reader.try_dequeue("nothing"), Step | str)
    reader.dequeue("1 s")  # wrong
    for message in reader:
        assert_type(message, Step)
    with reader.acquire_read() as view:
        assert_type(view, memoryview)


async def wait(reader: MessageQueue[Step]) -> None:
    assert_type(await reader.aget(), Step)
    async for message in reader:
        assert_type(message, Step)


def untyped() -> None:
    queue = MessageQueue(n_reader=2, name="sched", on_full="evict")
    queue.enqueue({"anything": [1, 2, 3]})
    MessageQueue(n_reader=2, on_full="sometimes")  # wrong
    with queue as same:
        assert_type(same.stats(), QueueStats)
    assert_type(queue.stats()["readers"][0]["alive"], bool)
    message: Any = MessageQueue.attach("sched").dequeue()
    print(message["anything"])


class Jobs(MessageQueue[Step]):
    kind: str


def subclass(handle: Handle) -> None:
    assert_type(Jobs.create_from_handle(handle, 0), Jobs)
    assert_type(Jobs.attach("jobs").dequeue(), Step)


def ring() -> None:
    one = ShmRingBuffer(1, 1024, 4)
    other = ShmRingBuffer(*one.handle())
    with one.acquire_write() as chunk, other.acquire_read() as view:
        chunk[0] = view[0]
