"""Who is killed, stuck, evicted or leaves, on whatever machine: who is told what, by when, and who is not disturbed."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ringcast import MessageQueue
from ringcast.net.link import _ends
from tests.network import linked
from tests.network.linked import MIB, SLACK_S, TOLD_WITHIN_S, Failure, Reader, Writer, as_json, message
from tests.network.machines import Machine, visited
from tests.support import DEADLINE_S, Link, eventually

pytestmark = pytest.mark.usefixtures("machine_server")


@contextmanager
def _queue(**options: Any) -> Iterator[tuple[Machine, Machine, Writer, list[Reader]]]:
    """A writer on a, a reader there, of rank 0, and two on b."""
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=3, n_local_reader=1, **options)
        readers = [*writer.readers(a, 0), *writer.readers(b, 1, 2)]
        writer.does("send", 0, 3)
        for reader in readers:
            assert reader.does("take", 0, 3) == 3
        yield a, b, writer, readers


def _kill(machine: Machine, pid: int) -> float:
    machine.signal(pid, signal.SIGKILL)
    return time.monotonic()


def _in_time(failure: Failure, killed: float) -> None:
    assert failure.at - killed < TOLD_WITHIN_S + SLACK_S, failure


def _says_who(failure: Failure, kind: str, a: Machine, writer: Writer) -> None:
    """That the writer, or the link to it, has died, and which one."""
    assert failure.kind == kind, failure.text
    assert a.host in failure.text
    assert re.search(rf"\b{writer.pid}\b", failure.text), failure.text


def test_a_remote_reader_that_is_killed_is_named_to_the_writer() -> None:
    with _queue(max_chunks=4) as (_, b, writer, readers):
        healthy = [readers[0], readers[1]]
        for reader in healthy:
            reader.tell("take_to_end", 3)
        killed = _kill(b, readers[2].pid)
        sent, failure = writer.does("send_until_it_fails", 3)
        assert (failure.kind, failure.rank) == ("ReaderDiedError", 2)
        assert b.host in failure.text
        assert re.search(rf"\b{readers[2].pid}\b", failure.text), failure.text
        _in_time(failure, killed)
        writer.does("close")
        for reader in healthy:
            count, end = reader.outcome()
            assert (count, end.kind) == (sent, "QueueClosedError")


def test_where_the_dead_are_evicted_the_others_go_on() -> None:
    with _queue(max_chunks=4, on_reader_death="evict") as (_, b, writer, readers):
        _kill(b, readers[1].pid)
        for reader in (readers[0], readers[2]):
            reader.tell("take", 3, 100)
        assert writer.does("send", 3, 100) == 100
        assert [reader.outcome() for reader in (readers[0], readers[2])] == [100, 100]
        again = writer.reader(b, 1, timeout=DEADLINE_S)
        writer.does("wait_until_ready", DEADLINE_S)
        for reader in (readers[0], again, readers[2]):
            reader.tell("take", 103, 10)
        assert writer.does("send", 103, 10) == 10
        assert [reader.outcome() for reader in (readers[0], again, readers[2])] == [10, 10, 10]
        writer.does("close")


def test_all_remote_readers_killed_at_once_are_evicted_and_the_local_one_goes_on() -> None:
    with _queue(max_chunks=4, on_reader_death="evict") as (_, b, writer, readers):
        for reader in readers[1:]:
            _kill(b, reader.pid)
        readers[0].tell("take", 3, 100)
        assert writer.does("send", 3, 100) == 100
        assert readers[0].outcome() == 100
        writer.does("close")


@pytest.mark.parametrize("whose", ["the writer's", "the readers'"])
def test_a_link_that_is_killed_is_told_to_both_sides_and_a_local_reader_is_not_disturbed(whose: str) -> None:
    with _queue(max_chunks=4) as (a, b, writer, readers):
        machine = a if whose == "the writer's" else b
        (link,) = writer.links(machine)
        readers[0].tell("take_to_end", 3)
        for reader in readers[1:]:
            reader.tell("died")
        killed = _kill(machine, link)
        for reader in readers[1:]:
            failure = reader.outcome()
            _says_who(failure, "LinkDiedError", a, writer)
            _in_time(failure, killed)
        sent, failure = writer.does("send_until_it_fails", 3)
        assert failure.kind == "ReaderDiedError"
        assert failure.rank in (1, 2)
        _in_time(failure, killed)
        for rank in (1, 2):
            writer.does("evict", rank)
        writer.does("send", 3 + sent, 20)
        writer.does("close")
        count, end = readers[0].outcome()
        assert (count, end.kind) == (sent + 20, "QueueClosedError")


@pytest.mark.parametrize("whose", ["the writer's", "the readers'"])
def test_a_killed_link_is_no_loss_of_what_had_come(whose: str) -> None:
    with _queue(max_chunks=8) as (a, b, writer, readers):
        writer.does("send", 3, 5)
        eventually(lambda: readers[1].does("qsize") == readers[2].does("qsize") == 5, "all is on the other machine")
        machine = a if whose == "the writer's" else b
        _kill(machine, writer.links(machine)[0])
        for reader in readers[1:]:
            count, failure = reader.does("take_to_end", 3)
            assert count == 5
            _says_who(failure, "LinkDiedError", a, writer)
        assert readers[0].does("take", 3, 5) == 5
        writer.gives_up()


@contextmanager
def _nobody_from_elsewhere(**options: Any) -> Iterator[tuple[Machine, Writer, Reader]]:
    """A writer that expects readers of other machines, of whom none has come, and a local one; it is full."""
    with visited(1) as (a,):
        writer = Writer(a, n_reader=3, n_local_reader=1, max_chunks=4, **options)
        reader = writer.reader(a, 0)
        writer.does("send", 0, 4)
        assert reader.does("take", 0, 4) == 4
        yield a, writer, reader


def _says_that_nobody_comes(failure: Failure, kind: str, a: Machine, writer: Writer, link: int) -> None:
    assert failure.kind == kind, failure.text
    for part in (a.host, f"job '{writer.handle.job}'", f"pid {link}", "make the queue anew"):
        assert part.lower() in failure.text.lower(), failure.text


WAITS_OF_A_WRITER = [
    ("enqueue", "more", DEADLINE_S),
    ("enqueue_many", ["more", "and more"], DEADLINE_S),
    ("broadcast_object", "more"),
    ("wait_until_ready", DEADLINE_S),
    ("close", None),
]


@pytest.mark.parametrize("before", [False, True], ids=["while it waits", "before it waits"])
@pytest.mark.parametrize("call", WAITS_OF_A_WRITER, ids=lambda call: call[0])
def test_a_writer_is_told_that_its_link_died_before_anybody_came_from_elsewhere(
    call: tuple[Any, ...], before: bool
) -> None:
    with _nobody_from_elsewhere() as (a, writer, reader):
        (link,) = writer.links(a)
        if before:
            killed = _kill(a, link)
        writer.tell(*call)
        if not before:
            assert not writer.worker.link.poll(0.5), "it waits"
            killed = _kill(a, link)
        failure = writer.outcome()
        assert isinstance(failure, Failure), failure
        _says_that_nobody_comes(failure, "ReaderDiedError", a, writer, link)
        _in_time(failure, killed)
        if call[0] != "close":
            _says_that_nobody_comes(writer.fails("export_handle"), "LinkDiedError", a, writer, link)
            failure = writer.fails("close", None)
            _says_that_nobody_comes(failure, "ReaderDiedError", a, writer, link)
            assert "4 messages did not reach 2 readers of other machines" in failure.text
        assert reader.does("take_to_end", 4)[1].kind == "QueueClosedError"


def test_where_the_dead_are_evicted_a_writer_goes_on_without_those_whom_a_dead_link_would_bring() -> None:
    with _nobody_from_elsewhere(on_reader_death="evict") as (a, writer, reader):
        (link,) = writer.links(a)
        killed = _kill(a, link)
        reader.tell("take_to_end", 4)
        assert writer.does("send", 4, 100) == 100
        failure = writer.fails("wait_until_ready", DEADLINE_S)
        _says_that_nobody_comes(failure, "ReaderDiedError", a, writer, link)
        _in_time(failure, killed)
        writer.does("close", None)
        count, end = reader.outcome()
        assert (count, end.kind) == (100, "QueueClosedError")


@pytest.mark.parametrize("call", WAITS_OF_A_WRITER, ids=lambda call: call[0])
def test_a_writer_is_told_that_its_link_died_when_some_had_come_from_elsewhere(call: tuple[Any, ...]) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, max_chunks=4)
        (first,) = writer.readers(b, 0)
        writer.does("send", 0, 4)
        assert first.does("take", 0, 4) == 4
        writer.tell(*call)
        assert not writer.worker.link.poll(0.5), "it waits"
        (link,) = writer.links(a)
        killed = _kill(a, link)
        failure = writer.outcome()
        assert isinstance(failure, Failure), failure
        assert failure.kind == "ReaderDiedError", failure.text
        _in_time(failure, killed)
        # It has read all there was: whoever closed had said so before.
        assert first.fails("dequeue").kind == ("QueueClosedError" if call[0] == "close" else "LinkDiedError")
        if call[0] != "close":
            began = time.monotonic()
            _in_time(writer.fails("close", None), began)


@pytest.mark.parametrize("messages", [0, 5])
def test_a_writer_that_is_killed_is_named_after_all_it_had_sent(messages: int) -> None:
    with _queue(max_chunks=8) as (a, _, writer, readers):
        writer.does("send", 3, messages)
        for reader in readers:
            reader.tell("take_to_end", 3)
        killed = _kill(a, writer.pid)
        for reader in readers[1:]:
            count, failure = reader.outcome()
            assert count == messages
            _says_who(failure, "WriterDiedError", a, writer)
            _in_time(failure, killed)
        count, failure = readers[0].outcome()
        assert (count, failure.kind) == (messages, "WriterDiedError")


def test_a_writer_that_is_killed_while_it_sends_has_sent_a_beginning() -> None:
    """The same messages on all machines, each whole."""
    with _queue(max_chunks=8) as (a, _, writer, readers):
        for reader in readers:
            reader.tell("take_to_end", 3)
        before = a.wire_bytes()[0]
        writer.tell("send", 3, 1 << 40)  # more than it gets to
        eventually(lambda: a.wire_bytes()[0] > before + MIB, "it sends")
        _kill(a, writer.pid)
        outcomes = [reader.outcome() for reader in readers]
        assert {failure.kind for _, failure in outcomes} == {"WriterDiedError"}
        assert len({count for count, _ in outcomes}) == 1, outcomes
        assert outcomes[0][0] > 0


def test_the_death_of_who_started_a_link_does_not_end_it() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, on_reader_death="evict")
        (first,) = writer.readers(b, 0)
        (link,) = writer.links(b)
        (second,) = writer.readers(b, 1)
        assert writer.links(b) == [link], "one of a machine and job"
        _kill(b, first.pid)
        second.tell("take", 0, 50)
        assert writer.does("send", 0, 50) == 50
        assert second.outcome() == 50
        writer.does("close")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_terminals_signal_to_who_started_a_link_does_not_reach_it(number: int) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=3, on_reader_death="evict")
        first = writer.reader(b, 0)
        second = writer.reader(b, 1, group=first.worker)
        apart = writer.reader(b, 2)
        links = writer.links(b)
        first.worker.signal_group(number)
        for reader in (first, second):
            assert reader.worker.wait() != 0
        apart.tell("take", 0, 50)
        assert writer.does("send", 0, 50) == 50
        assert apart.outcome() == 50
        assert writer.links(b) == links
        writer.does("close")


def test_all_on_a_terminal_interrupted_leave_nothing() -> None:
    """Looked at when the machines go: the links are gone, and all memory."""
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=3, n_local_reader=1)
        local = writer.reader(a, 0, group=writer.worker)
        remote = writer.reader(b, 1)
        other = writer.reader(b, 2, group=remote.worker)
        writer.worker.signal_group(signal.SIGINT)
        remote.worker.signal_group(signal.SIGINT)
        for end in (writer, local, remote, other):
            assert end.worker.wait() != 0


def _send_and_end(link: Link, options: dict[str, Any], count: int, size: int, close: bool) -> None:
    queue = MessageQueue[Any](**options)
    link.send(queue.export_handle())
    queue.wait_until_ready(DEADLINE_S)
    for number in range(count):
        queue.enqueue(message(number, size), timeout=DEADLINE_S)
    if close:
        queue.close()


@pytest.mark.parametrize("size", [64, MIB])
@pytest.mark.parametrize("close", [True, False])
def test_what_a_program_sent_before_it_ended_arrives(close: bool, size: int) -> None:
    with visited(2) as (a, b):
        options = {
            "n_reader": 3, "n_local_reader": 1, "max_chunk_bytes": MIB, "max_chunks": 16, "connect_ip": a.ip,
        }  # fmt: skip
        program = a.start(_send_and_end, options, 16, size, close)
        handle = program.receive()
        readers = [Reader(machine, handle, rank, wait=False) for machine, rank in ((a, 0), (b, 1), (b, 2))]
        for reader in readers:
            reader.attached()
            reader.tell("wait_until_ready", DEADLINE_S)
        for reader in readers:
            assert reader.outcome() is None
        for reader in readers:
            count, end = reader.does("take_to_end", 0, size)
            assert (count, end.kind) == (16, "QueueClosedError")
        assert program.wait() == 0


def test_who_waits_for_a_remote_reader_is_told_which_one_and_where() -> None:
    with _queue(max_chunks=4) as (_, b, writer, readers):
        readers[1].worker.stop()
        for reader in (readers[0], readers[2]):
            reader.tell("take_to_end", 3)
        failure = writer.fails("send", 3, 100, None, 1.0)
        assert failure.kind == "QueueTimeoutError"
        for part in ("rank 1", b.host, str(readers[1].pid)):
            assert part in failure.text, failure.text
        assert "rank 2" not in failure.text
        readers[1].worker.resume()
        readers[1].tell("take_to_end", 3)
        writer.does("close")
        for reader in readers:
            assert reader.outcome()[1].kind == "QueueClosedError"


def test_a_stuck_remote_reader_is_named_when_the_queue_stays_full() -> None:
    with _queue(max_chunks=4, on_full="raise", full_deadline=2.0) as (_, b, writer, readers):
        readers[1].worker.stop()
        for reader in (readers[0], readers[2]):
            reader.tell("take_to_end", 3)
        failure = writer.fails("send", 3, 100)
        assert failure.kind == "QueueFullError"
        assert "rank 1" in failure.text
        assert b.host in failure.text
        assert "rank 2" not in failure.text
        writer.does("evict", 1)
        readers[1].worker.resume()
        assert readers[1].does("take_to_end", 3)[1].kind == "ReaderEvictedError"
        writer.does("close")
        (first, end), (second, other) = readers[0].outcome(), readers[2].outcome()
        assert (end.kind, other.kind, first) == ("QueueClosedError", "QueueClosedError", second)


@pytest.mark.parametrize(("full_deadline", "size"), [(0.5, None), (1.0, 64), (1.0, MIB), (2.0, None)])
def test_a_stuck_remote_reader_is_evicted_and_its_neighbours_lose_nothing(
    full_deadline: float, size: int | None
) -> None:
    """However long its writer's patience is, beside the slices in which a link waits for room."""
    with _queue(max_chunks=4, on_full="evict", full_deadline=full_deadline) as (_, _, writer, readers):
        readers[2].worker.stop()
        for reader in readers[:2]:
            reader.tell("take", 3, 200, size)
        began = time.monotonic()
        assert writer.does("send", 3, 200, size) == 200
        assert time.monotonic() - began >= full_deadline
        assert [reader.outcome() for reader in readers[:2]] == [200, 200]
        readers[2].worker.resume()
        count, failure = readers[2].does("take_to_end", 3, size)
        assert failure.kind == "ReaderEvictedError"
        assert count < 200
        writer.does("close")


def test_a_remote_reader_is_evicted_by_its_rank_and_may_come_back() -> None:
    with _queue(max_chunks=4) as (_, b, writer, readers):
        readers[1].tell("died")
        assert writer.does("evict", 1) is True
        assert readers[1].outcome().kind == "ReaderEvictedError"
        assert eventually(lambda: writer.does("evict", 1) is False, "there is none any more")
        for reader in (readers[0], readers[2]):
            reader.tell("take", 3, 20)
        assert writer.does("send", 3, 20) == 20
        assert [reader.outcome() for reader in (readers[0], readers[2])] == [20, 20]
        readers[1].does("close")
        again = writer.reader(b, 1, timeout=DEADLINE_S)
        writer.does("wait_until_ready", DEADLINE_S)
        writer.does("enqueue", "welcome back")
        assert again.does("dequeue", DEADLINE_S) == "welcome back"
        writer.gives_up()


def test_a_remote_reader_that_leaves_is_told_once_where_that_is_an_error() -> None:
    with _queue(max_chunks=4, on_reader_leave="raise") as (_, _, writer, readers):
        readers[2].does("close")

        def told() -> Any:
            writer.tell("send", 3, 1)
            found = writer.outcome()
            if isinstance(found, Failure):
                return found
            for reader in readers[:2]:
                reader.does("take", 3, 1)
            return None

        failure = eventually(told, "the writer is told")
        assert (failure.kind, failure.rank) == ("ReaderLeftError", 2)
        for reader in readers[:2]:
            reader.tell("take", 4, 20)
        assert writer.does("send", 4, 20) == 20
        assert [reader.outcome() for reader in readers[:2]] == [20, 20]
        writer.does("close")


_FAILS = """
import json, sys
from ringcast import MessageQueue
reader = MessageQueue.create_from_handle(json.loads(sys.argv[1]), 0)
reader.dequeue(timeout=60)
raise ValueError("on purpose")
"""


def _run(link: Link, source: str, *arguments: str) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.execv(sys.executable, [sys.executable, "-c", source, *arguments])


def test_an_exception_that_ends_a_remote_reader_counts_as_its_death() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2, max_chunks=4)
        failing = b.start(_run, _FAILS, json.dumps(as_json(writer.handle)))
        (healthy,) = writer.readers(b, 1)
        healthy.tell("take_to_end", 0)
        sent, failure = writer.does("send_until_it_fails", 0)
        assert (failure.kind, failure.rank, failing.wait()) == ("ReaderDiedError", 0, 1)
        writer.does("close")
        count, end = healthy.outcome()
        assert (count, end.kind) == (sent, "QueueClosedError")


def test_close_waits_for_what_has_not_come_to_another_machine_and_names_it() -> None:
    with _queue(max_chunks=8) as (_, b, writer, readers):
        b.unplug()
        writer.does("send", 3, 4)
        assert readers[0].does("take", 3, 4) == 4
        failure = writer.fails("close", 0.5)
        assert failure.kind == "QueueTimeoutError"
        assert b.host in failure.text
        b.plug()
        for reader in readers[1:]:
            count, end = reader.does("take_to_end", 3)
            assert count == 4 or end.kind != "QueueClosedError", "nothing is lost unsaid"


def test_a_reader_of_a_queue_that_is_gone_is_told_so() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2)
        (first,) = writer.readers(b, 0)
        first.does("close")
        writer.does("close")
        failure = Reader(b, writer.handle, 1, wait=False).refused()
        assert {"LinkError", "SegmentNotFoundError", "WriterDiedError"} & set(failure.kinds), failure
        assert a.host in failure.text or a.ip in failure.text


def test_a_reader_that_no_way_leads_to_is_told_where_it_was_to_go() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1)
        b.unplug()
        failure = Reader(b, writer.handle, 0, wait=False, timeout=2.0).refused()
        assert "LinkError" in failure.kinds
        assert writer.address[0] in failure.text
        b.plug()
        (reader,) = writer.readers(b, 0)
        writer.does("send", 0, 3)
        assert reader.does("take", 0, 3) == 3
        writer.does("close")


def _falls_before_it_attaches(link: Link, handle: Any, rank: int, killed: bool) -> None:
    """Then, if it lives, it comes again."""

    class Falls:
        @staticmethod
        def attach(*_: Any, **options: Any) -> None:
            _ends.__dict__["_segment"] = real
            if killed:
                link.send("placed")
                os.kill(os.getpid(), signal.SIGKILL)
            raise MemoryError

    real = _ends.__dict__["_segment"]
    _ends.__dict__["_segment"] = Falls
    try:
        MessageQueue[Any].create_from_handle(handle, rank)
    except MemoryError:
        linked._read(link, handle, rank, {})


@pytest.mark.parametrize("rank", [1, -1])
@pytest.mark.parametrize("sent", [0, 3])
def test_a_reader_killed_before_it_attaches_is_expected_still_and_its_rank_is_free_on_its_machine(
    rank: int, sent: int
) -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=2)
        writer.does("send", 0, sent)
        neighbour = writer.reader(b, 0)
        ghost = b.start(_falls_before_it_attaches, writer.handle, 1, True)
        assert ghost.receive() == "placed"
        eventually(lambda: _of_rank(writer, 1) == ("expected", 0, False), "that nobody is about to attach")
        again = writer.reader(b, rank)
        assert again.rank == 1
        writer.does("wait_until_ready", DEADLINE_S)
        writer.does("send", sent, 3)
        for reader in (neighbour, again):
            assert reader.does("take", 0, sent + 3) == sent + 3
        writer.does("close")


@pytest.mark.parametrize("sent", [0, 3])
@pytest.mark.parametrize("rank", [0, -1])
def test_the_rank_of_a_reader_killed_before_it_attached_is_free_elsewhere(rank: int, sent: int) -> None:
    """All that is sent meanwhile is kept on the machine where it was to attach: who comes elsewhere is told so."""
    with visited(3) as (a, b, c):
        writer = Writer(a, n_reader=1)
        ghost = b.start(_falls_before_it_attaches, writer.handle, 0, True)
        assert ghost.receive() == "placed"
        writer.does("send", 0, sent)
        reader = writer.reader(c, rank, timeout=DEADLINE_S)
        assert reader.rank == 0
        writer.does("wait_until_ready", DEADLINE_S)
        writer.does("send", sent, 3)
        if sent:
            told = reader.fails("take", sent, 1)
            assert (told.kind, told.rank) == ("ReaderEvictedError", 0)
            assert "gave up waiting for rank 0 before it attached" in told.text
        assert reader.does("take", sent, 3) == 3
        assert writer.does("stats")["missed"] == {0: sent}
        eventually(lambda: not writer.links(b), "the end of the link that has nobody to serve")
        writer.does("close")


def test_a_reader_that_falls_before_it_attaches_and_comes_again_counts_as_no_death() -> None:
    with visited(2) as (a, b):
        writer = Writer(a, n_reader=1, on_reader_leave="raise")
        writer.does("send", 0, 3)
        again = b.start(_falls_before_it_attaches, writer.handle, 0, False)
        assert again.receive() == 0
        writer.does("wait_until_ready", DEADLINE_S)
        writer.does("send", 3, 3)
        again.send(("take", (0, 6)))
        assert again.receive() == 6
        writer.does("close")


def _of_rank(writer: Writer, rank: int) -> tuple[Any, ...] | None:
    return next(((row["state"], row["pid"], row["alive"]) for row in writer.does("stats")["readers"]
                 if row["rank"] == rank), None)  # fmt: skip


def test_a_reader_that_was_promised_messages_and_never_came_does_not_keep_a_program() -> None:
    with visited(1) as (a,):
        writer = Writer(a, n_reader=2)
        writer.does("send", 0, 2)
        writer.tell("exit")
        assert writer.worker.wait(DEADLINE_S) == 0
