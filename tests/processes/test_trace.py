"""Traces: what a recorder sees of a queue that the test drives step by step, and of real processes at full speed."""

from __future__ import annotations

import io
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")

from ringcast import MessageQueue, _core
from ringcast._version import __version__
from ringcast.errors import QueueClosedError
from ringcast.instruments.recorder import Recorder, record
from ringcast.instruments.trace import Trace
from tests.processes.test_cli_ls import RINGCAST
from tests.support import Background, Child, Link, broadcast, eventually, run_python, unique_name


def recorder_of(queue: MessageQueue, most: int = 1000) -> Recorder:
    return Recorder(_core.Segment.attach(queue.segment, __version__, observe=True), "q", most)


def events_of(trace: Trace) -> list[dict[str, Any]]:
    file = io.StringIO()
    trace.write(file)
    events: list[dict[str, Any]] = json.loads(file.getvalue())["traceEvents"]
    return events


def ordered(events: list[dict[str, Any]]) -> dict[str, int]:
    """Asserts that each message is published, read by each reader, and released, in this order; how many of each."""
    published = {one["args"]["message"]: one["ts"] for one in events if one["name"] == "publish"}
    read = {(one["args"]["message"], one["pid"], one["tid"]): one["ts"] for one in events if one["name"] == "read"}
    released = {
        (one["args"]["message"], one["pid"], one["tid"]): one["ts"] for one in events if one["name"] == "release"
    }
    for (message, *_), at in read.items():
        assert published[message] <= at
    for key, at in released.items():
        assert read[key] <= at
    times = [one["ts"] for one in events if "ts" in one]
    assert times == sorted(times)
    spans: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
    for one in events:
        if one.get("cat") == "unread":
            spans[one["id"], one["pid"]].append(one["ph"])
    assert all(phases == ["b", "e"] for phases in spans.values())
    return {"publish": len(published), "read": len(read), "release": len(released), "unread": len(spans)}


def test_each_step_of_a_message_is_seen_at_the_look_that_follows_it() -> None:
    with broadcast(2) as (writer, readers):
        recorder = recorder_of(writer)
        recorder.look()
        writer.enqueue_many([b"x" * 100, b"y"])
        recorder.look()
        readers[1].dequeue(1)
        recorder.look()
        readers[0].dequeue_many(2, 1)
        recorder.look()
        trace = recorder.trace
        first, second = trace.messages[0], trace.messages[1]
        assert first.nbytes is not None
        assert first.nbytes >= 100
        assert first.published == second.published
        by_rank = {reader.rank: moment for reader, moment in first.read.items()}
        assert first.published.at_ns <= by_rank[1].after_ns + (by_rank[1].at_ns - by_rank[1].after_ns)
        assert by_rank[1].at_ns < by_rank[0].at_ns
        assert [reader.rank for reader in second.read] == [0]
        assert first.released.keys() == first.read.keys()  # copies: released as they are read
        counts = ordered(events_of(trace))
        assert counts == {"publish": 2, "read": 3, "release": 3, "unread": 3}
        behind = [(reader.rank, behind) for _, reader, behind in trace.behind]
        assert behind == [(0, 0), (1, 0), (0, 2), (1, 2), (1, 1), (0, 0)]


def test_a_view_holds_its_message_until_it_is_gone() -> None:
    numpy = pytest.importorskip("numpy")
    with MessageQueue(1) as writer:
        reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
        recorder = recorder_of(writer)
        recorder.look()
        writer.enqueue(numpy.zeros(1 << 20, "u1"))
        recorder.look()
        array = reader.dequeue(1)
        recorder.look()
        message = recorder.trace.messages[0]
        assert len(message.read) == 1
        assert message.released == {}
        array = array.sum()
        recorder.look()
        (read,), (released,) = message.read.values(), message.released.values()
        assert read.at_ns < released.at_ns
        ordered(events_of(recorder.trace))
        reader.close()


def test_a_sleeper_and_its_wake_up_are_seen_exactly() -> None:
    with broadcast(1) as (writer, (reader,)):
        recorder = recorder_of(writer)
        recorder.look()
        taken = Background(reader.dequeue)

        def asleep() -> bool:
            recorder.look()
            return any(track.asleep_since is not None for track in recorder._tracks.values())

        eventually(asleep)
        before = time.monotonic_ns()
        writer.enqueue(b"x")
        after = time.monotonic_ns()
        taken.result()
        recorder.look()
        trace = recorder.trace
        ((woken, at_ns),) = [(one, at) for one, at in trace.wakes if one is not None]
        assert woken.rank == 0
        assert before <= at_ns <= after
        assert trace.messages[0].published.at_ns <= after
        sleeps = [sleep for sleep in trace.sleeps if sleep.exact]
        assert [sleep.ended_ns for sleep in sleeps] == [at_ns]
        assert ordered(events_of(trace))["read"] == 1


def test_beyond_the_most_messages_are_only_counted() -> None:
    with broadcast(1) as (writer, (reader,)):
        recorder = recorder_of(writer, most=3)
        recorder.look()
        for _ in range(5):
            writer.enqueue(b"x")
            reader.dequeue(1)
            recorder.look()
        assert len(recorder.trace.messages) == 3
        assert recorder.trace.left_out == 2
        assert ordered(events_of(recorder.trace))["read"] == 3


def _write(link: Link, name: str) -> None:
    queue = MessageQueue(2, name=name)
    link.send("made")
    queue.wait_until_ready()
    while not link.poll(0.0005):
        queue.enqueue({"step": os.getpid()})


def _read(link: Link, name: str, rank: int) -> None:
    queue = MessageQueue.attach(name, rank)
    link.send("attached")
    try:
        while True:
            queue.dequeue()
    except QueueClosedError:
        link.send(True)


def test_a_trace_of_real_processes_can_be_parsed_and_is_in_order(start: Callable[..., Child], tmp_path: Path) -> None:
    name, file = unique_name("trace"), tmp_path / "trace.json"
    writer = start(_write, name)
    writer.receive()
    readers = [start(_read, name, rank) for rank in (0, 1)]
    for reader in readers:
        reader.receive()
    result = run_python(RINGCAST, "trace", name, "--seconds", "1", "--out", str(file))
    writer.send("enough")
    assert [reader.receive() for reader in readers] == [True, True]  # nobody was stopped, and nothing was missed
    assert result.returncode == 0
    assert f"of queue '{name}'" in result.stdout
    trace = json.loads(file.read_text())
    counts = ordered(trace["traceEvents"])
    assert counts["publish"] > 10
    assert counts["read"] > 20
    about = trace["otherData"]
    assert about["queue"] == name
    assert about["messages"] == counts["publish"]
    precision = about["precision"]
    assert precision["looks"] > 100
    assert precision["wake"] == "exact"
    for what in ("publish_within_us", "read_within_us", "release_within_us", "between_looks_us"):
        assert 0 <= precision[what]["p50"] <= precision[what]["p99"] <= precision[what]["max"]
    pids = {one["pid"] for one in trace["traceEvents"] if one["name"] in ("publish", "read")}
    assert pids == {writer.pid, *(reader.pid for reader in readers)}


def test_a_recording_ends_with_its_queue(start: Callable[..., Child]) -> None:
    name = unique_name("trace")
    child = start(_write, name)
    child.receive()
    segment = f"ringcast_{name}"
    found = list(_core.list_names(segment))
    recording = Background(record, found[0], 3600.0)
    child.kill()
    assert recording.result().messages == {}
    run_python(RINGCAST, "clean")


def test_ctrl_c_ends_a_recording_and_keeps_it() -> None:
    def interrupted() -> bool:
        raise KeyboardInterrupt

    with broadcast(1) as (writer, _):
        recording = record(writer.segment, 3600.0, ended=interrupted)
    assert recording.precision["looks"] > 1
    ordered(events_of(recording))


def test_a_queue_that_there_is_not_is_a_sentence() -> None:
    result = run_python(RINGCAST, "trace", "no-such-queue")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("ringcast: there is no queue 'no-such-queue'")


def test_the_standard_output_gets_nothing_but_the_trace() -> None:
    name = unique_name("trace")
    with MessageQueue(1, name=name):
        result = run_python(RINGCAST, "trace", name, "--seconds", "0.05", "--out", "-")
    assert json.loads(result.stdout)["otherData"]["messages"] == 0
    assert result.stderr.startswith("-: 0 messages")
