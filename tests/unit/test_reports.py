"""What the log says, to which logger, with which fields: who is missing, who has lost what."""

from __future__ import annotations

import gc
import json
import logging
from contextlib import nullcontext
from typing import Any

import pytest

from ringcast import MessageQueue, _segment
from ringcast.errors import NotReadyError, QueueTimeoutError
from tests.support import broadcast, unique_name


def records(caplog: pytest.LogCaptureFixture, concern: str) -> list[logging.LogRecord]:
    """What one logger was told. Every record's facts can be written as JSON."""
    found = [record for record in caplog.records if record.name == f"ringcast.{concern}"]
    for record in found:
        json.dumps(facts(record))
    return found


def facts(record: logging.LogRecord) -> dict[str, Any]:
    told: dict[str, Any] = vars(record)["ringcast"]
    return told


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.05")


def test_a_long_wait_for_readers_says_which_ranks_are_missing(caplog: pytest.LogCaptureFixture) -> None:
    with MessageQueue(4, name=unique_name()) as queue:
        assert queue.name is not None
        with MessageQueue.attach(queue.name, rank=2), pytest.raises(NotReadyError) as told:
            queue.wait_until_ready(timeout=0.5)
        assert told.value.missing == (0, 1, 3)
        assert "ranks 0, 1, 3 have not attached" in str(told.value)
        record = records(caplog, "wait")[0]
        assert record.getMessage().endswith("for readers: ranks 0, 1, 3 have not attached")
        assert facts(record)["missing"] == [0, 1, 3]


def test_so_it_does_where_a_handle_has_promised_them_something(caplog: pytest.LogCaptureFixture) -> None:
    with MessageQueue(2) as queue:
        with MessageQueue.create_from_handle(queue.export_handle(), 1), pytest.raises(NotReadyError) as told:
            queue.wait_until_ready(timeout=0.5)
        assert told.value.missing == (0,)
        assert "for readers: rank 0 has not attached" in records(caplog, "wait")[0].getMessage()


def test_a_reader_that_waits_for_all_says_whom_the_writer_may_be_waiting_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MessageQueue(2, name=unique_name()) as queue:
        assert queue.name is not None
        with MessageQueue.attach(queue.name, rank=0) as reader, pytest.raises(NotReadyError) as told:
            reader.wait_until_ready(timeout=0.5)
        assert told.value.missing == (1,)
        record = records(caplog, "wait")[0]
        assert record.getMessage().endswith("; rank 1 has not attached")
        assert facts(record)["missing"] == [1]


def test_a_reader_that_waits_between_messages_speaks_of_the_writer_alone(caplog: pytest.LogCaptureFixture) -> None:
    with MessageQueue(2, name=unique_name()) as queue:
        assert queue.name is not None
        with MessageQueue.attach(queue.name, rank=0) as reader:
            queue.enqueue("one")
            reader.dequeue()
            with pytest.raises(QueueTimeoutError):
                reader.dequeue(timeout=0.5)
        record = records(caplog, "wait")[0]
        assert "has not attached" not in record.getMessage()
        assert "missing" not in facts(record)


def test_a_full_queue_says_who_is_in_the_way(caplog: pytest.LogCaptureFixture) -> None:
    with broadcast(2, max_chunks=1) as (writer, readers):
        writer.enqueue("one")
        readers[0].dequeue()
        with pytest.raises(QueueTimeoutError):
            writer.enqueue("two", timeout=0.5)
        record = records(caplog, "wait")[0]
        assert [reader["rank"] for reader in facts(record)["waiting_for"]] == [1]


def test_closing_says_who_has_lost_how_many() -> None:
    queue = MessageQueue(3, max_chunks=20)
    handle = queue.export_handle()
    there = MessageQueue.create_from_handle(handle, 1)
    for number in range(7):
        queue.enqueue(number)
    with pytest.raises(QueueTimeoutError, match=r"rank 0: 7 messages; rank 2: 7 messages") as told:
        queue.close(linger=0)
    assert "rank 1" not in str(told.value)
    there.close()


def test_what_is_lost_where_nothing_can_be_raised_is_logged_by_rank(caplog: pytest.LogCaptureFixture) -> None:
    def fail(queue: MessageQueue[int]) -> None:
        with queue:
            queue.enqueue(1)
            raise RuntimeError("left by an exception")

    queue: MessageQueue[int] = MessageQueue(2)
    there = MessageQueue.create_from_handle(queue.export_handle(), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ringcast._end.DEFAULT_LINGER_S", 0.05)
        with pytest.raises(RuntimeError):
            fail(queue)
    (record,) = records(caplog, "loss")
    assert (facts(record)["undelivered"], facts(record)["by_rank"], facts(record)["ranks"]) == (1, {1: 1}, [1])
    there.close()


def test_evictions_and_memory_have_loggers_of_their_own(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_segment, "memory_headroom", lambda: 1 << 20)
    with broadcast(2) as (writer, _):
        writer.evict(1)
        assert facts(records(caplog, "memory")[0])["headroom"] == 1 << 20
    with broadcast(1, max_chunks=1, on_full="evict", full_deadline=0.0) as (writer, _):
        writer.enqueue("one")
        writer.enqueue("two")
        (record,) = records(caplog, "evict")
        assert facts(record)["evicted"]["rank"] == 0


def test_who_listens_to_all_hears_all(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[logging.LogRecord] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record)

    listener = Listener()
    logging.getLogger("ringcast").addHandler(listener)
    try:
        with MessageQueue(1) as queue, pytest.raises(NotReadyError):
            queue.wait_until_ready(timeout=0.5)
    finally:
        logging.getLogger("ringcast").removeHandler(listener)
    assert {record.name for record in heard} == {"ringcast.wait"}


class _Interrupts:
    """The third of its kind that is rebuilt is interrupted."""

    rebuilt = 0

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__dict__.update(state)
        _Interrupts.rebuilt += 1
        if _Interrupts.rebuilt == 3:
            raise KeyboardInterrupt

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("end_of", ["close", "block", "collection"])
def test_what_an_interrupted_call_had_taken_is_not_lost_in_silence(
    caplog: pytest.LogCaptureFixture, end_of: str
) -> None:
    _Interrupts.rebuilt = 0
    with MessageQueue(2) as queue:
        handle = queue.export_handle()
        other = MessageQueue.create_from_handle(handle, 1)
        reader: Any = MessageQueue.create_from_handle(handle, 0)
        queue.enqueue(b"read")
        queue.enqueue_many(_Interrupts(n) for n in range(1, 6))
        assert reader.dequeue() == b"read"
        with pytest.raises(KeyboardInterrupt), reader if end_of == "block" else nullcontext():
            reader.dequeue_many(4)
        if end_of == "close":
            reader.close()
        reader = None
        gc.collect()
        (record,) = records(caplog, "loss")
        assert "4 messages, from number 1 on, reached nobody" in record.getMessage()
        lost = facts(record)["lost"]
        assert (lost["rank"], lost["first"], lost["count"], lost["cause"]) == (0, 1, 4, "interrupted")
        assert queue.stats()["missed"] == {0: 4 + (end_of != "block"), 1: 0}  # who has left did not read the last one
        if end_of == "block":  # it has failed: the rank's next reader goes on behind what was taken
            with MessageQueue.create_from_handle(handle, 0) as successor:
                assert [message.number for message in successor.dequeue_many(9)] == [5]
        other.close()
