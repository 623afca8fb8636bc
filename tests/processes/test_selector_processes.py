"""Selector with writers in other processes: deaths, floods, idle ends, and a system that cannot wait for many words."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
import time
from collections.abc import Callable

import pytest

from ringcast import MessageQueue, Selector, _core
from ringcast.errors import WriterDiedError
from tests.support import FORGIVEN_RESCUES, Child, Link, run_python

MESSAGES = 2000


def _write(link: Link, count: int) -> None:
    """So many numbered messages, as fast as they go, when told to; then it waits to be killed or told to end."""
    with MessageQueue(1, max_chunks=16, max_chunk_bytes=1 << 10) as queue:
        link.send(queue.export_handle())
        link.recv()
        for number in range(count):
            queue.enqueue(number, timeout=60)
        link.send("sent")
        link.recv()


def _attached(writers: list[Child], selector: Selector[int], wait: str = "adaptive") -> list[MessageQueue]:
    ends = [MessageQueue.create_from_handle(writer.receive(), 0, wait=wait) for writer in writers]
    for number, end in enumerate(ends):
        selector.register(end, number)
    return ends


def test_everything_of_every_writer_comes_in_order_beside_a_flood(start: Callable[..., Child]) -> None:
    counts = [MESSAGES, 100, 100, 100]
    writers = [start(_write, count) for count in counts]
    with Selector[int]() as selector:
        _attached(writers, selector)
        for writer in writers:
            writer.send("go")
        nexts = [0] * len(writers)
        while nexts != counts:
            for key, end in selector.select(60):
                assert end.dequeue(0) == nexts[key]
                nexts[key] += 1
        assert selector._counters()["rescued_wakes"] <= FORGIVEN_RESCUES
        for end in list(selector.ends):
            selector.unregister(end)
            end.close()
    for writer in writers:
        writer.send("end")
        assert writer.join() == 0


@pytest.mark.parametrize("silent", [2, 130])
def test_a_killed_writer_is_given_within_a_second_and_dequeue_says_so(silent: int, start: Callable[..., Child]) -> None:
    victim = start(_write, 3)
    with Selector[int](wait="park") as selector:
        [end] = _attached([victim], selector)
        others = [MessageQueue(1, max_chunks=2, max_chunk_bytes=64) for _ in range(silent)]
        for number, other in enumerate(others, 1):
            selector.register(MessageQueue.create_from_handle(other.export_handle(), 0), number)
        victim.send("go")
        assert victim.receive() == "sent"
        victim.kill()
        slept = selector._counters()["parks"]
        for number in range(3):  # what it has sent comes first
            assert selector.select(60) == [(0, end)]
            assert end.dequeue(0) == number
        assert selector.select(60) == [(0, end)]
        # Not of the clock, which a busy machine makes late: the first sleep takes 0.09 s, the others 0.6 s at most.
        assert selector._counters()["parks"] - slept <= 2
        with pytest.raises(WriterDiedError, match=f"pid {victim.pid}"):
            end.dequeue(1)
        selector.unregister(end)
        end.close()
        others[-1].enqueue("others go on")
        [(key, other_end)] = selector.select(60)
        assert (key, other_end.dequeue(0)) == (silent, "others go on")
        for reader in selector.ends:
            reader.close()
        for other in others:
            other.close()


def test_five_hundred_idle_ends_cost_next_to_nothing() -> None:
    writers = [MessageQueue(1, max_chunks=2, max_chunk_bytes=64) for _ in range(500)]
    with Selector[int]() as selector:
        readers = [MessageQueue.create_from_handle(writer.export_handle(), 0) for writer in writers]
        for number, reader in enumerate(readers):
            selector.register(reader, number)
        selector.select(0.1)
        parks, cpu_s = selector._counters()["parks"], time.process_time()
        assert selector.select(2) == []
        assert time.process_time() - cpu_s < 0.1  # who stays awake takes 2 s; what else lives here, some
        assert selector._counters()["parks"] - parks < 10
    for end in (*readers, *writers):
        end.close()


REFUSING = """
import ctypes, errno, struct, sys
from ringcast import MessageQueue, Selector, _core
from tests.processes.test_selector_processes import refuse
refuse(449)
assert not _core.can_wait_for_any()
writers = [MessageQueue(1, max_chunks=2, max_chunk_bytes=64) for _ in range(130)]
readers = [MessageQueue.create_from_handle(writer.export_handle(), 0) for writer in writers]
with Selector(wait="park") as selector:
    for number, reader in enumerate(readers):
        selector.register(reader, number)
    assert selector.select(0.05) == []
    for number in (0, 129):
        writers[number].enqueue(number)
        [(key, end)] = selector.select(60)
        assert (key, end.dequeue(0)) == (number, number)
    writers[5].close()
    [(key, end)] = selector.select(60)
    assert key == 5
print("done")
"""


def refuse(number: int) -> None:
    """From now on this process may not make the system call with that number: EPERM, as in some sandboxes."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, jump_if_equal, give = 0x20, 0x15, 0x06
    program = b"".join(
        struct.pack("HBBI", *line)
        for line in (
            (load, 0, 0, 0),
            (jump_if_equal, 0, 1, number),
            (give, 0, 0, 0x00050000 | 1),
            (give, 0, 0, 0x7FFF0000),
        )
    )
    buffer = ctypes.create_string_buffer(program)
    filters = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.create_string_buffer(filters), 0, 0) == 0, ctypes.get_errno()


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the filter is for one system call's number"
)
def test_where_the_system_cannot_wait_for_many_words_it_looks_at_them_between_naps() -> None:
    assert _core.can_wait_for_any()
    said = run_python(REFUSING)
    assert said.stdout.strip() == "done", said.stderr
