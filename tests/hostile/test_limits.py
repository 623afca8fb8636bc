"""Real limits, real signals, locked memory: what the shim of test_failing_calls imitates, from the kernel itself."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import re
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ringcast import MessageQueue, WorkerGroup
from ringcast.errors import RingcastError, SystemCallError, TierError
from ringcast.pool import PoolServer
from ringcast.pool.tiers import FileTier
from tests.hostile.test_failing_calls import resources
from tests.support import Child, Link, broadcast, eventually, run_python, unique_name


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


def _few_descriptors_for_a_group(link: Link) -> None:
    with WorkerGroup(dict, 1):
        pass  # what is imported, and started once, for all
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    before = resources()
    told = []
    for spare in range(0, 64, 2):
        lowest = os.dup(0)
        os.close(lowest)
        usual = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, usual[1]))
        try:
            group = WorkerGroup(dict, 2)
        except SystemCallError as error:
            told.append((error.errno, str(error)))
        else:
            group.close()
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        eventually(lambda: resources() == before, "everything closed")  # by threads that end
    link.send(told)


def test_a_group_for_which_there_are_too_few_descriptors_says_so_and_keeps_none(start: Callable[..., Child]) -> None:
    told = start(_few_descriptors_for_a_group).receive()
    assert 5 < len(told) < 32, told
    for number, text in told:
        assert number == errno.EMFILE, text
        assert "RLIMIT_NOFILE" in text
        assert "ulimit -n" in text
    assert any("WorkerGroup(dict, 2): making the pipes to rank 1" in text for _, text in told), told
    assert any("WorkerGroup(dict, 2): starting rank" in text for _, text in told), told


def _little_address_space_for_a_pool(link: Link) -> None:
    told = []
    for spare_mib in range(100, 1000, 20):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        usual = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (spare_mib << 20), usual[1]))
        try:
            PoolServer("little", "16MiB", entries=1_000_000).start().close()
        except SystemCallError as error:
            told.append(str(error))
        else:
            break
        finally:
            resource.setrlimit(resource.RLIMIT_AS, usual)
    link.send(told)


def test_a_pool_s_server_with_too_little_address_space_names_the_limit(start: Callable[..., Child]) -> None:
    told = start(_little_address_space_for_a_pool).receive()
    for text in told:
        assert re.search(r"[0-9.]+ MiB \((RLIMIT_AS|ulimit -v)\)", text), text
    for what in ("mapping", "taking memory of this process"):
        assert any(text.startswith(what) and "ulimit -v" in text for text in told), told


def _small_files(link: Link) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which would end a program that asked the system for it
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(TierError) as caught:
            FileTier(f"{folder}/tier", "8MiB", "64KiB")
        link.send((caught.value.errno, str(caught.value), os.listdir(folder)))


def test_a_tier_above_the_limit_of_files_names_it_and_leaves_no_file(start: Callable[..., Child]) -> None:
    number, text, left = start(_small_files).receive()
    assert number == errno.EFBIG
    assert "limited to 1.0 MiB (RLIMIT_FSIZE)" in text
    assert "ulimit -f unlimited" in text
    assert left == []


def _few_descriptors_for_a_tier(link: Link) -> None:
    told = []
    with tempfile.TemporaryDirectory() as folder:
        for spare in range(3):
            lowest = os.dup(0)
            os.close(lowest)
            usual = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + spare, usual[1]))
            try:
                FileTier(f"{folder}/tier", "1MiB", "64KiB").close()
                told.append("works")
            except TierError as error:
                told.append(str(error))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    link.send(told)


def test_a_tier_without_descriptors_names_the_limit(start: Callable[..., Child]) -> None:
    *told, last = start(_few_descriptors_for_a_tier).receive()
    assert last == "works"
    for text in told:
        assert "RLIMIT_NOFILE" in text
        assert "ulimit -n" in text
