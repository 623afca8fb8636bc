"""Real limits, real signals, locked memory: what the shim of test_failing_calls imitates, from the kernel itself."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ringcast import MessageQueue
from ringcast.errors import RingcastError, SystemCallError
from tests.hostile.test_failing_calls import resources
from tests.support import Child, Link, broadcast, run_python, unique_name


def _make_and_attach(zero_copy: bool) -> None:
    with MessageQueue(1, name=unique_name()) as writer:
        with MessageQueue.create_from_handle(writer.export_handle(), 0, zero_copy=zero_copy) as reader:
            writer.enqueue(np.arange(20_000))
            assert int(reader.dequeue(10)[-1]) == 19_999


def _under_limit(kind: int, limit: int, zero_copy: bool) -> Exception | None:
    """Makes and attaches a queue under a soft limit; the error. Afterwards everything is as before, and works."""
    before = resources()
    usual = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, usual[1]))
    raised: Exception | None = None
    try:
        _make_and_attach(zero_copy)
    except RingcastError as error:
        raised = error.with_traceback(None)
        raised.__context__ = None
    finally:
        resource.setrlimit(kind, usual)
    assert resources() == before, repr(raised)
    _make_and_attach(zero_copy)
    return raised


def _few_descriptors(link: Link) -> None:
    _make_and_attach(True)
    outcomes = []
    for spare in range(9):
        gaps = os.dup(0)  # the lowest free descriptor: the limit is a number, not a count
        os.close(gaps)
        raised = _under_limit(resource.RLIMIT_NOFILE, gaps + spare, spare % 2 == 0)
        assert raised is None or (isinstance(raised, SystemCallError) and raised.errno == errno.EMFILE), repr(raised)
        outcomes.append(raised is None)
    link.send(outcomes)


def test_with_no_descriptors_left_there_is_a_typed_error_and_nothing_stays_open(start: Callable[..., Child]) -> None:
    outcomes = start(_few_descriptors).receive()
    assert (outcomes[0], outcomes[-1]) == (False, True), outcomes


def _little_address_space(link: Link) -> None:
    _make_and_attach(True)
    outcomes = []
    for spare_mib in (16, 200, 1000, 1100, 2000, 2200, 3200, 6000):  # 1 GiB each for both ends, and one more
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        raised = _under_limit(resource.RLIMIT_AS, used + (spare_mib << 20), True)
        assert raised is None or (isinstance(raised, SystemCallError) and raised.errno == errno.ENOMEM), repr(raised)
        outcomes.append(raised is None)
    link.send(outcomes)


def test_with_no_address_space_left_there_is_a_typed_error_and_nothing_stays_mapped(
    start: Callable[..., Child],
) -> None:
    assert start(_little_address_space).receive() == [False] * 6 + [True] * 2


def _rain_of_signals(link: Link) -> None:
    seen: list[None] = []
    signal.signal(signal.SIGALRM, lambda *_: seen.append(None))
    with broadcast(max_bytes=64 << 20) as (writer, (reader,)):
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        for n in range(20):
            writer.enqueue(np.full(1 << 20, n), timeout=30)
            assert int(reader.dequeue(30)[-1]) == n
            with MessageQueue(1, name=unique_name()) as other:
                MessageQueue.create_from_handle(other.export_handle(), 0).close()
        signal.setitimer(signal.ITIMER_REAL, 0)
    link.send(len(seen))


def test_signals_that_interrupt_everything_are_all_that_is_noticed(start: Callable[..., Child]) -> None:
    assert start(_rain_of_signals).receive() > 10


def test_changes_to_locked_private_memory_are_not_seen_in_the_next_message() -> None:
    libc = ctypes.CDLL(None)
    with MessageQueue(1, max_chunk_bytes=1 << 20, max_bytes=4 << 20, name=unique_name()) as writer:
        with MessageQueue.create_from_handle(writer.export_handle(), 0, zero_copy=True) as reader:
            writer.enqueue(np.zeros(100_000, np.uint8))
            array = reader.dequeue(10)
            assert libc.mlock(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(65536)) == 0
            array[:] = 1
            del array
            gc.collect()
            for _ in range(20):  # until the block is used again
                writer.enqueue(np.zeros(100_000, np.uint8), timeout=10)
                assert not reader.dequeue(10).any()


NO_THREADS = """
import resource
from ringcast import MessageQueue, Selector
from ringcast.errors import SystemCallError
queue = MessageQueue(1)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
selector = Selector()
selector.register(reader, 0)
queue.enqueue("still there")
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20), resource.RLIM_INFINITY))
try:
    selector.fileno()
except SystemCallError as error:
    print(error.errno, error)
print(reader.dequeue(10))
"""
"""It ends with everything open, and no thread can be had that would shut it down."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_without_threads_there_is_a_typed_error_and_a_program_ends_in_order() -> None:
    done = run_python(NO_THREADS)
    assert (done.returncode, done.stderr) == (0, "")
    refused, received = done.stdout.splitlines()
    assert refused.startswith(f"{errno.EAGAIN} starting a thread: "), refused
    assert "ulimit -u" in refused
    assert received == "still there"
