"""What is seen of readers on other machines and of links: statistics, errors, the log, `ls` and `doctor`.

A rank that is not local reads through the link on this machine, too: real link processes, one machine.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from click.testing import CliRunner

from ringcast import MessageQueue, _core
from ringcast.cli.app import cli
from ringcast.errors import (
    LinkDiedError,
    LinkError,
    NotReadyError,
    QueueTimeoutError,
    ReaderDiedError,
    RingcastError,
)
from ringcast.instruments import examine, list_queues, sweep
from ringcast.instruments.doctor import links, other_machines
from ringcast.net import _addresses
from ringcast.net.link import _ends
from tests.support import DEADLINE_S, Child, Link, eventually, runs, stop, unique_name

HOST = socket.gethostname()

LINKS_STAY = True


@contextmanager
def writer(n_reader: int = 2, n_local: int = 0, **options: object) -> Iterator[MessageQueue]:
    """A queue whose other readers come through the link; its link process ends with it."""
    queue: MessageQueue = MessageQueue(n_reader, n_local, connect_ip="127.0.0.1", **options)  # type: ignore[arg-type]
    try:
        yield queue
    finally:
        with suppress(RingcastError):
            queue.close(linger=0)


def reads(link: Link, handle: object, rank: int) -> None:
    """A child: reads one message at each word, until there is none."""
    with MessageQueue.create_from_handle(handle, rank) as reader:  # type: ignore[arg-type]
        link.send(os.getpid())
        while link.recv() == "read":
            link.send(reader.dequeue(timeout=DEADLINE_S))


@contextmanager
def child_of(*job: Any) -> Iterator[Child]:
    child = Child(*job)
    try:
        yield child
    finally:
        child.discard()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    stop(pid)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def row_of(queue: MessageQueue, rank: int) -> dict[str, object]:
    return next((dict(row) for row in queue.stats()["readers"] if row["rank"] == rank), {})


def test_a_reader_elsewhere_is_a_row_with_its_host_and_its_link_is_no_reader() -> None:
    with writer() as queue:
        handle = queue.export_handle()
        before = queue.stats()
        assert (before["readers"], before["links"], before["expected_elsewhere"]) == ([], [], 2)
        with child_of(reads, handle, 1) as child:
            pid = child.receive()
            eventually(lambda: row_of(queue, 1).get("state") == "active", "the reader's row")
            queue.enqueue("unread")
            eventually(lambda: row_of(queue, 1)["behind"] == 1 and queue.stats()["links"][0]["under_way"] == 0)
            stats = queue.stats()
            (row,), (link,) = stats["readers"], stats["links"]
            assert (row["host"], row["rank"], row["pid"], row["alive"]) == (HOST, 1, pid, True)
            assert (link["host"], link["ranks"], link["state"], link["alive"]) == (HOST, [1], "active", True)
            assert link["pid"] not in (pid, os.getpid())
            assert stats["expected_elsewhere"] == 1
            assert set(stats["missed"]) <= {0, 1}
            json.dumps(stats)
            child.send("read")
            assert child.receive() == "unread"
            eventually(lambda: row_of(queue, 1)["behind"] == 0, "the reader has read")
            child.send("end")
            assert child.join() == 0
        eventually(lambda: not queue.stats()["readers"], "a reader that has left is no row")


def test_a_reader_of_a_relay_sees_the_writers_host_and_the_link_here() -> None:
    with writer(1) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
        stats = reader.stats()
        source = stats["writer"]
        relay = source["relayed_by"]
        assert (source["host"], source["pid"], source["alive"], source["process"]) == (
            HOST,
            os.getpid(),
            True,
            "unknown",
        )
        assert relay is not None
        assert relay["alive"]
        assert relay["pid"] == queue.stats()["links"][0]["pid"] != os.getpid()
        assert [row["rank"] for row in stats["readers"]] == [0]
        with pytest.raises(
            QueueTimeoutError, match=rf"the writer \(host {HOST}, pid {os.getpid()}\), through the link"
        ):
            reader.dequeue(timeout=0.01)
        local = queue.stats()["writer"]
        assert (local["host"], local["relayed_by"]) == (None, None)


def test_a_killed_reader_elsewhere_is_failed() -> None:
    with writer(1) as queue, child_of(reads, queue.export_handle(), 0) as child:
        os.kill(child.receive(), signal.SIGKILL)
        row = eventually(lambda: (row := row_of(queue, 0)).get("state") == "failed" and row, "the death is told")
        assert (row["alive"], row["process"], row["host"]) == (False, "gone", HOST)


def test_the_writer_says_how_many_readers_of_other_machines_have_not_come() -> None:
    with writer(3, 1) as queue:
        handle = queue.export_handle()
        with pytest.raises(
            NotReadyError, match=r"rank 0 has not attached, and 2 readers of other machines have"
        ) as all_:
            queue.wait_until_ready(timeout=0)
        assert all_.value.missing == (0,)
        with closing(MessageQueue.create_from_handle(handle, 0)):
            with pytest.raises(
                NotReadyError, match=r"waited 0\.01 s, but 2 readers of other machines have not come"
            ) as two:
                queue.wait_until_ready(timeout=0.01)
            assert two.value.missing == ()
            with closing(MessageQueue.create_from_handle(handle, 2)):
                eventually(lambda: row_of(queue, 2).get("state") == "active")
                with pytest.raises(NotReadyError, match="but 1 reader of other machines has not come"):
                    queue.wait_until_ready(timeout=0.01)
                with closing(MessageQueue.create_from_handle(handle, 1)):
                    queue.wait_until_ready(timeout=DEADLINE_S)


def test_who_closes_is_told_of_readers_of_other_machines_that_never_came() -> None:
    with writer(2) as queue:
        queue.export_handle()
        queue.enqueue("for nobody")
        with pytest.raises(
            QueueTimeoutError, match="1 messages did not reach 2 readers of other machines, who have not"
        ):
            queue.close(linger=0)


def test_who_closes_is_told_what_is_under_way_to_which_host_and_ranks() -> None:
    with writer(1) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)):
        link = queue.stats()["links"][0]["pid"]
        with stopped(link):
            queue.enqueue("under way")
            with pytest.raises(QueueTimeoutError) as told:
                queue.close(linger=0.01)
        assert f"did not reach the link to host {HOST} (pid {link}, alive" in str(told.value)
        assert "rank 0), with 1 messages under way" in str(told.value)


def test_an_eviction_of_a_seat_for_whoever_comes_names_no_rank(caplog: pytest.LogCaptureFixture) -> None:
    with writer(1, max_chunks=1, on_full="evict", full_deadline=0.0) as queue:
        queue.export_handle()
        with caplog.at_level(logging.WARNING, "ringcast"):
            for number in range(2):
                queue.enqueue(number, timeout=DEADLINE_S)
        (record,) = (one for one in caplog.records if "has evicted" in one.getMessage())
        assert (
            "has evicted a reader of another machine, 1 messages behind: it has never attached" in record.getMessage()
        )
        assert record.ringcast["evicted"]["rank"] is None  # type: ignore[attr-defined]


def test_no_number_that_stands_for_nobody_is_said_when_a_link_process_is_killed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with writer(1, max_chunks=1, on_reader_death="evict") as queue:
        reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
        with caplog.at_level(logging.WARNING, "ringcast"), closing(reader):
            os.kill(queue.stats()["links"][0]["pid"], signal.SIGKILL)
            for number in range(3):
                queue.enqueue(number, timeout=DEADLINE_S)
        said = [one.getMessage() for one in caplog.records if "has evicted" in one.getMessage()]
        assert len(said) == 1
        assert f"has evicted the link to host {HOST} (pid " in said[0]
        assert "rank 0" in said[0]
        assert not any(str(number) in caplog.text for number in (_core.NOBODY, _core.STREAM))
    sweep()  # what the killed link has left


def test_all_queues_of_a_dead_link_are_told_and_the_next_one_is_read() -> None:
    with writer(1, max_chunks=1) as one, writer(1, max_chunks=1) as other, writer(1) as told:
        queues = (one, other)
        for queue in (*queues, told):
            queue.export_handle()
            queue.enqueue("for nobody")
        assert told._link is not None
        os.kill(told._link.link_pid, signal.SIGKILL)
        says = rf"the link process of job '\w+' \(pid {told._link.link_pid}\b.*\) on host {HOST} has died"
        for queue in queues:
            with pytest.raises(ReaderDiedError, match=says) as error:
                queue.enqueue("the next")
            assert error.value.rank is None
            eventually(partial(_is_told, queue), "a call that does not wait raises it, too")
            with pytest.raises(LinkDiedError, match=says):
                queue.export_handle()
        with writer(1) as after, closing(MessageQueue.create_from_handle(after.export_handle(), 0)) as reader:
            after.enqueue("by another link")
            assert reader.dequeue(timeout=DEADLINE_S) == "by another link"
            with pytest.raises(ReaderDiedError, match=says):
                told.close(linger=None)
    sweep()  # what the killed link has left


def _is_told(queue: MessageQueue) -> bool:
    try:
        queue.try_enqueue("the next")
    except ReaderDiedError:
        return True
    return False


def test_the_log_says_that_a_link_has_died_where_nothing_can_be_raised(caplog: pytest.LogCaptureFixture) -> None:
    with writer(2, max_chunks=1, on_reader_death="evict") as queue, caplog.at_level(logging.WARNING, "ringcast"):
        queue.export_handle()
        assert queue._link is not None
        link = queue._link.link_pid
        queue.enqueue("for nobody")
        os.kill(link, signal.SIGKILL)
        queue.enqueue("nor this")
        said = [one for one in caplog.records if "has evicted" in one.getMessage()]
        assert len(said) == 2
        for record in said:
            assert "has evicted a reader of another machine" in record.getMessage()
            assert "cannot any more, because this machine's link process has died" in record.getMessage()
            assert record.ringcast["evicted"]["cause"] == "linkless"  # type: ignore[attr-defined]
    with suppress(ZeroDivisionError), writer(1) as queue, caplog.at_level(logging.WARNING, "ringcast"), queue:
        queue.export_handle()
        assert queue._link is not None
        link = queue._link.link_pid
        queue.enqueue("for nobody")
        os.kill(link, signal.SIGKILL)
        eventually(lambda: not runs(link), "the link's end")
        caplog.clear()
        _ = 1 / 0
    said_last = caplog.records[-1].getMessage()
    assert "1 messages did not reach 1 reader of another machine, who has not come: the link process of" in said_last
    assert f"(pid {link}" in said_last
    sweep()


def test_a_long_wait_names_host_and_rank_of_who_is_in_the_way(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGCAST_WARNING_INTERVAL", "0.2")
    with writer(1, max_chunks=1) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
        with caplog.at_level(logging.WARNING, "ringcast"), pytest.raises(QueueTimeoutError):
            queue.enqueue_many(range(9), timeout=2)
        record = [one for one in caplog.records if "has waited" in one.getMessage()][-1]
        said = record.getMessage()
        assert f"rank 0 (host {HOST}, pid {os.getpid()}, " in said
        assert f"the link to host {HOST} (pid " in said
        assert record.ringcast["links"][0]["ranks"] == [0]  # type: ignore[attr-defined]
        caplog.clear()
        with caplog.at_level(logging.WARNING, "ringcast"), suppress(QueueTimeoutError):
            while True:
                reader.dequeue(timeout=0.7)
        assert f"for the writer (host {HOST}, pid {os.getpid()}), through the link here (pid " in caplog.text


def test_ls_shows_readers_elsewhere_links_and_relays() -> None:
    name = unique_name("seen")
    with writer(2, name=name) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 1)) as reader:
        eventually(lambda: row_of(queue, 1).get("state") == "active")
        link = queue.stats()["links"][0]["pid"]
        shown = partial(CliRunner().invoke, cli)
        detail = shown(["ls", name]).output
        assert "readers  1 of 2, 1 to come from other machines" in detail
        assert any(line.split()[:3] == ["1", HOST, str(os.getpid())] for line in detail.splitlines())
        assert any(line.split()[:3] == [HOST, str(link), "active"] for line in detail.splitlines())
        assert "STREAM TO" in detail
        assert "RECONNECTS" in detail
        relay = shown(["ls", reader.segment]).output
        assert "STREAM FROM" in relay
        assert f"writer   {os.getpid()} on {HOST}\nrelayed  by the link here, pid {link} (running)" in relay
        assert f"{os.getpid()} on {HOST}" in shown(["ls"]).output
        assert not any(str(number) in detail + relay for number in (_core.NOBODY, _core.STREAM))
        (seen,) = (one for one in list_queues().queues if one["segment"] == queue.segment)
        assert [(one["host"], one["pid"], one["ranks"]) for one in seen["links"]] == [(HOST, link, [1])]


@pytest.mark.parametrize("encrypt", [True, False])
def test_both_sides_of_a_stream_say_what_it_has_carried(encrypt: bool) -> None:
    with writer(1, encrypt=encrypt) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as end:
        queue.enqueue(bytes(100_000))
        assert len(end.dequeue(timeout=DEADLINE_S)) == 100_000

        def counted() -> Any:
            here, there = queue.stats()["links"][0], end.stats()["writer"]["relayed_by"]
            assert there is not None
            if here["under_way"] or there["under_way"]:  # what was read is told to the other side a moment later
                return None
            return here["bytes_sent"] > 100_000 < there["bytes_received"] and (here, there)

        here, there = eventually(counted, "the bytes of the message")
        for side in (here, there):
            assert (side["encrypted"], side["reconnects"], side["out_of_reach_s"]) == (encrypt, 0, None)
        assert here["bytes_sent"] < 110_000, "what crosses the wire is little more than the message"
        assert 0 < here["bytes_received"] < 10_000 > there["bytes_sent"] > 0


def test_a_relay_has_the_name_of_the_queue_that_it_brings() -> None:
    name = unique_name("brought")
    with writer(1, name=name) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
        assert reader.name == reader.stats()["name"] == name
        assert reader.segment != queue.segment
        seen = [one["segment"] for one in list_queues().queues if one["name"] == name]
        assert sorted(seen) == sorted([queue.segment, reader.segment])
        shown = CliRunner().invoke(cli, ["ls"]).output
        assert sum(line.startswith(name) for line in shown.splitlines()) == 2
        assert f"segment  {queue.segment}" in CliRunner().invoke(cli, ["ls", name]).output
    with writer(1) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)) as reader:
        assert reader.name is None
        assert f"queue segment '{reader.segment}'" in str(reader._context)


def test_doctor_counts_links_and_streams_and_names_one_that_does_nothing() -> None:
    with writer(1, name=unique_name()) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)):
        (check,) = links()
        assert check.status == "ok"
        assert "1 link process of this user, with 2 streams: " in check.found
        link = queue.stats()["links"][0]["pid"]
        with stopped(link):
            told = [check for check in links() if check.status == "warning"]
        assert {check.found for check in told} == {
            f"queue {queue.name}: the stream {way} {HOST}, of link process {link}, does nothing: that process is "
            "stopped"
            for way in ("to", "from")
        }
        shown = CliRunner().invoke(cli, ["doctor"]).output
        assert "links" in shown


def test_a_link_that_is_silent_is_what_is_in_the_way_of_a_queue_and_its_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with writer(2) as queue, closing(MessageQueue.create_from_handle(queue.export_handle(), 0)):
        link = queue.stats()["links"][0]["pid"]
        monkeypatch.setattr(_ends, "JOINED_WITHIN_S", 0.5)
        monkeypatch.setattr(_ends, "LINKED_WITHIN_S", 0.5)
        with stopped(link):
            with pytest.raises(LinkError, match=rf"pid {link}, stopped\) has not answered within 0\.5 s"):
                MessageQueue.create_from_handle(queue.export_handle(), 1, timeout=0)
            with writer(1) as another, pytest.raises(LinkError, match="has not answered"):
                another.export_handle()


def test_doctor_warns_where_a_link_finds_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object) -> None:
        raise LinkError("there is no way out of this machine")

    monkeypatch.setattr(_addresses, "listening_for_links", nowhere)
    (check,) = other_machines()
    assert check.status == "warning"
    assert check.found == "queues stay on this machine: there is no way out of this machine"
    assert "RINGCAST_HOST_IP" in check.remedy


def test_doctor_says_where_a_link_would_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGCAST_BIND_IP", "127.0.0.1")
    monkeypatch.setenv("RINGCAST_ADVERTISE", "192.0.2.7:4000")
    (check,) = other_machines()
    assert (check.status, check.found) == (
        "ok",
        "a link would listen at 127.0.0.1, which others are told is 192.0.2.7:4000, a free port",
    )
    monkeypatch.setenv("RINGCAST_PORT_RANGE", "9-1")
    monkeypatch.setenv("RINGCAST_SECRET", "short")
    assert [check.status for check in other_machines()] == ["warning", "warning"]
    assert "other machines" in {check.subject for check in examine()}
