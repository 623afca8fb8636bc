"""Ctrl-C ends every blocked call with KeyboardInterrupt, and the end is usable afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from ringcast import MessageQueue, ShmRingBuffer
from tests.support import Background, Child, Link, eventually, parked, unique_name


def _tell_when_parked(link: Link, end: MessageQueue, parks: int, word: str) -> None:
    eventually(lambda: parked(end, parks), "the sleep")
    link.send(word)


def _blocked(link: Link, call: str, wait: str) -> None:
    writer = MessageQueue(2, max_chunks=1, wait=wait)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0, wait=wait)
    if call == "enqueue":
        writer.enqueue(b"fills it")
    calls: dict[str, Callable[[], object]] = {
        "dequeue": reader.dequeue,
        "dequeue_many": lambda: reader.dequeue_many(10),
        "acquire_read": lambda: reader.acquire_read().__enter__(),
        "iteration": lambda: next(reader),
        "enqueue": lambda: writer.enqueue(b"no room"),
        "enqueue of an object": lambda: writer.enqueue_many(iter([[1], [2]])),
        "enqueue_many": lambda: writer.enqueue_many([b"a", b"b", b"c"]),
        "acquire_write": lambda: [writer.acquire_write().__enter__()] if writer.try_enqueue(b"x") else None,
        "writer's wait_until_ready": writer.wait_until_ready,
        "reader's wait_until_ready": reader.wait_until_ready,
        "close": lambda: writer.close(linger=None) if writer.try_enqueue(b"x") else None,
        "attach": lambda: MessageQueue.attach("nobody-has-this-one", timeout=None),
    }
    end = (
        writer if call in ("enqueue", "enqueue_many", "acquire_write", "close", "writer's wait_until_ready") else reader
    )
    if call == "enqueue of an object":
        end = writer
    before = end.stats()["parks"]
    link.send("calling")
    watch = wait == "park" and call not in ("attach", "close")
    try:
        if watch:
            Background(_tell_when_parked, link, end, before + 1, "parked")
        else:
            link.send("parked")
        calls[call]()
    except KeyboardInterrupt:
        link.send("interrupted")
    else:
        link.send("returned")
    if call == "dequeue":
        writer.enqueue(b"works on")
        assert reader.dequeue(10) == b"works on"
    if not writer.closed:
        writer.evict(1)  # nobody ever came for this rank
    reader.close()
    writer.close(0)


CALLS = [
    "dequeue",
    "dequeue_many",
    "acquire_read",
    "iteration",
    "enqueue",
    "enqueue of an object",
    "enqueue_many",
    "acquire_write",
    "writer's wait_until_ready",
    "reader's wait_until_ready",
    "close",
    "attach",
]


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_ends_a_blocked_call(call: str, start: Callable[..., Child]) -> None:
    child = start(_blocked, call, "park")
    assert child.receive() == "calling"
    assert child.receive() == "parked"
    child.signal(signal.SIGINT)
    assert child.receive() == "interrupted"
    assert child.join() == 0


@pytest.mark.parametrize("wait", ["spin", "yield", "adaptive"])
def test_ctrl_c_ends_a_wait_of_every_strategy(wait: str, start: Callable[..., Child]) -> None:
    child = start(_blocked, "dequeue", wait)
    assert child.receive() == "calling"
    assert child.receive() == "parked"
    child.signal(signal.SIGINT)
    assert child.receive() == "interrupted"
    assert child.join() == 0


def _main_joins_a_reader_thread(link: Link) -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    received = Background(reader.dequeue)
    eventually(lambda: parked(reader), "the reader's sleep")
    with suppress(KeyboardInterrupt):
        link.send("ready")
        threading.Event().wait()
    writer.enqueue("the thread was not disturbed")
    link.send(received.result())
    reader.close()
    writer.close()


def test_ctrl_c_in_the_main_thread_leaves_another_thread_s_wait_alone(start: Callable[..., Child]) -> None:
    child = start(_main_joins_a_reader_thread)
    assert child.receive() == "ready"
    child.signal(signal.SIGINT)
    assert child.receive() == "the thread was not disturbed"
    assert child.join() == 0


def _main_waits_for_the_turn(link: Link) -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    holding = Background(reader.dequeue)  # has the turn, and waits
    eventually(lambda: parked(reader), "the thread's sleep")
    try:
        link.send("ready")
        reader.dequeue()
    except KeyboardInterrupt:
        link.send("interrupted")
    writer.enqueue(1)
    link.send(holding.result())
    reader.close()
    writer.close()


def test_ctrl_c_ends_the_wait_for_another_thread_s_turn(start: Callable[..., Child]) -> None:
    child = start(_main_waits_for_the_turn)
    assert child.receive() == "ready"
    child.signal(signal.SIGINT)
    assert child.receive() == "interrupted"
    assert child.receive() == 1
    assert child.join() == 0


def _handles_a_signal(link: Link) -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    signal.signal(signal.SIGUSR1, lambda *_: writer.enqueue("sent by the signal handler"))
    watcher = Background(_tell_when_parked, link, reader, 1, "ready")
    link.send(reader.dequeue(60))
    watcher.result()
    reader.close()
    writer.close()


def test_a_signal_handler_runs_while_the_main_thread_waits(start: Callable[..., Child]) -> None:
    child = start(_handles_a_signal)
    assert child.receive() == "ready"
    child.signal(signal.SIGUSR1)
    assert child.receive() == "sent by the signal handler"
    assert child.join() == 0


def _ring_read(link: Link, name: str) -> None:
    ring = ShmRingBuffer(1, 100, 2, name)
    link.send("calling")
    try:
        ring.acquire_read().__enter__()
    except KeyboardInterrupt:
        link.send("interrupted")
    ring.close()


def test_ctrl_c_ends_a_ring_s_read_and_its_seat_is_left(start: Callable[..., Child]) -> None:
    with ShmRingBuffer(1, 100, 2) as ring:
        child = start(_ring_read, ring.name)
        assert child.receive() == "calling"
        eventually(lambda: ring._end is not None and ring._end.stats()["readers"][0]["state"] == "active", "the seat")
        child.signal(signal.SIGINT)
        assert child.receive() == "interrupted"
        assert child.join() == 0
        for _ in range(10):
            with ring.acquire_write(timeout=10, nbytes=1):
                pass  # nobody is waited for any more


def _terminated(link: Link, name: str) -> None:
    writer = MessageQueue(1, name=name)
    signal.signal(signal.SIGTERM, lambda *_: exit_now())
    link.send(writer.segment)
    writer.wait_until_ready()


def exit_now() -> None:
    raise SystemExit(3)


def test_termination_that_raises_in_a_wait_cleans_up(start: Callable[..., Child]) -> None:
    child = start(_terminated, unique_name())
    child.receive()
    child.signal(signal.SIGTERM)
    with pytest.raises(AssertionError, match="SystemExit: 3"):
        child.receive()
    assert child.join() == 1
