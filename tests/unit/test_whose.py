"""Errors about somebody else say who that is, also where it is this very process, and whether it pays to wait."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from ringcast import MessageQueue, ShmRingBuffer
from ringcast.errors import (
    QueueClosedError,
    QueueTimeoutError,
    RankTakenError,
    SegmentExistsError,
    SegmentNotFoundError,
)
from tests.support import Background, broadcast, eventually, run_python, unique_name

HERE = os.getpid()


def test_a_name_that_this_process_has_itself_is_told_with_the_way_out() -> None:
    name = unique_name()
    with MessageQueue(1, name=name):
        with pytest.raises(
            SegmentExistsError, match=rf"queue '{name}': .*this process \(pid {HERE}\).*close\(\)"
        ) as caught:
            MessageQueue(1, name=name)
        assert caught.value.pid == HERE
    MessageQueue(1, name=name).close()


class Knot:
    """Keeps what it is given in a cycle."""

    def __init__(self, kept: Any) -> None:
        self.kept = kept
        self.itself = self


def test_a_name_is_free_if_only_garbage_of_this_process_has_it() -> None:
    name = unique_name()
    gc.disable()
    try:
        Knot(MessageQueue(1, name=name))
        MessageQueue(1, name=name).close()
    finally:
        gc.enable()


def test_a_rank_is_free_if_only_garbage_of_this_process_has_it() -> None:
    with MessageQueue(1) as writer:
        handle = writer.export_handle()
        gc.disable()
        try:
            Knot(MessageQueue.create_from_handle(handle, 0))
            MessageQueue.create_from_handle(handle, 0, timeout=0).close()
        finally:
            gc.enable()


@pytest.mark.parametrize("way", ["name", "name and rank", "handle", "ring"])
def test_who_comes_for_a_rank_waits_until_its_reader_has_left(way: str) -> None:
    name = unique_name()
    with MessageQueue(1, name=name) as writer:
        old = MessageQueue.attach(name)
        ring = ShmRingBuffer(*writer.export_handle().ring)
        ways = {
            "name": lambda: MessageQueue.attach(name, timeout=60),
            "name and rank": lambda: MessageQueue.attach(name, 0, timeout=60),
            "handle": lambda: MessageQueue.create_from_handle(writer.export_handle(), 0, timeout=60),
            "ring": lambda: ring.acquire_read(60).__enter__(),
        }
        coming = Background(ways[way])
        with pytest.raises(AssertionError):
            coming.result(0.05)  # it waits
        old.close()
        eventually(lambda: [r["state"] for r in writer.stats()["readers"]] == ["active"], "the newcomer's seat")
        writer.enqueue(b"x")
        coming.result()
        ring.close()


def test_a_rank_that_stays_taken_is_told_with_who_has_it() -> None:
    with MessageQueue(1) as writer, MessageQueue.create_from_handle(writer.export_handle(), 0):
        here = f"rank 0 in this process {HERE}"
        for attempt in (
            lambda: MessageQueue.create_from_handle(writer.export_handle(), 0, timeout=0.01),
            lambda: ShmRingBuffer(*writer.export_handle().ring).acquire_read(0.01),
        ):
            with pytest.raises(RankTakenError, match=rf"a living reader.*{here}.*0\.01 s.*wait longer") as caught:
                attempt()
            assert caught.value.pid == HERE


def test_who_waits_for_a_rank_of_a_queue_that_ends_is_told_that_it_ended() -> None:
    name = unique_name()
    writer = MessageQueue(1, name=name)
    reader = MessageQueue.attach(name)
    coming = Background(MessageQueue.attach, name, timeout=2.0)
    writer.close()
    with pytest.raises(SegmentNotFoundError, match=rf"'{name}'"):
        coming.result()
    reader.close()


def test_a_handle_of_a_collected_queue_says_to_keep_the_queue() -> None:
    with pytest.raises(
        SegmentNotFoundError, match=r"garbage collected because nothing referred to it.*keep that object"
    ):
        MessageQueue.create_from_handle(MessageQueue(1).export_handle(), 0)


def test_closing_names_the_ranks_that_missed_messages() -> None:
    writer = MessageQueue(3, local_reader_ranks=[4, 5, 6])
    reader = MessageQueue.create_from_handle(writer.export_handle(), 5)
    writer.enqueue(1)
    missed = r"\(rank 4: 1 messages; rank 6: 1 messages\)"
    with pytest.raises(QueueTimeoutError, match=rf"\(writer, pid \d+\) is closed, but .* {missed}"):
        writer.close(0)
    reader.close()


def test_one_queue_has_one_name_in_all_messages() -> None:
    with broadcast() as (writer, (reader,)):
        label = f"queue segment '{writer.segment}'"
        texts = [repr(writer), repr(reader)]
        for call in (
            lambda: writer.enqueue_many([b""] * 1000, timeout=0.01),
            writer.dequeue,
            lambda: reader.wait_until_ready(0.01),
            lambda: reader.enqueue(1),
        ):
            with pytest.raises(Exception, match="queue") as caught:
                call()
            texts.append(str(caught.value))
        reader.close()
        writer.close(0)
        closed_calls: list[Callable[[], Any]] = [writer.export_handle, reader.stats, writer.stats, reader.dequeue]
        for closed_call in closed_calls:
            with pytest.raises(QueueClosedError) as closed:
                closed_call()
            texts.append(str(closed.value))
        for text in texts:
            assert text.removeprefix("<MessageQueue: ").startswith(f"{label} ("), text


def test_a_call_after_the_exit_handlers_says_that_the_interpreter_exits() -> None:
    source = """
import atexit
def last():
    for call in (queue.export_handle, queue.stats, lambda: queue.enqueue(1)):
        try: call()
        except Exception as error: print(type(error).__name__, error)
atexit.register(last)  # runs after what is registered later
from ringcast import MessageQueue
queue = MessageQueue(1)
"""
    done = run_python(source)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    for line in lines:
        assert line.startswith("QueueClosedError "), line
        assert "because the interpreter is exiting" in line, line


def test_a_seat_that_is_kept_for_a_rank_is_absent_and_not_gone(capsys: pytest.CaptureFixture[str]) -> None:
    from ringcast.cli.ls import command

    with MessageQueue(1) as writer:
        (seat,) = writer.stats()["readers"]
        assert (seat["state"], seat["alive"], seat["process"], seat["pid"]) == ("expected", False, "absent", 0)
        command.callback(None, as_json=True, everything=False, watch=False)  # type: ignore[misc]
        (listed,) = [q for q in json.loads(capsys.readouterr().out) if q["segment"] == writer.segment]
        assert [(r["process"], r["alive"]) for r in listed["readers"]] == [("absent", False)]
