"""What a handle promises: every message, to each rank, across deaths and restarts; what is said when it is not so."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import Handle, MessageQueue
from ringcast.errors import (
    NotReadyError,
    QueueTimeoutError,
    RankTakenError,
    ReaderDiedError,
    ReaderEvictedError,
    ReaderLeftError,
)
from tests.support import SHM, Background, Child, Link, broadcast, eventually, unique_name


def _read_on_demand(link: Link, handle: Handle, rank: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank)
    link.send(os.getpid())
    while link.recv() == "read":
        link.send(reader.dequeue(60))


def _attached(start: Callable[..., Child], handle: Handle, rank: int = 0) -> Child:
    child = start(_read_on_demand, handle, rank)
    assert child.receive() == child.pid
    return child


def _losses(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, str, int]]:
    facts = [vars(record)["ringcast"] for record in caplog.records]
    lost = [f["lost"] for f in facts if "lost" in f]
    return [(f["rank"], f["pid"], f["cause"], f["first"]) for f in lost]


NAMES = [pytest.param(False, id="unnamed"), pytest.param(True, id="named")]


def _name(named: bool) -> str | None:
    return unique_name() if named else None


@pytest.mark.parametrize("named", NAMES)
def test_a_handle_promises_every_message_however_late_the_reader_comes(named: bool) -> None:
    with MessageQueue(2, name=_name(named)) as writer:
        handle = writer.export_handle()
        writer.enqueue_many(range(5))
        for rank in (1, 0):
            with MessageQueue.create_from_handle(handle, rank) as reader:
                assert [reader.dequeue(10) for _ in range(5)] == list(range(5))


def test_a_named_queue_promises_from_its_first_handle_on() -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=4) as writer:
        writer.enqueue_many(["before"] * 10)
        handle = writer.export_handle()
        writer.enqueue("after")
        assert writer.export_handle() == handle
        with MessageQueue.create_from_handle(handle, 0) as reader:
            assert reader.dequeue(10) == "after"


@pytest.mark.parametrize("named", NAMES)
def test_closing_waits_for_promised_readers_and_says_if_they_never_came(named: bool) -> None:
    writer = MessageQueue(1, name=_name(named))
    writer.export_handle()
    writer.enqueue_many([1, 2, 3])
    with pytest.raises(QueueTimeoutError, match="3 messages did not reach"):
        writer.close(linger=0.05)


def test_a_rank_given_with_the_name_gets_what_was_promised_and_no_rank_begins_with_the_next_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MessageQueue(2, name=unique_name()) as writer:
        assert writer.name is not None
        writer.export_handle()
        writer.enqueue("kept")
        with MessageQueue.attach(writer.name, rank=1) as asked:
            assert asked.dequeue(10) == "kept"
        with MessageQueue.attach(writer.name) as visitor:  # rank 1 is promised nothing any more
            assert visitor.rank == 1
            with MessageQueue.attach(writer.name) as second:
                assert second.rank == 0
                assert "1 messages that a handle had promised to its rank are lost" in caplog.text
                writer.enqueue("next")
                assert second.dequeue(10) == visitor.dequeue(10) == "next"
                assert writer.stats()["missed"] == {0: 1, 1: 0}


@pytest.mark.parametrize("policy", ["raise", "evict"])
@pytest.mark.parametrize("named", NAMES)
def test_the_next_reader_of_a_killed_one_s_rank_goes_on_where_it_was(
    named: bool, policy: Any, start: Callable[..., Child]
) -> None:
    with MessageQueue(1, name=_name(named), max_chunks=8, on_reader_death=policy) as writer:
        handle = writer.export_handle()
        number = 0
        for _ in range(10):  # more often than there are seats
            child = _attached(start, handle)
            writer.enqueue_many([number, number + 1])
            assert child.ask("read") == number
            child.kill()
            number += 1
            writer.enqueue(number + 1)
            with MessageQueue.create_from_handle(handle, 0) as reader:
                assert reader.dequeue(10) == number
                assert reader.dequeue(10) == number + 1
            number += 2


def test_a_block_that_a_killed_reader_held_is_whole_for_the_next_one(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_bytes=4 << 20, max_chunk_bytes=1 << 20) as writer:
        handle = writer.export_handle()
        child = _attached(start, handle)
        writer.enqueue(np.full(1 << 20, 1, np.uint8))
        assert (child.ask("read") == 1).all()
        writer.enqueue(np.full(1 << 20, 2, np.uint8))
        child.kill()
        with MessageQueue.create_from_handle(handle, 0) as reader:
            kept = reader.dequeue(10)
            for n in range(3, 9):
                writer.enqueue(np.full(1 << 20, n, np.uint8), timeout=10)
                assert (reader.dequeue(10) == n).all()
            assert (kept == 2).all()


def test_once_the_writer_has_been_told_of_a_death_the_next_reader_begins_at_the_head(
    start: Callable[..., Child],
) -> None:
    with MessageQueue(1, max_chunks=2) as writer:
        handle = writer.export_handle()
        child = _attached(start, handle)
        child.kill()
        writer.enqueue_many([1, 2])
        for _ in range(2):
            with pytest.raises(ReaderDiedError) as caught:
                writer.enqueue(3)
            assert (caught.value.rank, caught.value.pid) == (0, child.pid)
        with MessageQueue.create_from_handle(handle, 0) as reader:
            writer.enqueue("new")
            assert reader.dequeue(10) == "new"
            assert writer.stats()["missed"] == {0: 2}


def test_a_reader_killed_while_it_attached_has_lost_nothing_of_the_promise(start: Callable[..., Child]) -> None:
    with MessageQueue(1, max_chunks=8) as writer:
        handle = writer.export_handle()
        for n in range(6):
            writer.enqueue(n)
            _attached(start, handle).kill()
        with MessageQueue.create_from_handle(handle, 0) as reader:
            assert [reader.dequeue(10) for _ in range(6)] == list(range(6))


@pytest.mark.parametrize("end", ["close", "shutdown", "with", "collected"])
@pytest.mark.parametrize("named", NAMES)
def test_a_reader_that_leaves_in_order_is_not_waited_for_but_counted_and_told_of_once(
    named: bool, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    with MessageQueue(1, name=_name(named), max_chunks=2) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        writer.enqueue_many([0, 1])
        assert reader.dequeue(10) == 0
        if end == "with":
            with reader:
                pass
        elif end != "collected":
            getattr(reader, end)()
        del reader
        assert _losses(caplog) == []
        for n in range(2, 12):
            writer.enqueue(n, timeout=10)
        assert _losses(caplog) == [(0, os.getpid(), "left", 1)]
        assert writer.stats()["missed"] == {0: 11}
        with pytest.raises(NotReadyError) as caught:
            writer.wait_until_ready(0)
        assert caught.value.missing == (0,)
        with MessageQueue.create_from_handle(writer.export_handle(), 0) as again:
            writer.wait_until_ready(10)
            writer.enqueue("head")
            assert again.dequeue(10) == "head"
            assert writer.stats()["missed"] == {0: 11}
        writer.enqueue("nobody")
        assert _losses(caplog)[1:] == [(0, os.getpid(), "left", 13)]


def test_who_comes_before_anything_is_sent_misses_nothing_and_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MessageQueue(1) as writer:
        handle = writer.export_handle()
        for n in range(4):
            with MessageQueue.create_from_handle(handle, 0) as reader:
                writer.enqueue(n)
                assert reader.dequeue(10) == n
        assert writer.stats()["missed"] == {0: 0}
    assert caplog.records == []


def test_messages_that_a_leaving_reader_had_not_read_are_told_of_though_somebody_has_its_rank_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MessageQueue(1) as writer:
        handle = writer.export_handle()
        reader = MessageQueue.create_from_handle(handle, 0)
        writer.enqueue_many([0, 1, 2])
        reader.close()
        with MessageQueue.create_from_handle(handle, 0) as again:
            writer.enqueue(3)
            assert again.dequeue(10) == 3
        assert _losses(caplog) == [(0, os.getpid(), "left", 0)]
        assert "3 messages before 3 were lost" in caplog.text


def test_a_reader_that_left_messages_unread_is_told_of_when_the_writer_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = MessageQueue(1)
    reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
    writer.enqueue_many([0, 1])
    reader.close()
    writer.close()
    assert _losses(caplog) == [(0, os.getpid(), "left", 0)]
    assert "2 messages, from number 0 on, did not reach it" in caplog.text


def test_a_reader_that_died_with_messages_unread_is_told_of_when_the_writer_closes(
    start: Callable[..., Child], caplog: pytest.LogCaptureFixture
) -> None:
    with MessageQueue(1) as writer:
        child = _attached(start, writer.export_handle())
        writer.enqueue(0)
        child.kill()
    assert _losses(caplog) == [(0, child.pid, "died", 0)]


@pytest.mark.parametrize("call", ["enqueue", "try_enqueue", "enqueue_many", "loan", "acquire_write"])
def test_the_next_send_raises_if_a_departure_is_to_be_an_error(call: str) -> None:
    with MessageQueue(1, on_reader_leave="raise") as writer:
        handle = writer.export_handle()
        MessageQueue.create_from_handle(handle, 0).close()

        def send() -> None:
            if call == "enqueue_many":
                writer.enqueue_many([b"1", b"2"])
            elif call == "loan":
                with writer.loan(10):
                    pass
            elif call == "acquire_write":
                with writer.acquire_write(nbytes=10):
                    pass
            else:
                getattr(writer, call)(1)

        with pytest.raises(ReaderLeftError, match="has left, and has not read message 0 and what follows") as caught:
            send()
        assert (caught.value.rank, caught.value.pid) == (0, os.getpid())
        assert writer.stats()["messages"] == 0
        send()
        assert writer.stats()["missed"] == {0: writer.stats()["messages"]}


def test_readers_of_a_name_may_come_and_go_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with MessageQueue(1, name=unique_name(), on_reader_leave="raise") as writer:
        assert writer.name is not None
        for _ in range(3):
            MessageQueue.attach(writer.name).close()
            writer.enqueue(1)
        assert writer.stats()["missed"] == {}
    assert caplog.records == []


def _fail_at_the_first(handle: Handle, error: BaseException) -> None:
    for _ in MessageQueue.create_from_handle(handle, 0):
        raise error


def test_a_reader_that_an_exception_ends_counts_as_dead_and_its_rank_goes_on_where_it_was() -> None:
    with MessageQueue(1, max_chunks=4) as writer:
        handle = writer.export_handle()
        writer.enqueue_many([0, 1])
        with pytest.raises(ValueError, match="a bad message"):
            _fail_at_the_first(handle, ValueError("a bad message"))
        assert [r["state"] for r in writer.stats()["readers"]] == ["failed"]
        with MessageQueue.create_from_handle(handle, 0) as reader:
            assert reader.dequeue(10) == 1
            reader._abandon()
        writer.enqueue_many([2, 3, 4, 5])
        with pytest.raises(ReaderDiedError, match="was ended by an exception"):
            writer.enqueue(6, timeout=10)


def test_a_sys_exit_without_an_error_leaves_in_order() -> None:
    for code, state in ((0, []), (None, []), (1, ["failed"]), ("text", ["failed"])):
        with MessageQueue(1) as writer:
            writer.enqueue(0)
            with pytest.raises(SystemExit):
                _fail_at_the_first(writer.export_handle(), SystemExit(code))
            assert [r["state"] for r in writer.stats()["readers"]] == state


def test_views_of_a_reader_that_an_exception_ended_stay_whole_and_its_rank_waits_for_them() -> None:
    with MessageQueue(1, max_bytes=4 << 20, max_chunk_bytes=1 << 20) as writer:
        handle = writer.export_handle()
        reader = MessageQueue.create_from_handle(handle, 0)
        writer.enqueue_many([np.full(1 << 20, n, np.uint8) for n in range(2)])
        kept = reader.dequeue(10)
        reader._abandon()
        with pytest.raises(RankTakenError, match="still has views"):
            MessageQueue.create_from_handle(handle, 0)
        assert (kept == 0).all()
        del kept
        with MessageQueue.create_from_handle(handle, 0) as again:
            assert (again.dequeue(10) == 1).all()


@pytest.mark.parametrize("call", ["dequeue", "try_dequeue", "__next__"])
def test_who_is_evicted_while_absent_is_told_once_and_then_reads_on(
    call: str, caplog: pytest.LogCaptureFixture
) -> None:
    with MessageQueue(2) as writer:
        handle = writer.export_handle()
        writer.enqueue("lost")
        assert writer.evict(1) is True
        assert writer.evict(1) is False
        with MessageQueue.create_from_handle(handle, 1) as reader:
            with pytest.raises(ReaderEvictedError, match="before it attached"):
                getattr(reader, call)()
            writer.enqueue("new")
            assert reader.dequeue(10) == "new"
        with MessageQueue.create_from_handle(handle, 1) as reader:
            writer.enqueue("newer")
            assert reader.dequeue(10) == "newer"
        assert writer.stats()["missed"] == {0: 0, 1: 1}
        assert _losses(caplog) == []
        writer.evict(0)


def test_an_eviction_frees_the_block_that_the_evicted_reader_had_not_begun_to_read() -> None:
    options: Any = {"max_bytes": 64 << 20, "max_chunk_bytes": 1 << 20}
    large = b"x" * (40 << 20)
    with broadcast(1, on_full="evict", full_deadline=0, **options) as (writer, (reader,)):
        writer.enqueue(large)
        writer.enqueue(large, timeout=10)
        with pytest.raises(ReaderEvictedError):
            reader.dequeue()
    with broadcast(1, **options) as (writer, (_,)):
        writer.enqueue(large)
        assert writer.evict(0) is True
        writer.enqueue(large, timeout=10)


def test_a_block_that_an_evicted_reader_has_open_stays_its() -> None:
    options: Any = {"max_bytes": 64 << 20, "max_chunk_bytes": 1 << 20}
    with broadcast(1, **options) as (writer, (reader,)):
        writer.enqueue(b"x" * (40 << 20))
        with reader.acquire_read() as view:
            assert writer.evict(0) is True
            with pytest.raises(QueueTimeoutError, match=rf"pid {os.getpid()}.* holds views of 1 messages"):
                writer.enqueue(b"y" * (40 << 20), timeout=0.2)
            assert view[0] == view[-1] == ord("x")
            view.release()
        with pytest.raises(ReaderEvictedError):
            reader.dequeue()
        writer.enqueue(b"y" * (40 << 20), timeout=10)


def test_a_message_that_waits_for_a_block_names_the_reader_that_has_not_read() -> None:
    with broadcast(2, max_bytes=64 << 20, max_chunk_bytes=1 << 20) as (writer, (fast, _)):
        writer.enqueue(b"x" * (40 << 20))
        fast.dequeue()
        with pytest.raises(
            QueueTimeoutError, match=rf"the reader of rank 1 \(pid {os.getpid()}.* is the furthest behind"
        ):
            writer.enqueue(b"y" * (40 << 20), timeout=0.1)


def _keep_the_name(link: Link) -> None:
    writer = MessageQueue(1)
    link.send(writer.export_handle())
    writer.wait_until_ready(60)
    link.send("ready")
    link.recv()


def test_everybody_s_death_leaves_a_name_that_the_next_queue_removes(start: Callable[..., Child]) -> None:
    writer = start(_keep_the_name)
    handle = writer.receive()
    reader = _attached(start, handle)
    assert writer.receive() == "ready"
    writer.kill()
    reader.kill()
    MessageQueue(1).close(0)
    assert not (SHM / handle.segment).exists()


def test_a_restarted_reader_is_let_in_after_all_had_been_there(start: Callable[..., Child]) -> None:
    with MessageQueue(2) as writer:
        handle = writer.export_handle()
        children = [_attached(start, handle, rank) for rank in (0, 1)]
        writer.wait_until_ready(60)
        children[0].kill()
        children[1].send("end")
        children[1].join()
        eventually(lambda: not any(r["alive"] for r in writer.stats()["readers"]), "the end of both")
        writer.enqueue("for both")
        again = [_attached(start, handle, rank) for rank in (0, 1)]
        assert again[0].ask("read") == "for both"
        writer.enqueue("next")
        assert again[0].ask("read") == again[1].ask("read") == "next"


def _attach_late(link: Link, name: str) -> None:
    link.recv()
    with MessageQueue.attach(name, rank=0, timeout=60) as reader:
        link.send(list(reader))


def test_a_closing_writer_that_waits_for_a_promised_rank_lets_it_in_by_name_too(start: Callable[..., Child]) -> None:
    writer = MessageQueue(1, name=unique_name())
    writer.export_handle()
    writer.enqueue("kept")
    child = start(_attach_late, writer.name)
    closing = Background(writer.close, 60)
    eventually(lambda: writer.closed, "the close")
    child.send("attach")
    assert child.receive() == ["kept"]
    closing.result()
