"""Views and loans where memory is short: errors with figures, never SIGBUS; never beyond the budget, and given back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.processes.test_memory import needs_namespace
from tests.support import broadcast, committed_bytes, eventually, run_python, unique_name

MIB = 1 << 20

SCRIPT_HEAD = """
import os, subprocess, sys
import numpy as np
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[1]}m", "tmpfs", "/dev/shm"], check=True)
from ringcast import MessageQueue
from ringcast.errors import CapacityError, QueueTimeoutError
MIB = 1 << 20
limit = int(sys.argv[1])
queue = MessageQueue(1)
reader = MessageQueue.create_from_handle(queue.export_handle(), 0)
def send(n, size, timeout=0.05):
    if n % 2:
        with queue.loan_array(size, "u1", timeout=timeout) as array:
            array[:] = n % 251
    else:
        queue.enqueue(np.full(size, n % 251, "u1"), timeout=timeout)
def whole(n, size, array):
    assert array.size == size and array.min() == array.max() == n % 251, n
def end():
    reader.close()
    queue.close()
    assert os.listdir("/dev/shm") == []
    print("done")
"""


def in_memory_of(mib: int, script: str) -> None:
    result = run_python(SCRIPT_HEAD + script, str(mib), wrapper=("unshare", "-m"))
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout == "done\n"


@needs_namespace
@pytest.mark.parametrize("mib", [64, 8])
def test_arrays_and_loans_in_a_small_dev_shm_work_or_fail_with_exact_figures(mib: int) -> None:
    in_memory_of(
        mib,
        """
for round in range(5):
    held = []
    try:
        while True:
            send(len(held), MIB)
            held.append(reader.dequeue(5))
    except QueueTimeoutError as error:
        text = str(error)
    memory = queue.stats()["memory"]
    assert limit - 3 <= len(held) < limit, len(held)
    assert memory["blocks"] == len(held)
    assert memory["control"] + memory["data_committed"] <= limit * MIB
    figures = f"{memory['data_committed'] / MIB:.1f} MiB of the budget of 256.0 MiB could be had, and "
    figures += f"{memory['data_used'] / MIB:.1f} MiB of 256.0 MiB are in use"
    views = f"rank 0 (pid {os.getpid()}, this process) holds views of {len(held)} messages, "
    for part in ("a message of 1.0 MiB finds no memory in /dev/shm", figures, views):
        assert part in text, (part, text)
    for n, array in enumerate(held):
        whole(n, MIB, array)
    del held, array
    for send_large in (lambda: send(0, limit * MIB), lambda: send(1, limit * MIB)):
        try:
            send_large()
        except CapacityError as error:
            free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
            free = f"{free / MIB:.1f} MiB" if free >= MIB else f"{free} bytes"
            assert "needed " in str(error) and f"/dev/shm has {free} free" in str(error), (error, free)
        else:
            raise AssertionError("it found room")
    assert queue.stats()["memory"]["blocks"] == 0
    for n in range(30):
        size = (limit // 4) * MIB + n * 1000
        send(n, size, 5)
        whole(n, size, reader.dequeue(5))
end()
""",
    )


@needs_namespace
@pytest.mark.parametrize("mib", [64, 8])
def test_a_hog_that_fills_dev_shm_meanwhile_costs_errors_and_never_a_bus_error(mib: int) -> None:
    in_memory_of(
        mib,
        """
hog = subprocess.Popen([sys.executable, "-c", '''
import os
block = bytes(1 << 18)
while True:
    with open("/dev/shm/hog", "wb", buffering=0) as file:
        try:
            while file.write(block) == len(block):
                pass
        except OSError:
            pass
    os.unlink("/dev/shm/hog")
'''])
delivered = failures = 0
held = []
while delivered < 200:
    size = 100_000 + delivered * 7919 % (limit * MIB // 8)
    try:
        send(delivered, size, 0.01)
    except (CapacityError, QueueTimeoutError):
        failures += 1
        for sent in held:
            whole(*sent)
        held.clear()
        sent = None
        continue
    held.append((delivered, size, reader.dequeue(5)))
    delivered += 1
    if len(held) > 5:
        whole(*held.pop(delivered % 5))
hog.kill()
hog.wait()
if os.path.exists("/dev/shm/hog"):
    os.unlink("/dev/shm/hog")
for sent in held:
    whole(*sent)
held.clear()
sent = None
assert queue.stats()["memory"]["blocks"] == 0
end()
""",
    )


def test_memory_of_a_burst_is_given_back_while_views_of_it_live() -> None:
    with broadcast(name=unique_name()) as (writer, (reader,)):
        held = []
        for n in range(64):
            writer.enqueue(np.full(MIB // 8, n))
            held.append(reader.dequeue(10))
        assert committed_bytes(writer.segment) >= 64 * MIB
        del held[1:-1]

        def given_back() -> bool:
            for n in range(128):
                writer.enqueue(n)
                reader.dequeue(10)
            return committed_bytes(writer.segment) <= 5 * MIB

        eventually(given_back, "giving memory back")
        assert [int(view.min()) for view in held] == [int(view.max()) for view in held] == [0, 63]
        for n in range(64):
            writer.enqueue(np.full(MIB // 8, n))
            assert int(reader.dequeue(10).max()) == n


def test_eight_default_queues_with_views_under_ordinary_traffic_fit_64_mib() -> None:
    chance = random.Random(3)
    queues = [broadcast(2, name=unique_name()) for _ in range(8)]
    opened = [queue.__enter__() for queue in queues]
    try:
        held: list[list[Any]] = [[] for _ in opened]
        for n in range(300):
            for (writer, readers), mine in zip(opened, held, strict=True):
                writer.enqueue(np.full(chance.choice([10, 100, 1000, 5000, 20_000]), n))
                mine += [reader.dequeue(10) for reader in readers]
                while len(mine) > 16:
                    mine.pop(chance.randrange(len(mine)))
        assert sum(committed_bytes(writer.segment) for writer, _ in opened) <= 64 * MIB
        assert all(int(view.min()) == int(view.max()) for mine in held for view in mine)
    finally:
        held.clear()
        for queue in queues:
            queue.__exit__(None, None, None)


@pytest.mark.parametrize("budget", [8 * MIB, 32 * MIB])
def test_a_queue_with_views_of_random_sizes_never_takes_more_than_max_bytes(budget: int) -> None:
    chance = random.Random(budget)
    with broadcast(copy=False, max_bytes=budget, max_chunk_bytes=MIB, name=unique_name()) as (writer, (reader,)):
        held: list[tuple[int, Any]] = []
        refused = 0
        for n in range(600):
            while not writer.try_enqueue(np.full(chance.randrange(8192, budget // 24), n)):
                refused += 1
                assert held, "nothing is held, and yet there is no room"
                del held[chance.randrange(len(held)) :: 3]
            held.append((n, reader.dequeue(10)))
            assert committed_bytes(writer.segment) <= budget
        assert refused > 0
        assert all(int(view.min()) == int(view.max()) == number for number, view in held)
        held.clear()
        assert writer.stats()["memory"]["blocks"] == 0
