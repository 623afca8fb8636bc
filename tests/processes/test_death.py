"""Killed processes: what was published is delivered, whoever waits is told, and the memory comes back."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from ringcast import Handle, MessageQueue, ShmRingBuffer
from ringcast.errors import QueueTimeoutError, ReaderDiedError, ReaderEvictedError, WriterDiedError
from ringcast.instruments import list_queues
from tests.support import SHM, Background, Child, Link, eventually, parked, unique_name


def _write(link: Link, name: str, messages: int) -> None:
    writer = MessageQueue(1, name=name, max_chunks=64)
    writer.wait_until_ready(60)
    for n in range(messages):
        writer.enqueue((n, b"x" * (n * 700)))
    link.send(writer.segment)
    link.recv()


@pytest.mark.parametrize("messages", [0, 1, 50])
def test_after_the_writer_was_killed_readers_get_everything_and_then_the_error(
    messages: int, start: Callable[..., Child]
) -> None:
    name = unique_name()
    writer = start(_write, name, messages)
    reader = MessageQueue.attach(name, timeout=60)
    reader.wait_until_ready(60)
    real_name = writer.receive()
    writer.kill()
    for n in range(messages):
        assert reader.dequeue(10) == (n, b"x" * (n * 700))
    for call in (reader.dequeue, reader.try_dequeue, lambda: next(reader), lambda: reader.dequeue_many(3)):
        with pytest.raises(WriterDiedError, match=rf"the writer \(pid {writer.pid}\) died"):
            call()
    assert not reader.stats()["writer"]["alive"]
    reader.close()
    MessageQueue(1, name=name).close(0)  # takes the name over
    assert not (SHM / real_name).exists()


def test_the_last_survivor_of_a_killed_writer_removes_the_name_when_it_closes(start: Callable[..., Child]) -> None:
    name = unique_name()
    writer = start(_write, name, 0)
    reader = MessageQueue.attach(name, timeout=60)
    reader.wait_until_ready(60)
    real_name = writer.receive()
    writer.kill()
    with pytest.raises(WriterDiedError):
        reader.dequeue(10)
    reader.close()
    assert not (SHM / real_name).exists()


def _write_unnamed(link: Link, n_reader: int) -> None:
    writer = MessageQueue(n_reader)
    link.send(writer.export_handle())
    writer.wait_until_ready(60)
    link.send("ready")
    link.recv()


def test_the_name_of_an_unnamed_queue_whose_writer_was_killed_goes_with_its_last_reader(
    start: Callable[..., Child],
) -> None:
    writer = start(_write_unnamed, 1)
    handle = writer.receive()
    reader = MessageQueue.create_from_handle(handle, 0)
    assert writer.receive() == "ready"
    writer.kill()
    with pytest.raises(WriterDiedError):
        reader.dequeue(10)
    reader.close()
    assert not (SHM / handle.segment).exists()


@pytest.mark.parametrize("wait", ["adaptive", "spin", "yield", "park"])
def test_a_reader_that_waits_is_told_when_the_writer_is_killed(wait: str, start: Callable[..., Child]) -> None:
    writer = start(_write_unnamed, 1)
    reader = MessageQueue.create_from_handle(writer.receive(), 0, wait=wait)
    assert writer.receive() == "ready"
    waiting = Background(reader.dequeue)
    if wait in ("adaptive", "park"):
        eventually(lambda: parked(reader), "the reader's sleep")
    writer.kill()
    with pytest.raises(WriterDiedError):
        waiting.result()
    reader.close()


def test_a_reader_that_waits_until_ready_is_told_when_the_writer_is_killed(start: Callable[..., Child]) -> None:
    writer = start(_write_unnamed, 2)
    handle = writer.receive()
    reader = MessageQueue.create_from_handle(handle, 0)
    waiting = Background(reader.wait_until_ready)
    eventually(lambda: parked(reader), "the reader's sleep")
    writer.kill()
    with pytest.raises(WriterDiedError):
        waiting.result()
    reader.close()
    (SHM / handle.segment).unlink(missing_ok=True)


def _read(link: Link, handle: Handle, rank: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    link.send("attached")
    while True:
        link.recv()
        link.send(reader.dequeue(60))


def test_a_writer_that_waits_for_a_killed_reader_is_told_who_died_and_goes_on_without_it(
    start: Callable[..., Child],
) -> None:
    with MessageQueue(2, max_chunks=2) as writer:
        doomed, survivor = (start(_read, writer.export_handle(), rank) for rank in (0, 1))
        writer.wait_until_ready(60)
        writer.enqueue(0)
        for child in (doomed, survivor):
            assert child.receive() == "attached"
            assert child.ask() == 0
        doomed.kill()
        writer.enqueue(1)  # there is room: nobody is waited for yet
        writer.enqueue(2)
        assert [survivor.ask(), survivor.ask()] == [1, 2]
        for attempt in (lambda: writer.enqueue(3), lambda: writer.enqueue([3]), lambda: writer.try_enqueue(3)):
            with pytest.raises(ReaderDiedError, match=rf"the reader of rank 0 \(pid {doomed.pid}\) died"):
                attempt()
        with pytest.raises(ReaderDiedError):
            writer.acquire_write(nbytes=1).__enter__()
        (dead, alive) = writer.stats()["readers"]
        assert (dead["alive"], alive["alive"]) == (False, True)
        assert writer.evict(0) is True
        for n in range(3, 9):
            writer.enqueue(n, timeout=60)
            assert survivor.ask() == n


def test_a_writer_that_already_sleeps_is_told_when_the_reader_is_killed(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_chunks=1) as writer:
        reader = start(_read, writer.export_handle(), 0)
        assert reader.receive() == "attached"
        writer.enqueue(1)
        waiting = Background(writer.enqueue, 2)
        eventually(lambda: parked(writer), "the writer's sleep")
        reader.kill()
        with pytest.raises(ReaderDiedError):
            waiting.result()


def test_a_reader_whose_block_an_exception_leaves_counts_as_dead() -> None:
    with MessageQueue(1, max_chunks=1) as writer:
        handle = writer.export_handle()
        with pytest.raises(ValueError, match="on purpose"), MessageQueue.create_from_handle(handle, 0):
            raise ValueError("on purpose")
        writer.enqueue(1)
        with pytest.raises(ReaderDiedError, match="was ended by an exception"):
            writer.enqueue(2, timeout=60)


def test_a_batch_that_meets_a_dead_reader_tells_how_many_were_sent(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_chunks=3) as writer:
        reader = start(_read, writer.export_handle(), 0)
        assert reader.receive() == "attached"
        reader.kill()
        with pytest.raises(ReaderDiedError) as caught:
            writer.enqueue_many([b"1", b"2", b"3", b"4", b"5"])
        assert caught.value.sent == 3


def _attach_and_wait(link: Link, name: str, rank: int) -> None:
    MessageQueue.attach(name, rank=rank, timeout=60).stats()
    reader = MessageQueue.attach(name, rank=rank, timeout=60)
    link.send("attached")
    link.send(reader.dequeue(60))
    link.recv()


def test_a_restarted_reader_takes_the_rank_of_a_killed_one(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=2) as writer:
        for n in range(12):  # more often than there are spare seats
            reader = start(_attach_and_wait, writer.name, 0)
            assert reader.receive() == "attached"
            writer.enqueue(n, timeout=60)
            assert reader.receive() == n
            reader.kill()
            assert writer.evict(0) is True


def test_a_restarted_reader_stands_in_for_the_dead_one_so_that_the_writer_goes_on(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=2) as writer:
        first = start(_attach_and_wait, writer.name, 0)
        assert first.receive() == "attached"
        first.kill()
        assert writer.name is not None
        with MessageQueue.attach(writer.name, rank=0) as second:
            for n in range(6):
                writer.enqueue(n, timeout=10)
                assert second.dequeue(10) == n
            assert [(r["rank"], r["alive"]) for r in writer.stats()["readers"]] == [(0, True)]


def test_a_living_reader_that_is_evicted_is_told_and_can_attach_again() -> None:
    with MessageQueue(2, name=unique_name(), max_chunks=2) as writer:
        assert writer.name is not None
        slow, fast = MessageQueue.attach(writer.name), MessageQueue.attach(writer.name)
        for n in range(6):
            if not writer.try_enqueue(n):
                assert writer.evict(0) is True
                writer.enqueue(n, timeout=10)
            assert fast.dequeue(10) == n
        for call in (slow.dequeue, slow.try_dequeue, lambda: slow.dequeue_many(2), lambda: next(slow)):
            with pytest.raises(ReaderEvictedError, match="the writer evicted rank 0"):
                call()
        slow.close()
        with MessageQueue.attach(writer.name, rank=0) as again:
            writer.enqueue("again", timeout=10)
            assert again.dequeue(10) == "again"
        fast.close()


@pytest.mark.parametrize("call", ["dequeue", "wait_until_ready"])
def test_a_waiting_reader_that_is_evicted_wakes_up(call: str) -> None:
    with MessageQueue(2) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        waiting = Background(getattr(reader, call))
        eventually(lambda: parked(reader), "the reader's sleep")
        writer.evict(0)
        try:
            with pytest.raises(ReaderEvictedError):
                waiting.result(timeout=10)
        finally:
            reader.shutdown()
            eventually(lambda: not waiting.running, "the thread's end")
            reader.close()


def test_a_stopped_reader_is_alive_and_is_waited_for(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_chunks=1) as writer:
        reader = start(_read, writer.export_handle(), 0)
        assert reader.receive() == "attached"
        reader.signal(signal.SIGSTOP)
        writer.enqueue(1)
        with pytest.raises(QueueTimeoutError):
            writer.enqueue(2, timeout=0.2)
        assert writer.stats()["readers"][0]["alive"]
        reader.signal(signal.SIGCONT)
        assert reader.ask() == 1
        writer.enqueue(2, timeout=60)
        assert reader.ask() == 2


def _make_many(link: Link, stem: str) -> None:
    kept = [MessageQueue(2, name=f"{stem}-{n}") for n in range(5)]
    rings = [ShmRingBuffer(1, 1000, 4) for _ in range(3)]
    kept[0].enqueue(b"x" * 1_000_000)
    link.send([queue.segment for queue in kept] + [ring.name for ring in rings])
    link.recv()


def test_what_a_killed_process_left_is_seen_as_abandoned_and_goes_when_its_first_name_is_used_again(
    start: Callable[..., Child],
) -> None:
    stem = unique_name()
    child = start(_make_many, stem)
    names = child.receive()
    child.kill()
    listed = {info["segment"]: info for info in list_queues().queues}
    for name in names:
        assert (listed[name]["writer"]["pid"], listed[name]["writer"]["alive"]) == (child.pid, False)
    MessageQueue(1, name=f"{stem}-0").close(0)
    assert not any((SHM / name).exists() for name in names)
    for n in range(5):
        MessageQueue(1, name=f"{stem}-{n}").close(0)


def _send_before_all_are_there(link: Link) -> None:
    writer = MessageQueue(2)
    writer.enqueue("kept")
    link.send(writer.export_handle())
    link.recv()


def test_a_reader_that_waits_for_the_others_learns_of_the_writer_s_death_though_a_message_is_unread(
    start: Callable[..., Child],
) -> None:
    writer = start(_send_before_all_are_there)
    reader = MessageQueue.create_from_handle(writer.receive(), 0)
    waiting = Background(reader.wait_until_ready)
    eventually(lambda: parked(reader), "the reader's sleep")
    writer.kill()
    try:
        with pytest.raises(WriterDiedError):
            waiting.result(timeout=10)
        assert reader.dequeue(10) == "kept"
    finally:
        reader.close()
