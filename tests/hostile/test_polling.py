"""Calls that do not wait: what they cost the system, what they say, and that they hear of deaths all the same."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import Handle, MessageQueue, ShmRingBuffer
from ringcast.errors import QueueFullError, QueueTimeoutError, ReaderDiedError, WriterDiedError
from tests.hostile.shim import Shim
from tests.support import Child, Link, eventually

POLLS = 200
SYSTEM_CALLS = ("fcntl", "stat", "lstat", "open", "opendir", "pread", "ioctl", "syscall", "sched_getaffinity", "mmap")
LARGE = 300_000


def _times_out(call: Callable[[], Any]) -> None:
    with pytest.raises(QueueTimeoutError):
        call()


def _enter(chunk: Any) -> None:
    with chunk:
        raise AssertionError("there is nothing to enter")


def _polls_of_a_reader(handle: Handle, ring: Any) -> dict[str, Callable[[], Any]]:
    reader = MessageQueue.create_from_handle(handle, 0)
    chunks = ShmRingBuffer(*ring)
    loop = asyncio.new_event_loop()
    return {
        "try_dequeue": lambda: reader.try_dequeue() is None,
        "dequeue": lambda: _times_out(lambda: reader.dequeue(timeout=0)),
        "dequeue_many": lambda: _times_out(lambda: reader.dequeue_many(8, timeout=0)),
        "acquire_read": lambda: _times_out(lambda: _enter(reader.acquire_read(timeout=0))),
        "acquire_read of a ring": lambda: _times_out(lambda: _enter(chunks.acquire_read(timeout=0))),
        "wait_until_ready": lambda: _times_out(lambda: reader.wait_until_ready(timeout=0)),
        "aget": lambda: _times_out(lambda: loop.run_until_complete(reader.aget(timeout=0))),
    }


def _polls_of_a_writer(link: Link) -> dict[str, Callable[[], Any]]:
    full, unattached = MessageQueue(1, max_chunks=1), MessageQueue(1)
    ring = ShmRingBuffer(1, 1000, 1)
    no_memory = MessageQueue(1, max_bytes=2 << 20, max_chunk_bytes=LARGE)
    link.send((full.export_handle(), ring.handle(), no_memory.export_handle()))
    link.recv()  # all are attached
    full.enqueue(0)
    with ring.acquire_write():
        pass
    while no_memory.try_enqueue(bytes(LARGE)):
        pass
    return {
        "try_enqueue": lambda: full.try_enqueue(1),
        "enqueue": lambda: _times_out(lambda: full.enqueue(1, timeout=0)),
        "enqueue_many": lambda: _times_out(lambda: full.enqueue_many([1, 2], timeout=0)),
        "enqueue_many of bytes": lambda: _times_out(lambda: full.enqueue_many([b"1", b"2"], timeout=0)),
        "acquire_write": lambda: _times_out(lambda: _enter(full.acquire_write(timeout=0))),
        "acquire_write of a ring": lambda: _times_out(lambda: _enter(ring.acquire_write(timeout=0))),
        "loan": lambda: _times_out(lambda: _enter(full.loan(10, timeout=0))),
        "loan_array": lambda: _times_out(lambda: _enter(full.loan_array(3, np.int8, timeout=0))),
        "wait_until_ready": lambda: _times_out(lambda: unattached.wait_until_ready(timeout=0)),
        "enqueue without memory": lambda: _times_out(lambda: no_memory.enqueue(bytes(LARGE), timeout=0)),
    }


def _count(link: Link, polls: dict[str, Callable[[], Any]]) -> None:
    shim = Shim()
    counts = {}
    for name, poll in polls.items():
        poll()  # what is looked up once
        # Now and then is by the clock, and a busy machine may take long for one round, but not for all of them.
        rounds = []
        for _ in range(5):
            shim.arm("", 0, 0, 0)
            for _ in range(POLLS):
                poll()
            rounds.append(sum(shim.counts(SYSTEM_CALLS).values()))
        counts[name] = min(rounds)
    link.send(counts)


def _poll_as_reader(link: Link, handle: Handle, ring: Any) -> None:
    _count(link, _polls_of_a_reader(handle, ring))


def _poll_as_writer(link: Link) -> None:
    _count(link, _polls_of_a_writer(link))


def _assert_seldom(counts: dict[str, int]) -> None:
    assert {name: count for name, count in counts.items() if count > POLLS / 10} == {}


def test_a_reader_that_polls_asks_the_system_only_now_and_then(shim: str, start: Callable[..., Child]) -> None:
    with MessageQueue(2) as writer, ShmRingBuffer(1, 1000, 1) as ring:
        child = start(_poll_as_reader, writer.export_handle(), ring.handle(), env={"LD_PRELOAD": shim})
        _assert_seldom(child.receive())
        assert child.join() == 0


def test_a_writer_that_polls_asks_the_system_only_now_and_then(shim: str, start: Callable[..., Child]) -> None:
    child = start(_poll_as_writer, env={"LD_PRELOAD": shim})
    full, ring, no_memory = child.receive()
    readers = [MessageQueue.create_from_handle(handle, 0) for handle in (full, no_memory)]
    chunks = ShmRingBuffer(*ring)
    with pytest.raises(QueueTimeoutError), chunks.acquire_read(timeout=0):  # takes the seat
        pass
    child.send(None)
    _assert_seldom(child.receive())
    assert child.join() == 0
    chunks.close()
    for reader in readers:
        reader.close()


def _serve(link: Link) -> None:
    writer = MessageQueue(1)
    link.send(writer.export_handle())
    link.recv()


@pytest.mark.parametrize("call", ["dequeue", "try_dequeue", "dequeue_many", "acquire_read", "aget"])
def test_a_reader_that_polls_is_told_that_the_writer_was_killed_and_each_time_again(
    call: str, start: Callable[..., Child]
) -> None:
    writer = start(_serve)
    reader = MessageQueue.create_from_handle(writer.receive(), 0)

    def enter() -> Any:
        with reader.acquire_read(timeout=0):
            pass

    poll: Callable[[], Any] = {
        "dequeue": lambda: reader.dequeue(timeout=0),
        "try_dequeue": reader.try_dequeue,
        "dequeue_many": lambda: reader.dequeue_many(3, timeout=0),
        "acquire_read": enter,
        "aget": lambda: asyncio.run(reader.aget(timeout=0)),
    }[call]

    def died() -> bool:
        try:
            poll()
        except QueueTimeoutError:
            pass
        except WriterDiedError:
            return True
        return False

    assert not died()
    writer.kill()
    eventually(died, "the error about the writer's death")
    for _ in range(3):
        assert died()
    reader.close()


def _read(link: Link, handle: Handle) -> None:
    reader = MessageQueue.create_from_handle(handle, 0)
    link.send("attached")
    kept = []
    while link.recv() == "keep":
        kept.append(reader.dequeue(60))
        link.send("kept")


@pytest.mark.parametrize("call", ["enqueue", "try_enqueue"])
def test_a_writer_that_polls_is_told_that_a_reader_was_killed_and_each_time_again(
    call: str, start: Callable[..., Child]
) -> None:
    with MessageQueue(1, max_chunks=1) as writer:
        reader = start(_read, writer.export_handle())
        assert reader.receive() == "attached"
        writer.enqueue(0)

        def died() -> bool:
            try:
                writer.enqueue(1, timeout=0) if call == "enqueue" else writer.try_enqueue(1)
            except QueueTimeoutError:
                pass
            except ReaderDiedError:
                return True
            return False

        assert not died()
        reader.kill()
        eventually(died, "the error about the reader's death")
        for _ in range(3):
            assert died()
        writer.evict(0)


def test_a_writer_that_polls_gets_the_memory_of_a_killed_reader_s_views(start: Callable[..., Child]) -> None:
    """Of one that it evicts, too."""
    with MessageQueue(1, max_chunks=64, max_bytes=2 << 20, max_chunk_bytes=LARGE, on_reader_death="evict") as writer:
        reader = start(_read, writer.export_handle())
        assert reader.receive() == "attached"
        while writer.try_enqueue(np.zeros(LARGE, np.uint8)):
            pass
        reader.send("keep")
        assert reader.receive() == "kept"
        assert not writer.try_enqueue(np.zeros(LARGE, np.uint8))
        reader.kill()
        eventually(lambda: writer.try_enqueue(np.zeros(LARGE, np.uint8)), "room in the dead reader's memory")


def test_a_slow_reader_is_an_error_for_every_poll_if_no_patience_is_wanted() -> None:
    with MessageQueue(1, max_chunks=1, on_full="raise", full_deadline=0) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        writer.enqueue(0)
        for _ in range(3):
            with pytest.raises(QueueFullError, match="messages unread: 1"):
                writer.enqueue(1, timeout=0)
            with pytest.raises(QueueFullError, match="messages unread: 1"):
                writer.try_enqueue(1)
        reader.close()


def test_a_time_out_of_zero_names_the_peer_and_only_one_that_was_waited_for_says_how_it_is(
    start: Callable[..., Child],
) -> None:
    with MessageQueue(1, max_chunks=1) as writer:
        reader = start(_read, writer.export_handle())
        assert reader.receive() == "attached"
        writer.enqueue(0)
        reader.signal(signal.SIGSTOP)
        eventually(lambda: writer.stats()["readers"][0]["process"] == "stopped", "the stop")
        peer = rf"waited 0\.000 s for the reader of rank 0 \(pid {reader.pid}\) to make room; messages unread: 1"
        with pytest.raises(QueueTimeoutError, match=peer):
            writer.enqueue(1, timeout=0)
        with pytest.raises(QueueTimeoutError, match=rf"\(pid {reader.pid}, stopped\)"):
            writer.enqueue(1, timeout=0.05)
        reader.kill()
        writer.evict(0)


def test_a_poll_in_an_event_loop_lets_other_tasks_run() -> None:
    with MessageQueue(1) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)

        async def poll() -> None:
            while True:
                with pytest.raises(QueueTimeoutError):
                    await reader.aget(timeout=0)

        async def main() -> None:
            polling = asyncio.ensure_future(poll())
            await asyncio.sleep(0)  # comes back only if the other task gives way
            polling.cancel()

        asyncio.run(main())
        reader.close()
