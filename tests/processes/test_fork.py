"""Forked children: a parent's ends are useless there and nothing the child does, or how it ends, disturbs the parent.

Each scenario runs in a process of its own with a single thread, as forking asks for.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from ringcast import MessageQueue, ShmRingBuffer
from ringcast.errors import ForkedError, RankTakenError, SegmentExistsError
from tests.support import SHM, Child, Link, unique_name


class Family:
    """A parent with both ends of a named queue, and what must still hold after its children are gone."""

    def __init__(self) -> None:
        self.name = unique_name()
        self.writer = MessageQueue(2, name=self.name, max_chunks=4)
        self.reader = MessageQueue.attach(self.name, rank=0)
        self.ring = ShmRingBuffer(1, 100, 2)

    def check_undisturbed(self) -> None:
        assert (SHM / self.writer.segment).exists()
        assert (SHM / self.ring.name).exists()
        with pytest.raises(SegmentExistsError, match=rf"living queue of this process \(pid {os.getpid()}\) .*close"):
            MessageQueue(1, name=self.name)  # the creator's lock is held
        with pytest.raises(RankTakenError):
            MessageQueue.attach(self.name, rank=0, timeout=0)  # and so is the rank's
        stats = self.writer.stats()
        assert [(r["rank"], r["state"], r["alive"]) for r in stats["readers"]] == [(0, "active", True)]
        assert stats["writer"]["alive"]
        for n in range(20):
            self.writer.enqueue([n] * 500, timeout=30)
            assert self.reader.dequeue(30) == [n] * 500
        self.reader.close()
        self.writer.close()
        self.ring.close()
        assert not (SHM / self.writer.segment).exists()

    def wait(self, pid: int, code: int = 0) -> None:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code


def _expect_forked_error(call: Callable[[], object]) -> None:
    with pytest.raises(ForkedError, match="belongs to a parent process"):
        call()


def _use_in_child(link: Link) -> None:
    family = Family()
    family.writer.enqueue("before")
    pid = os.fork()
    if pid == 0:
        try:
            writer, reader = family.writer, family.reader
            calls: list[Callable[[], object]] = [
                lambda: writer.enqueue(1),
                lambda: writer.enqueue(b"1"),
                lambda: writer.try_enqueue(1),
                lambda: writer.enqueue_many([b"1"]),
                lambda: writer.enqueue_many(iter([1])),
                lambda: writer.acquire_write().__enter__(),
                lambda: writer.evict(0),
                writer.qsize,
                writer.wait_until_ready,
                reader.dequeue,
                reader.try_dequeue,
                lambda: reader.dequeue_many(1),
                lambda: next(reader),
                lambda: reader.acquire_read().__enter__(),
                reader.qsize,
                reader.wait_until_ready,
                reader.stats,
                writer.stats,
            ]
            for call in calls:
                _expect_forked_error(call)
            for end in (writer, reader):
                repr(end)
                end.shutdown()
                end.close()
                end.close()
            family.ring.shutdown()
            family.ring.close()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    family.wait(pid)
    assert family.reader.dequeue(10) == "before"
    family.check_undisturbed()
    link.send("done")


def test_every_use_in_a_forked_child_is_refused_and_release_does_nothing(start: Callable[..., Child]) -> None:
    assert start(_use_in_child).receive() == "done"


def _exits(link: Link, how: str) -> None:
    family = Family()
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=gc.collect)
        process.start()
        process.join()
        assert process.exitcode == 0
    elif how == "libc":
        libc = ctypes.PyDLL(None)  # as an extension would: Python's own fork hooks do not run
        pid = libc.fork()
        if pid == 0:
            del family.writer, family.reader, family.ring
            gc.collect()
            os._exit(0)
        family.wait(pid)
    else:
        pid = os.fork()
        if pid == 0:
            if how == "sys.exit":
                link.close()
                raise SystemExit(7)
            if how == "del":
                del family.writer, family.reader, family.ring
                gc.collect()
            if how == "kill":
                os.kill(os.getpid(), 9)
            os._exit(7)
        family.wait(pid, -9 if how == "kill" else (1 if how == "sys.exit" else 7))
    family.check_undisturbed()
    link.send("done")


@pytest.mark.parametrize("how", ["os._exit", "sys.exit", "del", "kill", "multiprocessing", "libc"])
def test_the_end_of_a_forked_child_disturbs_nothing(how: str, start: Callable[..., Child]) -> None:
    assert start(_exits, how).receive() == "done"


def _lives_on(link: Link) -> None:
    family = Family()
    pid = os.fork()
    if pid == 0:
        link.send("forked")
        link.recv()
        os._exit(0)
    link.send(family.name)
    os.kill(os.getpid(), 9)


def test_a_child_that_outlives_its_parent_does_not_keep_the_parent_s_locks(start: Callable[..., Child]) -> None:
    parent = start(_lives_on)
    messages = {parent.receive(), parent.receive()}
    parent.join()
    (name,) = messages - {"forked"}
    with MessageQueue(1, name=name) as successor, MessageQueue.attach(name) as reader:
        successor.enqueue("the locks were free")
        assert reader.dequeue(10) == "the locks were free"
    parent.send("end")
    for path in SHM.glob("ringcast_~*"):
        with open(path, "rb") as file:
            file.seek(128)
            if int.from_bytes(file.read(4), sys.byteorder) == parent.pid:
                path.unlink()  # the ring of the killed parent


def _c_level_forks(link: Link) -> None:
    family = Family()
    subprocess.run([sys.executable, "-c", ""], check=True, preexec_fn=os.getpid)
    subprocess.run(["/bin/sh", "-c", "ls /proc/self/fd >/dev/null"], check=True)
    os.system("true")
    pid = os.posix_spawn("/bin/true", ["true"], {})
    family.wait(pid)
    listing = subprocess.run(["ls", "-l", "/proc/self/fd"], check=True, capture_output=True, text=True, close_fds=False)
    assert "ringcast" not in listing.stdout, "a descriptor was inherited"
    family.check_undisturbed()
    link.send("done")


def test_programs_started_in_between_inherit_nothing(start: Callable[..., Child]) -> None:
    assert start(_c_level_forks).receive() == "done"


def _child_makes_its_own(link: Link) -> None:
    family = Family()
    handle = family.writer.export_handle()
    pid = os.fork()
    if pid == 0:
        try:
            mine = MessageQueue.create_from_handle(handle, 1)
            mine.wait_until_ready(30)
            assert mine.dequeue(30) == "to the child"
            grandchild = os.fork()
            if grandchild == 0:
                _expect_forked_error(mine.dequeue)
                os._exit(0)
            family.wait(grandchild)
            assert mine.dequeue(30) == "again"
            mine.close()
            with MessageQueue(1) as own:
                own.enqueue("x")
                own.evict(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    family.writer.wait_until_ready(30)
    for message in ("to the child", "again"):
        family.writer.enqueue(message)
        assert family.reader.dequeue(10) == message
    family.wait(pid)
    family.check_undisturbed()
    link.send("done")


def test_a_forked_child_may_attach_and_make_queues_of_its_own(start: Callable[..., Child]) -> None:
    assert start(_child_makes_its_own).receive() == "done"


def _chunk_across_fork(link: Link) -> None:
    family = Family()
    chunk = family.writer.acquire_write(nbytes=5)
    with chunk as view:
        view[:] = b"whole"
        pid = os.fork()
        if pid == 0:
            # Leaving the block raises ForkedError; the bytes are the parent's to publish. An exception that leaves it
            # is the one that is seen.
            _expect_forked_error(lambda: family.writer.acquire_write(nbytes=1).__enter__())
            chunk.__exit__(SystemExit, SystemExit(), None)
            _expect_forked_error(lambda: chunk.__exit__(None, None, None))
            del chunk, view
            os._exit(0)
        family.wait(pid)
        assert family.reader.try_dequeue() is None
    assert family.reader.dequeue(10) == b"whole"
    family.check_undisturbed()
    link.send("done")


def test_a_chunk_that_is_open_during_a_fork_belongs_to_the_parent(start: Callable[..., Child]) -> None:
    assert start(_chunk_across_fork).receive() == "done"
