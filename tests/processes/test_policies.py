"""What a writer does about readers that are dead or slow: `on_reader_death`, `on_full`, and what it says of them."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import (
    ArgumentError,
    NotReadyError,
    QueueFullError,
    QueueTimeoutError,
    ReaderDiedError,
    ReaderEvictedError,
    WriterDiedError,
)
from tests.support import Background, Child, Link, broadcast, eventually, parked, unique_name


def _read_on_demand(link: Link, handle: Any, rank: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    link.send("attached")
    while True:
        link.recv()
        link.send(reader.dequeue(60))


def _attached(start: Callable[..., Child], handle: Any, rank: int) -> Child:
    child = start(_read_on_demand, handle, rank)
    assert child.receive() == "attached"
    return child


def _evictions(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    facts = [vars(record)["ringcast"] for record in caplog.records]
    return [(f["evicted"]["rank"], f["evicted"]["cause"]) for f in facts if "evicted" in f]


def test_a_dead_reader_is_evicted_and_the_writer_goes_on(
    start: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    with MessageQueue(2, max_chunks=2, on_reader_death="evict") as writer:
        handle = writer.export_handle()
        doomed, survivor = (_attached(start, handle, rank) for rank in (0, 1))
        doomed.kill()
        for n in range(6):
            writer.enqueue(n, timeout=60)
            assert survivor.ask() == n
        assert _evictions(caplog) == [(0, "dead")]
        assert f"rank 0 (pid {doomed.pid})" in caplog.text
        assert "died without leaving its seat" in caplog.text


@pytest.mark.parametrize("send", ["try_enqueue", "enqueue_at_once", "loan"])
def test_every_way_to_send_evicts_a_dead_reader(start: Callable[..., Child], send: str) -> None:
    with MessageQueue(1, max_chunks=1, on_reader_death="evict") as writer:
        doomed = _attached(start, writer.export_handle(), 0)
        writer.enqueue(1)
        doomed.kill()
        if send == "try_enqueue":
            assert writer.try_enqueue([2]) is True
        elif send == "enqueue_at_once":
            writer.enqueue(2, timeout=0)
        else:
            with writer.loan(10):
                pass
        assert writer.stats()["messages"] == 2


def test_a_reader_that_died_before_all_were_ready_is_named(start: Callable[..., Child]) -> None:
    with MessageQueue(2, name=unique_name()) as writer:
        doomed = _attached(start, writer.export_handle(), 1)
        doomed.kill()
        with pytest.raises(ReaderDiedError, match=rf"rank 1 \(pid {doomed.pid}\) died") as caught:
            writer.wait_until_ready(60)
        assert (caught.value.rank, caught.value.pid) == (1, doomed.pid)


def test_a_reader_that_dies_while_the_writer_waits_for_another_is_seen(start: Callable[..., Child]) -> None:
    with MessageQueue(2, name=unique_name()) as writer:
        doomed = _attached(start, writer.export_handle(), 1)
        waiting = Background(writer.wait_until_ready, 60)
        eventually(lambda: parked(writer), "the writer's sleep")
        doomed.kill()
        with pytest.raises(ReaderDiedError):
            waiting.result()


def test_with_eviction_a_dead_reader_is_missing_until_it_is_restarted(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name(), on_reader_death="evict") as writer:
        handle = writer.export_handle()
        _attached(start, handle, 0).kill()
        with pytest.raises(NotReadyError) as caught:
            writer.wait_until_ready(0.1)
        assert caught.value.missing == (0,)
        restarted = _attached(start, handle, 0)
        writer.wait_until_ready(60)
        writer.enqueue("all there")
        assert restarted.ask() == "all there"


def test_a_full_queue_raises_at_once_if_it_is_told_so() -> None:
    with broadcast(2, max_chunks=2, on_full="raise", full_deadline=0) as (writer, (fast, slow)):
        writer.enqueue_many([1, 2])
        assert fast.dequeue_many(2) == [1, 2]
        who = rf"rank 1 \(pid {os.getpid()}, this process\)"
        with pytest.raises(QueueFullError, match=rf"{who} to make room; messages unread: 2"):
            writer.enqueue(3)
        with pytest.raises(QueueFullError) as caught:
            writer.enqueue_many([b"3", b"4"])
        assert caught.value.sent == 0
        with pytest.raises(QueueFullError):
            writer.try_enqueue(3)
        assert slow.dequeue() == 1
        writer.enqueue(3)
        assert slow.dequeue_many(2) == [2, 3]


def test_the_calls_own_timeout_comes_first() -> None:
    with broadcast(1, max_chunks=1, on_full="raise", full_deadline=30) as (writer, _):
        writer.enqueue(1)
        for timeout in (0, 0.05):
            with pytest.raises(QueueTimeoutError) as caught:
                writer.enqueue(2, timeout)
            assert not isinstance(caught.value, QueueFullError)
        assert writer.try_enqueue(2) is False


def test_a_full_queue_raises_after_the_deadline() -> None:
    with broadcast(1, max_chunks=1, on_full="raise", full_deadline=0.15) as (writer, _):
        writer.enqueue(1)
        with pytest.raises(QueueFullError):
            writer.enqueue(2, timeout=60)
        assert writer.stats()["waiting_s"] == 0


_WAYS_TO_POLL: dict[str, Callable[[MessageQueue, bytes], bool]] = {
    "a short time-out": lambda writer, message: _in_time(lambda: writer.enqueue(message, timeout=0.01)),
    "no time-out": lambda writer, message: _in_time(lambda: writer.enqueue(message, timeout=0)),
    "try_enqueue": lambda writer, message: writer.try_enqueue(message),
    "enqueue_many": lambda writer, message: _in_time(lambda: writer.enqueue_many([message], timeout=0.01)),
    "acquire_write": lambda writer, message: _in_time(lambda: _write_in_place(writer, message, 0.01)),
}


def _in_time(call: Callable[[], Any]) -> bool:
    try:
        call()
    except QueueTimeoutError:
        return False
    return True


def _write_in_place(writer: MessageQueue, message: bytes, timeout: float) -> None:
    with writer.acquire_write(timeout, nbytes=len(message)) as chunk:
        chunk[:] = message


@pytest.mark.parametrize("growing", [False, True], ids=["one message", "ever larger ones"])
@pytest.mark.parametrize("large", [False, True], ids=["slots", "memory"])
@pytest.mark.parametrize("way", _WAYS_TO_POLL)
def test_a_wait_goes_on_from_call_to_call_and_a_slow_reader_is_evicted(
    way: str, large: bool, growing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as nothing comes back, also where what is to be sent changes."""
    deadline, nbytes = 0.5, 1 << 20 if large else 64
    options: Any = {"max_chunks": 8 if large else 1, "max_chunk_bytes": 2 << 20, "max_bytes": 4 << 20}
    with broadcast(2, on_full="evict", full_deadline=deadline, **options) as (writer, (fast, _)):
        began = time.monotonic()
        while writer.try_enqueue(bytes(nbytes)):
            assert fast.dequeue() == bytes(nbytes)
            began = time.monotonic()
        tries = itertools.count()
        message = bytes(nbytes)

        def sent() -> bool:
            nonlocal message
            message = bytes(nbytes + next(tries) * growing)
            return _WAYS_TO_POLL[way](writer, message)

        eventually(sent, "an eviction")
        assert time.monotonic() - began >= deadline
        assert next(tries) > 2, "it did not come at the first call"
        assert fast.dequeue() == message
        assert _evictions(caplog) == [(1, "slow")]
        facts = [vars(record)["ringcast"] for record in caplog.records]
        assert [one["waited_s"] >= deadline for one in facts if "evicted" in one] == [True]


def test_who_is_told_that_the_queue_stayed_full_waits_as_long_again_before_the_next_time() -> None:
    deadline = 0.1
    with broadcast(1, max_chunks=1, on_full="raise", full_deadline=deadline) as (writer, _):
        writer.enqueue(1)

        def is_told() -> bool:
            with pytest.raises(QueueTimeoutError) as caught:
                writer.enqueue(2, timeout=0.01)
            return isinstance(caught.value, QueueFullError)

        for _ in range(3):
            began = time.monotonic()
            eventually(is_told, "the error")
            assert time.monotonic() - began >= deadline


@pytest.mark.parametrize("deadline", [0, 0.05])
def test_slow_readers_are_evicted_and_told(deadline: float, caplog: pytest.LogCaptureFixture) -> None:
    options: Any = {"max_chunks": 2, "on_full": "evict", "full_deadline": deadline}
    with broadcast(3, **options) as (writer, (slow, fast, slower)):
        for n in range(2):
            writer.enqueue(n)
            assert fast.dequeue() == n
        assert slow.dequeue() == 0
        for n in range(2, 8):
            writer.enqueue(n, timeout=60)
            assert fast.dequeue() == n
        assert sorted(_evictions(caplog)) == [(0, "slow"), (2, "slow")]
        for rank, evicted in ((0, slow), (2, slower)):
            with pytest.raises(ReaderEvictedError) as caught:
                evicted.dequeue()
            assert (caught.value.rank, caught.value.pid) == (rank, os.getpid())


def test_a_promised_reader_that_never_came_is_evicted(caplog: pytest.LogCaptureFixture) -> None:
    with MessageQueue(1, max_chunks=1, on_full="evict", full_deadline=0) as writer:
        writer.enqueue(1)
        writer.enqueue(2)
        assert _evictions(caplog) == [(0, "absent")]
        assert "has never attached" in caplog.text
        with MessageQueue.create_from_handle(writer.export_handle(), 0) as late:
            writer.enqueue(3)
            with pytest.raises(ReaderEvictedError, match="gave up waiting for rank 0 before it attached") as caught:
                late.dequeue()
            assert caught.value.rank == 0
            assert late.dequeue() == 3
            assert writer.stats()["missed"] == {0: 2}


def test_unread_blocks_are_freed_by_an_eviction_views_are_not() -> None:
    budget = 4 << 20
    options: Any = {"max_chunks": 8, "max_chunk_bytes": 1 << 20, "max_bytes": budget, "on_full": "evict"}
    with broadcast(1, full_deadline=0, **options) as (writer, (reader,)):
        message = np.zeros(1 << 20, np.uint8)
        for _ in range(8):  # the reader takes none
            writer.enqueue(message, timeout=60)
        with pytest.raises(ReaderEvictedError):
            reader.dequeue()
    with broadcast(1, copy=False, full_deadline=0, **options) as (writer, (reader,)):
        kept = []
        for _ in range(3):
            writer.enqueue(message, timeout=60)
            kept.append(reader.dequeue())
        with pytest.raises(QueueFullError, match="holds views of 3 messages"):
            writer.enqueue(message, timeout=60)
        kept.clear()
        writer.enqueue(message, timeout=60)
        assert reader.dequeue().nbytes == message.nbytes


def test_a_stopped_reader_is_alive_and_said_to_be_stopped(
    start: Callable[..., Child], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.05")
    with MessageQueue(1, max_chunks=1) as writer:
        reader = _attached(start, writer.export_handle(), 0)
        writer.enqueue(1)
        reader.signal(signal.SIGSTOP)
        eventually(lambda: writer.stats()["readers"][0]["process"] == "stopped", "the stop")
        assert writer.stats()["readers"][0]["alive"] is True
        with pytest.raises(QueueTimeoutError, match=rf"rank 0 \(pid {reader.pid}, stopped\) to make room"):
            writer.enqueue(2, timeout=0.01)
        waiting = Background(writer.enqueue, 2, 60)
        eventually(lambda: writer.stats()["waiting_s"] > 0, "the wait")
        eventually(lambda: caplog.records, "the report")
        assert f"rank 0 (pid {reader.pid}, alive, but stopped, 1 messages behind)" in caplog.text
        reader.signal(signal.SIGCONT)
        assert reader.ask() == 1
        waiting.result()
        assert reader.ask() == 2


def _stall(link: Link, handle: Any) -> None:
    import ctypes

    reader = MessageQueue.create_from_handle(handle, 0)
    link.send("attached")
    ctypes.PyDLL(None).pause()  # holds the interpreter's lock until a signal that the test never sends
    reader.dequeue()


def test_a_reader_whose_interpreter_is_stalled_is_alive(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_chunks=1, on_reader_death="evict") as writer:
        reader = start(_stall, writer.export_handle())
        assert reader.receive() == "attached"
        writer.enqueue(1)
        with pytest.raises(QueueTimeoutError, match=rf"rank 0 \(pid {reader.pid}\) to make room"):
            writer.enqueue(2, timeout=0.3)  # several looks at its life
        assert writer.stats()["readers"][0]["alive"] is True
        reader.kill()
        writer.enqueue(2, timeout=60)


def _write(link: Link, name: str) -> None:
    writer = MessageQueue(1, name=name)
    writer.wait_until_ready(60)
    link.send("ready")
    link.recv()


def test_a_reader_is_told_that_its_writer_is_stopped_and_when_it_died(
    start: Callable[..., Child], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.05")
    name = unique_name()
    child = start(_write, name)
    with MessageQueue.attach(name, timeout=60) as reader:
        assert child.receive() == "ready"
        child.signal(signal.SIGSTOP)
        eventually(lambda: reader.stats()["writer"]["process"] == "stopped", "the stop")
        with pytest.raises(QueueTimeoutError, match=rf"the writer \(pid {child.pid}, stopped\)"):
            reader.dequeue(timeout=0.1)
        waiting = Background(reader.dequeue)
        eventually(lambda: f"the writer (pid {child.pid}, alive, but stopped)" in caplog.text, "the report")
        child.kill()
        with pytest.raises(WriterDiedError) as caught:
            waiting.result()
        assert (caught.value.rank, caught.value.pid) == (None, child.pid)
        assert reader.stats()["writer"]["process"] == "gone"


@pytest.mark.parametrize(
    "options",
    [{"on_reader_death": "ignore"}, {"on_full": "drop"}, {"full_deadline": -1}, {"full_deadline": float("nan")}],
)
def test_bad_policies_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        MessageQueue(1, **options)
