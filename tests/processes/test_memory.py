"""Shared memory that is small: full is an error with numbers and a remedy, never SIGBUS; and queues stay small."""

from __future__ import annotations

import os
import shutil
import subprocess

import numpy as np
import pytest

from ringcast import MessageQueue
from tests.support import broadcast, committed_bytes, eventually, run_python, unique_name

MIB = 1 << 20
SMALL_MIB = 8

SMALL_SCRIPT_HEAD = f"""
import os, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size={SMALL_MIB}m", "tmpfs", "/dev/shm"], check=True)
from ringcast import MessageQueue, ShmRingBuffer
from ringcast.errors import CapacityError
"""


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    mount = "unshare -m sh -c 'mount -t tmpfs tmpfs /dev/shm'"
    return subprocess.run(mount, shell=True, check=False, capture_output=True).returncode == 0


needs_namespace = pytest.mark.skipif(
    not os.environ.get("CI") and not may_unshare(),
    reason="mounting a small /dev/shm needs unshare -m, which is not permitted",
)


def in_small_memory(script: str) -> None:
    result = run_python(SMALL_SCRIPT_HEAD + script, wrapper=("unshare", "-m"))
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout == "done\n"


@needs_namespace
def test_a_message_that_shared_memory_has_no_room_for_is_an_error_and_the_queue_works_on() -> None:
    in_small_memory("""
queue = MessageQueue(1)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
for size in (20 << 20, 9 << 20, 8 << 20):
    for message in (b"x" * size, "y" * size):
        try:
            queue.enqueue(message, timeout=5)
        except CapacityError as error:
            text = str(error)
            assert isinstance(error, MemoryError) and isinstance(error, OSError)
            assert error.errno == 28, error.errno
            for part in ("needed", "MiB free", "/dev/shm", "--shm-size", "--ipc=host"):
                assert part in text, text
        else:
            raise AssertionError("it found room")
    assert reader.qsize() == 0
for n in range(100):
    queue.enqueue(bytes([n]) * (3 << 20), timeout=5)
    assert reader.dequeue(5) == bytes([n]) * (3 << 20)
reader.close(); queue.close()
print("done")
""")


@needs_namespace
def test_with_memory_short_the_writer_waits_for_readers_and_loses_nothing() -> None:
    in_small_memory("""
import threading
queue = MessageQueue(1, max_chunks=10)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
received = []
thread = threading.Thread(target=lambda: received.extend(len(m) for m in reader))
thread.start()
for n in range(60):
    queue.enqueue(bytes(2_500_000 + n), timeout=30)
queue.close()
thread.join(60)
assert received == [2_500_000 + n for n in range(60)], received
reader.close()
print("done")
""")


@needs_namespace
def test_a_queue_that_shared_memory_has_no_room_for_is_not_made_and_leaves_nothing() -> None:
    in_small_memory("""
for make in (lambda: MessageQueue(1, max_chunks=100_000), lambda: ShmRingBuffer(1, 1120, 10_000)):
    try:
        make()
    except CapacityError as error:
        assert "making queue segment" in str(error) and "needed" in str(error), error
    else:
        raise AssertionError("it found room")
assert os.listdir("/dev/shm") == []
queues = []
try:
    while True:
        queues.append(MessageQueue(1))
        queues[-1].enqueue(b"x" * 900_000)
except CapacityError:
    pass
assert len(queues) >= 5, len(queues)
for queue in queues:
    try:
        queue.close(0)
    except TimeoutError:
        pass  # its reader never came
assert os.listdir("/dev/shm") == []
print("done")
""")


@needs_namespace
def test_memory_that_others_fill_in_between_is_an_error_and_not_a_bus_error() -> None:
    in_small_memory("""
queue = MessageQueue(1, max_chunks=64)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
queue.enqueue(b"x" * 100_000)
with open("/dev/shm/other", "wb") as other:
    try:
        while True:
            other.write(bytes(65536)); other.flush()
    except OSError:
        pass
sent = 0
try:
    for n in range(60):
        queue.enqueue(b"y" * 100_000, timeout=0.2)
        sent += 1
except (CapacityError, TimeoutError):
    pass
assert sent < 60
for n in range(sent + 1):
    assert len(reader.dequeue(5)) == 100_000
os.unlink("/dev/shm/other")
for n in range(60):
    queue.enqueue(b"z" * 100_000, timeout=5)
    assert reader.dequeue(5) == b"z" * 100_000
with queue.acquire_write(nbytes=3 << 20) as view:
    view[:] = bytes(3 << 20)
assert len(reader.dequeue(5)) == 3 << 20
reader.close(); queue.close()
print("done")
""")


def test_a_default_queue_that_nobody_has_used_commits_at_most_1_mib() -> None:
    with broadcast(8, name=unique_name()) as (writer, _):
        assert committed_bytes(writer.segment) <= MIB
        assert writer.stats()["memory"]["control"] <= MIB
        for _ in range(100):
            writer.enqueue(b"small" * 200, timeout=10) if writer.qsize() < 10 else None
        assert committed_bytes(writer.segment) <= MIB


def test_eight_default_queues_under_ordinary_traffic_fit_a_container_s_64_mib() -> None:
    rng = np.random.default_rng(3)
    sizes = [int(size) for size in rng.choice([100, 1000, 5000, 20_000, 100_000], 400)]
    queues = [broadcast(2, name=unique_name()) for _ in range(8)]
    opened = [queue.__enter__() for queue in queues]
    try:
        for number, size in enumerate(sizes):
            for writer, readers in opened:
                while not writer.try_enqueue(bytes(size)):
                    readers[0].try_dequeue()
                    readers[1].try_dequeue()
                if number % 3:
                    readers[0].dequeue(10) if readers[0].qsize() else None
        total = sum(committed_bytes(writer.segment) for writer, _ in opened)
        assert total <= 64 * MIB

        def figures_agree() -> bool:
            told = [writer.stats()["memory"] for writer, _ in opened]
            sums = [memory["control"] + memory["data_committed"] for memory in told]
            return sums == [committed_bytes(writer.segment) for writer, _ in opened]

        eventually(figures_agree, "equal figures")  # an idle writer gives memory back at any moment
    finally:
        for queue in queues:
            queue.__exit__(None, None, None)


@pytest.mark.parametrize("budget", [32 * MIB, 100 * MIB])
def test_a_queue_never_takes_more_than_its_budget(budget: int) -> None:
    with broadcast(max_bytes=budget, name=unique_name()) as (writer, (reader,)):
        assert writer.stats()["memory"]["data_budget"] <= budget
        for n in range(30):
            while not writer.try_enqueue(bytes([n]) * (20 * MIB - n)):
                assert len(reader.dequeue(10)) > 19 * MIB
            assert committed_bytes(writer.segment) <= budget


def test_readers_that_keep_up_keep_a_queue_small() -> None:
    with broadcast(name=unique_name()) as (writer, (reader,)):
        for _ in range(200):
            writer.enqueue(bytes(300_000))
            reader.dequeue(10)
        assert committed_bytes(writer.segment) <= 2 * MIB


def test_memory_goes_with_the_queue() -> None:
    free = os.statvfs("/dev/shm").f_bavail
    for _ in range(3):
        with MessageQueue(1) as writer:
            writer.enqueue(bytes(20 * MIB))
            writer.evict(0)
    assert os.statvfs("/dev/shm").f_bavail > free - 20 * MIB // os.statvfs("/dev/shm").f_frsize
