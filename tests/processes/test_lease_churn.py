"""Many large messages, held for random times by other processes: all whole, the memory bounded, and given back.

RINGCAST_CHURN is the number of messages: a million for a long run.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ringcast import Handle, MessageQueue
from ringcast.errors import QueueClosedError
from tests.support import (
    FORGIVEN_RESCUES,
    Background,
    Child,
    Link,
    committed_bytes,
    eventually,
    parked,
    run_python,
    unique_name,
)

MIB = 1 << 20
MESSAGES = int(os.environ.get("RINGCAST_CHURN", "20000"))
HEADER = 16
LARGEST = 400_000
MOST_HELD = 400
"""Views that a reader keeps: two readers must not take all leases, since they would wait for a writer that waits."""

_NOISE = np.frombuffer(random.Random(5).randbytes(LARGEST + 8192), np.uint8)


def fill(number: int, array: Any) -> None:
    """Sequence number, checksum of the rest, and noise."""
    start = number * 61 % 8192
    body: Any = _NOISE[start : start + array.size - HEADER]
    array[:8].view(np.int64)[0] = number
    array[8:HEADER].view(np.int64)[0] = zlib.crc32(body, number & 0xFFFF)
    array[HEADER:] = body


def check(number: int, array: Any) -> None:
    assert int(array[:8].view(np.int64)[0]) == number, "lost, repeated, out of order or overwritten"
    assert zlib.crc32(array[HEADER:], number & 0xFFFF) == int(array[8:HEADER].view(np.int64)[0]), f"{number} is torn"


def _churn(link: Link, handle: Handle, rank: int) -> None:
    chance = random.Random(rank)
    held: list[tuple[int, Any]] = []
    number = 0
    with MessageQueue.create_from_handle(handle, rank, copy=False) as reader:
        link.send("attached")
        try:
            while True:
                received = reader.dequeue(120)
                if received is None:
                    while held:
                        check(*held.pop(chance.randrange(len(held))))
                    link.send(number)
                    continue
                if not isinstance(received, np.ndarray):
                    continue
                if chance.random() < 0.3:
                    check(number, received)
                held.append((number, received))
                number += 1
                del received
                for _ in range(chance.choice([0, 0, 1, 1, 3]) if len(held) < MOST_HELD else 200):
                    if held:  # mostly young ones, some of them very old
                        check(*held.pop(chance.choice([-1, chance.randrange(len(held)), len(held) // 2])))
        except QueueClosedError:
            link.send(reader.stats()["rescued_wakes"])


def test_messages_held_for_random_times_stay_whole_and_leave_the_arena_empty(start: Callable[..., Child]) -> None:
    chance = random.Random(1)
    with MessageQueue(2, name=unique_name()) as writer:
        readers = [start(_churn, writer.export_handle(), rank) for rank in (0, 1)]
        assert [reader.receive() for reader in readers] == ["attached", "attached"]
        peak = scattered = committed = 0

        def figures_agree() -> bool:
            told = writer.stats()["memory"]
            return told["control"] + told["data_committed"] == committed_bytes(writer.segment)

        for number in range(MESSAGES):
            size = int(1200 * (LARGEST / 1200) ** chance.random())
            if chance.random() < 0.5:
                with writer.loan_array(size, "u1", timeout=60) as loaned:
                    fill(number, loaned)
                del loaned
            else:
                array = np.empty(size, np.uint8)
                fill(number, array)
                writer.enqueue(array, timeout=60)
            if number % 64 == 0:
                memory = writer.stats()["memory"]
                peak = max(peak, memory["data_used"])
                scattered = max(scattered, memory["scattered"] or 0)
                committed = max(committed, committed_bytes(writer.segment))
                eventually(figures_agree)  # an idle writer gives memory back at any moment
                assert memory["data_committed"] <= memory["data_budget"]
        writer.enqueue(None)
        assert [reader.receive(timeout=300) for reader in readers] == [MESSAGES, MESSAGES]
        memory = writer.stats()["memory"]
        assert (memory["blocks"], memory["data_used"], memory["scattered"]) == (0, 0, 0)
        assert all((r["leased_blocks"], r["leased_bytes"]) == (0, 0) for r in writer.stats()["readers"])

        def given_back() -> bool:
            for _ in range(256):
                writer.enqueue("small", timeout=60)
            return writer.stats()["memory"]["data_committed"] <= 2 * MIB

        eventually(given_back, "giving memory back")
        assert writer.stats()["rescued_wakes"] <= FORGIVEN_RESCUES
        writer.close()
        assert all(reader.receive() <= FORGIVEN_RESCUES for reader in readers)
        print(f"{MESSAGES} messages: peak {peak / MIB:.1f} MiB, committed {committed / MIB:.1f} MiB", end="; ")
        print(f"scattered at most {scattered / MIB:.1f} MiB")


def _hold(link: Link, handle: Handle, rank: int, messages: int) -> None:
    reader = MessageQueue.create_from_handle(handle, rank, copy=False)
    link.send("attached")
    held = [reader.dequeue(60) for _ in range(messages)]
    link.send(len(held))
    link.recv()


@pytest.mark.parametrize("limit", ["leases", "budget"])
@pytest.mark.parametrize("asleep", [False, True])
def test_what_a_killed_reader_held_is_the_writer_s_as_soon_as_it_needs_it(
    asleep: bool, limit: str, start: Callable[..., Child]
) -> None:
    options: dict[str, Any] = {"max_leases": 4} if limit == "leases" else {"max_bytes": 5 * MIB, "max_chunk_bytes": MIB}
    message = np.arange(MIB // 8)
    with MessageQueue(2, name=unique_name(), wait="park", **options) as writer:
        survivor = MessageQueue.create_from_handle(writer.export_handle(), 0, copy=False)
        doomed = start(_hold, writer.export_handle(), 1, 4)
        assert doomed.receive() == "attached"
        for _ in range(4):
            writer.enqueue(message, timeout=60)
            survivor.dequeue(10)
        assert doomed.receive() == 4
        assert writer.stats()["readers"][1]["leased_blocks"] == 4
        assert writer.try_enqueue(message) is False
        if asleep:
            waiting = Background(writer.enqueue, message, timeout=60)
            eventually(lambda: parked(writer), "the writer's sleep")
            doomed.kill()
            waiting.result()
        else:
            doomed.kill()
            assert writer.try_enqueue(message) is True
        assert survivor.dequeue(10).sum() == message.sum()
        assert writer.stats()["memory"]["blocks"] == 1  # unread by the dead, until it is evicted
        assert writer.evict(1) is True
        for n in range(20):
            writer.enqueue(message + n, timeout=10)
            assert survivor.dequeue(10)[0] == n
        survivor.close()
        assert writer.stats()["memory"]["blocks"] == 0
        assert committed_bytes(writer.segment) <= 5 * MIB + writer.stats()["memory"]["control"]


FORKING = """
import gc, os, sys
import numpy as np
from ringcast import MessageQueue
writer = MessageQueue(1)
reader = MessageQueue.create_from_handle(writer.export_handle(), 0)
writer.enqueue(np.full(100_000, 7))
view = reader.dequeue(10)
for ending in ("drop", "exit", "plain"):
    child = os.fork()
    if child == 0:
        assert view.sum() == 700_000
        if ending == "drop":
            del view, reader, writer
            gc.collect()
        if ending == "exit":
            sys.exit(0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (seat,) = writer.stats()["readers"]
    assert (seat["leased_blocks"], seat["alive"], writer.stats()["memory"]["blocks"]) == (1, True, 1), seat
    for n in range(30):
        writer.enqueue(np.full(100_000, n), timeout=10)
        assert reader.dequeue(10)[0] == n
    assert view.min() == view.max() == 7
del view
assert writer.stats()["memory"]["blocks"] == 0
assert writer.stats()["readers"][0]["leased_bytes"] == 0
reader.close()
writer.close()
print("done")
"""


def test_leases_in_a_forked_child_do_nothing() -> None:
    result = run_python(FORKING)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
