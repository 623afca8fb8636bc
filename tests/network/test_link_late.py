"""Readers of other machines for whom the writer did not wait: they are told at their first receive, as local ones are.

A rank that is not local reads through the link on this machine, too: real link processes, one machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.errors import QueueClosedError, QueueTimeoutError, ReaderEvictedError, RingcastError
from ringcast.net.link import _ends
from tests.support import DEADLINE_S, Background, eventually

LINKS_STAY = True


@contextmanager
def impatient(n_reader: int, **options: Any) -> Iterator[MessageQueue]:
    """A queue whose writer has sent more than it keeps for who has not come."""
    queue: MessageQueue = MessageQueue(
        n_reader, 0, connect_ip="127.0.0.1", max_chunks=2, on_full="evict", full_deadline=0, **options
    )
    try:
        yield queue
    finally:
        with suppress(RingcastError):
            queue.close(linger=0)


def all_has_arrived(queue: MessageQueue) -> bool:
    """Also the news of it, until which a message has its place in the ring: a link that is late is evicted, too."""
    return all(link["under_way"] == 0 for link in queue.stats()["links"])


def test_handles_that_several_threads_ask_for_at_once_have_one_key() -> None:
    with closing(MessageQueue[Any](1, 0, connect_ip="127.0.0.1")) as queue:
        asking = [Background(queue.export_handle) for _ in range(4)]
        handles = [one.result() for one in asking]
        assert len(set(handles)) == 1
        with closing(MessageQueue[Any].create_from_handle(handles[0], 0)) as reader:
            queue.enqueue("read", timeout=DEADLINE_S)
            assert reader.dequeue(timeout=DEADLINE_S) == "read"


def test_a_queue_that_is_closed_while_its_first_handle_is_made_holds_no_link(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def export(*given: Any, **options: Any) -> _ends.Export:
        made.append(real_export(*given, **options))
        queue.close(0)
        return made[0]

    real_export = _ends.export
    monkeypatch.setattr(_ends, "export", export)
    queue: MessageQueue = MessageQueue(1, 0, connect_ip="127.0.0.1")
    with pytest.raises(QueueClosedError, match="a handle of it would lead nowhere"):
        queue.export_handle()
    assert made[0].place._core.closed


def test_a_subclass_s_handle_has_its_own_attributes_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Jobs(MessageQueue[Any]):
        def __init__(self) -> None:
            super().__init__(1, 0, connect_ip="127.0.0.1")
            self.kind = "jobs"

    with closing(Jobs()) as jobs:
        for _ in range(2):
            assert jobs.export_handle().attributes == (("kind", "jobs"),)
    assert not caplog.records


def is_told_and_reads_on(queue: MessageQueue, rank: int) -> None:
    with closing(MessageQueue.create_from_handle(queue.export_handle(), rank)) as late:
        eventually(lambda: any(row["rank"] == rank and row["state"] == "active" for row in queue.stats()["readers"]))
        queue.enqueue("after", timeout=DEADLINE_S)
        with pytest.raises(ReaderEvictedError, match=f"gave up waiting for rank {rank} before it attached") as told:
            late.dequeue(timeout=DEADLINE_S)
        assert told.value.rank == rank
        assert late.dequeue(timeout=DEADLINE_S) == "after"
        with pytest.raises(QueueTimeoutError):
            late.dequeue(timeout=0)


def test_a_machines_first_reader_that_comes_too_late_is_told() -> None:
    with impatient(1) as queue:
        queue.export_handle()
        for number in range(5):
            queue.enqueue(number, timeout=DEADLINE_S)
        is_told_and_reads_on(queue, 0)


def test_a_further_reader_that_comes_too_late_is_told_and_others_are_not() -> None:
    with impatient(2) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
        sent = 0
        while queue.stats()["expected_elsewhere"]:
            queue.enqueue(sent, timeout=DEADLINE_S)
            assert reader.dequeue(timeout=DEADLINE_S) == sent
            eventually(lambda: all_has_arrived(queue), "the link's word")
            sent += 1
        queue.enqueue(sent, timeout=DEADLINE_S)
        assert reader.dequeue(timeout=DEADLINE_S) == sent
        eventually(lambda: all_has_arrived(queue), "the link's word")
        is_told_and_reads_on(queue, 1)
        assert reader.dequeue(timeout=DEADLINE_S) == "after"


def test_who_comes_again_takes_nobody_s_promise_and_who_comes_late_behind_it_is_told() -> None:
    """The stream that begins for who comes again has nothing of what is kept for who has not come."""
    with closing(MessageQueue[Any](2, 0, connect_ip="127.0.0.1")) as queue:
        handle = queue.export_handle()
        with closing(MessageQueue[Any].create_from_handle(handle, 0)) as reader:
            queue.enqueue("kept", timeout=DEADLINE_S)
            assert reader.dequeue(timeout=DEADLINE_S) == "kept"
        eventually(lambda: not queue.stats()["links"], "the end of the stream")
        with closing(MessageQueue[Any].create_from_handle(handle, 0)) as again:
            assert queue.stats()["expected_elsewhere"] == 1
            queue.enqueue("next", timeout=DEADLINE_S)
            assert again.dequeue(timeout=DEADLINE_S) == "next"
            is_told_and_reads_on(queue, 1)
            assert again.dequeue(timeout=DEADLINE_S) == "after"
            assert queue.stats()["missed"] == {0: 0, 1: 2}


def test_who_has_left_is_no_reader_of_the_stream_that_has_the_same_seat_later() -> None:
    with closing(MessageQueue[Any](2, 0, connect_ip="127.0.0.1")) as queue:
        handle = queue.export_handle()
        for rank in (0, 1):
            MessageQueue.create_from_handle(handle, rank).close()
        eventually(lambda: not queue.stats()["links"], "the end of the streams")
        with closing(MessageQueue.create_from_handle(handle, 1)):
            assert [link["ranks"] for link in queue.stats()["links"]] == [[1]]


def test_a_reader_that_comes_in_time_or_again_is_told_nothing() -> None:
    with impatient(1) as queue:
        handle = queue.export_handle()
        queue.enqueue("kept", timeout=DEADLINE_S)
        with closing(MessageQueue.create_from_handle(handle, 0)) as reader:
            assert reader.dequeue(timeout=DEADLINE_S) == "kept"
        eventually(lambda: not queue.stats()["readers"], "that it has left")
        for number in range(5):
            queue.enqueue(number, timeout=DEADLINE_S)
        with closing(MessageQueue.create_from_handle(handle, 0)) as again:
            eventually(lambda: any(row["state"] == "active" for row in queue.stats()["readers"]))
            queue.enqueue("after", timeout=DEADLINE_S)
            assert again.dequeue(timeout=DEADLINE_S) == "after"
