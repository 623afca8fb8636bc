"""Process numbers mean nothing: peers in other pid namespaces, equal numbers, numbers that were given away again."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringcast import MessageQueue
from ringcast.errors import ReaderDiedError, SegmentExistsError, SegmentNotFoundError, WriterDiedError
from ringcast.instruments import list_queues
from tests.support import SHM, Child, Link, eventually, mapped, unique_name

NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
CREATOR_PID, SEAT_PID = 128, 4096 + 1024 + 28
TOLD_WITHIN_S = 1.0
SLACK_S = 19.0
"""For a machine that does other things besides; the calls themselves would wait for three times as long."""


def _may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(
    not os.environ.get("CI") and not _may_unshare(), reason="unshare --pid is not permitted"
)


def _kill_inside(child: Child) -> float:
    """SIGKILL for the process that unshare started; when that was done."""
    (inside,) = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    os.kill(int(inside), signal.SIGKILL)
    child.join()
    return time.monotonic()


def _write(link: Link, name: str, messages: int) -> None:
    with MessageQueue(1, name=name, max_chunks=4) as writer:
        writer.wait_until_ready(60)
        for n in range(messages):
            writer.enqueue([n] * 2000, timeout=60)
        link.send(os.getpid())
        try:
            while True:  # until the ring is full and its reader dead
                writer.enqueue("more", timeout=60) if messages > 3 else link.recv()
        except ReaderDiedError as error:
            link.send((time.monotonic(), str(error)))


def _read(link: Link, name: str, messages: int) -> None:
    with MessageQueue.attach(name, timeout=60) as reader:
        reader.wait_until_ready(60)
        link.send(os.getpid())
        link.recv()
        for n in range(messages):
            assert reader.dequeue(60) == [n] * 2000
        link.send("all read")
        try:
            reader.dequeue(60)
        except WriterDiedError as error:
            link.send((time.monotonic(), str(error)))


@needs_namespaces
def test_a_writer_killed_in_another_namespace_is_seen_after_all_its_messages(start: Callable[..., Child]) -> None:
    name = unique_name("ns")
    writer = start(_write, name, 3, wrapper=NAMESPACE)
    reader = start(_read, name, 3, wrapper=NAMESPACE)
    assert (writer.receive(), reader.receive()) == (1, 1), "the same number in both"
    (info,) = [info for info in list_queues().queues if info["name"] == name]
    assert (info["writer"]["pid"], info["writer"]["alive"], [r["alive"] for r in info["readers"]]) == (1, True, [True])
    assert reader.ask() == "all read"
    killed = _kill_inside(writer)
    told, message = reader.receive()
    assert "the writer (pid 1) died" in message
    assert told - killed < TOLD_WITHIN_S + SLACK_S
    reader.join()
    assert not any(info["name"] == name for info in list_queues().queues), "the last survivor removes the name"


@needs_namespaces
def test_a_reader_killed_in_another_namespace_is_seen_by_the_writer(start: Callable[..., Child]) -> None:
    name = unique_name("ns")
    writer = start(_write, name, 4, wrapper=NAMESPACE)
    reader = start(_read, name, 4, wrapper=NAMESPACE)
    assert (writer.receive(), reader.receive()) == (1, 1)
    killed = _kill_inside(reader)
    told, message = writer.receive()
    assert "the reader of rank 0 (pid 1) died" in message
    assert told - killed < TOLD_WITHIN_S + SLACK_S
    writer.join()


@needs_namespaces
def test_a_dead_queue_of_another_namespace_gives_its_name_and_a_living_one_does_not(
    start: Callable[..., Child],
) -> None:
    name = unique_name("ns")
    writer = start(_write, name, 0, wrapper=NAMESPACE)
    eventually(lambda: any(info["name"] == name for info in list_queues().queues), "the queue")
    with pytest.raises(SegmentExistsError, match="a living queue of process 1"):
        MessageQueue(1, name=name)
    _kill_inside(writer)
    MessageQueue(1, name=name).close(0)


def _make(link: Link, name: str) -> None:
    writer = MessageQueue(1, name=name, max_chunks=2)
    link.send(writer.segment)
    link.recv()


def test_a_dead_writer_whose_number_another_process_has_got_is_dead(start: Callable[..., Child]) -> None:
    name = unique_name()
    child = start(_make, name)
    real_name = child.receive()
    with MessageQueue.attach(name) as reader:
        child.kill()
        with mapped(real_name) as memory:
            struct.pack_into("=I", memory, CREATOR_PID, os.getpid())
        (info,) = [info for info in list_queues().queues if info["segment"] == real_name]
        assert (info["writer"]["pid"], info["writer"]["alive"]) == (os.getpid(), False)
        with pytest.raises(WriterDiedError):
            reader.dequeue(10)
        with pytest.raises(SegmentNotFoundError, match="has ended"):
            MessageQueue.attach(name, timeout=0)
        MessageQueue(1, name=name).close(0)
    assert not (SHM / real_name).exists()


def _attach(link: Link, name: str) -> None:
    reader = MessageQueue.attach(name)
    link.send(reader.rank)
    link.recv()


def test_a_dead_reader_whose_number_another_process_has_got_is_dead(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=1) as writer:
        child = start(_attach, writer.name)
        assert child.receive() == 0
        child.kill()
        with mapped(writer.segment) as memory:
            struct.pack_into("=I", memory, SEAT_PID, os.getpid())
        writer.enqueue(1)
        with pytest.raises(ReaderDiedError, match=rf"pid {os.getpid()}\) died"):
            writer.enqueue(2, timeout=10)
        assert not writer.stats()["readers"][0]["alive"]
        writer.evict(0)


def test_a_living_writer_whose_number_belongs_to_nobody_is_alive() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    with MessageQueue(1, name=unique_name()) as writer:
        assert writer.name is not None
        with mapped(writer.segment) as memory:
            struct.pack_into("=I", memory, CREATOR_PID, child.pid)
        with pytest.raises(SegmentExistsError):
            MessageQueue(1, name=writer.name)
        with MessageQueue.attach(writer.name) as reader:
            writer.enqueue("alive")
            assert reader.dequeue(10) == "alive"
