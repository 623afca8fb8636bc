"""The life of a queue in one process: ready, sizes, statistics, repr, the end of iteration, closing."""

from __future__ import annotations

import copy
import os
import pickle

import pytest

from ringcast import Handle, MessageQueue
from ringcast.errors import (
    NotReadyError,
    QueueClosedError,
    QueueTimeoutError,
)
from tests.support import SHM, Background, broadcast, eventually, parked, unique_name


def test_a_message_reaches_every_reader_once_and_in_order() -> None:
    with broadcast(3) as (writer, readers):
        for n in range(8):
            writer.enqueue(n)
        for reader in readers:
            assert [reader.dequeue(10) for _ in range(8)] == list(range(8))
            assert reader.try_dequeue() is None


def test_the_writer_waits_for_the_slowest_reader() -> None:
    with broadcast(2, max_chunks=3) as (writer, (fast, slow)):
        for n in range(3):
            assert writer.try_enqueue(n)
            fast.dequeue(10)
        assert not writer.try_enqueue(3)
        assert slow.dequeue(10) == 0
        assert writer.try_enqueue(3)


def test_a_queue_of_one_chunk_passes_one_message_at_a_time() -> None:
    with broadcast(max_chunks=1) as (writer, (reader,)):
        for n in range(50):
            writer.enqueue(n, timeout=10)
            assert not writer.try_enqueue("no room")
            assert reader.dequeue(10) == n


def test_qsize_counts_what_this_reader_or_the_slowest_has_not_read() -> None:
    with broadcast(2) as (writer, (first, second)):
        writer.enqueue_many([1, 2, 3])
        first.dequeue_many(2)
        assert (writer.qsize(), first.qsize(), second.qsize()) == (3, 1, 3)
        second.dequeue_many(3)
        assert (writer.qsize(), first.qsize(), second.qsize()) == (1, 1, 0)


def test_iteration_ends_when_the_writer_closes_and_everything_is_read() -> None:
    with broadcast() as (writer, (reader,)):
        writer.enqueue_many(["a", "b", "c"])
        writer.close()
        assert list(reader) == ["a", "b", "c"]
        assert list(reader) == []
        with pytest.raises(QueueClosedError, match="every message has been read"):
            reader.dequeue()


def test_iteration_that_waits_ends_when_the_writer_closes() -> None:
    with broadcast() as (writer, (reader,)):
        collecting = Background(list, reader)
        writer.enqueue("x")
        eventually(lambda: reader.qsize() == 0 and parked(reader), "the reader's sleep")
        writer.close()
        assert collecting.result() == ["x"]


def test_wait_until_ready_returns_on_every_side_once_all_are_there() -> None:
    with MessageQueue(2) as writer:
        handle = writer.export_handle()
        waiting = Background(writer.wait_until_ready, 60)
        first = MessageQueue.create_from_handle(handle, 0)
        first_waiting = Background(first.wait_until_ready, 60)
        eventually(lambda: parked(first) and parked(writer), "both to sleep")
        assert waiting.running
        assert first_waiting.running
        second = MessageQueue.create_from_handle(handle, 1)
        second.wait_until_ready(60)
        waiting.result()
        first_waiting.result()
        first.close()
        second.close()


def test_wait_until_ready_that_times_out_names_the_missing_ranks() -> None:
    with MessageQueue(3, local_reader_ranks=[4, 5, 6]) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 5)
        for end in (writer, reader):
            with pytest.raises(NotReadyError, match="ranks 4, 6 have not attached") as caught:
                end.wait_until_ready(timeout=0.01)
            assert caught.value.missing == (4, 6)
        reader.close()
        writer.close(0)


def test_wait_until_ready_ends_on_a_reader_when_the_writer_closes_before_all_are_there() -> None:
    with MessageQueue(2) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        waiting = Background(reader.wait_until_ready, 60)
        eventually(lambda: parked(reader), "the reader's sleep")
        writer.close(0)
        try:
            with pytest.raises(QueueClosedError, match="the writer has closed the queue"):
                waiting.result()
        finally:
            reader.shutdown()
            eventually(lambda: not waiting.running, "the thread's end")
            reader.close()


def test_an_unnamed_queue_keeps_its_name_until_its_writer_closes_so_that_readers_can_come_back() -> None:
    with broadcast() as (writer, (reader,)):
        writer.wait_until_ready(10)
        assert (SHM / writer.segment).exists()
        reader.close()
        with MessageQueue.create_from_handle(writer.export_handle(), 0) as again:
            writer.enqueue(b"x" * 100_000)
            assert len(again.dequeue(10)) == 100_000
        writer.close()
        assert not (SHM / writer.segment).exists()


def test_a_named_queue_keeps_its_name_until_its_writer_closes() -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        assert writer.name is not None
        reader = MessageQueue.attach(writer.name)
        writer.wait_until_ready(10)
        assert (SHM / writer.segment).exists()
        writer.enqueue("last")
        writer.close()
        assert not (SHM / writer.segment).exists()
        assert reader.dequeue(10) == "last"
        reader.close()


def test_closing_lingers_for_readers_that_were_promised_and_have_not_come() -> None:
    writer = MessageQueue(1)
    handle = writer.export_handle()
    writer.enqueue("for you")
    closing = Background(writer.close, None)
    eventually(lambda: writer.closed, "the shutdown")
    assert closing.running
    reader = MessageQueue.create_from_handle(handle, 0)
    closing.result()
    assert list(reader) == ["for you"]
    reader.close()


def test_closing_says_if_promised_readers_never_came() -> None:
    writer = MessageQueue(1)
    writer.enqueue_many([1, 2])
    with pytest.raises(QueueTimeoutError, match="2 messages did not reach readers"):
        writer.close(linger=0.01)
    assert not (SHM / writer.segment).exists()
    writer.close()


def test_closing_does_not_wait_where_there_is_nothing_to_deliver() -> None:
    MessageQueue(3).close(linger=None)
    with MessageQueue(1, name=unique_name()) as named:
        named.enqueue("a name promises nothing to those who are not there")
        named.close(linger=None)


def test_a_reader_s_place_is_free_again_after_it_closes() -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=2) as writer:
        assert writer.name is not None
        for round_ in range(20):
            with MessageQueue.attach(writer.name) as reader:
                writer.enqueue(round_)
                assert reader.dequeue(10) == round_
        writer.enqueue_many(range(10), timeout=10)  # nobody is waited for


def test_every_call_on_a_closed_end_says_that_it_is_closed() -> None:
    with broadcast() as (writer, (reader,)):
        writer.close()
        reader.close()
        for call in (reader.dequeue, reader.try_dequeue, reader.qsize, writer.qsize, writer.stats, reader.stats):
            with pytest.raises(QueueClosedError):
                call()
        for refused in (writer.enqueue, writer.try_enqueue, writer.evict):
            with pytest.raises(QueueClosedError, match="shut down"):
                refused(1)
        for ready in (writer.wait_until_ready, reader.wait_until_ready):
            with pytest.raises(QueueClosedError):
                ready()
        with pytest.raises(QueueClosedError):
            next(reader)
        for end in (writer, reader):
            end.close()
            end.shutdown()
            assert end.closed


def test_statistics_count_what_happened() -> None:
    with broadcast(2, max_chunks=7, max_chunk_bytes=50_000) as (writer, (first, second)):
        writer.enqueue(b"x" * 100)
        writer.enqueue(b"x" * 2000)
        first.dequeue(10)
        stats = writer.stats()
        assert stats["role"] == "writer"
        assert (stats["rank"], stats["name"], stats["segment"]) == (None, None, writer.segment)
        assert (stats["pid"], stats["epoch"]) == (os.getpid(), writer.export_handle().epoch)
        assert (stats["depth"], stats["max_chunk_bytes"]) == (7, 50_000)
        assert (stats["messages"], stats["bytes"], stats["queued"]) == (2, 2100, 2)
        assert (stats["rescued_wakes"], stats["long_waits"], stats["closed"]) == (0, 0, False)
        assert stats["writer"] == {
            "pid": os.getpid(), "alive": True, "process": "running", "host": None, "waits": stats["waits"],
            "relayed_by": None,
        }  # fmt: skip
        assert stats["waiting_s"] == 0
        assert stats["memory"]["data_committed"] >= 2000
        assert stats["memory"]["data_budget"] >= 50_000
        assert stats["memory"]["control"] > 0
        same = {"host": None, "pid": os.getpid(), "state": "active", "alive": True, "process": "running"}
        same |= {"leased_blocks": 0, "leased_bytes": 0}
        assert stats["readers"] == [
            {"rank": 0, "seat": 0, "behind": 1, "waits": first.stats()["waits"], **same},
            {"rank": 1, "seat": 1, "behind": 2, "waits": second.stats()["waits"], **same},
        ]
        assert (stats["memory"]["blocks"], stats["oversize"]) == (1, 0)
        mine = first.stats()
        assert (mine["role"], mine["rank"]) == ("reader", 0)
        assert (mine["messages"], mine["bytes"], mine["queued"]) == (1, 100, 1)
        assert [r["alive"] for r in mine["readers"]] == [True, True]
        assert set(mine) == set(stats)


def test_statistics_show_promised_readers_that_have_not_come() -> None:
    with MessageQueue(1) as writer:
        (reader,) = writer.stats()["readers"]
        assert (reader["state"], reader["alive"], reader["rank"]) == ("expected", False, 0)


def test_repr_tells_the_role_the_name_and_the_state() -> None:
    name = unique_name()
    pid = os.getpid()
    with MessageQueue(1, name=name) as writer, MessageQueue.attach(name) as reader:
        where = f"segment={writer.segment!r}"
        assert repr(writer) == f"<MessageQueue: queue {name!r} (writer, pid {pid}), {where}, open>"
        assert repr(reader) == f"<MessageQueue: queue {name!r} (reader, rank 0, pid {pid}), {where}, open>"
        reader.shutdown()
        assert repr(reader).endswith(" shut down>")
        for end in (reader, writer):
            end.close()
            assert repr(end).endswith(" closed>")
    with MessageQueue(1) as unnamed:
        assert repr(unnamed) == f"<MessageQueue: queue segment {unnamed.segment!r} (writer, pid {pid}), open>"
    assert repr(MessageQueue.__new__(MessageQueue)) == "<MessageQueue not initialised>"


def test_a_handle_survives_pickling_and_tells_the_ring() -> None:
    with MessageQueue(2, local_reader_ranks=[1, 3], max_chunk_bytes=999, max_chunks=8) as writer:
        handle = writer.export_handle()
        assert pickle.loads(pickle.dumps(handle)) == handle
        assert isinstance(handle, Handle)
        assert handle.ring == (2, 999, 8, writer.segment)
        assert (handle.remote_address, handle.remote_address_is_ipv6) == (None, False)


def test_an_end_cannot_be_pickled_or_copied() -> None:
    with broadcast() as (writer, (reader,)):
        for end in (writer, reader):
            with pytest.raises(TypeError, match="send its export_handle"):
                pickle.dumps(end)
            with pytest.raises(TypeError):
                copy.copy(end)


def test_leaving_the_block_with_an_exception_closes_at_once_and_lets_the_exception_through() -> None:
    writer = MessageQueue(1)
    writer.enqueue("nobody has come for this")
    with pytest.raises(LookupError), writer:
        raise LookupError
    assert writer.closed
    assert not (SHM / writer.segment).exists()


def test_evicting_a_rank_that_nobody_has_changes_nothing() -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        assert writer.evict(0) is False
        assert writer.evict(9) is False


def test_giving_up_a_promised_reader_lets_the_writer_go_on() -> None:
    with MessageQueue(2, max_chunks=2) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        writer.enqueue_many([1, 2])
        assert reader.dequeue_many(2) == [1, 2]
        assert not writer.try_enqueue(3)
        assert writer.evict(1) is True
        assert writer.try_enqueue(3)
        assert reader.dequeue(10) == 3
        reader.close()
