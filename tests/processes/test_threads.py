"""Threads that share an end: each call whole, shutdown from anywhere, and finalizers that cannot deadlock."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.errors import QueueClosedError
from tests.support import Background, broadcast, eventually, parked

THREADS = 4
EACH = 400


def test_messages_of_several_sending_threads_all_arrive_each_thread_s_in_order() -> None:
    with broadcast(2) as (writer, readers):

        def send(thread: int) -> None:
            for n in range(EACH):
                writer.enqueue((thread, n) if n % 3 else b"%d %d" % (thread, n))

        received = [Background(list, reader) for reader in readers]
        for sender in [Background(send, thread) for thread in range(THREADS)]:
            sender.result()
        writer.close()
        first, second = (thread.result() for thread in received)
        assert first == second
        pairs = [item if isinstance(item, tuple) else tuple(map(int, item.split())) for item in first]
        for thread in range(THREADS):
            assert [n for t, n in pairs if t == thread] == list(range(EACH))


def test_messages_are_shared_out_among_several_receiving_threads() -> None:
    with broadcast() as (writer, (reader,)):
        receivers = [Background(list, reader) for _ in range(THREADS)]
        for n in range(EACH * THREADS):
            writer.enqueue(n if n % 2 else b"%d" % n)
        writer.close()
        received = [item for receiver in receivers for item in receiver.result()]
        assert Counter(map(int, received)) == Counter(range(EACH * THREADS))


def test_different_calls_of_threads_on_one_end_mix() -> None:
    with broadcast(max_chunks=16) as (writer, (reader,)):
        total = 3 * EACH

        def send_chunks() -> None:
            for n in range(EACH):
                with writer.acquire_write(nbytes=8) as view:
                    view[:] = n.to_bytes(8, "little")

        def receive_chunks(into: list[Any], stop: threading.Event) -> None:
            try:
                while True:
                    with reader.acquire_read(cancel=stop) as view:
                        into.append(bytes(view))
            except RuntimeError:
                return

        into: list[Any] = []
        stop = threading.Event()
        others = [Background(receive_chunks, into, stop), Background(list, reader)]
        senders = [
            Background(send_chunks),
            Background(writer.enqueue_many, (bytes([n % 256]) * 2000 for n in range(EACH))),
            Background(writer.enqueue_many, [b"m"] * EACH),
        ]
        for sender in senders:
            sender.result()
        writer.close()
        others[0].result()
        assert len(into) + len(others[1].result()) == total


def test_two_threads_that_only_try_never_get_a_time_out() -> None:
    with broadcast(max_chunks=1000) as (writer, (reader,)):

        def try_sending() -> int:
            return sum(writer.try_enqueue(b"x" * 100_000) for _ in range(200))

        def try_receiving() -> int:
            return sum(reader.try_dequeue() is not None for _ in range(400))

        threads = [Background(try_sending) for _ in range(2)] + [Background(try_receiving) for _ in range(2)]
        sent = threads[0].result() + threads[1].result()
        received = threads[2].result() + threads[3].result()
        while reader.try_dequeue() is not None:
            received += 1
        assert received == sent


def test_shutdown_during_concurrent_sending_loses_nothing_that_was_accepted() -> None:
    for _ in range(20):
        with broadcast(max_chunks=3) as (writer, (reader,)):
            accepted: list[list[int]] = [[] for _ in range(3)]

            def send(thread: int, writer: MessageQueue = writer, accepted: list[list[int]] = accepted) -> None:
                n = thread
                try:
                    while True:
                        writer.enqueue(n)
                        accepted[thread].append(n)
                        n += 3
                except QueueClosedError:
                    return

            receiving = Background(list, reader)
            senders = [Background(send, thread) for thread in range(3)]
            eventually(lambda a=accepted: sum(map(len, a)) > 15, "some messages")  # type: ignore[misc]
            writer.shutdown()
            for sender in senders:
                sender.result()
            received = receiving.result()
            assert Counter(received) == Counter(n for one in accepted for n in one)


def test_a_thread_that_waits_for_its_turn_gets_it_though_another_never_pauses() -> None:
    with broadcast(max_chunks=3) as (writer, (reader,)):
        sent = [0, 0, 0]

        def send(thread: int) -> None:
            try:
                while True:
                    writer.enqueue(thread)
                    sent[thread] += 1
            except QueueClosedError:
                return

        receiving = Background(list, reader)
        senders = [Background(send, thread) for thread in range(3)]
        try:
            eventually(lambda: min(sent) >= 3, "a turn for every thread", timeout=20)
        finally:
            writer.shutdown()
            for thread in (*senders, receiving):
                thread.result()


def test_shutdown_from_many_threads_at_once_ends_every_waiting_call() -> None:
    with broadcast(max_chunks=1) as (writer, (reader,)):
        writer.enqueue(0)
        blocked = [Background(writer.enqueue, n) for n in range(3)]
        eventually(lambda: parked(writer), "a sleep")
        for stopping in [Background(writer.shutdown) for _ in range(4)]:
            stopping.result()
        for call in blocked:
            with pytest.raises(QueueClosedError):
                call.result()
        assert list(reader) == [0]


def test_a_reader_s_shutdown_frees_the_writer_that_waits_for_it() -> None:
    with broadcast(2, max_chunks=1) as (writer, (leaving, staying)):
        writer.enqueue(1)
        assert staying.dequeue(10) == 1
        sending = Background(writer.enqueue, 2)
        eventually(lambda: parked(writer), "the writer's sleep")
        leaving.shutdown()
        sending.result()
        assert staying.dequeue(10) == 2


class ClosesWhenCollected:
    """A cycle, so that it is the collector, at any allocation, that runs `__del__`."""

    def __init__(self, end: MessageQueue, how: str) -> None:
        self.end, self.how, self.me = end, how, self

    def __del__(self) -> None:
        getattr(self.end, self.how)(*((0,) if self.how == "close" else ()))


def use_until_closed(writer: MessageQueue, reader: MessageQueue, side: int) -> None:
    while True:
        if side == 0:
            writer.enqueue_many([[1], {"n": 2}], timeout=60)
            reader.dequeue_many(2)
        else:
            reader.dequeue_many(7, timeout=60)
            writer.enqueue([[3]] * 3, timeout=60)


@pytest.mark.parametrize("how", ["shutdown", "close"])
def test_a_finalizer_that_ends_the_queue_inside_a_call_does_not_deadlock(how: str) -> None:
    threshold = gc.get_threshold()
    for side in (0, 1):
        with broadcast(max_chunks=64) as (writer, (reader,)):
            end = (writer, reader)[side]
            writer.enqueue_many([[n] for n in range(60)])
            gc.collect()
            gc.set_threshold(1)
            try:
                ClosesWhenCollected(end, how)
                with pytest.raises(QueueClosedError):
                    use_until_closed(writer, reader, side)
            finally:
                gc.set_threshold(*threshold)


class EndsTheQueueWhenPickled:
    def __init__(self, end: MessageQueue) -> None:
        self.end = end

    def __reduce__(self) -> Any:
        self.end.close(0)
        return (int, ())


def test_closing_while_encoding_is_an_error_of_that_call() -> None:
    with broadcast() as (writer, (reader,)):
        with pytest.raises(QueueClosedError):
            writer.enqueue(EndsTheQueueWhenPickled(writer))
        assert list(reader) == []


def test_a_message_whose_rebuilding_uses_the_same_end_is_no_deadlock() -> None:
    with broadcast() as (writer, (reader,)):
        _nested.append(reader)
        try:
            writer.enqueue(Nested())
            writer.enqueue("inner")
            assert reader.dequeue(10) == "inner"
        finally:
            _nested.clear()


_nested: list[MessageQueue] = []


class Nested:
    def __reduce__(self) -> Any:
        return (_dequeue_nested, ())


def _dequeue_nested() -> Any:
    return _nested[0].dequeue(10)


def test_closing_from_several_threads_while_others_call_is_quiet() -> None:
    for _ in range(20):
        with broadcast() as (writer, (reader,)):
            receiving = [Background(list, reader) for _ in range(2)]
            writer.enqueue_many(range(5))
            closing = [Background(writer.close), Background(reader.close, 0), Background(reader.close, 0)]
            for thread in closing:
                thread.result()
            for thread in receiving:
                try:
                    thread.result()
                except QueueClosedError:
                    continue
