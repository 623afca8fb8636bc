"""Forks that Python does not know of, and the start methods that fork elsewhere: whose life a lock stands for."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from ringcast import Handle, MessageQueue
from ringcast.errors import RankTakenError, ReaderDiedError, SegmentExistsError, WriterDiedError
from tests.support import Child, Link, runs, unique_name


def _fork_in_c() -> int:
    """As an extension module would: neither Python's fork hooks nor its locks are told."""
    return int(ctypes.PyDLL(None).fork())


def _sleep_for_ever() -> None:
    libc = ctypes.CDLL(None)
    while True:
        libc.pause()


def _die_with_a_child_that_lives_on(link: Link, name: str, role: str) -> None:
    end = MessageQueue(1, name=name, max_chunks=1) if role == "writer" else MessageQueue.attach(name, timeout=60)
    end.wait_until_ready(60)
    child = _fork_in_c()
    if child == 0:
        _sleep_for_ever()
    link.send(child)
    link.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_s_death_is_seen_though_a_child_forked_in_c_lives_on(start: Callable[..., Child]) -> None:
    name = unique_name()
    writer = start(_die_with_a_child_that_lives_on, name, "writer")
    with MessageQueue.attach(name, timeout=60) as reader:
        reader.wait_until_ready(60)
        child = writer.receive()
        try:
            writer.send("die")
            with pytest.raises(WriterDiedError):
                reader.dequeue(30)
            assert runs(child)
            MessageQueue(1, name=name).close(0)  # the name is free, too
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_reader_s_death_is_seen_though_a_child_forked_in_c_lives_on(start: Callable[..., Child]) -> None:
    with MessageQueue(1, name=unique_name(), max_chunks=1) as writer:
        reader = start(_die_with_a_child_that_lives_on, writer.name, "reader")
        writer.wait_until_ready(60)
        child = reader.receive()
        try:
            reader.send("die")
            writer.enqueue("fills the ring")
            with pytest.raises(ReaderDiedError):
                writer.enqueue("waits", timeout=30)
            assert runs(child)
            assert writer.name is not None
            with MessageQueue.attach(writer.name, rank=0) as again:  # and so is the rank
                writer.enqueue("after", timeout=10)
                assert again.dequeue(10) == "after"
        finally:
            os.kill(child, signal.SIGKILL)


def _children_that_end(link: Link, how: str) -> None:
    name = unique_name()
    with MessageQueue(2, name=name, max_chunks=2) as writer, MessageQueue.attach(name, rank=0) as reader:
        for _ in range(20):
            child = _fork_in_c()
            if child == 0:
                libc = ctypes.CDLL(None)
                if how == "kill":
                    libc.kill(libc.getpid(), signal.SIGKILL)
                libc._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == (-9 if how == "kill" else 0)
            with pytest.raises(SegmentExistsError):
                MessageQueue(1, name=name)
            with pytest.raises(RankTakenError):
                MessageQueue.attach(name, rank=0, timeout=0)
            writer.enqueue([1] * 1000, timeout=10)
            assert len(reader.dequeue(10)) == 1000
            assert writer.stats()["writer"]["alive"]
            assert writer.stats()["readers"][0]["alive"]
    link.send("done")


@pytest.mark.parametrize("how", ["_exit", "kill"])
def test_a_child_forked_in_c_takes_no_lock_with_it(how: str, start: Callable[..., Child]) -> None:
    assert start(_children_that_end, how).receive() == "done"


def _receive(handle: Handle, rank: int, results: Any) -> None:
    with MessageQueue.create_from_handle(handle, rank) as reader:
        reader.wait_until_ready(60)
        results.put((rank, reader.dequeue(60)))


def _start_readers(link: Link, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    results = context.Queue()
    with MessageQueue(2) as writer:
        readers = [context.Process(target=_receive, args=(writer.export_handle(), rank, results)) for rank in (0, 1)]
        for reader in readers:
            reader.start()
        writer.wait_until_ready(60)
        writer.enqueue({"by": method})
        assert sorted(results.get(timeout=60) for _ in readers) == [(0, {"by": method}), (1, {"by": method})]
        for reader in readers:
            reader.join(60)
            assert reader.exitcode == 0
    link.send("done")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_readers_started_by_multiprocessing_take_their_seats(method: str, start: Callable[..., Child]) -> None:
    assert start(_start_readers, method).receive() == "done"


def _replace_by_another_program(link: Link) -> None:
    with MessageQueue(1, name=unique_name()) as writer, MessageQueue.attach(str(writer.name)):
        ours, theirs = os.pipe()
        child = _fork_in_c()
        if child == 0:
            os.dup2(theirs, 1)
            os.execv("/bin/ls", ["ls", "-l", "/proc/self/fd"])
        os.close(theirs)
        with open(ours) as listing:
            text = listing.read()
        os.waitpid(child, 0)
        assert "->" in text, "the listing is empty"
        assert "/dev/shm" not in text, text
    link.send("done")


def test_no_descriptor_passes_through_exec(start: Callable[..., Child]) -> None:
    assert start(_replace_by_another_program).receive() == "done"
