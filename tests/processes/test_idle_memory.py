"""A writer's idle memory goes back to the system, whether or not it makes another call; and nothing in use does."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from ringcast import Handle, MessageQueue
from tests.support import Child, Link, broadcast, committed_bytes, eventually, run_python

MIB = 1 << 20
SIZE = 4 * MIB
FLOOR = 3 * MIB
"""The ring of a queue of the default size and the MiB that is kept."""


def _threads() -> set[str]:
    """Of this process, by their numbers: a count would depend on whether those of earlier tests have ended yet."""
    return set(os.listdir("/proc/self/task"))


def _burst(writer: MessageQueue, messages: int = 8, first: int = 0) -> None:
    for n in range(messages):
        writer.enqueue(np.full(SIZE, first + n, np.uint8), timeout=30)


def _read(reader: MessageQueue, messages: int = 8, first: int = 0) -> None:
    for n in range(messages):
        array = reader.dequeue(30)
        assert array.size == SIZE
        assert bool((array == first + n).all())


def test_the_memory_of_a_writer_that_does_nothing_more_is_given_back_and_nobody_wakes_up_any_more() -> None:
    before = _threads()
    with broadcast() as (writer, (reader,)):
        _burst(writer)
        assert len(_threads() - before) == 1
        assert committed_bytes(writer.segment) > 8 * SIZE
        _read(reader)
        eventually(lambda: committed_bytes(writer.segment) <= FLOOR, "the memory to be given back")
        eventually(lambda: _threads() <= before, "the end of the thread")
        _burst(writer, first=100)
        _read(reader, first=100)
        eventually(lambda: committed_bytes(writer.segment) <= FLOOR, "the memory to be given back again")


def test_messages_that_are_sent_while_memory_is_given_back_are_whole() -> None:
    with broadcast() as (writer, (reader,)):
        for first in range(0, 60, 20):
            _burst(writer, 8, first)
            most = committed_bytes(writer.segment)
            _read(reader, 8, first)
            eventually(lambda: committed_bytes(writer.segment) < most, "a piece to be given back")  # noqa: B023
            for n in range(20):
                _burst(writer, 2, first + n)
                _read(reader, 2, first + n)


def test_what_is_unread_or_viewed_is_kept_and_given_back_when_it_is_not_any_more() -> None:
    with broadcast() as (writer, (reader,)):
        _burst(writer)
        viewed = reader.dequeue(30)
        _read(reader, 6, first=1)
        eventually(lambda: committed_bytes(writer.segment) <= FLOOR + 2 * SIZE, "the memory of what has been read")
        assert writer.stats()["memory"]["blocks"] == 2
        assert bool((viewed == 0).all())
        del viewed
        _read(reader, 1, first=7)
        eventually(lambda: committed_bytes(writer.segment) <= FLOOR, "the rest")


def _view(link: Link, handle: Handle) -> None:
    reader = MessageQueue.create_from_handle(handle, 0, copy=False)
    kept = [reader.dequeue(60) for _ in range(8)]
    link.send(len(kept))
    link.recv()


def test_what_a_killed_reader_viewed_is_given_back_by_a_writer_that_does_nothing(start: Callable[..., Child]) -> None:
    with MessageQueue(1) as writer:
        reader = start(_view, writer.export_handle())
        _burst(writer)
        assert reader.receive() == 8
        reader.kill()
        eventually(lambda: committed_bytes(writer.segment) <= FLOOR, "the memory to be given back")


def test_a_forked_child_has_no_such_thread_and_the_parent_s_goes_on() -> None:
    done = run_python("""
import os, time
import numpy as np
from ringcast import MessageQueue
writer = MessageQueue(1)
reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
for n in range(8):
    writer.enqueue(np.full(4 << 20, n, np.uint8))
    assert int(reader.dequeue(30)[-1]) == n
child = os.fork()
if child == 0:
    assert len(os.listdir("/proc/self/task")) == 1
    del writer, reader
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
deadline = time.monotonic() + 60
while os.stat("/dev/shm/" + writer.segment).st_blocks * 512 > 3 << 20:
    assert time.monotonic() < deadline, "the memory is not given back"
    time.sleep(0.01)
reader.close(); writer.close()
""")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_program_may_end_or_close_while_memory_is_given_back() -> None:
    for end in ("", "reader.close(); writer.close()", "del reader, writer"):
        done = run_python(f"""
import os, time
from ringcast import MessageQueue
writer = MessageQueue(1)
reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
for n in range(40):
    writer.enqueue(bytes(6 << 20))
    reader.dequeue(30)
for n in range(9):
    writer.enqueue(bytes(20 << 20))
most = os.stat("/dev/shm/" + writer.segment).st_blocks
for n in range(9):
    reader.dequeue(30)
deadline = time.monotonic() + 60
while os.stat("/dev/shm/" + writer.segment).st_blocks == most:
    assert time.monotonic() < deadline, "nothing is given back"
{end}
""")
        assert (done.returncode, done.stderr) == (0, "")
