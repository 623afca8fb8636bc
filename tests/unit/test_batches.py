"""enqueue_many and dequeue_many: bounded, courteous to threads and signals, and nothing that was taken is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from ringcast.errors import DecodeError, QueueClosedError, WaitCancelledError
from tests.support import Background, broadcast, eventually

armed = False
at_rebuild: Any = None
rebuilt: list[int] = []


class Eventful:
    """Something happens when it is rebuilt."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return rebuild, (self.number,)


def rebuild(number: int) -> int:
    rebuilt.append(number)
    if at_rebuild is not None:
        at_rebuild(number)
    return number


@contextmanager
def when_rebuilt(function: Any) -> Iterator[None]:
    global at_rebuild
    at_rebuild = function
    try:
        yield
    finally:
        at_rebuild = None


def interrupt_once_at(number: int) -> Any:
    left = [True]

    def strike(rebuilding: int) -> None:
        if rebuilding == number and left:
            left.clear()
            raise KeyboardInterrupt

    return strike


def test_what_comes_while_a_batch_is_taken_is_for_the_next_one() -> None:
    with broadcast(max_chunks=10) as (writer, (reader,)):
        writer.enqueue_many([Eventful(n) for n in range(5)])
        with when_rebuilt(lambda number: writer.enqueue(Eventful(number + 100))):
            assert reader.dequeue_many(1 << 40) == [0, 1, 2, 3, 4]
        assert reader.dequeue_many(1 << 40) == [100, 101, 102, 103, 104]


def test_a_batch_is_rebuilt_outside_of_the_turn() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Eventful(1), b"for another thread"])
        others: list[Any] = []
        with when_rebuilt(lambda _: others.append(Background(reader.dequeue, 30).result())):
            assert reader.dequeue_many(1) == [1]
        assert others == [b"for another thread"]


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("how", ["dequeue", "try_dequeue", "dequeue_many", "iteration"])
def test_an_interrupted_batch_is_left_for_the_next_calls_whole_and_in_order(how: str, at: int) -> None:
    calls = {
        "dequeue": lambda end: [end.dequeue(10)],
        "try_dequeue": lambda end: [end.try_dequeue()],
        "dequeue_many": lambda end: end.dequeue_many(2),
        "iteration": lambda end: [next(end)],
    }
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Eventful(n) for n in range(4)])
        with when_rebuilt(interrupt_once_at(at)), pytest.raises(KeyboardInterrupt):
            reader.dequeue_many(4)
        assert reader.qsize() == 4
        writer.enqueue(4)
        seen: list[int] = []
        while len(seen) < 5:
            seen += Background(calls[how], reader).result()
        assert seen == [0, 1, 2, 3, 4]
        assert reader.try_dequeue("nothing more") == "nothing more"


def test_an_interrupted_message_is_handed_out_by_the_next_call() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Eventful(0), Eventful(1)])
        with when_rebuilt(interrupt_once_at(0)), pytest.raises(KeyboardInterrupt):
            reader.dequeue(10)
        assert [reader.dequeue(10), reader.dequeue(10)] == [0, 1]


def test_what_is_left_over_can_be_read_as_a_chunk_once() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many([Eventful(0), Eventful(1), b"raw"])
        with when_rebuilt(interrupt_once_at(1)), pytest.raises(KeyboardInterrupt):
            reader.dequeue_many(2)
        with reader.acquire_read(10) as first:
            assert b"rebuild" in bytes(first)
        assert reader.dequeue(10) == 1
        with reader.acquire_read(10) as last:
            assert bytes(last) == b"raw"
        assert reader.qsize() == 0


def test_a_thread_that_waits_gets_what_another_thread_s_interrupted_call_leaves() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue(Eventful(7))
        waiting: list[Background] = []

        def strike(_: int) -> None:
            if not waiting:
                parks = reader.stats()["parks"]
                waiting.append(Background(reader.dequeue, 30))
                eventually(lambda: reader.stats()["parks"] > parks, "the other thread's wait")
                raise KeyboardInterrupt

        with when_rebuilt(strike), pytest.raises(KeyboardInterrupt):
            reader.dequeue_many(5)
        assert waiting[0].result() == 7


def test_a_batch_with_a_message_that_cannot_be_rebuilt_loses_only_that_one() -> None:
    def refuse(number: int) -> None:
        if number == 2:
            raise LookupError("not this one")

    with broadcast() as (writer, (reader,)), when_rebuilt(refuse):
        writer.enqueue_many([Eventful(n) for n in range(5)])
        assert reader.dequeue_many(5) == [0, 1]
        with pytest.raises(DecodeError, match="not this one"):
            reader.dequeue_many(5)
        assert reader.dequeue_many(5) == [3, 4]
        writer.enqueue_many([Eventful(2), Eventful(6)])
        with pytest.raises(DecodeError, match="not this one"):
            reader.dequeue_many(5)
        assert reader.dequeue(10) == 6


@pytest.mark.parametrize("kind", ["bytes", "objects", "a generator"])
def test_a_long_batch_runs_signal_handlers_and_its_sender_can_be_interrupted(kind: str) -> None:
    class Alarm(BaseException):  # as KeyboardInterrupt: an Exception may come out of a pickle, as its EncodeError
        pass

    def handler(*_: Any) -> None:
        raise Alarm

    with broadcast(max_chunks=4) as (writer, (reader,)):
        stop = threading.Event()

        def drain() -> None:
            with suppress(WaitCancelledError):
                while not stop.is_set():
                    reader.dequeue_many(4, cancel=stop)

        draining = Background(drain)
        items: Any = [b"x"] * 10_000_000 if kind == "bytes" else [(1, 2)] * 10_000_000
        if kind == "a generator":
            items = iter(items)

        def send() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            writer.enqueue_many(items)

        before = signal.signal(signal.SIGALRM, handler)
        try:
            with pytest.raises(Alarm):
                send()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            stop.set()
        draining.result()


def test_a_long_batch_of_bytes_hears_of_a_shutdown_and_lets_other_threads_send() -> None:
    with broadcast(max_chunks=64) as (writer, (reader,)):
        seen: list[bytes] = []

        def drain() -> None:
            for message in reader:
                if message != b"x":
                    seen.append(message)

        draining = Background(drain)
        sending = Background(writer.enqueue_many, [b"x"] * 20_000_000)
        eventually(lambda: writer.stats()["messages"] > 100, "the batch's beginning")
        writer.enqueue(b"between", timeout=30)
        eventually(lambda: seen == [b"between"], "the other thread's message")
        writer.shutdown()
        with pytest.raises(QueueClosedError) as raised:
            sending.result()
        assert raised.value.sent is not None
        assert 100 < raised.value.sent < 20_000_000
        draining.result()
