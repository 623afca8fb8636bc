"""Readers that come late, leave and come back; and more than one queue at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ringcast import Handle, MessageQueue
from ringcast.errors import QueueTimeoutError, SegmentNotFoundError
from tests.support import Child, Link, eventually, unique_name


def _collect(link: Link, handle: Handle, rank: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    link.send(list(reader))


def test_a_reader_that_attaches_late_by_handle_misses_nothing(start: Callable[..., Child]) -> None:
    with MessageQueue(2, max_chunks=8) as writer:
        handle = writer.export_handle()
        early = start(_collect, handle, 0)
        writer.enqueue_many(range(8), timeout=60)

        def has_read_all() -> bool:
            first = writer.stats()["readers"][0]
            return (first["state"], first["behind"]) == ("active", 0)

        eventually(has_read_all, "the first reader")
        with pytest.raises(QueueTimeoutError, match="rank 1"):
            writer.enqueue("too many", timeout=0.2)
        late = start(_collect, handle, 1)
        writer.enqueue("end", timeout=60)
        writer.close(linger=60)
        assert late.receive()[:8] == list(range(8))
        assert early.receive()[-1] == "end"


def _read_some(link: Link, name: str, count: int) -> None:
    with MessageQueue.attach(name, timeout=60) as reader:
        link.send("attached")
        link.send([reader.dequeue(60) for _ in range(count)])
        link.recv()


def test_a_reader_that_leaves_and_comes_back_by_name_goes_on_from_the_newest(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=4) as writer:
        for round_ in range(3):
            reader = start(_read_some, writer.name, 3)
            assert reader.receive() == "attached"
            writer.enqueue_many([(round_, n) for n in range(3)], timeout=60)
            assert reader.receive() == [(round_, n) for n in range(3)]
            reader.send("leave")
            assert reader.join() == 0
            for _ in range(10):
                writer.enqueue("nobody is here", timeout=60)
        assert [r for r in writer.stats()["readers"] if r["state"] != "vacant"] == []


def test_readers_that_come_and_go_under_load_see_a_gapless_piece_of_the_stream(start: Callable[..., Child]) -> None:
    with MessageQueue(3, name=unique_name(), max_chunks=4) as writer:
        readers: list[Child | None] = [start(_read_some, writer.name, 200) for _ in range(3)]
        pieces: list[list[int]] = []
        number = 0
        arrived = 0
        while len(pieces) < 9:
            # Tried, not waited for: a reader that has its piece holds the writer back until it is told to leave.
            number += writer.try_enqueue(number if number % 7 else number.to_bytes(4, "little") + b"x" * 3000)
            for place, reader in enumerate(readers):
                if reader is None or not reader.link.poll(0):
                    continue
                message = reader.receive()
                if message == "attached":
                    continue
                pieces.append([m if isinstance(m, int) else int.from_bytes(m[:4], "little") for m in message])
                reader.send("leave")
                arrived += 1
                readers[place] = start(_read_some, writer.name, 200) if arrived <= 6 else None
        for piece in pieces:
            assert piece == list(range(piece[0], piece[0] + 200))


def test_two_named_queues_do_not_mix(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name("a")) as a, MessageQueue(1, name=unique_name("b")) as b:
        readers = [start(_read_some, queue.name, 100) for queue in (a, b)]
        for queue in (a, b):
            queue.wait_until_ready(60)
        for n in range(100):
            a.enqueue(("a", n), timeout=60)
            b.enqueue(("b", n), timeout=60)
        for letter, reader in zip("ab", readers, strict=True):
            assert reader.receive() == "attached"
            assert reader.receive() == [(letter, n) for n in range(100)]
            reader.send("leave")
            reader.join()


def _answer(link: Link, requests: Handle, name: str) -> None:
    answers = MessageQueue(1, name=name)
    reader = MessageQueue.create_from_handle(requests, 0)
    answers.wait_until_ready(60)
    for request in reader:
        answers.enqueue(request * 2)
    answers.close()


def test_queues_in_both_directions_pass_questions_and_answers(start: Callable[..., Child]) -> None:
    name = unique_name()
    with MessageQueue(1) as requests:
        worker = start(_answer, requests.export_handle(), name)
        answers = MessageQueue.attach(name, timeout=60)
        answers.wait_until_ready(60)
        for n in range(300):
            requests.enqueue(n)
            assert answers.dequeue(60) == 2 * n
        requests.close()
        assert worker.join() == 0
        answers.close()


def _attach_by_handle(link: Link, handle: Handle) -> None:
    try:
        MessageQueue.create_from_handle(handle, 0)
    except SegmentNotFoundError as error:
        link.send(str(error))


def test_a_handle_of_another_epoch_is_refused_in_another_process_too(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        handle = writer.export_handle()._replace(epoch=12345)
        assert "another queue has its name now" in start(_attach_by_handle, handle).receive()


def _all_at_once(link: Link, handle: Handle, rank: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    reader.wait_until_ready(60)
    link.send(list(reader))


def test_many_readers_that_attach_at_once_are_all_ready_together(start: Callable[..., Child]) -> None:
    with MessageQueue(6) as writer:
        readers = [start(_all_at_once, writer.export_handle(), rank) for rank in range(6)]
        writer.wait_until_ready(60)
        writer.enqueue_many(range(100))
        writer.close()
        for reader in readers:
            assert reader.receive() == list(range(100))
